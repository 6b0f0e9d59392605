"""Hold every number and name of a row or playbook against the claims on record for it in evidence/.

    python -m maintain.evidence               what has no claim, in all files that have a ledger
    python -m maintain.evidence change        in one of them

evidence/<file>.tsv lies beside data/*/<file>.csv, one line a claim: reference, claim (with the number or name as it
stands in the row), source and place in it (or what was run), the day, and how it was checked (read, run, derived;
unread: named, and still to be opened).
What needs a claim: names in backticks, and numbers with a unit, a sign of per cent, a decimal point, or of two and more
digits. evidence/excused.tsv lists what does not, with the reason: numbers of an example's story, ordinary words.

exit status: 0 everything has one, 1 something lacks one
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from maintain.tables import read_table, shipped_rows
from search import DATA, csv_files, scope_name

EVIDENCE = Path(__file__).resolve().parent.parent / "evidence"
COLUMNS = ("Ref", "Claim", "Source", "Checked", "How")
HOW = ("read", "run", "derived", "unread")  # unread: the source is named, and still to be opened
# No claims: names, words to find it by, references, and code, which is run or compiled elsewhere.
UNCLAIMED = (
    "ID", "Name", "Category", "Keywords", "Example", "Good Code", "Bad Code", "Recipes", "Checks", "Related",
    "Source", "Verified", "Diagram", "Severity",
)  # fmt: skip
UNITS = r"(?: ?(?:%|ms|s|min|h|kB|KB|KiB|MB|MiB|GB|GiB|TB|bytes|days|hours|minutes|seconds)\b| ?%)"
NUMBER = re.compile(rf"(?<![\w.,/-])(?:\d[\d,]*\d(?:\.\d+)*|\d\.\d+(?:\.\d+)*|\d(?={UNITS}))(?!\w|\.\d)")


def ledger(name: str) -> list[list[str]]:
    """The claims of a file, each as its cells."""
    lines = (EVIDENCE / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines[1:]]


def ledgers() -> list[str]:
    """The names of all files that have claims on record."""
    return sorted(path.stem for path in EVIDENCE.glob("*.tsv") if path.stem not in ("excused", "twins"))


def excused() -> set[tuple[str, str]]:
    """(reference, what needs no claim) of evidence/excused.tsv."""
    path = EVIDENCE / "excused.tsv"
    lines = path.read_text(encoding="utf-8").splitlines()[1:] if path.exists() else []
    return {(ref, what) for ref, what, _ in (line.split("\t") for line in lines)}


def plain(text: str) -> str:
    """Text in which the same number or name reads the same: no backticks, no commas inside numbers, small letters."""
    return re.sub(r"(?<=\d),(?=\d)", "", text.replace("`", "")).lower()


def wanted(fields: dict[str, str], references: set[str]) -> Iterator[str]:
    """Yield each name in backticks and each telling number of a row's prose, code and references apart."""
    for column, cell in fields.items():
        if column in UNCLAIMED:
            continue
        text = re.sub(r"^( *)```.*?^ *```$", "", cell, flags=re.DOTALL | re.MULTILINE)
        text = re.sub(r"^\d+\. |\b[Ss]teps? \d+(?:(?:, | to | and )\d+)*", "", text, flags=re.MULTILINE)
        for name in re.findall(r"`([^`\n]+)`", text):
            if name not in references and " " not in name:  # a statement is run as a whole
                yield name
        yield from NUMBER.findall(re.sub(r"`[^`\n]*`", " ", text))


def unclaimed(name: str, path: str, references: set[str]) -> Iterator[tuple[str, str]]:
    """Yield (reference, what no claim of that row holds) for a file."""
    claims: dict[str, str] = {}
    for ref, claim, *_ in ledger(name):
        claims[ref] = claims.get(ref, "") + "\n" + plain(claim)
    excuses = excused()
    for fields in read_table(DATA, path).rows():
        ref = f"{name}/{fields['ID']}"
        for what in dict.fromkeys(wanted(fields, references)):
            if plain(what) not in claims.get(ref, "") and (ref, what) not in excuses:
                yield ref, what


def all_references() -> set[str]:
    """Every reference that there is."""
    return {ref for ref, _ in shipped_rows()}


def faults(name: str, references: set[str]) -> Iterator[str]:
    """Yield what is wrong with a ledger: its form, its references, what it leaves out."""
    path = next((path for path in csv_files(DATA) if scope_name(path) == name), "")
    if not path:
        yield f"{name}: no such file in data/"
        return
    for number, cells in enumerate(ledger(name), 2):
        if len(cells) != len(COLUMNS) or not all(cells) or cells[4] not in HOW:
            yield f"{name}.tsv line {number}: expected {', '.join(COLUMNS)}, the last one of {', '.join(HOW)}"
        elif cells[0] not in references:
            yield f"{name}.tsv line {number}: {cells[0]} is no row"
    for ref, what in unclaimed(name, path, references):
        yield f"{ref}: no claim holds {what!r}"


def main() -> int:
    """Print what lacks a claim; returns the exit status."""
    references = all_references()
    found = [fault for name in sys.argv[1:] or ledgers() for fault in faults(name, references)]
    print("\n".join([*found, f"{len(found)} problems"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
