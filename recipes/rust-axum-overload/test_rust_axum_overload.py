"""The service as a process of its own, before a database that stands still, fails and hangs, and clients that do."""

from __future__ import annotations

import http.client
import os
import select
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from recipes.engines import Postgres, cargo, free_port, listening, program, wait_for

pytestmark = pytest.mark.slow  # compiles

HERE = Path(__file__).parent
PATIENCE = 30.0
# Milliseconds where it is a time; by default nothing that a loaded machine could run into, save what a test is about.
LIMITS = {
    **{"CONNECTIONS": 2000, "REQUESTS": 1000, "MAX_HEADER": 16 << 10, "MAX_BODY": 64 << 10},
    **dict.fromkeys(("HEADER", "BODY", "REQUEST", "DRAIN", "ATTEMPT"), 60_000),
    **{"READY_LAG": 0, "FLUSH": 30_000, "QUEUE": 1000, "BATCH": 100, "LINGER": 5, "BUDGET": 90_000, "PAUSE": 50},
}
Fault = Callable[[str, str], None]


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the recipe; its files are new to cargo, which goes by their times."""
    if not program("cargo"):
        pytest.skip("needs Rust's cargo")
    folder = tmp_path_factory.mktemp("build") / "code"
    shutil.copytree(HERE, folder, copy_function=shutil.copyfile)
    return folder


@pytest.fixture(scope="module")
def binary(code: Path) -> Path:
    done = cargo(code, "build", "--locked", "--example", "ingest", "--message-format", "json-render-diagnostics")
    assert done.returncode == 0, done.stderr
    path = done.stdout.rpartition('"executable":"')[2].partition('"')[0]
    return Path(shutil.copy(path, code / "ingest"))


class Service:
    """The program on a port of its own."""

    def __init__(self, binary: Path, folder: Path, database: str, limits: dict[str, int]) -> None:
        self.port = free_port()
        self.log = folder / f"{self.port}.log"
        environment = {name: str(value) for name, value in (LIMITS | limits).items()}
        environment |= {"ADDR": f"127.0.0.1:{self.port}", "DATABASE_URL": database, "RUST_LOG": "info"}
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [binary], env=os.environ | environment, stderr=log, stdout=log, stdin=subprocess.DEVNULL
            )
        wait_for("the service", lambda: listening(self.port) or self.process.poll() is not None)

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.connect()
        return connection

    def raw(self, text: str = "") -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        connection.sendall(text.encode())
        return connection

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, str | None]:
        """Status and Retry-After on a connection of its own; status 0 when there was no answer."""
        connection = None
        try:
            connection = self.connect()
            connection.request(method, path, body)
            answer = connection.getresponse()
            answer.read()
            return answer.status, answer.headers["Retry-After"]
        except (OSError, http.client.HTTPException):
            return 0, None
        finally:
            if connection:
                connection.close()

    def status(self, method: str, path: str, body: bytes | None = None) -> int:
        return self.ask(method, path, body)[0]

    def store(self, name: object, body: bytes = b"text") -> int:
        return self.status("PUT", f"/events/{name}", body)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def ended(self) -> int:
        """The exit status, which must come without SIGKILL."""
        return self.process.wait(timeout=PATIENCE)


class Database:
    def __init__(self, url: str) -> None:
        self.url = url
        self.run("CREATE TABLE events (id text PRIMARY KEY, body text NOT NULL)")

    def run(self, statement: str) -> list[Any]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement)  # type: ignore[arg-type]
            return [row[0] for row in cursor.fetchall()] if cursor.description else []

    def ids(self) -> set[str]:
        return set(self.run("SELECT id FROM events"))

    def waits(self) -> bool:
        """Whether a statement of the service waits for the table."""
        return bool(self.run("SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'events'::regclass"))

    @contextmanager
    def still(self) -> Iterator[None]:
        """While this lasts nothing can be stored."""
        with psycopg.connect(self.url) as connection:
            connection.execute("LOCK TABLE events IN EXCLUSIVE MODE")
            yield


class Proxy:
    """Stands between the service and PostgreSQL."""

    def __init__(self, url: str) -> None:
        start, port = url.split("@127.0.0.1:")
        port, name = port.split("/")
        self.target, self.listener = int(port), socket.create_server(("127.0.0.1", 0))
        self.url = f"{start}@127.0.0.1:{self.listener.getsockname()[1]}/{name}"
        self.silent = threading.Event()  # while it is set nothing is passed on in either direction
        self.lose = threading.Event()  # cut the connection instead of passing on the answer to the next INSERT
        self.inserts = self.opened = self.closed = 0
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                self.opened += 1
                server = socket.create_connection(("127.0.0.1", self.target))
                doomed = threading.Event()
                for pair in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self.pump, args=(*pair, doomed), daemon=True).start()

    def pump(self, source: socket.socket, sink: socket.socket, request: bool, doomed: threading.Event) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 20):
                if request and b"INSERT" in data:
                    self.inserts += 1
                    if self.lose.is_set():
                        doomed.set()
                if not request and doomed.is_set() and b"INSERT" in data:  # the tag of the completed command
                    self.lose.clear()
                    break
                while self.silent.is_set() and not gone(source):
                    time.sleep(0.01)
                sink.sendall(data)
        self.closed += request
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def gone(connection: socket.socket) -> bool:
    """Whether the other side has closed it."""
    if not select.select([connection], [], [], 0)[0]:
        return False
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except OSError:
        return True


@pytest.fixture
def events(database: str) -> Database:
    return Database(database)


@pytest.fixture
def start(binary: Path, tmp_path: Path, events: Database) -> Iterator[Callable[..., Service]]:
    services = []

    def begin(url: str | None = None, **limits: int) -> Service:
        services.append(Service(binary, tmp_path, url or events.url, limits))
        return services[-1]

    yield begin
    for service in services:
        if service.process.poll() is None:
            service.process.kill()
        service.process.wait(timeout=PATIENCE)


def full(service: Service, requests: dict[str, socket.socket]) -> bool:
    """Whether all permits are taken; a request that was refused because this question held the last is sent again."""
    for request, connection in list(requests.items()):
        if select.select([connection], [], [], 0)[0]:
            connection.close()
            requests[request] = service.raw(request)
    return service.status("GET", "/echo") == 503


def free(service: Service, permits: int) -> bool:
    """Whether so many requests that never end are let in at once, and not one more."""
    held = [service.raw("GET /hang HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(permits)]
    refused = service.status("GET", "/echo") != 503 or bool(select.select(held, [], [], 0)[0])
    for connection in held:
        connection.close()
    return not refused


class Crowd:
    """Many clients at once, each in a thread of its own."""

    def __init__(self, clients: int) -> None:
        self.pool, self.calls = ThreadPoolExecutor(clients), list[Future[Any]]()

    def send(self, call: Callable[..., Any], *arguments: object) -> None:
        self.calls.append(self.pool.submit(call, *arguments))

    def answered(self) -> int:
        return sum(call.done() for call in self.calls)

    def count(self) -> Counter[Any]:
        """All answers, once they are there."""
        found = Counter(call.result(timeout=PATIENCE) for call in self.calls)
        self.pool.shutdown()
        return found


Start = Callable[..., Service]


def test_formatted_and_without_a_warning(code: Path) -> None:
    for words in (["fmt", "--check"], ["clippy", "--locked", "--all-targets", "--", "-D", "warnings"]):
        done = cargo(code, *words)
        assert done.returncode == 0, done.stdout + done.stderr


def test_requests_beyond_the_limit_are_refused_at_once(events: Database, start: Start, fault: Fault) -> None:
    service, crowd = start(REQUESTS=64), Crowd(500)
    with events.still():
        for n in range(500):
            crowd.send(service.ask, "PUT", f"/events/{n}", b"text")
        wait_for("436 refusals", lambda: crowd.answered() >= 436, PATIENCE)
        other, alive, ready = (service.status("GET", path) for path in ("/hang", "/livez", "/readyz"))
    found = crowd.count()
    assert found == {(201, None): 64, (503, "1"): 436} and (other, alive, ready) == (503, 200, 200), found
    stored = len(events.ids())
    assert stored == 64
    fault(
        "500 requests at once while the database stands still, `requests` is 64",
        f"{found[503, '1']} answered 503 with Retry-After while the others wait, another route {other}, "
        f"probes {alive}; then {found[201, None]} answered 201, {stored} rows",
    )


def test_a_full_queue_refuses(events: Database, start: Start, fault: Fault) -> None:
    service, crowd = start(QUEUE=32, BATCH=16, LINGER=60_000), Crowd(500)
    with events.still():
        for n in range(16):
            crowd.send(service.ask, "PUT", f"/events/{n}", b"text")
        wait_for("the first batch", events.waits, PATIENCE)
        for n in range(16, 500):
            crowd.send(service.ask, "PUT", f"/events/{n}", b"text")
        wait_for("452 refusals", lambda: crowd.answered() >= 452, PATIENCE)
    found, stored = crowd.count(), len(events.ids())
    assert found == {(201, None): 48, (503, "1"): 452} and stored == 48, (found, stored)
    statements = events.run("SELECT count(DISTINCT xmin::text) FROM events")[0]
    assert statements == 3
    fault(
        "500 requests at once while the database stands still, `queue` is 32, `batch` is 16",
        f"{found[503, '1']} answered 503 with Retry-After; then {found[201, None]} answered 201, "
        f"{stored} rows in {statements} transactions",
    )


def test_a_lone_event_does_not_wait_for_a_full_batch(events: Database, start: Start, fault: Fault) -> None:
    service = start(BATCH=100, LINGER=50)
    status = service.store(1)
    assert (status, events.ids()) == (201, {"1"})
    fault("1 event, `batch` is 100, `linger` is 50 ms", f"{status}, stored alone")


def test_a_refusal_does_not_read_the_body(start: Start, fault: Fault) -> None:
    service = start(REQUESTS=1)
    hang = "GET /hang HTTP/1.1\r\nHost: x\r\n\r\n"
    held = {hang: service.raw(hang)}
    wait_for("the permit taken", lambda: full(service, held), PATIENCE)
    with service.raw("PUT /events/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n") as other:
        answer = other.recv(1000)
    held[hang].close()
    assert answer.startswith(b"HTTP/1.1 503 "), answer
    fault("a request without its body, all permits are taken", "503 without waiting for the body")


def test_what_nobody_waits_for_is_not_stored(events: Database, start: Start, fault: Fault) -> None:
    service, crowd = start(REQUESTS=50, BATCH=1), Crowd(1)
    with events.still():
        crowd.send(service.store, "kept")
        wait_for("the statement", events.waits, PATIENCE)
        head = "PUT /events/{} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\ntext"
        clients = {request: service.raw(request) for request in map(head.format, range(49))}
        wait_for("no permit free", lambda: full(service, clients), PATIENCE)
        for client in clients.values():
            client.close()
        for _ in range(200):
            service.raw("PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nte").close()
        wait_for("49 permits to be free", lambda: free(service, 49), PATIENCE)
    found, later = crowd.count(), service.store("later")
    stored = events.ids() - {"kept", "later"}
    assert found == {201: 1} and later == 201 and not stored, (found, later, stored)
    fault(
        "49 clients go away while their events wait in the queue, 200 more in the middle of a body",
        f"all permits are free again, {len(stored)} of the 49 stored, the one that still waits gets 201",
    )


def test_a_database_that_never_answers_is_given_up(events: Database, start: Start, fault: Fault) -> None:
    proxy = Proxy(events.url)
    service = start(proxy.url, ATTEMPT=400, BUDGET=1000, PAUSE=50, REQUEST=10_000)
    assert service.store(1) == 201
    proxy.silent.set()
    first = service.store(2)
    wait_for("all connections closed", lambda: proxy.closed >= proxy.opened, PATIENCE)
    tries = service.output.count("no answer")
    proxy.silent.clear()
    wait_for("the second time", lambda: service.store(2) == 201, PATIENCE)
    rows = len(events.run("SELECT 1 FROM events WHERE id = '2'"))
    assert (first, rows) == (504, 1) and tries >= 2
    fault(
        "the database takes a statement and never answers, `attempt` is 400 ms, `budget` is 1 s",
        f"{first}, the connections closed; sent again under the same id once it answers: 201, {rows} row",
    )


def test_a_database_that_fails_once_is_asked_again(events: Database, start: Start, fault: Fault) -> None:
    service, crowd = start(), Crowd(20)
    with events.still():
        for n in range(20):
            crowd.send(service.store, n)
        wait_for("a statement", events.waits, PATIENCE)
        kill = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted AND relation = 'events'::regclass"
        killed = sum(events.run(kill))
        wait_for("the error", lambda: "not stored" in service.output, PATIENCE)
    found, stored = crowd.count(), len(events.ids())
    assert killed == 1 and found == {201: 20} and stored == 20, (killed, found, stored)
    fault(
        "the database ends the connection in the middle of a statement",
        f"{found[201]} of 20 answered 201, {stored} rows",
    )


def test_a_restart_of_the_database_is_waited_for(
    events: Database, start: Start, postgres: Postgres, fault: Fault
) -> None:
    service, crowd = start(), Crowd(20)
    assert service.store("before") == 201
    postgres.stop()
    try:
        for n in range(20):
            crowd.send(service.store, n)
        wait_for("two errors", lambda: service.output.count("not stored") >= 2, PATIENCE)
    finally:
        postgres.start()
    found, stored = crowd.count(), len(events.ids())
    assert found == {201: 20} and stored == 21, (found, stored)
    fault("the database is down and comes back within `budget`", f"{found[201]} of 20 answered 201, {stored - 1} rows")


def test_a_commit_whose_answer_is_lost_is_not_repeated(events: Database, start: Start, fault: Fault) -> None:
    proxy = Proxy(events.url)
    service = start(proxy.url)
    proxy.lose.set()
    status, rows = service.store("once"), events.run("SELECT count(*) FROM events")[0]
    assert (status, rows, proxy.inserts) == (201, 1, 2), (status, rows, proxy.inserts)
    fault("the answer to the commit is lost", f"the statement is sent {proxy.inserts} times; {status}, {rows} row")


def test_one_bad_event_does_not_cost_the_others(events: Database, start: Start, fault: Fault) -> None:
    service, crowd = start(BATCH=20, LINGER=60_000), Crowd(20)
    for n in range(20):
        crowd.send(service.store, n, b"\0" if n == 7 else b"text")  # PostgreSQL's text takes no zero byte
    found, stored = crowd.count(), len(events.ids())
    assert found == {201: 19, 422: 1} and stored == 19, (found, stored)
    fault(
        "1 of 20 events in a batch holds what the database refuses",
        f"{found[422]} answered 422, {found[201]} answered 201",
    )


def test_a_slow_body_holds_no_permit(start: Start, fault: Fault) -> None:
    service = start(REQUESTS=4, BODY=2000)
    head = "PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n"
    slow = [service.raw(head + "x" * 10) for _ in range(50)]
    others, began = Counter[int](), time.monotonic()
    while not select.select(slow, [], [], 0)[0] and time.monotonic() < began + PATIENCE:
        others[service.status("PUT", "/echo", b"text")] += 1
        for client in slow:
            with suppress(OSError):  # answered and closed in this moment; the answer can still be read
                client.sendall(b"x")
    found = Counter(client.recv(1000).split(b" ")[1].decode() for client in slow)
    assert set(others) == {200} and found == {"408": 50}, (others, found)
    fault(
        "50 clients send their body byte by byte, `requests` is 4, `body` is 2 s",
        f"{found['408']} answered 408, every other request meanwhile 200",
    )


def test_a_slow_header_loses_the_connection(start: Start, fault: Fault) -> None:
    service = start(HEADER=1500)
    idle = service.connect()
    idle.request("GET", "/livez")
    assert idle.getresponse().read() == b""
    slow, others = [service.raw("GET /livez HTTP/1.1\r\nHost: x\r\nX-A: ") for _ in range(60)], Counter[int]()
    left, began = set(slow), time.monotonic()
    while left and time.monotonic() < began + PATIENCE:
        others[service.status("GET", "/livez")] += 1
        for client in list(left):
            try:
                client.sendall(b"x")
            except OSError:
                left.discard(client)
            if client in left and select.select([client], [], [], 0)[0]:
                left.discard(client)
        time.sleep(0.02)
    assert not left and set(others) == {200}, (len(left), others)
    wait_for("the idle connection to be closed", lambda: gone(idle.sock), PATIENCE)
    fault(
        "60 clients send their header byte by byte, `header` is 1.5 s",
        f"{60 - len(left)} cut, every other request meanwhile 200",
    )
    fault("a client keeps its connection and sends nothing more, `header` is 1.5 s", "closed by the server")


def test_a_connection_beyond_the_limit_waits(start: Start, fault: Fault) -> None:
    service = start(CONNECTIONS=10)
    held = [service.connect() for _ in range(10)]
    for connection in held:
        connection.request("GET", "/livez")
        assert connection.getresponse().read() == b""
    with service.raw("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n") as other:
        early = bool(select.select([other], [], [], 0.5)[0])
        held[0].close()
        answer = other.recv(1000)
    assert not early and answer.startswith(b"HTTP/1.1 200 "), (early, answer)
    fault("an 11th connection, `connections` is 10", "waits in the backlog, 200 when one of the ten is closed")


def test_a_body_beyond_the_limit_is_refused(start: Start, fault: Fault) -> None:
    service, larger = start(BODY=5000), start(MAX_BODY=3 << 20)
    head = "PUT /echo HTTP/1.1\r\nHost: x\r\n"
    with service.raw(f"{head}Content-Length: {(64 << 10) + 1}\r\nExpect: 100-continue\r\n\r\n") as told:
        first = told.recv(1000)
    with service.raw(f"{head}Transfer-Encoding: chunked\r\n\r\n") as chunked:
        with suppress(OSError):
            for _ in range(100):
                chunked.sendall(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
        second = chunked.recv(1000)
    most, large = service.status("PUT", "/echo", b"x" * (64 << 10)), larger.status("PUT", "/echo", b"x" * (3 << 20))
    assert first.startswith(b"HTTP/1.1 413 ") and second.startswith(b"HTTP/1.1 413 ") and (most, large) == (200, 200), (
        first,
        second,
    )
    fault("a body of 1 byte more than `max_body`, announced with Expect: 100-continue", "413, the body not asked for")
    fault("a chunked body without an end", "413")
    fault("a body of just `max_body`, 64 KiB and 3 MiB", f"{most}")


def test_a_header_beyond_the_limit_is_refused(start: Start, fault: Fault) -> None:
    service = start()
    with service.raw("GET /livez HTTP/1.1\r\nHost: x\r\nX-A: " + "x" * (20 << 10) + "\r\n\r\n") as client:
        status = client.recv(1000).split(b" ")[1].decode()
    assert status == "431"
    fault("a header of 20 KiB, `max_header` is 16 KiB", status)


def test_a_handler_ends_at_its_deadline(start: Start, fault: Fault) -> None:
    service = start(REQUESTS=1, REQUEST=500)
    status, after = service.status("GET", "/hang"), service.status("PUT", "/echo", b"text")
    assert (status, after) == (504, 200)
    fault(
        "a handler waits for something that never comes, `requests` is 1, `request` is 500 ms",
        f"{status}, the next request {after}",
    )


def test_a_panic_costs_one_request(start: Start, fault: Fault) -> None:
    service = start(REQUESTS=4)
    connection, found = service.connect(), Counter[int]()
    for path in ["/panic"] * 100 + ["/livez"]:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        found[answer.status] += 1
    lines = service.output.count("ERROR service: panicked at testdata/main.rs:")
    assert found == {500: 100, 200: 1} and lines == 100, (found, lines)
    fault(
        "a handler panics 100 times, `requests` is 4",
        f"{found[500]} answered 500, {lines} lines in the log with file and line, then 200 on the same connection",
    )


def test_sigterm_finishes_what_was_accepted(events: Database, start: Start, fault: Fault) -> None:
    service, crowd = start(BATCH=8, READY_LAG=1000), Crowd(40)
    idle, fresh = service.connect(), service.raw()
    idle.request("GET", "/livez")
    assert idle.getresponse().read() == b""
    with events.still():
        for n in range(40):
            crowd.send(service.store, n)
        wait_for("a statement", events.waits, PATIENCE)
        wait_for("all accepted", lambda: queued(service) >= 42, PATIENCE)
        service.terminate()
        wait_for("the port to be closed", lambda: not listening(service.port), PATIENCE)
        wait_for("idle connections to be closed", lambda: gone(idle.sock) and gone(fresh), PATIENCE)
        before = crowd.answered()
    found, status, stored = crowd.count(), service.ended(), len(events.ids())
    assert before == 0 and found == {201: 40} and (status, stored) == (0, 40), (before, found, status, stored)
    fault(
        "SIGTERM while 40 events wait for a database that stands still, `batch` is 8",
        f"no new connections, idle ones closed; then {found[201]} answered 201, {stored} rows, exit {status}",
    )


def queued(service: Service) -> int:
    """Connections to the service that are established, as the kernel counts them."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    return sum(int(row[1].split(":")[1], 16) == service.port and row[3] == "01" for row in rows)


