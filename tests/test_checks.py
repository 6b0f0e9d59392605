"""Rows and checks name each other; `pytest checks` runs the checks themselves."""

from __future__ import annotations

import re
from pathlib import Path

import render_skill
import search
from maintain.tables import shipped_rows

ROOT = Path(render_skill.__file__).resolve().parent
# How a query, a script for awk and a rule for ast-grep name the row that says what to do.
NAMES_ROW = re.compile(r"""'([a-z]+/[a-z0-9-]+)'(?: AS ref)?,|find\("([^"]+)"|^  row: (\S+)$""", re.MULTILINE)


def test_a_row_names_the_checks_that_name_it() -> None:
    named: dict[str, set[str]] = {}
    for path in render_skill.check_files():
        for ref in NAMES_ROW.findall(path.read_text(encoding="utf-8")):
            named.setdefault("".join(ref), set()).add(path.relative_to(ROOT).as_posix())
    in_rows = {ref: set(fields["Checks"].split("; ")) for ref, fields in shipped_rows() if fields.get("Checks")}
    assert in_rows == named
    assert len(named) >= 20


def test_a_row_says_how_to_run_its_rules_and_queries() -> None:
    cell = "checks/go/body-not-closed.yml; checks/go/no-timeout.yml; checks/postgres/dead-rows.sql"
    command, query = search.check_commands(cell).split("; ")
    assert command.startswith("`ast-grep scan --config ")
    assert command.endswith("sgconfig.yml --filter '^(go-body-not-closed|go-no-timeout)$'`")
    assert query == "checks/postgres/dead-rows.sql"


def test_an_installed_skill_has_the_checks_and_not_their_tests() -> None:
    files = [name for name in render_skill.skill_files("search.py") if name.startswith("checks/")]
    assert {"checks/postgres/all.sql", "checks/redis/checks.awk", "checks/sgconfig.yml"} <= set(files)
    assert not [name for name in files if name.endswith(".py") or "specimens" in name]
