"""The ticket's promises, with a partner that fails, hangs, drips and cuts, callers that leave, and too many at once."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any
from urllib.parse import quote

import pytest

from benchmarks.answers.components.conftest import Component, Reply, Request, Upstream
from recipes.engines import free_port, listening, wait_for

BUSY = 4  # seconds on top of every limit: the machine may be busy
FAILED, LATE, FULL = (502, {"error": "upstream_failed"}), (504, {"error": "deadline"}), (503, {"error": "busy"})

Start = Callable[..., Component]


def ask(
    client: Component, path: str, body: bytes | None = None, whole: str | None = None, **headers: str
) -> http.client.HTTPResponse:
    """The answer to a GET of a path of the partner, or to a POST with a body; its body is in `read`."""
    with closing(http.client.HTTPConnection("127.0.0.1", client.port, timeout=60)) as connection:
        names = {name.replace("_", "-"): text for name, text in headers.items()}
        route = whole or f"/{'fetch' if body is None else 'send'}?path={quote(path, safe='')}"
        connection.request("GET" if body is None else "POST", route, body, names)
        response = connection.getresponse()
        text = response.read()
        response.read = lambda *_: text  # type: ignore[method-assign,assignment]
        return response


def told(client: Component, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
    """Status and JSON."""
    answer = ask(client, path, body, **headers)
    return answer.status, json.loads(answer.read())


def well(connection: socket.socket) -> None:
    """What a Stuck does when all is well."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
    connection.shutdown(socket.SHUT_WR)


class Stuck:
    """A partner that takes requests and does what it is told: by default nothing. It knows who is still there."""

    def __init__(self, speak: Callable[[socket.socket], None] = lambda _: None) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.lock, self.requests, self.gone = threading.Lock(), 0, 0
        self.speak = speak
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self.serve, args=(self.listener.accept()[0],), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            if not connection.recv(65536):
                return
            with self.lock:
                self.requests += 1
            try:
                self.speak(connection)
                while connection.recv(65536):
                    pass
            finally:
                with self.lock:
                    self.gone += 1


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(320) as pool:
        yield pool


@pytest.fixture
def begin(start: Start) -> Callable[..., Component]:
    """begin(upstream or stuck, DEADLINE_SECONDS=1) starts the client and waits until it is ready."""
    return lambda partner, **settings: start(UPSTREAM_URL=partner.url, **settings).ready()


@pytest.fixture
def stuck() -> Iterator[Callable[..., Stuck]]:
    made: list[Stuck] = []

    def begin(*words: Any) -> Stuck:
        made.append(Stuck(*words))
        return made[-1]

    yield begin
    for each in made:
        each.listener.close()


def test_the_answer_of_the_partner_comes_back_unchanged(
    begin: Callable[..., Component], upstream: Callable[..., Upstream]
) -> None:
    replies = {
        "/plain": Reply(200, b'{"a":  1}'),
        "/bytes": Reply(200, bytes(range(256)) * 4000, {"Content-Type": "image/png"}),
        "/made": Reply(201, b"made", {"Content-Type": "text/plain; charset=latin1"}), "/bad": Reply(400, b"no"),
        "/moved": Reply(302, b"there", {"Location": "/plain"}), "/none": Reply(404, b""), "/taken": Reply(409, b"{}"),
        "/empty": Reply(200, b"", {"Content-Type": "text/css"}), "/slow": Reply(200, b"late", wait=2.5),
    }  # fmt: skip
    partner = upstream(lambda request: replies.get(request.path, Reply()))
    client = begin(partner)
    for path, reply in replies.items():
        for body in (None, b"\x00\xff some bytes"):
            answer = ask(client, path, body, **({"Content_Type": "x/y", "Idempotency_Key": "k-1"} if body else {}))
            expected = reply.status, reply.body, reply.headers.get("Content-Type", "application/json")
            assert (path, answer.status, answer.read(), answer.getheader("Content-Type")) == (path, *expected)
            seen = partner.seen[-1]
            assert (seen.path, seen.method, seen.body) == (path, "POST" if body else "GET", body or b"")
            if body:
                assert (seen.headers["content-type"], seen.headers["idempotency-key"]) == ("x/y", "k-1")
    assert len(partner.seen) == 2 * len(replies)
    odd = [
        "/",
        "/a?b=c&d=%2F%20%00&e=+",
        "/a/../b/./c",
        "/a//b",
        "/%2e%2e/x",
        "/a\\b",
        "/?",
        "/@x:1/",
        '/a"<>[]{}|^`~;=',
    ]
    assert [ask(client, path).status for path in odd] == [200] * len(odd)
    assert [request.path for request in partner.seen[-len(odd) :]] == odd
    assert "idempotency-key" not in partner.seen[-1].headers


