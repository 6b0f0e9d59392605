"""What the programs share: servers on loopback, a Django to run in, and the verdict."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NoReturn
from urllib.parse import urlsplit


def verdict(good: bool, said: str) -> NoReturn:
    """Print what was measured and end, with 0 when it is what the row promises."""
    sys.__stdout__.write(said + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]
    os._exit(0 if good else 1)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve(answer: Callable[[BaseHTTPRequestHandler], None]) -> str:
    """The address of an HTTP server on loopback, which calls `answer` for each GET or POST."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                answer(self)
            except OSError:
                pass  # the client went away

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def reply(request: BaseHTTPRequestHandler, status: int, body: bytes = b"") -> None:
    """Answer a request."""
    request.send_response(status)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


def asgi(app: Any) -> str:
    """The address of an ASGI application, which uvicorn serves from a thread."""
    import uvicorn

    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="critical"))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.01)
    return f"http://127.0.0.1:{port}"


def outcome(call: Callable[[], object], seconds: float = 5) -> str:
    """What a call in a thread of its own ends with: its result, the error's name and text, or `late`."""
    results: list[str] = []

    def work() -> None:
        try:
            results.append(str(call()))
        except BaseException as error:
            results.append(f"{type(error).__name__}: {' '.join(str(error).split())[:90]}")

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    return results[0] if results else "late"


def run(coroutine: Coroutine[Any, Any, Any]) -> str:
    """The same of a coroutine."""
    import asyncio

    return outcome(lambda: asyncio.run(coroutine), 15)


def django(database_url: str = "", **settings: object) -> None:
    """Set Django up on a PostgreSQL database, or on SQLite in memory."""
    import django as package
    from django.conf import settings as chosen

    parts = urlsplit(database_url)
    database: dict[str, object] = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    if database_url:
        database = {
            "ENGINE": "django.db.backends.postgresql", "NAME": parts.path[1:], "USER": parts.username,
            "HOST": parts.hostname, "PORT": parts.port,
        }  # fmt: skip
    chosen.configure(DATABASES={"default": database}, USE_TZ=True, **settings)
    package.setup()


def tables(*models: Any) -> None:
    """Create the tables of Django models."""
    from django.db import connection

    with connection.schema_editor() as editor:
        for model in models:
            editor.create_model(model)
