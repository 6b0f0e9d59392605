"""Put recipes and checks into the wheel as an installed skill carries them: without tests, guards and builds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))
import render_skill  # noqa: E402
import search  # noqa: E402


class Recipes(BuildHookInterface):  # type: ignore[type-arg]
    """Name each file of each recipe, and each check."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add them to what the wheel includes."""
        for reference in search.recipe_names(search.DATA):
            for name in search.recipe_files(str(ROOT / "recipes" / reference[len(search.RECIPE) :])):
                path = f"recipes/{reference[len(search.RECIPE) :]}/{name}"
                build_data["force_include"][str(ROOT / path)] = f"backend_architecture/{path}"
        for check in render_skill.check_files():
            build_data["force_include"][str(check)] = f"backend_architecture/{check.relative_to(ROOT).as_posix()}"
