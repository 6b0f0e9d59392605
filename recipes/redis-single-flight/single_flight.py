"""A cache in Redis or Valkey for asyncio: one load for each key over all processes, stale values meanwhile."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig

log = logging.getLogger("single_flight")
T = TypeVar("T")

# Looking and locking in one script: between the two another process could store and unlock, and there were two loads.
# A value begins with its grace, the milliseconds for which it may be served stale: no clock but the server's counts.
LOOK = """
local value = redis.pcall('GET', KEYS[1])
if type(value) == 'table' then redis.call('DEL', KEYS[1]) value = false end  -- a key of another type
local grace = value and tonumber(string.match(value, '^%d+') or -1)
if grace and redis.call('PTTL', KEYS[1]) > grace then return {value, 'fresh'} end
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then return {value, 'load'} end
return {value, redis.call('GET', KEYS[2]) == 'failed' and 'failed' or 'wait'}
"""
# Only for the lock's owner: who was paused, or whose key was invalidated meanwhile, has loaded what is old by now.
STORE = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('DEL', KEYS[2])
"""
# The lock of a load that failed stays for a moment, so that the next requests do not all try again.
FAIL = "if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('SET', KEYS[2], 'failed', 'PX', ARGV[2]) end"
FORGET = "redis.call('DEL', KEYS[1], KEYS[2])"
DROP = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"
UNAVAILABLE = RedisError, OSError, TimeoutError


class LoadFailed(Exception):
    """There is no value that may be served, and none could be loaded in time."""


def client(url: str, connections: int = 20) -> Redis:
    pool = BlockingConnectionPool.from_url(  # without timeouts and retries of its own: the cache has the deadline
        url, max_connections=connections, timeout=5, socket_timeout=None, retry=Retry(NoBackoff(), 0),
        # While these are on (the default), the pool hands out connections that the server has closed since.
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )  # fmt: skip
    return Redis.from_pool(pool)


class Cache(Generic[T]):
    def __init__(
        self, redis: Redis, name: str, load: Callable[[str], Awaitable[Any]], *, version: int,
        decode: Callable[[Any], T], soft: float = 60, grace: float = 240, negative: float = 10, load_timeout: float = 5,
        loads: int = 10, pause: float = 1, timeout: float = 0.1,
    ) -> None:  # fmt: skip
        """`load` returns what JSON can hold, None for what does not exist; `decode` raises for unknown forms."""
        self.redis, self.load, self.decode, self.prefix = redis, load, decode, f"cache:{name}:v{version}"
        self.soft, self.grace, self.negative, self.pause = soft, grace, negative, pause
        self.load_timeout, self.timeout, self.loads = load_timeout, timeout, asyncio.Semaphore(loads)
        self.failures, self.last_logged = 0, -math.inf  # export the first as a metric
        self.flights: dict[str, asyncio.Task[T | None]] = {}
        self.tasks: set[asyncio.Task[T | None]] = set()

    async def get(self, key: str) -> T | None:
        flight = self.flights.get(key)
        if flight is None:
            flight = self.flights[key] = self._start(self._find(key))
            flight.add_done_callback(lambda done: self.flights.get(key) is done and self.flights.pop(key))
        return await asyncio.shield(flight)  # a caller who goes away ends nothing for the others

    async def invalidate(self, key: str) -> None:
        """After the commit of a write: forget the value, and do not store what is being loaded just now."""
        self.flights.pop(key, None)
        await self._run(FORGET, key)

    async def aclose(self) -> None:
        """Let loads end, which takes load_timeout at most; the client is closed by whoever made it."""
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def _start(self, work: Any) -> asyncio.Task[T | None]:
        task = asyncio.create_task(work)
        self.tasks.add(task)  # the event loop alone would not keep it
        task.add_done_callback(self.tasks.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # logged where it happened
        return task

    async def _run(self, script: str, key: str, *arguments: object) -> Any:
        keys = f"{{{self.prefix}:{key}}}", f"{{{self.prefix}:{key}}}:lock"  # braces: one slot of a cluster
        async with asyncio.timeout(self.timeout):
            return await self.redis.execute_command("EVAL", script, 2, *keys, *arguments)

    async def _find(self, key: str) -> T | None:
        owner, lock = secrets.token_hex(16), round((self.load_timeout + 1) * 1000)
        end = time.monotonic() + 2 * self.load_timeout + 2  # the lock of a killed process and our own load
        while time.monotonic() < end:
            try:
                raw, state = await self._run(LOOK, key, owner, lock)
                if raw is not None:
                    try:
                        value = self._decode(raw)
                    except Exception:  # written by something else: it goes, unless somebody has replaced it
                        log.exception("%s:%s cannot be decoded", self.prefix, key)
                        if state == b"fresh":
                            await self._run(DROP, key, raw)
                            continue
                    else:
                        if state == b"load":
                            self._start(self._load(key, owner))
                        return value
            except UNAVAILABLE as error:
                self._degraded(error)
                state = b"load"
            if state == b"load":
                return await self._load(key, owner)
            if state == b"failed":
                break
            await asyncio.sleep(random.uniform(0.02, 0.05))
        raise LoadFailed(key)

    def _decode(self, raw: bytes) -> T | None:
        value = json.loads(raw.partition(b" ")[2])
        return None if value is None else self.decode(value)

    async def _load(self, key: str, owner: str) -> T | None:
        try:
            async with asyncio.timeout(self.load_timeout), self.loads:
                found = await self.load(key)
            # What does not exist is never served stale.
            fresh, grace = (self.negative, 0.0) if found is None else (self.soft, self.grace)
            raw = f"{round(grace * 1000)} {json.dumps(found)}".encode()
            value = self._decode(raw)  # the first caller gets what all others will get
        except Exception as error:
            log.exception("load of %s:%s failed", self.prefix, key)
            await self._quietly(FAIL, key, owner, round(self.pause * 1000))
            raise LoadFailed(key) from error
        fresh *= random.uniform(0.9, 1)  # what was loaded together shall not expire together
        await self._quietly(STORE, key, owner, raw, round((fresh + grace) * 1000))
        return value

    async def _quietly(self, script: str, key: str, *arguments: object) -> None:
        try:
            await self._run(script, key, *arguments)
        except UNAVAILABLE as error:  # the lock ends by itself
            self._degraded(error)

    def _degraded(self, error: Exception) -> None:
        self.failures += 1
        if time.monotonic() - self.last_logged >= 1:  # a log line for each request would be the next overload
            self.last_logged = time.monotonic()
            log.error("%s without Redis: %r", self.prefix, error)
