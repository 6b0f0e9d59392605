"""The documents: what they show is what the program prints, and what they tell to type works."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest

import render_skill
import search
from maintain import tables

from . import docs
from .conftest import PLAIN, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    """Every line of the README's bash blocks."""
    return [line for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.splitlines()]


def test_the_documents_show_what_the_program_prints_today() -> None:
    command = [sys.executable, "-m", "cogapp", "--check", "README.md", "CONTRIBUTING.md"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, "type: .venv/bin/python -m cogapp -r README.md CONTRIBUTING.md\n" + done.stdout


@pytest.mark.parametrize("command", commands())
def test_every_command_of_the_readme_works_with_a_plain_interpreter(command: str) -> None:
    words = shlex.split(command)
    assert words[0] == "python3"
    done = subprocess.run([*PLAIN, *words[1:]], cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (search.FOUND, "")


def test_the_readme_ends_its_first_screen_with_a_real_answer() -> None:
    assert "`messaging/transactional-outbox`" in "\n".join(README.splitlines()[:30])


def test_ci_runs_the_test_command_of_the_readme() -> None:
    line = next(line for line in README.splitlines() if line.startswith("python3 -m venv"))
    assert line in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_every_column_is_explained_to_contributors() -> None:
    for column in {*tables.DOMAIN_COLUMNS, *tables.STACK_COLUMNS}:
        assert column in CONTRIBUTING


def test_every_option_of_search_is_shown_or_helped_with() -> None:
    for option in (*search.ACTIONS, *search.SWITCHES, *search.VALUED):
        assert option in README + docs.output("python3 search.py --help")


def test_every_agent_is_named_in_the_readme() -> None:
    for agent in render_skill.agents().values():
        assert agent.name in README
        assert agent.project in README


def test_ruff_and_mypy_find_nothing() -> None:
    for command in (["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]):
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, encoding="utf-8", check=False
        )
        assert done.returncode == 0, done.stdout
