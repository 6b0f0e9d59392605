"""The client against a server that hangs, drips, cuts, floods, lies and refuses, over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import importlib.util
import socket
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import closing, suppress
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import pytest

from recipes.engines import wait_for

spec = importlib.util.spec_from_file_location("recipe_client", Path(__file__).parent / "client.py")
assert spec and spec.loader
recipe = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recipe)

Fault = Callable[[str, str], None]
T = TypeVar("T")
FINE = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"
BOMB = gzip.compress(b"x" * 50_000_000)
BUSY = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n{}\r\nbusy"


class Server:
    """Answers each path in its own wrong way, and remembers what came."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.heads: list[dict[str, str]] = []
        self.accepted = self.open = self.sent = 0
        self.loop = asyncio.new_event_loop()
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        assert self.ready.wait(30)

    def run(self) -> None:
        asyncio.set_event_loop(self.loop)
        server = self.loop.run_until_complete(asyncio.start_server(self.serve, "127.0.0.1", 0, backlog=512))
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self.ready.set()
        self.loop.run_forever()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(30)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted, self.open = self.accepted + 1, self.open + 1
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                first, *lines = head.strip().split("\r\n")
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
                await reader.readexactly(int(headers.get("content-length", 0)))
                path = first.split()[1].strip("/")
                self.seen[path] += 1
                self.heads.append(headers)
                if not await self.answer(path, reader, writer):
                    break
        self.open -= 1
        writer.close()

    async def answer(self, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection lives on."""

        async def drip(text: bytes) -> bool:
            for byte in text:
                writer.write(bytes([byte]))
                with suppress(TimeoutError, asyncio.TimeoutError):
                    if await asyncio.wait_for(reader.read(1), 1) == b"":
                        return False
            return True

        nth = self.seen[path]
        if path == "silent":
            await reader.read()
            return False
        if path == "drip":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            return await drip(b"x" * 1000)
        if path == "drip-head":
            return await drip(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 1000)
        if path.startswith("cut") and (nth == 1 or path.endswith("always")):
            if path.startswith("cut-body"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbeginning")
                await writer.drain()
            return False
        if path == "slow-once" and nth == 1:
            return await drip(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000)
        if path == "storm" or (path.startswith("busy-once") and nth == 1):
            writer.write(BUSY.format("").encode())
            return True
        if path == "in-one-second" and nth == 1:
            writer.write(BUSY.format("Retry-After: 1\r\n").encode())
            return True
        if path == "in-an-hour":
            writer.write(BUSY.format("Retry-After: 3600\r\n").encode())
            return True
        if path == "by-another-clock" and nth == 1:  # an hour behind ours; asks for one second
            theirs = datetime.now(timezone.utc).replace(microsecond=0) - timedelta(hours=1)
            dates = [format_datetime(each, usegmt=True) for each in (theirs, theirs + timedelta(seconds=1))]
            writer.write(BUSY.format("Date: {}\r\nRetry-After: {}\r\n".format(*dates)).encode())
            return True
        if path == "large":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n")
            return await drip(b"xxxx")
        if path == "endless":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while not reader.at_eof() and self.sent < 50_000_000:
                writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                await writer.drain()
                self.sent += 65536
            return False
        if path == "bomb":
            body = gzip.compress(b"x" * 50_000_000)
            writer.write(
                f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
            )
            return True
        if path == "cookie":
            writer.write(FINE.replace(b"\r\n\r\n", b"\r\nSet-Cookie: session=alice; Path=/\r\n\r\n"))
            return True
        if path == "pieces":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 3_000_000)
            return True
        writer.write(FINE)
        return True


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


def with_client(url: str, act: Callable[[Any], Coroutine[Any, Any, T]], **settings: float) -> T:
    async def run() -> T:
        async with recipe.Client(
            url, recipe.Settings(**{"backoff": 0.01, "connect": 10, "read": 10, "attempt": 20, **settings})
        ) as client:
            return await act(client)

    return asyncio.run(run())


async def outcome(answer: Awaitable[httpx2.Response]) -> str:
    """Its status, or the name of the error."""
    try:
        return str((await answer).status_code)
    except Exception as error:
        return type(error).__name__


def call(server: Server, method: str, path: str, deadline: float = 30, **settings: float) -> tuple[str, float]:
    """The outcome of one call and how long it took."""

    async def act(client: Any) -> tuple[str, float]:
        began = time.monotonic()
        found = await outcome(client.request(method, path, deadline=deadline))
        took = time.monotonic() - began
        if not found.isdecimal():
            await closed(server)
        return found, took

    return with_client(server.url, act, **settings)


async def closed(server: Server) -> None:
    """Wait until no connection is left, while the client lives on."""
    await asyncio.to_thread(wait_for, "the connections' end", lambda: server.open == 0)


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("silent", "the server takes the request and never answers"),
        ("drip", "the body comes at one byte a second"),
        ("drip-head", "the header comes at one byte a second"),
    ],
)
def test_the_deadline_is_total(server: Server, fault: Fault, path: str, what: str) -> None:
    found, took = call(server, "GET", f"/{path}", deadline=1.5, read=5, attempt=8)
    assert found == "TimeoutError" and 1.4 < took < 10
    fault(f"{what}; deadline 1.5 s, read timeout 5 s", f"{found} at the deadline, the connection is closed")


def test_a_silence_ends_before_the_deadline(server: Server, fault: Fault) -> None:
    found, took = call(server, "GET", "/silent", deadline=60, read=0.2)
    tried = server.seen["silent"]
    assert found == "ReadTimeout" and tried == 3 and took < 20
    fault(
        "the same with read timeout 0.2 s and deadline 60 s",
        f"{found} after {tried} attempts, long before the deadline",
    )


def test_a_slow_attempt_leaves_time_for_another(server: Server, fault: Fault) -> None:
    found, _ = call(server, "GET", "/slow-once", deadline=20, attempt=1)
    assert found == "200" and server.seen["slow-once"] == 2
    fault(
        "the first answer drips, the second does not; attempt 1 s", f"{found} from attempt {server.seen['slow-once']}"
    )


def test_deadlines_leak_no_connection(server: Server, fault: Fault) -> None:
    async def act(client: Any) -> tuple[Counter[str], Counter[str]]:
        late = Counter([await outcome(client.request("GET", "/drip", deadline=0.05)) for _ in range(30)])
        fine = await asyncio.gather(*(outcome(client.request("GET", "/fine", deadline=20)) for _ in range(3)))
        return late, Counter(fine)

    late, fine = with_client(server.url, act, connections=3, pool=10, connect=10)
    assert late == {"TimeoutError": 30} and fine == {"200": 3}
    fault(
        "30 calls run into their deadlines on a pool of 3",
        f"{late['TimeoutError']} TimeoutError, then {fine['200']} parallel calls get their connections",
    )


def test_a_full_pool_fails_fast_and_is_not_retried(server: Server, fault: Fault) -> None:
    async def act(client: Any) -> Counter[str]:
        calls = (outcome(client.request("GET", "/silent", deadline=3)) for _ in range(20))
        found = Counter(await asyncio.gather(*calls))
        assert server.accepted == 2
        assert (
            await outcome(client.request("GET", "/busy-once", deadline=30)) == "200"
        )  # no retry was spent on the pool
        return found

    found = with_client(server.url, act, connections=2, pool=0.1, read=60, attempt=60, backoff=0)
    assert found == {"TimeoutError": 2, "PoolTimeout": 18} and server.seen["silent"] == 2
    fault(
        "20 parallel calls to a silent server, 2 connections, pool timeout 0.1 s",
        f"{found['PoolTimeout']} PoolTimeout at once, {server.seen['silent']} requests reach it, "
        f"{found['TimeoutError']} TimeoutError at the deadline; no retry spent",
    )


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("cut-body", "the connection is cut in the body"),
        ("cut-first", "the connection is closed before the answer"),
        ("busy-once", "503 once"),
    ],
)
def test_only_what_may_be_repeated_is_repeated(server: Server, fault: Fault, path: str, what: str) -> None:
    async def act(client: Any) -> list[str]:
        key = {"Idempotency-Key": "7"}
        return [
            await outcome(client.request("GET", f"/{path}/get", deadline=30)),
            await outcome(client.request("POST", f"/{path}/post", deadline=30, content=b"{}")),
            await outcome(client.request("POST", f"/{path}/key", deadline=30, content=b"{}", headers=key)),
        ]

    get, post, keyed = with_client(server.url, act)
    sent = [server.seen[f"{path}/{each}"] for each in ("get", "post", "key")]
    assert get == keyed == "200" and post in {"503", "RemoteProtocolError", "ReadError"} and sent == [2, 1, 2]
    fault(
        f"{what}, the second attempt would work",
        f"GET {get}, sent {sent[0]} times; POST an error, sent once; with a key {keyed}, sent {sent[2]} times",
    )


def test_a_connection_that_never_came_about_may_be_tried_again_even_for_a_post(fault: Fault) -> None:
    with closing(socket.socket()) as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        held = []
        for _ in range(20):  # until the queue of connections is full and the kernel lets new ones wait
            each = socket.socket()
            each.settimeout(0.3)
            held.append(each)
            try:
                each.connect(full.getsockname())
            except TimeoutError:
                break
        else:
            pytest.skip("this system's queue of connections is never full")

        async def act(client: Any) -> tuple[str, float]:
            began = time.monotonic()
            return await outcome(client.request("POST", "/", deadline=30)), time.monotonic() - began

        found, took = with_client(f"http://127.0.0.1:{full.getsockname()[1]}", act, connect=0.5, backoff=0)
        for each in held:
            each.close()
    assert found == "ConnectTimeout" and 1.4 < took < 20
    fault("the server's queue of connections is full, connect timeout 0.5 s", f"POST: {found} after 3 attempts")


def test_retries_end_with_their_budget(server: Server, fault: Fault) -> None:
    async def act(client: Any) -> tuple[int, int]:
        for _ in range(200):
            assert await outcome(client.request("GET", "/storm", deadline=30)) == "503"
        storm = server.seen["storm"]
        for _ in range(200):
            assert await outcome(client.request("GET", "/fine", deadline=30)) == "200"
        assert await outcome(client.request("GET", "/busy-once", deadline=30)) == "200"
        return storm, server.seen["busy-once"]

    storm, later = with_client(server.url, act, backoff=0)
    assert storm == 229 and later == 2
    fault(
        "503 storm: 200 calls one after the other, 3 attempts each",
        f"{storm} requests reach the server ({storm / 200:.2f} times the calls, 3.00 without a budget); "
        "after 200 good calls a retry works again",
    )


def test_retry_after_is_kept(server: Server, fault: Fault) -> None:
    found, took = call(server, "GET", "/in-one-second")
    assert found == "200" and took >= 1
    fault("503 with Retry-After: 1", f"{found} from attempt {server.seen['in-one-second']}, not before 1 s has passed")


def test_retry_after_beyond_the_deadline_is_an_answer(server: Server, fault: Fault) -> None:
    found, took = call(server, "GET", "/in-an-hour", deadline=20)
    assert found == "503" and server.seen["in-an-hour"] == 1 and took < 10
    fault("503 with Retry-After: 3600, deadline 20 s", f"{found} at once, sent {server.seen['in-an-hour']} time")


def test_a_date_is_read_by_the_servers_clock(server: Server, fault: Fault) -> None:
    found, took = call(server, "GET", "/by-another-clock")
    assert found == "200" and 1 <= took < 20
    fault(
        "Retry-After as a date one second ahead, by a clock that is an hour behind",
        f"{found}, not before 1 s has passed",
    )


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("large", "Content-Length: 10 GB"),
        ("endless", "a body without end"),
        ("bomb", "50 MB of gzip in 50 kB, not asked for"),
    ],
)
def test_a_body_too_large_is_refused(server: Server, fault: Fault, path: str, what: str) -> None:
    found, took = call(server, "GET", f"/{path}", max_body=100_000)
    assert found == "Refused" and server.seen[path] == 1 and took < 20
    assert server.sent < 20_000_000  # what the sockets' buffers hold
    fault(f"{what}; max_body 100 kB", f"{found}, not repeated, the connection is closed")


def test_a_stream_has_a_deadline_too(server: Server, fault: Fault) -> None:
    async def act(client: Any) -> tuple[int, str]:
        size = 0
        async with client.stream("GET", "/pieces", deadline=30) as response:
            async for piece in response.aiter_raw():
                size += len(piece)
                assert len(piece) <= 1 << 17
        began = time.monotonic()
        try:
            async with asyncio.timeout(20), client.stream("GET", "/drip", deadline=1) as response:
                async for _ in response.aiter_raw():
                    pass
        except TimeoutError as error:
            assert time.monotonic() - began < 15
            await closed(server)
            return size, type(error).__name__
        return size, "no error"

    size, error = with_client(server.url, act, max_body=1000, read=10)
    assert size == 3_000_000 and error == "TimeoutError"
    fault("a stream of 3 MB, then one that drips; deadline 1 s", f"{size} bytes in small pieces, then {error}")


def test_the_other_side_learns_what_time_is_left(server: Server, fault: Fault) -> None:
    found, _ = call(server, "GET", "/storm", deadline=5, backoff=0.1)
    left = [int(head["x-timeout-ms"]) for head in server.heads]
    assert found == "503" and len(left) == 3 and 5000 >= left[0] >= left[1] >= left[2] and left[0] > left[2]
    fault("3 attempts within one deadline", f"X-Timeout-Ms shrinks from attempt to attempt; {found} in the end")


def test_a_cookie_is_not_sent_with_the_next_call(server: Server, fault: Fault) -> None:
    async def act(client: Any) -> list[str]:
        return [await outcome(client.request("GET", path, deadline=30)) for path in ("/cookie", "/fine")]

    assert with_client(server.url, act) == ["200", "200"]
    carried = "a cookie" if "cookie" in server.heads[1] else "no cookie"
    assert carried == "no cookie"
    fault("the server sets a session cookie", f"the next call carries {carried}")


def test_the_environment_has_no_say(server: Server, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    found, _ = call(server, "GET", "/fine")
    assert found == "200"
    fault("HTTP_PROXY points to nowhere", f"{found}: the environment has no say")


def test_connections_are_used_again(server: Server, fault: Fault) -> None:
    async def act(client: Any) -> Counter[str]:
        return Counter([await outcome(client.request("GET", "/fine", deadline=30)) for _ in range(100)])

    assert with_client(server.url, act) == {"200": 100}
    fault("100 calls one after the other", f"{server.accepted} connection")


def test_a_cancelled_call_ends(server: Server, fault: Fault) -> None:
    async def act(client: Any) -> bool:
        call = asyncio.create_task(client.request("GET", "/silent", deadline=60))
        await asyncio.to_thread(wait_for, "the request", lambda: server.seen["silent"] == 1)
        call.cancel()
        await asyncio.wait([call])
        await closed(server)
        return call.cancelled()

    assert with_client(server.url, act, read=60, attempt=60) and server.seen["silent"] == 1
    fault("the caller is cancelled", "the call ends as cancelled, is not repeated, and its connection is closed")
