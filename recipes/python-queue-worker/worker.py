"""A worker for a Valkey or Redis stream: leases, retries, dead letters, and a shutdown that loses and repeats nothing.

Run: VALKEY_URL=redis://HOST DATABASE_URL=postgresql://HOST/NAME python worker.py
A message is an entry with the fields `job` (the producer's own id, the same when it sends again) and `payload` (JSON).
"""

import asyncio
import json
import logging
import os
import random
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

log, env = logging.getLogger("worker"), os.environ.get
STREAM, DEAD, GROUP = env("STREAM", "{jobs}"), env("DEAD", "{jobs}:dead"), "workers"  # one slot, should it be a cluster
NAME = f"{socket.gethostname()}-{os.getpid()}-{random.getrandbits(32):08x}"  # never that of a worker before or beside
LEASE = float(env("LEASE", "30"))  # seconds without renewal after which others take a message over
HANDLE_TIMEOUT = float(env("HANDLE_TIMEOUT", "120"))
MAX_DELIVERIES = int(env("MAX_DELIVERIES", "5"))
BACKOFF = float(env("BACKOFF", "1"))  # before the first retry; doubles, and never exceeds LEASE
DRAIN = float(env("DRAIN", "20"))  # for the message in hand after SIGTERM
ALIVE = Path(env("ALIVE", "/tmp/worker.alive"))  # touched while the loop runs: a liveness probe looks at its age
HOPELESS = (KeyError, ValueError, psycopg.DataError)  # what no later attempt can mend: to the dead letters at once
BLOCK = 1.0  # how long a read waits; must stay below the socket timeout, and SIGTERM waits for it

