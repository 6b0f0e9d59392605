"""The ticket's promises, with crowds, callers that leave, a pricing system that hangs, lies, cuts and is slow."""

from __future__ import annotations

import http.client
import json
import resource
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any

import pytest

from benchmarks.answers.components.conftest import Component, Reply, Request, Upstream
from recipes.engines import free_port, listening, wait_for

BUSY = 4  # seconds on top of every limit: the machine may be busy
FAILED, LATE = (502, {"error": "upstream_failed"}), (504, {"error": "timeout"})

Start = Callable[..., Component]


def price(request: Request | str, amount: str = "12.34", **other: object) -> bytes:
    name = request if isinstance(request, str) else request.path.removeprefix("/prices/")
    return json.dumps({"id": name, "amount": amount, "currency": "EUR", **other}).encode()


def get(client: Component, path: str) -> tuple[int, Any]:
    with closing(http.client.HTTPConnection("127.0.0.1", client.port, timeout=60)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        return answer.status, json.loads(body) if body.startswith(b"{") else body


def ask(client: Component, name: str) -> tuple[int, Any]:
    return get(client, f"/prices/{name}")


def called(client: Component, name: str) -> socket.socket:
    """A connection on which a request was sent."""
    connection = socket.create_connection(("127.0.0.1", client.port), timeout=30)
    connection.sendall(f"GET /prices/{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return connection


def heard(connection: socket.socket) -> tuple[int, Any]:
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, json.loads(response.read())


class Prices:
    """The pricing system: each id has its own replies, the last of which stays; without any it answers a price."""

    def __init__(self, upstream: Callable[..., Upstream]) -> None:
        self.replies: dict[str, list[Reply]] = {}
        self.gates: dict[str, threading.Event] = {}
        self.lock = threading.Lock()
        self.server = upstream(self.reply)
        self.url = self.server.url

    def reply(self, request: Request) -> Reply:
        name = request.path.removeprefix("/prices/")
        if name in self.gates:
            self.gates[name].wait(25)
        with self.lock:
            replies = self.replies.get(name, [])
            return (replies.pop(0) if len(replies) > 1 else replies[0]) if replies else Reply(body=price(request))

    def calls(self, name: str) -> int:
        return sum(request.path == f"/prices/{name}" for request in self.server.seen)


@pytest.fixture
def prices(upstream: Callable[..., Upstream]) -> Prices:
    return Prices(upstream)


@pytest.fixture
def begin(start: Start, prices: Prices) -> Callable[..., Component]:
    """begin(TTL_SECONDS=1) starts the client and waits until it is ready."""
    return lambda **settings: start(UPSTREAM_URL=prices.url, **settings).ready()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(320) as pool:
        yield pool


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_prices_come_as_the_pricing_system_gave_them_and_are_used_again(
    begin: Callable[..., Component], prices: Prices
) -> None:
    client = begin()
    longest = "x" * 64
    prices.replies = {
        "a_B-9": [Reply(body=price("a_B-9", "0.10", more={"id": "other"}, ID="z", Amount=1))],
        longest: [
            Reply(body=price(longest, "1234567890.12", pad="x" * 60_000), headers={"Content-Type": "text/plain"})
        ],
        "gone": [Reply(404, b"nothing")],
    }
    for _ in range(3):
        assert ask(client, "a_B-9") == (200, {"id": "a_B-9", "amount": "0.10", "currency": "EUR"})
        assert ask(client, longest)[1]["amount"] == "1234567890.12"
        assert ask(client, "gone") == (404, {"error": "not_found"})
        assert get(client, "/healthz") == (200, {"status": "ok"})
    assert [prices.calls(name) for name in ("a_B-9", longest, "gone")] == [1, 1, 3]
    before = len(prices.server.seen)
    for name in (
        "x" * 65,
        "a.b",
        "a%20b",
        "%C3%A4",
        "a%0A",
        "%00",
        "a%3Fb",
        "a%23b",
        "a*",
        "a;b",
        "a%25",
        "a:80",
        "a%40b",
    ):
        assert (name, ask(client, name)) == (name, (400, {"error": "invalid_id"}))
    for name in ("..%2Fadmin", "a%2Fb", "a/b", "..", "%2e%2e", "%2e%2e/admin", "", "/x", "//x", "http://x/"):
        assert ask(client, name)[0] >= 300
    assert get(client, "/nowhere")[0] in (404, 405) and len(prices.server.seen) == before


def test_a_crowd_that_asks_the_same_leads_to_one_call(
    begin: Callable[..., Component], prices: Prices, stack: ExitStack, pool: ThreadPoolExecutor
) -> None:
    least = 4500
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < least:
        resource.setrlimit(resource.RLIMIT_NOFILE, (least, hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
    client = begin(TIMEOUT_SECONDS=15, TTL_SECONDS=15)
    prices.gates["hot"] = threading.Event()
    crowd = [stack.enter_context(called(client, "hot")) for _ in range(2000)]
    wait_for("the call", lambda: prices.calls("hot"), 1 + BUSY)
    prices.gates["hot"].set()
    assert Counter(str(heard(each)) for each in crowd) == {str((200, json.loads(price("hot")))): 2000}
    assert prices.calls("hot") == 1
    short = begin(TIMEOUT_SECONDS=1, TTL_SECONDS=1)  # and so it is in the moments of expiry, and with failures
    begun = time.monotonic()
    while time.monotonic() - begun < 2.5:
        assert {status for status, _ in pool.map(lambda _: ask(short, "often"), range(100))} == {200}
    assert prices.calls("often") <= (time.monotonic() - begun) / 1 + 1
    prices.gates["bad"], prices.replies["bad"] = threading.Event(), [Reply(500)]
    asked = [pool.submit(ask, client, "bad") for _ in range(100)]
    wait_for("the call", lambda: prices.calls("bad"), 1 + BUSY)
    time.sleep(1)  # so that all are there
    prices.gates["bad"].set()
    assert {str(each.result()) for each in asked} == {str(FAILED)} and prices.calls("bad") == 1


def test_no_price_is_used_for_longer_than_it_may_be(begin: Callable[..., Component], prices: Prices) -> None:
    client = begin(TTL_SECONDS=1.5, TIMEOUT_SECONDS=1.4)
    begun: dict[str, float] = {}
    count = 0

    def reply(request: Request) -> Reply:
        nonlocal count
        count += 1
        begun[f"{count}.00"] = request.at
        return Reply(body=price(request, f"{count}.00"), wait=1 if count % 2 else 0)

    prices.server.reply = reply
    end, used = time.monotonic() + 9, list[str]()
    while time.monotonic() < end:
        asked = time.monotonic()
        status, body = ask(client, "p")
        assert status in (200, 504)
        if status == 200:
            assert asked - begun[body["amount"]] <= 1.5
            used.append(body["amount"])
        time.sleep(0.02)
    assert max(Counter(used).values()) >= 5 and count <= 9 / 1.5 + 2


def test_who_leaves_takes_nothing_from_those_who_stay_or_come(
    begin: Callable[..., Component], prices: Prices, pool: ThreadPoolExecutor
) -> None:
    client = begin(TIMEOUT_SECONDS=8, TTL_SECONDS=8)
    gate = prices.gates["p"] = threading.Event()
    first = called(client, "p")
    wait_for("the call", lambda: prices.calls("p"), 1 + BUSY)
    others = [called(client, "p") for _ in range(50)]
    time.sleep(0.3)
    first.close()
    for each in others[::2]:
        each.close()
    time.sleep(0.3)
    gate.set()
    assert {heard(each)[0] for each in others[1::2]} == {200} and prices.calls("p") == 1
    for each in others:
        each.close()
    for n in range(30):  # all leave, and somebody comes in the same moment
        name = f"q{n}"
        prices.replies[name] = [Reply(body=price(name), wait=0.2)]
        gone = [called(client, name) for _ in range(3)]
        wait_for("the call", lambda name=name: prices.calls(name), 1 + BUSY)
        for each in gone:
            each.close()
        time.sleep(n % 6 * 0.001)
        assert ask(client, name) == (200, json.loads(price(name)))
        assert prices.calls(name) <= 2


def test_an_error_is_told_as_what_it_is_and_forgotten(
    start: Start, begin: Callable[..., Component], prices: Prices, upstream: Callable[..., Upstream]
) -> None:
    client = begin(TIMEOUT_SECONDS=3)
    other = upstream()
    good = {"id": "x", "amount": "1.00", "currency": "EUR"}
    bodies: list[object] = [
        {}, [], None, "x", [good], {**good, "id": "y"}, {**good, "id": "X"}, {**good, "amount": 1},
        {**good, "amount": None},
        {**good, "currency": None}, {**good, "currency": ["EUR"]}, {**good, "id": 1}, {"id": "x", "amount": "1.00"},
        {"id": "x", "currency": "EUR"}, {"amount": "1.00", "currency": "EUR"}, {**good, "pad": "x" * 200_000},
        {"ID": "x", "Amount": "1.00", "Currency": "EUR"},
    ]  # fmt: skip
    faults = [Reply(body=json.dumps(body).encode()) for body in bodies]
    whole = json.dumps(good).encode()
    faults += [
        Reply(body=b""), Reply(body=whole[:-1]), Reply(body=whole + b"}"), Reply(body=b"<html>"),
        Reply(body=whole, cut=9),
        Reply(cut=0), Reply(500, whole), Reply(503, whole, {"Retry-After": "0"}), Reply(429, whole), Reply(400, whole),
        Reply(201, whole), Reply(302, whole, {"Location": other.url + "/prices/x"}), Reply(410, whole),
        Reply(401, whole),
        Reply(302, whole, {"Location": prices.url + "/prices/good"}), Reply(500, b"x" * 300_000),
    ]  # fmt: skip
    for n, fault in enumerate(faults):
        name = f"x{n}"
        fault.body = fault.body.replace(b'"x"', f'"{name}"'.encode())
        prices.replies[name] = [fault, Reply(body=price(name))]
        assert ask(client, "good")[0] == 200
        ask(client, f"fresh{n}")  # which leaves a connection that may be kept
        assert (n, ask(client, name)) == (n, FAILED)
        assert (n, prices.calls(name)) == (n, 1)  # it repeats nothing
        assert (n, ask(client, name)) == (n, (200, json.loads(price(name))))
        assert (n, ask(client, name)[0], prices.calls(name)) == (n, 200, 2)
    prices.replies["new"] = [Reply(404), Reply(500), Reply(body=price("new"))]
    assert [ask(client, "new")[0] for _ in range(4)] == [404, 502, 200, 200] and prices.calls("new") == 3
    assert prices.calls("good") == 1 and not other.seen
    assert ask(start(UPSTREAM_URL=f"http://127.0.0.1:{free_port()}").ready(), "x") == FAILED


@pytest.mark.parametrize("kind", ["nothing", "drip"])
def test_everyone_is_answered_in_time_and_a_slow_product_slows_no_other(
    begin: Callable[..., Component], prices: Prices, pool: ThreadPoolExecutor, kind: str
) -> None:
    client = begin(TIMEOUT_SECONDS=1.5, TTL_SECONDS=1.5)
    slow = [f"slow{n}" for n in range(5)]
    for name in slow:
        fault = Reply(body=price(name), drip=0.2) if kind == "drip" else Reply(cut=0, wait=5)
        prices.replies[name] = [fault, Reply(body=price(name))]

    def timed(name: str) -> tuple[str, float]:
        begun = time.monotonic()
        return str(ask(client, name)), time.monotonic() - begun

    asked = [pool.submit(timed, name) for name in slow * 20]
    wait_for("the calls", lambda: all(prices.calls(name) for name in slow), 1 + BUSY)
    begun = time.monotonic()
    assert {status for status, _ in pool.map(lambda n: ask(client, f"quick{n}"), range(15))} == {200}
    assert time.monotonic() - begun < 1
    late = [pool.submit(timed, name) for name in slow]
    answers = [each.result() for each in asked]
    assert {answer for answer, _ in answers} == {str(LATE)}
    assert max(taken for _, taken in answers + [each.result() for each in late]) < 1.5 + 0.3 + BUSY / 2
    assert [ask(client, name) for name in slow] == [(200, json.loads(price(name))) for name in slow]
    assert {prices.calls(name) for name in slow} == {2}


def test_no_more_calls_at_once_than_allowed_and_who_waits_waits_not_too_long(
    begin: Callable[..., Component], prices: Prices, pool: ThreadPoolExecutor
) -> None:
    client = begin(MAX_UPSTREAM=4, TIMEOUT_SECONDS=2, TTL_SECONDS=60)
    prices.replies = {f"p{n}": [Reply(body=price(f"p{n}"), wait=0.1)] for n in range(30)}
    asked = [pool.submit(ask, client, f"p{n // 3}") for n in range(60)]
    assert {each.result()[0] for each in asked} == {200}
    assert prices.server.most <= 4 and len(prices.server.seen) == 20
    names = [f"h{n}" for n in range(60)]
    gate = threading.Event()
    prices.gates = dict.fromkeys(names, gate)

    def timed(name: str) -> tuple[str, float]:
        begun = time.monotonic()
        return str(ask(client, name)), time.monotonic() - begun

    answers = list(pool.map(timed, names))
    assert {answer for answer, _ in answers} == {str(LATE)}
    assert max(taken for _, taken in answers) < 2 + 0.3 + BUSY / 2 and ask(client, "p1")[0] == 200
    gate.set()
    wait_for("the end of the calls", lambda: prices.server.now == 0, BUSY)
    assert {status for status, _ in pool.map(lambda name: ask(client, name), names[:20])} == {200}


def test_the_number_of_products_does_not_bring_it_down(
    begin: Callable[..., Component], prices: Prices, pool: ThreadPoolExecutor
) -> None:
    client = begin(MAX_ENTRIES=5, TTL_SECONDS=60)
    for _ in range(2):
        assert {ask(client, f"p{n}")[0] for n in range(4)} == {200}
    assert len(prices.server.seen) == 4  # fewer than that are kept
    for _ in range(2):
        assert {ask(client, f"q{n}")[0] for n in range(40)} == {200}
    assert len(prices.server.seen) >= 4 + 40 + 35
    for n in range(1000):
        prices.replies[f"z{n}"] = [Reply(404)]
    with ThreadPoolExecutor(8) as some:
        assert {status for status, _ in some.map(lambda n: ask(client, f"z{n}"), range(1000))} == {404}
    assert ask(client, "p0") == (200, json.loads(price("p0")))


def test_sigterm_answers_what_it_has_and_ends(
    begin: Callable[..., Component], prices: Prices, pool: ThreadPoolExecutor
) -> None:
    client = begin(TIMEOUT_SECONDS=8, DRAIN_SECONDS=9, MAX_UPSTREAM=3)
    gate = threading.Event()
    prices.gates = {f"p{n}": gate for n in range(6)}
    with closing(http.client.HTTPConnection("127.0.0.1", client.port, timeout=30)) as kept:
        kept.request("GET", "/healthz")
        assert kept.getresponse().read() and kept.sock
        silent = socket.create_connection(("127.0.0.1", client.port), timeout=30)
        asked = [pool.submit(ask, client, f"p{n % 6}") for n in range(30)]
        wait_for("the calls", lambda: len(prices.server.seen) == 3, 1 + BUSY)
        time.sleep(0.5)
        begun = time.monotonic()
        client.term()
        wait_for("the end of listening", lambda: not listening(client.port), 1 + BUSY)
        gate.set()
        assert [each.result() for each in asked] == [(200, json.loads(price(f"p{n % 6}"))) for n in range(30)]
        assert client.ended(9 + 1 + BUSY - (time.monotonic() - begun)) == 0
        silent.close()
