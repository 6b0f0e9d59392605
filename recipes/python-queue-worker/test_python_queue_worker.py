"""Real workers on a real Valkey and PostgreSQL: killed, paused, cut off, told to stop, fed with poison."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from recipes.engines import Postgres, Valkey, wait_for

WORKER = Path(__file__).parent / "worker.py"
STREAM, DEAD, GROUP = "{jobs}", "{jobs}:dead", "workers"
LOCK = 7  # the work takes this advisory lock shared: whoever holds it exclusively holds up all workers
FOREVER = 3600  # a lease that no test outlives

WORK = f"""
CREATE SEQUENCE attempts;
CREATE TABLE done (job text PRIMARY KEY);
CREATE TABLE effect (n int);
CREATE TABLE switch (failures_left int NOT NULL);
INSERT INTO switch VALUES (0);
CREATE SEQUENCE failures;
CREATE FUNCTION apply_job(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM nextval('attempts');  -- counts also what is rolled back
    PERFORM pg_advisory_xact_lock_shared({LOCK});
    IF payload ? 'fail' AND nextval('failures') <= (payload->>'fail')::int THEN
        RAISE EXCEPTION 'not today';
    END IF;
    INSERT INTO effect VALUES ((payload->>'n')::int);
END $$;
"""

Fault = Callable[[str, str], None]
Work = psycopg.Connection[Any]
Queue = Any  # redis.Redis, whose types say that any answer may be None
Start = Callable[..., "subprocess.Popen[bytes]"]


class Proxy:
    """Stands between a client and Valkey, and loses what it is told to lose."""

    def __init__(self, port: int) -> None:
        self.target, self.listener = port, socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.drop_requests = False  # swallow what clients send
        self.cut_answer_to: bytes | None = None  # pass the command that contains this on, then cut instead of answering
        self.cut = threading.Event()
        threading.Thread(target=self.accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
                threading.Thread(target=self.requests, args=(client, server), daemon=True).start()
                threading.Thread(target=self.answers, args=(client, server), daemon=True).start()

    def requests(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                if self.drop_requests:
                    continue
                if self.cut_answer_to and self.cut_answer_to in data:
                    self.cut_answer_to = None
                    self.cutting = server
                server.sendall(data)
        close(server)

    def answers(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                if getattr(self, "cutting", None) is server:
                    self.cut.set()
                    break
                client.sendall(data)
        close(client)
        close(server)


def close(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """Without fsync: what a killed process wrote is with the kernel, and only a power cut would lose it."""
    server = Postgres(tmp_path_factory.mktemp("postgres"), {"fsync": "off"})
    yield server
    server.stop()


@pytest.fixture
def work(database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(WORK)
        yield connection


@pytest.fixture
def queue(valkey: Valkey) -> Queue:
    return redis.Redis.from_url(valkey.url, decode_responses=True)


@pytest.fixture
def start(valkey: Valkey, database: str, work: Work, tmp_path: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def start(url: str = valkey.url, **settings: float) -> subprocess.Popen[bytes]:
        chosen = {name: str(value) for name, value in {"LEASE": 1, "BACKOFF": 0.05, **settings}.items()}
        places = {"VALKEY_URL": url, "DATABASE_URL": database, "ALIVE": str(tmp_path / "alive")}
        with open(tmp_path / "worker.log", "ab") as log:
            started.append(
                subprocess.Popen([sys.executable, WORKER], env={**os.environ, **places, **chosen}, stderr=log)
            )
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.wait(timeout=30)


@contextmanager
def held(work: Work) -> Iterator[None]:
    """Inside, handlers begin and do not end."""
    work.execute("SELECT pg_advisory_lock(%s)", [LOCK])
    yield
    work.execute("SELECT pg_advisory_unlock(%s)", [LOCK])


def number(work: Work, query: str) -> int:
    row = work.execute(query.encode()).fetchone()
    return int(row[0]) if row else 0


def attempts(work: Work) -> int:
    return number(work, "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM attempts")


def effects(work: Work) -> int:
    return number(work, "SELECT count(*) FROM effect")


def in_hand(work: Work) -> int:
    """How many handlers are held up."""
    return number(work, f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = {LOCK}")


def add(queue: Queue, job: object, **payload: object) -> str:
    return str(queue.xadd(STREAM, {"job": str(job), "payload": json.dumps({"n": 1, **payload})}))


def pending(queue: Queue) -> list[Any]:
    return list(queue.xpending_range(STREAM, GROUP, "-", "+", 100))


def settled(queue: Queue) -> bool:
    """Whether nothing is left, neither new nor delivered."""
    return queue.xlen(STREAM) == 0 and not pending(queue)


def dead(queue: Queue) -> list[dict[str, str]]:
    return [fields for _, fields in queue.xrange(DEAD)]


def test_the_same_job_sent_twice_takes_effect_once(start: Start, queue: Queue, work: Work, fault: Fault) -> None:
    for _ in range(2):
        for job in range(20):
            add(queue, job)
    for _ in range(2):
        start()
    wait_for("all jobs", lambda: effects(work) == 20 and settled(queue))
    fault(
        "20 jobs sent twice, two workers", f"{effects(work)} effects, {queue.xlen(STREAM)} entries left in the stream"
    )


def test_a_killed_workers_message_is_taken_over(start: Start, queue: Queue, work: Work, fault: Fault) -> None:
    with held(work):
        first = start()
        add(queue, 1)
        wait_for("the message in hand", lambda: in_hand(work) == 1)
        first.kill()
        start()
        wait_for("the takeover", lambda: [each["times_delivered"] for each in pending(queue)] == [2])
    wait_for("the job", lambda: settled(queue))
    assert effects(work) == 1
    fault("kill -9 in the middle of the handler", f"taken over after LEASE, {effects(work)} effect")


def test_a_kill_between_commit_and_acknowledgement_changes_nothing(
    start: Start, queue: Queue, work: Work, valkey: Valkey, fault: Fault
) -> None:
    proxy = Proxy(valkey.port)
    with held(work):
        first = start(proxy.url)
        add(queue, 1)
        wait_for("the message in hand", lambda: in_hand(work) == 1)
        proxy.drop_requests = True  # the acknowledgement will never arrive
    wait_for("the commit", lambda: effects(work) == 1)
    first.kill()
    assert len(pending(queue)) == 1
    start()
    wait_for("the acknowledgement", lambda: settled(queue))
    assert effects(work) == 1
    fault(
        "kill -9 after the commit, before the acknowledgement",
        f"delivered again and acknowledged, {effects(work)} effect",
    )


def test_a_long_handler_keeps_its_message(start: Start, queue: Queue, work: Work, fault: Fault) -> None:
    with held(work):
        start(LEASE=3)
        add(queue, 1)
        wait_for("the message in hand", lambda: in_hand(work) == 1)
        start(LEASE=3)
        wait_for("the other worker", lambda: len(queue.xinfo_consumers(STREAM, GROUP)) == 2)
        owner = pending(queue)[0]["consumer"]
        end = time.monotonic() + 7.5  # two and a half leases
        while time.monotonic() < end:
            (entry,) = pending(queue)
            assert entry["consumer"] == owner and entry["times_delivered"] == 1
            time.sleep(0.1)
    wait_for("the job", lambda: settled(queue))
    assert (effects(work), attempts(work)) == (1, 1)
    fault(
        "a handler that takes two and a half leases, another worker idle",
        f"{attempts(work)} attempt, {effects(work)} effect",
    )


def test_a_worker_paused_past_its_lease_stops_when_it_wakes(
    start: Start, queue: Queue, work: Work, fault: Fault
) -> None:
    with held(work):
        first = start(HANDLE_TIMEOUT=FOREVER, LEASE=2)
        add(queue, 1)
        wait_for("the message in hand", lambda: in_hand(work) == 1)
        owner = pending(queue)[0]["consumer"]
        first.send_signal(signal.SIGSTOP)
        start(HANDLE_TIMEOUT=FOREVER, LEASE=2)
        wait_for("the takeover", lambda: pending(queue)[0]["consumer"] != owner)
        waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted"
        wait_for("the second waiting for the first", lambda: number(work, waits) == 1)
        first.send_signal(signal.SIGCONT)
        wait_for("the first giving way", lambda: number(work, waits) == 0 and in_hand(work) == 1)
        assert pending(queue)[0]["consumer"] != owner
    wait_for("the job", lambda: settled(queue))
    assert (effects(work), attempts(work)) == (1, 2)
    fault(
        "SIGSTOP past the lease, then SIGCONT, with another worker there",
        f"the other takes over, the first rolls back when it wakes; {attempts(work)} attempts, {effects(work)} effect",
    )


def test_a_failure_is_tried_again_later(start: Start, queue: Queue, work: Work, fault: Fault) -> None:
    add(queue, 1, fail=2)
    add(queue, 2)
    start(LEASE=FOREVER)  # so that what brings it back is the backoff
    wait_for("both jobs", lambda: settled(queue))
    assert (effects(work), attempts(work)) == (2, 4) and not dead(queue)
    fault(
        "a job fails twice, then works",
        f"{attempts(work) - 1} attempts, {effects(work) - 1} effect; LEASE was {FOREVER} s",
    )


def test_what_never_works_ends_in_the_dead_letters(start: Start, queue: Queue, work: Work, fault: Fault) -> None:
    add(queue, 1, fail=1000)
    add(queue, 2)
    start(MAX_DELIVERIES=4, LEASE=FOREVER)
    wait_for("the dead letter", lambda: settled(queue))
    (letter,) = dead(queue)
    assert letter["job"] == "1" and "not today" in letter["error"] and letter["deliveries"] == "4"
    assert effects(work) == 1 and attempts(work) == 5
    fault(
        "a job fails every time, MAX_DELIVERIES is 4",
        f"{attempts(work) - 1} attempts, then a dead letter with the error; the job behind it is done",
    )


def test_a_message_that_kills_its_workers_ends_in_the_dead_letters(
    start: Start, queue: Queue, work: Work, fault: Fault
) -> None:
    add(queue, 1)
    with held(work):
        for number_of_attempt in (1, 2, 3):
            worker = start(MAX_DELIVERIES=3)
            wait_for("the message in hand", partial(lambda wanted: attempts(work) == wanted, number_of_attempt))
            worker.kill()
            worker.wait(timeout=30)
            work.execute(  # what the server does by itself once it notices
                f"SELECT pg_terminate_backend(pid) FROM pg_locks WHERE objid = {LOCK} AND NOT granted".encode()
            )
        start(MAX_DELIVERIES=3)
        wait_for("the dead letter", lambda: settled(queue))
    assert len(dead(queue)) == 1 and attempts(work) == 3 and effects(work) == 0
    fault(
        "a message kills its worker each time, MAX_DELIVERIES is 3",
        f"{attempts(work)} workers die, then {len(dead(queue))} dead letter",
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"job": "1"},
        {"job": "1", "payload": "{"},
        {"job": b"\xff", "payload": "{}"},
        {"job": "1", "payload": '{"n": "\\u0000"}'},
        {"job": "1", "payload": '{"n": "many"}'},
    ],
    ids=["a field is missing", "not JSON", "not UTF-8", "a zero byte for PostgreSQL", "not a number"],
)
def test_a_malformed_message_is_buried_at_once(
    start: Start, queue: Queue, work: Work, valkey: Valkey, fields: dict[str, Any]
) -> None:
    queue.xadd(STREAM, fields)
    add(queue, 2)
    start(LEASE=FOREVER)
    wait_for("the dead letter", lambda: settled(queue))
    bare: Queue = redis.Redis.from_url(valkey.url)
    raw = bare.xrange(DEAD)
    assert len(raw) == 1 and raw[0][1][b"deliveries"] == b"1" and effects(work) == 1


def test_a_malformed_message_keeps_its_bytes(
    start: Start, queue: Queue, work: Work, valkey: Valkey, fault: Fault
) -> None:
    sent = {b"job": b"\xff\x00", b"payload": b"{"}
    queue.xadd(STREAM, sent)
    start()
    wait_for("the dead letter", lambda: settled(queue))
    bare: Queue = redis.Redis.from_url(valkey.url)
    ((_, letter),) = bare.xrange(DEAD)
    kept = {name: letter[name] for name in sent}
    assert kept == sent
    fault(
        "poison: a field missing, no JSON, no UTF-8, a zero byte, a word for a number",
        f"dead letter after {letter[b'deliveries'].decode()} delivery, bytes as sent; the message behind it is done",
    )


def test_sigterm_finishes_the_message_in_hand_and_takes_no_other(
    start: Start, queue: Queue, work: Work, fault: Fault
) -> None:
    with held(work):
        worker = start(DRAIN=60)
        add(queue, 1)
        wait_for("the message in hand", lambda: in_hand(work) == 1)
        worker.terminate()
        add(queue, 2)
        time.sleep(0.5)
        assert worker.poll() is None
    code = worker.wait(timeout=30)
    assert code == 0 and effects(work) == 1 and not pending(queue) and queue.xlen(STREAM) == 1
    assert queue.xinfo_consumers(STREAM, GROUP) == []
    fault(
        "SIGTERM with a message in hand and one waiting",
        f"{effects(work)} effect, acknowledged, {queue.xlen(STREAM)} untouched, consumer removed, status {code}",
    )


def test_sigterm_gives_back_what_does_not_end_in_time(start: Start, queue: Queue, work: Work, fault: Fault) -> None:
    with held(work):
        worker = start(DRAIN=1, LEASE=FOREVER)
        add(queue, 1)
        wait_for("the message in hand", lambda: in_hand(work) == 1)
        worker.terminate()
        code = worker.wait(timeout=30)
        (entry,) = pending(queue)
        counted = entry["times_delivered"]
        assert code == 0 and counted == 0 and in_hand(work) == 0 and effects(work) == 0
    start(LEASE=FOREVER)
    wait_for("the job", lambda: settled(queue))
    assert effects(work) == 1
    fault(
        "SIGTERM, and the message in hand does not end within DRAIN",
        f"rolled back and given back with {counted} attempts counted, status {code}; the next worker takes it at once "
        f"though LEASE is {FOREVER} s, {effects(work)} effect",
    )


def test_the_handlers_time_is_limited(start: Start, queue: Queue, work: Work, fault: Fault) -> None:
    with held(work):
        start(HANDLE_TIMEOUT=0.5, MAX_DELIVERIES=2, LEASE=FOREVER)
        add(queue, 1)
        wait_for("the dead letter", lambda: len(dead(queue)) == 1)
    assert attempts(work) == 2 and effects(work) == 0 and "TimeoutError" in dead(queue)[0]["error"]
    fault(
        "a handler never ends, MAX_DELIVERIES is 2", f"{attempts(work)} attempts of HANDLE_TIMEOUT, then a dead letter"
    )


@pytest.mark.parametrize("kept", [True, False])
def test_it_goes_on_after_a_crash_of_valkey(start: Start, work: Work, tmp_path: Path, fault: Fault, kept: bool) -> None:
    (tmp_path / "own").mkdir()
    options = ["--appendonly", "yes", "--appendfsync", "always"] if kept else []
    server = Valkey(tmp_path / "own", *options)
    with ExitStack() as stack:
        stack.callback(server.stop)
        queue: Queue = redis.Redis.from_url(server.url, decode_responses=True)
        with held(work):
            worker = start(server.url)
            add(queue, 1)
            add(queue, 2)
            wait_for("the message in hand", lambda: in_hand(work) == 1)
            server.stop(signal.SIGKILL)
        wait_for("the first effect", lambda: effects(work) == 1)
        server.start()
        if not kept:
            add(queue, 3)
        wait_for("the second job", lambda: effects(work) == 2)
        wait_for("an empty stream", lambda: settled(queue))
        assert worker.poll() is None and effects(work) == 2
    if kept:
        fault(
            "kill -9 of Valkey with a message in hand, AOF fsync always",
            f"{effects(work)} jobs, {effects(work)} effects",
        )
    else:
        fault("Valkey comes back empty", "the worker makes the group again and does what is sent from then on")


@pytest.mark.slow
def test_sigterm_ends_it_while_valkey_does_not_answer(start: Start, queue: Queue, valkey: Valkey, fault: Fault) -> None:
    worker = start()
    wait_for("the worker", lambda: queue.exists(STREAM) and queue.xinfo_consumers(STREAM, GROUP))
    valkey.process.send_signal(signal.SIGSTOP)
    try:
        worker.terminate()
        began = time.monotonic()
        code = worker.wait(timeout=60)
        took = time.monotonic() - began
    finally:
        valkey.process.send_signal(signal.SIGCONT)
    assert code == 0 and took < 25
    fault("Valkey freezes, then SIGTERM", f"ends by itself with status {code}, no SIGKILL")


def test_a_message_whose_delivery_was_lost_is_found_again(
    start: Start, queue: Queue, work: Work, valkey: Valkey, fault: Fault
) -> None:
    proxy = Proxy(valkey.port)
    start(proxy.url)
    wait_for("the worker", lambda: queue.exists(STREAM) and queue.xinfo_consumers(STREAM, GROUP))
    proxy.cut_answer_to = b"XREADGROUP"
    wait_for("the armed proxy", lambda: proxy.cut_answer_to is None)  # a read waits behind the proxy now
    add(queue, 1)
    wait_for("the cut", proxy.cut.is_set)
    wait_for("the job", lambda: settled(queue))
    assert effects(work) == 1
    fault(
        "the answer that carries the message is lost",
        f"pending under its own name, found after LEASE, {effects(work)} effect",
    )


@pytest.mark.slow
def test_an_outage_of_the_database_costs_no_attempt(
    start: Start, queue: Queue, database: str, postgres: Postgres, fault: Fault
) -> None:
    start(LEASE=FOREVER, MAX_DELIVERIES=1)
    add(queue, 1)
    wait_for("the first job", lambda: settled(queue))
    postgres.stop(signal.SIGKILL)
    away = time.monotonic()
    try:
        add(queue, 2)
        wait_for("a delivery", lambda: len(pending(queue)) == 1)
        while time.monotonic() < away + 36:  # each attempt waits 5 s for a connection
            (entry,) = pending(queue)
            assert entry["times_delivered"] <= 1
            time.sleep(0.1)
    finally:
        postgres.start()
    back = time.monotonic()
    wait_for("the job", lambda: settled(queue))
    took = time.monotonic() - back
    with psycopg.connect(database) as again:
        assert effects(again) == 2 and not dead(queue) and took < 15
    fault(
        "the database is away for 36 s, MAX_DELIVERIES is 1",
        "no attempt counted, the job is done within 15 s of its return",
    )


def test_it_shows_that_it_is_alive(start: Start, work: Work, valkey: Valkey, tmp_path: Path, fault: Fault) -> None:
    queue: Queue = redis.Redis.from_url(valkey.url)
    alive = tmp_path / "alive"

    def touched_again() -> None:
        before = alive.stat().st_mtime_ns
        wait_for("a sign of life", lambda: alive.stat().st_mtime_ns > before)

    start()
    wait_for("the first sign", alive.exists)
    touched_again()
    with held(work):
        add(queue, 1)
        wait_for("the message in hand", lambda: in_hand(work) == 1)
        touched_again()
        touched_again()
    wait_for("the job", lambda: settled(queue))
    valkey.stop(signal.SIGKILL)
    touched_again()
    touched_again()
    fault("idle, in a long handler, Valkey away", "the file ALIVE is touched in all three")


def test_a_stale_message_behind_many_fresh_ones_is_found(start: Start, queue: Queue, work: Work, fault: Fault) -> None:
    queue.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    last = [add(queue, job) for job in range(50)][-1]
    queue.xreadgroup(GROUP, "somebody", {STREAM: ">"})
    queue.xclaim(STREAM, GROUP, "somebody", 0, [last], idle=2 * FOREVER * 1000)
    start(LEASE=FOREVER)
    wait_for("the job", lambda: effects(work) == 1)
    wait_for("the acknowledgement", lambda: len(pending(queue)) == 49)
    fault(
        "a stale message behind 49 pending ones that are not", f"found, {effects(work)} effect, the others left alone"
    )


@pytest.mark.parametrize("how", ["Redis(host=...)", "Redis.from_url(...)"])
def test_what_the_client_does_by_itself(queue: Queue, valkey: Valkey, fault: Fault, how: str) -> None:
    proxy = Proxy(valkey.port)
    client = redis.Redis.from_url(proxy.url) if "url" in how else redis.Redis(host="127.0.0.1", port=proxy.port)
    client.ping()
    proxy.cut_answer_to = b"XADD"
    outcome = "no error"
    try:
        client.xadd(STREAM, {"job": "1"})
    except redis.RedisError as raised:
        outcome = type(raised).__name__
    fault(
        f"the answer to a producer's XADD is lost, client made by {how}",
        f"entries in the stream: {queue.xlen(STREAM)}; the caller sees {outcome}",
    )


@pytest.mark.slow
def test_a_read_that_blocks_for_as_long_as_the_socket_timeout_fails(queue: Queue, valkey: Valkey, fault: Fault) -> None:
    queue.xgroup_create(STREAM, GROUP, mkstream=True)
    client = redis.Redis.from_url(valkey.url)  # socket_timeout 5, as it comes
    with pytest.raises(redis.TimeoutError) as raised:
        client.xreadgroup(GROUP, "somebody", {STREAM: ">"}, block=6000)
    fault("XREADGROUP BLOCK 6000 with redis-py's default socket_timeout of 5 s", type(raised.value).__name__)
