"""recipes/outbox-relay/relay.py with the names, the settings and the table of the ticket."""

import logging
import os
import random
import signal
import threading
import time
from contextlib import suppress
from typing import Any

import psycopg
from redis import Redis
from redis.exceptions import RedisError

log, env = logging.getLogger("relay"), os.environ.get
STREAM = env("STREAM", "events")
BATCH = int(env("BATCH", "100"))
POLL = min(0.2, float(env("PUBLISH_WITHIN_SECONDS", "2")) / 5)  # seconds between looks at an empty outbox
TIMEOUT = float(env("TIMEOUT_SECONDS", "5"))  # of one answer of the database or the broker
CONFIRM = TIMEOUT * 0.6  # seconds in which the broker must have written a batch to its disk
# After which the database frees the lock of a relay that hangs; above TIMEOUT
SILENCE = (TIMEOUT + float(env("TAKEOVER_SECONDS", "15"))) / 2
MAX_PAUSE = float(env("RECOVER_SECONDS", "5")) / 3  # seconds between attempts while a server is away
DRAIN = float(env("DRAIN_SECONDS", "10"))  # for the batch at work after SIGTERM

# One relay works at a time: two would mix the events of an aggregate. The lock ends with the transaction, so that it
# also works behind a pooler and a relay that died holds nothing. The two-part key has a space of its own.
LOCK = "SELECT pg_try_advisory_xact_lock(7165, 1)"
UNPUBLISHED = """
SELECT id, aggregate_id, type, payload::text,
    to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"') FROM outbox
WHERE published_at IS NULL ORDER BY id LIMIT %s"""
MARK = "UPDATE outbox SET published_at = now() WHERE id = ANY(%s)"
INDEX = "CREATE INDEX outbox_unpublished ON outbox (id) WHERE published_at IS NULL"
# A script, since after an event that is refused no later one may get in.
APPEND = """
for i = 1, #ARGV, 5 do
    redis.call('XADD', KEYS[1], '*', 'outbox_id', ARGV[i], 'aggregate_id', ARGV[i + 1], 'type', ARGV[i + 2],
               'payload', ARGV[i + 3], 'created_at', ARGV[i + 4])
end"""


class Unconfirmed(Exception):
    """The broker did not say that the events are safe."""


def patience(seconds: float = TIMEOUT) -> None:
    """TimeoutError after so many seconds: nothing else ends the wait for a database that has gone silent."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


def impatient(*_: object) -> None:
    raise TimeoutError(f"no answer within {TIMEOUT} s")


def prepare(database: psycopg.Connection[Any]) -> None:
    """An index for the look at the outbox; services are not held up for it, so that it may be made at a later start."""
    patience()
    with suppress(psycopg.errors.LockNotAvailable), database.transaction():
        database.execute("SET LOCAL lock_timeout = '1s'")
        database.execute("SELECT pg_advisory_xact_lock(7165, 2)")
        if database.execute("SELECT to_regclass('outbox_unpublished') IS NULL").fetchone() == (True,):
            database.execute(INDEX)


def publish(valkey: Redis, events: list[tuple[Any, ...]]) -> None:
    pipe = valkey.pipeline(transaction=False)  # one connection: WAITAOF speaks of what was written on its own
    if events:
        pipe.execute_command("EVAL", APPEND, 1, STREAM, *(field for event in events for field in event))
    pipe.execute_command("WAITAOF", 1, 0, int(CONFIRM * 1000))
    disk, _ = pipe.execute()[-1]
    if disk < 1:
        raise Unconfirmed(f"not on disk after {CONFIRM} s")


def pass_on(database: psycopg.Connection[Any], valkey: Redis) -> int:
    patience()
    with database.transaction():
        if database.execute(LOCK).fetchone() != (True,):
            return 0  # another relay is at work
        if events := database.execute(UNPUBLISHED, [BATCH]).fetchall():
            patience()
            publish(valkey, events)  # whatever goes wrong from here on, they are published again, under the same ids
            patience()
            database.execute(MARK, [[event[0] for event in events]])
        return len(events)


class Relay:
    stopping = False

    def stop(self, *_: object) -> None:
        self.stopping = True
        late = threading.Timer(DRAIN, os._exit, [0])  # what is not marked by then is published again
        late.daemon = True
        late.start()

    def work(self, database: psycopg.Connection[Any], valkey: Redis) -> None:
        publish(valkey, [])  # a broker that cannot confirm is found out before it gets anything, again and again
        prepare(database)
        while not self.stopping:
            full = pass_on(database, valkey) == BATCH
            patience(0)
            if not full:
                time.sleep(POLL * random.uniform(0.5, 1.5))

    def run(self) -> None:
        pause = POLL
        while not self.stopping:
            began = time.monotonic()
            try:
                with (
                    psycopg.connect(
                        os.environ["DATABASE_URL"], autocommit=True, connect_timeout=max(2, round(TIMEOUT)),
                        tcp_user_timeout=int(TIMEOUT * 1000),
                        options=f"-c statement_timeout={TIMEOUT}s -c idle_in_transaction_session_timeout={SILENCE}s",
                    ) as database,
                    # No retries by the client: it would send again what was done when only the answer was lost, in
                    # the middle of a transaction. SILENCE counts on this timeout.
                    Redis.from_url(
                        os.environ["REDIS_URL"], socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT, retry=None
                    ) as valkey,
                ):  # fmt: skip
                    self.work(database, valkey)
            except (psycopg.Error, RedisError, TimeoutError, Unconfirmed) as error:
                patience(0)
                log.error("%r", error)
                pause = POLL if time.monotonic() - began > 60 else min(MAX_PAUSE, pause * 2)
                time.sleep(pause * random.uniform(0.5, 1))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    relay = Relay()
    signal.signal(signal.SIGALRM, impatient)
    signal.signal(signal.SIGTERM, relay.stop)
    relay.run()