def test_a_caller_cannot_make_it_talk_to_somebody_else_or_send_too_much(
    begin: Callable[..., Component], upstream: Callable[..., Upstream]
) -> None:
    partner, other = upstream(), upstream()
    client = begin(partner, MAX_BODY_BYTES=10_000)
    host = other.url.removeprefix("http://")
    paths = [
        "", "a", "@" + host, "." + host, ":80/", other.url, f"//{host}/", f"/\\{host}/", f"\\\\{host}/", f"\\/{host}/",
        "/a b", "/a\tb", "/a\nb", f"/ HTTP/1.1\r\nHost: {host}\r\n\r\n", "/a#b", "/\u00e4", "/\x00", "/\x7f", " /a",
        "?a",
    ]  # fmt: skip
    refused = (400, {"error": "invalid_path"})
    assert [(path, told(client, path)) for path in paths] == [(path, refused) for path in paths]
    assert [(path, told(client, path, b"{}")) for path in paths] == [(path, refused) for path in paths]
    assert told(client, "", whole="/fetch") == told(client, "", b"{}", whole="/send") == refused
    bad = ["0", "-1", "1.5", "1e3", "x", "0x10", "5 5"]
    wrong = (400, {"error": "invalid_deadline"})
    assert [(text, told(client, "/a", X_Deadline_Ms=text)) for text in bad] == [(text, wrong) for text in bad]
    assert not partner.seen and not other.seen
    try:
        assert told(client, "/a", b"x" * 10_001) == (413, {"error": "too_large"})
    except ConnectionError:  # before all was sent
        pass
    assert not partner.seen
    assert told(client, "/a", b"x" * 10_000)[0] == 200 and partner.seen[-1].body == b"x" * 10_000
    assert told(client, "/a", X_Deadline_Ms=str(10**15))[0] == told(client, "/a", X_Deadline_Ms="3000")[0] == 200
    assert not other.seen


def test_a_hiccup_stays_invisible_where_repeating_does_no_harm(
    begin: Callable[..., Component], upstream: Callable[..., Upstream]
) -> None:
    faults = [
        Reply(500), Reply(502, b"x" * 100_000), Reply(503), Reply(504), Reply(429), Reply(cut=0),
        Reply(body=b"x" * 1000, cut=9), Reply(503, headers={"Retry-After": "0"}),
        Reply(body=b"x" * 200_000, cut=150_000),
    ]  # fmt: skip
    due = list[Reply]()
    partner = upstream(lambda _: due.pop() if due else Reply(body=b'{"well": 1}'))
    client = begin(partner)

    def good(count: int) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", client.port, timeout=60)) as connection:
            for _ in range(count):
                connection.request("GET", "/fetch?path=/good")
                answer = connection.getresponse()
                assert answer.read() and answer.status == 200

    for fault in faults:
        for body, key in ((None, {}), (b"\x00order", {"Idempotency_Key": "key-7", "Content_Type": "x/y"})):
            good(25)  # so that fewer than 1 in 20 fail
            due, before = [fault], len(partner.seen)
            assert (fault, told(client, "/hiccup", body, **key)) == (fault, (200, {"well": 1}))
            first, second = partner.seen[before:]
            assert (first.path, first.body) == (second.path, second.body) == ("/hiccup", body or b"")
            if body:
                assert {each.headers.get("idempotency-key") for each in (first, second)} == {"key-7"}
                assert {each.headers.get("content-type") for each in (first, second)} == {"x/y"}
    good(50)
    due, before = [Reply(500), Reply(cut=0)], len(partner.seen)
    assert told(client, "/twice")[0] == 200 and len(partner.seen) == before + 3


