"""The hot path in a real Uvicorn before a real PostgreSQL whose rebuilds the tests hold up, break, freeze and kill."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest

from recipes.engines import Postgres, free_port, listening, wait_for

HOT_PATH = Path(__file__).parent / "hot_path.py"
LOCK = 7  # a rebuild takes this advisory lock shared: whoever holds it exclusively holds up all rebuilds

ORIGIN = f"""
CREATE SEQUENCE rebuilds;
CREATE TABLE source (key int PRIMARY KEY, body jsonb, broken bool NOT NULL DEFAULT false);
INSERT INTO source SELECT n, '"old"' FROM generate_series(1, 100) n;
CREATE FUNCTION report(wanted int) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM nextval('rebuilds');  -- counts also what is rolled back
    PERFORM pg_advisory_xact_lock_shared({LOCK});
    IF (SELECT broken FROM source WHERE key = wanted) THEN
        RAISE EXCEPTION 'broken';
    END IF;
    RETURN (SELECT body FROM source WHERE key = wanted);
END $$;
"""

Start = Callable[..., "App"]
Fault = Callable[[str, str], None]
Requests = list["asyncio.Task[Answer]"]


class Answer(NamedTuple):
    status: int  # 0: the connection was closed without an answer
    headers: dict[str, str]
    text: str


class App:
    """The recipe as a process on a port of its own."""

    def __init__(self, database: str, **settings: float) -> None:
        self.port = free_port()
        chosen = {name: str(value) for name, value in {"DEADLINE": 30, "LOAD_TIMEOUT": 30, **settings}.items()}
        environment = {**os.environ, "DATABASE_URL": database, "PORT": str(self.port), **chosen}
        self.process = subprocess.Popen([sys.executable, HOT_PATH], env=environment, stderr=subprocess.DEVNULL)
        wait_for("the app", lambda: listening(self.port))

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(timeout=30)

    async def fetch(self, path: str, headers: str = "", seconds: float = 60) -> Answer:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n".encode())
                head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
            finally:
                writer.close()
        first, *lines = head.split("\r\n")
        named = dict(line.lower().split(": ", 1) for line in lines)
        return Answer(int(first.split()[1]) if first else 0, named, body)

    def get(self, key: int) -> Answer:
        return asyncio.run(self.fetch(f"/reports/{key}"))

    def number(self, name: str) -> int:
        """One of its metrics; TimeoutError when the loop is blocked."""
        lines = asyncio.run(self.fetch("/metrics", seconds=10)).text.splitlines()
        return int(dict(line.split() for line in lines)[f"hot_path_{name}"])


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """Without fsync: what a killed process wrote is with the kernel, and only a power cut would lose it."""
    server = Postgres(tmp_path_factory.mktemp("postgres"), {"fsync": "off"})
    yield server
    server.stop()


@pytest.fixture
def origin(database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(ORIGIN)
        yield connection


@pytest.fixture
def start(database: str, origin: psycopg.Connection[Any]) -> Iterator[Start]:
    with ExitStack() as stack:

        def start(**settings: float) -> App:
            app = App(database, **settings)
            stack.callback(app.stop)
            return app

        yield start


@contextmanager
def held(origin: psycopg.Connection[Any]) -> Iterator[None]:
    """Inside, rebuilds begin and do not end."""
    origin.execute("SELECT pg_advisory_lock(%s)", [LOCK])
    yield
    origin.execute("SELECT pg_advisory_unlock(%s)", [LOCK])


def rebuilds(origin: psycopg.Connection[Any]) -> int:
    row = origin.execute("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM rebuilds").fetchone()
    assert row
    return int(row[0])


def at_work(origin: psycopg.Connection[Any]) -> list[int]:
    """The database's processes that are held up in a rebuild."""
    rows = origin.execute("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = %s", [LOCK])
    return [pid for (pid,) in rows]


