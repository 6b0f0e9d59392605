"""Guests who want the same room at once, on a real PostgreSQL."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import psycopg
import pytest

from recipes.engines import Postgres, wait_for

HERE = Path(__file__).parent
Fault = Callable[[str, str], None]
Db = psycopg.Connection[Any]
ROOM, MINUTE = 1, timedelta(minutes=1)
TEN = datetime(2027, 3, 1, 10, tzinfo=timezone.utc)
BOOK = "SELECT state FROM book(%s, %s, tstzrange(%s, %s), %s, %s)"

specification = importlib.util.spec_from_file_location("booking", HERE / "booking.py")
assert specification and specification.loader
booking: Any = importlib.util.module_from_spec(specification)
specification.loader.exec_module(booking)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    server = Postgres(tmp_path_factory.mktemp("booking"), {"max_connections": "300", "fsync": "off"})
    yield server
    server.stop(signal.SIGQUIT)


@pytest.fixture
def url(database: str) -> str:
    with psycopg.connect(database, options="-c plpgsql.extra_errors=all") as connection:
        connection.execute((HERE / "booking.sql").read_text(encoding="utf-8"))  # type: ignore[arg-type]
        connection.execute("INSERT INTO room (name) VALUES ('blue'), ('red')")
    return database


@pytest.fixture
def db(url: str) -> Iterator[Db]:
    """A connection on which whoever waits longer than 20 s fails."""
    with psycopg.connect(url, autocommit=True, options="-c statement_timeout=20s") as connection:
        yield connection


@pytest.fixture
def pool(url: str) -> Iterator[Any]:
    with booking.connect(url) as pool:
        yield pool


def one(connection: Db, query: str, *values: object) -> Any:
    row = connection.execute(query, values).fetchone()  # type: ignore[arg-type]
    assert row
    return row[0]


def hold(
    connection: Db, start: int, end: int, key: UUID | None = None, room: int = ROOM, hold: str = "10 minutes"
) -> str | None:
    """Hold the room from so many minutes after ten until so many; the state, or None when it is taken."""
    values = [key or uuid4(), room, TEN + start * MINUTE, TEN + end * MINUTE, "Ann", hold]
    state: str | None = one(connection, BOOK, *values)
    return state


def states(connection: Db) -> dict[str, int]:
    return dict(connection.execute("SELECT state, count(*) FROM booking GROUP BY state").fetchall())


def overlaps(connection: Db) -> int:
    return int(
        one(
            connection,
            "SELECT count(*) FROM booking a JOIN booking b ON a.room_id = b.room_id AND a.during && b.during"
            " AND a.id < b.id WHERE a.state IN ('held', 'confirmed') AND b.state IN ('held', 'confirmed')",
        )
    )


def at_once(url: str, works: list[Callable[[Db], Any]]) -> list[Any]:
    """Run each in a thread with a connection of its own, all released at the same moment; raises what any raised."""
    results: list[Any] = [None] * len(works)
    gate = threading.Barrier(len(works))

    def run(number: int) -> None:
        try:
            with psycopg.connect(url, autocommit=True, options="-c statement_timeout=30s") as connection:
                gate.wait(60)
                results[number] = works[number](connection)
        except Exception as error:
            gate.abort()
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


def blocked(db: Db, pid: int) -> bool:
    return bool(one(db, "SELECT cardinality(pg_blocking_pids(%s)) > 0", pid))


def test_200_guests_at_once_get_one_slot(url: str, db: Db, fault: Fault) -> None:
    # Each wants another piece of the hour between 10:15 and 10:45, which all of them contain.
    answers = Counter(at_once(url, [lambda c, n=n: hold(c, n % 15, 45 + n // 15) for n in range(200)]))
    deadlocks = one(db, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    assert (answers, overlaps(db), deadlocks) == ({"held": 1, None: 199}, 0, 0)
    fault(
        "200 guests at once for slots that all overlap",
        f"{answers['held']} held, {answers[None]} taken, {deadlocks} deadlocks",
    )


def test_requests_that_overlap_like_tiles_never_overlap_in_the_end(url: str, db: Db, fault: Fault) -> None:
    # 200 slots of 20 minutes, one every 5 minutes, so that each is in the way of six others.
    answers = at_once(url, [lambda c, n=n: hold(c, 5 * n, 5 * n + 20) for n in range(200)])
    held = {n for n, answer in enumerate(answers) if answer == "held"}
    in_vain = sum(not held & set(range(n - 3, n + 4)) for n in range(200))
    assert (overlaps(db), in_vain, len(held)) == (0, 0, states(db)["held"])
    fault(
        "200 guests at once for 20 minutes each, one every 5 minutes",
        f"{overlaps(db)} overlaps; {in_vain} were refused for a slot that is free in the end",
    )


def test_guests_who_waited_for_a_rollback_do_not_deadlock(url: str, db: Db, fault: Fault) -> None:
    """All wait for the same transaction; when it is rolled back each stands in the way of all the others."""
    with psycopg.connect(url) as first, ThreadPoolExecutor(1) as thread:
        hold(first, 0, 60)
        waiting = thread.submit(at_once, url, [lambda c, n=n: hold(c, n, 60) for n in range(30)])
        query = "SELECT count(*) = 30 FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
        wait_for("30 guests who wait", lambda: one(db, query, first.info.backend_pid))
        first.rollback()
        answers = Counter(waiting.result())
    assert (answers, overlaps(db)) == ({"held": 1, None: 29}, 0)
    fault(
        "30 guests wait for a booking that is rolled back",
        f"{answers['held']} held, {answers[None]} taken, no deadlock",
    )


def test_the_next_slot_begins_where_the_last_one_ends(db: Db, fault: Fault) -> None:
    answers = [hold(db, start, start + 30) for start in (0, 30, -30)]
    answers += [hold(db, 0, 30, room=2)]
    assert answers == ["held"] * 4
    second = timedelta(microseconds=1)
    taken = [one(db, BOOK, uuid4(), ROOM, *ends, "Bob", "1 hour") for ends in [
        (TEN + 60 * MINUTE - second, TEN + 90 * MINUTE), (TEN - 90 * MINUTE, TEN - 30 * MINUTE + second),
        (TEN + 5 * MINUTE, TEN + 6 * MINUTE), (TEN - 90 * MINUTE, TEN + 90 * MINUTE)]]  # fmt: skip
    assert taken == [None] * 4
    fault(
        "slots that touch, before and after, and the same slot in another room; then 1 microsecond too much",
        f"{answers.count('held')} held; {taken.count(None)} of {len(taken)} taken",
    )


def test_slots_that_are_none_are_refused(db: Db, pool: Any, fault: Fault) -> None:
    ranges = ["empty", "[2027-03-01 10:00Z,)", "(,2027-03-01 10:00Z)", "(,)", "[2027-03-01 10:00Z,infinity)"]
    ranges += ["[-infinity,2027-03-01 10:00Z)", "[2027-03-01 10:00Z,2027-03-01 11:00Z]"]
    ranges += ["(2027-03-01 10:00Z,2027-03-01 11:00Z)", "[2027-03-01 10:00Z,2027-03-01 10:00Z)"]
    names = []
    for text in ranges:
        with pytest.raises(psycopg.errors.CheckViolation) as error:
            db.execute("SELECT book(%s, %s, %s, 'Ann', '1 hour')", [uuid4(), ROOM, text])
        names.append(error.value.diag.constraint_name)
    assert set(names) <= {"booking_slot", "booking_length"}
    asked = [(TEN, TEN), (TEN, TEN - MINUTE), (TEN, TEN + timedelta(days=32))]
    asked += [(TEN.replace(tzinfo=None), TEN.replace(tzinfo=None) + MINUTE)]
    answers = [booking.book(pool, uuid4(), ROOM, start, end, "Ann") for start, end in asked]
    assert [answer.status for answer in answers] == [422] * 4
    assert booking.book(pool, uuid4(), 99, TEN, TEN + MINUTE, "Ann").status == 404
    assert states(db) == {}
    fault(
        "ranges that are empty, without an end, infinite, or whose end belongs to them",
        f"{len(names)} of {len(ranges)} refused by constraints",
    )
    fault(
        "an end at or before the start, 32 days, times without a zone",
        " / ".join(dict.fromkeys(f"{answer.status} {answer.message}" for answer in answers)),
    )


def test_days_of_23_and_25_hours_are_booked_whole(db: Db, pool: Any, fault: Fault) -> None:
    berlin = ZoneInfo("Europe/Berlin")
    lengths, answers = [], []
    for first in (datetime(2027, 3, 27, tzinfo=berlin), datetime(2027, 10, 30, tzinfo=berlin)):
        for day in range(3):
            start, end = first + timedelta(days=day), first + timedelta(days=day + 1)  # from midnight to midnight
            answers.append(booking.book(pool, uuid4(), ROOM, start, end, "Ann").status)
            lengths.append((end.astimezone(timezone.utc) - start.astimezone(timezone.utc)) // timedelta(hours=1))
    assert (answers, sorted(lengths)) == ([201] * 6, [23, 24, 24, 24, 24, 25])
    # Half past two comes twice: two slots, and one that lasts from the first to the second.
    twice = [datetime(2027, 10, 31, 2, 30, tzinfo=berlin, fold=fold) for fold in (0, 1)]
    slots = [(twice[0], twice[0].replace(minute=45)), (twice[1], twice[1].replace(minute=45)), (twice[0], twice[1])]
    again = [booking.book(pool, uuid4(), 2, start, end, "Bob").status for start, end in slots]
    assert again == [201, 201, 409]
    hour = booking.book(pool, uuid4(), 2, twice[0].replace(minute=45), twice[1], "Bob").status
    assert hour == 201
    fault(
        f"6 days from midnight to midnight in Berlin, of {min(lengths)} to {max(lengths)} hours",
        f"{answers.count(201)} of {len(answers)} held side by side",
    )
    fault(
        "half past two twice in the night when clocks go back",
        f"{again.count(201)} slots of 15 minutes held, the hour from one to the other is taken",
    )


def test_a_lapsed_hold_gives_way_and_another_does_not(url: str, db: Db, fault: Fault) -> None:
    assert [hold(db, start, start + 20, hold="0 seconds") for start in (0, 20, 40)] == ["held"] * 3
    assert one(db, "SELECT count(*) FROM busy") == 0
    answers = Counter(at_once(url, [lambda c, n=n: hold(c, n % 10, 60 - n % 7) for n in range(100)]))
    assert (answers, states(db), overlaps(db)) == ({"held": 1, None: 99}, {"expired": 3, "held": 1}, 0)
    fault(
        "100 guests at once over three holds that have lapsed",
        f"{answers['held']} held, {answers[None]} taken; {states(db)['expired']} holds expired, without any sweeper",
    )


def test_a_lapsed_hold_is_confirmed_or_replaced_never_both(url: str, db: Db, fault: Fault) -> None:
    keys = [uuid4() for _ in range(100)]
    for n, key in enumerate(keys):
        hold(db, 10 * n, 10 * n + 10, key, hold="0 seconds")
    with psycopg.connect(url) as payer, psycopg.connect(url, autocommit=True) as guest, ThreadPoolExecutor(1) as thread:
        assert one(payer, "SELECT confirm(%s)", keys[0]) == "confirmed"
        late = thread.submit(hold, guest, 0, 10)
        wait_for("the guest's wait", lambda: blocked(db, guest.info.backend_pid))
        payer.commit()
        assert late.result() is None
    pays = [lambda c, key=key: one(c, "SELECT confirm(%s)", key) for key in keys[1:]]
    wants = [lambda c, n=n: hold(c, 10 * n, 10 * n + 10) for n in range(1, 100)]
    answers = at_once(url, [*pays, *wants])
    paid, replaced = answers[:99].count("confirmed"), answers[99:].count("held")
    assert paid + replaced == 99
    assert overlaps(db) == 0
    assert answers[:99].count("expired") == replaced
    fault(
        "99 payments arrive late, and at that moment 99 other guests want the slots",
        f"{paid + replaced} slots have one guest, 0 have two; who came too late was told",
    )


def test_a_repeated_request_books_once(url: str, db: Db, fault: Fault) -> None:
    key = uuid4()
    with psycopg.connect(url) as first, psycopg.connect(url, autocommit=True) as guest, ThreadPoolExecutor(1) as thread:
        hold(first, 0, 60, key)
        second = thread.submit(hold, guest, 0, 60, key)
        wait_for("the second's wait", lambda: blocked(db, guest.info.backend_pid))
        first.commit()
        assert second.result() == "held"
    answers = Counter(at_once(url, [lambda c: hold(c, 0, 60, key)] * 200))
    assert (answers, states(db)) == ({"held": 200}, {"held": 1})
    with pytest.raises(psycopg.errors.UniqueViolation) as error:
        hold(db, 0, 30, key)
    assert error.value.diag.constraint_name == "booking_request"
    fault("the same request 200 times at once", f"{answers['held']} answers held, {states(db)['held']} booking")


def test_a_second_request_with_the_id_of_another_is_refused(db: Db, pool: Any, fault: Fault) -> None:
    key = uuid4()
    assert booking.book(pool, key, ROOM, TEN, TEN + 30 * MINUTE, "Ann").status == 201
    answers = [booking.book(pool, key, ROOM, TEN, TEN + 60 * MINUTE, "Ann"),
               booking.book(pool, key, ROOM, TEN, TEN + 30 * MINUTE, "Bob")]  # fmt: skip
    assert [answer.status for answer in answers] == [422, 422]
    fault("an id used again for a longer slot, and for another guest", f"{answers[0].status} {answers[0].message}")


def test_cancelling_frees_the_slot(db: Db, pool: Any) -> None:
    key = uuid4()
    assert hold(db, 0, 60, key) == "held"
    assert one(db, "SELECT confirm(%s)", key) == "confirmed"
    assert hold(db, 0, 60) is None
    assert [one(db, "SELECT cancel(%s)", key) for _ in range(2)] == ["cancelled"] * 2
    assert hold(db, 0, 60) == "held"
    assert one(db, "SELECT confirm(%s)", key) == "cancelled"
    assert booking.book(pool, key, ROOM, TEN, TEN + 60 * MINUTE, "Ann").status == 410
    assert one(db, "SELECT confirm(%s)", uuid4()) is None


GUEST = """
import sys, time, psycopg
connection = psycopg.connect(sys.argv[1], autocommit=sys.argv[3] == "committed")
connection.execute("SELECT book(%s, 1, '[2027-03-01 10:00Z,2027-03-01 11:00Z)', 'Ann', '10 minutes')", [sys.argv[2]])
print("booked", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("how", ["committed", "open"])
def test_a_guest_killed_while_booking_blocks_nobody(url: str, db: Db, pool: Any, fault: Fault, how: str) -> None:
    key = uuid4()
    command = [sys.executable, "-c", GUEST, url, str(key), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as guest:
        assert guest.stdout
        assert guest.stdout.readline() == b"booked\n"
        guest.kill()
    if how == "open":
        wait_for("the rollback", lambda: hold(db, 0, 60) == "held")
        fault("kill -9 of the client before its commit", "the slot is free at once")
        return
    assert hold(db, 0, 60) is None
    again = booking.book(pool, key, ROOM, TEN, TEN + 60 * MINUTE, "Ann")
    assert again.status == 201
    db.execute("UPDATE booking SET expires_at = now() - interval '1 second'")
    other = hold(db, 0, 60)
    assert other == "held"
    fault(
        "kill -9 of the client after the commit, before it has read the answer",
        f"the repeated request: {again.status} {again.message} Without one, the slot is free when the hold has lapsed",
    )


def test_a_deadlock_is_tried_again(url: str, db: Db, pool: Any, fault: Fault) -> None:
    keys = sorted(uuid4() for _ in range(2))
    for n, key in enumerate(keys):
        hold(db, 30 * n, 30 * n + 30, key, hold="0 seconds")
    # Locks in the wrong order, as a batch of somebody else might take them.
    lock = "SELECT FROM booking WHERE id = %s FOR UPDATE"
    with psycopg.connect(url) as other, ThreadPoolExecutor(1) as thread:
        other.execute("SET deadlock_timeout = '1min'")  # so that it is the recipe that is chosen to fail
        other.execute(lock, [keys[1]])
        asked = thread.submit(booking.book, pool, uuid4(), ROOM, TEN, TEN + 60 * MINUTE, "Ann")
        query = "SELECT count(*) = 1 FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
        wait_for("the guest's wait", lambda: one(db, query, other.info.backend_pid))
        other.execute(lock, [keys[0]])  # returns when the guest's attempt has failed
        other.commit()
        answer = asked.result()
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    wait_for("the statistics", lambda: one(db, deadlocks) == 1)
    assert (answer.status, states(db)) == (201, {"expired": 2, "held": 1})
    fault("a deadlock with somebody else's transaction", f"tried again: {answer.status} {answer.message}")


def test_a_cut_connection_is_tried_again(url: str, db: Db, pool: Any, fault: Fault) -> None:
    with psycopg.connect(url) as other, ThreadPoolExecutor(1) as thread:
        hold(other, 0, 60)
        asked = thread.submit(booking.book, pool, uuid4(), ROOM, TEN, TEN + 60 * MINUTE, "Ann")
        query = "SELECT pid FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
        found: list[Any] = []
        wait_for("the wait", lambda: found.extend(db.execute(query, [other.info.backend_pid]).fetchall()) or found)
        assert one(db, "SELECT pg_terminate_backend(%s)", found[0][0])
        other.rollback()
        answer = asked.result()
    assert (answer.status, states(db)) == (201, {"held": 1})
    fault("the connection is cut while the request waits", f"tried again: {answer.status} {answer.message}")


def test_a_transaction_that_hangs_delays_only_those_who_want_its_slot(
    url: str, db: Db, pool: Any, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(booking, "DEADLINE", 0.0)
    with ThreadPoolExecutor(1) as thread, psycopg.connect(url) as hanging:
        hold(hanging, 0, 60)
        beside = booking.book(pool, uuid4(), ROOM, TEN + 60 * MINUTE, TEN + 90 * MINUTE, "Ann")
        asked = thread.submit(booking.book, pool, uuid4(), ROOM, TEN, TEN + 60 * MINUTE, "Ann")
        answer = asked.result(15)  # the transaction ends here when that is too short
        assert (beside.status, answer.status) == (201, 503)
        fault("a transaction that has booked the slot hangs", f"{answer.status} {answer.message}")
        fault("the same, for the slot beside it", f"{beside.status} {beside.message}")


def test_taken_is_answered_without_waiting(url: str, db: Db, fault: Fault) -> None:
    hold(db, 0, 60)
    lapsed = uuid4()
    hold(db, 60, 90, lapsed, hold="0 seconds")
    with psycopg.connect(url) as hanging:
        assert one(hanging, "SELECT confirm(%s)", lapsed) == "confirmed"
        db.execute("SET lock_timeout = 1")
        answers = Counter(hold(db, 30 - n, 90) for n in range(30))
    assert answers == {None: 30}
    fault(
        "30 guests want a slot that is held, and with it one whose confirmation hangs",
        f"{answers[None]} taken, none waited",
    )


def test_at_serializable_one_guest_gets_the_slot(url: str, db: Db, fault: Fault) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER ROLE postgres SET default_transaction_isolation = 'serializable'")
    try:
        with booking.connect(url) as strict, ThreadPoolExecutor(10) as threads:
            work = [threads.submit(booking.book, strict, uuid4(), ROOM, TEN, TEN + n * MINUTE, "Ann")
                    for n in range(1, 41)]  # fmt: skip
            answers = Counter(each.result().status for each in work)
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("ALTER ROLE postgres RESET default_transaction_isolation")
    assert (answers, overlaps(db)) == ({201: 1, 409: 39}, 0)
    fault("40 guests at SERIALIZABLE over 10 connections", f"{answers[201]} held, {answers[409]} taken, none in error")


def test_a_careless_statement_cannot_double_book(db: Db, fault: Fault) -> None:
    hold(db, 0, 60)
    hold(db, 60, 120)
    codes = []
    for statement in (
        "INSERT INTO booking SELECT gen_random_uuid(), room_id, guest, during, state, expires_at FROM booking",
        "UPDATE booking SET during = tstzrange(lower(during), upper(during) + interval '1 minute')",
    ):
        with pytest.raises(psycopg.errors.ExclusionViolation) as error:
            db.execute(statement)  # type: ignore[arg-type]
        codes.append(error.value.sqlstate)
    with pytest.raises(psycopg.errors.SyntaxError):
        db.execute("ALTER TABLE booking ADD UNIQUE (room_id, during WITHOUT OVERLAPS) WHERE (state = 'held')")
    fault("somebody's own INSERT and UPDATE over a booked slot", f"SQLSTATE {' and '.join(codes)}")
