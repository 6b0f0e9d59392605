"""The ticket's promises, with replicas that die, freeze and stop, a database that restarts, and a fickle settlement."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from psycopg.rows import namedtuple_row

from benchmarks.answers.components.conftest import Component, Reply, Request, Upstream
from recipes.engines import Postgres, wait_for

Start = Callable[..., Component]
Begin = Callable[..., tuple["Settlement", dict[str, Any]]]

# The trigger notes what the ticket excludes; it changes nothing.
TABLE = """
CREATE TABLE job_run (
  slot        bigint      PRIMARY KEY,
  status      text        NOT NULL
              CHECK (status IN ('running', 'succeeded', 'failed')),
  attempts    integer     NOT NULL DEFAULT 0,
  result      jsonb,
  error       text,
  replica     text,
  started_at  timestamptz NOT NULL DEFAULT now(),
  finished_at timestamptz
);
CREATE SCHEMA audit;
CREATE TABLE audit.wrong (what text, before jsonb, after jsonb);
CREATE FUNCTION audit.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO audit.wrong SELECT what, to_jsonb(OLD), to_jsonb(NEW) FROM (VALUES
    ('deleted', TG_OP = 'DELETE'),
    ('changed after its end', OLD.status <> 'running' AND
      (OLD.slot, OLD.status, OLD.attempts, OLD.result, OLD.error, OLD.replica, OLD.finished_at) IS DISTINCT FROM
      (NEW.slot, NEW.status, NEW.attempts, NEW.result, NEW.error, NEW.replica, NEW.finished_at)),
    ('ended without its time', NEW.status <> 'running' AND NEW.finished_at IS NULL),
    ('failed without a reason', NEW.status = 'failed' AND coalesce(NEW.error, '') = ''),
    ('a result without success', NEW.status <> 'succeeded' AND NEW.result IS NOT NULL)
  ) AS v (what, so) WHERE so;
  RETURN NULL;