async def until(what: str, ready: Callable[[], object]) -> None:
    await asyncio.to_thread(wait_for, what, ready)


def many(app: App, keys: list[int], then: Callable[[Requests], Awaitable[object]]) -> list[Answer]:
    """One request for each key, all at once; `then` runs while they wait, and all answers come back."""

    async def run() -> list[Answer]:
        requests = [asyncio.create_task(app.fetch(f"/reports/{key}")) for key in keys]
        await then(requests)
        return await asyncio.gather(*requests)

    return asyncio.run(run())


def statuses(answers: list[Answer]) -> dict[int, int]:
    return dict(Counter(answer.status for answer in answers))


@pytest.mark.parametrize("expired", [False, True])
def test_300_requests_without_a_copy_make_one_rebuild(
    start: Start, origin: psycopg.Connection[Any], fault: Fault, expired: bool
) -> None:
    app = start(SOFT_TTL=0.1, HARD_TTL=0.1) if expired else start()
    before = 0
    if expired:
        assert app.get(1).status == 200
        before = rebuilds(origin)
        time.sleep(0.1)  # the copy's whole life; it only grows older while we wait longer

    async def release(requests: Requests) -> None:
        await until("300 waiting", lambda: app.number("waiting") == 300)
        assert len(at_work(origin)) == 1
        origin.execute("SELECT pg_advisory_unlock(%s)", [LOCK])

    origin.execute("SELECT pg_advisory_lock(%s)", [LOCK])
    answers = many(app, [1] * 300, release)
    assert statuses(answers) == {200: 300} and {answer.text for answer in answers} == {'"old"'}
    made = rebuilds(origin) - before
    assert made == 1
    when = "in the moment of hard expiry" if expired else "for a key that was never read"
    fault(f"300 parallel requests {when}", f"{made} rebuild, {len(answers)} answers 200 from it")


def test_stale_answers_do_not_wait_for_the_rebuild(start: Start, origin: psycopg.Connection[Any], fault: Fault) -> None:
    app = start(SOFT_TTL=0.1)
    assert app.get(1).text == '"old"'
    origin.execute("UPDATE source SET body = '\"new\"'")

    with held(origin):

        def expired() -> bool:
            return int(app.get(1).headers["cache-status"].rpartition("ttl=")[2]) < 0

        wait_for("soft expiry", expired)
        wait_for("the rebuild", lambda: len(at_work(origin)) == 1)
        before = rebuilds(origin)
        answers = many(app, [1] * 300, lambda requests: asyncio.sleep(0))
        assert {answer.text for answer in answers} == {'"old"'} and statuses(answers) == {200: 300}
        made = 1 + rebuilds(origin) - before
        assert made == 1
    wait_for("the new copy", lambda: app.get(1).text == '"new"')
    fault(
        "300 parallel requests at soft expiry, the rebuild hangs",
        f"{made} rebuild, {len(answers)} answers 200 from the stale copy before it ended",
    )


def test_one_callers_deadline_or_disconnect_does_not_break_the_others(
    start: Start, origin: psycopg.Connection[Any], fault: Fault
) -> None:
    app = start()
    seen: list[int] = []

    async def run() -> list[Answer]:
        first = asyncio.create_task(app.fetch("/reports/1", "X-Timeout-Ms: 500\r\n"))  # starts the rebuild
        await until("the first", lambda: app.number("rebuilds") == 1)
        others = [asyncio.create_task(app.fetch("/reports/1")) for _ in range(20)]
        await until("the others", lambda: app.number("waiting") >= 20)
        others[0].cancel()  # closes its connection
        began = time.monotonic()
        seen.append((await first).status)
        assert time.monotonic() - began < 15  # of DEADLINE, 30 s
        origin.execute("SELECT pg_advisory_unlock(%s)", [LOCK])
        return await asyncio.gather(*others[1:])

    origin.execute("SELECT pg_advisory_lock(%s)", [LOCK])
    answers = asyncio.run(run())
    made = rebuilds(origin)
    assert seen == [504] and statuses(answers) == {200: 19} and made == 1
    with held(origin):
        alone = asyncio.run(app.fetch("/reports/2", "X-Timeout-Ms: 200\r\n")).status
    wait_for("the rebuild", lambda: app.number("rebuilds") == 0)
    later = app.get(2).status
    assert alone == 504 and later == 200 and rebuilds(origin) == 2
    fault(
        "the only caller runs into its deadline, the rebuild ends later",
        f"{alone}, and the next caller gets {later} from that rebuild",
    )
    fault(
        "the caller that started the rebuild runs into its deadline, another hangs up",
        f"{seen[0]} for the first, 200 for the other {len(answers)}, {made} rebuild",
    )