def test_what_may_do_harm_is_never_sent_twice(
    start: Start, begin: Callable[..., Component], upstream: Callable[..., Upstream], pool: ThreadPoolExecutor
) -> None:
    faults = {
        "500": Reply(500), "502": Reply(502), "503": Reply(503), "504": Reply(504), "cut": Reply(cut=0),
        "body": Reply(body=b"x" * 1000, cut=9), "large": Reply(body=b"x" * 3000), "hang": Reply(wait=2.5),
        "later": Reply(503, headers={"Retry-After": "0"}), "odd": Reply(599),
    }  # fmt: skip

    def reply(request: Request) -> Reply:
        kind = request.path.split("/")[1]
        if kind == "limit":
            return Reply(429) if sum(each.path == request.path for each in partner.seen) == 1 else Reply()
        return faults.get(kind, Reply())

    partner = upstream(reply)
    client = begin(partner, MAX_RESPONSE_BYTES=2000, DEADLINE_SECONDS=1.5, MAX_CONCURRENT=50)
    for kind in faults:
        assert {told(client, f"/good/{n}", b"{}")[0] for n in range(10)} == {200}  # a connection is kept
        assert (kind, told(client, f"/{kind}/1", b"order")) == (kind, LATE if kind == "hang" else FAILED)
    orders = [f"/cut/many{n}" for n in range(40)]
    assert set(pool.map(lambda path: ask(client, path, b"order").status, orders)) == {502}
    counts = Counter(request.path for request in partner.seen)
    assert {counts[path] for path in [f"/{kind}/1" for kind in faults] + orders} == {1}
    for n in range(40):
        assert ask(client, f"/good/x{n}").status == 200
    calm = begin(partner)  # where nothing has failed yet
    assert told(calm, "/limit/1", b"order")[0] == 200  # 429 means that nothing was done
    assert sum(request.path == "/limit/1" for request in partner.seen) == 2
    assert told(start(UPSTREAM_URL=f"http://127.0.0.1:{free_port()}").ready(), "/x", b"order") == FAILED


@pytest.mark.parametrize("kind", ["nothing", "head", "body", "endless"])
def test_every_answer_comes_within_the_time_that_was_promised(
    begin: Callable[..., Component], stuck: Callable[..., Stuck], pool: ThreadPoolExecutor, kind: str
) -> None:
    over = threading.Event()

    def speak(connection: socket.socket) -> None:
        if kind == "body":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        if kind == "endless":
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        pieces = {"head": b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 100_000, "body": b"x" * 100_000}
        for n in range(100_000 if kind != "nothing" else 0):
            if over.is_set():
                return
            connection.sendall(pieces[kind][n : n + 1] if kind in pieces else b"1\r\nx\r\n")
            time.sleep(0.05)

    partner = stuck(speak)
    client = begin(partner, DEADLINE_SECONDS=3, MAX_CONCURRENT=5, MAX_WAITING=100)

    def short(n: int) -> bool:
        return n >= 5 and n % 3 == 0

    def timed(n: int) -> tuple[Any, float]:
        begun = time.monotonic()
        answer = told(client, "/x", b"{}" if n % 2 else None, **({"X_Deadline_Ms": "700"} if short(n) else {}))
        return answer, time.monotonic() - begun

    asked = [pool.submit(timed, n) for n in range(5)]
    wait_for("the calls", lambda: partner.requests == 5, 1 + BUSY)
    asked += [pool.submit(timed, n) for n in range(5, 30)]  # these wait for their turn
    answers = [each.result() for each in asked]
    assert {str(answer) for answer, _ in answers} == {str(LATE)}
    assert all(taken < (0.7 if short(n) else 3) + 0.5 + BUSY / 4 for n, (_, taken) in enumerate(answers))
    assert min(taken for n, (_, taken) in enumerate(answers) if not short(n)) > 2.8
    wait_for("the end of the calls", lambda: partner.gone == partner.requests, 1 + BUSY)
    count = partner.requests
    time.sleep(0.7)
    assert partner.requests == count
    over.set()
    partner.speak = well
    assert [told(client, "/x") for _ in range(10)] == [(200, {})] * 10


