"""A small share of tests/hostile.py, and what a run may touch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from . import hostile
from .conftest import ROOT

WATCHED = """
import os, runpy, sys
allowed = os.path.join(sys.argv[1], "index.tsv")
def hook(event, arguments):
    if event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "urllib.")):
        raise RuntimeError(event)
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        if not str(arguments[0]).startswith(allowed):
            raise RuntimeError(f"writes {arguments[0]}")
sys.dont_write_bytecode = True
sys.addaudithook(hook)
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_random_calls_on_sound_and_damaged_files_keep_every_promise(data: Path) -> None:
    assert hostile.calls(data, 300, seed=7) == []


def test_a_killed_rebuild_leaves_the_old_or_the_new_index(data: Path) -> None:
    assert hostile.kills(data, 6, seed=7) == []


def test_readers_during_rebuilds_answer_rightly(data: Path) -> None:
    assert hostile.readers(data, 8) == []


def test_a_run_opens_no_socket_starts_no_process_and_writes_only_the_index(data: Path) -> None:
    for arguments in (
        ["heat"],
        ["heat", "--json"],
        ["--list"],
        ["--show", "kitchen/burnt-toast"],
        ["-q", "a toast", "-q", "tyre"],
    ):
        command = [sys.executable, "-c", WATCHED, str(data), str(ROOT / "search.py"), "--data", str(data), *arguments]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
        assert (done.returncode, done.stderr) == (0, "")
