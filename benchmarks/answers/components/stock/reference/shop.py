"""The functions of stock.sql behind the HTTP interface of the ticket."""

import asyncio
import json
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

log, env = logging.getLogger("stock"), os.environ.get
HOLD = float(env("HOLD_SECONDS", "600"))
LAG = float(env("EXPIRY_LAG_SECONDS", "5"))
REQUEST = float(env("REQUEST_SECONDS", "5"))
CONNECTIONS = int(env("DB_CONNECTIONS", "10"))
DRAIN = float(env("DRAIN_SECONDS", "10"))
SQL = Path(__file__).with_name("stock.sql").read_text(encoding="utf-8")
FIELDS = ("id", "request_id", "sku", "quantity", "status", "expires_at")

RESERVE = "SELECT answer, (reservation).* FROM reserve(%s, %s, %s, %s, make_interval(secs => %s))"
CONFIRM = "SELECT answer, (reservation).* FROM confirm(%s)"
RELEASE = "SELECT answer, (reservation).* FROM release(%s)"
SHOW = "SELECT status AS answer, * FROM reservations WHERE id = %s"
STOCK = "SELECT sku, available, reserved, sold FROM stock WHERE sku = %s"

pool: AsyncConnectionPool


async def query(statement: str, values: tuple[object, ...]) -> Any:
    async with pool.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement, values)  # type: ignore[arg-type]
        return await cursor.fetchone()


async def within(seconds: float, work: Coroutine[Any, Any, Any]) -> Any:
    # For a network that has gone silent. Not asyncio.timeout: psycopg takes up to 10 s more to cancel.
    task = asyncio.create_task(work)
    if not (await asyncio.wait({task}, timeout=seconds))[0]:
        task.cancel()
        raise TimeoutError(f"no answer within {seconds} s")
    return task.result()


async def run(statement: str, *values: object) -> Any:
    if any(isinstance(each, str) and unstorable(each) for each in values):
        return None
    return await within(REQUEST, query(statement, values))


def unstorable(text: str) -> bool:
    return "\0" in text or any("\ud800" <= each <= "\udfff" for each in text)


async def prepare() -> None:
    while True:
        try:
            async with asyncio.timeout(5), pool.connection() as connection, connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock(7165, 5)")
                ready = await connection.execute("SELECT to_regproc('expire_reservations') IS NOT NULL")
                if await ready.fetchone() != (True,):
                    await connection.execute(SQL)  # type: ignore[arg-type]
            return
        except (psycopg.Error, TimeoutError) as failure:
            log.error("prepare: %r", failure)
            await asyncio.sleep(0.5)


async def sweep() -> None:
    while True:
        try:
            while (await run("SELECT expire_reservations() AS count"))["count"] == 500:
                pass
        except Exception:  # whatever it is, what is held needs this loop
            log.exception("sweep")
        await asyncio.sleep(min(1, LAG / 4))


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    global pool
    # A lock that takes longer is somebody else's: the other skus need the connections.
    options = f"-c lock_timeout={min(1, REQUEST / 4)}s -c statement_timeout={REQUEST}s"
    database = AsyncConnectionPool(
        os.environ["DATABASE_URL"], min_size=CONNECTIONS, max_size=CONNECTIONS, timeout=REQUEST * 0.9,
        reconnect_timeout=5,
        check=AsyncConnectionPool.check_connection,  # after a restart of the database the next statement works again
        open=False, kwargs={"autocommit": True, "connect_timeout": 5, "options": options},
    )  # fmt: skip
    async with database as pool:
        await prepare()
        task = asyncio.create_task(sweep())
        yield
        task.cancel()


app = FastAPI(lifespan=lifespan)
STATUSES = {
    "sold_out": 409, "unknown_sku": 404, "invalid_request": 400, "request_id_reused": 422, "busy": 503,
    "not_found": 404, "expired": 410, "released": 409, "confirmed": 409,
}  # fmt: skip


def error(code: str) -> Response:
    return JSONResponse({"error": code}, STATUSES[code])


def shown(row: dict[str, Any], status: int = 200) -> Response:
    found = {name: row[name] for name in FIELDS}
    return JSONResponse({**found, "expires_at": found["expires_at"].isoformat()}, status)


@app.get("/healthz")
async def healthz() -> Response:
    return JSONResponse({"status": "ok"})


@app.post("/reservations")
async def reserve(request: Request) -> Response:
    try:
        body = json.loads(await request.body())
        request_id, sku, quantity = body["request_id"], body["sku"], body["quantity"]
        valid = re.fullmatch("[ -~]{1,64}", request_id) and type(sku) is str and 1 <= len(sku) <= 64
        valid = valid and type(quantity) is int and 1 <= quantity <= 10
    except (ValueError, KeyError, TypeError, RecursionError):
        valid = False
    if not valid:
        return error("invalid_request")
    row = await run(RESERVE, str(uuid4()), request_id, sku, quantity, HOLD)
    if row is None:
        return error("unknown_sku")
    return error(row["answer"]) if row["id"] is None else shown(row, 201)


@app.get("/reservations/{reservation}")
async def show(reservation: str) -> Response:
    row = await run(SHOW, reservation)
    return shown(row) if row else error("not_found")


@app.post("/reservations/{reservation}/confirm")
async def confirm(reservation: str) -> Response:
    row = await run(CONFIRM, reservation)
    if row is None or row["answer"] is None:
        return error("not_found")
    return shown(row) if row["answer"] == "confirmed" else error(row["answer"])


@app.post("/reservations/{reservation}/release")
async def release(reservation: str) -> Response:
    row = await run(RELEASE, reservation)
    if row is None or row["answer"] is None:
        return error("not_found")
    return error("confirmed") if row["answer"] == "confirmed" else shown(row)


@app.get("/stock/{sku}")
async def stock(sku: str) -> Response:
    row = await run(STOCK, sku)
    return JSONResponse(row) if row else error("unknown_sku")


@app.exception_handler(TimeoutError)
@app.exception_handler(psycopg.Error)
async def database_away(_: Request, failure: Exception) -> Response:
    log.error("database: %r", failure)
    return error("busy")


class Server(uvicorn.Server):
    def handle_exit(self, sig: int, frame: Any) -> None:
        late = threading.Timer(DRAIN, os._exit, [0])
        late.daemon = True
        late.start()
        super().handle_exit(sig, frame)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn sends it again when all is done
    # SIGTERM: no new connections, what is in flight ends.
    config = uvicorn.Config(
        app, port=int(os.environ["PORT"]), timeout_graceful_shutdown=DRAIN * 0.8, access_log=False  # type: ignore[arg-type]
    )  # fmt: skip
    Server(config).run()
