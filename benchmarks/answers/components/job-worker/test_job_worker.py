"""The ticket's promises: an executor that fails and hangs, workers that die and freeze, a database that goes away."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psycopg
import pytest
from psycopg.rows import namedtuple_row

from benchmarks.answers.components.conftest import Component
from benchmarks.answers.components.wire import Wire, gone
from recipes.engines import Postgres, wait_for

Start = Callable[..., Component]
Jobs = psycopg.Connection[Any]

# The trigger notes what the ticket excludes; it changes nothing.
TABLE = """
CREATE TABLE jobs (
  id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  kind         text        NOT NULL,
  payload      jsonb       NOT NULL DEFAULT '{}',
  run_at       timestamptz NOT NULL DEFAULT now(),
  state        text        NOT NULL DEFAULT 'queued'
               CHECK (state IN ('queued', 'running', 'done', 'failed')),
  attempts     integer     NOT NULL DEFAULT 0,
  max_attempts integer     NOT NULL DEFAULT 5,
  last_error   text,
  created_at   timestamptz NOT NULL DEFAULT now(),
  finished_at  timestamptz
);
CREATE SCHEMA audit;
CREATE TABLE audit.wrong (what text, before jsonb, after jsonb);
CREATE FUNCTION audit.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO audit.wrong SELECT what, to_jsonb(OLD), to_jsonb(NEW) FROM (VALUES
    ('deleted', TG_OP = 'DELETE'),
    ('changed after its end', OLD.state IN ('done', 'failed') AND
      (OLD.state, OLD.attempts, OLD.last_error, OLD.finished_at, OLD.run_at)
      IS DISTINCT FROM (NEW.state, NEW.attempts, NEW.last_error, NEW.finished_at, NEW.run_at)),
    ('fewer attempts than before', NEW.attempts < OLD.attempts),
    ('too many attempts', NEW.attempts > NEW.max_attempts),
    ('what others wrote was changed', (OLD.id, OLD.kind, OLD.payload, OLD.max_attempts, OLD.created_at)
      IS DISTINCT FROM (NEW.id, NEW.kind, NEW.payload, NEW.max_attempts, NEW.created_at))
  ) AS v (what, so) WHERE so;
  RETURN NULL;
