"""How fast a query is, as ratios taken side by side in one run.

    python benchmarks/speed.py [--rounds N]

Every figure is a ratio of the medians of whole processes that were run alternately, so that a busy
machine slows both sides. Needs rank-bm25, for the index and as the rival.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import search  # noqa: E402
from maintain import build, tables  # noqa: E402

QUERIES = [
    "order saved but event never published",
    "users charged twice when the client retries",
    "p99 latency jumps every few minutes",
    "idempotancy key",
    "connection pool exhausted under load",
]

# What a script that asks rank-bm25 directly has to do for one query.
DIRECT = """
import sys; sys.path.insert(0, sys.argv[1])
import search
from maintain import build, tables
from rank_bm25 import BM25Okapi
documents, refs = [], []
for path in search.csv_files(search.DATA):
    if path not in search.TABLES:
        table = tables.read_table(search.DATA, path)
        for record in table.records:
            refs.append(search.scope_name(path) + "/" + record.cells[0])
            documents.append(build.row_tokens(dict(zip(table.columns, record.cells))))
scores = BM25Okapi(documents).get_scores(search.tokenize(sys.argv[2]))
for row in sorted(range(len(refs)), key=lambda row: -scores[row])[:3]:
    print(refs[row], scores[row])
"""

MEMORY = """
import resource, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit:
    pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


def seconds(command: list[str]) -> float:
    """The wall time of one process."""
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return time.perf_counter() - start


def compare(commands: dict[str, list[list[str]]], rounds: int) -> dict[str, float]:
    """The median wall time of each name's commands, all run in turn, round after round."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, variants in commands.items():
            times[name] += [seconds(command) for command in variants]
    return {name: statistics.median(taken) for name, taken in times.items()}


def ask(query: str, data: Path | None = None) -> list[str]:
    """The command for one query."""
    return [sys.executable, str(ROOT / "search.py"), query, *(["--data", str(data)] if data else [])]


def multiplied(factor: int, folder: Path) -> Path:
    """A copy of the data folder in which every row stands `factor` times, each time with another ID."""
    for path in search.csv_files(search.DATA):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if path in search.TABLES:
            shutil.copy(Path(search.DATA) / path, target)
            continue
        table = tables.read_table(search.DATA, path)
        with open(target, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(table.columns)
            for copy in range(factor):
                writer.writerows([f"{row.cells[0]}-{copy}", *row.cells[1:]] for row in table.records)
    return folder


def line(what: str, value: float, aim: float, unit: str = "") -> None:
    """Print one figure with its aim."""
    print(f"{what:<66} {value:>7.2f}{unit:<4} aim {aim:g}{unit} {'met' if value <= aim else 'MISSED'}")


def memory(command: list[str]) -> float:
    """The peak resident memory of a query, in MiB."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, *command[1:]], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        encoding="utf-8", check=True,
    )  # fmt: skip
    peak = int(done.stderr.splitlines()[-1])
    return peak / 1024 / (1024 if sys.platform == "darwin" else 1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="how often each command runs (default 15)")
    rounds = parser.parse_args().rounds
    rows = search.open_index(search.DATA).count
    print(f"Python {sys.version.split()[0]}, {rows} rows, medians of {rounds} rounds\n")

    taken = compare(
        {
            "bare": [[sys.executable, "-c", "pass"]] * len(QUERIES),
            "query": [ask(query) for query in QUERIES],
            "direct": [[sys.executable, "-c", DIRECT, str(ROOT), query] for query in QUERIES],
        },
        rounds,
    )
    line("query / bare interpreter start, wall time", taken["query"] / taken["bare"], 3.0)
    line("query / rank-bm25 imported and asked directly, wall time", taken["query"] / taken["direct"], 0.25)
    line("peak memory of a query", max(memory(ask(query)) for query in QUERIES), 20, " MiB")

    with tempfile.TemporaryDirectory() as folder:
        times = -(-1500 // rows)
        data = multiplied(times, Path(folder) / "many")
        start = time.perf_counter()
        build.index_bytes(str(data))
        rebuild = (time.perf_counter() - start) * 1500 / (rows * times)
        line("rebuild of the index, scaled to 1,500 rows", rebuild, 3, " s")
        for factor, aim in ((10, 1.3), (100, 2.5)):
            data = multiplied(factor, Path(folder) / str(factor))
            search.open_index(str(data))
            subprocess.run(ask("jwt", data), stdout=subprocess.DEVNULL, check=True)
            grown = compare(
                {"small": [ask(query) for query in QUERIES], "large": [ask(query, data) for query in QUERIES]}, rounds
            )
            line(f"query over {factor} times the rows / over the rows", grown["large"] / grown["small"], aim)


if __name__ == "__main__":
    main()
