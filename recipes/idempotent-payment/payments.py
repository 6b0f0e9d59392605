"""POST /payments with an idempotency key, around a provider whose answers get lost.

Run: DATABASE_URL=postgresql://HOST/NAME PROVIDER_URL=https://HOST python payments.py
A payment is started (committed before the provider hears of it), then succeeded, failed, or unknown: it may have been
charged. Unknown ones are settled by asking the provider, never by guessing.
"""

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from uuid import UUID

import httpx2
import psycopg
import uvicorn
from fastapi import FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel, ConfigDict, Field

log, env = logging.getLogger("payments"), os.environ.get
PROVIDER_TIMEOUT = float(env("PROVIDER_TIMEOUT", "10"))  # seconds of one call to the provider, from end to end
LEASE = float(env("LEASE", "30"))  # seconds after which a payment that was only started counts as abandoned
RECHECK = float(env("RECHECK", "5"))  # seconds before the first question; doubles, up to an hour
RESUME_FOR = env("RESUME_FOR", "30 minutes")  # a charge is sent again; far below what the provider remembers keys for

START = """
INSERT INTO payment (account, key, request, check_at) VALUES (%s, %s, %s, now() + make_interval(secs => %s))
ON CONFLICT (account, key) DO NOTHING RETURNING provider_key"""
LOOK = "SELECT request, state, status, body, check_at > now() FROM payment WHERE account = %s AND key = %s"
SETTLE, DOUBT = "SELECT payment_settle(%s, %s, %s, %s)", "SELECT payment_doubt(%s, %s)"

Outcome = tuple[str, int, str] | None  # state, status and body of the answer; None: nobody knows


class Payment(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    amount: Annotated[int, Field(gt=0, le=10**10)]  # in the currency's smallest unit
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")]
    source: Annotated[str, Field(pattern="^[!-~]{1,200}$")]  # the provider's token, never a card number


provider: httpx2.AsyncClient
pool: AsyncConnectionPool


async def ask(method: str, path: str, key: UUID, **rest: Any) -> httpx2.Response | None:
    try:
        async with asyncio.timeout(PROVIDER_TIMEOUT):  # httpx2's own limits start anew with every byte
            return await provider.request(method, path, headers={"Idempotency-Key": str(key)}, **rest)
    except (httpx2.HTTPError, TimeoutError) as error:  # also a refused connection: asking costs less than a mistake
        log.warning("provider, payment %s: %r", key, error)
        return None


def read(answer: httpx2.Response | None) -> Outcome:
    """Only what certainly means yes or no: pending, any other status, and what cannot be read are no answer."""
    if answer is None or answer.status_code not in (200, 201, 402):
        return None
    try:
        told = answer.json()
        if told["status"] == "succeeded":
            return "succeeded", 201, json.dumps({"state": "succeeded", "charge": told["charge"]})
        if told["status"] == "declined":
            return "failed", 402, json.dumps({"state": "failed", "reason": told["reason"]})
    except (ValueError, KeyError, TypeError) as error:
        log.error("the provider's answer cannot be read: %r", error)
    return None


async def query(statement: str, values: tuple[object, ...]) -> list[Any]:
    async with pool.connection() as connection:  # never held while the provider is asked
        cursor = await connection.execute(statement, values)  # type: ignore[arg-type]
        return await cursor.fetchall() if cursor.description else []


async def run(statement: str, *values: object) -> list[Any]:
    # The time limit is for a network that has gone silent. With asyncio.timeout psycopg takes 5 to 10 s more to cancel.
    task = asyncio.create_task(query(statement, values))
    if not (await asyncio.wait({task}, timeout=5))[0]:
        task.cancel()
        raise TimeoutError("no answer within 5 s")
    return task.result()


async def recover(key: UUID, request: dict[str, Any], resume: bool) -> None:
    answer = await ask("GET", f"/charges/{key}", key)
    outcome = read(answer)
    if outcome is None and answer is not None and answer.status_code == 404:
        if resume:  # it may still be on its way, or not be found yet: the key keeps both from being charged
            outcome = read(await ask("POST", "/charges", key, json=request))
        else:  # the provider may have forgotten the key: another charge would be a second one
            log.error("payment %s: unknown to the provider, and too old to send again. Somebody must look", key)
    if outcome:
        await run(SETTLE, *outcome, key)


async def recovery() -> None:
    while not provider.is_closed:
        due = []
        try:  # the time for both calls is the least pause, so that nobody else asks meanwhile
            due = await run("SELECT * FROM payment_due(%s, %s, %s)", 3 * PROVIDER_TIMEOUT, RECHECK, RESUME_FOR)
            await asyncio.gather(*(recover(*each) for each in due))
        except Exception:  # whatever it is, the other payments need this loop
            log.exception("recovery")
        if len(due) < 10:
            await asyncio.sleep(min(1, RECHECK))


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    global provider, pool
    database = AsyncConnectionPool(
        os.environ["DATABASE_URL"], min_size=1, max_size=int(env("POOL", "10")), timeout=3, reconnect_timeout=5,
        check=AsyncConnectionPool.check_connection,  # after a restart of the database the next statement works again
        open=False, kwargs={"autocommit": True, "connect_timeout": 5, "options": "-c statement_timeout=5s"},
    )  # fmt: skip
    caller = httpx2.AsyncClient(base_url=os.environ["PROVIDER_URL"], timeout=PROVIDER_TIMEOUT)
    async with caller as provider, database as pool:
        task = asyncio.create_task(recovery())
        yield
        task.cancel()


app = FastAPI(lifespan=lifespan)


@app.post("/payments")
async def pay(
    payment: Payment,
    x_account: Annotated[str, Header()],  # stands for whatever your authentication says
    idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
) -> Response:
    key = (idempotency_key or "").strip().strip('"')  # the draft wants a quoted string, most clients send it bare
    if not key:
        raise HTTPException(400, "Idempotency-Key is missing")
    request = payment.model_dump()
    started = await run(START, x_account, key, Jsonb(request), LEASE)
    if started:
        outcome = read(await ask("POST", "/charges", started[0][0], json=request))
        await (run(SETTLE, *outcome, started[0][0]) if outcome else run(DOUBT, started[0][0], RECHECK))
    for before, state, status, body, leased in await run(LOOK, x_account, key):
        if before != request:
            raise HTTPException(422, "this Idempotency-Key was used for another payment")
        if body is not None:
            replayed = {} if started else {"Idempotent-Replayed": "true"}
            return Response(body, status, replayed, "application/json")
        if state == "unknown" or not leased:
            return JSONResponse({"state": "unknown"}, 202, {"Retry-After": "5"})
    raise HTTPException(409, "a request with this Idempotency-Key is at work", {"Retry-After": "1"})


@app.exception_handler(TimeoutError)
@app.exception_handler(psycopg.Error)
async def database_away(_: Request, error: Exception) -> Response:
    log.error("database: %r", error)  # what was charged meanwhile is found by the recovery
    return JSONResponse({"detail": "repeat it with the same Idempotency-Key"}, 503, {"Retry-After": "5"})


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    # SIGTERM: no new connections, what is in flight ends. The orchestrator's grace period must be longer than this.
    uvicorn.run(app, port=int(env("PORT", "8000")), timeout_graceful_shutdown=int(PROVIDER_TIMEOUT + 5))
