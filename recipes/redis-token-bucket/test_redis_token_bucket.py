"""The token bucket against real servers that are frozen, killed, full, set to other clocks and split into a cluster."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path

import libfaketime
import pytest
from redis import Redis as Sync
from redis.asyncio import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from recipes.engines import Valkey, free_port, listening, wait_for

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))
from token_bucket import Answer, TokenBucket, client  # noqa: E402

Fault = Callable[[str, str], None]
AGES = 1 / 86_400  # tokens a second: one a day, so that none comes back during a test
LONG = 60  # seconds: where the timeout is not what is tested, a busy machine must not meet it
CLOCK = next(Path(libfaketime.__file__).parent.rglob("libfaketime.so.1"))

CALLER = f"""
import asyncio, sys
from token_bucket import TokenBucket, client
async def main():
    redis = client(sys.argv[1])
    bucket = TokenBucket(redis, "api", {AGES}, 100, fail_open=False, timeout={LONG})
    print("ready", flush=True)
    sys.stdin.readline()
    answers = await asyncio.gather(*(bucket.take("acme") for _ in range(100)))
    print(sum(answer.allowed for answer in answers), sum(answer.degraded for answer in answers))
    await redis.aclose()
asyncio.run(main())
"""


def with_clock(offset: str) -> dict[str, str]:
    """The environment of a program that believes in a clock so far from the real one."""
    return {"LD_PRELOAD": str(CLOCK), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


@contextmanager
def caller(url: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has started, and on a line of input takes 100 tokens at once."""
    chosen = {**os.environ, "PYTHONPATH": str(FOLDER), **environment}
    command = [sys.executable, "-c", CALLER, url]
    with subprocess.Popen(command, env=chosen, stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        yield process


def allowed(callers: list[subprocess.Popen[str]]) -> list[int]:
    """Let callers go together; how much each was allowed."""
    for process in callers:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=120)[0].split() for process in callers]
    assert all(degraded == "0" for _, degraded in answers)
    return [int(number) for number, _ in answers]


def run(url: str, work: Callable[[Callable[..., TokenBucket]], Awaitable[None]]) -> None:
    """Run async work with a maker of buckets on one client."""

    async def main() -> None:
        redis = client(url)
        try:
            async with asyncio.timeout(LONG):  # a frozen server shall not hold the test for ever
                await work(lambda *a, timeout=LONG, **k: TokenBucket(redis, "api", *a, timeout=timeout, **k))
        finally:
            await redis.aclose()

    asyncio.run(main())


async def drain(bucket: TokenBucket) -> Answer:
    """Take tokens until one is refused; returns the refusal."""
    while (answer := await bucket.take("acme")).allowed:
        assert not answer.degraded
    return answer


def test_parallel_callers_never_spend_a_token_twice(valkey: Valkey, fault: Fault) -> None:
    with ExitStack() as stack:
        got = allowed([stack.enter_context(caller(valkey.url)) for _ in range(3)])
    assert sum(got) == 100
    fault("300 requests at once from 3 processes for a bucket of 100", f"{sum(got)} allowed, {300 - sum(got)} refused")


def test_more_callers_than_connections_wait_for_one(valkey: Valkey, fault: Fault) -> None:
    async def work(make: Callable[..., TokenBucket]) -> None:
        bucket = make(AGES, 100, fail_open=True)
        answers = await asyncio.gather(*(bucket.take("acme") for _ in range(500)))
        passed, degraded = sum(a.allowed for a in answers), sum(a.degraded for a in answers)
        assert (passed, degraded) == (100, 0)
        peak = Sync.from_url(valkey.url).info("clients")["connected_clients"] - 1
        fault(
            "500 requests at once in one process that has 20 connections and fails open, for a bucket of 100",
            f"{passed} allowed, {degraded} passed for want of a connection, {peak} connections",
        )

    run(valkey.url, work)


