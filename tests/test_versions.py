"""The golden queries under every supported Python that this machine has."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import search

from .conftest import ROOT

SUPPORTED = [(3, minor) for minor in range(9, 15)]
GOLDEN = [
    ("order saved but event never published", ["--domain", "messaging"], "messaging/transactional-outbox"),
    ("microservices ecommerce", ["--domain", "architecture"], "architecture/ecommerce-services"),
    ("concurrency patterns", ["--stack", "go"], "go/concurrency-patterns"),
    ("idempotancy key", ["--domain", "api"], "api/idempotency-key"),
    ("d\u00e9j\u00e0 vu C# async deadlock", ["--stack", "dotnet"], "dotnet/async-deadlocks"),
]


def interpreters() -> dict[str, str]:
    """Version and path of every supported Python: on the PATH, and those that pyenv manages."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [sys.executable, *(str(path) for path in sorted(pyenv.glob("3.*/bin/python")))]
    candidates += [path for major, minor in SUPPORTED if (path := shutil.which(f"python{major}.{minor}"))]
    found: dict[str, str] = {}
    for path in candidates:
        ask = [path, "-c", "import sys; print(*sys.version_info[:2])"]
        done = subprocess.run(ask, capture_output=True, encoding="utf-8", check=False)
        version = tuple(map(int, done.stdout.split())) if done.returncode == 0 else ()
        if version in SUPPORTED:
            found.setdefault("{}.{}".format(*version), path)
    return found


@pytest.mark.parametrize(("version", "python"), sorted(interpreters().items()))
def test_golden_queries_give_the_same_answer_under_this_python(version: str, python: str) -> None:
    for query, scope, ref in GOLDEN:
        command = [python, "-S", "-W", "error", str(ROOT / "search.py"), query, *scope, "--json"]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
        assert (done.returncode, done.stderr) == (search.FOUND, ""), version
        answer = json.loads(done.stdout)
        assert answer["results"][0]["ref"] == ref
        here = subprocess.run([sys.executable, *command[1:]], capture_output=True, encoding="utf-8", check=True)
        assert done.stdout == here.stdout


@pytest.mark.parametrize(("version", "python"), sorted(interpreters().items()))
def test_the_index_and_the_skill_are_the_same_bytes_under_this_python(
    version: str, python: str, tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "data", tmp_path / "data")
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import search\n"
        "found = [search.tokenize(line) for line in open(sys.argv[2], encoding='utf-8')]\n"
        "sys.stdout.write(search.checksum(repr(found).encode()) + search.fingerprint())"
    )
    command = ["-S", "-c", program, str(ROOT), str(ROOT / "data" / "domains" / "api.csv")]
    outputs = [
        subprocess.run([path, *command], capture_output=True, check=True).stdout for path in (python, sys.executable)
    ]
    assert outputs[0] == outputs[1] != b"", version
    checked = [python, "-S", "-W", "error", str(ROOT / "render_skill.py"), "--check"]
    done = subprocess.run(checked, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (0, "")
