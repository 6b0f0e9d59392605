"""The ticket's promises: hundreds of calls in one instant, several copies, a Valkey that is away, frozen or full."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from redis import Redis

from benchmarks.answers.components.conftest import Component
from benchmarks.answers.components.wire import Wire
from recipes.engines import Valkey, wait_for

Start = Callable[..., Component]
NEVER = 0.0001  # units a second: during a test none comes back
PATIENT = 10  # TIMEOUT_SECONDS where it is not what is tested, since the machine may be busy
BUSY = 3  # seconds on top of limits, for the same reason
LONG = 30


@dataclass
class Answer:
    """What a check was told, when it was sent and when it was answered."""

    status: int
    body: dict[str, Any]
    sent: float
    came: float

    @property
    def allowed(self) -> bool:
        return self.status == 200 and self.body["allowed"] is True

    @property
    def degraded(self) -> bool:
        assert self.status == 200, self
        return bool(self.body["degraded"])


def post(copy: Component, body: bytes) -> Answer:
    sent = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", copy.port, timeout=LONG)
    try:
        connection.request("POST", "/check", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read()
    finally:
        connection.close()
    came = time.monotonic()
    return Answer(response.status, json.loads(text), sent, came)


def check(copy: Component, key: str = "acme", cost: int = 1) -> Answer:
    answer = post(copy, json.dumps({"key": key, "cost": cost}).encode())
    assert answer.status == 200, answer
    assert isinstance(answer.body["allowed"], bool), answer
    assert type(answer.body["remaining"]) is int and answer.body["remaining"] >= 0, answer
    assert (answer.body["retry_after"] == 0) == answer.allowed, answer
    assert answer.body["retry_after"] >= 0, answer
    return answer


def at_once(copies: list[Component], number: int, key: str = "acme", cost: int = 1) -> list[Answer]:
    """So many checks in one instant, spread over copies."""
    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(lambda n: check(copies[n % len(copies)], key, cost), range(number)))


def most_beyond(answers: Iterable[Answer], rate: float) -> float:
    """The largest burst that explains what was allowed: over any stretch, the allowed less what came back in it."""
    taken = sorted((a for a in answers if a.allowed), key=lambda a: a.sent)
    most = 0.0
    for first, start in enumerate(taken):
        ends = sorted(a.came for a in taken[first:])
        for number, end in enumerate(ends, 1):
            most = max(most, number - rate * (end - start.sent))
    return most


def recovered(copy: Component, seconds: float) -> None:
    """The copy speaks for the shared state again; asked with a key that nothing else uses."""
    wait_for("an answer from the shared state", lambda: not check(copy, "the test's own").degraded, seconds)


def url(valkey: Valkey) -> str:
    return f"redis://127.0.0.1:{valkey.port}/0"


def test_a_key_has_its_burst_and_gets_its_rate_back(start: Start, valkey: Valkey) -> None:
    copy = start(REDIS_URL=url(valkey), RATE=5, BURST=10, TIMEOUT_SECONDS=PATIENT).ready()
    began = time.monotonic()
    first = check(copy, cost=4)
    assert (first.allowed, first.body["remaining"], first.body["retry_after"], first.degraded) == (True, 6, 0, False)
    second = post(copy, b'{"key": "acme", "more": [1]}')  # cost 1 when absent; further keys are ignored
    back = 5 * (time.monotonic() - began)
    assert second.allowed
    assert 5 <= second.body["remaining"] <= min(9, 5 + back)
    refused = check(copy, cost=10)
    back = 5 * (time.monotonic() - began)
    assert not refused.allowed
    assert (5 - back) / 5 - 0.1 <= refused.body["retry_after"] <= 5 / 5 + 0.1
    assert check(copy, "someone else", cost=10).allowed
    time.sleep(refused.body["retry_after"] + 0.1)
    assert check(copy, cost=10).allowed
    assert post(copy, b'{"key": "acme", "cost": 11}').body == {"error": "cost_too_large"}


def test_300_checks_in_one_instant_at_three_copies_get_the_burst_exactly(start: Start, valkey: Valkey) -> None:
    copies = [start(REDIS_URL=url(valkey), RATE=NEVER, BURST=100, TIMEOUT_SECONDS=20) for _ in range(3)]
    for copy in copies:
        copy.ready()
    answers = at_once(copies, 300)
    assert not any(a.degraded for a in answers)
    assert sum(a.allowed for a in answers) == 100
    assert {check(copy).body["remaining"] for copy in copies} == {0}


def test_a_caller_that_never_pauses_gets_no_more_than_the_rate_over_any_stretch(start: Start, valkey: Valkey) -> None:
    """Also across the turn of a second, and not less than agreed either."""
    copies = [start(REDIS_URL=url(valkey), RATE=20, BURST=10, TIMEOUT_SECONDS=PATIENT) for _ in range(2)]
    for copy in copies:
        copy.ready()
    began = time.monotonic()

    def hammer(number: int) -> list[Answer]:
        answers = []
        while time.monotonic() < began + 3.5:
            answers.append(check(copies[number % 2]))
        return answers

    with ThreadPoolExecutor(4) as pool:
        answers = [answer for some in pool.map(hammer, range(4)) for answer in some]
    seconds = max(a.came for a in answers) - began
    assert not any(a.degraded for a in answers)
    assert most_beyond(answers, 20) <= 10 + 1
    assert sum(a.allowed for a in answers) >= 10 + 20 * (seconds - 1)


def test_a_customer_who_stays_within_the_agreement_is_never_refused(start: Start, valkey: Valkey) -> None:
    """A burst of cost, pauses in which it comes back, copies in turn, at any place of a second."""
    copies = [start(REDIS_URL=url(valkey), RATE=7.5, BURST=3, TIMEOUT_SECONDS=PATIENT) for _ in range(2)]
    for copy in copies:
        copy.ready()
    last = 0.0
    for number in range(14):
        time.sleep(max(0.0, last + 3 / 7.5 + 0.02 - time.monotonic()))  # from the answer on all 3 come back
        answer = check(copies[number % 2], cost=3)
        last = answer.came
        assert answer.allowed, f"check {number}: {answer}"


def test_what_is_refused_costs_nothing_and_says_when_to_come_again(start: Start, valkey: Valkey) -> None:
    copy = start(REDIS_URL=url(valkey), RATE=10, BURST=10, TIMEOUT_SECONDS=PATIENT).ready()
    emptied = check(copy, cost=10)
    for _ in range(3):
        refused = [check(copy, cost=10) for _ in range(20)]
        late = [a for a in refused if a.allowed]  # on a machine so slow that a second has passed
        if not late:
            last = refused[-1]
            assert last.body["retry_after"] <= 1 - (last.sent - emptied.came) + 0.1
            time.sleep(max(0.0, last.came + last.body["retry_after"] + 0.1 - time.monotonic()))
            late = [check(copy, cost=10)]
        assert late[-1].allowed
        emptied = late[-1]


def outage(copies: list[Component]) -> None:
    """Nobody waits or is refused for it, but each copy holds customers to the numbers (RATE 2, BURST 5)."""
    for copy in copies:
        answers = at_once([copy], 30, "in the outage")
        assert all(a.degraded for a in answers)
        assert max(a.came - a.sent for a in answers) <= 0.5 + 0.3 + BUSY
        allowed, seconds = sum(a.allowed for a in answers), max(a.came for a in answers) - min(a.sent for a in answers)
        assert 5 <= allowed <= 5 + 2 * seconds + 1
        whole = check(copy, "in the outage", 5)
        assert whole.allowed == (whole.body["retry_after"] == 0)
        assert not whole.allowed or whole.came - min(a.sent for a in answers) > 5 / 2 - 1 / 2
        assert whole.body["retry_after"] <= 5 / 2 + 0.1
        others = [check(copy, f"customer {n}") for n in range(5)]
        assert all(a.allowed and a.degraded for a in others)
        time.sleep(max(0.0, whole.came + (whole.body["retry_after"] or 5 / 2) + 0.1 - time.monotonic()))
        assert check(copy, "in the outage", 5).allowed


def shared(copies: list[Component], recover: float) -> None:
    """All copies speak for the same state again (RATE 2, BURST 5)."""
    for copy in copies:
        recovered(copy, recover + 1 + BUSY)
    answers = at_once(copies, 20, "after the outage")
    seconds = max(a.came for a in answers) - min(a.sent for a in answers)
    assert not any(a.degraded for a in answers)
    assert 5 <= sum(a.allowed for a in answers) <= 5 + 2 * seconds + 1


OUTAGE = {"RATE": 2, "BURST": 5, "TIMEOUT_SECONDS": 0.5, "RECOVER_SECONDS": 1}


def test_while_valkey_is_frozen_each_copy_holds_to_the_numbers_in_time(start: Start, valkey: Valkey) -> None:
    copies = [start(REDIS_URL=url(valkey), **OUTAGE).ready() for _ in range(2)]
    for copy in copies:
        recovered(copy, LONG)
    valkey.process.send_signal(signal.SIGSTOP)
    try:
        outage(copies)
    finally:
        valkey.process.send_signal(signal.SIGCONT)
    shared(copies, 1)


def test_while_valkey_is_dead_each_copy_holds_to_the_numbers(start: Start, valkey: Valkey) -> None:
    copies = [start(REDIS_URL=url(valkey), **OUTAGE).ready() for _ in range(2)]
    for copy in copies:
        recovered(copy, LONG)
    valkey.stop(signal.SIGKILL)
    outage(copies)
    valkey.start()
    shared(copies, 1)


def test_a_valkey_that_answers_with_errors_counts_as_away(start: Start, valkey: Valkey) -> None:
    """Out of memory, then a read-only replica."""
    copy = start(REDIS_URL=url(valkey), **OUTAGE).ready()
    recovered(copy, LONG)
    with Redis.from_url(valkey.url) as admin:
        for number, (wrong, right) in enumerate([
            ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"), ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
        ]):  # fmt: skip
            admin.execute_command(*wrong.split())
            answers = at_once([copy], 20, f"customer {number}")
            seconds = max(a.came for a in answers) - min(a.sent for a in answers)
            assert all(a.degraded for a in answers)
            assert 5 <= sum(a.allowed for a in answers) <= 5 + 2 * seconds + 1
            admin.execute_command(*right.split())
            recovered(copy, 1 + 1 + BUSY)


def test_a_copy_that_starts_while_valkey_is_away_works_once_it_is_there(start: Start, valkey: Valkey) -> None:
    valkey.stop(signal.SIGKILL)
    copy = start(REDIS_URL=url(valkey), **OUTAGE)
    time.sleep(2)
    valkey.start()
    copy.ready()
    shared([copy], 1)


def test_a_check_whose_answer_is_lost_is_not_counted_twice(start: Start, valkey: Valkey) -> None:
    wire = Wire(url(valkey))
    copy = start(
        REDIS_URL=wire.url, RATE=NEVER, BURST=100, TIMEOUT_SECONDS=PATIENT, RECOVER_SECONDS=1
    ).ready()  # fmt: skip
    assert check(copy, cost=1).body["remaining"] == 99
    wire.answers.hold()
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(check, copy, "acme", 30)
        assert wire.answers.held.wait(LONG)
        wire.cut()
        assert lost.result().allowed
    recovered(copy, 1 + 1 + BUSY)
    after = check(copy, cost=1)
    assert not after.degraded
    assert after.body["remaining"] >= 99 - 30 - 1
    wire.stop()


def test_connections_that_valkey_has_closed_degrade_nobody_later(start: Start, valkey: Valkey) -> None:
    copy = start(REDIS_URL=url(valkey), RATE=NEVER, BURST=200, TIMEOUT_SECONDS=PATIENT, RECOVER_SECONDS=1).ready()
    assert not any(a.degraded for a in at_once([copy], 50))
    with Redis.from_url(valkey.url) as admin:
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    recovered(copy, 1 + 1)
    time.sleep(2)  # RECOVER_SECONDS and what the test allows
    answers = at_once([copy], 50)
    assert [a.degraded for a in answers] == [False] * 50
    assert all(a.allowed for a in answers)


def test_keys_begin_with_the_prefix_and_go_when_nobody_checks_them(start: Start, valkey: Valkey) -> None:
    copy = start(REDIS_URL=url(valkey), RATE=10, BURST=10, TIMEOUT_SECONDS=PATIENT, IDLE_SECONDS=1).ready()
    for number in range(30):
        assert check(copy, f"customer {number}", 1 + number % 10).allowed
        check(copy, f"customer {number}", 10)
    with Redis.from_url(valkey.url) as admin:
        keys = list(admin.scan_iter(count=1000))
        assert keys and all(key.startswith(b"rl:") for key in keys), keys
        wait_for("an empty Valkey", lambda: not list(admin.scan_iter(count=1000)), 1 + 1 + 1 + BUSY)


def test_hostile_bodies_are_refused_and_any_unicode_is_a_key(start: Start, valkey: Valkey) -> None:
    copy = start(REDIS_URL=url(valkey), RATE=NEVER, BURST=10, TIMEOUT_SECONDS=PATIENT).ready()
    bodies: list[bytes] = [
        b"", b"{", b"[]", b"null", b'"acme"', b"{}", b'{"key": ""}', b'{"key": 5}', b'{"key": null}', b'{"key": ["a"]}',
        b'{"key": "a", "cost": 0}', b'{"key": "a", "cost": -1}', b'{"key": "a", "cost": 1.5}', b"\xff\xfe",
        b'{"key": "a", "cost": "1"}', b'{"key": "a", "cost": true}', b'{"key": "a", "cost": NaN}',
        b'{"key": "a", "cost": [1]}', b'{"key": "\xff"}', b'{"key": "a", "cost": Infinity}', b"[" * 100_000,
        b'{"key": "a", "x": ' + b'{"x":' * 50_000, json.dumps({"key": "x" * 201}).encode(),
    ]  # fmt: skip
    for body in bodies:
        answer = post(copy, body)
        assert (answer.status, answer.body.get("error")) == (400, "invalid_request"), body[:60]
    for body in (b'{"key": "a", "cost": 11}', b'{"key": "a", "cost": 1' + b"0" * 30 + b"}"):
        assert post(copy, body).body == {"error": "cost_too_large"}, body
    half = post(copy, b'{"key": "\\ud800"}')  # no Unicode text, but JSON
    assert half.status == 200 or (half.status, half.body.get("error")) == (400, "invalid_request"), half
    keys = [
        "a",
        "a\0",
        "a b",
        "a\r\nb",
        "*",
        "{a}",
        "a:b",
        "é",
        "日本",
        "\U0001f600" * 200,
        "x" * 200,
        "'; --",
        "%s",
        " ",
    ]
    for key in keys:
        answer = check(copy, key, 10)
        assert answer.allowed and not answer.degraded, repr(key)
    assert not any(check(copy, key).allowed for key in keys)


def test_sigterm_answers_the_checks_at_work_and_ends_with_0(start: Start, valkey: Valkey) -> None:
    wire = Wire(url(valkey))
    copy = start(REDIS_URL=wire.url, RATE=NEVER, BURST=100, TIMEOUT_SECONDS=2, DRAIN_SECONDS=5).ready()
    recovered(copy, LONG)
    idle = http.client.HTTPConnection("127.0.0.1", copy.port, timeout=LONG)
    idle.request("GET", "/healthz")
    assert idle.getresponse().read()
    wire.hold()
    with ThreadPoolExecutor(20) as pool:
        answers = [pool.submit(check, copy) for _ in range(20)]
        assert wire.requests.held.wait(LONG)
        time.sleep(0.5)  # the others have been received too
        copy.term()
        began = time.monotonic()
        assert all(answer.result().allowed for answer in answers)
    assert copy.ended(5 + 1 + BUSY - (time.monotonic() - began)) == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", copy.port)) != 0
    idle.close()
    wire.stop()
