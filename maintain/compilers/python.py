"""Python: mypy over the cells, with the real libraries from requirements.txt in a virtual environment."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from maintain.code import SURROUNDINGS

ENDING = "py"
REQUIREMENTS = SURROUNDINGS / "python" / "requirements.txt"


def python(build: Path) -> Path:
    """The interpreter of an environment that has what requirements.txt names."""
    environment, stamp = build / "venv", build / "installed.txt"
    wanted = REQUIREMENTS.read_text(encoding="utf-8")
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        subprocess.run(
            [environment / "bin" / "python", "-m", "pip", "install", "--quiet", "-r", REQUIREMENTS], check=True
        )
        stamp.write_text(wanted, encoding="utf-8")
    return environment / "bin" / "python"


def versions(build: Path) -> str:
    """The interpreter's version; the libraries' are those of requirements.txt."""
    done = subprocess.run([python(build), "--version"], capture_output=True, encoding="utf-8", check=True)
    pinned = [line for line in REQUIREMENTS.read_text(encoding="utf-8").split() if "==" in line]
    return ", ".join([done.stdout.strip(), *pinned])


def compile(build: Path, texts: dict[str, str]) -> dict[str, str]:
    """{name: faults} of the modules that mypy finds fault with."""
    folder = build / "cells"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    interpreter = python(build)
    options = ["--check-untyped-defs", "--no-error-summary", "--cache-dir", str(build / "cache")]
    done = subprocess.run(
        [interpreter, "-m", "mypy", *options, *sorted(folder.glob("*.py"))],
        cwd=build, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    if done.returncode > 1:
        raise SystemExit(done.stdout + done.stderr)
    faults: dict[str, str] = {}
    for line in done.stdout.splitlines():
        match = re.match(r".*?(\w+)\.py:(\d+): error: (.*)", line)
        if match:
            faults[match.group(1)] = faults.get(match.group(1), "") + f"line {match.group(2)}: {match.group(3)}\n"
    return faults


def run(build: Path, name: str, text: str) -> tuple[int, str]:
    """(exit status, output) of a program."""
    folder = build / "run"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [python(build), path], cwd=folder, capture_output=True, encoding="utf-8", timeout=120, check=False
    )
    return done.returncode, done.stdout + done.stderr
