"""The ticket's promises, while relays are killed, frozen and doubled, and PostgreSQL and Valkey go away or silent."""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from benchmarks.answers.components.conftest import Component
from benchmarks.answers.components.wire import Wire
from recipes.engines import Postgres, Valkey, wait_for

Start = Callable[..., Component]
Outbox = psycopg.Connection[Any]

TABLE = """
CREATE TABLE outbox (
  id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  aggregate_id text        NOT NULL,
  type         text        NOT NULL,
  payload      jsonb       NOT NULL,
  created_at   timestamptz NOT NULL DEFAULT now(),
  published_at timestamptz
)"""
FIELDS = {"outbox_id", "aggregate_id", "type", "payload", "created_at"}
TIMEOUT, TAKEOVER, RECOVER, DRAIN = 2, 5, 5, 5
SETTINGS = {
    "STREAM": "events", "PUBLISH_WITHIN_SECONDS": 2, "TIMEOUT_SECONDS": TIMEOUT, "TAKEOVER_SECONDS": TAKEOVER,
    "RECOVER_SECONDS": RECOVER, "DRAIN_SECONDS": DRAIN,
}  # fmt: skip
BEGIN = 5  # seconds in which a copy works after its start
BUSY = 5  # seconds on top of every limit: the machine may be busy
NEEDLE = "a-needle-in-the-payload"


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    # Processes are killed here, machines are not: without fsync a busy disk holds nothing up.
    server = Postgres(tmp_path_factory.mktemp("outbox"), {"fsync": "off"})
    yield server
    server.stop()


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path, "--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction")
    yield server
    server.stop()


@pytest.fixture
def outbox(database: str) -> Iterator[Outbox]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(TABLE)
        yield connection


@pytest.fixture
def stream(valkey: Valkey) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey.url, decode_responses=True) as client:
        yield client


@pytest.fixture
def wire(valkey: Valkey) -> Iterator[Wire]:
    line = Wire(valkey.url)
    yield line
    line.stop()


@pytest.fixture
def database_wire(database: str) -> Iterator[Wire]:
    line = Wire(database)
    yield line
    line.stop()


@pytest.fixture
def relay(start: Start, database: str, valkey: Valkey, outbox: Outbox) -> Start:
    """relay() starts a copy; other URLs and settings by name."""

    def begin(**settings: object) -> Component:
        return start(**{"DATABASE_URL": database, "REDIS_URL": valkey.url, **SETTINGS, **settings})

    return begin


def write(outbox: Outbox, aggregate: str, n: int, extra: Any = "") -> int:
    query = "INSERT INTO outbox (aggregate_id, type, payload) VALUES (%s, 'Happened', %s) RETURNING id"
    row = outbox.execute(query, (aggregate, json.dumps({"n": n, "extra": extra}))).fetchone()
    assert row
    return int(row[0])


def entries(stream: redis.Redis) -> list[dict[str, str]]:
    found: Any = stream.xrange("events")
    return [fields for _, fields in found]


def ids(stream: redis.Redis) -> list[int]:
    return [int(entry["outbox_id"]) for entry in entries(stream)]


def unmarked(outbox: Outbox) -> int:
    row = outbox.execute("SELECT count(*) FROM outbox WHERE published_at IS NULL").fetchone()
    assert row
    return int(row[0])


def marked(outbox: Outbox) -> set[int]:
    return {row[0] for row in outbox.execute("SELECT id FROM outbox WHERE published_at IS NOT NULL")}


def published(outbox: Outbox, stream: redis.Redis, seconds: float) -> None:
    """Until every row is in the stream and marked; then: nothing else is, and each aggregate came in its order."""
    wait_for("an outbox that is published", lambda: unmarked(outbox) == 0, seconds)
    rows = dict(outbox.execute("SELECT id, aggregate_id FROM outbox").fetchall())
    seen = list(dict.fromkeys(ids(stream)))
    assert set(seen) >= set(rows), f"marked and not in the stream: {sorted(set(rows) - set(seen))[:10]}"
    assert set(seen) == set(rows), f"in the stream and not committed: {sorted(set(seen) - set(rows))[:10]}"
    last: dict[str, int] = {}
    for each in seen:
        assert last.get(rows[each], 0) < each, f"{last[rows[each]]} of {rows[each]!r} was published before {each}"
        last[rows[each]] = each


def once(stream: redis.Redis) -> None:
    found = ids(stream)
    twice = [each for each, count in Counter(found).items() if count > 1]
    assert not twice, f"in the stream more than once: {twice[:10]}"


