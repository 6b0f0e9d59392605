"""The ticket's promises, with a provider that hangs and lies, copies that die and freeze, a database that goes away."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import httpx
import psycopg
import pytest

from benchmarks.answers.components.conftest import Component, Reply, Request, Upstream
from benchmarks.answers.components.wire import Wire
from recipes.engines import Postgres, listening, wait_for

Start = Callable[..., Component]

TABLE = """
CREATE TABLE payments (
  id              text        PRIMARY KEY,
  idempotency_key text        NOT NULL,
  amount          bigint      NOT NULL,
  currency        text        NOT NULL,
  status          text        NOT NULL DEFAULT 'pending'
                  CHECK (status IN ('pending', 'succeeded', 'declined')),
  created_at      timestamptz NOT NULL DEFAULT now(),
  updated_at      timestamptz NOT NULL DEFAULT now()
)"""
TIMEOUT, REQUEST, RESOLVE, DRAIN = 1, 4, 6, 5
SETTINGS = {
    "TIMEOUT_SECONDS": TIMEOUT, "REQUEST_SECONDS": REQUEST, "RESOLVE_SECONDS": RESOLVE, "DRAIN_SECONDS": DRAIN,
}  # fmt: skip
BUSY = 4  # seconds on top of every limit: the machine may be busy
HELD = 30  # seconds after which a call that is held goes on, so that a failed test ends
DECLINED = 13  # the amount that the provider declines


class Provider:
    """Charges once for each key; `faults` holds what befalls the first POST of a payment, by its amount."""

    def __init__(self) -> None:
        self.charges: dict[str, tuple[str, str]] = {}  # {key: (reference, status)}
        self.posts, self.wrong = Counter[str](), list[str]()
        self.faults: dict[int, Callable[[Callable[[], Reply]], Reply]] = {}
        self.blind = 0  # so many questions about a charge are answered with 404 though there is one
        self.down, self.latency = False, 0.0
        self.gate, self.held, self.late = threading.Event(), threading.Semaphore(0), threading.Semaphore(0)
        self.lock = threading.Lock()
        self.upstream: Upstream
        self.watch: Callable[[str], None] = lambda _: None

    def __call__(self, request: Request) -> Reply:
        time.sleep(self.latency)
        if self.down:
            return Reply(503, b'{"error": "down"}')
        try:
            return self.post(request) if request.method == "POST" else self.get(request)
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            self.wrong.append(f"{request.method} {request.path} {request.headers} {request.body!r}: {error!r}")
            return Reply(400)

    def post(self, request: Request) -> Reply:
        key, body = request.headers["idempotency-key"], request.json()
        assert request.path == "/charges" and re.fullmatch("[ -~]{1,64}", key)
        assert set(body) == {"reference", "amount", "currency"} and type(body["amount"]) is int
        reference = body["reference"]
        self.watch(reference)

        def charge() -> Reply:
            with self.lock:
                status = "declined" if body["amount"] == DECLINED else "succeeded"
                return told(self.charges.setdefault(key, (reference, status))[1], 201)

        with self.lock:
            self.posts[reference] += 1
            fault = self.faults.get(body["amount"]) if self.posts[reference] == 1 else None
        return fault(charge) if fault else charge()

    def get(self, request: Request) -> Reply:
        parts = urlsplit(request.path)
        (reference,) = parse_qs(parts.query, strict_parsing=True)["reference"]
        assert parts.path == "/charges"
        with self.lock:
            found = [status for made, status in self.charges.values() if made == reference]
            if found and self.blind > 0:
                self.blind -= 1
                found = []
        return told(found[0], 200) if found else Reply(404, b'{"error": "no such charge"}')

    def hang_before(self, charge: Callable[[], Reply]) -> Reply:
        """The request is on its way until the gate opens; it then charges, and nobody hears of it."""
        self.held.release()
        self.gate.wait(HELD)
        charge()
        self.late.release()
        return Reply(cut=0)

    def hang_after(self, charge: Callable[[], Reply]) -> Reply:
        """It charges, and the answer is lost when the gate opens."""
        charge()
        self.held.release()
        self.gate.wait(HELD)
        return Reply(cut=0)

    def think(self, charge: Callable[[], Reply]) -> Reply:
        """It charges, and answers when the gate opens."""
        answer = charge()
        self.held.release()
        self.gate.wait(HELD)
        return answer

    def charged(self, reference: str) -> int:
        with self.lock:
            return sum(made == reference for made, _ in self.charges.values())

    def status(self, reference: str) -> str | None:
        with self.lock:
            return next((status for made, status in self.charges.values() if made == reference), None)


def told(status: str, code: int) -> Reply:
    return Reply(code, json.dumps({"status": status}).encode())


def instead(reply: Reply) -> Callable[[Callable[[], Reply]], Reply]:
    """It charges, and answers something else."""

    def fault(charge: Callable[[], Reply]) -> Reply:
        charge()
        return reply

    return fault


class Shop:
    """Copies of the service and their callers, who notice what they are told."""

    def __init__(self, start: Start, database: str, provider: Provider) -> None:
        self.begin, self.database, self.provider = start, database, provider
        self.client = httpx.Client(
            timeout=httpx.Timeout(REQUEST + 1 + BUSY), limits=httpx.Limits(max_connections=200), trust_env=False
        )
        self.callers = ThreadPoolExecutor(100)
        self.ids, self.told = dict[str, str](), dict[str, str]()

    def start(self, **settings: object) -> Component:
        chosen = {"DATABASE_URL": self.database, "UPSTREAM_URL": self.provider.upstream.url, **SETTINGS, **settings}
        return self.begin(**chosen).ready()

    def post(self, copy: Component, key: str | None, body: Any) -> httpx.Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        return self.client.post(f"{copy.url}/payments", json=body, headers=headers)

    def pay(self, copy: Component, key: str, amount: int = 5, currency: str = "EUR") -> int:
        """The status of the answer, which is right in itself and agrees with the earlier ones and the provider."""
        answer = self.post(copy, key, {"amount": amount, "currency": currency})
        if answer.status_code in (200, 202):
            payment = answer.json()
            assert (payment["amount"], payment["currency"]) == (amount, currency)
            self.hear(key, payment, answer.status_code)
        else:
            assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")
        return answer.status_code

    def hear(self, key: str, payment: dict[str, Any], code: int) -> None:
        assert self.ids.setdefault(key, payment["id"]) == payment["id"]
        if code == 202:
            assert payment["status"] == "pending"
        else:
            assert payment["status"] == self.provider.status(payment["id"]) in ("succeeded", "declined")
            assert self.told.setdefault(key, payment["status"]) == payment["status"]

    def paying(self, copy: Component, key: str, amount: int = 5) -> Future[int]:
        return self.callers.submit(self.pay, copy, key, amount)

    def get(self, copy: Component, key: str) -> dict[str, Any]:
        answer = self.client.get(f"{copy.url}/payments/{self.ids[key]}")
        assert answer.status_code == 200
        found: dict[str, Any] = answer.json()
        return found

    def row(self, key: str) -> tuple[str, str]:
        with psycopg.connect(self.database) as connection:
            found = connection.execute("SELECT id, status FROM payments WHERE idempotency_key = %s", [key]).fetchall()
        assert len(found) == 1, f"{len(found)} rows for {key}"
        return found[0]

    def settled(self, *keys: str, seconds: float = RESOLVE + 1 + BUSY) -> None:
        """Until the payments are final in the table, without anybody asking; each charged once, as told."""

        def final() -> bool:
            with psycopg.connect(self.database) as connection:
                query = "SELECT count(*) FROM payments WHERE idempotency_key = ANY(%s) AND status <> 'pending'"
                return connection.execute(query, [list(keys)]).fetchone() == (len(keys),)

        wait_for("final payments", final, seconds)
        for key in keys:
            self.right(key)

    def right(self, key: str) -> None:
        """The payment is final and as the provider has it, which charged once."""
        payment, status = self.row(key)
        assert status == self.provider.status(payment)
        assert self.provider.charged(payment) == 1
        assert self.ids.get(key, payment) == payment
        assert self.told.get(key, status) == status

    def held(self, count: int = 1) -> None:
        """Until so many calls hang at the provider."""
        for _ in range(count):
            assert self.provider.held.acquire(timeout=REQUEST + BUSY)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    # Processes are killed here, machines are not: without fsync a busy disk holds nothing up.
    server = Postgres(tmp_path_factory.mktemp("payments"), {"fsync": "off"})
    yield server
    server.stop()


@pytest.fixture
def provider(upstream: Callable[..., Upstream]) -> Iterator[Provider]:
    made = Provider()
    made.upstream = upstream(made)
    yield made
    made.gate.set()
    assert not made.wrong, made.wrong


@pytest.fixture
def shop(start: Start, database: str, provider: Provider) -> Iterator[Shop]:
    with psycopg.connect(database) as connection:
        connection.execute(TABLE)
    made = Shop(start, database, provider)
    yield made
    made.callers.shutdown(wait=False, cancel_futures=True)
    made.client.close()


@pytest.fixture
def key() -> str:
    return str(uuid4())


def keys(count: int) -> list[str]:
    return [str(uuid4()) for _ in range(count)]


def test_payments_are_answered_as_the_ticket_says(shop: Shop, provider: Provider, key: str) -> None:
    copies = [shop.start(), shop.start()]
    early: list[str | None] = []

    def look(reference: str) -> None:
        with psycopg.connect(shop.database) as connection:
            row = connection.execute("SELECT status FROM payments WHERE id = %s", [reference]).fetchone()
        early.append(row and row[0])

    provider.watch = look
    healthy = httpx.get(copies[0].url + "/healthz")
    assert (healthy.status_code, healthy.json()["status"]) == (200, "ok")
    extra = shop.post(
        copies[0], key, {"amount": 99999999, "currency": "EUR", "note": [1], "id": "x", "status": "declined"}
    )
    assert extra.status_code == 200
    shop.hear(key, extra.json(), 200)
    assert shop.pay(copies[1], key, 99999999) == 200
    no = "!~\"%'" * 40  # 200 characters
    assert (shop.pay(copies[0], no, DECLINED), shop.pay(copies[1], no, DECLINED)) == (200, 200)
    assert shop.told == {key: "succeeded", no: "declined"}
    for each in (key, no):
        shop.right(each)
        assert shop.get(copies[1], each)["status"] == shop.told[each]
    assert early == ["pending", "pending"]
    for body in ({"amount": 6, "currency": "EUR"}, {"amount": 99999999, "currency": "USD"}):
        other = shop.post(copies[1], key, body)
        assert (other.status_code, other.json()["error"]) == (422, "key_reused")
    assert provider.posts.total() == 2


def test_hostile_input_is_refused_and_leaves_the_key_free(shop: Shop, provider: Provider, key: str) -> None:
    copy = shop.start()
    good = {"amount": 5, "currency": "EUR"}
    for bad_key in (b"", b"x" * 201, "schlüssel".encode(), b"\xff\xfe"):
        answer = shop.client.post(f"{copy.url}/payments", json=good, headers={b"Idempotency-Key": bad_key})
        assert (answer.status_code, answer.json()["error"]) == (400, "missing_key"), bad_key
    answer = shop.post(copy, None, {"amount": "x"})
    assert (answer.status_code, answer.json()["error"]) == (400, "missing_key")
    amounts = ["0", "-1", "100000000", "1.5", '"5"', "true", "null", "[5]", "1e400", "NaN", "9" * 5000]
    currencies = [
        '"eur"',
        '"EU"',
        '"EURO"',
        '"EUR\\n"',
        '"EUR "',
        '"EU\\u0000"',
        '"\\ud800UR"',
        "5",
        "null",
        '["E","U","R"]',
    ]
    bodies = [f'{{"amount": {amount}, "currency": "EUR"}}' for amount in amounts]
    bodies += [f'{{"amount": 5, "currency": {currency}}}' for currency in currencies]
    bodies += ["", "null", "[]", '"x"', "{", '{"amount": 5}', '{"currency": "EUR"}', "[" * 100_000]
    for body in [*map(str.encode, bodies), b'{"amount": 5, "currency": "\xff\xfe\xfd"}']:
        headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
        answer = shop.client.post(f"{copy.url}/payments", content=body, headers=headers)
        assert answer.status_code == 400, (body[:60], answer.status_code)
        assert answer.json()["error"] == "invalid_request"
    for unknown in ("no-such-payment", "%00", "%27%3B--", "x" * 5000, "%F0%9F%98%80"):
        answer = shop.client.get(f"{copy.url}/payments/{unknown}")
        assert (answer.status_code, answer.json()["error"]) == (404, "not_found"), unknown[:60]
    assert provider.posts.total() == 0
    assert shop.pay(copy, key) == 200
    shop.right(key)


def test_60_requests_with_one_key_at_once_are_one_charge(shop: Shop, provider: Provider, key: str) -> None:
    copies = [shop.start(TIMEOUT_SECONDS=2, REQUEST_SECONDS=6) for _ in range(2)]
    provider.faults[5] = provider.think
    with psycopg.connect(shop.database) as slow:
        slow.execute("LOCK TABLE payments IN EXCLUSIVE MODE")  # all may look, then all write at once
        requests = [shop.paying(copies[n % 2], key) for n in range(60)]
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'payments'::regclass"
        wait_for("two who wait", lambda: (slow.execute(waiting).fetchone() or (0,))[0] >= 2, REQUEST)
        time.sleep(0.5)
    shop.held()
    time.sleep(0.5)  # so that most of them come while it thinks
    provider.gate.set()
    assert {each.result() for each in requests} <= {200, 202}
    shop.settled(key)
    assert {shop.pay(copies[n % 2], key) for n in range(4)} == {200}
    shop.right(key)


def test_a_charge_whose_answer_is_broken_off_or_drips_is_found(shop: Shop, provider: Provider) -> None:
    copy = shop.start()
    body = b'{"status": "succeeded"}'
    faults = {
        1: instead(Reply(201, body, cut=0)),
        2: instead(Reply(201, body, cut=12)),
        3: instead(Reply(201, body, drip=0.5)),
        DECLINED: instead(Reply(201, b'{"status": "declined"}', cut=5)),
    }
    provider.faults, provider.blind = faults, 2
    payments = dict(zip(faults, keys(len(faults)), strict=True))
    answers = [shop.paying(copy, key, amount) for amount, key in payments.items()]
    assert {each.result() for each in answers} <= {200, 202}
    shop.settled(*payments.values())
    assert {shop.pay(copy, key, amount) for amount, key in payments.items()} == {200}


def test_an_answer_that_says_nothing_is_not_taken_for_a_result(shop: Shop, provider: Provider) -> None:
    copy = shop.start()
    replies = [
        Reply(500, b"oops"), Reply(503, b'{"status": "declined"}'), Reply(400, b'{"error": "bad"}'), Reply(404),
        Reply(429, headers={"Retry-After": "3600"}), Reply(302, headers={"Location": "/elsewhere"}),
        Reply(201, b"<html>declined</html>"), Reply(201, b""), Reply(201, b"null"), Reply(201, b'["declined"]'),
        Reply(201, b'{"status": "pending"}'), Reply(201, b'{"status": ["declined"]}'), Reply(201, b'{"status": null}'),
        Reply(201, b'{"state": "declined"}'), Reply(201, b"\xff\xfe"), Reply(201, b"[" * 100_000),
    ]  # fmt: skip
    provider.faults = {100 + n: instead(reply) for n, reply in enumerate(replies)}
    payments = dict(zip(provider.faults, keys(len(replies)), strict=True))
    answers = [shop.paying(copy, key, amount) for amount, key in payments.items()]
    assert {each.result() for each in answers} <= {200, 202}
    shop.settled(*payments.values())
    assert {shop.pay(copy, key, amount) for amount, key in payments.items()} == {200}
    assert set(shop.told.values()) == {"succeeded"}


def test_a_call_that_hangs_and_arrives_late_makes_no_second_charge(shop: Shop, provider: Provider, key: str) -> None:
    copy = shop.start()
    provider.faults[5] = provider.hang_before
    assert shop.pay(copy, key) == 202
    assert shop.get(copy, key)["status"] == "pending"
    shop.settled(key)
    provider.gate.set()
    assert provider.late.acquire(timeout=HELD)
    assert shop.pay(copy, key) == 200
    shop.right(key)


def test_payments_of_a_killed_copy_are_settled_by_another(shop: Shop, provider: Provider) -> None:
    first = shop.start()
    before, after, *many = keys(22)
    provider.faults = {1: provider.hang_before, 2: provider.hang_after}
    held = [shop.paying(first, before, 1), shop.paying(first, after, 2)]
    shop.held(2)
    provider.latency = 0.1
    lost = [shop.paying(first, key, 10 + n) for n, key in enumerate(many)]
    wait_for("some calls", lambda: len(provider.charges) >= 8, REQUEST + BUSY)
    first.kill()
    for each in [*held, *lost]:
        each.exception()  # whatever they got
    second = shop.start()
    shop.settled(before, after)
    provider.gate.set()
    assert provider.late.acquire(timeout=HELD)
    for n, key in enumerate(many):
        shop.pay(second, key, 10 + n)
    shop.settled(before, after, *many)


def test_a_frozen_copy_does_not_undo_what_another_has_settled(shop: Shop, provider: Provider) -> None:
    first, second = shop.start(), shop.start()
    yes, no = keys(2)
    provider.faults = {5: provider.hang_after, DECLINED: provider.hang_after}
    answers = [shop.paying(first, yes, 5), shop.paying(first, no, DECLINED)]
    shop.held(2)
    first.freeze()
    shop.settled(yes, no)
    first.thaw()
    provider.gate.set()
    for each in answers:
        each.exception()  # an answer that came too late for its caller is no fault
    for copy in (first, second):
        assert (shop.pay(copy, yes, 5), shop.pay(copy, no, DECLINED)) == (200, 200)
    assert (shop.told[yes], shop.told[no]) == ("succeeded", "declined")
    shop.settled(yes, no)


def test_a_charge_is_found_after_a_crash_of_the_database(shop: Shop, provider: Provider, postgres: Postgres) -> None:
    copy = shop.start(TIMEOUT_SECONDS=3)
    known, first, second = keys(3)
    assert shop.pay(copy, known) == 200
    provider.faults[6] = provider.think
    waiting = shop.paying(copy, first, 6)
    shop.held()
    calls = provider.posts.total()
    postgres.stop(signal.SIGKILL)
    provider.gate.set()
    try:
        assert waiting.result() in (200, 202, 503)
        assert shop.pay(copy, second, 7) == 503
        answer = shop.client.get(f"{copy.url}/payments/{shop.ids[known]}")
        assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")
        assert shop.client.get(f"{copy.url}/healthz").status_code == 200
        assert provider.posts.total() == calls
    finally:
        postgres.start()
    wait_for("an answer", lambda: shop.pay(copy, second, 7) == 200, 15 + BUSY)
    shop.settled(first, second, seconds=15 + RESOLVE + BUSY)
    assert shop.pay(copy, first, 6) == 200


def test_a_database_that_goes_silent_costs_nobody_more_than_the_time_limit(shop: Shop, key: str) -> None:
    line, direct = Wire(shop.database), shop.database
    try:
        copy = shop.start(DATABASE_URL=line.url)
        assert shop.pay(copy, "known") == 200
        line.hold()
        with ThreadPoolExecutor(20) as callers:
            posts = [callers.submit(shop.pay, copy, key) for _ in range(10)]
            url = f"{copy.url}/payments/{shop.ids['known']}"
            gets = [callers.submit(shop.client.get, url) for _ in range(10)]
            assert {each.result() for each in posts} == {503}
            assert {each.result().status_code for each in gets} == {503}
        assert shop.client.get(f"{copy.url}/healthz").status_code == 200
        line.heal()
        shop.database = direct
        wait_for("an answer", lambda: shop.pay(copy, key) == 200, 30)
        shop.right(key)
    finally:
        line.stop()


def test_calls_that_hang_hold_up_nobody_else(shop: Shop, provider: Provider, key: str) -> None:
    copy = shop.start(TIMEOUT_SECONDS=2, REQUEST_SECONDS=6)
    assert shop.pay(copy, key) == 200
    provider.faults[6] = provider.hang_before
    many = keys(60)
    hanging = [shop.paying(copy, each, 6) for each in many]
    shop.held()
    assert shop.pay(copy, key) == 200
    assert shop.get(copy, key)["status"] == "succeeded"
    assert shop.pay(copy, str(uuid4())) == 200
    assert {each.result() for each in hanging} <= {200, 202}
    provider.gate.set()
    shop.settled(*many, seconds=3 + RESOLVE + 1 + 2 * BUSY)


def test_a_caller_who_hangs_up_leaves_no_payment_open(shop: Shop, provider: Provider, key: str) -> None:
    copy = shop.start(TIMEOUT_SECONDS=3)
    provider.faults[5] = provider.think
    body = b'{"amount": 5, "currency": "EUR"}'
    head = f"POST /payments HTTP/1.1\r\nHost: x\r\nIdempotency-Key: {key}\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", copy.port)) as caller:
        caller.sendall(head.encode() + body)
        shop.held()
    provider.gate.set()
    shop.settled(key)
    assert shop.pay(copy, key) == 200


def test_forty_payments_that_nobody_knew_of_are_settled_soon_after_the_provider_is_back(
    shop: Shop, provider: Provider
) -> None:
    copy = shop.start()
    shop.start()
    provider.down = True
    many = keys(40)
    answers = [shop.paying(copy, key, 5) for key in many]
    assert {each.result() for each in answers} == {202}
    time.sleep(8)  # an outage that lets pauses grow
    assert {shop.row(key)[1] for key in many} == {"pending"}
    provider.latency, provider.down = 0.1, False
    shop.settled(*many)


def test_sigterm_lets_a_payment_under_way_end(shop: Shop, provider: Provider, key: str) -> None:
    copy = shop.start(TIMEOUT_SECONDS=3)
    provider.faults[5] = provider.think
    waiting = shop.paying(copy, key)
    shop.held()
    copy.term()
    wait_for("the end of listening", lambda: not listening(copy.port), DRAIN)
    provider.gate.set()
    assert waiting.result() == 200
    assert copy.ended(DRAIN + 1 + BUSY) == 0
    shop.right(key)


def test_sigterm_ends_it_in_time_when_the_provider_hangs(shop: Shop, provider: Provider, key: str) -> None:
    copy = shop.start(TIMEOUT_SECONDS=10, REQUEST_SECONDS=12, RESOLVE_SECONDS=12, DRAIN_SECONDS=2)
    provider.faults[5] = provider.hang_after
    waiting = shop.paying(copy, key)
    shop.held()
    copy.term()
    assert copy.ended(2 + 1 + BUSY) == 0
    waiting.exception()
    shop.start(RESOLVE_SECONDS=12)
    shop.settled(key, seconds=12 + 1 + BUSY)
