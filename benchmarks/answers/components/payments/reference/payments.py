"""recipes/idempotent-payment/payments.py with the names, the settings, the table and the answers of the ticket.

A payment is pending (committed before the provider hears of it), then succeeded or declined. Pending ones may have been
charged: they are settled by asking the provider, never by guessing.
"""

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
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from psycopg_pool import AsyncConnectionPool

log, env = logging.getLogger("payments"), os.environ.get
REQUEST = float(env("REQUEST_SECONDS", "10"))
TIMEOUT = float(env("TIMEOUT_SECONDS", "3"))  # seconds of one call to the provider, from end to end
RESOLVE = float(env("RESOLVE_SECONDS", "30"))
DRAIN = float(env("DRAIN_SECONDS", "10"))
LEASE = min(TIMEOUT + 1, RESOLVE / 2)  # seconds after which a payment that was only started counts as abandoned
RECHECK = min(1, RESOLVE / 8)  # seconds before the first question; doubles, up to a quarter of RESOLVE

PREPARE = """
SELECT pg_advisory_xact_lock(7165, 3);
ALTER TABLE payments ADD COLUMN IF NOT EXISTS check_at timestamptz NOT NULL DEFAULT now();
ALTER TABLE payments ADD COLUMN IF NOT EXISTS checks integer NOT NULL DEFAULT 0;
CREATE UNIQUE INDEX IF NOT EXISTS payments_key ON payments (idempotency_key);
CREATE INDEX IF NOT EXISTS payments_open ON payments (check_at) WHERE status = 'pending'"""
START = """
INSERT INTO payments (id, idempotency_key, amount, currency, check_at)
VALUES (%s, %s, %s, %s, now() + make_interval(secs => %s))
ON CONFLICT (idempotency_key) DO NOTHING RETURNING id"""
FIELDS = "SELECT id, status, amount, currency FROM payments WHERE "
# A settled payment never changes: whoever comes late, with whatever he believes, changes nothing.
SETTLE = "UPDATE payments SET status = %s, updated_at = now() WHERE id = %s AND status = 'pending'"
DOUBT = "UPDATE payments SET check_at = now() + make_interval(secs => %s) WHERE id = %s AND status = 'pending'"
# Up to twenty payments to ask about, those of dead processes among them, which nobody else gets before that.
DUE = """
UPDATE payments SET checks = checks + 1, check_at =
    now() + make_interval(secs => least(%s, %s * 2 ^ least(checks + 1, 20)))
WHERE id = ANY (ARRAY(SELECT id FROM payments WHERE status = 'pending' AND check_at <= now()
             ORDER BY check_at LIMIT 20 FOR UPDATE SKIP LOCKED))
RETURNING id, amount, currency"""

provider: httpx.AsyncClient
pool: AsyncConnectionPool


async def ask(method: str, key: str, **rest: Any) -> httpx.Response | None:
    try:
        async with asyncio.timeout(TIMEOUT):  # httpx's own limits start anew with every byte
            return await provider.request(method, "/charges", headers={"Idempotency-Key": key}, **rest)
    except (httpx.HTTPError, TimeoutError) as error:  # also a refused connection: asking costs less than a mistake
        log.warning("provider, payment %s: %r", key, error)
        return None


def read(answer: httpx.Response | None, expected: int) -> str | None:
    """Only what certainly means yes or no: any other status, and what cannot be read, are no answer."""
    if answer is None or answer.status_code != expected:
        return None
    try:
        told = answer.json()["status"]
        if told in ("succeeded", "declined"):
            return str(told)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        log.error("the provider's answer cannot be read: %r", error)
    return None


async def query(statement: str, values: tuple[object, ...]) -> list[Any]:
    async with pool.connection() as connection:  # never held while the provider is asked
        cursor = await connection.execute(statement, values)  # type: ignore[arg-type]
        return await cursor.fetchall() if cursor.description else []


async def within(seconds: float, work: Coroutine[Any, Any, Any]) -> Any:
    # For a network that has gone silent. Not asyncio.timeout: psycopg takes up to 10 s more to cancel.
    task = asyncio.create_task(work)
    if not (await asyncio.wait({task}, timeout=seconds))[0]:
        task.cancel()
        raise TimeoutError(f"no answer within {seconds} s")
    return task.result()


async def run(statement: str, *values: object) -> list[Any]:
    found: list[Any] = await within(min(5, REQUEST), query(statement, values))
    return found


async def charge(payment: str, amount: int, currency: str) -> str | None:
    body = {"reference": payment, "amount": amount, "currency": currency}
    return read(await ask("POST", payment, json=body), 201)


