"""Show an answer on a terminal: names and references bold, prose wrapped to the width, long answers through a pager.

search.py imports this only where a person looks on or --color always asks for it; piped, an answer stays plain.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap

BOLD, CYAN, PLAIN = "\033[1m", "\033[36m", "\033[0m"
WIDEST = 100  # columns; longer lines of prose are hard to read
REFERENCE = re.compile(r"`([a-z]+/[a-z0-9-]+)`")
STRONG = re.compile(r"\*\*([^*]+)\*\*")
KEPT = re.compile(r"\||    |#|```|> ?$|$")  # lines of tables, code and headings are not wrapped


def wrapped(text: str, width: int) -> str:
    """The Markdown with its paragraphs, list items and quotes wrapped; code, tables and headings as they are."""
    lines, fence = [], ""
    for line in text.split("\n"):
        mark = re.match(r"`{3,}", line.lstrip())
        if mark and (not fence or line.strip() == fence):
            fence = "" if fence else mark[0]
        if fence or mark or KEPT.match(line):
            lines.append(line)
            continue
        indent = re.match(r" *(?:- |\d+\. |> )?", line)
        head = indent[0] if indent else ""
        later = head if head.strip() == ">" else " " * len(head)
        lines += textwrap.wrap(
            line, width, subsequent_indent=later, break_long_words=False, break_on_hyphens=False
        ) or [line]  # fmt: skip
    return "\n".join(lines)


def styled(text: str) -> str:
    """The Markdown with headings, labels and references set off, outside code."""
    parts = re.split(r"(^ *(`{3,}).*?^ *\2$)", text, flags=re.DOTALL | re.MULTILINE)
    for place in range(0, len(parts), 3):  # what lies between blocks of code
        part = re.sub(r"^#+ (.*)$", rf"{BOLD}\1{PLAIN}", parts[place], flags=re.MULTILINE)
        part = REFERENCE.sub(rf"{BOLD}{CYAN}\1{PLAIN}", part)
        parts[place] = STRONG.sub(rf"{BOLD}\1{PLAIN}", part)
    return "".join(part for number, part in enumerate(parts) if number % 3 != 2)


def pager() -> list[str]:
    """The command that shows long answers, as git chooses it; empty for none."""
    chosen = os.environ.get("PAGER")
    words = shlex.split("less" if chosen is None else chosen)
    return words if words and words != ["cat"] and shutil.which(words[0]) else []


def show(text: str, colors: bool) -> None:
    """Print an answer; through the pager when it is taller than the terminal."""
    size = shutil.get_terminal_size()
    text = wrapped(text, min(size.columns, WIDEST))
    text = styled(text) if colors else text
    command = pager() if sys.stdout.isatty() and text.count("\n") + 2 > size.lines else []
    if not command:
        print(text, flush=True)
        return
    environment = {"LESS": "FRX", **os.environ}  # leave at once what fits, pass colors on, keep the screen
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, env=environment, encoding="utf-8", errors="replace"
    ) as process:
        try:
            process.communicate(text + "\n")
        except KeyboardInterrupt:
            process.wait()
