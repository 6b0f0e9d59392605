"""The examples of the domain rows: each is one that was run or parsed, as the lock says."""

from __future__ import annotations

from pathlib import Path

import pytest

from maintain import examples
from search import checksum

EXAMPLES = {example.ref: example for example in examples.examples()}
LOCK = examples.read_lock()


def test_each_example_is_as_it_was_when_it_passed() -> None:
    now = {ref: checksum(example.code.encode("utf-8")) for ref, example in EXAMPLES.items()}
    then = {ref: rest[0] for ref, rest in LOCK.items()}
    changed = sorted({ref for ref, _ in now.items() ^ then.items()})
    assert not changed, f"type: .venv/bin/python -m maintain.examples {' '.join(changed)}"


def test_what_is_left_out_is_named() -> None:
    left_out = {ref for ref, (_, how, *_) in LOCK.items() if how.startswith("left out: ")}
    assert {EXAMPLES[ref].language for ref in left_out} <= set(examples.LEFT_OUT)


def test_sql_was_run_and_shows_what_its_row_claims() -> None:
    ways = {ref: how for ref, (_, how, *_) in LOCK.items() if EXAMPLES[ref].language == "sql"}
    assert all(how.startswith("runs") for how in ways.values())
    assert sum(how.startswith("runs: ") for how in ways.values()) >= 45


@pytest.mark.parametrize(
    "path", [path for path in sorted(examples.HERE.iterdir()) if path.name.count(".") > 1], ids=lambda path: path.name
)
def test_surroundings_have_an_example_to_surround(path: Path) -> None:
    domain, row, ending = path.name.split(".")
    assert f"{domain}/{row}" in EXAMPLES
    text = path.read_text(encoding="utf-8")
    assert examples.MARK in text or (ending == "promtest" and "rule_files: [cell.yml]" in text)


def test_an_example_takes_the_place_and_the_indentation_of_its_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examples, "HERE", tmp_path)
    (tmp_path / "d.r.yaml").write_text("a:\n  <<CELL>>\nb: 1\n", encoding="utf-8")
    cell = examples.Example("d", "r", "yaml", "c:\n  d: 2\n\n  e: \\1\n")
    assert examples.surrounded(cell, "yaml") == "a:\n  c:\n    d: 2\n\n    e: \\1\nb: 1\n"
    assert examples.surrounded(cell, "json") is None


def test_a_line_that_the_player_does_not_know_is_refused() -> None:
    with pytest.raises(examples.Wrong, match="no such line"):
        examples.Player(lambda role: "").told("give 1")