def test_sigterm_under_load_loses_nothing(events: Database, start: Start, fault: Fault) -> None:
    service, removed = start(READY_LAG=3000), threading.Event()
    stored, lost, closes = [list[str]() for _ in range(30)], Counter[str](), Counter[bool]()

    def client(number: int) -> None:
        connection, n = service.connect(), 0
        while not removed.is_set() or connection.sock:
            try:
                connection.request("PUT", f"/events/{number}-{n}", b"text")
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException) as error:
                lost[type(error).__name__] += 1
                return
            if answer.status == 201:
                stored[number].append(f"{number}-{n}")
            n += 1
            if removed.is_set():
                closes[answer.headers["Connection"] == "close"] += 1
                return

    threads = [threading.Thread(target=client, args=(number,)) for number in range(30)]
    for thread in threads:
        thread.start()
    wait_for("load", lambda: sum(map(len, stored)) >= 300, PATIENCE)
    service.terminate()
    wait_for("readiness to fail", lambda: service.status("GET", "/readyz") == 503, PATIENCE)
    new = Counter(service.status("PUT", "/echo", b"text") for _ in range(20))
    removed.set()  # the load balancer sends nothing more
    for thread in threads:
        thread.join(PATIENCE)
    status, acknowledged = service.ended(), {name for names in stored for name in names}
    missing = len(acknowledged - events.ids())
    assert (status, missing, dict(lost), new, closes) == (0, 0, {}, {200: 20}, {True: 30}), (status, missing, lost, new)
    fault(
        "SIGTERM while 30 clients store on connections that they keep",
        f"readiness 503 first and {new[200]} of 20 new connections served meanwhile, {closes[True]} clients told "
        f"Connection: close; {sum(lost.values())} requests without an answer, "
        f"{missing} acknowledged events missing, exit {status}",
    )


