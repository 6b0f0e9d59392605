"""recipes/pg-job-queue (worker.py, queue.sql) with the names, the settings and the table of the ticket."""

import asyncio
import json
import logging
import os
import random
import signal
import threading
from contextlib import suppress
from typing import Any, LiteralString, NamedTuple

import httpx
import psycopg
from psycopg_pool import AsyncConnectionPool

log, env = logging.getLogger("worker"), os.environ.get
SLOTS = int(env("CONCURRENCY", "4"))  # jobs at once
POLL = min(1, float(env("PICKUP_SECONDS", "2")) / 3)  # seconds between looks at an empty queue
TIMEOUT = float(env("TIMEOUT_SECONDS", "10"))  # of one attempt
# Seconds without a heartbeat after which others take a job over: the executor has stopped by then.
LEASE = (TIMEOUT + float(env("TAKEOVER_SECONDS", "60"))) / 2
BACKOFF, MAX_BACKOFF = float(env("RETRY_SECONDS", "2")), float(env("MAX_RETRY_SECONDS", "300"))
ANSWER = min(5, float(env("RECOVER_SECONDS", "5")) / 3)  # seconds for an answer of the database
DRAIN = float(env("DRAIN_SECONDS", "20"))  # for the jobs at work after SIGTERM
DOWN = (psycopg.Error, TimeoutError)
YEAR = 31_536_000.0

# While a worker has a job its run_at is the end of the lease: one index finds what is due and what dead workers left.
PREPARE = """
SELECT pg_advisory_xact_lock(7165, 4);
CREATE SEQUENCE IF NOT EXISTS job_lease;
ALTER TABLE jobs ADD COLUMN IF NOT EXISTS lease bigint DEFAULT NULL;
CREATE INDEX IF NOT EXISTS jobs_due ON jobs (run_at) WHERE state IN ('queued', 'running')"""
CLAIM = """
WITH picked AS MATERIALIZED (
    SELECT id, attempts < max_attempts AS alive FROM jobs WHERE state IN ('queued', 'running') AND run_at <= now()
    ORDER BY run_at LIMIT %s FOR UPDATE SKIP LOCKED
), dead AS (
    UPDATE jobs SET state = 'failed', finished_at = now(), lease = NULL,
        last_error = concat_ws('; before that ', 'the worker died or was cut off', last_error)
    FROM picked WHERE jobs.id = picked.id AND NOT alive
)
UPDATE jobs SET state = 'running', lease = nextval('job_lease'), attempts = attempts + 1,
    run_at = now() + make_interval(secs => %s)
FROM picked WHERE jobs.id = picked.id AND alive RETURNING jobs.id, kind, payload::text, attempts, lease"""
RENEW = """
UPDATE jobs SET run_at = now() + make_interval(secs => %s)
WHERE id = ANY (%s::bigint[]) AND lease = ANY (%s::bigint[]) AND state = 'running' RETURNING lease"""
END = """
UPDATE jobs SET state = 'done', finished_at = now(), lease = NULL
WHERE id = %s AND lease = %s AND state = 'running' RETURNING id"""
FAIL = """
UPDATE jobs SET lease = NULL, last_error = %(why)s,
    state = CASE WHEN %(secs)s::float8 IS NULL OR attempts >= max_attempts THEN 'failed' ELSE 'queued' END,
    finished_at = CASE WHEN %(secs)s::float8 IS NULL OR attempts >= max_attempts THEN now() END,
    run_at = now() + make_interval(secs => coalesce(%(secs)s, 0))
WHERE id = %(id)s AND lease = %(lease)s AND state = 'running'"""


class Hopeless(Exception):
    """No later attempt can succeed."""


class Again(Exception):
    """A failed attempt, and after how many seconds there may be another."""

    def __init__(self, why: str, seconds: float = 0) -> None:
        super().__init__(why)
        self.seconds = seconds


class Job(NamedTuple):
    id: int
    kind: str
    payload: str  # JSON
    attempts: int
    lease: int


async def work(client: httpx.AsyncClient, job: Job) -> None:
    body = f'{{"id": {job.id}, "kind": {json.dumps(job.kind)}, "payload": {job.payload}, "attempt": {job.attempts}}}'
    headers, said = {"Content-Type": "application/json"}, b""
    async with client.stream("POST", "/jobs", content=body, headers=headers) as answer:
        async for part in answer.aiter_raw():
            said = (said + part)[:500]
    if answer.is_success:
        return
    why = f"status {answer.status_code}: {said.decode(errors='replace')}"
    if answer.is_client_error and answer.status_code not in (408, 429):
        raise Hopeless(why)
    after = answer.headers.get("Retry-After", "").strip()
    known = answer.status_code in (429, 503) and after.isascii() and after.isdigit()
    raise Again(why, min(YEAR, float(after)) if known else 0)


