"""What the recipes' tests share: real servers, and the table of faults that each README shows.

A test that throws something at a recipe tells the fixture `fault` what it threw and what happened, in words made from
what it measured. The README of the recipe must hold the same; `pytest recipes --renew` writes it. Recipes that build
with a compiler, download much or run for long are marked `slow` and run with --all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from recipes.engines import Postgres, Valkey

START, END = "<!-- faults: written by the test -->", "<!-- end of faults -->"
HEADING = ["", "| thrown at it | what happened |", "|---|---|"]

FAULTS: dict[Path, dict[str, str]] = {}  # {README: {what was thrown: what happened}} of this run


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --all, which runs the slow recipes too, and --renew, which writes the tables of faults."""
    group = parser.getgroup("recipes")
    group.addoption("--all", action="store_true", help="run the slow recipes too")
    group.addoption("--renew", action="store_true", help="write the tables of faults into the recipes' READMEs")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the slow ones out unless they are asked for."""
    for item in items:
        if item.get_closest_marker("slow") and not config.getoption("--all"):
            item.add_marker(pytest.mark.skip(reason="slow: pytest recipes --all runs it"))


@pytest.fixture
def fault(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Note what was thrown at a recipe and what happened, and hold its README to it."""
    readme = request.path.parent / "README.md"

    def note(thrown: str, happened: str) -> None:
        FAULTS.setdefault(readme, {})[thrown] = happened
        if not request.config.getoption("--renew"):
            row = f"| {thrown} | {happened} |"
            assert row in readme.read_text(encoding="utf-8"), f"{readme} lacks {row!r}: pytest --renew writes it"

    return note


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With --renew, write each table whose recipe was tested; rows of tests that did not run are kept."""
    if not session.config.getoption("--renew"):
        return
    for readme, found in FAULTS.items():
        before, start, rest = readme.read_text(encoding="utf-8").partition(START)
        table, end, after = rest.partition(END)
        assert start and end, f"{readme} has no place for its faults: expected the lines {START} and {END}"
        kept = dict(line.strip("| ").split(" | ", 1) for line in table.splitlines()[3:] if line.startswith("| "))
        whole = session.testsfailed == 0 and not session.config.getoption("keyword")
        rows = [f"| {thrown} | {happened} |" for thrown, happened in (found if whole else {**kept, **found}).items()]
        readme.write_text(before + "\n".join([START, *HEADING, *rows, "", END]) + after, encoding="utf-8")


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A PostgreSQL server for the whole run; a test that kills it starts it again."""
    server = Postgres(tmp_path_factory.mktemp("postgres"))
    yield server
    server.stop()


@pytest.fixture
def database(postgres: Postgres) -> str:
    """The URL of a new, empty database of its own for each test."""
    return postgres.new_database()


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    """A fresh Valkey server for each test."""
    server = Valkey(tmp_path)
    yield server
    server.stop()