def at_work(outbox: Outbox, stream: redis.Redis) -> None:
    """Until the copies that were started publish."""
    write(outbox, "first", 0)
    published(outbox, stream, BEGIN + BUSY)


def ten(outbox: Outbox, *aggregates: str) -> None:
    """Ten rows in one transaction."""
    with outbox.transaction():
        for n in range(10):
            write(outbox, aggregates[n % len(aggregates)], n, NEEDLE)


def test_rows_become_entries_as_the_ticket_says(relay: Start, outbox: Outbox, stream: redis.Redis) -> None:
    copy = relay(STREAM="shop:events")
    stream_of = [
        (
            "order-1",
            "OrderPlaced",
            '{"total": 0.1, "lines": [{"sku": "ä€😀", "n": 1}], "note": null, "": "\\u0001\\"\\\\"}',
        ),
        ("order 2\nwith 'quotes\" %s", "Ürün", "[]"),
        ("", "", '"text"'),
        ("big", "Number", "12345678901234567890.123456789"),
        ("null", "Null", "null"),
        ("long", "Long", json.dumps("x" * 300_000)),
    ]

    def found() -> list[tuple[str, dict[str, str]]]:
        answer: Any = stream.xrange("shop:events")
        return answer

    insert = "INSERT INTO outbox (aggregate_id, type, payload) VALUES (%s, %s, %s)"
    outbox.execute(insert, ("first", "First", "{}"))
    wait_for("the first entry", found, BEGIN + BUSY)
    for n, row in enumerate(stream_of, 2):
        outbox.execute(insert, row)
        wait_for("the next entry", lambda n=n: len(found()) == n, 2 + 1 + BUSY)  # type: ignore[misc]
    wait_for("the mark", lambda: unmarked(outbox) == 0, 1 + 1 + BUSY)
    rows = outbox.execute(
        "SELECT id, aggregate_id, type, payload::text, created_at, published_at FROM outbox ORDER BY id"
    )
    for (entry, fields), (number, aggregate, kind, payload, created, at) in zip(found(), rows.fetchall(), strict=True):
        assert set(fields) == FIELDS
        assert (fields["outbox_id"], fields["aggregate_id"], fields["type"]) == (str(number), aggregate, kind)
        assert json.loads(fields["payload"], parse_float=Decimal) == json.loads(payload, parse_float=Decimal)
        moment = datetime.fromisoformat(fields["created_at"])
        assert (moment, moment.utcoffset()) == (created, timedelta())
        assert abs(at.timestamp() - int(entry.split("-")[0]) / 1000) < 2 + BUSY
    assert copy.running


def test_what_commits_late_appears_and_what_is_rolled_back_does_not(
    relay: Start, outbox: Outbox, stream: redis.Redis, database: str
) -> None:
    relay()
    at_work(outbox, stream)
    with (
        psycopg.connect(database) as slow,
        psycopg.connect(database) as slower,
        psycopg.connect(database) as failing,
    ):
        late, later = write(slow, "a", 1), write(slower, "b", 1)
        for n in range(2, 20):
            write(failing, "c", n)
            write(outbox, "d", n)
            time.sleep(0.02)  # so that the relay looks while both are there
            failing.rollback()
        wait_for("the others", lambda: len(ids(stream)) == 19, 2 + BUSY)
        slow.commit()
        wait_for("the late one", lambda: late in ids(stream), 2 + BUSY)
        write(outbox, "d", 20)
        wait_for("one after it", lambda: len(ids(stream)) == 21, 2 + BUSY)
        slower.commit()
        wait_for("the latest", lambda: later in ids(stream), 2 + BUSY)
        published(outbox, stream, 2 + BUSY)
    once(stream)


def test_a_start_does_not_hold_up_the_services(
    relay: Start, outbox: Outbox, stream: redis.Redis, database: str
) -> None:
    relay()
    at_work(outbox, stream)
    with psycopg.connect(database) as slow:
        write(slow, "slow", 1)
        second = relay()
        outbox.execute("SET statement_timeout = '1500ms'")
        end, n = time.monotonic() + BEGIN + 1, 0
        while time.monotonic() < end:
            n += 1
            write(outbox, "quick", n)
            time.sleep(0.1)
        wait_for("the quick ones", lambda: len(ids(stream)) == n + 1, 2 + BUSY)
        slow.commit()
    published(outbox, stream, 2 + BUSY)
    assert second.running


