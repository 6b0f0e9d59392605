"""A small knowledge base with three memorable rows, and ways to run the program on it."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import search

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = ["ID", "Name", "Keywords", "Problem", "Solution"]
KITCHEN = [
    ["burnt-toast", "Burnt toast", "smoke; charcoal", "The toast is black and the kitchen smells.", "Lower the heat."],
    [
        "flat-souffle",
        "Flat soufflé",
        "collapse; oven door",
        "The soufflé sinks.",
        "Keep the oven shut. Lower the heat.",
    ],
    ["soggy-pasta", "Soggy pasta", "overcooked; mushy", "The pasta is soft.", "Taste it early, heat off at once."],
]
GARAGE = [["flat-tyre", "Flat tyre", "puncture; nail", "The wheel is flat.", "Patch the tube."]]


def write_csv(path: Path, rows: list[list[str]], columns: list[str] = COLUMNS) -> Path:
    """Write a CSV as the project's own files are written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A knowledge base with the domain `kitchen`, the stack `garage` and two synonyms."""
    write_csv(tmp_path / "domains" / "kitchen.csv", KITCHEN)
    write_csv(tmp_path / "stacks" / "garage.csv", GARAGE)
    write_csv(tmp_path / "synonyms.csv", [["bread", "toast"], ["wheel rubber", "tyre"]], ["Term", "Means"])
    return tmp_path


@pytest.fixture
def run(data: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line on the small knowledge base: (status, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = search.main(["--data", str(data), *arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def start(*arguments: str, python: tuple[str, ...] = (sys.executable,), cwd: Path = ROOT) -> subprocess.Popen[str]:
    """Start search.py as a process."""
    command = [*python, str(ROOT / "search.py"), *arguments]
    # Without PYTHON... variables, so that the console's encoding is the program's own business.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for a process: (status, stdout, stderr)."""
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


# A Python without site-packages, as on a machine where nothing was installed.
PLAIN = (sys.executable, "-S")
