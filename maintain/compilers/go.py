"""Go: go vet over the cells, a package each, with the real libraries of go.mod; programs are built and run."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from maintain.code import SURROUNDINGS
from maintain.compilers import measured
from recipes import engines

ENDING = "go"
HERE = SURROUNDINGS / "go"
# What a file that names no package of its own imports, as far as it uses it.
IMPORTS = """
    bufio bytes cmp context crypto/tls database/sql encoding/json encoding/json/v2 errors fmt io iter log log/slog maps
    math/rand/v2 net net/http net/http/httptest net/http/httputil net/url os os/signal runtime runtime/debug
    runtime/pprof slices strconv strings sync sync/atomic syscall testing testing/synctest time
    github.com/gin-gonic/gin github.com/jackc/pgx/v5 github.com/jackc/pgx/v5/pgxpool github.com/labstack/echo/v5
    github.com/sony/gobreaker/v2 golang.org/x/sync/errgroup google.golang.org/grpc google.golang.org/grpc/codes
    google.golang.org/grpc/status example.com/code/lib
""".split()
NAMES = {re.sub(r"/v\d+$", "", path).rpartition("/")[2]: path for path in IMPORTS if path != "encoding/json/v2"}
NAMES["jsonv2"] = "encoding/json/v2"
TEXTS = re.compile(r'"(?:\\.|[^"\\\n])*"|`[^`]*`|//[^\n]*')


def go(build: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the go command in the module within the build folder, which holds what it builds and downloads as well."""
    caches = {"GOCACHE": str(build / "cache"), "GOMODCACHE": str(build / "mod")}
    return engines.go(build / "module", *words, **caches)


def module(build: Path) -> Path:
    """The folder of the module: go.mod, go.sum and what all programs share."""
    folder = build / "module"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("go.mod", "go.sum"):
        shutil.copy(HERE / name, folder / name)
    shutil.copytree(HERE / "lib", folder / "lib", dirs_exist_ok=True)
    return folder


def versions(build: Path) -> str:
    """The version of Go; the libraries' are those that go.mod names as its own."""
    module(build)
    said = go(build, "env", "GOVERSION").stdout.strip()
    pinned = re.findall(r"^\s*(?:require )?([\w./-]+) (v[\w.-]+)$", (HERE / "go.mod").read_text(encoding="utf-8"), re.M)
    return ", ".join([f"go {said[2:]}", *(f"{path}@{version}" for path, version in sorted(pinned))])


def written(folder: Path, package: str, text: str) -> None:
    """Write a package of one file; without a package clause it gets one, and imports of what it uses."""
    if not re.search(r"^package ", text, re.MULTILINE):
        used = set(re.findall(r"(?<![\w.)\]])([a-z]\w*)\.[A-Z]", TEXTS.sub("", text)))
        imports = "".join(f'import {name} "{NAMES[name]}"\n' for name in sorted(used & NAMES.keys()))
        text = f"package {package}\n\n{imports}\n{text}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "code.go").write_text(text, encoding="utf-8")


def compile(build: Path, texts: dict[str, str]) -> dict[str, str]:
    """{name: faults} of the packages that go vet finds fault with."""
    folder = module(build)
    shutil.rmtree(folder / "cells", ignore_errors=True)
    for name, text in texts.items():
        written(folder / "cells" / name, name, text)
    done = go(build, "vet", "./lib", "./cells/...")
    faults: dict[str, str] = {}
    for place, name, fault in re.findall(r"^(?:vet: )?(cells/(\w+)/code\.go:.*?): (.*)", done.stderr, re.MULTILINE):
        faults[name] = faults.get(name, "") + f"{place.rpartition('code.go:')[2]}: {fault}\n"
    if done.returncode and not faults:
        raise SystemExit(done.stdout + done.stderr)
    return faults


def run(build: Path, name: str, text: str) -> tuple[int, str]:
    """(exit status, output) of a program; one that names DATABASE_URL gets a PostgreSQL database of its own."""
    folder = module(build)
    written(folder / "run" / name, "main", text)
    program = folder / "run" / name / "program"
    done = go(build, "build", "-o", program, f"./run/{name}")
    if done.returncode:
        return 70, done.stderr
    return measured(program, folder, text)
