"""Real replicas on a real PostgreSQL: killed, paused, cut off, restarted under, with clocks that are wrong."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from recipes.engines import Postgres, wait_for

HERE = Path(__file__).parent
LONG = 60  # seconds to wait for what takes a few, on a machine that is busy
DECADE = "3650 days"  # a period in which no test sees the next slot begin

# The job of the tests notes in a file that it began, waits for a file, fails, kills its process, and saves a row.
DRIVER = f"""
import asyncio, datetime, logging, os, signal, sys, time
from pathlib import Path

SKEW = float(os.environ.get("SKEW", "0"))  # a clock that is wrong; the monotonic one is not
class Skewed(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(seconds=SKEW)
if SKEW:
    real = time.time
    datetime.datetime, time.time = Skewed, lambda: real() + SKEW

sys.path.insert(0, {str(HERE)!r})
import cron

FOLDER = Path(os.environ["FOLDER"])
DO = os.environ.get

def note(run, what):
    line = f"{{what}} {{run.slot.timestamp()}} {{run.attempt}} {{os.getpid()}} {{time.monotonic()}}\\n"
    file = os.open(FOLDER / "notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())
    os.close(file)

async def work(run):
    note(run, "began")
    try:
        if DO("KILL") == "work":
            os.kill(os.getpid(), signal.SIGKILL)
        while "GATE" in os.environ and not (FOLDER / DO("GATE")).exists():
            await asyncio.sleep(0.02)
        if run.attempt <= int(DO("FAIL", "0")):
            raise OSError("not today")
        await asyncio.sleep(float(DO("TAKES", "0")))
    except asyncio.CancelledError:
        note(run, "stopped")
        raise
    note(run, "ended")

async def save(connection, run, result):
    await connection.execute("INSERT INTO effect VALUES (%s, %s)", [run.slot, run.attempt])
    if DO("KILL") == "save":
        os.kill(os.getpid(), signal.SIGKILL)

cron.work, cron.save = work, save
logging.basicConfig(level=logging.INFO)
asyncio.run(cron.main())
"""

Fault = Callable[[str, str], None]
Db = psycopg.Connection[Any]


class Replicas:
    """Starts replicas on a database, and reads what their runs noted."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder, self.processes = url, folder, list[subprocess.Popen[bytes]]()
        (folder / "driver.py").write_text(DRIVER, encoding="utf-8")
        (folder / "notes").touch()

    def start(self, url: str = "", **settings: object) -> subprocess.Popen[bytes]:
        chosen = {"LEASE": "60", "POLL": "0.05", "RETRY": "0.05", "PERIOD": DECADE}
        environment = {**os.environ, **chosen, **{name: str(value) for name, value in settings.items()}}
        environment |= {"DATABASE_URL": url or self.url, "FOLDER": str(self.folder)}
        with open(self.folder / "log", "ab") as log:
            command = [sys.executable, self.folder / "driver.py"]
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def notes(self, what: str) -> list[tuple[float, int, int, float]]:
        """Of each note: slot, attempt, process, and when."""
        lines = [line.split() for line in (self.folder / "notes").read_text(encoding="utf-8").splitlines()]
        return [(float(s), int(a), int(p), float(t)) for kind, s, a, p, t in lines if kind == what]

    def wait(self, what: str, times: int = 1) -> list[tuple[float, int, int, float]]:
        wait_for(f"{times} runs that {what}", lambda: len(self.notes(what)) >= times, LONG)
        return self.notes(what)

    def open(self, gate: str) -> None:
        (self.folder / gate).touch()

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    # Processes are killed here, machines are not: without fsync a busy disk holds nothing up.
    server = Postgres(tmp_path_factory.mktemp("cron"), {"fsync": "off"})
    yield server
    server.stop()


@pytest.fixture
def db(database: str) -> Iterator[Db]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute((HERE / "cron.sql").read_text(encoding="utf-8"))  # type: ignore[arg-type]
        connection.execute("CREATE TABLE effect (slot timestamptz NOT NULL, attempt int NOT NULL)")
        yield connection


@pytest.fixture
def replicas(database: str, db: Db, tmp_path: Path) -> Iterator[Replicas]:
    started = Replicas(database, tmp_path)
    yield started
    for process in started.processes:
        process.kill()
        process.wait()


def rows(db: Db, query: str, *values: object) -> list[Any]:
    return db.execute(query, values or None).fetchall()  # type: ignore[arg-type]


def one(db: Db, query: str, *values: object) -> Any:
    return rows(db, query, *values)[0][0]


def runs(db: Db) -> list[tuple[str, int]]:
    return rows(db, "SELECT state, attempts FROM job_run ORDER BY slot")


def effects(db: Db) -> list[int]:
    """The attempts whose writes are there."""
    return [attempt for (attempt,) in rows(db, "SELECT attempt FROM effect ORDER BY slot")]


def ended(db: Db, count: int) -> None:
    query = "SELECT count(*) >= %s FROM job_run WHERE state <> 'running'"
    wait_for(f"{count} slots that have ended", lambda: one(db, query, count), LONG)


def asked(db: Db, count: int) -> None:
    """Wait until so many standbys have asked for the lock, each since now."""
    now = one(db, "SELECT clock_timestamp()")
    query = """SELECT count(*) >= %s FROM pg_stat_activity WHERE query LIKE '%%pg_try_advisory_lock(h%%'
        AND state = 'idle' AND query_start > %s AND pid <> pg_backend_pid()"""
    wait_for(f"{count} standbys", lambda: one(db, query, count, now), LONG)


def holder(db: Db) -> int:
    """The server process of the replica that holds the lock."""
    return int(one(db, "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted"))


def test_one_of_five_replicas_runs_the_job(replicas: Replicas, db: Db, fault: Fault) -> None:
    for _ in range(5):
        replicas.start(GATE="go")
    replicas.wait("began")
    asked(db, 4)
    replicas.open("go")
    ended(db, 1)
    asked(db, 4)
    assert (len(replicas.notes("began")), effects(db)) == (1, [1])
    fault("5 replicas at the same tick", f"{len(replicas.notes('began'))} run, 4 stand by")


def test_each_slot_runs_once_and_no_two_at_once(replicas: Replicas, db: Db, fault: Fault) -> None:
    """The period is shorter than a run, so that each is overtaken by the next tick."""
    for _ in range(3):
        replicas.start(PERIOD="1 second", TAKES="0.7", CATCH_UP="100")
    replicas.wait("began")
    ended(db, 6)
    spans = sorted(
        [(*note[3:], 1) for note in replicas.notes("began")] + [(*note[3:], -1) for note in replicas.notes("ended")]
    )
    busy, most = 0, 0
    for _, step in spans:
        busy += step
        most = max(most, busy)
    slots = [note[0] for note in replicas.notes("began")]
    gaps = {later - earlier for earlier, later in zip(slots, slots[1:])}
    assert (most, gaps, set(effects(db))) == (1, {1.0}, {1})
    fault(
        "3 replicas, a slot each second, runs of 0.7 s and what comes with them",
        f"each slot once, in order, {most} at a time",
    )


def test_an_overlong_run_is_followed_by_the_slots_that_it_missed(replicas: Replicas, db: Db, fault: Fault) -> None:
    for _ in range(2):
        replicas.start(PERIOD="1 second", GATE="go", CATCH_UP="2")
    first = replicas.wait("began")[0][0]
    wait_for(
        "the end of 6 periods",
        lambda: one(db, "SELECT extract(epoch FROM clock_timestamp())::float8") > first + 7,
        LONG,
    )
    assert len(replicas.notes("began")) == 1
    replicas.open("go")
    second = replicas.wait("began", 2)[1]
    third = replicas.wait("began", 3)[2]
    assert second[0] >= first + 5
    assert third[0] == second[0] + 1
    fault(
        "a run that takes 7 periods, with CATCH_UP=2",
        "one run at a time; then the newest 2 slots that were missed, in order",
    )


@pytest.mark.parametrize("when", ["work", "save"])
def test_the_run_of_a_killed_replica_is_done_by_another(replicas: Replicas, db: Db, fault: Fault, when: str) -> None:
    victim = replicas.start(KILL=when, LEASE="2")
    assert victim.wait(LONG) == -signal.SIGKILL
    replicas.start(LEASE="2")
    ended(db, 1)
    assert (runs(db), effects(db)) == ([("done", 2)], [2])
    place = {"work": "in the middle of its run", "save": "between its writes and the commit"}[when]
    fault(
        f"kill -9 of the holder {place}", f"attempt {runs(db)[0][1]} by another, writes of {len(effects(db))} attempt"
    )


def test_a_run_whose_connection_is_cut_stops_before_another_begins(replicas: Replicas, db: Db, fault: Fault) -> None:
    for _ in range(2):
        replicas.start(GATE="go", LEASE="2")
    replicas.wait("began")
    asked(db, 1)
    assert one(db, "SELECT pg_terminate_backend(%s)", holder(db))
    (stopped,) = replicas.wait("stopped")
    first, second = replicas.wait("began", 2)
    assert stopped[2] == first[2]
    assert stopped[3] < second[3]
    replicas.open("go")
    ended(db, 1)
    assert (runs(db), effects(db)) == ([("done", 2)], [2])
    fault(
        "pg_terminate_backend of the holder's session during a run",
        f"the run stops, then attempt {second[1]} begins; {len(effects(db))} has written",
    )


class Proxy:
    """Stands between a replica and PostgreSQL. When it is cut, the server sees an end and the replica sees nothing."""

    def __init__(self, port: int) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port, self.target = self.listener.getsockname()[1], port
        self.servers: list[socket.socket] = []
        self.lost = False
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
                self.servers.append(server)
                threading.Thread(target=self.pump, args=(client, server), daemon=True).start()
                threading.Thread(target=self.pump, args=(server, client), daemon=True).start()

    def pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if not self.lost:
                    sink.sendall(data)
        if not self.lost:
            sink.close()

    def cut(self) -> None:
        self.lost = True
        for server in self.servers:
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)


def test_a_replica_that_is_cut_off_stops_before_another_begins(
    replicas: Replicas, db: Db, postgres: Postgres, fault: Fault
) -> None:
    proxy = Proxy(postgres.port)
    replicas.start(replicas.url.replace(str(postgres.port), str(proxy.port)), GATE="go", LEASE="3")
    replicas.wait("began")
    replicas.start(GATE="go", LEASE="3")
    asked(db, 1)
    proxy.cut()
    (stopped,) = replicas.wait("stopped")
    _, second = replicas.wait("began", 2)
    assert stopped[3] < second[3]
    replicas.open("go")
    ended(db, 1)
    assert effects(db) == [2]
    fault(
        "the network to the holder is cut, the server notices and the holder does not",
        f"the run stops, then attempt {second[1]} begins",
    )


def test_a_paused_replica_loses_the_lock_and_writes_nothing(replicas: Replicas, db: Db, fault: Fault) -> None:
    paused = replicas.start(GATE="go", LEASE="2")
    replicas.wait("began")
    paused.send_signal(signal.SIGSTOP)
    replicas.start(GATE="go", LEASE="2")
    replicas.wait("began", 2)
    replicas.open("go")
    ended(db, 1)
    paused.send_signal(signal.SIGCONT)
    asked(db, 1)  # it is back, without the lock
    assert (runs(db), effects(db)) == ([("done", 2)], [2])
    fault(
        "the holder is paused (SIGSTOP), and wakes when another has done its slot",
        f"attempt {effects(db)[0]} alone has written",
    )


def test_a_restart_of_the_database_repeats_the_run(
    replicas: Replicas, db: Db, postgres: Postgres, fault: Fault
) -> None:
    processes = [replicas.start(GATE="go", LEASE="2") for _ in range(3)]
    replicas.wait("began")
    postgres.stop()
    postgres.start()
    replicas.wait("stopped")
    replicas.wait("began", 2)
    replicas.open("go")
    with psycopg.connect(replicas.url, autocommit=True) as after:
        ended(after, 1)
        asked(after, 2)
        assert (runs(after), effects(after)) == ([("done", 2)], [2])
        assert {process.poll() for process in processes} == {None}
        fault(
            "the database restarts during a run",
            f"the run stops; attempt {effects(after)[0]} writes; {len(processes)} replicas live",
        )


def test_slots_missed_while_nobody_ran_are_caught_up(replicas: Replicas, db: Db, fault: Fault) -> None:
    db.execute("SELECT job_start('report', date_bin('3650 days', now(), 'epoch') - 40 * interval '3650 days', 3)")
    db.execute("UPDATE job_run SET state = 'done'")
    replicas.start(CATCH_UP="3")
    query = "SELECT count(*) FROM job_run WHERE slot = date_bin('3650 days', now(), 'epoch') AND state = 'done'"
    wait_for("the slot of now", lambda: one(db, query), LONG)
    slots = [datetime.fromtimestamp(note[0]) for note in replicas.notes("began")]
    assert [later - earlier for earlier, later in zip(slots, slots[1:])] == [timedelta(days=3650)] * 2
    fault("no replica for 40 periods, with CATCH_UP=3", f"the newest {len(slots)} slots run, the oldest first")


def test_clocks_that_are_wrong_change_nothing(replicas: Replicas, db: Db, fault: Fault) -> None:
    for skew in (-7200, 0, 7200):
        replicas.start(PERIOD="1 second", SKEW=skew, CATCH_UP="100", LEASE="2")
    ended(db, 1)
    done = 1
    for _ in range(3):  # each takes its turn
        one(db, "SELECT pg_terminate_backend(%s)", holder(db))
        done = one(db, "SELECT count(*) FROM job_run") + 2
        ended(db, done)
    early = one(db, "SELECT count(*) FROM job_run WHERE started_at < slot OR started_at > slot + interval '1 minute'")
    slots = [slot for (slot,) in rows(db, "SELECT slot FROM effect ORDER BY slot")]
    gaps = {later - earlier for earlier, later in zip(slots, slots[1:])}
    assert (early, gaps) == (0, {timedelta(seconds=1)})
    fault(
        "replicas whose clocks are 2 hours behind and 2 hours ahead",
        f"{early} slots early or late, none twice, none left out",
    )


def test_a_run_that_fails_is_tried_again_and_given_up(replicas: Replicas, db: Db, fault: Fault) -> None:
    replicas.start(FAIL="2")
    ended(db, 1)
    assert (runs(db), effects(db)) == ([("done", 3)], [3])
    db.execute("UPDATE job_run SET slot = slot - interval '3650 days'")
    replicas.processes[0].kill()
    replicas.start(FAIL="99")
    ended(db, 2)
    assert runs(db)[1] == ("failed", 3)
    assert one(db, "SELECT max(error) FROM job_run") == "OSError: not today"
    fault(
        "a run that fails twice, and one that always fails",
        f"done in attempt {effects(db)[0]}; {runs(db)[1][0]} after {runs(db)[1][1]}",
    )


def test_a_run_that_kills_its_process_is_given_up(replicas: Replicas, db: Db, fault: Fault) -> None:
    for _ in range(3):
        assert replicas.start(KILL="work", LEASE="1").wait(LONG) == -signal.SIGKILL
    replicas.start(LEASE="1")
    ended(db, 1)
    assert runs(db) == [("failed", 3)]
    fault("a run that kills its process, whoever does it", f"{runs(db)[0][0]} after {runs(db)[0][1]} attempts")


def test_a_run_longer_than_its_timeout_is_stopped(replicas: Replicas, db: Db) -> None:
    replicas.start(GATE="never", TIMEOUT="0.2", ATTEMPTS="2")
    ended(db, 1)
    assert runs(db) == [("failed", 2)]
    assert len(replicas.notes("stopped")) == 2


def test_shutdown_finishes_the_run_and_frees_the_lock(replicas: Replicas, db: Db, fault: Fault) -> None:
    leader = replicas.start(GATE="go")
    replicas.wait("began")
    replicas.start(GATE="go", PERIOD="1 second", CATCH_UP="1")  # the same job; it sees more slots
    asked(db, 1)
    leader.send_signal(signal.SIGTERM)
    replicas.open("go")
    assert leader.wait(LONG) == 0
    assert (runs(db)[0], effects(db)[:1]) == (("done", 1), [1])
    replicas.wait("ended", 2)
    fault("SIGTERM during a run", "it ends and is saved, the replica exits with 0, the next one leads at once")


def test_shutdown_does_not_wait_for_ever(replicas: Replicas, db: Db, fault: Fault) -> None:
    leader = replicas.start(GATE="never", DRAIN="0.2")
    replicas.wait("began")
    leader.send_signal(signal.SIGTERM)
    assert leader.wait(LONG) == 0
    assert (len(replicas.notes("stopped")), effects(db)) == (1, [])
    replicas.start(LEASE="1")
    ended(db, 1)
    fault(
        "SIGTERM during a run that outlasts DRAIN",
        f"it is stopped, and done in attempt {effects(db)[0]} by another replica",
    )


class Pooler:
    """A pooler in transaction mode with one connection to the server, as small as it can be."""

    def __init__(self, postgres: Postgres, database: str) -> None:
        self.server = socket.create_connection(("127.0.0.1", postgres.port))
        parameters = f"user\0postgres\0database\0{database}\0\0".encode()
        self.server.sendall(struct.pack("!ii", 8 + len(parameters), 196608) + parameters)
        self.hello = b""
        while not self.hello.endswith(b"Z\0\0\0\5I"):
            self.hello += self.server.recv(65536)
        self.busy = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client: socket.socket) -> None:
        with suppress(OSError, ValueError), client:
            while True:  # refuse encryption, then take the start-up message
                size, code = struct.unpack("!ii", self.exactly(client, 8))
                self.exactly(client, size - 8)
                if code == 196608:
                    break
                client.sendall(b"N")
            # Each client gets a key of its own, as it may cancel its own statements only.
            at = self.hello.index(b"K\0\0\0\x0c") + 5
            client.sendall(self.hello[:at] + secrets.token_bytes(8) + self.hello[at + 8 :])
            while True:
                kind, message = self.message(client)
                if kind == b"X":
                    return
                with self.busy:  # from here until the transaction ends the server is this client's
                    state = b""
                    while state != b"I":
                        self.server.sendall(message)
                        while kind not in b"QS":
                            kind, message = self.message(client)
                            self.server.sendall(message)
                        answer = b""
                        while answer != b"Z":
                            answer, message = self.message(self.server)
                            client.sendall(message)
                        state = message[-1:]
                        if state != b"I":
                            kind, message = self.message(client)

    def message(self, source: socket.socket) -> tuple[bytes, bytes]:
        head = self.exactly(source, 5)
        return head[:1], head + self.exactly(source, struct.unpack("!i", head[1:])[0] - 4)

    @staticmethod
    def exactly(source: socket.socket, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = source.recv(size - len(data))
            if not more:
                raise ValueError("closed")
            data += more
        return data


def test_a_pooler_in_transaction_mode_is_refused(replicas: Replicas, db: Db, postgres: Postgres, fault: Fault) -> None:
    pooler = Pooler(postgres, db.info.dbname)
    url = f"postgresql://postgres@127.0.0.1:{pooler.port}/{db.info.dbname}"
    with psycopg.connect(url, autocommit=True) as one_replica, psycopg.connect(url, autocommit=True) as another:
        both = [one(each, "SELECT pg_try_advisory_lock(1)") for each in (one_replica, another)]
    left = one(db, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
    assert (both, left) == ([True, True], 1)
    fault(
        "two sessions take the lock through a pooler in transaction mode, and end",
        f"{both.count(True)} hold it at once, {left} lock stays behind",
    )
    refused = replicas.start(url)
    assert refused.wait(LONG) == 1
    assert "leads through a pooler" in replicas.log
    assert runs(db) == []
    fault("a replica behind such a pooler", "refuses to start: " + replicas.log.strip().splitlines()[-1])