def test_waiting_for_retry_after_is_enough(valkey: Valkey, fault: Fault) -> None:
    async def work(make: Callable[..., TokenBucket]) -> None:
        bucket = make(30, 3, fail_open=False)
        began, again = time.monotonic(), 0
        for _ in range(20):
            await asyncio.sleep((await drain(bucket)).retry_after)
            again += (await bucket.take("acme")).allowed
        most = 3 + math.ceil(30 * (time.monotonic() - began))
        assert again == 20 and again <= most
        fault("20 times a refused caller waits for retry_after and asks again", f"{again} times allowed")

    run(valkey.url, work)


def test_a_bucket_gives_no_more_than_burst_and_rate(valkey: Valkey, fault: Fault) -> None:
    async def work(make: Callable[..., TokenBucket]) -> None:
        bucket = make(50, 10, fail_open=False)
        began, got = time.monotonic(), 0
        while time.monotonic() < began + 1:
            got += (await bucket.take("acme")).allowed
        most = 10 + 50 * (time.monotonic() - began)
        assert 10 < got <= most
        fault(
            "a caller that never pauses for a second, rate 50, burst 10",
            f"{'no more' if got <= most else 'more'} than 10 and 50 a second",
        )

    run(valkey.url, work)


def test_costs_are_taken_whole_or_not_at_all(valkey: Valkey, fault: Fault) -> None:
    async def work(make: Callable[..., TokenBucket]) -> None:
        bucket = make(AGES, 100, fail_open=False)
        big = [(await bucket.take("acme", 30)).allowed for _ in range(4)]
        refused = await bucket.take("acme", 30)
        small = await bucket.take("acme", 9.5)
        assert big == [True, True, True, False] and small.allowed and 0.5 <= small.remaining < 0.51
        days = refused.retry_after / 86_400
        assert 19.9 < days <= 20
        for cost in (100.5, 0, -1, math.nan):
            with pytest.raises(ValueError):
                await bucket.take("acme", cost)
        fault(
            "5 requests of cost 30 for a bucket of 100 that gets one token a day, then one of 9.5",
            f"{sum(big)} allowed, the others told to wait {days:.0f} days, the small one allowed",
        )
        fault("cost 100.5, 0, -1 or NaN for a bucket of 100", "ValueError, since no waiting would help")

    run(valkey.url, work)


def test_a_full_bucket_leaves_no_key(valkey: Valkey, fault: Fault) -> None:
    async def work(make: Callable[..., TokenBucket]) -> None:
        bucket = make(1000, 10, fail_open=False)
        await asyncio.gather(*(bucket.take(f"address {n}") for n in range(200)))
        with closing(Sync.from_url(valkey.url)) as redis:
            await asyncio.to_thread(wait_for, "an empty Redis", lambda: redis.dbsize() == 0, 15)
            fault("200 callers who never come back", f"{redis.dbsize()} keys once their buckets are full")

    run(valkey.url, work)


@pytest.mark.parametrize("fail_open", [True, False])
def test_a_frozen_server_costs_the_timeout_and_no_more(valkey: Valkey, fault: Fault, fail_open: bool) -> None:
    async def work(make: Callable[..., TokenBucket]) -> None:
        bucket, patient = make(AGES, 100, fail_open=fail_open, timeout=0.1), make(AGES, 100, fail_open=fail_open)
        await asyncio.gather(*(patient.take("acme") for _ in range(20)))  # connections exist
        valkey.process.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            answers = await asyncio.gather(*(bucket.take("acme") for _ in range(50)))
            took = time.monotonic() - began
        finally:
            valkey.process.send_signal(signal.SIGCONT)
        assert took < 3 and all(answer.degraded for answer in answers) and bucket.failures == 50
        passed = sum(answer.allowed for answer in answers)
        assert passed == (50 if fail_open else 0)
        after = await patient.take("acme", 20)
        assert after.allowed and not after.degraded
        fault(
            f"the server is frozen, 50 requests, timeout 0.1 s, fails {'open' if fail_open else 'closed'}",
            f"{passed} allowed, {50 - passed} refused, all marked degraded, within 3 s; after the thaw it counts again",
        )

    run(valkey.url, work)