def test_a_partner_that_asks_for_time_gets_it(
    begin: Callable[..., Component], upstream: Callable[..., Upstream]
) -> None:
    def reply(request: Request) -> Reply:
        _, status, seconds, _ = request.path.split("/")
        if sum(each.path == request.path for each in partner.seen) > 1:
            return Reply()
        return Reply(int(status), headers={"Retry-After": seconds})

    partner = upstream(reply)
    client = begin(partner, DEADLINE_SECONDS=4)
    for n, (path, body) in enumerate({"/429/1/a": None, "/503/2/a": None, "/429/1/b": b"order"}.items()):
        assert (n, told(client, path, body)[0]) == (n, 200)
        first, second = [request.at for request in partner.seen if request.path == path]
        assert second - first >= int(path.split("/")[2]) - 0.05
    for path, body in {"/429/3600/c": None, "/503/100/c": None, "/429/5/c": b"order"}.items():
        begun = time.monotonic()
        assert (path, told(client, path, body)) == (path, FAILED)
        assert time.monotonic() - begun < 2.5
        assert sum(request.path == path for request in partner.seen) == 1
    begun = time.monotonic()
    assert told(client, "/429/3/d", X_Deadline_Ms="1500") == FAILED and time.monotonic() - begun < 1.4


def test_when_all_fails_the_partner_is_not_flooded_and_afterwards_all_is_as_before(
    begin: Callable[..., Component], upstream: Callable[..., Upstream], pool: ThreadPoolExecutor
) -> None:
    down = True
    partner = upstream(lambda _: Reply(503) if down else Reply())
    client = begin(partner, DEADLINE_SECONDS=2)

    def burst(count: int) -> Counter[int]:
        """So many requests at 30 a second."""
        answers = []
        for _ in range(count):
            answers.append(pool.submit(lambda: ask(client, "/x").status))
            time.sleep(1 / 30)
        return Counter(each.result() for each in answers)

    assert set(burst(330)) <= {502, 503, 504}
    before = len(partner.seen)
    assert set(burst(100)) <= {502, 503, 504}
    assert len(partner.seen) - before <= 150
    down = False
    end = time.monotonic() + 10
    while (found := burst(10)) != {200: 10}:
        assert time.monotonic() < end + 1, found
    assert burst(30) == {200: 30}


def test_too_many_at_once_are_told_so_at_once(
    begin: Callable[..., Component], upstream: Callable[..., Upstream], pool: ThreadPoolExecutor
) -> None:
    gate = threading.Event()

    def reply(request: Request) -> Reply:
        gate.wait(20)
        return Reply(body=request.path.encode())

    partner = upstream(reply)
    client = begin(partner, MAX_CONCURRENT=5, MAX_WAITING=10, DEADLINE_SECONDS=15)
    asked = [pool.submit(ask, client, f"/{n}") for n in range(300)]
    wait_for("the refusals", lambda: sum(each.done() for each in asked) >= 285, 5 + BUSY)
    time.sleep(0.3)
    refused = [each.result() for each in asked if each.done()]
    assert len(refused) == 285 and partner.now == 5
    assert {(each.status, json.loads(each.read())["error"], each.getheader("Retry-After")) for each in refused} == {
        (503, "busy", "1")
    }
    begun = time.monotonic()
    assert told(client, "", whole="/healthz") == (200, {"status": "ok"})
    assert told(client, "/more", b"{}") == FULL and time.monotonic() - begun < 1 + BUSY / 2
    gate.set()
    answers = [(n, each.result()) for n, each in enumerate(asked)]
    assert sum(each.status == 200 for _, each in answers) == 15
    assert all(each.read() == f"/{n}".encode() for n, each in answers if each.status == 200)
    assert partner.most == 5 and len(partner.seen) == 15
    assert {each.status for each in pool.map(lambda n: ask(client, f"/{n}"), range(15))} == {200}