def test_what_does_not_end_is_cut(events: Database, start: Start, fault: Fault) -> None:
    service = start(DRAIN=500, FLUSH=500)
    with service.raw("GET /hang HTTP/1.1\r\nHost: x\r\n\r\n") as client, events.still():
        crowd = Crowd(1)
        crowd.send(service.store, 1)
        wait_for("a statement", events.waits, PATIENCE)
        service.terminate()
        answer, status = client.recv(1000), service.ended()
        found = crowd.count()
    assert (answer, status, found) == (b"", 1, {0: 1}), (answer, status, found)
    fault(
        "SIGTERM while a handler hangs and the database stands still, `drain` and `flush` are 500 ms",
        f"both connections cut without an answer, exit {status} without SIGKILL",
    )


def test_a_hanging_handler_alone_is_cut(start: Start, fault: Fault) -> None:
    service, hang = start(DRAIN=500, REQUESTS=1), "GET /hang HTTP/1.1\r\nHost: x\r\n\r\n"
    held = {hang: service.raw(hang)}
    wait_for("the permit taken", lambda: full(service, held), PATIENCE)
    service.terminate()
    answer, status = held[hang].recv(1000), service.ended()
    held[hang].close()
    assert (answer, status) == (b"", 1), (answer, status)
    fault("SIGTERM while a handler hangs, `drain` is 500 ms", f"connection cut, exit {status} without SIGKILL")


def test_nothing_is_acknowledged_before_the_commit(events: Database, start: Start, fault: Fault) -> None:
    service, crowd = start(BATCH=8), Crowd(20)
    with events.still():
        for n in range(20):
            crowd.send(service.store, n)
        wait_for("a statement", events.waits, PATIENCE)
        service.process.kill()
        found = crowd.count()
    assert found == {0: 20}, found
    fault("kill -9 while 20 events wait for a database that stands still", f"{found[201]} of 20 acknowledged")


def test_kill_under_load_loses_nothing_acknowledged(events: Database, start: Start, fault: Fault) -> None:
    service, stop = start(), threading.Event()
    stored = [list[str]() for _ in range(20)]

    def client(number: int) -> None:
        n = 0
        while not stop.is_set():
            if service.store(f"{number}-{n}") == 201:
                stored[number].append(f"{number}-{n}")
            n += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    wait_for("load", lambda: sum(map(len, stored)) >= 200, PATIENCE)
    service.process.kill()
    stop.set()
    for thread in threads:
        thread.join(PATIENCE)
    missing = len({name for names in stored for name in names} - events.ids())
    assert missing == 0
    fault("kill -9 while 20 clients store", f"{missing} acknowledged events missing")
