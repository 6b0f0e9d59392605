"""A real service and PostgreSQL, with a provider that loses answers: killed, cut off, doubled, asked all at once."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import psycopg
import pytest

from recipes.engines import Postgres, free_port, listening, wait_for

HERE = Path(__file__).parent
LONG = 40  # seconds to wait for what takes one, on a machine that is busy
FOREVER = "3600"

Fault = Callable[[str, str], None]


class Provider:
    """A payment provider that charges once for each of its keys; the source of a payment says how it misbehaves."""

    def __init__(self) -> None:
        self.charges: dict[str, dict[str, Any]] = {}  # {key: what is answered}
        self.posts, self.charged, self.handled = Counter[str](), 0, 0
        self.gate, self.lock = threading.Event(), threading.Lock()
        self.arrived = threading.Semaphore(0)
        provider = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                provider.post(self, self.headers["Idempotency-Key"], request)

            def do_GET(self) -> None:
                with provider.lock:
                    found = provider.charges.get(self.path.rsplit("/", 1)[1])
                answer(self, 200 if found else 404, found or {"detail": "no such charge"})

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def reset(self) -> None:
        self.gate.clear()
        self.charges, self.charged, self.handled = {}, 0, 0
        self.posts.clear()

    def charge(self, key: str, request: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            self.handled += 1
            if key not in self.charges:
                if request["source"] == "declined":
                    self.charges[key] = {"status": "declined", "reason": "no funds"}
                else:
                    self.charged += 1
                    self.charges[key] = {"status": "succeeded", "charge": f"ch_{self.charged}"}
            return self.charges[key]

    def post(self, handler: Any, key: str, request: dict[str, Any]) -> None:
        source = request["source"].replace("-", " ")
        with self.lock:
            self.posts[key] += 1
            first = self.posts[key] == 1
        if first and source == "503 before":
            return answer(handler, 503, {"detail": "busy"})
        if first and source == "hangs before":
            self.arrived.release()
            self.gate.wait(LONG)
        made = self.charge(key, request)
        if source in ("waits", "hangs after") and first:
            self.arrived.release()
            self.gate.wait(LONG)
        if first and source in ("lost", "hangs after", "hangs before"):
            handler.close_connection = True
            return handler.connection.shutdown(socket.SHUT_RDWR)
        if first and source == "trickles":
            with suppress(OSError):
                handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                while not self.gate.wait(0.1):
                    handler.wfile.write(b"x")
            handler.close_connection = True
            return None
        if first and source == "500 after":
            return answer(handler, 500, {"detail": "oops"})
        if first and source == "pending":
            return answer(handler, 200, {"status": "pending"})
        if first and source == "garbage":
            return answer(handler, 200, b"<html>")
        return answer(handler, 402 if made["status"] == "declined" else 201, made)


def answer(handler: Any, status: int, body: Any) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)
    except OSError:  # nobody waits for it any more
        handler.close_connection = True


class Shop:
    """The service, several times if need be, and what its clients do."""

    def __init__(self, database: str, provider: Provider, folder: Path) -> None:
        self.database, self.provider, self.folder = database, provider, folder
        self.processes: list[subprocess.Popen[bytes]] = []
        self.urls: list[str] = []
        self.client = httpx2.Client(timeout=LONG, limits=httpx2.Limits(max_connections=200))
        self.clients = ThreadPoolExecutor(64)

    def start(self, **settings: object) -> str:
        port = free_port()
        chosen = {"PROVIDER_TIMEOUT": "20", "LEASE": FOREVER, "RECHECK": FOREVER}
        chosen |= {name: str(value) for name, value in settings.items()}
        urls = {"DATABASE_URL": self.database, "PROVIDER_URL": self.provider.url, "PORT": str(port)}
        with open(self.folder / "log", "ab") as log:
            process = subprocess.Popen(
                [sys.executable, HERE / "payments.py"], env={**os.environ, **chosen, **urls}, stdout=log, stderr=log
            )
        self.processes.append(process)
        wait_for("the service", lambda: listening(port) or process.poll() is not None, LONG)
        return f"http://127.0.0.1:{port}"

    def pay(
        self, url: str, key: str | None, source: str = "ok", account: str = "a", amount: Any = 5
    ) -> httpx2.Response:
        headers = {"X-Account": account} | ({"Idempotency-Key": key} if key is not None else {})
        body = {"amount": amount, "currency": "EUR", "source": source.replace(" ", "-")}
        return self.client.post(f"{url}/payments", json=body, headers=headers)

    def begin(self, url: str, key: str, source: str) -> Future[httpx2.Response]:
        return self.clients.submit(self.pay, url, key, source)

    def until(self, url: str, key: str, source: str, status: int) -> httpx2.Response:
        """Repeat the request, as its client does, until it gets this answer."""
        answers: list[httpx2.Response] = []

        def repeated() -> bool:
            answers.append(self.pay(url, key, source))
            return answers[-1].status_code == status

        wait_for(f"{status} for {key}", repeated, LONG)
        return answers[-1]

    def close(self) -> None:
        self.provider.gate.set()
        for process in self.processes:
            process.kill()
            process.wait()
        self.clients.shutdown()
        self.client.close()

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    # Processes are killed here, machines are not: without fsync a busy disk holds nothing up.
    server = Postgres(tmp_path_factory.mktemp("payments"), {"fsync": "off"})
    yield server
    server.stop()


@pytest.fixture
def provider() -> Iterator[Provider]:
    started = Provider()
    yield started
    started.gate.set()
    started.server.shutdown()
    started.server.server_close()


@pytest.fixture
def shop(database: str, provider: Provider, tmp_path: Path) -> Iterator[Shop]:
    with psycopg.connect(database) as connection:
        connection.execute((HERE / "payment.sql").read_text(encoding="utf-8"))  # type: ignore[arg-type]
    made = Shop(database, provider, tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def standing(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    url, provider = postgres.new_database(), Provider()
    with psycopg.connect(url) as connection:
        connection.execute((HERE / "payment.sql").read_text(encoding="utf-8"))  # type: ignore[arg-type]
    made = Shop(url, provider, tmp_path_factory.mktemp("standing"))
    made.urls = [made.start(), made.start()]
    yield made
    made.close()


@pytest.fixture
def counter(standing: Shop) -> Shop:
    """Two processes of the service, as they are set up for most tests; each test takes a key of its own."""
    standing.provider.reset()
    return standing


@pytest.fixture
def key() -> str:
    return str(uuid4())


def state(database: str, key: str = "k") -> Any:
    with psycopg.connect(database) as connection:
        row = connection.execute("SELECT state FROM payment WHERE key = %s", (key,)).fetchone()
    return row and row[0]


def end_lease(database: str, key: str = "k") -> None:
    """As if the hour of the lease had passed: with a short one a busy machine would be too late to kill in time."""
    with psycopg.connect(database) as connection:
        query = "UPDATE payment SET check_at = check_at - make_interval(secs => %s) WHERE key = %s"
        connection.execute(query, (float(FOREVER), key))


def charges(count: int) -> str:
    return f"{count} charge{'' if count == 1 else 's'}"


def test_a_repetition_gets_the_same_answer(counter: Shop, key: str, fault: Fault) -> None:
    url, provider = counter.urls[0], counter.provider
    first, again, quoted = counter.pay(url, key), counter.pay(url, key), counter.pay(url, f'"{key}"')
    assert [each.status_code for each in (first, again, quoted)] == [201, 201, 201]
    assert first.content == again.content == quoted.content
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == quoted.headers["Idempotent-Replayed"] == "true"
    assert provider.charged == 1
    fault("the same request again, and with its key in quotes", f"the stored answer twice, {charges(provider.charged)}")


def test_a_decline_is_an_answer_too(counter: Shop, key: str, fault: Fault) -> None:
    url, provider = counter.urls[0], counter.provider
    first, again = counter.pay(url, key, "declined"), counter.pay(url, key, "declined")
    assert first.content == again.content
    posts = sum(provider.posts.values())
    assert (first.status_code, again.status_code, posts) == (402, 402, 1)
    fault("a declined payment is sent again", f"{again.status_code} again, the provider was called {posts} time")


def test_a_key_belongs_to_one_payment(counter: Shop, key: str, fault: Fault) -> None:
    url, provider = counter.urls[0], counter.provider
    counter.pay(url, key)
    other = counter.pay(url, key, amount=6)
    assert (other.status_code, provider.charged) == (422, 1)
    fault("the same key with another amount", f"{other.status_code}, {charges(provider.charged)}")


def test_a_key_belongs_to_one_account(counter: Shop, key: str, fault: Fault) -> None:
    url, provider = counter.urls[0], counter.provider
    one, two = counter.pay(url, key, account="a"), counter.pay(url, key, account="b")
    assert (one.status_code, two.status_code, provider.charged) == (201, 201, 2)
    assert one.json()["charge"] != two.json()["charge"]
    fault("two accounts choose the same key", f"{charges(provider.charged)}, neither sees the other's answer")


def test_what_is_refused_before_it_begins_leaves_the_key_free(counter: Shop, key: str, fault: Fault) -> None:
    url, provider = counter.urls[0], counter.provider
    bad = [
        counter.pay(url, None),
        counter.pay(url, ""),
        counter.pay(url, key, amount=-5),
        counter.pay(url, key, amount="5"),
    ]
    good = counter.pay(url, key)
    codes = [each.status_code for each in bad]
    assert (codes, good.status_code, provider.charged) == ([400, 400, 422, 422], 201, 1)
    fault(
        "no key, an empty key, a negative amount, an amount that is text; then corrected under the same key",
        f"{', '.join(map(str, codes))}; then {good.status_code}",
    )


def test_50_at_once_are_charged_once(counter: Shop, key: str, fault: Fault) -> None:
    urls, provider = counter.urls, counter.provider
    requests = [counter.begin(urls[n % 2], key, "waits") for n in range(50)]
    wait_for("49 refusals", lambda: sum(each.done() for each in requests) >= 49, LONG)
    provider.gate.set()
    codes = Counter(each.result().status_code for each in requests)
    again = Counter(counter.pay(urls[n % 2], key, "waits").status_code for n in range(50))
    assert (codes, again, provider.charged) == ({201: 1, 409: 49}, {201: 50}, 1)
    fault(
        "50 requests with one key at once at two processes, while the provider thinks; all again afterwards",
        f"{codes[201]} x 201 and {codes[409]} x 409, then {again[201]} x 201, {charges(provider.charged)}",
    )


@pytest.mark.parametrize("source", ["lost", "500 after", "garbage", "pending"])
def test_a_charge_whose_answer_was_lost_is_found(shop: Shop, provider: Provider, fault: Fault, source: str) -> None:
    url = shop.start(RECHECK=0.2)
    first = shop.pay(url, "k", source)
    last = shop.until(url, "k", source, 201)
    posts = sum(provider.posts.values())
    assert (first.status_code, provider.charged, posts) == (202, 1, 1)
    told = {
        "lost": "breaks the connection after it charged",
        "500 after": "charges and answers 500",
        "garbage": "charges and answers 200 with a page of HTML",
        "pending": "answers that the charge is pending",
    }
    fault(
        f"the provider {told[source]}",
        f"{first.status_code} unknown, then {last.status_code} after asking; "
        f"{charges(provider.charged)}, sent {posts} time",
    )


def test_a_charge_that_never_arrived_is_sent_again_under_the_same_key(
    shop: Shop, provider: Provider, fault: Fault
) -> None:
    url = shop.start(PROVIDER_TIMEOUT=1, RECHECK=0.2)
    first = shop.pay(url, "k", "hangs before")
    last = shop.until(url, "k", "hangs before", 201)
    before = provider.charged
    provider.gate.set()  # now the first one arrives too
    wait_for("the late request", lambda: provider.handled == 2, LONG)
    assert shop.pay(url, "k", "hangs before").content == last.content
    assert (first.status_code, before, provider.charged, len(provider.posts)) == (202, 1, 1, 1)
    fault(
        "the request hangs on its way beyond the time limit, and arrives after the recovery has sent it again",
        f"{first.status_code} unknown, then {last.status_code}; {provider.posts.total()} requests under "
        f"{len(provider.posts)} key, {charges(provider.charged)}",
    )


def test_an_answer_that_trickles_in_is_given_up(shop: Shop, provider: Provider, fault: Fault) -> None:
    url = shop.start(PROVIDER_TIMEOUT=1, RECHECK=0.2)
    first = shop.pay(url, "k", "trickles")
    last = shop.until(url, "k", "trickles", 201)
    assert (first.status_code, provider.charged, provider.posts.total()) == (202, 1, 1)
    fault(
        "the provider charges and sends its answer a byte at a time, for ever",
        f"{first.status_code} unknown at the time limit, then {last.status_code} after asking; "
        f"{charges(provider.charged)}",
    )


def test_a_provider_that_refuses_for_now_is_asked_again(shop: Shop, provider: Provider, fault: Fault) -> None:
    url = shop.start(RECHECK=0.2)
    first = shop.pay(url, "k", "503 before")
    last = shop.until(url, "k", "503 before", 201)
    assert (first.status_code, provider.charged) == (202, 1)
    fault(
        "the provider answers 503 and has charged nothing",
        f"{first.status_code} unknown, then {last.status_code}, {charges(provider.charged)}",
    )


@pytest.mark.parametrize("source", ["hangs before", "hangs after"])
def test_a_payment_of_a_killed_process_is_settled(
    shop: Shop, provider: Provider, database: str, fault: Fault, source: str
) -> None:
    url = shop.start()
    waiting = shop.begin(url, "k", source)
    assert provider.arrived.acquire(timeout=LONG)
    shop.processes[0].kill()
    assert isinstance(waiting.exception(timeout=LONG), httpx2.HTTPError)
    before = state(database)
    end_lease(database)
    last = shop.until(shop.start(), "k", source, 201)
    assert (before, provider.charged, len(provider.posts)) == ("started", 1, 1)
    where = "before the provider has charged" if source == "hangs before" else "after the provider has charged"
    fault(
        f"kill -9 of the service during the call, {where}",
        f"{before}, and when the lease had ended {last.status_code}; {charges(provider.charged)}",
    )


def test_what_became_of_a_killed_call_stays_unknown_until_somebody_knows(
    shop: Shop, provider: Provider, database: str, fault: Fault
) -> None:
    waiting = shop.begin(shop.start(), "k", "hangs before")
    assert provider.arrived.acquire(timeout=LONG)
    shop.processes[0].kill()
    assert isinstance(waiting.exception(timeout=LONG), httpx2.HTTPError)
    end_lease(database)
    url = shop.start(RESUME_FOR="0 seconds")
    wait_for("a word about it", lambda: "Somebody must look" in shop.log, LONG)
    code, posts = shop.pay(url, "k", "hangs before").status_code, provider.posts.total()
    assert (code, posts, state(database)) == (202, 1, "unknown")
    fault(
        "kill -9 of the service during the call, and the provider knows no such charge when it is asked",
        f"{code} {state(database)} for who repeats it, sent {posts} time",
    )


def test_a_database_that_does_not_answer_is_given_up(
    shop: Shop, provider: Provider, database: str, fault: Fault
) -> None:
    url = shop.start(POOL=1)
    paid = shop.pay(url, "k")
    with psycopg.connect(database) as watcher:
        query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        (pid,) = (row[0] for row in watcher.execute(query))
        os.kill(pid, signal.SIGSTOP)
        try:
            answer = shop.pay(url, "k")
            frozen, took = answer.status_code, answer.elapsed.total_seconds()
        finally:
            os.kill(pid, signal.SIGCONT)
    last = shop.until(url, "k", "ok", 201)
    assert (frozen, last.content, provider.charged) == (503, paid.content, 1)
    assert took < 9  # psycopg alone would take 10
    fault(
        "PostgreSQL freezes",
        f"{frozen}, and when it goes on {last.status_code} from the same process; {charges(provider.charged)}",
    )


def test_a_charge_that_cannot_be_stored_is_found_later(
    shop: Shop, provider: Provider, postgres: Postgres, database: str, fault: Fault
) -> None:
    url = shop.start(LEASE=2)
    waiting = shop.begin(url, "k", "waits")
    assert provider.arrived.acquire(timeout=LONG)
    postgres.stop(signal.SIGKILL)
    provider.gate.set()
    first, second = waiting.result(), shop.pay(url, "k", "waits")  # long enough for the recovery to notice too
    postgres.start()
    last = shop.until(url, "k", "waits", 201)
    assert (first.status_code, second.status_code) == (503, 503)
    assert (provider.charged, provider.posts.total()) == (1, 1)
    fault(
        "kill -9 of PostgreSQL between the charge and its storing",
        f"{first.status_code} while it is away, then {last.status_code} from the same process; "
        f"{charges(provider.charged)}",
    )


def test_a_late_doubt_does_not_undo_what_is_settled(
    shop: Shop, provider: Provider, database: str, fault: Fault
) -> None:
    slow = shop.start(PROVIDER_TIMEOUT=20, LEASE=0.2)  # a lease that is too short: the process was paused
    waiting = shop.begin(slow, "k", "hangs after")
    assert provider.arrived.acquire(timeout=LONG)
    shop.start()
    wait_for("the recovery", lambda: state(database) == "succeeded", LONG)
    provider.gate.set()
    first = waiting.result()
    assert (first.status_code, state(database), provider.charged) == (201, "succeeded", 1)
    fault(
        "the first caller learns of his timeout after the recovery has settled the payment",
        f"the payment stays {state(database)}, he answers {first.status_code}",
    )


def test_an_old_payment_is_never_charged_again(shop: Shop, provider: Provider, database: str, fault: Fault) -> None:
    url = shop.start(RECHECK=0.2, RESUME_FOR="0 seconds")
    first = shop.pay(url, "k", "503 before")
    wait_for("a word about it", lambda: "Somebody must look" in shop.log, LONG)
    posts, kept = provider.posts.total(), shop.pay(url, "k", "503 before").status_code
    assert (first.status_code, posts, provider.charged, state(database)) == (202, 1, 0, "unknown")
    assert kept == 202
    fault(
        "the provider knows nothing of a payment that is older than RESUME_FOR",
        f"an error in the log, sent {posts} time, {charges(provider.charged)}, the payment stays {state(database)}",
    )


def test_a_client_that_hangs_up_gets_the_answer_later(counter: Shop, key: str, fault: Fault) -> None:
    url, provider = counter.urls[0], counter.provider
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps({"amount": 5, "currency": "EUR", "source": "waits"}).encode()
    head = f"POST /payments HTTP/1.1\r\nHost: x\r\nX-Account: a\r\nIdempotency-Key: {key}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)
        assert provider.arrived.acquire(timeout=LONG)
    provider.gate.set()
    wait_for("the end", lambda: state(counter.database, key) == "succeeded", LONG)
    again = counter.pay(url, key, "waits")
    assert (again.status_code, provider.charged, provider.posts.total()) == (201, 1, 1)
    fault("the client hangs up during the call and sends the request again", f"201 stored, {charges(provider.charged)}")


def test_a_provider_that_hangs_holds_no_connection_to_the_database(
    shop: Shop, provider: Provider, fault: Fault
) -> None:
    url = shop.start(POOL=4)
    paid = shop.pay(url, "before")
    waiting = [shop.begin(url, str(uuid4()), "waits") for _ in range(30)]
    for _ in waiting:
        assert provider.arrived.acquire(timeout=LONG)
    meanwhile = shop.pay(url, "before")
    provider.gate.set()
    done = Counter(each.result().status_code for each in waiting)
    assert (paid.content, meanwhile.status_code, done) == (meanwhile.content, 201, {201: 30})
    fault(
        "30 calls hang at the provider, with a pool of 4 connections",
        f"another request is answered meanwhile, then {done[201]} x 201",
    )


def test_sigterm_finishes_payments_in_flight(shop: Shop, provider: Provider, database: str, fault: Fault) -> None:
    url = shop.start()
    waiting = shop.begin(url, "k", "waits")
    assert provider.arrived.acquire(timeout=LONG)
    shop.processes[0].terminate()
    port = int(url.rsplit(":", 1)[1])
    wait_for("the end of listening", lambda: not listening(port), LONG)
    wait_for("uvicorn's word", lambda: "Waiting for connections" in shop.log or "Cancel" in shop.log, LONG)
    provider.gate.set()
    last, code = waiting.result(), shop.processes[0].wait(LONG)
    assert (last.status_code, state(database)) == (201, "succeeded")
    fault("SIGTERM during the call", f"no new connections, the call ends with {last.status_code}, exit {code}")
