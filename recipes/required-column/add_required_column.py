#!/usr/bin/env python3
"""Add a required column and its index to a large table while others write to it.

  DATABASE_URL=postgresql://owner@host/shop python3 add_required_column.py

Needs a session of its own, not a pooler in transaction mode. After any failure run it again: what is done stays done.
exit status: 0 all is there, 1 it gave up and ran nothing after that, 2 another run is at work
"""

from __future__ import annotations

import os
import random
import sys
import time
from typing import Any

import psycopg
from psycopg.errors import DeadlockDetected, LockNotAvailable

TABLE, KEY, COLUMN, TYPE = "orders", "id", "currency", "text"
VALUE = "CASE country WHEN 'US' THEN 'USD' ELSE 'EUR' END"  # from other columns of the same row
INDEX, INDEX_ON = "orders_currency_idx", "orders (currency, id)"

LOCK_TIMEOUT = "2s"  # how long others may queue behind us; below deadlock_timeout (1 s) autovacuum would never give way
ATTEMPTS, PAUSE = 60, 1.0  # how often to try again, and the seconds between
BATCH = 5000  # rows in one transaction of the backfill
MAX_LAG = 64 * 1024 * 1024  # bytes that a standby may be behind before the backfill waits for it

REQUIRED = f"{TABLE}_{COLUMN}_required"  # the constraint, and also the trigger and its function
CONSTRAINT = f"""SELECT 1 FROM pg_constraint WHERE conrelid = '{TABLE}'::regclass AND conname = '{REQUIRED}'"""
COLUMN_IS = f"""SELECT 1 FROM pg_attribute WHERE attrelid = '{TABLE}'::regclass AND attname = '{COLUMN}'"""
TRIGGER_IS = f"""SELECT 1 FROM pg_trigger WHERE tgrelid = '{TABLE}'::regclass AND tgname = '{REQUIRED}'"""
INDEX_IS = f"""SELECT 1 FROM pg_index WHERE indexrelid = to_regclass('{INDEX}')"""
USERS = f"""SELECT string_agg(DISTINCT format('pid %s %s since %s', pid, state, xact_start), ', ')
    FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE relation = '{TABLE}'::regclass AND granted
    AND pid <> pg_backend_pid() AND xact_start < now() - interval '1 second'"""


def run(db: psycopg.Connection[Any], query: Any) -> Any:
    """Run a statement, as a transaction of its own; the first value of its first row, or None."""
    cursor = db.execute(query)
    row = cursor.fetchone() if cursor.description else None
    return row[0] if row else None


def say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


def give_up(name: str) -> SystemExit:
    return SystemExit(f"{name}: gave up, nothing after it was run")


def step(db: psycopg.Connection[Any], name: str, done: str, statement: str) -> None:
    """Run a statement unless what it makes is there (IF NOT EXISTS would lock the table all the same)."""
    if run(db, done):
        return say(f"{name}: there already")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            run(db, statement)
            return say(f"{name}: done")
        except (LockNotAvailable, DeadlockDetected):
            say(f"{name}: gave way, attempt {attempt} of {ATTEMPTS}; held by {run(db, USERS) or 'short transactions'}")
            time.sleep(PAUSE * random.uniform(0.5, 1.5))
    raise give_up(name)


def fill(db: psycopg.Connection[Any], low: int, high: int) -> bool:
    """Fill the rows of a range of keys but those that somebody holds, so that we can neither wait nor deadlock."""
    began = time.monotonic()
    rows = f"{TABLE} WHERE {KEY} > {low} AND {KEY} <= {high} AND {COLUMN} IS NULL"
    free = f"WITH free AS MATERIALIZED (SELECT {KEY} AS free_key FROM {rows} FOR NO KEY UPDATE SKIP LOCKED)"
    run(db, f"{free} UPDATE {TABLE} SET {COLUMN} = {VALUE} FROM free WHERE {KEY} = free_key")
    filled = not run(db, f"SELECT EXISTS (SELECT FROM {rows})")
    time.sleep(min(time.monotonic() - began, 5))  # leave half of the time to others
    for _ in range(ATTEMPTS):
        behind = run(db, "SELECT max(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)) FROM pg_stat_replication")
        if behind is None or behind <= MAX_LAG:  # None: there is no standby
            return filled
        say(f"backfill: waits at key {high} for a standby that is {behind} bytes behind")
        time.sleep(PAUSE)
    raise give_up("backfill")


