"""The ticket's promises, with clients that are silent, slow, huge and wrong, panics, overload and deploys."""

from __future__ import annotations

import http.client
import json
import re
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from benchmarks.answers.components.conftest import Component
from recipes.engines import listening, wait_for

Start = Callable[..., Component]
BUSY = 3  # seconds on top of every limit: the machine may be busy
LONG = 30
ORDER = b'{"sku": "A-1", "quantity": 2}'
JSON = {"Content_Type": "application/json"}


@dataclass
class Answer:
    """What a client was told, and how long that took."""

    status: int
    headers: dict[str, str]  # names in small letters
    body: bytes
    seconds: float

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, Any]:
        assert self.headers.get("content-type", "").startswith("application/json"), self
        return self.status, self.json().get("error")


class Client:
    """One connection, kept alive unless the service closes it."""

    def __init__(self, copy: Component) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", copy.port, timeout=LONG)
        self.connection.connect()

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        began = time.monotonic()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, path, body, named, encode_chunked=named.get("Transfer-Encoding") == "chunked")
        response = self.connection.getresponse()
        text = response.read()
        heads = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status, heads, text, time.monotonic() - began)

    def close(self) -> None:
        self.connection.close()


def ask(copy: Component, method: str, path: str, body: Any = None, **headers: str) -> Answer:
    client = Client(copy)
    try:
        return client(method, path, body, **headers)
    finally:
        client.close()


def order(copy: Component, body: bytes = ORDER, **headers: str) -> Answer:
    return ask(copy, "POST", "/orders", body, **(headers or {"Content_Type": "application/json"}))


def raw(copy: Component, text: bytes = b"") -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", copy.port), timeout=LONG)
    sock.sendall(text)
    return sock


def rest(sock: socket.socket) -> bytes:
    """All that comes until the service closes the connection."""
    text = b""
    with suppress(ConnectionError):
        while part := sock.recv(65536):
            text += part
    return text


def drip(sock: socket.socket, byte: bytes, pause: float, limit: float) -> tuple[bytes, float]:
    """Send a byte every now and then until the service answers or closes: what it said, and after how long."""
    began = time.monotonic()
    sock.settimeout(pause)
    text = b""
    while time.monotonic() < began + limit:
        try:
            part = sock.recv(65536)
        except TimeoutError:
            with suppress(ConnectionError):
                sock.sendall(byte)
            continue
        except ConnectionError:
            part = b""
        text += part
        if not part or text:
            return text, time.monotonic() - began
    raise AssertionError(f"neither answered nor closed within {limit} s")


