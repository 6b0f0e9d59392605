"""Python: mypy over the cells, with the real libraries from requirements.txt in a virtual environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from maintain.code import SURROUNDINGS
from maintain.compilers import postgres, valkey

ENDING = "py"
HERE = SURROUNDINGS / "python"
REQUIREMENTS = HERE / "requirements.txt"
PYTHONS = ("python3.14", "python3.13", "python3.12")  # Django 6 needs 3.12


def newest() -> str:
    """The newest interpreter of the machine, on the PATH or as pyenv installs it."""
    for name in PYTHONS:
        installed = (Path.home() / ".pyenv" / "versions").glob(f"{name[6:]}.*/bin/{name}")
        for place in [shutil.which(name) or "", *map(str, installed)]:
            if place and not subprocess.run([place, "-c", "import ssl"], capture_output=True, check=False).returncode:
                return place
    return sys.executable


def python(build: Path) -> Path:
    """The interpreter of an environment that has what requirements.txt names."""
    environment, stamp = build / "venv", build / "installed.txt"
    wanted = REQUIREMENTS.read_text(encoding="utf-8")
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        subprocess.run([newest(), "-m", "venv", "--clear", environment], check=True)
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
    shutil.copytree(HERE / "lib", folder)
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    interpreter = python(build)
    options = ["--config-file", str(HERE / "mypy.ini"), "--no-error-summary", "--cache-dir", str(build / "cache")]
    done = subprocess.run(
        [interpreter, "-m", "mypy", *options, *sorted(folder.rglob("*.py"))],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    if done.returncode > 1:
        raise SystemExit(done.stdout + done.stderr)
    faults: dict[str, str] = {}
    for name, line, fault in re.findall(r"^(?:.*/)?(\w+)\.py:(\d+): error: (.*)", done.stdout, re.MULTILINE):
        faults[name] = faults.get(name, "") + f"line {line}: {fault}\n"
    if set(faults) - set(texts):
        raise SystemExit(done.stdout)
    return faults


def run(build: Path, name: str, text: str) -> tuple[int, str]:
    """(exit status, output) of a program; one that names DATABASE_URL or REDIS_PORT gets such a server."""
    folder = build / "run"
    shutil.copytree(HERE / "lib", folder, dirs_exist_ok=True)
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    variables = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    if "DATABASE_URL" in text:
        variables["DATABASE_URL"] = postgres().new_database()
    if "REDIS_PORT" in text:
        variables["REDIS_PORT"] = str(valkey(build).port)
    done = subprocess.run(
        [python(build), path], cwd=folder, env=variables, stdin=subprocess.DEVNULL,
        capture_output=True, encoding="utf-8", timeout=120, check=False,
    )  # fmt: skip
    if done.returncode and not done.stdout.strip():  # Python ends with 1 too when a program itself is at fault
        return 70, done.stderr
    return done.returncode, done.stdout
