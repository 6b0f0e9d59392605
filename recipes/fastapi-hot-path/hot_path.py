"""A hot read path for FastAPI: one rebuild per key, stale answers meanwhile, deadlines, and shedding when it is full.

Run: DATABASE_URL=postgresql://HOST/NAME python hot_path.py
All state lives on the event loop, so that it needs no lock; only `load_report` runs in threads.
"""

import asyncio
import logging
import math
import os
import random
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import uvicorn
from fastapi import FastAPI, Header, HTTPException, Path, Response
from psycopg_pool import ConnectionPool

log = logging.getLogger("hot_path")


def setting(name: str, start: float) -> float:
    return float(os.environ.get(name, start))


SOFT_TTL = setting("SOFT_TTL", 60)  # seconds for which a copy is fresh
HARD_TTL = setting("HARD_TTL", 600)  # seconds for which it is served at all
RETRY_PAUSE = setting("RETRY_PAUSE", 1)  # after a failed rebuild, while the stale copy is served
DEADLINE = setting("DEADLINE", 2)  # of a request
LOAD_TIMEOUT = setting("LOAD_TIMEOUT", 5)  # of a rebuild, its time in line included
LOADERS, QUEUE = int(setting("LOADERS", 8)), int(setting("QUEUE", 32))  # rebuilds at work, and in line behind them
MAX_WAITING, MAX_ENTRIES = int(setting("MAX_WAITING", 500)), int(setting("MAX_ENTRIES", 10_000))


def load_report(pool: ConnectionPool, key: int, started: float) -> bytes | None:
    """Put any blocking call here. It needs a limit of its own, since nothing can stop a thread."""
    left = started + LOAD_TIMEOUT - time.monotonic()
    if left < 0.001:  # a statement_timeout of 0 would mean none
        raise TimeoutError("stood in line for too long: by now nobody waits for the answer")
    with pool.connection(timeout=left) as connection:
        connection.execute("SELECT set_config('statement_timeout', %s, true)", [f"{left * 1000:.0f}ms"])
        row = connection.execute("SELECT report(%s)::text", [key]).fetchone()
    return row[0].encode() if row and row[0] is not None else None


@dataclass(slots=True)
class Entry:
    body: bytes | None  # None: the origin has no such thing, which is an answer too
    soft: float
    hard: float
    retry: float = 0  # after a failed rebuild: not before


class Overloaded(Exception):
    """No room for one more rebuild or one more waiting request."""


class HotPath:
    def __init__(self, load: Callable[[int, float], bytes | None]) -> None:
        self.load, self.threads, self.waiting = load, ThreadPoolExecutor(LOADERS, "load"), 0
        self.entries: OrderedDict[int, Entry] = OrderedDict()  # the least recently read comes first
        self.flights: dict[int, asyncio.Future[bytes | None]] = {}

    def rebuild(self, key: int) -> asyncio.Future[bytes | None] | None:
        """The running rebuild of a key, or a new one; None when the line is full."""
        flight = self.flights.get(key)
        if flight is None and len(self.flights) < LOADERS + QUEUE:
            flight = asyncio.get_running_loop().run_in_executor(self.threads, self.load, key, time.monotonic())
            self.flights[key] = flight
            flight.add_done_callback(partial(self.landed, key))
        return flight

    def landed(self, key: int, flight: asyncio.Future[bytes | None]) -> None:
        del self.flights[key]  # here and nowhere else: the key stays taken for as long as its thread really runs
        if flight.cancelled():
            return
        now, failure = time.monotonic(), flight.exception()
        if failure:  # not cached; but without a pause every reader of a stale copy would try again at once
            log.warning("rebuild of %s failed: %r", key, failure)
            if entry := self.entries.get(key):
                entry.retry = now + RETRY_PAUSE
            return
        spread = random.uniform(0.9, 1)  # keys loaded together shall not expire together
        self.entries[key] = Entry(flight.result(), now + SOFT_TTL * spread, now + HARD_TTL)
        self.entries.move_to_end(key)
        while len(self.entries) > MAX_ENTRIES:
            self.entries.popitem(last=False)

    async def get(self, key: int) -> tuple[bytes | None, str]:
        """The body and how it was come by, in the words of the header Cache-Status (RFC 9211)."""
        entry, now = self.entries.get(key), time.monotonic()
        if entry and now < entry.hard:
            self.entries.move_to_end(key)
            if now >= max(entry.soft, entry.retry):
                self.rebuild(key)  # when the line is full the copy is stale for a little longer
            return entry.body, f"hot-path; hit; ttl={math.floor(entry.soft - now)}"
        joined = key in self.flights
        if self.waiting >= MAX_WAITING or (flight := self.rebuild(key)) is None:
            raise Overloaded
        self.waiting += 1
        try:
            body = await asyncio.shield(flight)  # this caller's deadline must not end it for the others
        finally:
            self.waiting -= 1
        return body, f"hot-path; fwd=miss; {'collapsed' if joined else 'stored'}"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    options = {"connect_timeout": 2, "keepalives_idle": 10, "tcp_user_timeout": 10_000}
    pool = ConnectionPool(
        os.environ["DATABASE_URL"], kwargs=options, min_size=1, max_size=LOADERS, open=False,
        reconnect_timeout=5,  # with the default of 300 the pauses between attempts grow to two minutes
        check=ConnectionPool.check_connection,  # after a restart of the database the first query works again
    )  # fmt: skip
    pool.open()  # does not wait: the process starts and says so, also while the database is away
    app.state.hot = HotPath(partial(load_report, pool))
    yield
    app.state.hot.threads.shutdown(wait=False, cancel_futures=True)
    await asyncio.to_thread(pool.close, 2)


app = FastAPI(lifespan=lifespan)


@app.get("/reports/{key}")
async def read_report(
    key: Annotated[int, Path(ge=1, lt=2**31)],
    left: Annotated[int | None, Header(alias="X-Timeout-Ms", ge=1)] = None,  # what the caller has left of its own time
) -> Response:
    try:
        async with asyncio.timeout(min(DEADLINE, left / 1000 if left else DEADLINE)):
            body, how = await app.state.hot.get(key)
    except Overloaded:
        raise HTTPException(503, "overloaded", {"Retry-After": "1"}) from None
    except TimeoutError as late:  # the request's deadline, or the rebuild's own
        raise HTTPException(504, "deadline exceeded") from late
    except Exception as error:
        raise HTTPException(502, "the origin failed") from error
    return Response(body, 404 if body is None else 200, {"Cache-Status": how}, "application/json")


@app.get("/metrics")
async def metrics() -> Response:  # touches no pool and no thread, so that it answers when nothing else does
    hot: HotPath = app.state.hot
    numbers = {"rebuilds": len(hot.flights), "waiting": hot.waiting, "entries": len(hot.entries)}
    return Response("".join(f"hot_path_{name} {number}\n" for name, number in numbers.items()), media_type="text/plain")


if __name__ == "__main__":
    uvicorn.run(
        app, host=os.environ.get("HOST", "127.0.0.1"), port=int(os.environ.get("PORT", "8000")),
        timeout_keep_alive=75, timeout_graceful_shutdown=int(setting("DRAIN", 10)), access_log=False,
    )  # fmt: skip
