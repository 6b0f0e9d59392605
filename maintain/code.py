"""Compile the code of the stack rows against the real libraries, run the pairs that can be run, and lock what passed.

    python -m maintain.code                   every stack
    python -m maintain.code go rust           some stacks
    python -m maintain.code go --only panic   rows whose ID holds a word; the other lines of the lock stay

A cell is bare code, so evidence/code/<stack>/ holds what surrounds it: `<row>.<ext>` for one row, `<row>.bad.<ext>`
where its Bad Code needs another, `default.<ext>` for the rest, or the row's program where a stack has no default. There
<<CELL>> stands for the cell, with the indentation of the line that it stands in, and <<NAME>> for a name of its own.
`<row>.run.<ext>` is a program that ends with 0 when the cell does what the row promises and with 1 when it shows the
fault, and prints what it saw.

evidence/code/lock.tsv is what passed: reference, column, checksum of the cell, how (`compiles`, or `runs: ` and what
the program printed), versions, day. The tests hold it against the cells. Bad Code that its compiler refuses, when the
row says so, has `<row>.refused` beside its surroundings: a piece of the compiler's message.

exit status: 0 all passed and locked, 1 some did not
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from maintain.tables import read_table
from search import DATA, checksum

ROOT = Path(__file__).resolve().parent.parent
SURROUNDINGS = ROOT / "evidence" / "code"
LOCK = SURROUNDINGS / "lock.tsv"
LOCK_COLUMNS = ("Ref", "Column", "Checksum", "How", "Versions", "Day")
MARK = "<<CELL>>"
BUILD = Path(os.environ.get("CODE_BUILD", SURROUNDINGS / ".build"))
# C# has none, since no package registry carries its compiler.
STACKS = sorted(path.stem for path in Path(__file__).with_name("compilers").glob("[a-z]*.py"))
COLUMNS = {"Good Code": "good", "Bad Code": "bad"}


class Cell(NamedTuple):
    """One piece of code: its row, its column, its text."""

    stack: str
    row: str
    column: str
    code: str

    @property
    def key(self) -> tuple[str, str]:
        """Reference and column, as in the lock."""
        return f"{self.stack}/{self.row}", self.column

    @property
    def name(self) -> str:
        """A name for its package, module or file: `panic_recovery_good`."""
        return f"{self.row}_{COLUMNS[self.column]}".replace("-", "_")


def cells(stack: str) -> list[Cell]:
    """All code of a stack's rows."""
    table = read_table(DATA, f"stacks/{stack}.csv")
    return [
        Cell(stack, row, column, code)
        for column in COLUMNS
        for row, code in zip(table.column("ID"), table.column(column))
        if code
    ]


def surrounded(cell: Cell, ending: str, kind: str = "") -> str | None:
    """A cell within its surroundings, or None when there are none of that kind (`.run` for programs)."""
    folder = SURROUNDINGS / cell.stack
    names = [f"{cell.row}.{COLUMNS[cell.column]}{kind}.{ending}", f"{cell.row}{kind}.{ending}"]
    names += [] if kind else [f"default.{ending}", f"{cell.row}.run.{ending}"]
    for name in names:
        if (folder / name).exists():
            return filled((folder / name).read_text(encoding="utf-8"), cell)
    return None


def filled(template: str, cell: Cell) -> str:
    """The template with the cell and its name in their places."""
    return placed(template.replace("<<NAME>>", cell.name), cell.code)


def placed(template: str, code: str) -> str:
    """The template with code in place of <<CELL>>, indented as that line is."""
    lines = []
    for line in template.split("\n"):
        if line.strip() == MARK:
            indent = line[: len(line) - len(line.lstrip())]
            lines += [indent + each if each else each for each in code.split("\n")]
        else:
            lines.append(line)
    return "\n".join(lines)


def refused(cell: Cell) -> str:
    """What the compiler must say of Bad Code that it refuses, or an empty string."""
    path = SURROUNDINGS / cell.stack / f"{cell.row}.refused"
    return path.read_text(encoding="utf-8").strip() if cell.column == "Bad Code" and path.exists() else ""


def compiled(stack: str, found: list[Cell]) -> dict[tuple[str, str], tuple[bool, str]]:
    """{reference and column: (whether it passed, how, or what was wrong)} of each cell of a stack."""
    compiler = import_module(f"maintain.compilers.{stack}")
    texts = {cell: surrounded(cell, compiler.ENDING) for cell in found}
    lacking = [cell.row for cell, text in texts.items() if text is None]
    if lacking:
        raise SystemExit(f"no surroundings for {', '.join(lacking)}: expected evidence/code/{stack}/<row>.*")
    faults: dict[str, str] = compiler.compile(BUILD / stack, {cell.name: text for cell, text in texts.items()})
    results = {}
    for cell in found:
        wanted, fault = refused(cell), faults.get(cell.name, "")
        if wanted:
            results[cell.key] = wanted in fault, f"refused: {wanted}" if wanted in fault else f"expected {wanted!r}"
        else:
            results[cell.key] = not fault, fault or "compiles"
        program = surrounded(cell, compiler.ENDING, ".run")
        if program is not None and results[cell.key][0]:
            status, output = compiler.run(BUILD / stack, cell.name, program)
            said = " ".join(output.split())
            passed = status == (0 if cell.column == "Good Code" else 1)
            results[cell.key] = passed, f"runs: {said}" if passed else f"ended with {status}: {said}"
    return results


def read_lock(path: Path = LOCK) -> dict[tuple[str, str], list[str]]:
    """{reference and column: the rest of the lock's line}."""
    lines = path.read_text(encoding="utf-8").splitlines()[1:] if path.exists() else []
    return {(ref, column): rest for ref, column, *rest in (line.split("\t") for line in lines)}


def write_lock(lock: dict[tuple[str, str], list[str]], path: Path = LOCK) -> None:
    """Write the lock, sorted."""
    lines = ["\t".join([*key, *rest]) for key, rest in sorted(lock.items())]
    path.write_text("\n".join(["\t".join(LOCK_COLUMNS), *lines, ""]), encoding="utf-8", newline="\n")


def dated(old: list[str], new: list[str]) -> list[str]:
    """What the lock says of code that passed: as before where nothing changed, else with today's day."""
    return old if old[:-1] == new else [*new, datetime.date.today().isoformat()]


def main() -> int:
    """Compile and run what the command line names; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stacks", nargs="*", choices=[[], *STACKS], metavar="STACK")
    parser.add_argument("--only", default="", metavar="WORD", help="rows whose ID holds this")
    options = parser.parse_args()
    failed = 0
    for stack in options.stacks or STACKS:
        everything = cells(stack)
        found = [cell for cell in everything if options.only in cell.row]
        results = compiled(stack, found) if found else {}
        versions = import_module(f"maintain.compilers.{stack}").versions(BUILD / stack)
        there = {cell.key for cell in everything}
        lock = {key: rest for key, rest in read_lock().items() if not key[0].startswith(stack + "/") or key in there}
        for cell in found:
            passed, how = results[cell.key]
            if passed:
                new = [checksum(cell.code.encode("utf-8")), how, versions]
                lock[cell.key] = dated(lock.get(cell.key, []), new)
            else:
                failed += 1
                lock.pop(cell.key, None)
                print(f"{' '.join(cell.key)}: {how}\n")
        write_lock(lock)
        ran = sum(how.startswith("runs") for _, how in results.values())
        print(f"{stack}: {len(found)} pieces of code, {ran} of them run")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
