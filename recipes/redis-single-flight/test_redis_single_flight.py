"""The cache against an origin that counts, fails and hangs, processes that are killed, and a Redis that is gone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis as Sync

from recipes.engines import Valkey, wait_for

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))
from single_flight import Cache, LoadFailed, client  # noqa: E402

Fault = Callable[[str, str], None]
VALUE = "{cache:page:v1:home}"
LOCK = VALUE + ":lock"


class Origin(socketserver.ThreadingTCPServer):
    """What is loaded from: counts loads, and answers, fails or hangs as it is told."""

    daemon_threads, request_queue_size = True, 500

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.mode, self.body, self.seconds = "answer", "old", 0.0
        self.lock, self.loads, self.inside, self.most = threading.Lock(), 0, 0, 0
        self.released = threading.Event()


class Answer(socketserver.StreamRequestHandler):
    server: Origin

    def handle(self) -> None:
        origin = self.server
        self.rfile.readline()
        with origin.lock:
            origin.loads += 1
            origin.inside += 1
            origin.most = max(origin.most, origin.inside)
            mode, body = origin.mode, origin.body
        if mode == "hang":
            origin.released.wait(120)
        time.sleep(origin.seconds)
        with origin.lock:
            origin.inside -= 1
        answer = {"fail": b"", "missing": b"null\n"}.get(mode, json.dumps({"body": body}).encode() + b"\n")
        self.wfile.write(answer)


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.released.set()
        server.shutdown()


@pytest.fixture
def redis(valkey: Valkey) -> Iterator[Any]:
    with closing(Sync.from_url(valkey.url, decode_responses=True)) as connection:
        yield connection


def loader(port: int) -> Callable[[str], Awaitable[Any]]:
    async def load(key: str) -> Any:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(key.encode() + b"\n")
            return json.loads(await reader.readline())  # the origin fails: nothing comes, which is no JSON
        finally:
            writer.close()

    return load


def decode(value: Any) -> str:
    return str(value["body"])


# For each line "key number" on its input it makes so many requests at once, and prints how often which answer came.
READER = f"""
import asyncio, json, logging, sys
from collections import Counter
sys.path.insert(0, {str(FOLDER)!r})
from single_flight import Cache, LoadFailed, client
logging.disable()
async def load(key):
    reader, writer = await asyncio.open_connection("127.0.0.1", int(sys.argv[2]))
    try:
        writer.write(key.encode() + b"\\n")
        return json.loads(await reader.readline())
    finally:
        writer.close()
async def main():
    redis = client(sys.argv[1])
    settings = json.loads(sys.argv[3])
    cache = Cache(redis, "page", load, version=1, decode=lambda value: value["body"], **settings)
    async def ask(key):
        try:
            return await cache.get(key)
        except LoadFailed:
            return "LoadFailed"
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        key, number = line.split()
        answers = await asyncio.gather(*(ask(key) for _ in range(int(number))))
        print(json.dumps(Counter(answers)), flush=True)
    await cache.aclose()
    await redis.aclose()