def test_a_failure_is_not_cached(start: Start, origin: psycopg.Connection[Any], fault: Fault) -> None:
    app = start()
    origin.execute("UPDATE source SET broken = true")

    async def release(requests: Requests) -> None:
        await until("50 waiting", lambda: app.number("waiting") == 50)
        origin.execute("SELECT pg_advisory_unlock(%s)", [LOCK])

    origin.execute("SELECT pg_advisory_lock(%s)", [LOCK])
    answers = many(app, [1] * 50, release)
    assert statuses(answers) == {502: 50} and rebuilds(origin) == 1
    origin.execute("UPDATE source SET broken = false")
    after = app.get(1).status
    assert after == 200
    fault(
        "the rebuild fails for 50 waiting requests, then the origin is well again",
        f"50 answers 502 from {rebuilds(origin) - 1} rebuild, the next request {after}",
    )


def test_a_failing_origin_is_asked_once_per_pause_while_the_stale_copy_is_served(
    start: Start, origin: psycopg.Connection[Any], fault: Fault
) -> None:
    app = start(SOFT_TTL=0.05, RETRY_PAUSE=3600)
    assert app.get(1).status == 200
    origin.execute("UPDATE source SET broken = true")

    def failed() -> bool:
        return app.get(1).status == 200 and rebuilds(origin) == 2 and app.number("rebuilds") == 0

    wait_for("a failed rebuild", failed)
    answers = [app.get(1) for _ in range(100)]
    asked = rebuilds(origin) - 1
    assert statuses(answers) == {200: 100} and asked == 1
    fault(
        "the origin fails, 100 requests read a stale copy", f"100 answers 200, {asked} rebuild tried within the pause"
    )


def test_what_does_not_fit_in_the_line_is_refused_at_once(
    start: Start, origin: psycopg.Connection[Any], fault: Fault
) -> None:
    app = start(LOADERS=2, QUEUE=2, SOFT_TTL=0.05)
    assert app.get(99).status == 200
    refused: list[Any] = []

    async def release(requests: Requests) -> None:
        await until("46 refused", lambda: sum(request.done() for request in requests) == 46)
        refused.extend(request.result() for request in requests if request.done())
        await until("2 at work", lambda: len(at_work(origin)) == 2)
        assert await asyncio.to_thread(app.number, "rebuilds") == 4
        assert (await app.fetch("/reports/99")).status == 200
        origin.execute("SELECT pg_advisory_unlock(%s)", [LOCK])

    origin.execute("SELECT pg_advisory_lock(%s)", [LOCK])
    answers = many(app, list(range(1, 51)), release)
    assert {answer.headers["retry-after"] for answer in refused} == {"1"}
    assert statuses(answers) == {200: 4, 503: 46} and rebuilds(origin) == 5
    fault(
        "50 different keys at once, 2 threads and 2 places in line",
        f"{len(refused)} answers 503 with Retry-After before any rebuild ended, 2 queries in the database, "
        f"then {statuses(answers)[200]} answers 200; a stale key answers throughout",
    )


