"""A lock with a lease in Redis or Valkey, and a fence in PostgreSQL that shuts out who lost it without noticing."""

from __future__ import annotations

import logging
import random
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

log = logging.getLogger("fenced_lock")

# Lock and token in one step: whoever paused between two would come back with the newest token and without the lock.
# The owner may ask again: the client sends a script twice when the first answer was lost.
ACQUIRE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] and not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
    return false
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('INCR', KEYS[2])
"""
EXTEND = "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('PEXPIRE', KEYS[1], ARGV[2]) or 0"
RELEASE = "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1]) or 0"
# For the owner only: a counter that Redis has lost goes on above what the database has seen.
RAISE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return false end
if tonumber(redis.call('GET', KEYS[2]) or 0) < tonumber(ARGV[2]) then redis.call('SET', KEYS[2], ARGV[2]) end
return redis.call('INCR', KEYS[2])
"""


class LockHeld(Exception):
    """Somebody else has the lock, and the time to wait is over."""


class LockLost(Exception):
    """The lease ended, or somebody newer has the fence: stop, and begin again with another lease."""


def client(url: str, timeout: float = 1) -> Redis:
    # One retry, which replaces a connection that has died; each script here may run twice.
    return Redis.from_url(
        url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=Retry(NoBackoff(), 1), decode_responses=True
    )


class Lease:
    def __init__(self, redis: Redis, name: str, seconds: float) -> None:
        self.redis, self.name, self.milliseconds = redis, name, round(seconds * 1000)
        self.owner, self.token = secrets.token_hex(16), 0

    def _run(self, script: str, argument: int = 0) -> Any:
        # The braces put both keys into one slot, so that it runs in a cluster too.
        keys = f"lock:{{{self.name}}}", f"fence:{{{self.name}}}"
        return self.redis.execute_command("EVAL", script, 2, *keys, self.owner, argument)

    def acquire(self, wait: float) -> None:
        end = time.monotonic() + wait
        while not (token := self._run(ACQUIRE, self.milliseconds)):
            if time.monotonic() >= end:
                raise LockHeld(self.name)
            time.sleep(random.uniform(0.05, 0.15))  # not all at the same moment
        self.token = token

    def extend(self) -> None:
        """Have the whole lease again; call it between steps, at a third of the lease at the latest."""
        if not self._run(EXTEND, self.milliseconds):
            raise LockLost(f"{self.name}: the lease had ended")

    def release(self) -> None:
        try:
            if not self._run(RELEASE):
                log.warning("%s: the lease had ended before its release; make it longer or extend it", self.name)
        except RedisError as error:  # the work is done, and the lease ends by itself
            log.warning("%s: not released: %r", self.name, error)

    @contextmanager
    def _begin(self, db: psycopg.Connection[Any]) -> Iterator[None]:
        if db.info.transaction_status != TransactionStatus.IDLE:
            raise RuntimeError("inside another transaction it would not be committed here")
        with db.transaction():
            # Who is paused in a transaction has the fence's row locked: the server ends the session for it.
            db.execute("SELECT set_config('transaction_timeout', %s, true)", (str(self.milliseconds),))
            yield

    def claim(self, db: psycopg.Connection[Any]) -> None:
        """Shut out all older holders; waits for a transaction of theirs that is under way."""
        for _ in range(2):
            with self._begin(db):
                row = db.execute(
                    "INSERT INTO fence AS f VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET token = excluded.token"
                    " WHERE f.token < excluded.token RETURNING token",  # less, not equal: two may have the same token
                    (self.name, self.token),
                ).fetchone()
                if row:
                    return
                (seen,) = db.execute("SELECT token FROM fence WHERE name = %s", (self.name,)).fetchone() or (0,)
            # Either the lock is somebody else's by now, or Redis lost its memory and counts from 1 again.
            if not (token := self._run(RAISE, seen)):
                break
            log.warning("%s: counter raised from %d to %d", self.name, self.token, token)
            self.token = token
        raise LockLost(f"{self.name}: token {self.token} is not the newest")

    @contextmanager
    def transaction(self, db: psycopg.Connection[Any]) -> Iterator[None]:
        """All that is written in here is written by the newest holder, or not at all."""
        with self._begin(db):
            # The shared lock makes the claim of the next holder wait for our commit.
            if not db.execute(
                "SELECT FROM fence WHERE name = %s AND token = %s FOR SHARE", (self.name, self.token)
            ).rowcount:
                raise LockLost(f"{self.name}: token {self.token} is not the newest")
            yield


@contextmanager
def hold(redis: Redis, db: psycopg.Connection[Any], name: str, seconds: float = 30, wait: float = 0) -> Iterator[Lease]:
    lease = Lease(redis, name, seconds)
    lease.acquire(wait)
    try:
        lease.claim(db)
        yield lease
    finally:
        lease.release()
