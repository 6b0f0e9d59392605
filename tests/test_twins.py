"""No two rows answer the same question, or set the same setting differently, without a reason on record."""

from __future__ import annotations

import pytest

from maintain import twins

ROWS = [
    ("database/one", {"Solution": "Set `lock_timeout` to 2 s.", "Pitfalls": "`lock_timeout = 2 s` again."}),
    ("database/two", {"Solution": "Set `lock_timeout` to 500 ms and `work_mem = 4 MB`."}),
    ("database/three", {"Solution": "Set `work_mem` to 4 MB.", "Example": "`work_mem = 9 MB`"}),
]


def test_every_pair_and_setting_has_a_reason() -> None:
    known = twins.reasons()
    assert [pair for pair in [*twins.same_question(), *twins.settings()] if twins.key(pair) not in known] == []


def test_every_reason_is_about_something_that_is_still_there() -> None:
    found = {*map(twins.key, twins.same_question()), *map(twins.key, twins.settings())}
    assert twins.reasons() - found == set()


def test_a_setting_with_two_values_is_listed_with_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twins, "shipped_rows", lambda: iter(ROWS))
    assert list(twins.settings()) == [("lock_timeout", "2 s (database/one); 500 ms (database/two)")]