def test_killed_before_valkey_has_the_rows_it_has_marked_none(
    relay: Start, outbox: Outbox, stream: redis.Redis, wire: Wire
) -> None:
    first = relay(REDIS_URL=wire.url)
    at_work(outbox, stream)
    wire.trap(NEEDLE, wire.requests)
    ten(outbox, "a", "b")
    wait_for("the rows on their way", wire.requests.held.is_set, 2 + BUSY)
    assert (unmarked(outbox), len(ids(stream))) == (10, 1)
    first.kill()
    wire.cut()
    relay()
    write(outbox, "a", 10)
    published(outbox, stream, BEGIN + TAKEOVER + BUSY)


def test_killed_before_the_mark_it_publishes_once_more_rather_than_losing_a_row(
    relay: Start, outbox: Outbox, stream: redis.Redis, wire: Wire, database_wire: Wire
) -> None:
    first = relay(REDIS_URL=wire.url, DATABASE_URL=database_wire.url)
    at_work(outbox, stream)
    wire.trap(NEEDLE, wire.answers)
    ten(outbox, "a", "b")
    wait_for("the rows in the stream", lambda: len(ids(stream)) > 1, 2 + BUSY)
    database_wire.requests.hold()
    wire.answers.release()
    wait_for("the relay at PostgreSQL", database_wire.requests.held.is_set, 2 + BUSY)
    first.kill()
    database_wire.cut()
    relay()
    write(outbox, "b", 10)
    published(outbox, stream, BEGIN + TAKEOVER + BUSY)


def test_an_answer_of_valkey_that_is_lost_or_never_comes_costs_no_row(
    relay: Start, outbox: Outbox, stream: redis.Redis, wire: Wire
) -> None:
    copy = relay(REDIS_URL=wire.url)
    at_work(outbox, stream)
    for happens in (wire.cut, wire.heal, wire.cut):
        wire.trap(NEEDLE, wire.answers)
        before = len(ids(stream))
        ten(outbox, "a", "b")
        wait_for("the rows in the stream", lambda before=before: len(ids(stream)) > before, 2 + BUSY)  # type: ignore[misc]
        happens()
        published(outbox, stream, TIMEOUT + RECOVER + BUSY)
    assert copy.running


def test_a_line_to_postgresql_that_goes_silent_is_given_up(
    relay: Start, outbox: Outbox, stream: redis.Redis, database_wire: Wire
) -> None:
    copy = relay(DATABASE_URL=database_wire.url)
    at_work(outbox, stream)
    database_wire.answers.hold()  # a question has arrived, and its answer never does
    ten(outbox, "a", "b")
    wait_for("an answer", database_wire.answers.held.is_set, 2 + BUSY)
    database_wire.heal()
    published(outbox, stream, TIMEOUT + RECOVER + TAKEOVER + BUSY)
    assert copy.running


def test_a_frozen_copy_is_replaced_and_does_no_harm_when_it_goes_on(
    relay: Start, outbox: Outbox, stream: redis.Redis, wire: Wire
) -> None:
    first = relay(REDIS_URL=wire.url)
    at_work(outbox, stream)
    wire.trap(NEEDLE, wire.requests)
    ten(outbox, "a", "b")
    wait_for("the rows on their way", wire.requests.held.is_set, 2 + BUSY)
    first.freeze()
    second = relay()
    for n in range(10, 20):
        write(outbox, "a", n)
    published(outbox, stream, BEGIN + TAKEOVER + BUSY)
    wire.requests.release()
    first.thaw()
    ten(outbox, "a", "b")
    published(outbox, stream, TIMEOUT + TAKEOVER + BUSY)
    second.kill()
    for n in range(30, 40):
        write(outbox, "a", n)
    published(outbox, stream, RECOVER + TAKEOVER + BUSY)
    assert first.running


def test_three_copies_keep_the_order_and_repeat_nothing(
    relay: Start, outbox: Outbox, stream: redis.Redis, database: str
) -> None:
    def service(number: int) -> None:
        dice = random.Random(number)
        with psycopg.connect(database) as connection:
            for n in range(100):
                for _ in range(dice.choice((1, 1, 3))):
                    write(connection, f"{number}-{dice.randrange(3)}", n)
                time.sleep(dice.choice((0, 0, 0.005, 0.03)))
                connection.commit()

    copies = [relay() for _ in range(3)]
    at_work(outbox, stream)
    services = [threading.Thread(target=service, args=(number,)) for number in range(5)]
    for each in services:
        each.start()
    for each in services:
        each.join()
    published(outbox, stream, 10 + BUSY)
    once(stream)
    assert all(copy.running for copy in copies)