def flood(sock: socket.socket, part: bytes) -> bytes:
    """Send without end; what the service says to it, empty when it closes, before it has taken 64 MB."""
    with sock:
        for _ in range((64 << 20) // len(part)):
            try:
                sock.settimeout(LONG)
                sock.sendall(part)
                sock.setblocking(False)
                return sock.recv(65536)
            except BlockingIOError:
                continue
            except ConnectionError:
                return b""
    raise AssertionError("64 MB were taken without a word")


def test_an_order_is_taken_and_the_wrong_are_told_so(start: Start) -> None:
    copy = start().ready()
    assert ask(copy, "GET", "/healthz").json() == {"status": "ok"}
    ids = set[str]()
    skus = ["A-1", "x", "é\u4e2d" * 32, "\U0001f600" * 64]
    for number, sku in enumerate(skus, 997):
        body = json.dumps({"sku": sku, "quantity": number, "more": [{}]}).encode()
        answer = order(copy, body, Content_Type="application/json; charset=utf-8")
        assert answer.status == 201, answer
        told = answer.json()
        assert (told["sku"], told["quantity"]) == (sku, number)
        assert re.fullmatch("[A-Za-z0-9-]{8,64}", told["id"])
        ids.add(told["id"])
    copy.kill()
    copy.start()
    copy.ready()
    ids |= {order(copy).json()["id"] for _ in range(20)}
    assert len(ids) == len(skus) + 20
    assert ask(copy, "GET", "/slow?ms=20").json() == {"slept": 20}
    assert ask(copy, "GET", "/nowhere").error == (404, "not_found")
    for method, path in (("GET", "/orders"), ("PUT", "/orders"), ("POST", "/slow?ms=1"), ("DELETE", "/panic")):
        assert ask(copy, method, path).error == (405, "method_not_allowed"), (method, path)
    for query in ("", "?ms=", "?ms=-1", "?ms=60001", "?ms=a", "?ms=1.5", "?ms=99999999999999999999", "?ms=1%00"):
        assert ask(copy, "GET", "/slow" + query).error == (400, "invalid_request"), query


def test_bodies_that_are_no_order_are_refused(start: Start) -> None:
    copy = start().ready()
    bodies = [
        b"", b"{", b"null", b"[]", b'"a"', b"{}", ORDER + b"x", ORDER + ORDER, ORDER + b" 1", b"[" + ORDER + b"]",
        b'{"sku": "", "quantity": 1}', b'{"sku": "a"}', b'{"quantity": 1}', b'{"sku": 1, "quantity": 1}',
        b'{"sku": "a", "quantity": 0}', b'{"sku": "a", "quantity": 1001}', b'{"sku": "a", "quantity": 1.5}',
        b'{"sku": "a", "quantity": "1"}', b'{"sku": "a", "quantity": -1}', b'{"sku": "a", "quantity": null}',
        b'{"sku": null, "quantity": 1}', b'{"sku": "a", "quantity": 99999999999999999999999}', b"\x00\xff",
        b'{"sku": "a", "quantity": true}', b"[" * 100_000, b'{"sku":' * 50_000, b"<xml/>", b"sku=a&quantity=1",
        json.dumps({"sku": "x" * 65, "quantity": 1}).encode(),
    ]  # fmt: skip
    for body in bodies:
        assert order(copy, body).error == (400, "invalid_request"), body[:60]
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/jsonx", "application", "text/json"):
        assert order(copy, Content_Type=kind).error == (415, "unsupported_media_type"), kind
    assert ask(copy, "POST", "/orders", ORDER).error == (415, "unsupported_media_type")
    assert order(copy).status == 201


def test_a_body_that_is_too_large_is_refused_and_not_read_to_its_end(start: Start) -> None:
    copy = start(MAX_BODY_BYTES=4000).ready()
    for size in (4000, 4001, 30_000):
        body = ORDER[:-1] + b" " * (size - len(ORDER)) + b"}"
        for chunked in (False, True):
            if chunked:
                parts = (body[at : at + 1000] for at in range(0, size, 1000))
                answer = ask(copy, "POST", "/orders", parts, **{**JSON, "Transfer_Encoding": "chunked"})
            else:
                answer = order(copy, body)
            if size == 4000:
                assert answer.status == 201, answer
            else:
                assert answer.error == (413, "too_large"), (size, chunked)
    said = flood(raw(copy, HEAD + b"Transfer-Encoding: chunked\r\n\r\n"), b"10000\r\n" + b" " * 65536 + b"\r\n")
    assert said == b"" or said.startswith(b"HTTP/1.1 413"), said
    assert order(copy).status == 201


HEAD = b"POST /orders HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


def test_a_header_that_does_not_come_to_its_end_is_given_up(start: Start) -> None:
    """Silent from the start, dripping, and on a connection that has served before."""
    copy = start(HEADER_SECONDS=1, BODY_SECONDS=25, IDLE_SECONDS=25).ready()
    used = raw(copy, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
    assert used.recv(65536).startswith(b"HTTP/1.1 200")
    time.sleep(1.5)  # not idle for too long
    with ThreadPoolExecutor(3) as pool:
        silent = pool.submit(drip, raw(copy), b"", 0.3, 1 + 1 + BUSY)
        slow = pool.submit(drip, raw(copy, b"GET /"), b"a", 0.3, 1 + 1 + BUSY)
        used.sendall(b"GET /healthz HTTP/1.1\r\nHo")
        again = pool.submit(drip, used, b"s", 0.3, 1 + 1 + BUSY)
        for which in (silent, slow, again):
            text, _ = which.result()
            assert text == b"" or text.startswith(b"HTTP/1.1 40"), text
    assert order(copy).status == 201


def test_a_body_that_trickles_in_is_given_up(start: Start) -> None:
    copy = start(BODY_SECONDS=2, HEADER_SECONDS=1, REQUEST_SECONDS=25, IDLE_SECONDS=25, MAX_REQUESTS=2).ready()
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(drip, raw(copy, HEAD + b"Content-Length: 4000\r\n\r\n{"), b" ", 0.2, 2 + 1 + BUSY)
        none = pool.submit(drip, raw(copy, HEAD + b"Content-Length: 4000\r\n\r\n"), b"", 0.2, 2 + 1 + BUSY)
        for text, seconds in (slow.result(), none.result()):
            assert seconds > 1
            if text:
                assert text.startswith(b"HTTP/1.1 408") and b'"timeout"' in text, text
    wait_for("room for others", lambda: order(copy).status == 201, 1 + BUSY)


def test_an_unused_connection_is_closed(start: Start) -> None:
    copy = start(IDLE_SECONDS=2, HEADER_SECONDS=1).ready()
    client = Client(copy)
    assert client("POST", "/orders", ORDER, **JSON).status == 201
    time.sleep(1)
    assert client("POST", "/orders", ORDER, **JSON).status == 201  # kept until then
    began = time.monotonic()
    assert client.connection.sock.recv(1) == b""
    assert 1 < time.monotonic() - began < 2 + 1 + BUSY


def test_a_header_that_is_too_large_is_refused(start: Start) -> None:
    copy = start(MAX_HEADER_BYTES=8000).ready()
    assert order(copy, ORDER, **JSON, X_Large="x" * 7000).status == 201
    many = {f"X_Part_{number}": "x" * 20 for number in range(200)}
    assert order(copy, ORDER, **JSON, **many).status == 201
    for more in ({"X_Large": "x" * 17_000}, {f"X_Part_{number}": "x" * 100 for number in range(99)} | {
        "X_Large": "x" * 12_000
    }):  # fmt: skip
        assert order(copy, ORDER, **JSON, **more).status == 431
    said = flood(raw(copy, b"GET /healthz HTTP/1.1\r\nX-Endless: "), b"x" * 65536)
    assert said == b"" or said.startswith(b"HTTP/1.1 431"), said


def test_a_panic_costs_its_own_request_only_and_tells_nothing(start: Start) -> None:
    copy = start().ready()
    neighbours = [Client(copy) for _ in range(3)]
    with ThreadPoolExecutor(24) as pool:
        waiting = [pool.submit(client, "GET", "/slow?ms=2000") for client in neighbours]
        time.sleep(0.3)
        for answer in pool.map(lambda _: ask(copy, "GET", "/panic"), range(20)):
            assert answer.error == (500, "internal")
            assert set(answer.json().values()) == {"internal"}, answer
        assert [each.result().status for each in waiting] == [200] * 3
    for client in neighbours:  # their connections live
        assert client("POST", "/orders", ORDER, **JSON).status == 201
        client.close()


def test_what_takes_too_long_is_told_so(start: Start) -> None:
    copy = start(REQUEST_SECONDS=1.5, BODY_SECONDS=25, IDLE_SECONDS=25).ready()
    assert ask(copy, "GET", "/slow?ms=300").json() == {"slept": 300}
    answer = ask(copy, "GET", "/slow?ms=20000")
    assert answer.error == (503, "timeout")
    assert 1.4 < answer.seconds < 1.5 + 1 + BUSY


def test_when_there_is_too_much_to_do_some_are_told_so_at_once(start: Start) -> None:
    copy = start(MAX_REQUESTS=5, REQUEST_SECONDS=25).ready()
    with ThreadPoolExecutor(40) as pool:
        slow = list(pool.map(lambda _: ask(copy, "GET", "/slow?ms=4000"), range(40)))

    def insist() -> Answer:
        """Again when an order of the test has the place."""
        while (answer := ask(copy, "GET", "/slow?ms=4000")).status == 503:
            pass
        return answer

    good, told = [a for a in slow if a.status == 200], [a for a in slow if a.status != 200]
    assert len(good) == 5
    for answer in told:
        assert answer.error == (503, "busy")
        assert answer.headers["retry-after"] == "1"
        assert answer.seconds < 1 + BUSY - 0.5
    with ThreadPoolExecutor(5) as pool:
        busy = [pool.submit(insist) for _ in range(5)]
        wait_for("the fifth", lambda: order(copy).status == 503, 3)
        assert ask(copy, "GET", "/healthz").json() == {"status": "ok"}
        assert {each.result().status for each in busy} == {200}
    for path in ("/panic", "/nowhere") * 6:  # these give their places back
        ask(copy, "GET", path)
    assert order(copy).status == 201


def test_clients_that_hang_up_do_not_keep_their_places(start: Start) -> None:
    copy = start(MAX_REQUESTS=10, REQUEST_SECONDS=2, BODY_SECONDS=2).ready()
    for _ in range(3):
        for _ in range(10):
            raw(copy, b"GET /slow?ms=60000 HTTP/1.1\r\nHost: a\r\n\r\n").close()
            raw(copy, HEAD + b"Content-Length: 4000\r\n\r\n{").close()
        wait_for("room", lambda: order(copy).status == 201, 2 + 1 + BUSY)


def test_500_silent_and_slow_clients_do_not_hold_up_the_others(start: Start) -> None:
    copy = start(HEADER_SECONDS=25, BODY_SECONDS=25, MAX_REQUESTS=150).ready()
    with ExitStack() as stack:
        for number in range(500):
            text = [b"", b"GET /heal", HEAD, HEAD + b"Content-Length: 4000\r\n\r\n{", b"\r\n"][number % 5]
            stack.enter_context(raw(copy, text))
        with ThreadPoolExecutor(10) as pool:
            answers = list(pool.map(lambda _: order(copy), range(40)))
        assert {answer.status for answer in answers} == {201}
        assert max(answer.seconds for answer in answers) < 1 + 1 + BUSY / 2
        assert ask(copy, "GET", "/healthz").status == 200


def test_what_is_not_http_is_refused_and_hurts_nobody(start: Start) -> None:
    copy = start(HEADER_SECONDS=2, BODY_SECONDS=2).ready()
    neighbour = Client(copy)
    assert neighbour("POST", "/orders", ORDER, **JSON).status == 201
    for text in (
        b"nonsense\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"GET / HTTP/1.1\r\nno\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n", HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ):  # fmt: skip
        with raw(copy, text) as sock:
            said = rest(sock)
            assert said.startswith(b"HTTP/1.1 400"), (text, said)
            assert b"goroutine" not in said and b".go" not in said
    assert neighbour("POST", "/orders", ORDER, **JSON).status == 201
    neighbour.close()


def test_a_deploy_is_not_noticed(start: Start) -> None:
    """Requests come on old and new connections as long as the load balancer sends them; what was begun is finished."""
    copy = start(LB_SECONDS=3, DRAIN_SECONDS=6).ready()
    kept = Client(copy)
    assert kept("POST", "/orders", ORDER, **JSON).status == 201
    with ThreadPoolExecutor(2) as pool:
        long = pool.submit(ask, copy, "GET", "/slow?ms=5000")
        time.sleep(0.3)
        copy.term()
        began = time.monotonic()
        wait_for("the end of its health", lambda: ask(copy, "GET", "/healthz").status == 503, 1.5)
        assert ask(copy, "GET", "/healthz").json() == {"status": "stopping"}
        while time.monotonic() < began + 2.3:
            assert order(copy).status == 201
            answer = kept("POST", "/orders", ORDER, **JSON)
            assert answer.status == 201
            if answer.headers.get("connection", "").lower() == "close":
                kept.close()
                kept = Client(copy)
            time.sleep(0.05)
        late = pool.submit(ask, copy, "GET", "/slow?ms=3500")
        wait_for("no new connections", lambda: not listening(copy.port), 3 + 1 + BUSY)
        assert time.monotonic() - began > 2.9
        assert long.result().json() == {"slept": 5000}
        assert late.result().json() == {"slept": 3500}
    finished = time.monotonic()
    assert copy.ended(2 + 1 + BUSY) == 0
    assert time.monotonic() - finished < 2 + 1 + BUSY
    kept.close()


def test_with_nothing_under_way_a_deploy_waits_for_nobody(start: Start) -> None:
    """Not for silent clients, half a header or connections that are kept."""
    copy = start(LB_SECONDS=1, DRAIN_SECONDS=25, HEADER_SECONDS=25, IDLE_SECONDS=25, BODY_SECONDS=25).ready()
    with ExitStack() as stack:
        kept = Client(copy)
        assert kept("POST", "/orders", ORDER, **JSON).status == 201
        copy.term()
        began = time.monotonic()
        time.sleep(0.5)
        for number in range(20):
            stack.enter_context(raw(copy, b"GET /heal" if number % 2 else b""))
        assert copy.ended(1 + 2 + 1 + 1) == 0
        assert time.monotonic() - began > 0.9
        kept.close()


def test_what_takes_longer_than_the_drain_is_broken_off(start: Start) -> None:
    copy = start(LB_SECONDS=0.5, DRAIN_SECONDS=2, REQUEST_SECONDS=60, BODY_SECONDS=60).ready()
    with ThreadPoolExecutor(5) as pool:
        slow = [pool.submit(ask, copy, "GET", "/slow?ms=60000") for _ in range(4)]
        body = raw(copy, HEAD + b"Content-Length: 4000\r\n\r\n{")
        quick = pool.submit(ask, copy, "GET", "/slow?ms=1500")
        time.sleep(0.4)
        copy.term()
        copy.term()  # twice
        began = time.monotonic()
        assert copy.ended(0.5 + 2 + 1 + 1 + BUSY) == 0
        assert time.monotonic() - began > 2
        assert quick.result().json() == {"slept": 1500}
        for each in slow:
            with suppress(OSError, http.client.HTTPException):
                assert each.result().status == 503
        body.close()