END $$;
CREATE TRIGGER note AFTER UPDATE OR DELETE ON job_run FOR EACH ROW EXECUTE FUNCTION audit.note();
"""
ONE = 1_000_000  # seconds: a period in which no test sees the next slot begin
START, TIMEOUT, RETRY, TAKEOVER, RECOVER, DRAIN = 1, 3, 0.5, 6, 4, 5
SETTINGS = {
    "PERIOD_SECONDS": ONE, "START_SECONDS": START, "TIMEOUT_SECONDS": TIMEOUT, "RETRY_SECONDS": RETRY,
    "TAKEOVER_SECONDS": TAKEOVER, "RECOVER_SECONDS": RECOVER, "DRAIN_SECONDS": DRAIN, "CATCHUP_SLOTS": 3,
}  # fmt: skip
BEGIN = 5  # seconds in which a replica works after its start
BUSY = 4  # seconds on top of every limit: the machine may be busy
LONG = 30


@dataclass
class Call:
    """What the settlement system was asked, and until when it worked on it."""

    slot: int
    number: int
    began: float = field(default_factory=time.time)
    ended: float | None = None


@dataclass
class Do:
    """What it does with a call: works for so long, and settles unless there is another reply."""

    takes: float = 0
    reply: Reply | None = None


class Settlement:
    """Works on each call to its end, whether its caller is there or not, for TIMEOUT at most."""

    def __init__(self, plan: Callable[[int, int], Do]) -> None:
        self.plan, self.lock = plan, threading.Lock()
        self.calls, self.wrong, self.settled = list[Call](), list[str](), dict[int, Any]()

    def __call__(self, request: Request) -> Reply:
        body = request.json()
        if (request.method, request.path, list(body), type(body.get("slot"))) != ("POST", "/run", ["slot"], int):
            self.wrong.append(f"{request.method} {request.path} {request.body!r}")
        slot = body["slot"]
        with self.lock:
            same = [call for call in self.calls if call.slot == slot]
            if any(call.ended is None for call in same):
                self.wrong.append(f"two calls at once for {slot}: {same}")
            call = Call(slot, len(same) + 1)
            self.calls.append(call)
        do = self.plan(slot, call.number)
        end = time.monotonic() + min(do.takes, TIMEOUT)
        while time.monotonic() < end and slot not in self.settled:
            time.sleep(0.01)
        with self.lock:
            call.ended = time.time()
            if do.reply:
                return do.reply
            if do.takes > TIMEOUT and slot not in self.settled:
                return Reply(cut=0)
            result = self.settled.setdefault(slot, {"slot": slot, "call": call.number})
        return Reply(body=json.dumps({"result": result}).encode())

    def of(self, slot: int) -> list[Call]:
        with self.lock:
            return [call for call in self.calls if call.slot == slot]

    def asked(self, number: int, seconds: float = BEGIN + START + 1 + BUSY) -> Call:
        wait_for(f"call {number}", lambda: len(self.calls) >= number, seconds)
        return self.calls[number - 1]


@pytest.fixture
def db(database: str) -> str:
    with psycopg.connect(database, autocommit=True, row_factory=namedtuple_row) as connection:
        connection.execute(TABLE)
    return database


def rows(db: str) -> list[Any]:
    with psycopg.connect(db, autocommit=True, row_factory=namedtuple_row, connect_timeout=2) as connection:
        return connection.execute("SELECT * FROM job_run ORDER BY slot").fetchall()


def ended(db: str, seconds: float, number: int = 1) -> list[Any]:
    """The rows, once so many have ended."""
    wait_for(f"{number} ends", lambda: sum(row.status != "running" for row in rows(db)) >= number, seconds)
    return rows(db)


@pytest.fixture
def settlement(upstream: Callable[..., Upstream], db: str) -> Begin:
    def begin(plan: Callable[[int, int], Do] = lambda *_: Do(), **more: object) -> tuple[Settlement, dict[str, Any]]:
        made = Settlement(plan)
        return made, {**SETTINGS, "DATABASE_URL": db, "UPSTREAM_URL": upstream(made).url, **more}

    return begin


def nothing_wrong(settled: Settlement, db: str) -> None:
    """What holds in every case: no two calls at once for a slot, and an end that stays."""
    assert settled.wrong == []
    with psycopg.connect(db) as connection:
        assert connection.execute("SELECT * FROM audit.wrong").fetchall() == []


def steady(settled: Settlement, number: int, seconds: float = 2.5) -> None:
    """No further call comes."""
    time.sleep(seconds)
    assert len(settled.calls) == number, settled.calls


def test_each_slot_is_settled_once_and_on_time_by_one_of_three(start: Start, settlement: Begin, db: str) -> None:
    settled, settings = settlement(lambda *_: Do(0.3), PERIOD_SECONDS=2)
    began = time.time()
    for _ in range(3):
        start(**settings)
    settled.asked(5, BEGIN + 10 + BUSY)
    wait_for("the records", lambda: sum(row.status == "succeeded" for row in rows(db)) >= 5, LONG)
    slots = [call.slot for call in settled.calls]
    assert len(slots) == len(set(slots))
    assert sorted(slots) == list(range(min(slots), max(slots) + 2, 2))
    assert min(slots) % 2 == 0 and min(slots) > began - 2
    for call in settled.calls:
        assert call.began - call.slot >= -0.1
        assert call.began <= max(call.slot + START, began + BEGIN) + 1 + BUSY / 2
    for row in rows(db):
        if row.status != "running":
            assert (row.status, row.attempts, row.error) == ("succeeded", 1, None)
            assert row.result == {"slot": row.slot, "call": 1} and row.replica
    nothing_wrong(settled, db)


def test_an_answer_that_is_no_result_is_a_failed_call_and_asked_again(start: Start, settlement: Begin, db: str) -> None:
    bad = [
        Reply(500), Reply(302, headers={"Location": "/run"}), Reply(body=b"<html>"), Reply(body=b'{"reslt": 1}'),
        Reply(body=b"[1]"), Reply(body=b'{"result": 1}', cut=8), Reply(cut=0), Reply(201, b'{"result": 1}'),
        Reply(body=b'{"result": 1}', drip=0.4),
    ]  # fmt: skip
    plan = [Do(reply=each) for each in bad] + [Do(reply=Reply(body=b'{"result": null}'))]
    settled, settings = settlement(lambda _, number: plan[number - 1], MAX_ATTEMPTS=20)
    for _ in range(2):
        start(**settings)
    (row,) = ended(db, BEGIN + len(plan) * (2 * RETRY + 1) + TIMEOUT + BUSY)
    assert (row.status, row.attempts, row.result, row.error) == ("succeeded", len(plan), None, None)
    for first, second in zip(settled.calls, settled.calls[1:]):
        assert first.ended and RETRY - 0.05 <= second.began - first.ended <= TIMEOUT + 2 * RETRY + 1 + BUSY
    steady(settled, len(plan), 1.5)
    nothing_wrong(settled, db)


def test_a_slot_fails_after_its_last_call_and_stays_so(start: Start, settlement: Begin, db: str) -> None:
    settled, settings = settlement(lambda *_: Do(reply=Reply(500, b"\x00\xff bad")), MAX_ATTEMPTS=2)
    for _ in range(2):
        start(**settings)
    (row,) = ended(db, BEGIN + 2 * RETRY + 2 + BUSY)
    assert (row.status, row.attempts, row.result) == ("failed", 2, None)
    steady(settled, 2)
    nothing_wrong(settled, db)


def test_a_call_that_hangs_holds_up_no_other_slot(start: Start, settlement: Begin, db: str) -> None:
    hanging = list[int]()

    def plan(slot: int, number: int) -> Do:
        if not hanging:
            hanging.append(slot)
        return Do(60 if slot == hanging[0] else 0)

    settled, settings = settlement(plan, PERIOD_SECONDS=1, MAX_ATTEMPTS=2)
    start(**settings)
    start(**settings)
    first = settled.asked(1)
    wait_for("its end", lambda: any(r.slot == first.slot and r.status == "failed" for r in rows(db)), 2 * TIMEOUT + 9)
    assert len(settled.of(first.slot)) == 2
    others = [call for call in settled.calls if call.slot != first.slot]
    assert len(others) >= 5
    for call in others:
        assert call.number == 1
        assert call.began <= call.slot + START + 1 + BUSY / 2
    nothing_wrong(settled, db)


def test_when_a_replica_is_killed_another_calls_again_but_never_two_at_once(
    start: Start, settlement: Begin, db: str
) -> None:
    """The settlement works on, though nobody hears its answer."""
    settled, settings = settlement(lambda _, number: Do(60 if number == 1 else 0.2))
    one = start(**settings)
    settled.asked(1)
    start(**settings)
    time.sleep(0.5)
    one.kill()
    dead = time.time()
    second = settled.asked(2, BEGIN + TAKEOVER + 1 + BUSY)
    assert second.began <= dead + max(TAKEOVER, BEGIN) + 1 + BUSY
    (row,) = ended(db, 1 + BUSY)
    assert (row.status, row.attempts, row.result["call"]) == ("succeeded", 2, 2)
    steady(settled, 2)
    nothing_wrong(settled, db)


def test_a_last_call_that_was_cut_off_makes_the_slot_fail(start: Start, settlement: Begin, db: str) -> None:
    settled, settings = settlement(lambda *_: Do(60), MAX_ATTEMPTS=1)
    one = start(**settings)
    settled.asked(1)
    start(**settings)
    time.sleep(0.5)
    one.kill()
    (row,) = ended(db, BEGIN + TAKEOVER + 1 + BUSY)
    assert (row.status, row.attempts) == ("failed", 1)
    steady(settled, 1)
    nothing_wrong(settled, db)


def test_a_frozen_replica_is_replaced_and_does_nothing_when_it_wakes(start: Start, settlement: Begin, db: str) -> None:
    settled, settings = settlement(lambda _, number: Do(60 if number == 1 else 0.2))
    one = start(**settings)
    settled.asked(1)
    start(**settings)
    time.sleep(1)
    one.freeze()
    frozen = time.time()
    second = settled.asked(2, BEGIN + TAKEOVER + 1 + BUSY)
    assert second.began <= frozen + max(TAKEOVER, BEGIN) + 1 + BUSY
    (row,) = ended(db, 1 + BUSY)
    assert (row.status, row.attempts, row.result["call"]) == ("succeeded", 2, 2)
    one.thaw()
    steady(settled, 2, 3)
    assert rows(db) == [row]
    nothing_wrong(settled, db)


def test_a_freeze_of_the_only_caller_leaves_the_next_slots_to_the_others(
    start: Start, settlement: Begin, db: str
) -> None:
    """Each of two is frozen for a while and goes on; nothing is settled twice, nothing is missing."""
    settled, settings = settlement(lambda *_: Do(0.2), PERIOD_SECONDS=2, CATCHUP_SLOTS=10)
    both = [start(**settings) for _ in range(2)]
    settled.asked(2)
    freezes = list[float]()
    for copy in both:
        copy.freeze()
        frozen, known = time.time(), len(settled.calls)
        freezes.append(frozen)
        wait_for(
            "a call by the other", lambda known=known: len(settled.calls) > known + 1, TAKEOVER + 2 + START + 1 + BUSY
        )
        assert time.time() < frozen + TAKEOVER + 4 + START + 1 + BUSY
        copy.thaw()
    time.sleep(1)
    last = max(call.slot for call in settled.calls)
    wait_for("the records", lambda: all(r.status != "running" for r in rows(db) if r.slot < last), TAKEOVER + 1 + BUSY)
    slots = {call.slot for call in settled.calls}
    assert slots == set(range(min(slots), max(slots) + 2, 2))
    for row in rows(db):
        assert row.slot >= last or row.status == "succeeded"
    for slot in slots:
        for call in settled.of(slot)[:-1]:  # only what a freeze has cut off was asked again
            assert call.ended and any(call.began - 0.2 <= at <= call.ended + 1 for at in freezes), settled.of(slot)
    nothing_wrong(settled, db)


def test_an_answer_that_comes_while_the_database_is_away_is_recorded_and_not_asked_again(
    start: Start, settlement: Begin, db: str, postgres: Postgres
) -> None:
    settled, settings = settlement(lambda *_: Do(1.5))
    copies = [start(**settings) for _ in range(2)]
    call = settled.asked(1)
    time.sleep(0.5)
    postgres.stop()
    wait_for("the answer", lambda: call.ended, LONG)
    time.sleep(0.5)
    postgres.start()
    (row,) = ended(db, RECOVER + 1 + BUSY)
    assert (row.status, row.attempts, row.result["call"]) == ("succeeded", 1, 1)
    steady(settled, 1)
    assert all(copy.running for copy in copies)
    nothing_wrong(settled, db)


def test_a_cut_of_all_database_connections_in_a_call_costs_no_second_call(
    start: Start, settlement: Begin, db: str
) -> None:
    settled, settings = settlement(lambda *_: Do(2))
    for _ in range(2):
        start(**settings)
    settled.asked(1)
    time.sleep(0.5)
    with psycopg.connect(db, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    (row,) = ended(db, 2 + 1 + BUSY)
    assert (row.status, row.attempts) == ("succeeded", 1)
    steady(settled, 1)
    nothing_wrong(settled, db)


def test_after_a_restart_of_the_database_the_work_goes_on(
    start: Start, settlement: Begin, db: str, postgres: Postgres
) -> None:
    settled, settings = settlement(PERIOD_SECONDS=1)
    copies = [start(**settings) for _ in range(2)]
    settled.asked(2)
    postgres.stop()
    time.sleep(2)
    postgres.start()
    back = time.time()
    wait_for("a new slot", lambda: any(call.slot > back for call in settled.calls), RECOVER + 1 + START + 1 + BUSY)
    assert all(copy.running for copy in copies)
    last = settled.calls[-1].slot
    wait_for("the records", lambda: all(r.status == "succeeded" for r in rows(db) if r.slot <= last), TAKEOVER + BUSY)
    assert {row.attempts for row in rows(db) if row.slot <= last} == {1}
    nothing_wrong(settled, db)


def test_after_an_outage_the_last_slots_are_made_up_for_and_no_others(start: Start, settlement: Begin, db: str) -> None:
    """What is made up for takes long and does not hold up the current slot."""
    settled, settings = settlement(lambda slot, _: Do(2 if slot < restarted else 0), PERIOD_SECONDS=2)
    restarted = 0.0
    one = start(**settings)
    settled.asked(1)
    ended(db, 1 + BUSY)
    one.kill()
    before = max(call.slot for call in settled.calls)
    time.sleep(2 * 6)
    restarted = time.time() // 2 * 2
    start(**settings)
    wait_for("two new slots", lambda: sum(call.slot > restarted for call in settled.calls) >= 2, BEGIN + 6 + BUSY)
    current = min(call.slot for call in settled.calls if call.slot > before) + 3 * 2
    assert restarted <= current <= restarted + BEGIN + BUSY
    wait_for("what was missed", lambda: all(settled.of(current - 2 * n) for n in range(4)), 4 * TIMEOUT)
    assert not any(before < call.slot < current - 6 for call in settled.calls)
    for call in settled.calls:
        if call.slot > current:
            assert call.began <= call.slot + START + 1 + BUSY / 2
    assert all(call.number == 1 or call.slot <= before for call in settled.calls)
    nothing_wrong(settled, db)


def test_sigterm_lets_a_call_end_and_others_begin_the_next_slots(start: Start, settlement: Begin, db: str) -> None:
    settled, settings = settlement(lambda *_: Do(2.5), PERIOD_SECONDS=2, TIMEOUT_SECONDS=TIMEOUT)
    one = start(**settings)
    settled.asked(1)
    two = start(**settings)
    time.sleep(BEGIN)
    known = len(settled.calls)
    settled.asked(known + 1)  # at work now, by one of the two
    stopped = time.time()
    one.term()
    assert one.ended(DRAIN + 1 + BUSY) == 0
    wait_for("three more slots", lambda: sum(call.slot > stopped for call in settled.calls) >= 3, 6 + BUSY)
    slots = [call.slot for call in settled.calls]
    assert len(slots) == len(set(slots))
    assert sorted(slots) == list(range(min(slots), max(slots) + 2, 2))
    for call in settled.calls:
        assert call.slot < stopped or call.began <= call.slot + START + 1 + BUSY / 2
    wait_for(
        "the records",
        lambda: all(row.status == "succeeded" for row in rows(db) if row.slot <= stopped), TIMEOUT + 1 + BUSY,
    )  # fmt: skip
    assert two.running
    nothing_wrong(settled, db)


def test_sigterm_ends_in_time_though_a_call_hangs_and_another_sees_to_it(
    start: Start, settlement: Begin, db: str
) -> None:
    settled, settings = settlement(lambda _, number: Do(60 if number == 1 else 0), DRAIN_SECONDS=1)
    one = start(**settings)
    settled.asked(1)
    start(**settings)
    stopped = time.time()
    one.term()
    assert one.ended(1 + 1 + BUSY) == 0
    second = settled.asked(2, BEGIN + TAKEOVER + 2 + BUSY)
    assert second.began <= stopped + 1 + max(TAKEOVER, BEGIN) + 1 + BUSY
    (row,) = ended(db, 1 + BUSY)
    assert (row.status, row.attempts) == ("succeeded", 2)
    nothing_wrong(settled, db)
