#!/usr/bin/env python3
"""Take each guard out of each recipe, one at a time, and see its test fail.

  recipes/guards.py                    every guard of every recipe
  recipes/guards.py pg-job-queue ...   those of some recipes

A guard is what a recipe's README says it survives by. `guards.toml` beside the recipe lists them: `claim` in the
README's words, `file`, the text to `take_out` (it stands there once), what to `put_in` instead, and the test that
`fails` then. A guard whose test passes without it guards nothing.

exit status: 0 every test failed as it should, 1 some did not, 2 a list that does not fit its recipe
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from recipes.engines import BUILD, HERE

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def guards(slug: str) -> list[dict[str, Any]]:
    """The guards of a recipe; ValueError when an entry does not fit the recipe's files."""
    path = HERE / slug / "guards.toml"
    found: list[dict[str, Any]] = tomllib.loads(path.read_text(encoding="utf-8"))["guard"]
    for each in found:
        text = (HERE / slug / each["file"]).read_text(encoding="utf-8")
        if text.count(each["take_out"]) != 1:
            raise ValueError(f"{path}: {each['take_out']!r} stands {text.count(each['take_out'])} times, expected once")
        if each["claim"] not in (HERE / slug / "README.md").read_text(encoding="utf-8"):
            raise ValueError(f"{path}: the README does not say {each['claim']!r}")
    return found


def fails_without(slug: str, guard: dict[str, Any]) -> bool:
    """Whether the guard's test fails in a copy of the recipe that lacks the guard."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "recipes"
        shutil.copytree(HERE / slug, copy / slug)
        for shared in HERE.glob("*.py"):
            shutil.copy(shared, copy)
        path = copy / slug / guard["file"]
        path.write_text(path.read_text(encoding="utf-8").replace(guard["take_out"], guard["put_in"]), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--all", "-p", "no:cacheprovider", "-c", "/dev/null",
                   "--rootdir", folder, "--import-mode=importlib", str(copy / slug), "-k", guard["fails"]]  # fmt: skip
        environment = {**os.environ, "RECIPES_BUILD": str(BUILD)}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False)
    if done.returncode not in (0, 1):
        raise ValueError(f"{slug}: pytest ended with {done.returncode}\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
    return done.returncode == 1


def main(slugs: list[str]) -> int:
    """Take out the guards of the recipes named, or of all; returns the exit status."""
    unnoticed = total = 0
    for slug in slugs or sorted(path.parent.name for path in HERE.glob("*/guards.toml")):
        try:
            for guard in guards(slug):
                noticed = fails_without(slug, guard)
                total, unnoticed = total + 1, unnoticed + (not noticed)
                print(f"{'fails' if noticed else 'PASSES'} without it: {slug}: {guard['claim']}", flush=True)
        except (OSError, ValueError, KeyError) as error:
            print(f"guards.py: {error}", file=sys.stderr)
            return 2
    print(f"{total} guards taken out, {total - unnoticed} noticed")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
