"""List what may be out of date: releases past their end, rows not checked for long, products that went on.

    python -m maintain.freshness               all three lists, as of today
    python -m maintain.freshness --months 6    rows not checked for more than six months (default 12)

data/releases.csv holds what is compared: a product (with the other names that rows give it), a release, its newest
version, the day on which its support ends (empty: not announced), the source, and the day on which that was read.
What a row says of its own range is Applies To, and in code an image with its tag.

exit status: 0 nothing names an ended release as current, 1 something does
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from maintain.tables import shipped_rows
from search import DATA

VERSION = r"\d+(?:\.\d+)*"
# What may follow a product's name: "22, 24, 26", "8 to 10", "1.25+", "3.4+ and 4.x", "0.28 (sync and async)".
RANGE = rf"{VERSION}(?:\.x|\+)?(?:(?:, | and | or | to ){VERSION}(?:\.x|\+)?)*"
IMAGES = {
    "node": "Node.js", "python": "Python", "golang": "Go", "rust": "Rust", "postgres": "PostgreSQL",
    "redis": "Redis", "valkey/valkey": "Valkey", "nginx": "nginx", "mysql": "MySQL", "mongo": "MongoDB",
}  # fmt: skip
CODE = ("Example", "Good Code", "Steps")


@dataclass
class Release:
    """A release of a product, as a line of releases.csv has it."""

    number: str
    ends: str  # a day, or nothing where none is announced
    checked: str

    def covers(self, version: str) -> bool:
        """Whether a version is this release or one of its patches: 3.11 covers 3.11 and 3.11.4, not 3.1."""
        return (version + ".").startswith(self.number + ".")


def numbers(version: str) -> tuple[int, ...]:
    """A version as numbers, to compare."""
    return tuple(map(int, version.split(".")))


def releases() -> dict[str, list[Release]]:
    """{each name of a product: its releases, the newest first}."""
    found: dict[str, list[Release]] = {}
    with open(Path(DATA, "releases.csv"), encoding="utf-8", newline="") as file:
        for cells in csv.DictReader(file):
            release = Release(cells["Release"], cells["Ends"], cells["Checked"])
            for name in cells["Product"].split("; "):
                found.setdefault(name, []).append(release)
    for each in found.values():
        each.sort(key=lambda release: numbers(release.number), reverse=True)
    return found


def ranges(text: str, products: dict[str, list[Release]]) -> Iterator[tuple[str, str]]:
    """Yield (product, its versions) for each product that a cell such as Applies To names with versions.

    What is followed by `(ended ...` is said to be past its end, and is left out.
    """
    names = "|".join(sorted(map(re.escape, products), key=len, reverse=True))
    for match in re.finditer(rf"(?<![\w.@/-])({names}) ({RANGE})(?![\w.])", text):
        if not text.startswith(" (ended", match.end()):
            yield match[1], match[2]


def exact(text: str) -> list[str]:
    """The versions of a range that are named as themselves: not `1.25+`, which begins somewhere and goes on."""
    return [version for version, more in re.findall(rf"({VERSION})(\.x|\+)?", text) if more != "+"]


def open_ended(text: str) -> bool:
    """Whether a range goes on: it ends with `+` or `.x`."""
    return text.endswith(("+", ".x"))


def named(fields: dict[str, str], products: dict[str, list[Release]]) -> Iterator[tuple[str, str]]:
    """Yield (product, version) of each release that a row names as current."""
    for product, text in ranges(fields.get("Applies To", ""), products):
        for version in exact(text):
            yield product, version
    for column in CODE:
        for image, version in re.findall(rf"(?:FROM|image:) *([\w./-]+):({VERSION})", fields.get(column, "")):
            if image in IMAGES:
                yield IMAGES[image], version


def ended(on: str) -> Iterator[str]:
    """Yield each row that names as current a release whose support had ended by a day (2026-11-29)."""
    products = releases()
    for ref, fields in shipped_rows():
        for product, version in named(fields, products):
            release = next((each for each in products[product] if each.covers(version)), None)
            if release and release.ends and release.ends < on:
                yield f"{ref}: {product} {version} ended on {release.ends}"


def unchecked(before: str) -> Iterator[str]:
    """Yield each row that was checked before a day, or never."""
    for ref, fields in shipped_rows():
        if fields["Verified"] < before:
            yield f"{ref}: checked on {fields['Verified'] or 'no day'}"


def newer() -> Iterator[str]:
    """Yield each row whose product has a release above the newest one that its Applies To names."""
    products = releases()
    for ref, fields in shipped_rows():
        for product, text in ranges(fields.get("Applies To", ""), products):
            newest = products[product][0].number
            known = max(re.findall(VERSION, text), key=numbers)
            if not open_ended(text) and numbers(newest)[: len(numbers(known))] > numbers(known):
                yield f"{ref}: knows {product} {text}, newest is {newest}"


def last_checked() -> str:
    """The day on which releases.csv was last compared with its sources."""
    return max(each.checked for known in releases().values() for each in known)


def main() -> int:
    """Print the three lists; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--months", type=int, default=12, help="rows not checked for so many months (default 12)")
    months = parser.parse_args().months
    today = date.today()
    gone = list(ended(today.isoformat()))
    lists = {
        "Name an ended release as current": gone,
        f"Not checked for {months} months": list(unchecked((today - timedelta(days=months * 30.44)).isoformat())),
        "Their product has a newer release": list(newer()),
    }
    for title, lines in lists.items():
        print("\n".join([f"{title}: {len(lines)}", *("  " + line for line in lines), ""]))
    return 1 if gone else 0


if __name__ == "__main__":
    sys.exit(main())