def test_a_server_that_accepts_and_never_answers(fault: Fault) -> None:
    async def work(make: Callable[..., TokenBucket]) -> None:
        bucket = make(AGES, 100, fail_open=False, timeout=0.1)
        began = time.monotonic()
        answers = await asyncio.gather(*(bucket.take("acme") for _ in range(50)))
        assert time.monotonic() - began < 3
        refused = sum(answer.degraded and not answer.allowed for answer in answers)
        assert refused == 50
        fault(
            "a server that takes connections and never answers, 50 requests, timeout 0.1 s, fails closed",
            f"{refused} refused within 3 s",
        )

    with closing(socket.create_server(("127.0.0.1", 0), backlog=128)) as silent:
        run(f"redis://127.0.0.1:{silent.getsockname()[1]}", work)


def test_a_killed_server_and_its_return(valkey: Valkey, fault: Fault) -> None:
    async def work(make: Callable[..., TokenBucket]) -> None:
        opened, closed = make(AGES, 10, fail_open=True), make(AGES, 10, fail_open=False)
        await drain(closed)
        await asyncio.to_thread(valkey.stop, signal.SIGKILL)
        down = [((await opened.take("acme")).allowed, (await closed.take("acme")).allowed) for _ in range(10)]
        assert down == [(True, False)] * 10
        await asyncio.to_thread(valkey.start)
        again = [await closed.take("acme") for _ in range(11)]
        counted = sum(answer.allowed for answer in again)
        assert counted == 10 and not any(answer.degraded for answer in again)
        fault(
            "kill -9 of a server without persistence, then restart",
            f"meanwhile open allows {sum(a for a, _ in down)} of 10, closed {sum(b for _, b in down)}; afterwards the "
            f"emptied bucket of 10 is full again: {counted} of 11 allowed",
        )

    run(valkey.url, work)


def test_connections_that_the_server_closed_are_not_used(valkey: Valkey, fault: Fault) -> None:
    async def work(make: Callable[..., TokenBucket]) -> None:
        bucket = make(AGES, 100, fail_open=False)
        await asyncio.gather(*(bucket.take("acme") for _ in range(50)))
        with closing(Sync.from_url(valkey.url)) as redis:
            closed = redis.execute_command("CLIENT KILL TYPE normal SKIPME yes")
            wait_for("the server to close them", lambda: redis.info("clients")["connected_clients"] == 1)
        await asyncio.sleep(0.05)  # the event loop sees what has already arrived
        answers = await asyncio.gather(*(bucket.take("acme") for _ in range(50)))
        degraded = sum(answer.degraded for answer in answers)
        assert closed == 20 and degraded == 0
        fault(f"the server closes all {closed} idle connections, then 50 requests", f"{degraded} of them fail")

    run(valkey.url, work)


@asynccontextmanager
async def losing_answers(port: int) -> AsyncIterator[str]:
    """A proxy that breaks the connection in place of the first answer to a script; yields its URL."""
    lost = False

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal lost
        server, into = await asyncio.open_connection("127.0.0.1", port)
        try:
            while sent := await reader.read(65536):
                into.write(sent)
                answer = await server.read(65536)
                if b"EVAL" in sent and not lost:
                    lost = True
                    return
                writer.write(answer)
        finally:
            into.close()
            writer.close()

    async with await asyncio.start_server(forward, "127.0.0.1", 0) as proxy:
        yield f"redis://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"


def test_a_lost_answer_spends_its_tokens_once(valkey: Valkey, fault: Fault) -> None:
    async def work() -> None:
        async with losing_answers(valkey.port) as url:
            redis = client(url)
            bucket = TokenBucket(redis, "api", AGES, 100, fail_open=True, timeout=LONG)
            first, second = await bucket.take("acme", 10), await bucket.take("acme", 10)
            await redis.aclose()
        spent = 90 - math.floor(second.remaining)
        assert first.degraded and not second.degraded and spent == 10
        fault("the connection breaks after the script ran, before its answer (cost 10)", f"{spent} tokens spent")

    asyncio.run(work())