def test_a_caller_that_hangs_up_ends_its_call(
    begin: Callable[..., Component], stuck: Callable[..., Stuck], upstream: Callable[..., Upstream]
) -> None:
    partner = stuck()
    client = begin(partner, MAX_CONCURRENT=4, MAX_WAITING=10, DEADLINE_SECONDS=15)

    def call() -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", client.port), timeout=30)
        connection.sendall(b"GET /fetch?path=%2Fx HTTP/1.1\r\nHost: x\r\n\r\n")
        return connection

    callers = [call() for _ in range(4)]
    wait_for("the calls", lambda: partner.requests == 4, 1 + BUSY)
    callers += [call() for _ in range(8)]
    time.sleep(0.3)
    for each in callers[4:]:
        each.close()  # while they wait
    time.sleep(0.3)
    for each in callers[:4]:
        each.close()
    wait_for("the end of the calls", lambda: partner.gone == 4, 1 + BUSY)
    time.sleep(0.5)
    assert partner.requests == 4
    partner.speak = well
    assert [told(client, "/x") for _ in range(10)] == [(200, {})] * 10
    failing = upstream(lambda _: Reply(503, headers={"Retry-After": "1"}))
    client = begin(failing)
    leaver = call()
    wait_for("the call", lambda: failing.seen, 1 + BUSY)
    leaver.close()
    time.sleep(1.8)
    assert len(failing.seen) == 1


def test_half_an_answer_is_never_taken_for_a_whole_one(
    begin: Callable[..., Component], stuck: Callable[..., Stuck]
) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
    answers = [
        head + b"Content-Length: 100\r\n\r\nhalf", head + b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        head + b"Transfer-Encoding: chunked\r\n\r\n10\r\nhalf", head, b"", b"HTTP/1.1 2", b"no HTTP at all\r\n\r\n",
        head + b"Content-Length: 200001\r\n\r\n" + b"x" * 200_001,
        head + b"Content-Length: 99999999999\r\n\r\n" + b"x" * 300_000,
        head + b"Transfer-Encoding: chunked\r\n\r\n" + b"8000\r\n" + b"x" * 32768 + b"\r\n",
    ]  # fmt: skip
    said = b""

    def speak(connection: socket.socket) -> None:
        connection.sendall(said)
        while said.endswith(b"x\r\n") and len(said) > 30_000:  # without an end
            connection.sendall(said[-32776:])
        connection.shutdown(socket.SHUT_WR)

    partner = stuck(speak)
    client = begin(partner, MAX_RESPONSE_BYTES=200_000, DEADLINE_SECONDS=4)
    for said in answers:
        for body in (None, b"{}"):
            assert (said[:99], told(client, "/x", body)) == (said[:99], FAILED)
    whole = b"x" * 200_000
    said = head + b"Content-Length: 200000\r\n\r\n" + whole
    answer = ask(client, "/x")
    assert (answer.status, answer.read(), answer.getheader("Content-Type")) == (200, whole, "text/plain")


def test_sigterm_finishes_what_it_has_and_ends(
    begin: Callable[..., Component], upstream: Callable[..., Upstream], pool: ThreadPoolExecutor
) -> None:
    partner = upstream(lambda request: Reply(wait=1.5, body=b"%d" % len(request.body)))
    client = begin(partner, MAX_CONCURRENT=5, MAX_WAITING=20, DRAIN_SECONDS=10)
    with closing(http.client.HTTPConnection("127.0.0.1", client.port, timeout=30)) as kept:
        kept.request("GET", "/healthz")
        assert kept.getresponse().read() and kept.sock
        silent = socket.create_connection(("127.0.0.1", client.port), timeout=30)
        asked = [pool.submit(ask, client, "/x", b"x" * n) for n in range(10)]
        wait_for("the calls", lambda: len(partner.seen) == 5, 1 + BUSY)
        time.sleep(0.3)
        begun = time.monotonic()
        client.term()
        wait_for("the end of listening", lambda: not listening(client.port), 1 + BUSY)
        assert [(each.result().status, each.result().read()) for each in asked] == [(200, b"%d" % n) for n in range(10)]
        assert client.ended(10 + 1 + BUSY - (time.monotonic() - begun)) == 0
        silent.close()
    hanging = upstream(lambda _: Reply(wait=8))
    client = begin(hanging, DEADLINE_SECONDS=60, DRAIN_SECONDS=1)
    pool.submit(lambda: ask(client, "/x"))
    wait_for("the call", lambda: hanging.seen, 1 + BUSY)
    client.term()
    assert client.ended(1 + 1 + BUSY) == 0
