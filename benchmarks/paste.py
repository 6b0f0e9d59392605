"""How long a pasted question takes, from 1 KB to 100 KB, beside a question of three words.

    python benchmarks/paste.py [--rounds N]

Whole processes, medians, as a Markdown table: milliseconds for each kind and size.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "search.py"
SIZES = (1, 10, 30, 100)  # KB
CHANCE = random.Random(1)


def made_of(lines: list[str], size: int) -> str:
    """So many characters of the lines, over and over."""
    text = "\n".join(lines)
    return (text * (size // len(text) + 1))[:size]


LOG = [
    f"2026-11-28T21:{minute:02}:07Z ERROR pool-{minute} HikariPool-1 - Connection is not available, request timed "
    f"out after {CHANCE.randrange(10**5)}ms trace={CHANCE.randrange(16**16):x}"
    for minute in range(60)
]
TRACE = [
    f"\tat com.example.shop{number}.OrderService{number}.handleRequest(OrderService{number}.java:{number})"
    for number in range(900)
]
UNKNOWN = ["".join(CHANCE.choices("abcdefghijklmnopqrstuvwxyz", k=8)) for _ in range(12_000)]
KINDS = {
    "one long word": lambda size: "x" * size,
    "unknown words": lambda size: made_of(UNKNOWN, size),
    "a log": lambda size: made_of(LOG, size),
    "a stack trace": lambda size: made_of(["java.lang.OutOfMemoryError: Java heap space", *TRACE], size),
}


def milliseconds(question: str, rounds: int) -> float:
    """The median time of one question from standard input."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, str(SCRIPT), "-"], input=question.encode(), stdout=subprocess.DEVNULL, check=False
        )
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    print(f"a question of three words: {milliseconds('kafka rebalance storm', rounds):.0f} ms\n")
    print("| kind | " + " | ".join(f"{size} KB" for size in SIZES) + " |\n|---" + "|---" * len(SIZES) + "|")
    for name, make in KINDS.items():
        print(f"| {name} | " + " | ".join(f"{milliseconds(make(size * 1000), rounds):.0f} ms" for size in SIZES) + " |")


if __name__ == "__main__":
    main()