# Both look first whether the message is still ours, in the same step: after a pause somebody else may have it.
HOLD = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2]) == 0 then return 0 end
return #redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'IDLE', ARGV[4], 'RETRYCOUNT', ARGV[5], 'JUSTID')"""
BURY = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2]) == 0 then return 0 end
local fields = redis.call('XRANGE', KEYS[1], ARGV[3], ARGV[3])[1][2]
redis.call('XADD', KEYS[2], 'MAXLEN', '~', 100000, '*', 'error', ARGV[4], 'deliveries', ARGV[5], unpack(fields))
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
return redis.call('XDEL', KEYS[1], ARGV[3])"""


async def handle(database: AsyncConnectionPool, fields: dict[bytes, bytes]) -> None:
    """Put your work here. The mark and the effect commit together, so that a second delivery changes nothing."""
    job, payload = fields[b"job"].decode(), json.loads(fields[b"payload"])
    async with database.connection() as connection:
        mark = await connection.execute("INSERT INTO done (job) VALUES (%s) ON CONFLICT DO NOTHING", [job])
        if mark.rowcount:
            await connection.execute("SELECT apply_job(%s)", [Jsonb(payload)])


class Worker:
    def __init__(self, valkey: Redis, database: AsyncConnectionPool) -> None:
        self.valkey, self.database, self.stopping = valkey, database, asyncio.Event()
        self.limit = asyncio.timeout(None)  # of the message in hand; whoever wants to end it early moves it
        self.cursor, self.sweep_at = b"0-0", 0.0

    def stop(self) -> None:
        self.stopping.set()
        self.end_within(DRAIN)

    def end_within(self, seconds: float) -> None:
        end = asyncio.get_running_loop().time() + seconds
        with suppress(RuntimeError):  # nothing in hand
            self.limit.reschedule(min(end, self.limit.when() or end))

    async def hold(self, entry: bytes, idle: float, deliveries: int) -> bool:
        return bool(
            await self.valkey.execute_command("EVAL", HOLD, 1, STREAM, GROUP, NAME, entry, int(idle * 1000), deliveries)
        )

    async def bury(self, entry: bytes, why: str, deliveries: int) -> None:
        log.error("dead letter %s: %s", entry, why)
        await self.valkey.execute_command("EVAL", BURY, 2, STREAM, DEAD, GROUP, NAME, entry, why, deliveries)

    async def next(self) -> tuple[bytes, dict[bytes, bytes]] | None:
        while time.monotonic() >= self.sweep_at:  # messages of workers that died, and those due for another attempt
            stale = await self.valkey.xautoclaim(STREAM, GROUP, NAME, int(LEASE * 1000), self.cursor, count=1)
            self.cursor = stale[0]
            if stale[1]:
                return stale[1][0]
            if self.cursor == b"0-0":  # not before: each call looks at ten pending messages only
                self.sweep_at = time.monotonic() + 1
        read: Any = await self.valkey.xreadgroup(GROUP, NAME, {STREAM: ">"}, count=1, block=int(BLOCK * 1000))
        return read[0][1][0] if read else None

    async def renew(self, entry: bytes, deliveries: int) -> None:
        while True:
            await asyncio.sleep(LEASE / 3)
            ALIVE.touch()
            with suppress(RedisError):  # the lease has time for another attempt
                if not await self.hold(entry, 0, deliveries):
                    return self.end_within(0)

    async def work(self, entry: bytes, fields: dict[bytes, bytes]) -> None:
        pending: Any = await self.valkey.xpending_range(STREAM, GROUP, entry, entry, 1, NAME)
        if not pending:  # a pause since it was read, and another worker has it
            return
        if (count := pending[0]["times_delivered"]) > MAX_DELIVERIES:  # the server counts attempts that kill the worker
            return await self.bury(entry, "its workers died", count - 1)
        renewal = asyncio.create_task(self.renew(entry, count))
        try:
            async with asyncio.timeout(DRAIN if self.stopping.is_set() else HANDLE_TIMEOUT) as self.limit:
                await handle(self.database, fields)
        except Exception as error:
            log.warning("%s, delivery %d: %r", entry, count, error)
            if isinstance(error, PoolTimeout) or (isinstance(error, TimeoutError) and self.stopping.is_set()):
                await self.hold(entry, LEASE, count - 1)  # given back, due at once: not the message's fault
            elif isinstance(error, HOPELESS) or count >= MAX_DELIVERIES:
                await self.bury(entry, repr(error), count)
            else:
                await self.hold(entry, LEASE - min(LEASE, BACKOFF * 2 ** (count - 1)) * random.uniform(0.5, 1), count)
        else:
            both: Any = self.valkey.pipeline()  # one transaction: an entry that is only acknowledged stays for ever
            await both.xack(STREAM, GROUP, entry).xdel(STREAM, entry).execute()
        finally:
            renewal.cancel()

    async def run(self) -> None:
        group = False
        while not self.stopping.is_set():
            ALIVE.touch()
            try:
                if not group:
                    with suppress(ResponseError):  # BUSYGROUP: it exists
                        await self.valkey.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
                    group = True
                if message := await self.next():
                    await self.work(*message)
            except RedisError as error:  # the message in hand, if any, is delivered again when its lease ends
                log.warning("valkey: %r", error)
                group = False  # NOGROUP: the server came back empty
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.stopping.wait(), 1)
        with suppress(RedisError):  # deleting a consumer deletes what it holds: only when that is nothing
            if not await self.valkey.xpending_range(STREAM, GROUP, "-", "+", 1, NAME):
                await self.valkey.xgroup_delconsumer(STREAM, GROUP, NAME)


async def main() -> None:
    # No retries by the client: they hold up the shutdown, and send again what was done when only the answer was lost.
    valkey = Redis.from_url(os.environ["VALKEY_URL"], socket_timeout=BLOCK + 2, socket_connect_timeout=2, retry=None)
    pool = AsyncConnectionPool(
        os.environ["DATABASE_URL"], min_size=1, max_size=2, timeout=5, open=False,
        reconnect_timeout=5,  # with the default of 300 the pauses between attempts grow to two minutes
        check=AsyncConnectionPool.check_connection,  # after a restart of the database the next message works again
    )  # fmt: skip
    async with valkey, pool as database:
        worker = Worker(valkey, database)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
        await worker.run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main())