asyncio.run(main())
"""
# Where a limit is not what is tested, a busy machine must not meet it.
CALM = {"soft": 600, "grace": 600, "negative": 600, "load_timeout": 30, "timeout": 30}


class Reader:
    def __init__(self, url: str, port: int, settings: dict[str, float]) -> None:
        command = [sys.executable, "-c", READER, url, str(port), json.dumps({**CALM, **settings})]
        self.process = subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env={**os.environ})

    def tell(self, key: str, number: int) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{key} {number}\n")
        self.process.stdin.flush()

    def line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline()

    def answers(self) -> Counter[str]:
        return Counter(json.loads(self.line()))


@contextmanager
def readers(number: int, valkey: Valkey, origin: Origin, **settings: float) -> Iterator[list[Reader]]:
    with ExitStack() as stack:
        started = [Reader(valkey.url, origin.server_address[1], settings) for _ in range(number)]
        for reader in started:
            stack.enter_context(reader.process)
            stack.callback(reader.process.kill)
        for reader in started:
            assert reader.line() == "ready\n"
        yield started


def together(group: list[Reader], number: int, key: str = "home") -> Counter[str]:
    for reader in group:
        reader.tell(key, number)
    return sum((reader.answers() for reader in group), Counter[str]())


@asynccontextmanager
async def a_cache(url: str, origin: Origin, *, form: Any = decode, version: int = 1, **settings: Any) -> AsyncIterator:
    redis = client(url)
    cache = Cache(redis, "page", loader(origin.server_address[1]), version=version, decode=form, **{**CALM, **settings})
    try:
        yield cache
    finally:
        await cache.aclose()
        await redis.aclose()


def stored(redis: Any, body: str, left: int = 500_000, grace: int = 600_000) -> None:
    """As if it had been loaded before: stale when less is left than the grace."""
    redis.set(VALUE, f'{grace} {{"body": "{body}"}}', px=left)


def test_300_requests_for_a_stale_value_load_once(valkey: Valkey, origin: Origin, redis: Any, fault: Fault) -> None:
    origin.body, origin.seconds = "new", 1
    with readers(3, valkey, origin) as group:
        stored(redis, "old")
        began = together(group, 100)
        wait_for("the refresh", lambda: "new" in redis.get(VALUE))
        after = together(group, 100)
    assert origin.loads == 1 and began == {"old": 300} and after == {"new": 300}
    fault(
        "300 requests in 3 processes after the soft expiry, a load takes 1 s",
        f"{origin.loads} load, {began['old']} get the old value meanwhile; the next 300 get the new one",
    )


def test_300_requests_without_any_value_load_once(valkey: Valkey, origin: Origin, redis: Any, fault: Fault) -> None:
    origin.seconds = 1
    with readers(3, valkey, origin) as group:
        answers = together(group, 100)
    assert origin.loads == 1 and answers == {"old": 300} and not redis.exists(LOCK)
    fault("300 requests in 3 processes for a key without any value", f"{origin.loads} load, {answers['old']} answers")


@asynccontextmanager
async def late(port: int) -> AsyncIterator[tuple[str, asyncio.Event, asyncio.Event]]:
    """A proxy whose first answer to a script is late: its URL, the event that it has it, and the one it waits for."""
    arrived, go = asyncio.Event(), asyncio.Event()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server, into = await asyncio.open_connection("127.0.0.1", port)
        try:
            while sent := await reader.read(65536):
                into.write(sent)
                answer = await server.read(65536)
                if b"EVAL" in sent:
                    arrived.set()
                    await go.wait()
                writer.write(answer)
        finally:
            into.close()
            writer.close()

    async with await asyncio.start_server(forward, "127.0.0.1", 0) as proxy:
        yield f"redis://127.0.0.1:{proxy.sockets[0].getsockname()[1]}", arrived, go


def test_who_looked_before_another_stored_does_not_load(
    valkey: Valkey, origin: Origin, redis: Any, fault: Fault
) -> None:
    async def work() -> list[Any]:
        async with (
            late(valkey.port) as (url, arrived, go),
            a_cache(url, origin) as slow,
            a_cache(valkey.url, origin) as quick,
        ):
            first = asyncio.create_task(slow.get("home"))
            await asyncio.wait_for(arrived.wait(), 30)
            locked = redis.exists(LOCK)
            second = asyncio.create_task(quick.get("home"))
            if not locked:  # then nothing keeps the second from loading, and the first knows nothing of it
                await second
            go.set()
            return [await first, await second]

    answers = asyncio.run(work())
    assert answers == ["old", "old"] and origin.loads == 1
    fault("the answer of the first look is late, another process asks meanwhile", f"{origin.loads} load for both")


def test_a_hard_expired_value_is_not_served(valkey: Valkey, origin: Origin, redis: Any, fault: Fault) -> None:
    async def work() -> None:
        async with a_cache(valkey.url, origin, soft=0.1, grace=1) as cache:
            assert await cache.get("home") == "old"
            origin.mode = "fail"
            await asyncio.to_thread(wait_for, "the hard expiry", lambda: not redis.exists(VALUE))
            with pytest.raises(LoadFailed):
                await cache.get("home")

    asyncio.run(work())
    fault("the loader fails until soft expiry and grace are over", "LoadFailed: what is too old is not served")


def test_a_failing_loader_is_asked_once_per_pause(valkey: Valkey, origin: Origin, redis: Any, fault: Fault) -> None:
    origin.mode = "fail"
    with readers(3, valkey, origin, pause=600) as group:
        stored(redis, "old")
        served = together(group, 100)
        wait_for("the failure", lambda: redis.get(LOCK) == "failed")
        served += together(group, 100)
        first = origin.loads
        redis.delete(VALUE, LOCK)
        failed = together(group, 100) + together(group, 100)
        second = origin.loads - first
        redis.delete(LOCK)  # the pause is over
        origin.mode = "answer"
        healed = together(group, 100)
    assert (first, second) == (1, 1) and served == {"old": 600} and failed == {"LoadFailed": 600}
    assert healed == {"old": 300}
    fault(
        "the loader fails, 600 requests, a stale value is there", f"{first} load, {served['old']} get the stale value"
    )
    fault(
        "the loader fails, 600 requests, no value is there",
        f"{second} load, {failed['LoadFailed']} LoadFailed; after the pause it is loaded",
    )


def test_a_hanging_loader(valkey: Valkey, origin: Origin, redis: Any, fault: Fault) -> None:
    origin.mode = "hang"
    with readers(3, valkey, origin, load_timeout=2, pause=600) as group:
        stored(redis, "old")
        served = together(group, 100)
        waiting = redis.get(LOCK) != "failed"  # the answers came while the load was hanging
        wait_for("the end of the load", lambda: redis.get(LOCK) == "failed")
        loads = origin.loads
        redis.delete(VALUE, LOCK)
        began = time.monotonic()
        failed = together(group, 100)
        took = time.monotonic() - began
    assert waiting and served == {"old": 300} and failed == {"LoadFailed": 300}
    assert (loads, origin.loads) == (1, 2) and 1.9 < took < 6
    fault(
        "the loader hangs, load_timeout 2 s, 300 requests with a stale value, then 300 without",
        f"{served['old']} get the stale value at once; {failed['LoadFailed']} LoadFailed within 6 s; "
        f"{origin.loads} loads in all",
    )


def test_what_does_not_exist_is_loaded_once(valkey: Valkey, origin: Origin, redis: Any, fault: Fault) -> None:
    origin.mode = "missing"

    async def work() -> Counter[Any]:
        async with a_cache(valkey.url, origin) as cache:
            return Counter([await cache.get("home") for _ in range(1000)])

    answers = asyncio.run(work())
    asked = origin.loads
    redis.delete(VALUE)

    async def again() -> Any:
        async with a_cache(valkey.url, origin, negative=0.1) as cache:
            assert await cache.get("home") is None
            origin.mode = "answer"  # it is created
            await asyncio.to_thread(wait_for, "the end of the entry", lambda: not redis.exists(VALUE), 10)
            return await cache.get("home")

    assert asked == 1 and answers == {None: 1000} and asyncio.run(again()) == "old"
    fault(
        "a key that does not exist is asked for 1,000 times in a row, then it is created",
        f"{asked} load, {answers[None]} times None; loaded when the negative entry has expired, never served stale",
    )


def test_values_loaded_together_expire_apart(valkey: Valkey, origin: Origin, redis: Any, fault: Fault) -> None:
    async def work() -> list[int]:
        async with a_cache(valkey.url, origin, soft=10_000, grace=0, loads=50) as cache:
            await asyncio.gather(*(cache.get(f"page {n}") for n in range(100)))
        return [redis.pttl(key) // 1000 for key in redis.scan_iter()]

    left = asyncio.run(work())
    assert len(left) == 100 and min(left) >= 8_900 and max(left) <= 10_000 and max(left) - min(left) > 500
    fault("100 keys loaded at once, soft 10,000 s", "expiries spread over more than 500 s, none later than 10,000 s")


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_without_redis_loads_are_bounded(valkey: Valkey, origin: Origin, fault: Fault, how: str) -> None:
    async def work() -> tuple[Counter[str], int, str]:
        async with a_cache(valkey.url, origin, timeout=0.2, load_timeout=4, loads=5) as cache:
            await cache.get("home")
            origin.seconds, origin.most = 0.02, 0
            if how == "killed":
                await asyncio.to_thread(valkey.stop, signal.SIGKILL)
            else:
                valkey.process.send_signal(signal.SIGSTOP)
            try:
                began = time.monotonic()
                answers = Counter(await asyncio.gather(*(cache.get(f"page {n % 60}") for n in range(300))))
                assert time.monotonic() - began < 10
                loads = origin.loads - 1
            finally:
                if how == "killed":
                    await asyncio.to_thread(valkey.start)
                else:
                    valkey.process.send_signal(signal.SIGCONT)
        async with a_cache(valkey.url, origin) as cache:  # patient
            began = time.monotonic()
            await cache.get("page 1")
            assert time.monotonic() - began < 10
            before = origin.loads
            await cache.get("page 1")
            return answers, loads, "cached again" if origin.loads == before else "not cached"

    answers, loads, after = asyncio.run(work())
    assert answers == {"old": 300} and loads == 60 and origin.most <= 5 and after == "cached again"
    fault(
        f"Redis is {how}, 300 requests for 60 keys, loads=5, load_timeout 4 s",
        f"{answers['old']} answers, {loads} loads, {'no more than 5' if origin.most <= 5 else origin.most} at a time; "
        f"when it is back, the same keys are {after} within 10 s",
    )


def test_without_redis_one_key_is_loaded_once_per_process(valkey: Valkey, origin: Origin, fault: Fault) -> None:
    origin.seconds = 1
    with readers(3, valkey, origin) as group:
        valkey.stop(signal.SIGKILL)
        answers = together(group, 100)
    assert origin.loads == 3 and answers == {"old": 300}
    fault("Redis is killed, 300 requests in 3 processes for one key", f"{origin.loads} loads, {answers['old']} answers")


def test_a_killed_refresher_is_replaced(valkey: Valkey, origin: Origin, redis: Any, fault: Fault) -> None:
    origin.mode = "hang"
    with readers(2, valkey, origin, load_timeout=2) as (first, second):
        stored(redis, "old")
        assert together([first], 1) == {"old": 1}
        wait_for("the load", lambda: origin.loads == 1)
        first.process.kill()
        first.process.wait()
        held, left = redis.exists(LOCK), redis.pttl(LOCK)
        origin.mode, origin.body = "answer", "new"
        meanwhile = together([second], 100)
        asked = origin.loads if redis.exists(LOCK) else 1
        wait_for("the lock's end", lambda: not redis.exists(LOCK))
        together([second], 1)
        wait_for("the refresh", lambda: "new" in redis.get(VALUE))
        redis.delete(VALUE)
        loads = origin.loads
    assert held == 1 and 0 < left <= 3000 and meanwhile == {"old": 100} and asked == 1 and loads == 2
    fault(
        "kill -9 of the process that refreshes, load_timeout 2 s",
        f"{meanwhile['old']} requests get the stale value meanwhile; when the lock ends after 3 s another refreshes",
    )


def test_waiters_of_a_killed_loader_load_themselves(valkey: Valkey, origin: Origin, redis: Any, fault: Fault) -> None:
    origin.mode = "hang"
    with readers(3, valkey, origin, load_timeout=2) as (first, *others):
        first.tell("home", 1)
        wait_for("the load", lambda: origin.loads == 1)
        origin.mode = "answer"
        for reader in others:
            reader.tell("home", 50)
        first.process.kill()
        answers = sum((reader.answers() for reader in others), Counter[str]())
    assert answers == {"old": 100} and origin.loads == 2
    fault(
        "kill -9 of the process that loads while 100 requests in 2 others wait for it",
        f"{answers['old']} answers after the lock's end, {origin.loads - 1} further load",
    )


@pytest.mark.parametrize(
    ("what", "poison"),
    [
        ("bytes that are no JSON", b"\xff\x00poison"),
        ("JSON of another form", b'600000 {"title": 7}'),
        ("nothing", b""),
        ("a list instead of a string", None),
    ],
)
@pytest.mark.parametrize("expires", [True, False])
def test_a_poisoned_value_is_replaced(
    valkey: Valkey, origin: Origin, redis: Any, fault: Fault, what: str, poison: bytes | None, expires: bool
) -> None:
    origin.seconds = 0.2
    if poison is None:
        redis.rpush(VALUE, "x")
    else:
        redis.set(VALUE, poison)
    if expires:
        redis.pexpire(VALUE, 1_000_000)

    async def work() -> Counter[Any]:
        async with a_cache(valkey.url, origin) as one, a_cache(valkey.url, origin) as two:
            return Counter(await asyncio.gather(*(cache.get("home") for cache in (one, two) for _ in range(50))))

    answers = asyncio.run(work())
    assert answers == {"old": 100} and origin.loads == 1 and "old" in redis.get(VALUE)
    fault(f"the key holds {what}, 100 requests of 2 caches", f"{answers['old']} answers, {origin.loads} load, replaced")


def test_two_versions_live_side_by_side(valkey: Valkey, origin: Origin, fault: Fault) -> None:
    async def work() -> tuple[Counter[Any], Counter[Any]]:
        new = {"form": lambda value: ("second form", value["body"]), "version": 2}
        async with a_cache(valkey.url, origin) as before, a_cache(valkey.url, origin, **new) as after:
            got = [(await before.get("home"), await after.get("home")) for _ in range(50)]
        return Counter(a for a, _ in got), Counter(b for _, b in got)

    old, new = asyncio.run(work())
    assert old == {"old": 50} and new == {("second form", "old"): 50} and origin.loads == 2
    fault(
        "a deployment: version 1 and version 2 of the value's form read in turn, 50 times",
        f"each gets its own form, {origin.loads} loads in all",
    )


def test_a_load_that_an_invalidation_overtook_is_not_stored(
    valkey: Valkey, origin: Origin, redis: Any, fault: Fault
) -> None:
    origin.mode = "hang"

    async def work() -> tuple[Any, Any]:
        async with a_cache(valkey.url, origin) as cache, a_cache(valkey.url, origin) as other:
            late = asyncio.create_task(cache.get("home"))
            await asyncio.to_thread(wait_for, "the load", lambda: origin.loads == 1)
            origin.mode, origin.body = "answer", "new"  # the write commits while the old row is on its way
            await other.invalidate("home")
            assert await other.get("home") == "new"
            origin.released.set()
            return await late, await other.get("home")

    late, after = asyncio.run(work())
    assert (late, after) == ("old", "new") and "new" in redis.get(VALUE)
    fault(
        "a load that began before a write ends after the invalidation and the next load",
        f'its own caller gets "{late}", the cache keeps "{after}"',
    )


def test_a_caller_who_goes_away_ends_nothing(valkey: Valkey, origin: Origin, fault: Fault) -> None:
    origin.mode = "hang"

    async def work() -> list[Any]:
        async with a_cache(valkey.url, origin) as cache:
            callers = [asyncio.create_task(cache.get("home")) for _ in range(10)]
            await asyncio.to_thread(wait_for, "the load", lambda: origin.loads == 1)
            callers[0].cancel()
            await asyncio.sleep(0)
            origin.released.set()
            return await asyncio.gather(*callers, return_exceptions=True)

    first, *others = asyncio.run(work())
    assert isinstance(first, asyncio.CancelledError) and others == ["old"] * 9 and origin.loads == 1
    fault("the first of 10 callers is cancelled during the load", f"{len(others)} get the value, {origin.loads} load")


def test_connections_that_the_server_closed_cost_no_load(
    valkey: Valkey, origin: Origin, redis: Any, fault: Fault
) -> None:
    async def work() -> int:
        async with a_cache(valkey.url, origin) as cache:
            await asyncio.gather(*(cache.get(f"page {n}") for n in range(20)))
            redis.execute_command("CLIENT KILL TYPE normal SKIPME yes")
            wait_for("the server to close them", lambda: redis.info("clients")["connected_clients"] == 1)
            await asyncio.sleep(0.05)
            await asyncio.gather(*(cache.get(f"page {n}") for n in range(20)))
            return int(cache.failures)

    failures = asyncio.run(work())
    assert failures == 0 and origin.loads == 20
    fault("the server closes all idle connections, then 20 requests", f"{failures} fail, {origin.loads - 20} loads")
