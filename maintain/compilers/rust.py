"""Rust: cargo check over the cells, a binary each, with the real crates of Cargo.lock; programs are built and run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from maintain.code import SURROUNDINGS
from maintain.compilers import measured
from recipes import engines

ENDING = "rs"
HERE = SURROUNDINGS / "rust"
# What surrounds a cell need not be used; all else that rustc warns of is a fault in Good Code.
HEAD = "#![allow(dead_code, unreachable_code, unused_imports, unused_variables)] use code::*; "


def cargo(build: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run cargo in the package within the build folder, which holds what it builds as well."""
    variables = {"CARGO_TARGET_DIR": str(build / "target"), "CARGO_TERM_COLOR": "never"}
    return subprocess.run(
        [str(engines.program("cargo")), *words], cwd=package(build), env={**os.environ, **variables},
        stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip


def package(build: Path) -> Path:
    """The folder of the package: Cargo.toml, Cargo.lock and what all cells and programs share."""
    folder = build / "module"
    for name in ("Cargo.toml", "Cargo.lock", "lib.rs"):
        kept(folder / name, (HERE / name).read_text(encoding="utf-8"))
    return folder


def kept(path: Path, text: str) -> None:
    """Write a file, unless it holds the text already: cargo builds anew what was written."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def written(path: Path, text: str) -> None:
    """Write a crate of one file, which imports what all share; without a main function it gets one."""
    main = "" if re.search(r"^(async )?fn main\(", text, re.MULTILINE) else "\nfn main() {}\n"
    kept(path, HEAD + text + main)


def versions(build: Path) -> str:
    """The version of the compiler; the crates' are those that Cargo.toml names."""
    done = subprocess.run([str(engines.program("rustc")), "--version"], capture_output=True, text=True, check=True)
    pinned = re.findall(r'^([\w-]+) = .*"=([\w.]+)"', (HERE / "Cargo.toml").read_text(encoding="utf-8"), re.MULTILINE)
    return ", ".join([" ".join(done.stdout.split()[:2]), *(f"{name} {version}" for name, version in pinned)])


def compile(build: Path, texts: dict[str, str]) -> dict[str, str]:
    """{name: faults} of the cells that rustc finds fault with; a warning is a fault in Good Code."""
    folder = package(build) / "src" / "bin"
    for path in folder.glob("*.rs"):
        if path.stem not in texts:
            path.unlink()
    for name, text in texts.items():
        written(folder / f"{name}.rs", text)
    done = cargo(build, "check", "--locked", "--bins", "--keep-going", "--message-format=json")
    faults: dict[str, str] = {}
    for line in done.stdout.splitlines():
        said = json.loads(line)
        name, message = said.get("target", {}).get("name"), said.get("message")
        if name in texts and message and (message["level"] == "error" or name.endswith("_good")):
            faults[name] = faults.get(name, "") + message["rendered"]
    if done.returncode and not faults:
        raise SystemExit(done.stdout[-3000:] + done.stderr)
    return faults


def run(build: Path, name: str, text: str) -> tuple[int, str]:
    """(exit status, output) of a program; one that names DATABASE_URL gets a PostgreSQL database of its own."""
    written(package(build) / "examples" / f"{name}.rs", text)
    done = cargo(build, "build", "--locked", "--example", name)
    if done.returncode:
        return 70, done.stderr
    folder = build / "tmp"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return measured(build / "target" / "debug" / "examples" / name, folder, text)
