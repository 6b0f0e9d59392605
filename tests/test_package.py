"""The wheel: built, installed and used as its user would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import search

from .conftest import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(ROOT)], check=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of console commands of a fresh virtual environment with the wheel in it."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    commands = folder / ("Scripts" if sys.platform == "win32" else "bin")
    command = [str(commands / "python"), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(command, check=True)
    return commands


def test_everything_in_the_wheel_lies_under_one_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"backend_architecture"}
    for name in ("search.py", "render_skill.py", "SKILL.md.tmpl", "data/index.tsv", "templates/agents.csv"):
        assert "backend_architecture/" + name in names
    assert not [name for name in names if "tests" in name or "__pycache__" in name]


def test_the_wheel_is_the_same_bytes_each_time(wheel: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(ROOT)], check=True)
    assert next(tmp_path.glob("*.whl")).read_bytes() == wheel.read_bytes()


def test_the_installed_command_answers_from_another_folder(installed: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [str(installed / "backend-architecture"), "jwt"],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert (done.returncode, done.stderr) == (search.FOUND, "")
    assert "jwt" in done.stdout.splitlines()[0]
    assert list(tmp_path.iterdir()) == []


def test_the_installed_skill_command_installs_a_skill_that_answers(installed: Path, tmp_path: Path) -> None:
    command = [str(installed / "backend-architecture-skill"), "--agent", "claude", "--into", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (0, "")
    script = tmp_path / ".claude" / "skills" / "backend-architecture" / "search.py"
    answer = subprocess.run([str(installed / "python"), str(script), "jwt"], capture_output=True, check=False)
    assert (answer.returncode, answer.stderr) == (search.FOUND, b"")


def test_without_a_clone_the_skill_command_says_what_to_type(installed: Path) -> None:
    done = subprocess.run(
        [str(installed / "backend-architecture-skill")], capture_output=True, encoding="utf-8", check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "--agent NAME --into DIR" in done.stderr


def test_the_installed_package_runs_as_a_module(installed: Path, tmp_path: Path) -> None:
    command = [str(installed / "python"), "-m", "backend_architecture", "jwt", "-n", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (search.FOUND, "")
    clone = subprocess.run(
        [sys.executable, str(ROOT), "jwt", "-n", "1"], capture_output=True, encoding="utf-8", check=False
    )
    assert clone.stdout.splitlines()[:8] == done.stdout.splitlines()[:8]


def test_pipx_and_uvx_run_the_wheel(wheel: Path, tmp_path: Path) -> None:
    home = {
        "PIPX_HOME": str(tmp_path / "pipx"),
        "PIPX_BIN_DIR": str(tmp_path / "bin"),
        "UV_CACHE_DIR": str(tmp_path / "uv"),
    }
    for command in (
        [sys.executable, "-m", "pipx", "run", "--spec", str(wheel), "backend-architecture", "jwt"],
        [sys.executable, "-m", "uv", "tool", "run", "--from", str(wheel), "backend-architecture", "jwt"],
    ):
        pytest.importorskip(command[2], reason="not installed")
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, **home}, capture_output=True, encoding="utf-8", check=False
        )
        assert done.returncode == search.FOUND, done.stderr
        assert "jwt" in done.stdout.splitlines()[0]


def test_uv_rebuilds_the_index_from_the_script_alone(tmp_path: Path) -> None:
    pytest.importorskip("uv", reason="not installed")
    for name in ("search.py", "maintain", "data"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    (tmp_path / "data" / "index.tsv").unlink()
    command = [sys.executable, "-m", "uv", "run", "--no-project", "--python", sys.executable, "search.py", "--reindex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
    if "Failed to fetch" in done.stderr or "error sending request" in done.stderr:
        pytest.skip("no package index can be reached")
    assert done.returncode == search.FOUND, done.stderr
    assert (tmp_path / "data" / "index.tsv").read_bytes() == (ROOT / "data" / "index.tsv").read_bytes()
