"""The ticket's promises, with a balancer that goes on sending, clients that idle, drip, stall and hang up, signals."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from threading import Event

import pytest

from benchmarks.answers.components.conftest import Component
from recipes.engines import listening, wait_for

BUSY = 4  # seconds on top of every limit: the machine may be busy
END = 2  # the ticket's seconds for the end of the process

Start = Callable[..., Component]


class Client:
    """One connection, over which requests go by hand."""

    def __init__(self, server: Component, sent: bytes = b"", buffer: int = 0) -> None:
        self.socket = socket.socket()
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(30)
        self.socket.connect(("127.0.0.1", server.port))
        self.send(sent)

    def send(self, what: bytes) -> Client:
        self.socket.sendall(what)
        return self

    def get(self, path: str) -> Client:
        return self.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    def answer(self) -> tuple[int, bytes, bool]:
        """Status and body of the next answer, and whether it closes; IncompleteRead when it is cut, 0 without any."""
        response = http.client.HTTPResponse(self.socket)
        try:
            response.begin()
        except (http.client.RemoteDisconnected, ConnectionError):
            return 0, b"", True
        return response.status, response.read(), bool(response.will_close)


def get(server: Component, path: str) -> tuple[int, bytes]:
    client = Client(server)
    with closing(client.socket):
        return client.get(path).answer()[:2]


def upload(length: int, part: bytes) -> bytes:
    return f"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode() + part


def lines(count: int) -> bytes:
    return b"".join(b"line %d\n" % n for n in range(1, count + 1)) + b"end\n"


def ready(server: Component) -> Component:
    wait_for("/ready", lambda: get(server.ready(), "/ready")[0] == 200, 20)
    return server


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(40) as pool:
        yield pool


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def connect(stack: ExitStack) -> Callable[..., Client]:
    """connect(server, bytes) is a connection that is closed at the end."""

    def connect(*words: object, **named: int) -> Client:
        client = Client(*words, **named)  # type: ignore[arg-type]
        stack.callback(client.socket.close)
        return client

    return connect


def test_the_routes_answer_as_the_ticket_says(start: Start, connect: Callable[..., Client]) -> None:
    server = ready(start(MAX_BODY_BYTES=100_000))
    client = connect(server)

    def asked(path: str) -> object:
        status, body, _ = client.get(path).answer()
        return status, json.loads(body)

    assert asked("/healthz") == (200, {"status": "ok"}) and asked("/ready") == (200, {"ready": True})
    assert asked("/fast") == (200, {"ok": True})
    begun = time.monotonic()
    assert asked("/slow?ms=300") == (200, {"slept": 300}) and time.monotonic() - begun >= 0.29
    assert asked("/slow?ms=0") == (200, {"slept": 0})
    invalid = [
        "/slow", "/slow?ms=", "/slow?ms=x", "/slow?ms=-1", "/slow?ms=60001", "/stream?count=0", "/stream?count=x",
        "/stream?count=100001", "/stream?ms=-1", "/stream?ms=60001", "/stream?count=1&ms=1x",
    ]  # fmt: skip
    for path in invalid:
        assert (path, asked(path)) == (path, (400, {"error": "invalid_request"}))
    assert get(server, "/stream?count=3&ms=10") == (200, lines(3)) and get(server, "/nowhere")[0] in (404, 405)
    for body in (b"", bytes(range(256)) * 300):
        expected = {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
        assert json.loads(connect(server, upload(len(body), body)).answer()[1]) == expected
        chunked = b"POST /upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        pieces = [body[n : n + 9999] for n in range(0, len(body), 9999)]
        sent = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        assert json.loads(connect(server, chunked + sent + b"0\r\n\r\n").answer()[1]) == expected
    with suppress(ConnectionError):
        assert connect(server, upload(100_001, b"x" * 100_001)).answer()[0] in (413, 0)
    stream = connect(server).get("/stream?count=2&ms=4000")
    begun = time.monotonic()
    while b"line 1\n" not in stream.socket.recv(1000, socket.MSG_PEEK):
        time.sleep(0.01)
    assert time.monotonic() - begun < 3  # each line is sent at once


def test_what_the_balancer_sends_after_sigterm_is_answered(start: Start, pool: ThreadPoolExecutor) -> None:
    server = ready(start(LB_SECONDS=4, DRAIN_SECONDS=10))
    over, wrong = Event(), list[object]()

    def balance(fresh: bool) -> int:
        """Requests over connections that are kept where they may be, or over a new one each; how many went well."""
        count, client = 0, None
        while not over.is_set():
            try:
                client = client or Client(server)
                status, body, closes = client.get("/fast" if count % 5 else "/slow?ms=40").answer()
            except OSError as error:
                status, body, closes = 0, repr(error).encode(), True
            if status != 200:
                wrong.append((fresh, count, status, body))
                break
            count += 1
            if client and (fresh or closes):
                client.socket.close()
                client = None
            time.sleep(0.02)
        if client:
            client.socket.close()
        return count

    flows = [pool.submit(balance, n % 2 == 0) for n in range(12)]
    time.sleep(0.5)
    assert get(server, "/ready")[0] == 200
    begun = time.monotonic()
    server.term()
    wait_for("the refusal", lambda: get(server, "/ready")[0] == 503, BUSY)
    assert json.loads(get(server, "/ready")[1]) == {"ready": False} and get(server, "/healthz")[0] == 200
    while time.monotonic() - begun < 3.3:
        assert get(server, "/ready")[0] == 503
        time.sleep(0.1)
    over.set()
    assert all(each.result() for each in flows) and not wrong
    assert server.ended(4 + END + BUSY - (time.monotonic() - begun)) == 0


def test_a_connection_that_was_idle_for_seconds_is_used_again_also_after_sigterm(
    start: Start, connect: Callable[..., Client]
) -> None:
    server = ready(start(LB_SECONDS=3, DRAIN_SECONDS=10))
    kept = [connect(server).get("/fast") for _ in range(20)]
    assert [each.answer()[0] for each in kept] == [200] * 20
    time.sleep(8)
    assert [each.get("/fast").answer()[0] for each in kept[:10]] == [200] * 10
    begun = time.monotonic()
    server.term()
    time.sleep(1.5)
    assert [each.answer()[0] for each in [each.get("/slow?ms=300") for each in kept]] == [200] * 20
    assert server.ended(3 + END + BUSY - (time.monotonic() - begun)) == 0


def test_what_was_begun_is_finished_after_the_listener_has_closed(
    start: Start, connect: Callable[..., Client], pool: ThreadPoolExecutor
) -> None:
    server = ready(start(LB_SECONDS=1, DRAIN_SECONDS=30))
    body = b"0123456789" * 20
    idle = [connect(server).get("/fast") for _ in range(10)]
    assert [each.answer()[0] for each in idle] == [200] * 10
    dripping = connect(server, upload(len(body), body[:10]))
    before = [connect(server).get(path) for path in ("/slow?ms=5000", "/stream?count=50&ms=100")]
    time.sleep(0.3)  # so that it has read them
    server.term()
    after = [connect(server).get(path) for path in ("/slow?ms=4500", "/stream?count=40&ms=100")]

    def drip() -> None:
        for n in range(10, len(body)):
            dripping.send(body[n : n + 1])
            time.sleep(0.03)

    dripped = pool.submit(drip)
    wait_for("the end of listening", lambda: not listening(server.port), 1 + 1 + BUSY)
    assert server.running and not dripped.done()
    answers = [each.answer()[:2] for each in (*before, *after)]
    assert [status for status, _ in answers] == [200] * 4
    assert json.loads(answers[0][1]) == {"slept": 5000} and json.loads(answers[2][1]) == {"slept": 4500}
    assert (answers[1][1], answers[3][1]) == (lines(50), lines(40))
    dripped.result()
    status, answer, _ = dripping.answer()
    assert status == 200 and json.loads(answer) == {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    assert server.ended(END + BUSY) == 0


def test_a_copy_with_nothing_to_do_goes_promptly_whatever_connections_idle(
    start: Start, connect: Callable[..., Client]
) -> None:
    server = ready(start(LB_SECONDS=1.5, DRAIN_SECONDS=60))
    silent = [connect(server) for _ in range(150)]
    used = [connect(server).get("/fast") for _ in range(100)]
    assert [each.answer()[0] for each in used] == [200] * 100
    finished = connect(server).get("/stream?count=3&ms=1")
    assert finished.answer()[1] == lines(3)
    working = connect(server).get("/slow?ms=500")
    time.sleep(0.2)
    begun = time.monotonic()
    server.term()
    assert working.answer()[0] == 200 and silent
    assert server.ended(1.5 + END + BUSY) == 0 and time.monotonic() - begun > 1.4


def test_a_slow_reader_gets_the_whole_answer(start: Start, connect: Callable[..., Client]) -> None:
    server = ready(start(LB_SECONDS=0.5, DRAIN_SECONDS=60))
    slow = [connect(server, buffer=4096).get("/stream?count=100000&ms=0") for _ in range(3)]
    for each in slow:
        each.socket.recv(1, socket.MSG_PEEK)  # it has begun
    time.sleep(1)
    server.term()
    wait_for("the end of listening", lambda: not listening(server.port), 0.5 + 1 + BUSY)
    time.sleep(1)
    assert {each.answer()[:2] for each in slow} == {(200, lines(100_000))}
    assert server.ended(END + BUSY) == 0


def test_what_takes_too_long_is_broken_off_so_that_the_client_can_tell(
    start: Start, connect: Callable[..., Client]
) -> None:
    server = ready(start(LB_SECONDS=1, DRAIN_SECONDS=2))
    streams = [connect(server).get(f"/stream?count=100000&ms={ms}") for ms in (50, 60_000)]
    sleeping = connect(server).get("/slow?ms=60000")
    stalled = [
        connect(server, upload(1000, b"x" * 10)), connect(server, b"GET /fast HTT"), connect(server),
        connect(server, b"POST /upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"),
        connect(server, buffer=4096).get("/stream?count=100000&ms=0"),
    ]  # fmt: skip
    time.sleep(0.5)
    begun = time.monotonic()
    server.term()
    while time.monotonic() - begun < 1.5:
        assert server.process.poll() is None
        time.sleep(0.1)
    assert server.ended(1 + 2 + 1 + BUSY - 1.5) == 0 and stalled
    for each in streams:
        response = http.client.HTTPResponse(each.socket)
        response.begin()
        assert response.status == 200 and response.getheader("transfer-encoding") == "chunked"
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            response.read()
    assert sleeping.answer()[0] != 200


def test_further_signals_change_nothing(start: Start, connect: Callable[..., Client]) -> None:
    server = ready(start(LB_SECONDS=3, DRAIN_SECONDS=30))
    working = [connect(server).get("/slow?ms=6000"), connect(server).get("/stream?count=12&ms=500")]
    time.sleep(0.3)
    begun = time.monotonic()
    for n in range(16):
        server.term()
        if n < 8:
            assert get(server, "/fast")[0] == 200 and get(server, "/ready")[0] == 503
        time.sleep(0.3)
    assert working[0].answer()[0] == 200 and working[1].answer()[:2] == (200, lines(12))
    server.term()
    assert server.ended(END + BUSY) == 0 and time.monotonic() - begun > 5
    short = ready(start(LB_SECONDS=1, DRAIN_SECONDS=2))  # and they do not give more time either
    connect(short).get("/slow?ms=60000")
    time.sleep(0.3)
    begun = time.monotonic()
    while short.process.poll() is None and time.monotonic() - begun < 1 + 2 + 1 + BUSY:
        short.term()
        time.sleep(0.2)
    assert short.process.poll() == 0


def test_a_very_early_signal_ends_it(start: Start) -> None:
    begun = dict[Component, float]()
    for wait in (0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3):
        server = start(LB_SECONDS=1, DRAIN_SECONDS=1)
        time.sleep(wait)
        server.term()
        begun[server] = time.monotonic()
    for server, at in begun.items():
        server.ended(1 + 1 + 1 + 2 * BUSY - (time.monotonic() - at))
        wait_for("the end of all that it started", lambda server=server: not server.running, BUSY)


def test_clients_that_hang_up_hurt_nobody(start: Start, connect: Callable[..., Client]) -> None:
    server = ready(start(LB_SECONDS=1, DRAIN_SECONDS=3))
    rude = [connect(server, upload(100_000, b"x" * 5000)) for _ in range(20)]
    rude += [connect(server).get(path) for path in ("/stream?count=100000&ms=0", "/stream?ms=50", "/slow?ms=300") * 10]
    whole = [connect(server).get("/slow?ms=1500"), connect(server).get("/stream?count=15&ms=100")]
    time.sleep(0.2)
    for n, each in enumerate(rude):
        if n % 2:  # a reset instead of a proper end
            each.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        each.socket.close()
    connect(server, b"\x16\x03\x01 no HTTP\r\n\r\n")
    begun = time.monotonic()
    server.term()
    assert get(server, "/fast")[0] == 200
    assert whole[0].answer()[0] == 200 and whole[1].answer()[:2] == (200, lines(15))
    assert server.ended(1 + 3 + 1 + BUSY - (time.monotonic() - begun)) == 0
