"""May this customer do this now? POST /check asks the token buckets in Valkey that all copies share."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import signal
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from aiohttp import web
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
    redis.call('PEXPIRE', KEYS[1], math.ceil((burst - tokens) / rate * 1000) + 500)  -- full again: same as no key
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
        self, redis: Redis | RedisCluster, name: str, rate: float, burst: float, *, timeout: float = 0.1
    ) -> None:
        if not (0 < rate < math.inf and 0 < burst < math.inf):
            raise ValueError("rate (tokens a second) and burst (tokens) must be positive")
        self.redis, self.name, self.rate, self.burst = redis, name, rate, burst
        self.timeout, self.alone = timeout, Alone(rate, burst)
        self.failures, self.last_logged = 0, -math.inf  # export the first as a metric

    async def take(self, subject: str, cost: float = 1) -> Answer:
        """Take tokens from the bucket of an account, a tenant or an address; takes all of the cost or nothing."""
        if not 0 < cost <= self.burst:
            raise ValueError(f"cost {cost} can never be had from a bucket of {self.burst}")
        key = f"{self.name}:{subject}"
        try:
            # Around everything: waiting for a connection, its making and greeting, the answer.
            async with asyncio.timeout(self.timeout):
                # EVAL, not EVALSHA: the script is small, and there is nothing to load again after a restart.
                answer = await self.redis.execute_command("EVAL", LUA, 1, key, self.rate, self.burst, cost)
        except (RedisError, OSError, TimeoutError) as error:
            return self.failed(error, subject, cost)
        allowed, tokens, wait = answer
        return Answer(bool(allowed), float(tokens), wait / 1000)

    def failed(self, error: Exception, subject: str, cost: float) -> Answer:
        self.failures += 1
        if time.monotonic() - self.last_logged >= 1:  # a log line for each request would be the next overload
            self.last_logged = time.monotonic()
            log.error("%s decides alone: %r", self.name, error)
        return self.alone.take(subject, cost)


class Alone:
    """The same buckets in the memory of this process, for when Redis does not decide."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst = rate, burst
        self.buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens and when; the longest unused first

    def take(self, subject: str, cost: float) -> Answer:
        now = time.monotonic()
        for _ in range(2):  # full again: same as no bucket
            if self.buckets and next(iter(self.buckets.values()))[1] < now - self.burst / self.rate:
                self.buckets.popitem(last=False)
        tokens, at = self.buckets.pop(subject, (self.burst, now))
        tokens = min(self.burst, tokens + (now - at) * self.rate)
        allowed = tokens >= cost
        tokens -= cost if allowed else 0
        self.buckets[subject] = tokens, now
        return Answer(allowed, tokens, 0 if allowed else (cost - tokens) / self.rate + 0.001, degraded=True)


BURST, RATE = int(os.environ.get("BURST", "20")), float(os.environ.get("RATE", "10"))
TIMEOUT, DRAIN = float(os.environ.get("TIMEOUT_SECONDS", "0.2")), float(os.environ.get("DRAIN_SECONDS", "5"))


def valid(body: Any) -> bool:
    key = body.get("key") if isinstance(body, dict) else None
    return isinstance(key, str) and 1 <= len(key) <= 200 and type(cost := body.get("cost", 1)) is int and cost >= 1


async def check(request: web.Request) -> web.Response:
    try:
        body = json.loads(await request.read())
        if valid(body):
            body["key"].encode()  # half a surrogate pair is no Unicode
        else:
            raise ValueError(body)
    except (ValueError, RecursionError, web.HTTPRequestEntityTooLarge):
        return web.json_response({"error": "invalid_request"}, status=400)
    if body.get("cost", 1) > BURST:
        return web.json_response({"error": "cost_too_large"}, status=400)
    answer = await request.app[BUCKET].take(body["key"], body.get("cost", 1))
    return web.json_response({
        "allowed": answer.allowed, "remaining": math.floor(answer.remaining),
        "retry_after": answer.retry_after, "degraded": answer.degraded,
    })  # fmt: skip


async def healthz(_: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


BUCKET = web.AppKey("bucket", TokenBucket)


async def main() -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    redis = client(os.environ["REDIS_URL"])
    app = web.Application()
    app[BUCKET] = TokenBucket(redis, "rl", RATE, BURST, timeout=TIMEOUT)
    app.add_routes([web.get("/healthz", healthz), web.post("/check", check)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=DRAIN * 0.8)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(os.environ["PORT"]), backlog=1024).start()
    await stopping.wait()
    await runner.cleanup()  # no new connections, what is in flight ends
    await redis.aclose()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main())
