"""Calls that nobody would make on purpose: no traceback, documented exit statuses, printable UTF-8.

    python -m tests.hostile [--calls 10000] [--kills 200] [--readers 200] [--seed N]

Runs in a folder of its own, prints what it found, exits 1 when anything broke a promise.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import search  # noqa: E402

WORDS = [
    *(
        "heat",
        "toast",
        "",
        " ",
        "-",
        "--",
        "\x00",
        "\x1b[31m",
        "\ud800",
        "é",
        "缓存",
        "a" * 5000,
        "c#",
        ".net",
        "`" * 9,
    ),
    *("\r\n", "%s", "*", "\U0001f642"),
]
OPTIONS = [
    *("-n", "-n2", "-n0", "-q", "-d", "-s", "--domain", "--domain=kitchen", "--stack=garage", "--stack", "--json"),
    *("--brief", "--list", "--show", "--version", "--help", "--check", "-x", "--jsn", "kitchen", "garage"),
    *("kitchen/burnt-toast", "9" * 30, "-1", "\u0661"),
]
STATUSES = {search.FOUND, search.NOTHING, search.USAGE, search.BROKEN, search.UNWRITTEN}


class Captured(io.TextIOWrapper):
    """A standard output that keeps its bytes."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", errors="replace", newline="")

    def text(self) -> str:
        """All that was written; UnicodeDecodeError where it is not UTF-8."""
        self.flush()
        raw: bytes = self.buffer.getvalue()  # type: ignore[attr-defined]
        return raw.decode("utf-8")


def fault(arguments: list[str], stdin: bytes = b"") -> str:
    """What a call broke, or an empty string."""
    out, err = Captured(), Captured()
    before = sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin))
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = search.main(arguments)
        text = out.text() + err.text()
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    finally:
        sys.stdin = before
    if status not in STATUSES:
        return f"status {status}"
    if not all(c.isprintable() or c == "\n" for c in text):
        return "control characters"
    options = search.parse_arguments(arguments)[0] if status == search.FOUND else {}
    if "--json" in options and not {"--help", "--version", "--check"} & options.keys():
        json.loads(out.text())
    return ""


def damage(chance: random.Random, path: Path) -> None:
    """Do something bad to a file."""
    raw = bytearray(path.read_bytes() if path.is_file() else b"")
    for _ in range(chance.randint(1, 8)):
        place = chance.randrange(len(raw) + 1)
        kind = chance.randrange(4)
        if kind == 0:
            raw[place : place + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            del raw[place : place + chance.randint(1, 50)]
        elif kind == 2:
            raw[place:place] = chance.choice([b'"', b"\t", b"\r", b"\n", b",", b"\x00", b"\xff", "ü".encode()])
        else:
            raw[place:place] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 30)))
    path.write_bytes(bytes(raw))


def calls(data: Path, count: int, seed: int) -> list[str]:
    """What so many random calls broke, a line each; every fifth time a file is damaged, and mended after."""
    chance = random.Random(seed)
    files = [*data.rglob("*.csv"), data / "index.tsv"]
    search.main(["heat", "--data", str(data)])
    sound = {path: path.read_bytes() for path in files}
    faults = []
    for number in range(count):
        if number % 5 == 0:
            damage(chance, chance.choice(files))
        arguments = [chance.choice(WORDS + OPTIONS) for _ in range(chance.randint(0, 6))]
        found = fault(["--data", str(data), *arguments], chance.choice([b"", b"heat", b"\xff\x00" * 50]))
        if found:
            faults.append(f"call {number} {arguments!r}: {found}")
        if number % 5 == 0:
            for path, raw in sound.items():
                path.write_bytes(raw)
    return faults


def kills(data: Path, count: int, seed: int) -> list[str]:
    """Kill so many rebuilds at random moments: the index is the old or the new one."""
    chance = random.Random(seed)
    table = data / "domains" / "kitchen.csv"
    old = table.read_bytes()
    new = old.replace(b"charcoal", b"cinders")
    indexes = set()
    for content in (old, new):
        table.write_bytes(content)
        assert search.main(["--reindex", "--data", str(data)]) == search.FOUND
        indexes.add((data / "index.tsv").read_bytes())
    faults = []
    for number in range(count):
        table.write_bytes((old, new)[number % 2])
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "search.py"), "--reindex", "--data", str(data)], stdout=subprocess.DEVNULL
        )
        time.sleep(chance.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (data / "index.tsv").read_bytes() not in indexes:
            faults.append(f"kill {number}: the index is neither the old nor the new one")
    table.write_bytes(old)
    return faults


def readers(data: Path, count: int) -> list[str]:
    """So many searches while the rows change and are indexed anew: all answer rightly."""
    table = data / "domains" / "kitchen.csv"
    old = table.read_bytes()
    faults = []
    for number in range(0, count, 4):
        new = data / "new.tmp"
        new.write_bytes(old if number % 8 else old.replace(b"charcoal", b"cinders"))
        new.replace(table)
        command = [sys.executable, str(ROOT / "search.py"), "smoke toast", "--data", str(data), "--json"]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(4)]
        for process in running:
            out, err = process.communicate()
            if process.returncode or json.loads(out)["results"][0]["ref"] != "kitchen/burnt-toast":
                faults.append(f"reader {number}: {process.returncode} {err.decode()}")
    table.write_bytes(old)
    return faults


def main() -> int:
    """Run all of it and print what broke."""
    from tests.conftest import GARAGE, KITCHEN, write_csv

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, count in (("calls", 10_000), ("kills", 200), ("readers", 200), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=count)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        write_csv(data / "domains" / "kitchen.csv", KITCHEN)
        write_csv(data / "stacks" / "garage.csv", GARAGE)
        write_csv(data / "synonyms.csv", [["bread", "toast"]], ["Term", "Means"])
        with contextlib.redirect_stdout(io.StringIO()):
            found = {
                "calls": calls(data, options.calls, options.seed),
                "kills": kills(data, options.kills, options.seed),
                "readers": readers(data, options.readers),
            }
    for name, faults in found.items():
        print(f"{getattr(options, name)} {name}: {len(faults)} faults")
        print("".join(f"  {fault}\n" for fault in faults[:20]), end="")
    return 1 if any(found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
