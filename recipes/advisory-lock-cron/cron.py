"""A job that runs once for each slot of its schedule (cron.sql), on one of as many replicas as you like.

Run: DATABASE_URL=postgresql://HOST/NAME python cron.py     straight to PostgreSQL, past any pooler
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
from contextlib import suppress
from datetime import datetime
from typing import Any, LiteralString, NamedTuple

import psycopg

log, env = logging.getLogger("cron"), os.environ.get
JOB, PERIOD = env("JOB", "report"), env("PERIOD", "1 hour")
CATCH_UP = int(env("CATCH_UP", "3"))  # of the slots that were missed, so many are run, the newest
ATTEMPTS, RETRY = int(env("ATTEMPTS", "3")), float(env("RETRY", "30"))  # of one slot, and seconds between them
TIMEOUT = float(env("TIMEOUT", "1800"))  # of one attempt
LEASE = float(env("LEASE", "10"))  # seconds without an answer of the server after which work stops
POLL, DRAIN = float(env("POLL", "2")), float(env("DRAIN", "20"))  # between looks; for the run at work after SIGTERM
# A holder that is paused or cut off is silent: the server ends its session, and with it the lock.
OPTIONS = f"-c idle_session_timeout={2 * LEASE}s -c idle_in_transaction_session_timeout={2 * LEASE}s"


class Run(NamedTuple):
    slot: datetime
    attempt: int  # (slot, attempt) only grows: give it to other systems that can refuse an older one


async def work(run: Run) -> Any:
    """Put the slow part here. No transaction is open. It may run again: give the slot to others as idempotency key."""


async def save(connection: psycopg.AsyncConnection, run: Run, result: Any) -> None:
    """Put the writes to this database here, short ones: they commit together with the end of the run."""


class Replica:
    def __init__(self, connection: psycopg.AsyncConnection, stopping: asyncio.Event) -> None:
        self.connection, self.stopping, self.not_before = connection, stopping, 0.0
        self.clock = asyncio.get_running_loop().time  # monotonic: for durations only

    async def ask(self, query: LiteralString, *values: object) -> Any:
        async with asyncio.timeout(LEASE):
            return await (await self.connection.execute(query, values)).fetchone()

    async def pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)

    async def stand_by(self) -> None:
        (session,) = await self.ask("SELECT pg_backend_pid()")
        if session != self.connection.info.backend_pid:  # the statements run in other sessions than the one we opened
            raise SystemExit("DATABASE_URL leads through a pooler: there a lock of the session protects nothing")
        while not self.stopping.is_set():
            # Asked again and again: a statement that waits for the lock would keep VACUUM from removing dead rows.
            if await self.ask("SELECT WHERE pg_try_advisory_lock(hashtextextended(%s, 0))", JOB) is not None:
                await self.lead()
            await self.pause(POLL)

    async def lead(self) -> None:
        # The last holder may be cut off and not know it yet. It stops LEASE after the last answer that it got.
        if await self.ask("SELECT FROM job_run WHERE job = %s AND state = 'running' LIMIT 1", JOB) is not None:
            await self.pause(LEASE)
        while not self.stopping.is_set():
            slot, wait = await self.ask("SELECT * FROM job_next(%s, %s, %s)", JOB, PERIOD, CATCH_UP)
            wait = max(wait, self.not_before - self.clock())
            if wait > 0:
                await self.pause(min(wait, POLL))  # each look keeps the session awake, and notices when it is lost
                continue
            (attempt,) = await self.ask("SELECT job_start(%s, %s, %s)", JOB, slot, ATTEMPTS)
            if attempt:
                await self.run(Run(slot, attempt))

    async def watch(self, held: asyncio.Timeout, finished: asyncio.Event) -> None:
        """Ask the session that holds the lock whether it lives; without an answer the work stops."""
        while not finished.is_set():
            asked = self.clock()  # from before the question, so that we never believe longer than the others
            try:
                await self.connection.execute("SELECT 1")
            except psycopg.Error as error:
                log.error("the lock is lost: %r", error)
                asked -= LEASE
            with suppress(RuntimeError):  # the work has ended meanwhile
                held.reschedule(asked + LEASE)
            with suppress(TimeoutError):
                await asyncio.wait_for(finished.wait(), LEASE / 4)

    async def run(self, run: Run) -> None:
        log.info("slot %s, attempt %d", *run)
        held, finished = asyncio.timeout(LEASE), asyncio.Event()
        watch = asyncio.create_task(self.watch(held, finished))
        try:
            async with asyncio.timeout(TIMEOUT), held:
                result = await work(run)
            finished.set()
            # In the session that holds the lock: who has lost the lock has lost this connection, and commits nothing.
            async with asyncio.timeout(LEASE), self.connection.transaction():
                if (await self.ask("SELECT job_end(%s, %s, 'done')", JOB, run.slot))[0]:
                    await save(self.connection, run, result)
        except Exception as error:
            if held.expired() or self.connection.closed:
                raise
            why = f"{type(error).__name__}: {error}".encode(errors="replace").decode().replace("\0", "")[:2000]
            log.warning("slot %s, attempt %d: %s", *run, why)
            if run.attempt >= ATTEMPTS:
                await self.ask("SELECT job_end(%s, %s, 'failed', %s)", JOB, run.slot, why)
            self.not_before = self.clock() + RETRY
        finally:
            finished.set()
            await asyncio.wait({watch}, timeout=LEASE / 4)


async def serve(stopping: asyncio.Event) -> None:
    while not stopping.is_set():
        try:
            connection = await psycopg.AsyncConnection.connect(
                os.environ["DATABASE_URL"], autocommit=True, connect_timeout=5, options=OPTIONS
            )
            try:
                await Replica(connection, stopping).stand_by()
            finally:
                await connection.close()  # gives the lock up
        except (psycopg.OperationalError, TimeoutError) as error:  # a restart, a failover: whoever comes first goes on
            log.error("%r", error)
            await asyncio.sleep(POLL * random.uniform(0.5, 1.5))


async def main() -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    serving, stop = asyncio.create_task(serve(stopping)), asyncio.create_task(stopping.wait())
    await asyncio.wait({serving, stop}, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.wait({serving}, timeout=DRAIN)  # the run at work may finish; another replica repeats what does not
    serving.cancel()
    with suppress(asyncio.CancelledError):
        await serving


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main())
