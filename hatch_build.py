"""Put recipes and checks into the wheel as an installed skill carries them: without tests, guards and builds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))
import render_skill  # noqa: E402


class Recipes(BuildHookInterface):  # type: ignore[type-arg]
    """Name each file of each recipe, and each check."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add them to what the wheel includes."""
        for path in render_skill.copied_files():
            build_data["force_include"][str(path)] = f"backend_architecture/{path.relative_to(ROOT).as_posix()}"