def test_the_number_of_waiting_requests_is_bounded(start: Start, origin: psycopg.Connection[Any], fault: Fault) -> None:
    app = start(MAX_WAITING=100)

    async def release(requests: Requests) -> None:
        await until("200 refused", lambda: sum(request.done() for request in requests) == 200)
        origin.execute("SELECT pg_advisory_unlock(%s)", [LOCK])

    origin.execute("SELECT pg_advisory_lock(%s)", [LOCK])
    found = statuses(many(app, [1] * 300, release))
    assert found == {200: 100, 503: 200}
    fault("300 requests wait for one rebuild, 100 may", f"{found[503]} answers 503 at once, {found[200]} answers 200")


def test_the_map_is_bounded_and_keeps_what_is_read(start: Start, origin: psycopg.Connection[Any], fault: Fault) -> None:
    app = start(MAX_ENTRIES=10)
    for key in range(1, 51):
        assert app.get(key).status == 200
        assert app.get(1).status == 200
    entries, made = app.number("entries"), rebuilds(origin)
    assert entries == 10 and made == 50
    assert app.get(101).status == 404 and app.get(101).status == 404 and rebuilds(origin) == 51
    fault(
        "50 keys pass through a map of 10 while one key is read again and again",
        f"{entries} entries, the read key rebuilt once; a key the origin lacks is 404 twice from one query",
    )


def test_a_hanging_query_gives_its_thread_back(start: Start, origin: psycopg.Connection[Any], fault: Fault) -> None:
    app = start(LOADERS=1, QUEUE=0, LOAD_TIMEOUT=1)
    with held(origin):
        began = time.monotonic()
        first = app.get(1).status
        took = time.monotonic() - began
        assert first == 502 and 0.9 < took < 10 and not at_work(origin)
    wait_for("the thread", lambda: app.number("rebuilds") == 0)
    assert app.get(2).status == 200
    fault(
        "a query hangs, LOAD_TIMEOUT is 1 s",
        f"{first} when that has passed, no query left in the database, the only thread serves the next key",
    )


@pytest.mark.slow
def test_a_frozen_database_leaves_cached_answers_and_no_late_work(
    start: Start, origin: psycopg.Connection[Any], fault: Fault
) -> None:
    app = start(LOADERS=1, QUEUE=1, LOAD_TIMEOUT=3, DEADLINE=6)
    assert app.get(99).status == 200
    before = rebuilds(origin)
    frozen: list[int] = []

    async def thaw(requests: Requests) -> None:
        await until("a query", lambda: len(at_work(origin)) == 1)
        frozen.extend(at_work(origin))
        os.kill(frozen[0], signal.SIGSTOP)  # the kernel still takes what is sent, and nobody ever answers
        try:
            await until("both in line", lambda: app.number("rebuilds") == 2)
            assert (await app.fetch("/reports/3")).status == 503
            assert (await app.fetch("/reports/99")).status == 200
            await asyncio.wait(requests)
        finally:
            os.kill(frozen[0], signal.SIGCONT)

    with held(origin):
        answers = many(app, [1, 2], thaw)
        assert statuses(answers) == {504: 2}
        wait_for("the line to empty", lambda: app.number("rebuilds") == 0)
        asked = rebuilds(origin) - before
        assert asked == 1
    assert app.get(2).status == 200
    fault(
        "the database freezes in a query, LOAD_TIMEOUT passes",
        "504 at the deadline for the two that wait, 503 for the next, 200 for a cached key; after the thaw the "
        f"rebuild that stood in line is not sent ({asked} query in all), a new request gets 200",
    )


