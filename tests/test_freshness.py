"""Rows name no release as current whose support has ended, and the lists of what to look at again are right."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from maintain import freshness
from maintain.freshness import Release
from search import DATA

PRODUCTS = {
    "Node.js": [Release("26", "2029-04-30", ""), Release("20", "2026-04-30", "")],
    ".NET": [Release("10", "2028-11-14", ""), Release("8", "2026-11-10", "")],
    "Go": [Release("1.27", "", ""), Release("1.2", "2015-01-01", "")],
}


def test_no_row_names_an_ended_release_as_current() -> None:
    assert list(freshness.ended(freshness.last_checked())) == []


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"Applies To": "Node.js 20, 26; node:http"}, [("Node.js", "20"), ("Node.js", "26")]),
        ({"Applies To": "Node.js 20 to 26"}, [("Node.js", "20"), ("Node.js", "26")]),
        ({"Applies To": "Node.js 20+; Go 1.27"}, [("Go", "1.27")]),
        ({"Applies To": ".NET 8 (ended 2026-11-10) alike; .NET 10"}, [(".NET", "10")]),
        ({"Applies To": "ASP.NET 8; @types/Node.js 20"}, []),
        ({"Example": "```dockerfile\nFROM node:20-slim\n```"}, [("Node.js", "20")]),
        ({"Steps": "1. Start it.\n   ```yaml\n   image: golang:1.27.3\n   ```"}, [("Go", "1.27.3")]),
    ],
)
def test_what_a_row_names_as_current_is_found(fields: dict[str, str], expected: list[tuple[str, str]]) -> None:
    assert list(freshness.named(fields, PRODUCTS)) == expected


def test_a_release_covers_its_patches_and_no_longer_number() -> None:
    release = PRODUCTS["Go"][1]
    assert release.covers("1.2") and release.covers("1.2.3")
    assert not release.covers("1.27")


def test_the_lists_name_rows_that_fell_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        ("node/old", {"Applies To": "Node.js 20", "Verified": "2025-01-01"}),
        ("node/open", {"Applies To": "Node.js 20+", "Verified": "2026-11-01"}),
        ("node/new", {"Applies To": "Node.js 26", "Verified": ""}),
    ]
    monkeypatch.setattr(freshness, "shipped_rows", lambda: iter(rows))
    monkeypatch.setattr(freshness, "releases", lambda: PRODUCTS)
    assert list(freshness.ended("2026-11-29")) == ["node/old: Node.js 20 ended on 2026-04-30"]
    assert list(freshness.ended("2026-01-01")) == []
    assert list(freshness.unchecked("2026-01-01")) == [
        "node/old: checked on 2025-01-01",
        "node/new: checked on no day",
    ]
    assert list(freshness.newer()) == ["node/old: knows Node.js 20, newest is 26"]


def test_the_table_of_releases_is_sorted_and_whole() -> None:
    with open(Path(DATA, "releases.csv"), encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["Product"].lower() for line in lines] == sorted(line["Product"].lower() for line in lines)
    for line in lines:
        assert line["Release"] and line["Checked"] and line["Source"].startswith("https://"), line
        assert not line["Ends"] or len(line["Ends"]) == len("2026-11-29"), line
        freshness.numbers(line["Release"])