def test_a_backlog_of_20000_rows_is_published_within_a_minute(
    relay: Start, outbox: Outbox, stream: redis.Redis
) -> None:
    fill(outbox, 20_000)
    relay()
    wait_for("20,000 entries", lambda: stream.xlen("events") >= 20_000, BEGIN + 60)
    published(outbox, stream, 1 + BUSY)
    once(stream)


def fill(outbox: Outbox, count: int) -> None:
    outbox.execute(
        "INSERT INTO outbox (aggregate_id, type, payload) SELECT 'a' || n %% 1000, 'Happened',"
        " jsonb_build_object('n', n, 'text', repeat('x', 470)) FROM generate_series(1, %s) AS n",
        [count],
    )


def test_sigterm_in_the_middle_leaves_the_books_in_order(
    relay: Start, outbox: Outbox, stream: redis.Redis, wire: Wire
) -> None:
    first = relay(REDIS_URL=wire.url)
    at_work(outbox, stream)
    wire.trap(NEEDLE, wire.answers)
    ten(outbox, "a", "b")
    wait_for("the rows in the stream", lambda: len(ids(stream)) > 1, 2 + BUSY)
    first.term()
    wire.answers.release()
    assert first.ended(DRAIN + 1 + BUSY) == 0
    assert set(ids(stream)) == marked(outbox)
    fill(outbox, 5_000)
    second = relay()
    wait_for("some of the backlog", lambda: stream.xlen("events") > 100, BEGIN + BUSY)
    second.term()
    assert second.ended(DRAIN + 1 + BUSY) == 0
    assert set(ids(stream)) == marked(outbox)
    relay()
    published(outbox, stream, BEGIN + 15 + BUSY)
    once(stream)


def test_sigterm_ends_it_in_time_when_valkey_is_silent(
    relay: Start, outbox: Outbox, stream: redis.Redis, wire: Wire
) -> None:
    copy = relay(REDIS_URL=wire.url, TIMEOUT_SECONDS=20, TAKEOVER_SECONDS=30, DRAIN_SECONDS=2)
    at_work(outbox, stream)
    wire.hold()
    ten(outbox, "a", "b")
    wait_for("a request", wire.requests.held.is_set, 2 + BUSY)
    copy.term()
    assert copy.ended(2 + 1 + BUSY) == 0


def test_what_valkey_refuses_is_not_marked_and_comes_later(relay: Start, outbox: Outbox, stream: redis.Redis) -> None:
    copy = relay()
    at_work(outbox, stream)
    stream.config_set("maxmemory", 1)  # every XADD is refused from now on
    refused = stream.info("stats")["total_error_replies"]
    ten(outbox, "a", "b")
    wait_for("a refusal", lambda: stream.info("stats")["total_error_replies"] > refused, 2 + BUSY)
    write(outbox, "a", 10)
    time.sleep(1)
    assert (unmarked(outbox), len(ids(stream))) == (11, 1)
    stream.config_set("maxmemory", 0)
    published(outbox, stream, RECOVER + BUSY)
    assert copy.running


def test_it_outlives_a_crash_of_valkey_and_starts_without_it(
    relay: Start, outbox: Outbox, stream: redis.Redis, valkey: Valkey
) -> None:
    first = relay()
    at_work(outbox, stream)
    ten(outbox, "a", "b")
    published(outbox, stream, 2 + BUSY)
    valkey.stop(signal.SIGKILL)
    second = relay()
    ten(outbox, "a", "b")
    time.sleep(2)
    assert unmarked(outbox) == 10
    valkey.start()
    published(outbox, stream, RECOVER + BUSY)
    assert (first.running, second.running) == (True, True)
    first.kill()
    ten(outbox, "a", "b")
    published(outbox, stream, TAKEOVER + BUSY)


def test_it_outlives_a_restart_and_a_crash_of_postgresql(
    relay: Start, outbox: Outbox, stream: redis.Redis, database: str, postgres: Postgres
) -> None:
    first = relay()
    at_work(outbox, stream)
    postgres.stop(signal.SIGINT)
    second = relay()
    time.sleep(1)
    for how in (None, signal.SIGKILL):
        if how:
            postgres.stop(how)
        postgres.start()
        with psycopg.connect(database, autocommit=True) as again:
            ten(again, "a", "b")
            published(again, stream, RECOVER + BUSY)
    assert (first.running, second.running) == (True, True)