@pytest.mark.slow
def test_the_database_is_killed_and_comes_back(
    start: Start, origin: psycopg.Connection[Any], postgres: Postgres, database: str, fault: Fault
) -> None:
    app = start(SOFT_TTL=0.05, RETRY_PAUSE=0.1, LOAD_TIMEOUT=2)
    assert app.get(1).text == '"old"'
    origin.execute("UPDATE source SET body = '\"new\"' WHERE key = 1")
    postgres.stop(signal.SIGKILL)
    try:
        down = [app.get(1) for _ in range(50)]
        unknown = app.get(2).status
    finally:
        wait_for("the port", lambda: not listening(postgres.port))
        postgres.start()
    assert statuses(down) == {200: 50} and {answer.text for answer in down} <= {'"old"', '"new"'}
    assert unknown == 502
    wait_for("the new copy", lambda: app.get(1).text == '"new"')
    wait_for("other keys", lambda: app.get(2).status == 200)
    fault(
        "kill -9 of the database, then restart",
        f"meanwhile {len(down)} answers 200 for the cached key and {unknown} for another; afterwards both 200 and new",
    )


def test_the_first_query_after_a_restart_of_the_database_works(start: Start, postgres: Postgres, fault: Fault) -> None:
    app = start()
    assert app.get(1).status == 200
    postgres.stop()
    postgres.start()
    first = app.get(2).status
    assert first == 200
    fault("the database restarts between two requests", f"the next query gets a new connection: {first}")


def test_an_origin_that_accepts_and_never_answers(start: Start, fault: Fault) -> None:
    with closing(socket.create_server(("127.0.0.1", 0), backlog=128)) as silent, ExitStack() as stack:
        app = App(f"postgresql://x@127.0.0.1:{silent.getsockname()[1]}/x", LOAD_TIMEOUT=2)
        stack.callback(app.stop)
        answers = many(app, list(range(1, 9)), lambda requests: asyncio.to_thread(app.number, "entries"))
        assert statuses(answers) == {502: 8} and app.number("waiting") == 0
        app.process.terminate()
        assert app.process.wait(timeout=30) is not None
    fault(
        "the database accepts connections and never answers, from the start",
        f"{len(answers)} answers 502 after LOAD_TIMEOUT, /metrics answers meanwhile, SIGTERM ends the process",
    )


def test_the_loop_goes_on_while_all_threads_are_blocked(
    start: Start, origin: psycopg.Connection[Any], fault: Fault
) -> None:
    app = start()
    numbers: list[int] = []

    async def look(requests: Requests) -> None:
        await until("8 at work", lambda: len(at_work(origin)) == 8)
        for _ in range(100):
            numbers.append(await asyncio.to_thread(app.number, "rebuilds"))
        origin.execute("SELECT pg_advisory_unlock(%s)", [LOCK])

    origin.execute("SELECT pg_advisory_lock(%s)", [LOCK])
    answers = many(app, list(range(1, 9)), look)
    assert statuses(answers) == {200: 8} and numbers == [8] * 100
    fault("all 8 threads are blocked", f"{len(numbers)} of 100 requests to /metrics answered meanwhile")


@pytest.mark.parametrize("hangs", [False, True])
def test_sigterm_finishes_what_runs_within_the_drain(
    start: Start, origin: psycopg.Connection[Any], fault: Fault, hangs: bool
) -> None:
    app = start(DRAIN=1 if hangs else 30, DEADLINE=60)

    async def end(requests: Requests) -> None:
        await until("a request", lambda: app.number("waiting") == 1)
        app.process.terminate()
        await until("no listener", lambda: not listening(app.port))
        if hangs:
            await asyncio.to_thread(app.process.wait, 30)
        else:
            assert not requests[0].done()
        origin.execute("SELECT pg_advisory_unlock(%s)", [LOCK])

    origin.execute("SELECT pg_advisory_lock(%s)", [LOCK])
    (answer,) = many(app, [1], end)
    code = app.process.wait(timeout=30)
    if hangs:
        assert answer.status != 200
        fault(
            "SIGTERM while a rebuild hangs, DRAIN is 1 s", f"the process ends by itself, exit status {code}, no SIGKILL"
        )
    else:
        assert answer.status == 200
        fault(
            "SIGTERM while a request waits", f"no new connections, {answer.status} for the waiting one, status {code}"
        )
