"""List rows that answer the same question, and rows that set the same setting to different values.

    python -m maintain.twins        the pairs and settings without a reason in evidence/twins.tsv

Two rows answer the same question when each, asked by its own name and keywords, finds the other almost as well as
itself. A row of a stack may say how its language does what a row of a domain says, and rows of two stacks may say the
same of two languages; so only pairs within the domains or within one stack are listed. evidence/twins.tsv holds what
was looked at and may stay: two references, or a setting and its values, with the reason.

exit status: 0 everything has a reason, 1 something has none
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

from maintain.evidence import EVIDENCE, UNCLAIMED
from maintain.tables import shipped_rows
from search import DATA, Index, open_index, rank, understand

LIKENESS = 0.35  # share of its own score that each gives the other
VALUE = r"(-?\d[\d,.]*(?: ?(?:ms|s|min|h|days?|%|[kKMGT]i?B|bytes|minutes?|seconds?|hours?))?|true|false|on|off|none)\b"
SAYS = r"(?:`? ?[=:] ?|` (?:to|of|is|at|defaults to|default|above|below|is at most) (?:about )?)"
SETTING = re.compile(rf"`([A-Za-z][\w.\-]{{3,}}){SAYS}{VALUE}")


def reasons() -> set[tuple[str, str]]:
    """What was looked at: two references, or a setting and its values."""
    path = EVIDENCE / "twins.tsv"
    lines = path.read_text(encoding="utf-8").splitlines()[1:] if path.exists() else []
    return {(one, other) for one, other, _ in (line.split("\t") for line in lines)}


def likeness(index: Index, fields: dict[str, str], number: int) -> dict[int, float]:
    """{row: how well it answers what another row's name and keywords ask, as a share of that row's own score}."""
    concepts, _, _ = understand(index, f"{fields['Name']} {fields['Keywords'].replace(';', ' ')}")
    scores = rank(index, concepts).scores
    return {row: score / scores[number] for row, score in scores.items() if row != number and number in scores}


def same_question() -> Iterator[tuple[str, str]]:
    """Yield the pairs of references, each sorted, that answer the same question."""
    index = open_index(DATA)
    number = {ref: row for ref, row in index.references().items() if row < index.rows}
    layer = {row: scope.kind if scope.kind == "domain" else scope.name for scope in index.scopes for row in scope.rows}
    asked = {number[ref]: likeness(index, fields, number[ref]) for ref, fields in shipped_rows() if ref in number}
    for row, others in asked.items():
        alike = (other for other, share in others.items() if min(share, asked.get(other, {}).get(row, 0.0)) >= LIKENESS)
        for other in alike:
            if row < other and layer[row] == layer[other]:
                yield index.row(row)[0], index.row(other)[0]


def settings() -> Iterator[tuple[str, str]]:
    """Yield each setting that several rows give different values, and `value (references)` of each, sorted."""
    found: dict[str, dict[str, set[str]]] = {}
    for ref, fields in shipped_rows():
        text = "\n".join(cell for column, cell in fields.items() if column not in UNCLAIMED)
        for name, value in SETTING.findall(text):
            found.setdefault(name.lower(), {}).setdefault(value.rstrip(".,"), set()).add(ref)
    for name, values in sorted(found.items()):
        if len(values) > 1 and len(set().union(*values.values())) > 1:
            yield name, "; ".join(f"{value} ({', '.join(sorted(refs))})" for value, refs in sorted(values.items()))


def key(pair: tuple[str, str]) -> tuple[str, str]:
    """What twins.tsv holds of a pair: a setting's values without the references, which come and go."""
    return pair[0], re.sub(r" \([^)]*\)", "", pair[1])


def main() -> int:
    """Print what has no reason yet; returns the exit status."""
    known = reasons()
    found = [pair for pair in [*same_question(), *settings()] if key(pair) not in known]
    print("\n".join(["\t".join(pair) for pair in found] + [f"{len(found)} without a reason"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
