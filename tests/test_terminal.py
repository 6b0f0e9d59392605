"""What a person sees on a terminal: names set off, prose wrapped and code not, a pager; and what a pipe gets."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import terminal

from .conftest import PLAIN, ROOT

ESCAPE = "\033["
QUESTION = ["jwt expiry", "-n", "1"]


def piped(*words: str, **environment: str) -> str:
    command = [*PLAIN, str(ROOT / "search.py"), *words]
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "PAGER")}
    done = subprocess.run(command, env={**kept, **environment}, capture_output=True, check=False, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


def on_terminal(*words: str, lines: int = 500, columns: int = 70, **environment: str) -> str:
    """What a terminal of that size is sent."""
    pty = pytest.importorskip("pty", reason="there are no pseudo-terminals")
    import fcntl
    import struct
    import termios

    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("NO_COLOR", "FORCE_COLOR", "PAGER", "COLUMNS", "LINES")
    }
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    process = subprocess.Popen(
        [*PLAIN, str(ROOT / "search.py"), *words], stdin=slave, stdout=slave, stderr=slave, env={**kept, **environment}
    )
    os.close(slave)
    sent = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # Linux says so when the other side is closed
            break
        if not part:
            break
        sent += part
    os.close(master)
    assert process.wait() == 0
    return sent.decode("utf-8").replace("\r\n", "\n")


def prose(text: str) -> list[str]:
    """The lines without styles, code, links and commands, which cannot be broken."""
    text = re.sub(r"^```.*?^```$", "", re.sub(r"\033\[\d*m", "", text), flags=re.DOTALL | re.MULTILINE)
    return [line for line in text.split("\n") if "://" not in line and "'^(" not in line]


def test_a_pipe_gets_plain_markdown_and_one_that_asks_gets_colors() -> None:
    plain = piped(*QUESTION)
    assert ESCAPE not in plain
    assert piped(*QUESTION, "--color", "never") == plain == piped(*QUESTION, NO_COLOR="1")
    assert ESCAPE in piped(*QUESTION, "--color=always")
    assert ESCAPE in piped(*QUESTION, FORCE_COLOR="1")
    assert ESCAPE not in piped(*QUESTION, "--json", FORCE_COLOR="1")


def test_on_a_terminal_names_are_bold_and_prose_fits_its_width_and_code_is_as_it_was() -> None:
    sent = on_terminal("--show", "security/jwt-validation", "go/context-propagation")
    assert f"{terminal.BOLD}JWT validation at a resource server{terminal.PLAIN}" in sent
    assert f"{terminal.BOLD}{terminal.CYAN}security/jwt-validation{terminal.PLAIN}" in sent
    code = re.findall(r"^```.*?^```$", piped("--show", "go/context-propagation"), flags=re.DOTALL | re.MULTILINE)
    assert code
    assert all(block in sent for block in code)
    assert [line for line in prose(sent) if len(line) > 70] == []


def test_no_color_leaves_the_wrapping() -> None:
    sent = on_terminal(*QUESTION, NO_COLOR="1")
    assert ESCAPE not in sent
    assert max(map(len, prose(sent))) <= 70


@pytest.mark.skipif(sys.platform == "win32", reason="the pager is a shell script")
def test_what_is_taller_than_the_terminal_goes_through_the_pager(tmp_path: Path) -> None:
    pager = tmp_path / "pager"
    pager.write_text('#!/bin/sh\necho "paged $LESS"; cat\n', encoding="utf-8")
    pager.chmod(0o755)
    assert on_terminal(*QUESTION, lines=20, PAGER=str(pager)).startswith("paged FRX\n")
    assert not on_terminal(*QUESTION, lines=500, PAGER=str(pager)).startswith("paged")
    assert "JWT" in on_terminal(*QUESTION, lines=20, PAGER="no-such-pager")
    assert "JWT" in on_terminal(*QUESTION, lines=20, PAGER="")


def test_list_items_hang_and_quotes_stay_quotes() -> None:
    text = "- one two three four\n> five six seven eight\n| a | long table row that is not wrapped |"
    assert terminal.wrapped(text, 12).split("\n") == [
        "- one two", "  three four", "> five six", "> seven", "> eight", "| a | long table row that is not wrapped |",
    ]  # fmt: skip