class Worker:
    def __init__(self, pool: AsyncConnectionPool, client: httpx.AsyncClient) -> None:
        self.pool, self.client = pool, client
        self.stopping, self.clock = asyncio.Event(), asyncio.get_running_loop().time
        self.held: dict[int, tuple[int, asyncio.Timeout]] = {}  # {lease: job and when the work on it must stop}
        self.tasks: set[asyncio.Task[None]] = set()

    async def ask(self, query: LiteralString, values: Any = ()) -> list[Any]:
        # Not asyncio.timeout: psycopg takes up to 10 s more to cancel what the server does not hear.
        task = asyncio.create_task(self.query(query, values))
        if not (await asyncio.wait({task}, timeout=ANSWER))[0]:
            task.cancel()
            raise TimeoutError(f"no answer within {ANSWER} s")
        return task.result()

    async def query(self, query: LiteralString, values: Any) -> list[Any]:
        async with self.pool.connection() as connection:
            cursor = await connection.execute(query, values)
            return await cursor.fetchall() if cursor.description else []

    async def finish(self, job: Job, end: float) -> None:
        while True:
            try:
                if not await self.ask(END, [job.id, job.lease]):
                    # Somebody else has it; or it ended in an earlier round of this loop, whose answer was lost.
                    log.warning("job %s is no longer ours", job.id)
                return
            except (psycopg.OperationalError, TimeoutError):  # the work is done: do not do it again for that
                if self.clock() > end:
                    raise
                await asyncio.sleep(random.uniform(0.2, 1))

    async def fail(self, job: Job, error: BaseException) -> None:
        why = f"{type(error).__name__}: {error}".encode(errors="replace").decode().replace("\0", "")[:2000]
        log.warning("job %s, attempt %d: %s", job.id, job.attempts, why)
        delay = min(MAX_BACKOFF, BACKOFF * 2 ** min(job.attempts - 1, 30) * random.uniform(1, 1.5))
        seconds = None if isinstance(error, Hopeless) else max(delay, getattr(error, "seconds", 0))
        try:
            await self.ask(FAIL, {"why": why, "secs": seconds, "id": job.id, "lease": job.lease})
        except DOWN as problem:  # the job comes back when its lease ends
            log.error("job %s is left to its lease: %r", job.id, problem)

    async def attempt(self, job: Job, end: float) -> None:
        ours = asyncio.timeout_at(end)
        try:
            async with asyncio.timeout(TIMEOUT), ours:
                self.held[job.lease] = job.id, ours
                await work(self.client, job)
            self.held.pop(job.lease)  # its row is about to be locked, and the heartbeat must not wait for that
            await self.finish(job, ours.when() or end)
        except asyncio.CancelledError as error:  # shutdown
            await self.fail(job, error)
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
                kept = await self.ask(RENEW, [LEASE, jobs, list(held)])
            except DOWN as error:  # work stops by itself at the end of its lease
                log.warning("heartbeat: %r", error)
                continue
            for lease, (_, ours) in held.items():
                with suppress(RuntimeError):  # ended meanwhile
                    ours.reschedule(asked + LEASE if (lease,) in kept else asked)

    async def claim(self) -> None:
        end = self.clock() + LEASE  # counted from before the question, so that we never believe longer than the others
        try:
            rows = await self.ask(CLAIM, [SLOTS - len(self.tasks), LEASE])
        except DOWN as error:
            return log.error("claim: %r", error)
        for row in rows:
            task = asyncio.create_task(self.attempt(Job(*row), end))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def prepare(self) -> None:
        while not self.stopping.is_set():
            try:
                if await self.ask("SELECT to_regclass('jobs_due') IS NULL") == [(True,)]:
                    await self.ask(PREPARE, None)
                return
            except DOWN as error:
                log.error("prepare: %r", error)
                await asyncio.sleep(0.5)

    async def run(self) -> None:
        await self.prepare()
        async with asyncio.TaskGroup() as group:  # a heartbeat that fails ends the worker
            heartbeat, stop = group.create_task(self.heartbeat()), group.create_task(self.stopping.wait())
            while not self.stopping.is_set():
                if len(self.tasks) < SLOTS:
                    await self.claim()
                pause = POLL * random.uniform(0.5, 1.5)  # workers that started together do not ask together for ever
                await asyncio.wait({stop, *self.tasks}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            log.info("stopping with %d jobs at work", len(self.tasks))
            late = (await asyncio.wait(self.tasks, timeout=DRAIN - min(1, DRAIN / 4)))[1] if self.tasks else set()
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
    client = httpx.AsyncClient(
        base_url=os.environ["UPSTREAM_URL"], timeout=None, trust_env=False,  # TIMEOUT is for the whole of an attempt
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=SLOTS),
    )  # fmt: skip
    async with client, pool:
        worker = Worker(pool, client)

        def stop() -> None:
            worker.stopping.set()
            late = threading.Timer(DRAIN, os._exit, [0])  # what is at work by then is left to its lease
            late.daemon = True
            late.start()

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
        await worker.run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    asyncio.run(main())
