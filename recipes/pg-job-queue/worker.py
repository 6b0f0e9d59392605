"""A worker for the job queue of queue.sql: leases, heartbeat, retries, dead letters, and a shutdown that loses nothing.

Run: DATABASE_URL=postgresql://HOST/NAME python worker.py     as many of them as you like
"""

import asyncio
import logging
import os
import random
import signal
from contextlib import suppress
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

import psycopg
from psycopg_pool import AsyncConnectionPool

log, env = logging.getLogger("worker"), os.environ.get
QUEUE, SLOTS = env("QUEUE", "default"), int(env("SLOTS", "10"))  # whose jobs, and how many at once
POLL = float(env("POLL", "1"))  # seconds between looks at an empty queue
LEASE = float(env("LEASE", "30"))  # seconds without a heartbeat after which others take a job over
TIMEOUT = float(env("TIMEOUT", "300"))  # of one attempt
BACKOFF, MAX_BACKOFF = float(env("BACKOFF", "5")), float(env("MAX_BACKOFF", "3600"))  # doubles with each attempt
DRAIN = float(env("DRAIN", "20"))  # for the jobs at work after SIGTERM
CLAIM = "SELECT id, kind, payload, attempts, lease FROM job_claim(%s, %s, %s)"
DOWN = (psycopg.Error, TimeoutError)


class Hopeless(Exception):
    """Raise it where no later attempt can succeed: the job goes to the dead letters at once."""


class Job(NamedTuple):
    id: UUID
    kind: str
    payload: Any
    attempts: int
    lease: int


async def work(job: Job) -> Any:
    """Put the slow part here. No transaction is open. It may run again: give job.id to others as idempotency key."""
    raise Hopeless(f"nobody knows how to do {job.kind!r}")


async def save(connection: psycopg.AsyncConnection, job: Job, result: Any) -> None:
    """Put the writes to this database here, short ones: they commit together with the end of the job."""


class Worker:
    def __init__(self, pool: AsyncConnectionPool) -> None:
        self.pool, self.stopping, self.clock = pool, asyncio.Event(), asyncio.get_running_loop().time
        self.held: dict[int, tuple[UUID, asyncio.Timeout]] = {}  # {lease: job and when the work on it must stop}
        self.tasks: set[asyncio.Task[None]] = set()

    async def ask(self, query: LiteralString, *values: object) -> list[Any]:
        async with asyncio.timeout(5), self.pool.connection() as connection:
            return await (await connection.execute(query, values)).fetchall()

    async def tell(self, call: LiteralString, job: Job, *values: object) -> None:
        try:
            await self.ask(f"SELECT {call}", job.id, job.lease, *values)
        except DOWN as error:  # the job comes back when its lease ends
            log.error("job %s is left to its lease: %r", job.id, error)

    async def finish(self, job: Job, result: Any, end: float) -> None:
        while True:
            try:
                async with asyncio.timeout(10), self.pool.connection() as connection, connection.transaction():
                    ended = await connection.execute("SELECT job_end(%s, %s)", [job.id, job.lease])
                    if (await ended.fetchone()) == (True,):
                        return await save(connection, job, result)
                    # Somebody else has it; or it ended in an earlier round of this loop, whose answer was lost.
                    return log.warning("job %s is no longer ours", job.id)
            except (psycopg.OperationalError, TimeoutError):  # the work is done: do not do it again for that
                if self.clock() > end:
                    raise
                await asyncio.sleep(random.uniform(0.2, 1))

    async def fail(self, job: Job, error: Exception) -> None:
        why = f"{type(error).__name__}: {error}".encode(errors="replace").decode().replace("\0", "")[:2000]
        log.warning("job %s, attempt %d: %s", job.id, job.attempts, why)
        delay = min(MAX_BACKOFF, BACKOFF * 2 ** (job.attempts - 1)) * random.uniform(0.5, 1)
        await self.tell("job_fail(%s, %s, %s, %s)", job, why, None if isinstance(error, Hopeless) else delay)

    async def attempt(self, job: Job, end: float) -> None:
        ours = asyncio.timeout_at(end)
        try:
            async with asyncio.timeout(TIMEOUT), ours:
                self.held[job.lease] = job.id, ours
                result = await work(job)
            self.held.pop(job.lease)  # its row is about to be locked, and the heartbeat must not wait for that
            await self.finish(job, result, ours.when() or end)
        except asyncio.CancelledError:  # shutdown: somebody else may begin at once, and the attempt does not count
            await self.tell("job_give_back(%s, %s)", job)
        except Exception as error:
            if ours.expired():
                return log.error("job %s: the lease is lost, another worker may have it", job.id)
            await self.fail(job, error)
        finally:
            self.held.pop(job.lease, None)

    async def heartbeat(self) -> None:
        while not self.pool.closed:
            await asyncio.sleep(LEASE / 4)
            asked, held = self.clock(), dict(self.held)
            jobs = [job for job, _ in held.values()]
            try:
                kept = await self.ask("SELECT job_renew(%s::uuid[], %s::bigint[], %s)", jobs, list(held), LEASE)
            except DOWN as error:  # work stops by itself at the end of its lease
                log.warning("heartbeat: %r", error)
                continue
            for lease, (_, ours) in held.items():
                with suppress(RuntimeError):  # ended meanwhile
                    ours.reschedule(asked + LEASE if (lease,) in kept else asked)

    async def claim(self) -> None:
        end = self.clock() + LEASE  # counted from before the question, so that we never believe longer than the others
        try:
            rows = await self.ask(CLAIM, QUEUE, SLOTS - len(self.tasks), LEASE)
        except DOWN as error:
            return log.error("claim: %r", error)
        for row in rows:
            task = asyncio.create_task(self.attempt(Job(*row), end))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:  # a heartbeat that fails ends the worker
            heartbeat, stop = group.create_task(self.heartbeat()), group.create_task(self.stopping.wait())
            while not self.stopping.is_set():
                if len(self.tasks) < SLOTS:
                    await self.claim()
                pause = POLL * random.uniform(0.5, 1.5)  # workers that started together do not ask together for ever
                await asyncio.wait({stop, *self.tasks}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            log.info("stopping with %d jobs at work", len(self.tasks))
            late = (await asyncio.wait(self.tasks, timeout=DRAIN))[1] if self.tasks else set()
            for task in late:
                task.cancel()
            await asyncio.gather(*late)
            heartbeat.cancel()


async def main() -> None:
    pool = AsyncConnectionPool(
        os.environ["DATABASE_URL"], min_size=2, max_size=SLOTS + 2, timeout=5, open=False,
        # After a restart of the database the next statement works; 300, the default, lets pauses grow to two minutes.
        check=AsyncConnectionPool.check_connection, reconnect_timeout=5,
        kwargs={"autocommit": True, "connect_timeout": 5, "tcp_user_timeout": 10_000,
                "options": "-c statement_timeout=10s -c idle_in_transaction_session_timeout=10s"},
    )  # fmt: skip
    async with pool:
        worker = Worker(pool)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stopping.set)
        await worker.run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main())
