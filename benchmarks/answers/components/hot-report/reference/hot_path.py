"""Hot reports: one call to the origin per report, stale answers meanwhile, deadlines, and shedding when it is full.

All state lives on the event loop, so that it needs no lock; only parsing runs in a thread.
"""

import asyncio
import json
import logging
import math
import os
import re
import signal
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI, Response

log = logging.getLogger("hot_path")


def setting(name: str, start: float) -> float:
    return float(os.environ.get(name, start))


SOFT_TTL = setting("MAX_AGE_SECONDS", 60)  # seconds for which a copy is fresh
HARD_TTL = setting("STALE_SECONDS", 3600)  # seconds for which it is served at all
NOT_FOUND = setting("NOT_FOUND_SECONDS", 10)  # seconds for which a 404 is
RETRY_PAUSE = setting("RETRY_SECONDS", 5)  # after a failed call
WAIT = setting("WAIT_SECONDS", 1)  # for a new copy, when there is an old one
DEADLINE = setting("TIMEOUT_SECONDS", 10)  # of a request and of a call
MAX_ENTRIES = int(setting("MAX_REPORTS", 1000))
CALLS = 500  # at once, for different reports
DRAIN = setting("DRAIN_SECONDS", 10)
MAX_BODY = 6_000_000


def no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


async def load_report(caller: httpx.AsyncClient, key: str) -> bytes | None:
    async with asyncio.timeout(DEADLINE), caller.stream("GET", f"/reports/{key}") as answer:
        if answer.status_code == 404:
            return None
        if answer.status_code != 200:
            raise ValueError(f"status {answer.status_code}")
        body = bytearray()
        async for part in answer.aiter_bytes():
            body += part
            if len(body) > MAX_BODY:
                raise ValueError("too large")
        await asyncio.to_thread(json.loads, bytes(body), parse_constant=no_constant)
        return bytes(body)


@dataclass(slots=True)
class Entry:
    known: bool = False  # whether the origin has answered usably
    body: bytes | None = None  # None: the origin has no such thing, which is an answer too
    came: float = 0
    failed: bool = False  # in the latest call
    retry: float = 0  # after a failed call: not before


class Unavailable(Exception):
    """Nothing that may be shown."""


class HotPath:
    def __init__(self, load: Callable[[str], Awaitable[bytes | None]]) -> None:
        self.load = load
        self.entries: OrderedDict[str, Entry] = OrderedDict()  # the least recently read comes first
        self.flights: dict[str, asyncio.Task[bytes | None]] = {}

    def rebuild(self, key: str) -> asyncio.Task[bytes | None] | None:
        """The running call for a key, or a new one; None when there are too many."""
        flight = self.flights.get(key)
        if flight is None and len(self.flights) < CALLS:
            flight = asyncio.create_task(self.load(key))  # type: ignore[arg-type]
            self.flights[key] = flight
            flight.add_done_callback(partial(self.landed, key))
        return flight

    def landed(self, key: str, flight: asyncio.Task[bytes | None]) -> None:
        del self.flights[key]  # here and nowhere else
        if flight.cancelled():
            return
        now, failure = time.monotonic(), flight.exception()
        entry = self.entries.setdefault(key, Entry())
        if failure:  # without a pause every reader would try again at once
            log.warning("the call for %s failed: %r", key, failure)
            entry.failed, entry.retry = True, now + RETRY_PAUSE
        else:
            self.entries[key] = Entry(True, flight.result(), now)
        self.entries.move_to_end(key)
        while len(self.entries) > MAX_ENTRIES:
            self.entries.popitem(last=False)

    def shown(self, key: str, stale: bool) -> tuple[bytes | None, int, bool]:
        """What is at hand: the body, its age, and whether that is fresh; Unavailable when there is nothing."""
        entry, now = self.entries.get(key), time.monotonic()
        if not entry or not entry.known or (entry.body is None and entry.failed):
            raise Unavailable
        age = now - entry.came
        fresh = age <= (NOT_FOUND if entry.body is None else SOFT_TTL)
        if not fresh and (entry.body is None or age > HARD_TTL or not (stale or entry.failed)):
            raise Unavailable
        return entry.body, math.floor(age), fresh

    async def get(self, key: str) -> tuple[bytes | None, int, bool]:
        entry, now = self.entries.get(key), time.monotonic()
        if entry:
            self.entries.move_to_end(key)
            try:
                body, age, fresh = self.shown(key, False)
            except Unavailable:
                fresh = False
            if fresh:
                return body, age, fresh
            if now < entry.retry:
                return self.shown(key, True)
        if (flight := self.rebuild(key)) is None:
            return self.shown(key, True)
        old = entry and entry.known and entry.body is not None and now - entry.came <= HARD_TTL
        try:
            async with asyncio.timeout(min(WAIT, DEADLINE) if old else DEADLINE):
                await asyncio.shield(flight)  # this reader's deadline must not end it for the others
        except Exception:  # it failed, or is not there yet
            return self.shown(key, True)
        return self.shown(key, False)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with httpx.AsyncClient(
        base_url=os.environ["UPSTREAM_URL"], timeout=None, trust_env=False,  # load_report has the deadline
        headers={"Accept-Encoding": "identity"},
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
    ) as caller:  # fmt: skip
        app.state.hot = HotPath(partial(load_report, caller))
        yield


app = FastAPI(lifespan=lifespan)


def answer(status: int, body: bytes, **headers: object) -> Response:
    return Response(
        body, status, {name.replace("_", "-"): str(value) for name, value in headers.items()}, "application/json"
    )


@app.get("/reports/{key}")
async def read_report(key: str) -> Response:
    if not re.fullmatch("[A-Za-z0-9_-]{1,64}", key):
        return answer(404, b'{"error": "not_found"}')
    try:
        body, age, fresh = await app.state.hot.get(key)
    except Unavailable:
        return answer(503, b'{"error": "unavailable"}', Retry_After=max(1, math.ceil(RETRY_PAUSE)))
    if body is None:
        return answer(404, b'{"error": "not_found"}')
    return answer(200, body, Age=age, X_Report_State="fresh" if fresh else "stale")


@app.get("/healthz")
async def healthz() -> Response:
    return answer(200, b'{"status": "ok"}')


class Server(uvicorn.Server):
    def handle_exit(self, sig: int, frame: Any) -> None:
        late = threading.Timer(DRAIN, os._exit, [0])
        late.daemon = True
        late.start()
        super().handle_exit(sig, frame)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn sends it again when all is done
    options = {"timeout_keep_alive": 75, "access_log": False, "timeout_graceful_shutdown": DRAIN * 0.9}
    Server(uvicorn.Config(app, port=int(os.environ["PORT"]), **options)).run()  # type: ignore[arg-type]