END $$;
CREATE TRIGGER note AFTER UPDATE OR DELETE ON jobs FOR EACH ROW EXECUTE FUNCTION audit.note();
GRANT ALL ON SCHEMA audit TO PUBLIC;
GRANT ALL ON audit.wrong TO PUBLIC;
"""
CONCURRENCY, PICKUP, TIMEOUT, RETRY, MAX_RETRY, TAKEOVER, RECOVER, DRAIN = 4, 1, 2, 0.5, 2, 5, 5, 5
SETTINGS = {
    "CONCURRENCY": CONCURRENCY, "PICKUP_SECONDS": PICKUP, "TIMEOUT_SECONDS": TIMEOUT, "RETRY_SECONDS": RETRY,
    "MAX_RETRY_SECONDS": MAX_RETRY, "TAKEOVER_SECONDS": TAKEOVER, "RECOVER_SECONDS": RECOVER, "DRAIN_SECONDS": DRAIN,
}  # fmt: skip
BEGIN = 5  # seconds in which a copy works after its start
BUSY = 5  # seconds on top of every limit: the machine may be busy
HELD = 40  # seconds after which what is held goes on, so that a failed test ends


@dataclass
class Attempt:
    """What the executor received, and until when it worked on it."""

    id: int
    body: dict[str, Any]
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None  # answered, or the connection was closed
    closed: float | None = None  # the connection was closed before the answer

    @property
    def number(self) -> int:
        return int(self.body["attempt"])

    def at_work(self, limit: float) -> bool:
        return self.ended is None and time.monotonic() < self.began + limit


class Executor:
    """Does what a job's payload says, one word for each attempt; the last word holds for all further ones."""

    def __init__(self) -> None:
        self.seen, self.wrong = list[Attempt](), list[str]()
        self.timeout: float = TIMEOUT  # after which it stops by itself
        self.gate, self.lock, self.most = threading.Event(), threading.Lock(), 0
        executor = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = self.headers.get("Content-Length")
                body = self.rfile.read(int(length)) if length else self.chunks()
                executor.attempt(self, body)

            def chunks(self) -> bytes:
                body = b""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def do_GET(self) -> None:
                executor.wrong.append(f"GET {self.path}")
                self.send_error(404)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 512

            def handle_error(self, *_: object) -> None:
                pass  # workers that go away are what is tested

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def attempt(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        told = json.loads(body)
        if handler.path != "/jobs" or set(told) != {"id", "kind", "payload", "attempt"}:
            self.wrong.append(f"{handler.path} {body[:200]!r}")
        attempt = Attempt(told["id"], told)
        with self.lock:
            others = [each for each in self.seen if each.id == attempt.id and each.at_work(self.timeout - 0.2)]
            self.seen.append(attempt)
            self.most = max(self.most, sum(each.at_work(self.timeout) for each in self.seen))
        if others:
            time.sleep(0.2)  # perhaps a connection that was closed just now
            if any(each.at_work(self.timeout - 0.4) for each in others):
                self.wrong.append(f"job {attempt.id} came while it was at work")
        do = told["payload"].get("do", ["ok"]) if isinstance(told["payload"], dict) else ["ok"]
        self.do(handler, attempt, do[min(attempt.number, len(do)) - 1])

    def do(self, handler: BaseHTTPRequestHandler, attempt: Attempt, what: Any) -> None:
        if what == "gate":
            self.wait(handler, attempt, self.gate.is_set)
        elif what == "hang":
            self.wait(handler, attempt, lambda: False)
        elif what == "pause":
            end = time.monotonic() + 0.3
            self.wait(handler, attempt, lambda: time.monotonic() > end)
        elif what == "drip":
            self.heads(handler)
            while not self.gone(handler) and not self.gate.is_set():
                handler.wfile.write(b"x")
                time.sleep(0.2)
        elif what == "silence after the heads":
            self.heads(handler)
            self.wait(handler, attempt, lambda: False)
        if self.gone(handler):
            attempt.ended = attempt.closed = time.monotonic()
            handler.close_connection = True
            return
        attempt.ended = time.monotonic()
        if what in ("cut", "cut in the body"):
            if what == "cut in the body":
                self.heads(handler)
                handler.wfile.write(b"x" * 100)
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        self.answer(handler, what)

    def heads(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()

    def answer(self, handler: BaseHTTPRequestHandler, what: Any) -> None:
        status, after, body = 200, None, b"done"
        if isinstance(what, int):
            status, body = what, b"no"
        elif isinstance(what, list):
            status, after = what
        elif what == "nasty":
            status, body = 500, b"\x00\xff\xfe\xed\xa0\x80" * 500_000
        elif what == "nasty and hopeless":
            status, body = 400, b"\x00\xff\xfe\xed\xa0\x80"
        elif what == "no body":
            status, body = 204, b""
        elif what == "html":
            status, body = 201, b"<html>" * 50_000
        handler.send_response(status)
        if after is not None:
            handler.send_header("Retry-After", after)
        if 300 <= status < 400:
            handler.send_header("Location", "/elsewhere")
        if status == 304:
            body = b""
        if status != 204:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def gone(self, handler: BaseHTTPRequestHandler) -> bool:
        """Whether the worker has closed the connection."""
        return gone(handler.connection)

    def wait(self, handler: BaseHTTPRequestHandler, attempt: Attempt, over: Callable[[], bool]) -> None:
        while not over() and not self.gone(handler) and time.monotonic() < attempt.began + HELD:
            time.sleep(0.01)

    def attempts(self, job: int) -> list[Attempt]:
        with self.lock:
            return [each for each in self.seen if each.id == job]

    def began(self, job: int, times: int = 1, seconds: float = PICKUP + BUSY) -> None:
        wait_for(f"attempt {times} of job {job}", lambda: len(self.attempts(job)) >= times, seconds)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    # Processes are killed here, machines are not: without fsync a busy disk holds nothing up.
    server = Postgres(tmp_path_factory.mktemp("jobs"), {"fsync": "off"})
    yield server
    server.stop()


@pytest.fixture
def executor() -> Iterator[Executor]:
    made = Executor()
    yield made
    made.gate.set()
    made.server.shutdown()
    made.server.server_close()
    assert not made.wrong, made.wrong


@pytest.fixture
def jobs(database: str) -> Iterator[Jobs]:
    with psycopg.connect(database) as first:
        first.execute(TABLE)
    connection = psycopg.connect(database, autocommit=True, row_factory=namedtuple_row)
    yield connection
    connection.close()
    with psycopg.connect(database) as last:
        wrong = last.execute("SELECT * FROM audit.wrong").fetchall()
        wrong += last.execute(
            "SELECT * FROM jobs WHERE state IN ('done', 'failed') AND finished_at IS NULL"
            " OR state = 'failed' AND coalesce(last_error, '') = ''"
        ).fetchall()
    assert not wrong, wrong


@pytest.fixture
def worker(start: Start, database: str, executor: Executor, jobs: Jobs) -> Start:
    """worker() starts a copy; other settings by name."""

    def begin(**settings: object) -> Component:
        return start(**{"DATABASE_URL": database, "UPSTREAM_URL": executor.url, **SETTINGS, **settings})

    return begin


def insert(jobs: Jobs, *do: Any, most: int = 5, after: float = 0, **payload: Any) -> int:
    """A job that is due after so many seconds, and what the executor does with its attempts."""
    query = """INSERT INTO jobs (kind, payload, max_attempts, run_at)
        VALUES ('test', %s, %s, now() + make_interval(secs => %s)) RETURNING id"""
    row = jobs.execute(query, [json.dumps({"do": do or ["ok"], **payload}), most, after]).fetchone()
    return int(row.id)


def row(jobs: Jobs, job: int) -> Any:
    return jobs.execute("SELECT * FROM jobs WHERE id = %s", [job]).fetchone()


def ended(jobs: Jobs, state: str, *which: int, seconds: float = PICKUP + BUSY) -> None:
    """Until these jobs are in a final state, which is this one."""
    query = "SELECT count(*) AS n FROM jobs WHERE id = ANY(%s) AND state IN ('done', 'failed')"
    wait_for(
        f"the end of jobs {which[:10]}", lambda: jobs.execute(query, [list(which)]).fetchone().n == len(which), seconds
    )
    for job in which:
        found = row(jobs, job)
        assert (found.state, found.finished_at is not None) == (state, True), found


def at_work(worker: Component, jobs: Jobs) -> None:
    """Until the copy that was started works."""
    ended(jobs, "done", insert(jobs), seconds=BEGIN + PICKUP + BUSY)
    assert worker.running


def test_jobs_are_sent_and_noted_as_the_ticket_says(worker: Start, jobs: Jobs, executor: Executor) -> None:
    at_work(worker(), jobs)
    later = insert(jobs, after=3)
    due = row(jobs, later).run_at.timestamp() - time.time() + time.monotonic()
    payloads = [
        '{"ä€😀": [1, null, true, "\\u0001\\"\\\\"], "n": 12345678901234567890}',
        "[]",
        '"text"',
        "7",
        "null",
        "{}",
    ]
    insertion = "INSERT INTO jobs (kind, payload) VALUES (%s, %s) RETURNING id"
    plain = [jobs.execute(insertion, [f"kind\n'\" ä {n}", each]).fetchone().id for n, each in enumerate(payloads)]
    loud = [insert(jobs, "no body"), insert(jobs, "html", most=1)]
    ended(jobs, "done", *plain, *loud)
    for n, (job, payload) in enumerate(zip(plain, payloads, strict=True)):
        (attempt,) = executor.attempts(job)
        assert attempt.body == {"id": job, "kind": f"kind\n'\" ä {n}", "payload": json.loads(payload), "attempt": 1}
        assert row(jobs, job).attempts == 1
    ended(jobs, "done", later, seconds=3 + PICKUP + BUSY)
    (attempt,) = executor.attempts(later)
    assert due - 0.1 < attempt.began < due + PICKUP + 1 + BUSY


def test_more_copies_work_on_more_jobs_at_once_and_on_each_once(worker: Start, jobs: Jobs, executor: Executor) -> None:
    first = worker()
    at_work(first, jobs)
    alone = [insert(jobs, "pause") for _ in range(20)]
    ended(jobs, "done", *alone, seconds=10 + BUSY)
    assert executor.most == CONCURRENCY
    copies = [first, worker(), worker()]
    at_work(copies[-1], jobs)
    with jobs.transaction():
        many = [insert(jobs, "pause") for _ in range(150)]
    ended(jobs, "done", *many, seconds=12 + 2 * BUSY)
    assert {len(executor.attempts(job)) for job in [*alone, *many]} == {1}
    assert CONCURRENCY < executor.most <= 3 * CONCURRENCY
    assert all(copy.running for copy in copies)


def test_an_answer_decides_between_another_attempt_and_the_end(worker: Start, jobs: Jobs, executor: Executor) -> None:
    at_work(worker(), jobs)
    hopeless = [insert(jobs, status) for status in (400, 401, 404, 409, 410, 422, 451)]
    passing = [insert(jobs, status, "ok") for status in (408, 429, 500, 503, 599, 302, 304)]
    ended(jobs, "failed", *hopeless, seconds=PICKUP + BUSY)
    assert {(row(jobs, job).attempts, len(executor.attempts(job))) for job in hopeless} == {(1, 1)}
    ended(jobs, "done", *passing, seconds=2 * PICKUP + MAX_RETRY + 1 + BUSY)
    assert {(row(jobs, job).attempts, len(executor.attempts(job))) for job in passing} == {(2, 2)}


def test_a_job_that_never_succeeds_ends_after_its_attempts_and_stops_no_other(
    worker: Start, jobs: Jobs, executor: Executor
) -> None:
    at_work(worker(CONCURRENCY=1), jobs)
    bad = insert(jobs, 500, most=4)
    executor.began(bad)
    good = [insert(jobs) for _ in range(5)]
    ended(jobs, "done", *good)
    wait_for("its error", lambda: row(jobs, bad).last_error, BUSY)
    ended(jobs, "failed", bad, seconds=3 * (MAX_RETRY + PICKUP + 1) + BUSY)
    attempts = executor.attempts(bad)
    assert [each.number for each in attempts] == [1, 2, 3, 4]
    assert row(jobs, bad).attempts == 4
    for one, next_one in zip(attempts, attempts[1:]):
        assert one.ended
        assert RETRY - 0.05 <= next_one.began - one.ended <= MAX_RETRY + PICKUP + 1 + BUSY


def test_retry_after_is_kept_and_nonsense_in_it_stops_nothing(worker: Start, jobs: Jobs, executor: Executor) -> None:
    copy = worker()
    at_work(copy, jobs)
    polite = [insert(jobs, [status, "4"], "ok") for status in (429, 503)]
    odd = [insert(jobs, [503, after], "ok") for after in ("soon", "-1", "", "Wed, 21 Oct 2015 07:28:00 GMT")]
    huge = insert(jobs, [429, "9" * 30], "ok")
    ended(jobs, "done", *odd, seconds=2 * PICKUP + MAX_RETRY + 1 + BUSY)
    ended(jobs, "done", *polite, seconds=4 + PICKUP + 1 + BUSY)
    for job in polite:
        one, two = executor.attempts(job)
        assert one.ended
        assert two.began - one.ended >= 4 - 0.05
    wait_for("the end of its attempt", lambda: row(jobs, huge).state != "running", TAKEOVER + BUSY)
    assert len(executor.attempts(huge)) == 1
    at_work(copy, jobs)


def test_an_attempt_that_hangs_drips_or_breaks_off_is_given_up_and_made_again(
    worker: Start, jobs: Jobs, executor: Executor
) -> None:
    executor.timeout = 3
    at_work(worker(TIMEOUT_SECONDS=3), jobs)
    slow = [insert(jobs, what, "ok") for what in ("hang", "drip", "silence after the heads")]
    quick = insert(jobs)
    ended(jobs, "done", quick)
    broken = [insert(jobs, what, "ok") for what in ("cut", "cut in the body")]
    ended(jobs, "done", *slow, *broken, seconds=3 + 2 * PICKUP + MAX_RETRY + 1 + BUSY)
    for job in [*slow, *broken]:
        assert [each.number for each in executor.attempts(job)] == [1, 2]
        assert row(jobs, job).attempts == 2
    for job in slow:
        first = executor.attempts(job)[0]
        assert first.closed, "its connection was left open"
        assert 3 - 0.5 < first.closed - first.began < 3 + 1 + BUSY / 2
        assert executor.attempts(quick)[0].began < first.closed, "there was room for one more"


def test_jobs_of_a_killed_worker_are_tried_again_or_end_as_failed(
    worker: Start, jobs: Jobs, executor: Executor
) -> None:
    first = worker()
    at_work(first, jobs)
    again, last = insert(jobs, "gate", "ok"), insert(jobs, "gate", most=1)
    executor.began(again)
    executor.began(last)
    first.kill()
    second = worker()
    ended(jobs, "done", again, seconds=BEGIN + TAKEOVER + MAX_RETRY + 1 + BUSY)
    ended(jobs, "failed", last, seconds=TAKEOVER + BUSY)
    assert [each.number for each in executor.attempts(again)] == [1, 2]
    assert (row(jobs, again).attempts, row(jobs, last).attempts, len(executor.attempts(last))) == (2, 1, 1)
    assert second.running


def test_a_frozen_worker_is_replaced_and_changes_nothing_when_it_goes_on(
    worker: Start, jobs: Jobs, executor: Executor
) -> None:
    first = worker()
    at_work(first, jobs)
    again, last = insert(jobs, "gate", "ok"), insert(jobs, "gate", most=1)
    hanging = insert(jobs, "hang", "ok")
    for job in (again, last, hanging):
        executor.began(job)
    first.freeze()
    executor.gate.set()  # the answers come while it is frozen
    second = worker()
    ended(jobs, "done", again, hanging, seconds=BEGIN + TAKEOVER + MAX_RETRY + 1 + BUSY)
    ended(jobs, "failed", last, seconds=TAKEOVER + BUSY)
    first.thaw()
    at_work(first, jobs)
    second.kill()
    for _ in range(3):
        at_work(first, jobs)
    assert [row(jobs, job).state for job in (again, hanging, last)] == ["done", "done", "failed"]
    assert {len(executor.attempts(job)) for job in (again, hanging)} == {2}


def test_a_locked_row_and_an_open_transaction_hold_up_no_other_job(worker: Start, jobs: Jobs, database: str) -> None:
    first = worker(CONCURRENCY=1)
    at_work(first, jobs)
    with psycopg.connect(database) as other:
        other.execute("INSERT INTO jobs (kind) VALUES ('not yet')")
        locked = insert(jobs, after=1)
        other.execute("SELECT FROM jobs WHERE id = %s FOR UPDATE", [locked])
        time.sleep(1)  # it is the oldest one now
        second = worker(CONCURRENCY=1)
        jobs.execute("SET statement_timeout = '4s'")
        end = time.monotonic() + BEGIN + 1
        while time.monotonic() < end:
            ended(jobs, "done", *[insert(jobs) for _ in range(3)])
        first.kill()
        at_work(second, jobs)
        other.rollback()
    ended(jobs, "done", locked)


def test_an_error_that_cannot_be_stored_as_it_is_ends_the_attempt_all_the_same(
    worker: Start, jobs: Jobs, executor: Executor
) -> None:
    copy = worker()
    at_work(copy, jobs)
    bad, once, hopeless = insert(jobs, "nasty", "ok"), insert(jobs, "nasty", most=1), insert(jobs, "nasty and hopeless")
    ended(jobs, "failed", once, hopeless, seconds=PICKUP + 1 + BUSY)
    ended(jobs, "done", bad, seconds=2 * PICKUP + MAX_RETRY + 1 + BUSY)
    assert {len(executor.attempts(job)) for job in (once, hopeless)} == {1}
    assert copy.running


def test_workers_outlive_a_crash_of_the_database_and_start_without_it(
    worker: Start, jobs: Jobs, executor: Executor, database: str, postgres: Postgres
) -> None:
    first = worker()
    at_work(first, jobs)
    gated = [insert(jobs, "gate", "ok") for _ in range(3)]
    for job in gated:
        executor.began(job)
    postgres.stop(signal.SIGKILL)
    executor.gate.set()
    second = worker()
    time.sleep(1)
    postgres.start()
    with psycopg.connect(database, autocommit=True, row_factory=namedtuple_row) as again:
        fresh = insert(again)
        ended(again, "done", fresh, seconds=RECOVER + PICKUP + BUSY)
        ended(again, "done", *gated, seconds=TAKEOVER + MAX_RETRY + BUSY)
        assert first.running
        first.kill()
        at_work(second, again)


def test_a_worker_whose_database_goes_silent_stops_before_another_begins_and_works_again(
    worker: Start, jobs: Jobs, executor: Executor, database: str
) -> None:
    line = Wire(database)
    try:
        first = worker(DATABASE_URL=line.url)
        at_work(first, jobs)
        hanging, gated = insert(jobs, "hang", "ok"), insert(jobs, "gate", 400)
        executor.began(hanging)
        executor.began(gated)
        second = worker()
        line.hold()
        executor.gate.set()  # the first one hears that it is done, and cannot say so
        ended(jobs, "done", hanging, seconds=BEGIN + TAKEOVER + MAX_RETRY + 1 + BUSY)
        ended(jobs, "failed", gated, seconds=TAKEOVER + MAX_RETRY + 1 + BUSY)
        line.requests.release()  # what it said arrives late
        line.answers.release()
        second.kill()
        ended(jobs, "done", insert(jobs), seconds=RECOVER + TIMEOUT + PICKUP + 1 + BUSY)
        assert row(jobs, gated).state == "failed"
        line.hold()
        wait_for("a look for jobs", line.requests.held.is_set, PICKUP + BUSY)
        line.heal()  # this line stays silent, new ones work
        ended(jobs, "done", insert(jobs), seconds=RECOVER + TIMEOUT + PICKUP + 1 + BUSY)
        assert first.running
    finally:
        line.stop()


def test_sigterm_lets_jobs_end_and_takes_no_more(worker: Start, jobs: Jobs, executor: Executor) -> None:
    first = worker(TIMEOUT_SECONDS=4, TAKEOVER_SECONDS=30)
    at_work(first, jobs)
    gated = [insert(jobs, "gate") for _ in range(CONCURRENCY)]
    for job in gated:
        executor.began(job)
    waiting = [insert(jobs) for _ in range(3)]
    first.term()
    time.sleep(0.5)  # so that it has heard it
    executor.gate.set()
    assert first.ended(DRAIN + 1 + BUSY) == 0
    assert [row(jobs, job).state for job in gated] == ["done"] * CONCURRENCY
    assert [(row(jobs, job).state, row(jobs, job).attempts) for job in waiting] == [("queued", 0)] * 3
    worker()
    ended(jobs, "done", *waiting, seconds=BEGIN + PICKUP + BUSY)
    assert {len(executor.attempts(job)) for job in [*gated, *waiting]} == {1}


def test_sigterm_treats_what_outlasts_the_drain_as_a_failed_attempt(
    worker: Start, jobs: Jobs, executor: Executor
) -> None:
    executor.timeout = 20
    first = worker(TIMEOUT_SECONDS=20, TAKEOVER_SECONDS=60, DRAIN_SECONDS=2)
    at_work(first, jobs)
    again, last = insert(jobs, "hang", "ok"), insert(jobs, "hang", most=1)
    executor.began(again)
    executor.began(last)
    first.term()
    assert first.ended(2 + 1 + BUSY) == 0
    left = row(jobs, again)
    assert (left.state, left.attempts, bool(left.last_error)) == ("queued", 1, True)
    ended(jobs, "failed", last, seconds=1)
    worker()
    ended(jobs, "done", again, seconds=BEGIN + MAX_RETRY + PICKUP + BUSY)
    assert [each.number for each in executor.attempts(again)] == [1, 2]
    assert len(executor.attempts(last)) == 1
