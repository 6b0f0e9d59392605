"""The files by which plugin systems find the skill in a clone, from one source; render_skill.py writes them."""

from __future__ import annotations

import json

import render_skill
import search

KEYWORDS = ["backend", "architecture", "database", "security", "scaling", "api", "messaging", "caching", "monitoring"]
OWNER = {"name": "Maintainers of the backend architecture knowledge base"}
SKILL = f"skills/{render_skill.NAME}/SKILL.md"  # where plugins look; its script is that of the clone, two folders above


def manifests() -> dict[str, dict[str, object]]:
    """Each manifest by its path in the repository."""
    common: dict[str, object] = {
        "name": render_skill.NAME, "version": search.__version__, "description": render_skill.DESCRIPTION,
    }  # fmt: skip
    more = {**common, "author": OWNER, "license": "MIT", "keywords": KEYWORDS}
    entry = {**common, "source": "./", "license": "MIT", "keywords": KEYWORDS}
    return {
        # https://code.claude.com/docs/en/plugins-reference
        ".claude-plugin/plugin.json": more,
        # https://code.claude.com/docs/en/plugin-marketplaces
        ".claude-plugin/marketplace.json": {
            "name": render_skill.NAME,
            "description": render_skill.SUMMARY,
            "owner": OWNER,
            "plugins": [entry],
        },
        # https://developers.openai.com/codex/plugins
        ".codex-plugin/plugin.json": {**more, "skills": "./skills/"},
        # https://cursor.com/docs/plugins
        ".cursor-plugin/plugin.json": more,
        # https://geminicli.com/docs/extensions/reference/
        "gemini-extension.json": common,
        # https://agent-plugins.org/specification (1.0.0)
        "plugin.json": {"$schema": "https://agent-plugins.org/schemas/1.0.0/plugin.schema.json", **more},
    }


def files() -> dict[str, bytes]:
    """What lies in the repository for plugin systems: its path, and its bytes."""
    found = {path: json.dumps(value, indent=2) + "\n" for path, value in manifests().items()}
    found[SKILL] = render_skill.skill_text("../../search.py")
    return {path: text.encode("utf-8") for path, text in found.items()}
