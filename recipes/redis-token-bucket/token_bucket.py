"""A token bucket in Redis or Valkey, shared by all instances: one Lua script and a thin client for asyncio."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from dataclasses import dataclass

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig

log = logging.getLogger("token_bucket")

# Reading, deciding and writing in one script, which nothing interrupts; one key, so that it runs in a cluster too.
LUA = """
local rate, burst, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')  -- the server's clock: those of the callers differ
local now = time[1] * 1e6 + time[2]
local state = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens, at = tonumber(state[1]) or burst, tonumber(state[2]) or now
-- After a failover the clock may be behind: then nothing is added, and nothing taken away.
tokens = math.min(burst, tokens + math.max(now - at, 0) * rate / 1e6)
local allowed = tokens >= cost
if allowed then tokens = tokens - cost end
if allowed or now < at then  -- what is refused writes nothing, except to count from the earlier clock from now on
    redis.call('HSET', KEYS[1], 'tokens', tokens, 'at', now)
    redis.call('PEXPIRE', KEYS[1], math.ceil((burst - tokens) / rate * 1000) + 1000)  -- full again: same as no key
end
local wait = 0
if not allowed then wait = math.floor((cost - tokens) / rate * 1000) + 1 end
return {allowed and 1 or 0, string.format('%.17g', tokens), wait}  -- a plain Lua number would lose its fraction
"""


@dataclass(frozen=True, slots=True)
class Answer:
    allowed: bool
    remaining: float  # tokens left
    retry_after: float  # seconds; after them the same cost is allowed unless somebody else was faster
    degraded: bool = False  # Redis did not decide: it was down, slow, full or read-only


def client(url: str, connections: int = 20) -> Redis:
    """For buckets only."""
    pool = BlockingConnectionPool.from_url(  # the usual pool raises an error for the 101st caller, who then passes
        url, max_connections=connections, timeout=5, socket_connect_timeout=5,
        # `take` has the deadline. One here makes redis-py call asyncio.wait_for, which in Python 3.11 may swallow that.
        socket_timeout=None,
        # redis-py's own retries would send the script again when only its answer was lost.
        retry=Retry(NoBackoff(), 0),
        # While these are on (the default), the pool hands out connections that the server has closed since.
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )  # fmt: skip
    return Redis.from_pool(pool)  # aclose() of the client closes this pool too


class TokenBucket:
    def __init__(
        self, redis: Redis | RedisCluster, name: str, rate: float, burst: float, *, fail_open: bool,
        timeout: float = 0.1,
    ) -> None:  # fmt: skip
        if not (0 < rate < math.inf and 0 < burst < math.inf):
            raise ValueError("rate (tokens a second) and burst (tokens) must be positive")
        self.redis, self.name, self.rate, self.burst = redis, name, rate, burst
        self.fail_open, self.timeout = fail_open, timeout
        self.failures, self.last_logged = 0, -math.inf  # export the first as a metric

    async def take(self, subject: str, cost: float = 1) -> Answer:
        """Take tokens from the bucket of an account, a tenant or an address; takes all of the cost or nothing."""
        if not 0 < cost <= self.burst:
            raise ValueError(f"cost {cost} can never be had from a bucket of {self.burst}")
        key = f"bucket:{self.name}:{subject}"
        try:
            # Around everything: waiting for a connection, its making and greeting, the answer.
            async with asyncio.timeout(self.timeout):
                # EVAL, not EVALSHA: the script is small, and there is nothing to load again after a restart.
                answer = await self.redis.execute_command("EVAL", LUA, 1, key, self.rate, self.burst, cost)
        except (RedisError, OSError, TimeoutError) as error:
            return self.failed(error)
        allowed, tokens, wait = answer
        return Answer(bool(allowed), float(tokens), wait / 1000)

    def failed(self, error: Exception) -> Answer:
        self.failures += 1
        if time.monotonic() - self.last_logged >= 1:  # a log line for each request would be the next overload
            self.last_logged = time.monotonic()
            log.error("%s fails %s: %r", self.name, "open" if self.fail_open else "closed", error)
        return Answer(self.fail_open, 0, 0 if self.fail_open else 1, degraded=True)