def backfill(db: psycopg.Connection[Any]) -> None:
    low, end = run(db, f"SELECT min({KEY}) - 1 FROM {TABLE}"), run(db, f"SELECT max({KEY}) FROM {TABLE}")
    busy = []
    while low is not None and low < end:
        keys = f"SELECT {KEY} AS key FROM {TABLE} WHERE {KEY} > {low} ORDER BY {KEY} LIMIT {BATCH}"
        high = run(db, f"SELECT coalesce(max(key), {end}) FROM ({keys}) AS batch")
        if not fill(db, low, high):
            busy.append((low, high))
        say(f"backfill: {high} of {end}")
        low = high
    for _ in range(ATTEMPTS):
        busy = [batch for batch in busy if not fill(db, *batch)]
        if not busy:
            return say("backfill: done")
        say(f"backfill: others hold rows in {len(busy)} batches")
        time.sleep(PAUSE)
    raise give_up("backfill")


def require(db: psycopg.Connection[Any]) -> None:
    """Make the column NOT NULL without reading the table under a lock that stops others."""
    alter, validated = f"ALTER TABLE {TABLE}", f"{CONSTRAINT} AND convalidated"
    if db.info.server_version >= 180000:  # attnotnull is true from the first statement on: convalidated tells the truth
        step(db, "constraint", CONSTRAINT, f"{alter} ADD CONSTRAINT {REQUIRED} NOT NULL {COLUMN} NOT VALID")
        return step(db, "validate", validated, f"{alter} VALIDATE CONSTRAINT {REQUIRED}")
    required = f"{COLUMN_IS} AND attnotnull"
    check = f"{alter} ADD CONSTRAINT {REQUIRED} CHECK ({COLUMN} IS NOT NULL) NOT VALID"
    step(db, "constraint", f"{CONSTRAINT} UNION ALL {required}", check)
    step(db, "validate", f"{validated} UNION ALL {required}", f"{alter} VALIDATE CONSTRAINT {REQUIRED}")
    step(db, "not null", required, f"{alter} ALTER {COLUMN} SET NOT NULL")  # the valid CHECK spares it the scan
    step(db, "drop check", f"SELECT NOT EXISTS ({CONSTRAINT})", f"{alter} DROP CONSTRAINT {REQUIRED}")


def drop_invalid_index(db: psycopg.Connection[Any]) -> None:
    """Drop what a failed build left behind: no query uses it, yet every write has to maintain it."""
    if not db.closed and run(db, f"{INDEX_IS} AND NOT indisvalid"):
        run(db, f"DROP INDEX CONCURRENTLY {INDEX}")
        say("index: dropped an invalid one")


def build_index(db: psycopg.Connection[Any]) -> None:
    run(db, "SET lock_timeout = 0")  # its waits stop nobody, and giving up would leave an invalid index
    drop_invalid_index(db)  # of an earlier run
    try:
        step(db, "index", f"{INDEX_IS} AND indisvalid", f"CREATE INDEX CONCURRENTLY {INDEX} ON {INDEX_ON}")
    finally:
        drop_invalid_index(db)


def main() -> int:
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True, application_name=REQUIRED) as db:
        # The role's limits are meant for requests. The second setting ends the session soon after this program dies.
        run(
            db,
            """SELECT set_config(name, '0', false) FROM pg_settings
            WHERE name IN ('statement_timeout', 'transaction_timeout', 'idle_session_timeout')""",
        )
        run(db, "SET client_connection_check_interval = '1s'")
        if not run(db, f"SELECT pg_try_advisory_lock(hashtext('{REQUIRED}'))"):
            say("another run is at work")
            return 2
        run(db, f"SET lock_timeout = '{LOCK_TIMEOUT}'")
        step(db, "column", COLUMN_IS, f"ALTER TABLE {TABLE} ADD COLUMN {COLUMN} {TYPE}")
        # Code that knows nothing of the column goes on writing. Creating the trigger waits for open transactions that
        # have written, so that no row without a value can appear from here on.
        body = f"BEGIN NEW.{COLUMN} := (SELECT {VALUE} FROM (SELECT (NEW).*) AS written); RETURN NEW; END"
        run(db, f"CREATE OR REPLACE FUNCTION {REQUIRED}() RETURNS trigger LANGUAGE plpgsql AS $${body}$$")
        when = f"BEFORE INSERT OR UPDATE ON {TABLE} FOR EACH ROW WHEN (NEW.{COLUMN} IS NULL)"
        step(db, "trigger", TRIGGER_IS, f"CREATE TRIGGER {REQUIRED} {when} EXECUTE FUNCTION {REQUIRED}()")
        backfill(db)
        require(db)
        build_index(db)
        run(db, f"ANALYZE {TABLE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
