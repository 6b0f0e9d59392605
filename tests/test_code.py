"""The code of the stack rows: each piece is one that was compiled, as the lock says."""

from __future__ import annotations

import pytest

from maintain import code
from search import checksum

LOCK = code.read_lock()
RUN_PAIRS = {"node": 20, "python": 20, "go": 20, "java": 20, "rust": 20}


@pytest.mark.parametrize("stack", code.STACKS)
def test_each_piece_of_code_is_as_it_was_when_it_compiled(stack: str) -> None:
    now = {cell.key: checksum(cell.code.encode("utf-8")) for cell in code.cells(stack)}
    then = {key: rest[0] for key, rest in LOCK.items() if key[0].startswith(stack + "/")}
    changed = sorted({ref for ref, _ in now.items() ^ then.items()})
    assert not changed, f"type: .venv/bin/python -m maintain.code {stack}"


@pytest.mark.parametrize("stack", RUN_PAIRS)
def test_pairs_were_run_and_show_the_difference(stack: str) -> None:
    ran = {key for key, rest in LOCK.items() if key[0].startswith(stack + "/") and rest[1].startswith("runs: ")}
    pairs = {ref for ref, column in ran if (ref, "Bad Code") in ran and column == "Good Code"}
    assert len(pairs) >= RUN_PAIRS[stack]


def test_a_cell_takes_the_place_and_the_indentation_of_its_mark() -> None:
    cell = code.Cell("go", "some-row", "Bad Code", "a()\nif b {\n\tc()\n}")
    assert code.filled("package <<NAME>>\n\n\t<<CELL>>\nend", cell) == (
        "package some_row_bad\n\n\ta()\n\tif b {\n\t\tc()\n\t}\nend"
    )
