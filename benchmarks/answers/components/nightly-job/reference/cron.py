"""A call for each slot of a schedule (cron.sql), by one of as many replicas as you like.

The replica that holds the lock begins slots and calls. What a call has brought, its replica records, also when it has
lost the lock since: the row refuses what comes too late.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import signal
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, LiteralString

import aiohttp
import psycopg

log, env = logging.getLogger("cron"), os.environ.get
PERIOD, CATCH_UP = int(env("PERIOD_SECONDS", "60")), int(env("CATCHUP_SLOTS", "5"))
ATTEMPTS, RETRY = int(env("MAX_ATTEMPTS", "3")), float(env("RETRY_SECONDS", "2"))
TIMEOUT, TAKEOVER = float(env("TIMEOUT_SECONDS", "20")), float(env("TAKEOVER_SECONDS", "30"))
POLL, DRAIN = min(0.2, RETRY / 4), float(env("DRAIN_SECONDS", "25"))
MARGIN = min(1.5, (TAKEOVER - TIMEOUT) / 3)  # between the note that a call begins and its arrival
LEASE = max(1.0, min(TAKEOVER / 4, 5))  # seconds without an answer of the server after which the session is given up
# A holder that is paused or cut off is silent: the server ends its session, and with it the lock.
OPTIONS = f"-c idle_session_timeout={2 * LEASE}s -c statement_timeout={LEASE}s"
REPLICA, LOCK = f"{os.uname().nodename}-{uuid.uuid4()}", "job_run"


class Replica:
    def __init__(self, stopping: asyncio.Event, http: aiohttp.ClientSession) -> None:
        self.stopping, self.http, self.calls = stopping, http, set[asyncio.Task[None]]()
        self.connection: psycopg.AsyncConnection[Any] | None = None
        self.clock = asyncio.get_running_loop().time  # monotonic: for durations only

    async def ask(self, query: LiteralString, *values: object) -> list[Any]:
        connection = self.connection
        if connection is None or connection.closed:
            raise psycopg.OperationalError("not connected")
        try:
            async with asyncio.timeout(LEASE + 1):
                return await (await connection.execute(query, values)).fetchall()
        except TimeoutError:
            await connection.close()
            raise

    async def pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)

    async def stand_by(self) -> None:
        while not self.stopping.is_set():
            # Asked again and again: a statement that waits for the lock would keep VACUUM from removing dead rows.
            if await self.ask("SELECT WHERE pg_try_advisory_lock(hashtextextended(%s, 0))", LOCK):
                await self.lead()
            await self.pause(POLL)

    async def lead(self) -> None:
        await self.pause(min(1, MARGIN))  # others may have an answer that they could not record until now
        while not self.stopping.is_set():
            asked = self.clock()
            claimed = await self.ask(
                "SELECT * FROM job_claim(%s, %s, %s, %s, %s)", REPLICA, PERIOD, CATCH_UP, ATTEMPTS, TIMEOUT + MARGIN
            )
            for slot, attempt in claimed:
                task = asyncio.create_task(self.run(slot, attempt, asked))
                self.calls.add(task)
                task.add_done_callback(self.calls.discard)
            await self.pause(POLL)  # each look keeps the session awake, and notices when it is lost

    async def call(self, slot: int) -> Any:
        async with (
            asyncio.timeout(TIMEOUT),
            self.http.post("/run", json={"slot": slot}, allow_redirects=False) as answer,
        ):
            if answer.status != 200:
                raise ValueError(f"status {answer.status}")
            return json.loads(await answer.read())["result"]

    async def run(self, slot: int, attempt: int, asked: float) -> None:
        log.info("slot %s, attempt %d", slot, attempt)
        try:
            if self.clock() > asked + MARGIN * 0.8:  # paused meanwhile: by now others may believe that it has ended
                raise TimeoutError("not called in time")
            result = json.dumps(await self.call(slot))
            with suppress(psycopg.DataError):  # no jsonb
                await self.record("SELECT job_done(%s, %s)", slot, result)
                return
            raise ValueError("a result that cannot be kept")
        except Exception as error:
            why = f"{type(error).__name__}: {error}".encode(errors="replace").decode().replace("\0", "")[:2000]
            log.warning("slot %s, attempt %d: %s", slot, attempt, why)
            pause = RETRY * 1.1
            await self.record("SELECT job_failed(%s, %s, %s, %s, %s)", slot, attempt, ATTEMPTS, why, pause)

    async def record(self, query: LiteralString, *values: object) -> None:
        while True:
            try:
                await self.ask(query, *values)
                return
            except psycopg.DataError:
                raise
            except (psycopg.Error, TimeoutError) as error:  # what is known is not to be lost
                log.error("not recorded yet: %r", error)
                await asyncio.sleep(0.1)

    async def serve(self) -> None:
        while not self.stopping.is_set() or self.calls:
            try:
                self.connection = await psycopg.AsyncConnection.connect(
                    os.environ["DATABASE_URL"], autocommit=True, connect_timeout=3, options=OPTIONS
                )
                try:
                    async with self.connection.transaction():
                        await self.ask("SELECT pg_advisory_xact_lock(hashtextextended('job_run schema', 0))")
                        await self.connection.execute(Path(__file__).with_name("cron.sql").read_bytes())
                    await self.stand_by()
                    await self.ask("SELECT pg_advisory_unlock_all()")  # the others begin what comes from now on
                    while self.calls:
                        await self.ask("SELECT 1")
                        await asyncio.wait(self.calls, timeout=POLL)
                finally:
                    await self.connection.close()  # gives the lock up
            except (psycopg.Error, TimeoutError) as error:  # a restart, a failover: whoever comes first goes on
                log.error("%r", error)
                await asyncio.sleep(random.uniform(0.1, 0.3))


async def main() -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    limits = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(
        os.environ["UPSTREAM_URL"], connector=limits, timeout=aiohttp.ClientTimeout(None)
    ) as http:
        serving, stop = asyncio.create_task(Replica(stopping, http).serve()), asyncio.create_task(stopping.wait())
        await asyncio.wait({serving, stop}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({serving}, timeout=DRAIN * 0.9)  # calls may end; another replica repeats what does not
        os._exit(0 if stopping.is_set() else 1)  # here: a call whose session is closed would be recorded as failed


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main())
