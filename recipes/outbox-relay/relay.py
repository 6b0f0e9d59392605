"""A relay from the outbox of outbox.sql to a Valkey or Redis stream: at least once, in order within an aggregate.

Run: DATABASE_URL=postgresql://HOST/NAME VALKEY_URL=redis://HOST python relay.py     a second one beside it stands by
"""

import logging
import os
import random
import signal
import time
from typing import Any

import psycopg
from redis import Redis
from redis.exceptions import RedisError

log, env = logging.getLogger("relay"), os.environ.get
STREAM = env("STREAM", "events")
BATCH = int(env("BATCH", "100"))
POLL = float(env("POLL", "0.2"))  # seconds between looks at an empty outbox
MAX_PAUSE = float(env("MAX_PAUSE", "5"))  # seconds between attempts while the broker or the database is away
CONFIRM = float(env("CONFIRM", "3"))  # seconds in which the broker must have written a batch to its disk
REPLICAS = int(env("REPLICAS", "0"))  # of the broker, that must have it on their disks too
SILENCE = float(env("SILENCE", "15"))  # after which the database frees the lock of a relay that hangs; above CONFIRM
KEEP = env("KEEP", "7 days")  # published events, for looking back
PURGE = float(env("PURGE", "60"))  # seconds between purges

# One relay works at a time: two would mix the events of an aggregate. The lock ends with the transaction, so that it
# also works behind a pooler and a relay that died holds nothing. The two-part key has a space of its own.
LOCK = "SELECT pg_try_advisory_xact_lock(7165, 1)"
UNPUBLISHED = """
SELECT position, id::text, aggregate_type, aggregate_id, type, payload::text FROM outbox
WHERE published_at IS NULL ORDER BY position LIMIT %s"""
MARK = "UPDATE outbox SET published_at = now() WHERE position = ANY(%s)"
FORGET = """
DELETE FROM outbox WHERE position = ANY (ARRAY(
    SELECT position FROM outbox WHERE published_at < now() - %s::interval
    ORDER BY published_at LIMIT 1000 FOR UPDATE SKIP LOCKED))"""
# A script, since after an event that is refused no later one may get in.
APPEND = """
for i = 1, #ARGV, 6 do
    redis.call('XADD', KEYS[1], '*', 'position', ARGV[i], 'id', ARGV[i + 1], 'aggregate_type', ARGV[i + 2],
               'aggregate_id', ARGV[i + 3], 'type', ARGV[i + 4], 'payload', ARGV[i + 5])
end"""


class Unconfirmed(Exception):
    """The broker did not say that the events are safe."""


def publish(valkey: Redis, events: list[tuple[Any, ...]]) -> None:
    pipe = valkey.pipeline(transaction=False)  # one connection: WAITAOF speaks of what was written on its own
    if events:
        pipe.execute_command("EVAL", APPEND, 1, STREAM, *(field for event in events for field in event))
    pipe.execute_command("WAITAOF", 1, REPLICAS, int(CONFIRM * 1000))
    disk, replicas = pipe.execute()[-1]
    if disk < 1 or replicas < REPLICAS:
        raise Unconfirmed(f"on {disk} disk and {replicas} replicas after {CONFIRM} s")


def pass_on(database: psycopg.Connection[Any], valkey: Redis) -> int:
    with database.transaction():
        if database.execute(LOCK).fetchone() != (True,):
            return 0  # another relay is at work
        if events := database.execute(UNPUBLISHED, [BATCH]).fetchall():
            publish(valkey, events)  # whatever goes wrong from here on, they are published again, under the same ids
            database.execute(MARK, [[event[0] for event in events]])
        return len(events)


class Relay:
    stopping = False

    def stop(self, *_: object) -> None:
        self.stopping = True

    def alarm(self, *_: object) -> None:
        raise TimeoutError(f"no answer within {2 * SILENCE} s")

    def work(self, database: psycopg.Connection[Any], valkey: Redis) -> None:
        publish(valkey, [])  # a broker that cannot confirm is found out before it gets anything, again and again
        purge_at = time.monotonic()
        try:
            while not self.stopping:
                # Nothing else ends the wait for a database that took a question and has gone silent.
                signal.setitimer(signal.ITIMER_REAL, 2 * SILENCE)
                full = pass_on(database, valkey) == BATCH
                if time.monotonic() > purge_at and database.execute(FORGET, [KEEP]).rowcount < 1000:
                    purge_at = time.monotonic() + PURGE
                if not full:
                    time.sleep(POLL * random.uniform(0.5, 1.5))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def run(self) -> None:
        pause = POLL
        while not self.stopping:
            began = time.monotonic()
            try:
                with (
                    psycopg.connect(
                        os.environ["DATABASE_URL"], autocommit=True, connect_timeout=5, tcp_user_timeout=10_000,
                        options=f"-c statement_timeout=10s -c idle_in_transaction_session_timeout={SILENCE}s",
                    ) as database,
                    # No retries by the client: it would send again what was done when only the answer was lost, in
                    # the middle of a transaction. SILENCE counts on this timeout.
                    Redis.from_url(
                        os.environ["VALKEY_URL"], socket_timeout=CONFIRM + 2, socket_connect_timeout=2, retry=None
                    ) as valkey,
                ):  # fmt: skip
                    self.work(database, valkey)
            except (psycopg.Error, RedisError, TimeoutError, Unconfirmed) as error:
                log.error("%r", error)
                pause = POLL if time.monotonic() - began > 60 else min(MAX_PAUSE, pause * 2)
                time.sleep(pause * random.uniform(0.5, 1))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    relay = Relay()
    signal.signal(signal.SIGALRM, relay.alarm)
    signal.signal(signal.SIGTERM, relay.stop)
    relay.run()
