"""How each stack's code is compiled and run: ENDING, versions(build), compile(build, texts), run(build, name, text)."""

from __future__ import annotations

import functools
import os
import subprocess
import tempfile
from pathlib import Path

from recipes.engines import Postgres, Valkey, until_exit


@functools.cache
def postgres() -> Postgres:
    """A PostgreSQL server for the programs of all stacks, which ends with this process."""
    return until_exit(Postgres(Path(tempfile.mkdtemp(prefix="code-"))))


@functools.cache
def valkey(folder: Path) -> Valkey:
    """A Valkey server for the programs, which ends with this process."""
    return until_exit(Valkey(folder, "--maxmemory-policy", "noeviction"))


def measured(program: Path, folder: Path, text: str) -> tuple[int, str]:
    """(exit status, output) of a built program; one whose text names DATABASE_URL gets a database of its own."""
    added = {"DATABASE_URL": postgres().new_database()} if "DATABASE_URL" in text else {}
    try:
        done = subprocess.run(
            [program], cwd=folder, env={**os.environ, **added}, stdin=subprocess.DEVNULL,
            capture_output=True, encoding="utf-8", timeout=60, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return 70, "still running after 60 s"
    if done.returncode and not done.stdout.strip():  # a program at fault itself, which has measured nothing
        return 70, done.stderr
    return done.returncode, done.stdout
