"""Rows and the checks of running servers name each other; `pytest checks` runs the checks themselves."""

from __future__ import annotations

import re
from pathlib import Path

import render_skill
from maintain.tables import shipped_rows

ROOT = Path(render_skill.__file__).resolve().parent


def test_a_row_names_the_checks_that_name_it() -> None:
    named: dict[str, set[str]] = {}
    for path in render_skill.check_files():
        text = path.read_text(encoding="utf-8")
        for ref in re.findall(r"""'([a-z]+/[a-z0-9-]+)'(?: AS ref)?,|find\("([^"]+)""", text):
            named.setdefault(ref[0] or ref[1], set()).add(path.relative_to(ROOT).as_posix())
    in_rows = {ref: set(fields["Checks"].split("; ")) for ref, fields in shipped_rows() if fields.get("Checks")}
    assert in_rows == named
    assert len(named) >= 20


def test_an_installed_skill_has_the_checks_and_not_their_tests() -> None:
    files = [name for name in render_skill.skill_files("search.py") if name.startswith("checks/")]
    assert "checks/postgres/all.sql" in files
    assert "checks/redis/checks.awk" in files
    assert not [name for name in files if name.endswith(".py")]
