"""Real workers on a real PostgreSQL: killed, paused, cut off, told to stop, fed with poison, restarted under."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from recipes.engines import Postgres, wait_for

HERE = Path(__file__).parent
FOREVER = "3600"  # a lease or a pause that no test outlives
LONG = 40  # seconds to wait for what takes one, on a machine that is busy

# What the jobs of the tests do: they note in a file that they began, wait for a file, fail, kill, and save a row.
DRIVER = f"""
import asyncio, logging, os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {str(HERE)!r})
import worker

FOLDER = Path(os.environ["FOLDER"])

def note(job, what):
    line = f"{{what}} {{job.payload['n']}} {{os.getpid()}} {{time.monotonic()}}\\n"
    file = os.open(FOLDER / "notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())
    os.close(file)

async def work(job):
    do = job.payload
    note(job, "began")
    try:
        if do.get("kill") == "work":
            os.kill(os.getpid(), signal.SIGKILL)
        while "block" in do and job.attempts == 1 and not (FOLDER / do["block"]).exists():
            time.sleep(0.02)  # keeps the event loop, and so the heartbeat, from running
        while "gate" in do and ("block" not in do or job.attempts > 1) and not (FOLDER / do["gate"]).exists():
            await asyncio.sleep(0.02)
        if job.attempts <= do.get("fail", 0):
            raise OSError("not today")
        if do.get("hopeless"):
            raise worker.Hopeless("no such user")
        if do.get("garbage"):
            raise OSError("no such file: \\0\\udcff")
    except asyncio.CancelledError:
        note(job, "stopped")
        raise
    note(job, "done")

async def save(connection, job, result):
    await connection.execute("INSERT INTO effect VALUES (%s, %s)", [job.payload["n"], job.attempts])
    if job.payload.get("kill") == "save" and job.attempts == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if job.payload.get("refuse"):
        await connection.execute("SELECT 1 / 0")

worker.work, worker.save = work, save
logging.basicConfig(level=logging.INFO)
asyncio.run(worker.main())
"""

Fault = Callable[[str, str], None]
Queue = psycopg.Connection[Any]


class Proxy:
    """Stands between a worker and PostgreSQL, and loses what it is told to lose."""

    def __init__(self, port: int) -> None:
        self.target, self.listener = port, socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.silent = False  # swallow whatever is sent in either direction
        self.cut_commit, self.cut = False, threading.Event()  # pass the next COMMIT on, then cut instead of answering
        self.cutting: set[socket.socket] = set()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
                threading.Thread(target=self.pump, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self.pump, args=(server, client, False), daemon=True).start()

    def pump(self, source: socket.socket, sink: socket.socket, request: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if self.silent:
                    continue
                if request and self.cut_commit and b"COMMIT" in data:
                    self.cut_commit = False
                    self.cutting.add(sink)
                if not request and source in self.cutting:
                    self.cut.set()
                    break
                sink.sendall(data)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


class Workers:
    """Starts workers on a database, and reads what their jobs noted."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder, self.processes = url, folder, list[subprocess.Popen[bytes]]()
        (folder / "driver.py").write_text(DRIVER, encoding="utf-8")
        (folder / "notes").touch()

    def start(self, url: str = "", **settings: object) -> subprocess.Popen[bytes]:
        chosen = {"LEASE": FOREVER, "POLL": "0.05", "BACKOFF": "0.05", **{k: str(v) for k, v in settings.items()}}
        environment = {**os.environ, **chosen, "DATABASE_URL": url or self.url, "FOLDER": str(self.folder)}
        with open(self.folder / "log", "ab") as log:
            process = subprocess.Popen(
                [sys.executable, self.folder / "driver.py"], env=environment, stdout=log, stderr=log
            )
        self.processes.append(process)
        return process

    def notes(self, what: str, n: int | None = None) -> list[list[str]]:
        lines = [line.split() for line in (self.folder / "notes").read_text(encoding="utf-8").splitlines()]
        return [line for line in lines if line[0] == what and n in (None, int(line[1]))]

    def began(self, n: int, times: int = 1) -> None:
        wait_for(f"attempt {times} of job {n}", lambda: len(self.notes("began", n)) >= times, LONG)

    def open(self, gate: str) -> None:
        (self.folder / gate).touch()

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    # Processes are killed here, machines are not: without fsync a busy disk holds nothing up.
    server = Postgres(tmp_path_factory.mktemp("queue"), {"fsync": "off"})
    yield server
    server.stop()


@pytest.fixture
def queue(database: str) -> Iterator[Queue]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute((HERE / "queue.sql").read_text(encoding="utf-8"))  # type: ignore[arg-type]
        connection.execute("CREATE TABLE effect (n int NOT NULL, attempt int NOT NULL)")
        yield connection


@pytest.fixture
def workers(database: str, queue: Queue, tmp_path: Path) -> Iterator[Workers]:
    started = Workers(database, tmp_path)
    yield started
    for process in started.processes:
        process.kill()
        process.wait()


def enqueue(queue: Queue, n: int, max_attempts: int = 5, **do: object) -> str:
    query = "INSERT INTO job (kind, payload, max_attempts) VALUES ('test', %s, %s) RETURNING id"
    row = queue.execute(query, (json.dumps({"n": n, **do}), max_attempts)).fetchone()
    assert row
    return str(row[0])


def one(queue: Queue, query: str, *values: object) -> Any:
    row = queue.execute(query, values).fetchone()  # type: ignore[arg-type]
    return row[0] if row else None


def empty(queue: Queue, seconds: float = LONG) -> None:
    wait_for("an empty queue", lambda: one(queue, "SELECT count(*) FROM job") == 0, seconds)


def effects(queue: Queue) -> list[int]:
    return [row[0] for row in queue.execute("SELECT n FROM effect ORDER BY n").fetchall()]


def ended(process: subprocess.Popen[bytes]) -> int:
    return process.wait(timeout=LONG)


def times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")


def waiting(queue: Queue, count: int) -> None:
    """Until so many statements of workers wait for a lock."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    wait_for(f"{count} workers at the lock", lambda: one(queue, query) >= count, LONG)


def test_each_job_is_taken_by_one_worker(queue: Queue, workers: Workers, database: str, fault: Fault) -> None:
    for n in range(200):
        enqueue(queue, n)
    with psycopg.connect(database) as gate:
        gate.execute("LOCK TABLE job IN ACCESS EXCLUSIVE MODE")
        for _ in range(4):
            workers.start()
        waiting(queue, 4)
    empty(queue)
    begun = len(workers.notes("began"))
    assert effects(queue) == list(range(200))
    assert begun == 200
    fault("4 workers take 200 jobs in the same moment", f"{begun} attempts, {len(effects(queue))} effects")


def test_a_locked_job_does_not_hold_up_the_others(queue: Queue, workers: Workers, database: str, fault: Fault) -> None:
    for n in range(10):
        enqueue(queue, n)
    with psycopg.connect(database) as other:
        other.execute("SELECT FROM job WHERE payload->>'n' = '0' FOR UPDATE")
        workers.start()
        wait_for("the other jobs", lambda: effects(queue) == list(range(1, 10)), LONG)
        meanwhile = len(effects(queue))
    empty(queue)
    fault(
        "a session that hangs holds the oldest of 10 jobs locked", f"{meanwhile} done meanwhile, the tenth afterwards"
    )


def test_a_worker_that_lost_its_lease_saves_nothing(queue: Queue, workers: Workers, fault: Fault) -> None:
    enqueue(queue, 1, block="release", gate="second")
    workers.start(LEASE=1)
    workers.began(1)
    workers.start()  # takes over when the second is over, for an hour
    workers.began(1, 2)
    workers.open("release")
    wait_for("the first to finish", lambda: "is no longer ours" in workers.log or effects(queue), LONG)
    early = len(effects(queue))
    workers.open("second")
    empty(queue)
    done, attempts = len(workers.notes("done", 1)), [row[0] for row in queue.execute("SELECT attempt FROM effect")]
    assert (early, done, attempts) == (0, 2, [2])
    fault(
        "a handler blocks the event loop beyond its lease, another worker takes over, both finish the work",
        f"saved {times(early)} by the first, {times(len(attempts))} by the second",
    )


def test_a_long_job_keeps_its_lease(queue: Queue, workers: Workers, fault: Fault) -> None:
    enqueue(queue, 1, gate="long")
    workers.start(LEASE=3)
    workers.began(1)
    workers.start()
    first_end = one(queue, "SELECT run_at FROM job")
    wait_for("the end of the lease", lambda: one(queue, "SELECT now() > %s + interval '1 s'", first_end), LONG)
    held = one(
        queue,
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND xact_start IS NOT NULL"
        " AND pid <> pg_backend_pid() AND state <> 'active'",
    )
    begun, stopped = len(workers.notes("began", 1)), len(workers.notes("stopped", 1))
    workers.open("long")
    empty(queue)
    assert (begun, stopped, held, effects(queue)) == (1, 0, 0, [1])
    fault(
        "a job takes longer than its lease, another worker is idle",
        f"begun {times(begun)}, {held} transactions open meanwhile, saved {times(len(effects(queue)))}",
    )


def test_a_job_of_a_killed_worker_is_taken_over(queue: Queue, workers: Workers, fault: Fault) -> None:
    enqueue(queue, 1, gate="go")
    first = workers.start(LEASE=2)
    workers.began(1)
    first.kill()
    workers.open("go")
    second = workers.start()
    workers.began(1, 2)
    empty(queue)
    by = {int(note[2]) for note in workers.notes("done", 1)}
    assert by == {second.pid}
    assert effects(queue) == [1]
    fault(
        "kill -9 of the worker in the middle of a job",
        f"begun again when the lease had ended: {len(workers.notes('began', 1))} attempts, "
        f"saved {times(len(effects(queue)))}",
    )


def test_effect_and_end_of_the_job_commit_together(queue: Queue, workers: Workers, fault: Fault) -> None:
    enqueue(queue, 1, kill="save")
    assert ended(workers.start(LEASE=2)) == -signal.SIGKILL
    before = len(effects(queue))
    workers.start()
    empty(queue)
    assert (before, effects(queue)) == (0, [1])
    fault(
        "kill -9 of the worker between the writes of its job and the commit",
        f"{before} effects before the next attempt, saved {times(len(effects(queue)))} after it",
    )


def test_a_lost_answer_to_the_commit_repeats_nothing(
    postgres: Postgres, queue: Queue, workers: Workers, database: str, fault: Fault
) -> None:
    proxy = Proxy(postgres.port)
    enqueue(queue, 1, gate="go")
    workers.start(database.replace(str(postgres.port), str(proxy.port)))
    workers.began(1)
    proxy.cut_commit = True
    workers.open("go")
    assert proxy.cut.wait(LONG)
    wait_for("the next try", lambda: "is no longer ours" in workers.log or len(effects(queue)) > 1, LONG)
    empty(queue)
    begun, dead = len(workers.notes("began", 1)), one(queue, "SELECT count(*) FROM job_dead")
    assert (begun, effects(queue), dead) == (1, [1], 0)
    fault(
        "the connection breaks after the commit of a result, before the answer",
        f"worked on {times(begun)}, saved {times(len(effects(queue)))}",
    )


def test_a_finished_result_survives_a_lost_connection(
    postgres: Postgres, queue: Queue, workers: Workers, database: str, fault: Fault
) -> None:
    enqueue(queue, 1, gate="go")
    workers.start()
    workers.began(1)
    with psycopg.connect(database) as other:
        other.execute("SELECT FROM job FOR UPDATE")
        workers.open("go")
        waiting(queue, 1)
        query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        broken = one(queue, query)
    empty(queue)
    begun = len(workers.notes("began", 1))
    assert (begun, effects(queue)) == (1, [1])
    fault(
        f"{broken} connection breaks while the result is being saved",
        f"worked on {times(begun)}, saved {times(len(effects(queue)))}",
    )


def test_a_job_that_kills_its_workers_is_buried(queue: Queue, workers: Workers, fault: Fault) -> None:
    enqueue(queue, 1, 3, kill="work")
    enqueue(queue, 2)
    killed = 0
    for _ in range(6):
        process = workers.start(LEASE=1, SLOTS=1)
        wait_for(
            "a death or a burial",
            lambda process=process: process.poll() is not None or one(queue, "SELECT count(*) FROM job_dead"),  # type: ignore[misc]
            LONG,
        )
        if process.poll() is None:
            break
        killed += 1
    empty(queue)
    attempts, error = queue.execute("SELECT attempts, error FROM job_dead").fetchone() or (0, "")
    assert (killed, attempts, effects(queue)) == (3, 3, [2])
    fault(
        "a job with 3 attempts kills every worker that takes it",
        f"{killed} workers died, then a dead letter with {attempts} attempts: {error}; the other job was done",
    )


def test_failures_wait_longer_each_time_and_apart(queue: Queue, workers: Workers, fault: Fault) -> None:
    for n in range(50):
        enqueue(queue, n, fail=1)
    workers.start(BACKOFF=1000, MAX_BACKOFF=3000, SLOTS=50)
    seconds = "extract(epoch FROM run_at - now())"
    bounds = []
    for attempt in (1, 2, 3):
        failed = "SELECT count(*) FROM job WHERE lease IS NULL AND attempts = %s"
        wait_for("50 failures", lambda: one(queue, failed, attempt) == 50, LONG)  # noqa: B023
        delays = sorted(float(row[0]) for row in queue.execute(f"SELECT {seconds} FROM job").fetchall())  # type: ignore[arg-type]
        top = min(3000, 1000 * 2 ** (attempt - 1))
        # The time since the failure is gone from each; a minute of it would still fit.
        assert top / 2 - LONG < delays[0] < 0.6 * top, delays
        assert 0.9 * top - LONG < delays[-1] <= top, delays
        assert len({round(delay) for delay in delays}) > 10
        bounds.append(f"{top // 2} to {top}")
        queue.execute("UPDATE job SET run_at = now(), payload = payload || '{\"fail\": 9}'")
    fault(
        "50 jobs fail in the same moment, three times over, with BACKOFF=1000 and MAX_BACKOFF=3000",
        f"retried after {', '.join(bounds)} s",
    )


def test_the_last_failure_is_buried_and_can_be_put_back(queue: Queue, workers: Workers, fault: Fault) -> None:
    job = enqueue(queue, 1, 3, fail=3)
    workers.start()
    empty(queue)
    attempts, error, n = queue.execute("SELECT attempts, error, payload->'n' FROM job_dead").fetchone() or ("", "", 0)
    assert (attempts, n, effects(queue)) == (3, 1, [])
    queue.execute("UPDATE job_dead SET payload = payload - 'fail'")
    back = [one(queue, "SELECT job_requeue(%s)", job) for _ in range(2)]
    empty(queue)
    wait_for("the effect", lambda: effects(queue) == [1], LONG)
    assert back == [True, False]
    assert one(queue, "SELECT count(*) FROM job_dead") == 0
    fault("a job fails 3 times of 3", f"dead letter after {attempts} attempts ({error}); put back, it is done")


def test_a_hopeless_job_is_buried_at_once(queue: Queue, workers: Workers, fault: Fault) -> None:
    enqueue(queue, 1, hopeless=True)
    workers.start()
    empty(queue)
    attempts, error = queue.execute("SELECT attempts, error FROM job_dead").fetchone() or (0, "")
    assert attempts == len(workers.notes("began", 1)) == 1
    fault("a job raises Hopeless", f"dead letter after {attempts} attempt ({error})")


def test_an_error_that_cannot_be_stored_is_buried_too(queue: Queue, workers: Workers, fault: Fault) -> None:
    enqueue(queue, 1, 1, garbage=True)
    process = workers.start()
    empty(queue)
    error = one(queue, "SELECT error FROM job_dead")
    assert process.poll() is None
    fault(
        "a job fails with a NUL and half of a surrogate pair in the message of its error",
        f"dead letter after its attempt ({error})",
    )


def test_a_refused_result_is_a_failure(queue: Queue, workers: Workers, fault: Fault) -> None:
    enqueue(queue, 1, 2, refuse=True)
    workers.start()
    empty(queue)
    attempts, error = queue.execute("SELECT attempts, error FROM job_dead").fetchone() or (0, "")
    assert (attempts, effects(queue)) == (2, [])
    fault("the database refuses the writes of a job", f"rolled back, dead letter after {attempts} attempts: {error}")


def test_an_attempt_has_a_time_limit(queue: Queue, workers: Workers, fault: Fault) -> None:
    enqueue(queue, 1, 2, gate="never")
    workers.start(TIMEOUT=0.3)
    empty(queue)
    stopped, error = len(workers.notes("stopped", 1)), one(queue, "SELECT error FROM job_dead")
    assert stopped == 2
    fault(
        "a job with 2 attempts never answers",
        f"stopped {times(stopped)} at the time limit, then a dead letter ({error})",
    )


def test_sigterm_finishes_what_is_at_work(queue: Queue, workers: Workers, fault: Fault) -> None:
    for n in range(3):
        enqueue(queue, n, gate="go")
    process = workers.start(SLOTS=2, DRAIN=LONG)
    wait_for("two jobs at work", lambda: len(workers.notes("began")) == 2, LONG)
    process.terminate()
    enqueue(queue, 3)
    wait_for("the worker to stop", lambda: "stopping with 2 jobs" in workers.log, LONG)
    workers.open("go")
    code = ended(process)
    left = one(queue, "SELECT count(*) FROM job WHERE attempts = 0 AND lease IS NULL")
    assert (code, len(effects(queue)), left) == (0, 2, 2)
    fault("SIGTERM with 2 jobs at work and 2 waiting", f"exit {code}, {len(effects(queue))} finished, {left} untouched")


def test_sigterm_gives_back_what_takes_too_long(queue: Queue, workers: Workers, fault: Fault) -> None:
    enqueue(queue, 1, gate="go")
    first = workers.start(DRAIN=0.2)
    workers.began(1)
    first.terminate()
    code = ended(first)
    attempts = one(queue, "SELECT attempts FROM job WHERE lease IS NULL AND run_at <= now()")
    workers.open("go")
    workers.start()
    empty(queue)
    assert (code, attempts, effects(queue)) == (0, 0, [1])
    fault(
        "SIGTERM with a job that outlasts DRAIN, under a lease of an hour",
        f"exit {code}, given back with {attempts} attempts counted, saved {times(len(effects(queue)))} by the next",
    )


@pytest.mark.parametrize(("how", "name"), [(signal.SIGINT, "restart"), (signal.SIGKILL, "kill -9")])
def test_workers_outlive_the_database(
    postgres: Postgres, queue: Queue, workers: Workers, database: str, fault: Fault, how: signal.Signals, name: str
) -> None:
    for n in range(3):
        enqueue(queue, n, gate="go")
    process = workers.start()
    wait_for("three jobs at work", lambda: len(workers.notes("began")) == 3, LONG)
    postgres.stop(how)
    workers.open("go")
    wait_for("three results", lambda: len(workers.notes("done")) == 3, LONG)
    if how == signal.SIGKILL:  # and stay away until the worker has noticed
        wait_for("a claim that fails", lambda: "claim: " in workers.log or process.poll() is not None, LONG)
    postgres.start()
    with psycopg.connect(database, autocommit=True) as again:
        enqueue(again, 3)
        empty(again)
        saved, begun = effects(again), len(workers.notes("began"))
    assert (saved, begun, process.poll()) == ([0, 1, 2, 3], 4, None)
    fault(
        f"{name} of PostgreSQL with 3 jobs at work, which finish while it is away",
        f"same worker process, {len(saved) - 1} results saved, none worked on again, and a new job done",
    )


def test_a_worker_that_is_cut_off_stops_before_others_begin(
    postgres: Postgres, queue: Queue, workers: Workers, database: str, fault: Fault
) -> None:
    proxy = Proxy(postgres.port)
    enqueue(queue, 1, gate="second")
    first = workers.start(database.replace(str(postgres.port), str(proxy.port)), LEASE=3)
    workers.began(1)
    second = workers.start()
    proxy.silent = True
    workers.began(1, 2)
    wait_for("the first to stop", lambda: workers.notes("stopped", 1), LONG)
    stopped, begun = float(workers.notes("stopped", 1)[0][3]), float(workers.notes("began", 1)[1][3])
    workers.open("second")
    empty(queue)
    done = [int(note[2]) for note in workers.notes("done", 1)]
    assert (done, effects(queue)) == ([second.pid], [1])
    assert first.poll() is None
    assert stopped < begun + 5  # it is due before: a busy machine may run the second first
    fault(
        "the network between a worker and PostgreSQL goes silent in the middle of a job",
        f"its work was stopped at the end of the lease, another worker did it, saved {times(len(effects(queue)))}",
    )


def test_a_job_of_a_transaction_that_rolls_back_does_not_exist(
    queue: Queue, workers: Workers, database: str, fault: Fault
) -> None:
    with psycopg.connect(database) as business:
        enqueue(business, 1)
        business.rollback()
        enqueue(business, 2)
    workers.start()
    wait_for("the second", lambda: effects(queue) == [2], LONG)
    begun = len(workers.notes("began", 1))
    assert begun == 0
    fault("the business transaction rolls back", f"its job began {times(begun)}; that of the next one was done")