@pytest.mark.parametrize(
    ("command", "back", "what"),
    [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", "is out of memory (noeviction)"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", "has become a read-only replica"),
    ],
)
def test_a_server_that_takes_no_writes(valkey: Valkey, fault: Fault, command: str, back: str, what: str) -> None:
    async def work(make: Callable[..., TokenBucket]) -> None:
        with closing(Sync.from_url(valkey.url)) as redis:
            redis.execute_command(command)
            refused = await make(AGES, 10, fail_open=False).take("acme")
            passed = await make(AGES, 10, fail_open=True).take("acme")
            redis.execute_command(back)
        again = await make(AGES, 10, fail_open=False).take("acme")
        assert refused.degraded and passed.degraded and not again.degraded
        assert (refused.allowed, passed.allowed, again.allowed) == (False, True, True)
        fault(f"the server {what}", "refused when it fails closed, allowed when open, both marked degraded")

    run(valkey.url, work)


def test_clocks_of_callers_do_not_count(valkey: Valkey, fault: Fault) -> None:
    with caller(valkey.url) as now, caller(valkey.url, **with_clock("+30d")) as ahead:
        got = allowed([now]) + allowed([ahead])
    assert got == [100, 0]
    fault(
        "a caller takes all 100, another's clock is 30 days ahead, one token comes back a day",
        f"{got[1]} allowed for the second",
    )


def test_a_server_clock_that_jumps_back_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    for name, value in with_clock("+1h").items():
        monkeypatch.setenv(name, value)
    valkey = Valkey(tmp_path)
    for name in with_clock("+1h"):
        monkeypatch.delenv(name)

    async def work(make: Callable[..., TokenBucket]) -> None:
        bucket = make(2, 3, fail_open=False)
        before = await drain(bucket)
        with closing(Sync.from_url(valkey.url)) as redis:
            ahead = int(redis.time()[0]) - time.time()
            redis.save()
        await asyncio.to_thread(valkey.stop)
        await asyncio.to_thread(wait_for, "the port", lambda: not listening(valkey.port))
        await asyncio.to_thread(valkey.start)
        refused = await drain(bucket)
        assert before.retry_after <= 0.6 and refused.retry_after <= 0.6 and not refused.degraded
        await asyncio.sleep(refused.retry_after)
        assert (await bucket.take("acme")).allowed
        fault(
            f"the server comes back with its data and a clock that is {ahead / 3600:.0f} h behind",
            "the empty bucket of 3 at 2 a second still allows one within 0.6 s, and not more than that",
        )

    try:
        run(valkey.url, work)
    finally:
        valkey.stop()


def test_a_cluster_of_three_shards(tmp_path: Path, fault: Fault) -> None:
    shards: list[Valkey] = []
    with ExitStack() as stack:
        for number in range(3):
            (tmp_path / str(number)).mkdir()
            options = ["--cluster-enabled", "yes", "--cluster-port", free_port()]
            shards.append(Valkey(tmp_path / str(number), *options))
            stack.callback(shards[-1].stop)
        direct = [stack.enter_context(closing(Sync.from_url(shard.url))) for shard in shards]
        for number, redis in enumerate(direct):
            redis.execute_command(
                "CLUSTER ADDSLOTSRANGE", number * 5461, (number * 5461 + 5460) if number < 2 else 16383
            )
            redis.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
        for shard in shards[1:]:
            bus = shard.command[shard.command.index("--cluster-port") + 1]
            direct[0].execute_command("CLUSTER MEET", "127.0.0.1", shard.port, bus)
        wait_for("the cluster", lambda: all(redis.cluster("info")["cluster_state"] == "ok" for redis in direct))

        async def work() -> None:
            redis = RedisCluster(host="127.0.0.1", port=shards[0].port, retry=Retry(NoBackoff(), 0))
            bucket = TokenBucket(redis, "api", AGES, 3, fail_open=False, timeout=LONG)
            answers = [await bucket.take(f"tenant {n % 50}") for n in range(200)]
            await redis.aclose()
            passed, degraded = sum(a.allowed for a in answers), sum(a.degraded for a in answers)
            shares = [shard.dbsize() for shard in direct]
            assert (passed, degraded) == (150, 0) and all(shares)
            fault(
                "a cluster of 3 shards, 50 tenants with 4 requests each and a burst of 3",
                f"{passed} of 200 allowed, {degraded} failed, {sum(share > 0 for share in shares)} shards hold buckets",
            )

        asyncio.run(work())