async def recover(payment: str, amount: int, currency: str) -> None:
    answer = await ask("GET", payment, params={"reference": payment})
    outcome = read(answer, 200)
    if outcome is None and answer is not None and answer.status_code == 404:
        # it may still be on its way, or not be found yet: the key keeps both from being charged
        outcome = await charge(payment, amount, currency)
    if outcome:
        await run(SETTLE, outcome, payment)


async def recovery() -> None:
    while not provider.is_closed:
        due = []
        try:
            due = await run(DUE, RESOLVE / 4, RECHECK)
            await asyncio.gather(*(recover(*each) for each in due))
        except Exception:  # whatever it is, the other payments need this loop
            log.exception("recovery")
        if len(due) < 20:
            await asyncio.sleep(min(1, RECHECK) / 2)


async def prepare() -> None:
    while True:
        try:
            async with asyncio.timeout(5), pool.connection() as connection:
                ready = await connection.execute("SELECT to_regclass('payments_open') IS NOT NULL")
                if await ready.fetchone() != (True,):
                    await connection.execute(PREPARE)
            return
        except (psycopg.Error, TimeoutError) as error:
            log.error("database: %r", error)
            await asyncio.sleep(0.5)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    global provider, pool
    database = AsyncConnectionPool(
        os.environ["DATABASE_URL"], min_size=1, max_size=10, timeout=3, reconnect_timeout=5,
        check=AsyncConnectionPool.check_connection,  # after a restart of the database the next statement works again
        open=False, kwargs={"autocommit": True, "connect_timeout": 5, "options": "-c statement_timeout=5s"},
    )  # fmt: skip
    caller = httpx.AsyncClient(
        base_url=os.environ["UPSTREAM_URL"], timeout=TIMEOUT, trust_env=False,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
    )  # fmt: skip
    async with caller as provider, database as pool:
        await prepare()
        task = asyncio.create_task(recovery())
        yield
        task.cancel()


app = FastAPI(lifespan=lifespan)


def error(status: int, code: str) -> Response:
    return JSONResponse({"error": code}, status)


def shown(row: tuple[str, str, int, str]) -> Response:
    payment = dict(zip(("id", "status", "amount", "currency"), row, strict=True))
    return JSONResponse(payment, 202 if payment["status"] == "pending" else 200)


@app.get("/healthz")
async def healthz() -> Response:
    return JSONResponse({"status": "ok"})


@app.post("/payments")
async def pay(request: Request) -> Response:
    key = request.headers.get("idempotency-key", "").strip()
    if not re.fullmatch("[ -~]{1,200}", key):
        return error(400, "missing_key")
    try:
        body = json.loads(await request.body())
        amount, currency = body["amount"], body["currency"]
        valid = type(amount) is int and 1 <= amount <= 99999999 and re.fullmatch("[A-Z]{3}", currency)
    except (ValueError, KeyError, TypeError, RecursionError):
        valid = False
    if not valid:
        return error(400, "invalid_request")
    row = await within(REQUEST, once(key, amount, currency))
    return shown(row) if row[2:] == (amount, currency) else error(422, "key_reused")


async def once(key: str, amount: int, currency: str) -> Any:
    started = await run(START, str(uuid4()), key, amount, currency, LEASE)
    if started:
        payment = started[0][0]
        outcome = await charge(payment, amount, currency)
        await (run(SETTLE, outcome, payment) if outcome else run(DOUBT, RECHECK, payment))
    return (await run(FIELDS + "idempotency_key = %s", key))[0]


@app.get("/payments/{payment}")
async def look(payment: str) -> Response:
    rows = [] if "\0" in payment else await run(FIELDS + "id = %s", payment)
    if not rows:
        return error(404, "not_found")
    answer = shown(rows[0])
    answer.status_code = 200
    return answer


@app.exception_handler(TimeoutError)
@app.exception_handler(psycopg.Error)
async def database_away(_: Request, failure: Exception) -> Response:
    log.error("database: %r", failure)  # what was charged meanwhile is found by the recovery
    return error(503, "unavailable")


class Server(uvicorn.Server):
    def handle_exit(self, sig: int, frame: Any) -> None:
        late = threading.Timer(DRAIN, os._exit, [0])  # what is pending by then is found by the recovery of others
        late.daemon = True
        late.start()
        super().handle_exit(sig, frame)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn sends it again when all is done
    # SIGTERM: no new connections, what is in flight ends.
    Server(uvicorn.Config(app, port=int(os.environ["PORT"]), timeout_graceful_shutdown=DRAIN * 0.8)).run()  # type: ignore[arg-type]
