"""The ticket's promises, with an origin that fails, hangs, drips, cuts and talks nonsense, and many readers."""

from __future__ import annotations

import asyncio
import http.client
import json
import math
import socket
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks.answers.components.conftest import Component, Reply, Request, Upstream
from recipes.engines import wait_for

Start = Callable[..., Component]
Origin = Callable[..., Upstream]
BUSY = 3  # seconds on top of every limit: the machine may be busy
LONG = 30
NEVER = 3600


@dataclass
class Answer:
    """What a reader was told, when it asked and when it had the last byte."""

    status: int
    headers: dict[str, str]  # names in small letters
    body: bytes
    sent: float
    came: float

    @property
    def state(self) -> tuple[int, str | None]:
        return self.status, self.headers.get("x-report-state")

    @property
    def seconds(self) -> float:
        return self.came - self.sent


def read(copy: Component, name: str, path: str = "/reports/") -> Answer:
    sent = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", copy.port, timeout=LONG)
    try:
        connection.request("GET", path + name)
        response = connection.getresponse()
        body = response.read()
        headers = {key.lower(): value for key, value in response.headers.items()}
    finally:
        connection.close()
    return checked(Answer(response.status, headers, body, sent, time.monotonic()))


def checked(answer: Answer) -> Answer:
    """What holds for any answer about a report."""
    if answer.status == 200 and "x-report-state" in answer.headers:
        assert answer.headers["age"].isdigit(), answer
    elif answer.status != 200:
        assert json.loads(answer.body)["error"] == {404: "not_found", 503: "unavailable"}[answer.status], answer
        assert answer.status != 503 or int(answer.headers["retry-after"]) >= 1, answer
    return answer


def crowd(copy: Component, names: Iterable[str], hurry: float | None = None) -> list[Answer]:
    """All read at once; the readers that give up after `hurry` seconds are left out."""

    async def one(name: str) -> Answer | None:
        sent = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", copy.port, limit=1 << 24)
        try:
            writer.write(f"GET /reports/{name} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
            async with asyncio.timeout(hurry or LONG):
                head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
        except TimeoutError:
            if hurry:
                return None
            raise
        finally:
            writer.transport.abort()
        lines = head.decode().split("\r\n")
        headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines[1:])}
        return checked(Answer(int(lines[0].split()[1]), headers, body, sent, time.monotonic()))

    async def everybody() -> list[Answer | None]:
        return await asyncio.gather(*(one(name) for name in names))

    return [answer for answer in asyncio.run(everybody()) if answer]


class Origin_:
    """Says what the dictionary says for a report, or the usual."""

    def __init__(self, **replies: Reply) -> None:
        self.replies, self.began = replies, time.monotonic()
        self.usual = Reply(body=b'{"usual": true}')
        self.busy, self.most, self.lock = dict[str, int](), dict[str, int](), threading.Lock()

    def __call__(self, request: Request) -> Reply:
        return self.replies.get(request.path.removeprefix("/reports/"), self.usual)


def calls(origin: Upstream, name: str) -> list[float]:
    """When the origin was asked about a report."""
    return [seen.at for seen in list(origin.seen) if seen.path == f"/reports/{name}"]


def settings(origin: Upstream, **more: object) -> dict[str, object]:
    chosen = {"MAX_AGE_SECONDS": 2, "STALE_SECONDS": 60, "WAIT_SECONDS": 1, "TIMEOUT_SECONDS": 3, "RETRY_SECONDS": 1}
    return {"UPSTREAM_URL": origin.url, "NOT_FOUND_SECONDS": 2, "DRAIN_SECONDS": 6, **chosen, **more}


def test_a_report_is_shown_unchanged_and_again_without_a_call(start: Start, upstream: Origin) -> None:
    large = json.dumps({"rows": ["é\u2028" * 10] * 35_000}).encode()
    body = ' {"b" : 1.0,\n"a":"\\u00e9 é", "b":2e0} '.encode()
    says = Origin_(results=Reply(body=body), large=Reply(body=large), gone=Reply(status=404))
    origin = upstream(says)
    copy = start(**settings(origin, MAX_AGE_SECONDS=NEVER, STALE_SECONDS=NEVER, NOT_FOUND_SECONDS=NEVER)).ready()
    first = read(copy, "results")
    assert (first.state, first.body) == ((200, "fresh"), body)
    assert first.headers["content-type"].startswith("application/json")
    assert first.headers["age"] in {"0", "1", "2"}
    time.sleep(1.2)
    again = read(copy, "results")
    assert (again.state, again.body) == ((200, "fresh"), body)
    assert math.floor(again.sent - first.came) <= int(again.headers["age"]) <= math.floor(again.came - first.sent)
    assert [read(copy, "large").body == large for _ in range(2)] == [True, True]
    assert [read(copy, "gone").status for _ in range(3)] == [404, 404, 404]
    assert [len(calls(origin, name)) for name in ("results", "large", "gone")] == [1, 1, 1]


def test_300_readers_of_a_report_that_was_never_read_make_one_call(start: Start, upstream: Origin) -> None:
    origin = upstream(Origin_(results=Reply(wait=1)))
    copy = start(**settings(origin, MAX_AGE_SECONDS=NEVER, STALE_SECONDS=NEVER, TIMEOUT_SECONDS=10)).ready()
    answers = crowd(copy, ["results"] * 300)
    assert [answer.state for answer in answers] == [(200, "fresh")] * 300
    assert len(calls(origin, "results")) == 1


def test_300_readers_of_a_report_that_has_become_old_make_one_call(start: Start, upstream: Origin) -> None:
    says = Origin_(results=Reply(body=b"1"))
    origin = upstream(says)
    copy = start(**settings(origin, WAIT_SECONDS=8, TIMEOUT_SECONDS=10, MAX_AGE_SECONDS=4)).ready()
    assert read(copy, "results").body == b"1"
    says.replies["results"] = Reply(body=b"2", wait=0.5)
    time.sleep(4.1)
    began = time.monotonic()
    answers = crowd(copy, ["results"] * 300)
    assert [answer.state for answer in answers] == [(200, "fresh")] * 300
    assert {answer.body for answer in answers} == {b"2"}
    assert 2 <= len(calls(origin, "results")) <= 2 + (time.monotonic() - began) // 4


def test_while_the_origin_hangs_readers_get_the_last_good_report_and_its_age(start: Start, upstream: Origin) -> None:
    says = Origin_(results=Reply(body=b"1"))
    origin = upstream(says)
    copy = start(**settings(origin, TIMEOUT_SECONDS=8)).ready()
    first = read(copy, "results")
    says.replies["results"] = Reply(body=b"2", wait=6)
    time.sleep(2.1)
    answers = crowd(copy, ["results"] * 100)
    for answer in answers:
        assert (answer.state, answer.body) == ((200, "stale"), b"1"), answer
        assert answer.seconds <= 1 + 1 + BUSY
        assert math.floor(answer.sent - first.came) <= int(answer.headers["age"]) <= answer.came - first.sent
    assert len(calls(origin, "results")) == 2
    # The call that hung is not in vain.
    wait_for("the new report", lambda: read(copy, "results").body == b"2", 6 + 1 + BUSY)
    assert len(calls(origin, "results")) == 2


def test_a_failing_origin_is_spared_and_the_old_report_shown_until_it_recovers(start: Start, upstream: Origin) -> None:
    says = Origin_(results=Reply(body=b"1"))
    origin = upstream(says)
    copy = start(**settings(origin, RETRY_SECONDS=2)).ready()
    assert read(copy, "results").state == (200, "fresh")
    says.replies["results"] = Reply(status=500, body=b"2")
    time.sleep(2.1)
    began = time.monotonic()
    answers = []
    while time.monotonic() < began + 5:
        answers += crowd(copy, ["results"] * 20)
        time.sleep(0.05)
    assert {(answer.state, answer.body) for answer in answers} == {((200, "stale"), b"1")}
    assert max(answer.seconds for answer in answers) <= 1 + 1 + BUSY
    failed = calls(origin, "results")[1:]
    assert 2 <= len(failed) <= 4
    assert all(later - earlier > 1.9 for earlier, later in zip(failed, failed[1:]))
    says.replies["results"] = Reply(body=b"3")
    recovered = time.monotonic()
    wait_for("the new report", lambda: read(copy, "results").body == b"3", 2 + 1 + BUSY)
    assert read(copy, "results").state == (200, "fresh") or time.monotonic() > recovered + 2
    seen = len(origin.seen)
    time.sleep(3)  # nobody reads
    assert len(origin.seen) == seen


NONSENSE = {
    "page": Reply(body=b"<html>login</html>"), "cut": Reply(body=b'{"a": [1, 2, 3]}', cut=9), "none": Reply(body=b""),
    "redirect": Reply(status=302, body=b"{}", headers={"Location": "/reports/elsewhere"}), "created": Reply(status=201),
    "drip": Reply(body=b'{"a": 1}', drip=0.9), "reset": Reply(cut=0), "half": Reply(body=b'{"a": [1, 2'),
    "error": Reply(status=503, body=b'{"error": "busy"}'), "bytes": Reply(body=b'{"a": "\xff"}'),
}  # fmt: skip


def test_what_is_no_report_is_never_shown(start: Start, upstream: Origin) -> None:
    """With a report at hand that one is shown, without one 503."""
    says = Origin_()
    origin = upstream(says)
    copy = start(**settings(origin, RETRY_SECONDS=NEVER)).ready()
    assert {read(copy, name).state for name in NONSENSE} == {(200, "fresh")}
    says.replies.update(NONSENSE)
    says.replies.update({f"new-{name}": reply for name, reply in NONSENSE.items()})
    time.sleep(2.1)
    answers = dict(zip(NONSENSE, crowd(copy, NONSENSE)))
    for name, answer in answers.items():
        assert (answer.state, answer.body) == ((200, "stale"), says.usual.body), name
    for name, answer in zip(NONSENSE, crowd(copy, [f"new-{name}" for name in NONSENSE])):
        assert answer.status == 503, name
        assert answer.seconds <= 3 + 1 + BUSY
    time.sleep(max(0.0, answers["drip"].came + 7 - time.monotonic()))  # all of it has come, too late
    assert read(copy, "drip").state == (200, "stale")
    assert not calls(origin, "elsewhere")


def test_a_withdrawn_report_is_not_shown_again_also_when_the_origin_fails(start: Start, upstream: Origin) -> None:
    says = Origin_(results=Reply(body=b"1"))
    origin = upstream(says)
    copy = start(**settings(origin, NOT_FOUND_SECONDS=4)).ready()
    assert read(copy, "results").state == (200, "fresh")
    says.replies["results"] = Reply(status=404)
    wait_for("the 404", lambda: read(copy, "results").status == 404, 2 + 1 + 1 + BUSY)
    found = time.monotonic()
    assert {answer.status for answer in crowd(copy, ["results"] * 20)} == {404}
    seen = len(calls(origin, "results"))
    says.replies["results"] = Reply(status=500)
    statuses = set()
    while time.monotonic() < found + 7:
        statuses.add(read(copy, "results").status)
        time.sleep(0.05)
        if time.monotonic() < found + 3:  # it is remembered
            assert len(calls(origin, "results")) == seen
    assert statuses == {404, 503}
    says.replies["results"] = Reply(body=b"2")
    wait_for("the report that is back", lambda: read(copy, "results").body == b"2", 1 + 1 + BUSY)


def test_a_report_that_is_too_old_is_not_shown(start: Start, upstream: Origin) -> None:
    says = Origin_(results=Reply(body=b"1"))
    origin = upstream(says)
    copy = start(**settings(origin, MAX_AGE_SECONDS=1, STALE_SECONDS=4, RETRY_SECONDS=0.5)).ready()
    first = read(copy, "results")
    says.replies["results"] = Reply(status=500)
    while time.monotonic() < first.sent + 6:
        answer = read(copy, "results")
        if answer.status == 200:
            assert answer.sent - first.came <= 4
            assert int(answer.headers["age"]) <= 4
        else:
            assert answer.came - first.sent >= 4
        time.sleep(0.05)
    assert read(copy, "results").status == 503


def test_readers_of_a_report_that_hangs_are_told_in_time(start: Start, upstream: Origin) -> None:
    origin = upstream(Origin_(results=Reply(wait=12)))
    copy = start(**settings(origin, TIMEOUT_SECONDS=2, RETRY_SECONDS=NEVER)).ready()
    answers = crowd(copy, ["results"] * 200)
    assert {answer.status for answer in answers} == {503}
    assert max(answer.seconds for answer in answers) <= 2 + 1 + BUSY
    more = crowd(copy, ["results"] * 50)  # the origin is not asked again: at once
    assert {answer.status for answer in more} == {503}
    assert min(answer.seconds for answer in more) < 1
    assert len(calls(origin, "results")) == 1


def test_50_reports_that_hang_do_not_hold_up_the_others(start: Start, upstream: Origin) -> None:
    says = Origin_()
    hanging = [f"slow-{number}" for number in range(50)]
    says.replies.update({name: Reply(wait=10) for name in hanging})
    origin = upstream(says)
    copy = start(**settings(origin, TIMEOUT_SECONDS=8, DRAIN_SECONDS=1)).ready()
    assert read(copy, "known").state == (200, "fresh")
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(crowd, copy, hanging)
        wait_for("50 calls", lambda: sum(seen.path.startswith("/reports/slow") for seen in list(origin.seen)) == 50, 7)
        for name in ("known", "new-1", "new-2"):
            answer = read(copy, name)
            assert (answer.status, not slow.done()) == (200, True)
            assert answer.seconds < 1 + 1
        assert read(copy, "healthz", "/").status == 200
        assert {answer.status for answer in slow.result()} == {503}


def test_1000_readers_at_once_are_served(start: Start, upstream: Origin) -> None:
    origin = upstream(Origin_(results=Reply(body=b'"' + b"x" * 1022 + b'"')))
    copy = start(**settings(origin, MAX_AGE_SECONDS=NEVER, STALE_SECONDS=NEVER)).ready()
    assert read(copy, "results").state == (200, "fresh")
    began = time.monotonic()
    answers = crowd(copy, ["results"] * 1000)
    assert time.monotonic() - began <= 5 + 1 + BUSY
    assert [answer.state for answer in answers] == [(200, "fresh")] * 1000
    assert len(calls(origin, "results")) == 1


def test_a_reader_who_leaves_does_not_take_the_report_from_the_others(start: Start, upstream: Origin) -> None:
    origin = upstream(Origin_(results=Reply(wait=2.5)))
    copy = start(**settings(origin, TIMEOUT_SECONDS=8, MAX_AGE_SECONDS=NEVER, STALE_SECONDS=NEVER)).ready()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(crowd, copy, ["results"] * 3, 1.2)
        wait_for("the call", lambda: calls(origin, "results"), LONG)
        others = pool.submit(crowd, copy, ["results"] * 20)
        assert first.result() == []
        assert [answer.state for answer in others.result()] == [(200, "fresh")] * 20
    assert len(calls(origin, "results")) == 1


def test_people_who_type_in_nonsense_hurt_nobody(start: Start, upstream: Origin) -> None:
    """Ids of no form are not asked about; those without a report do not drive out the one that all read."""
    says = Origin_(results=Reply(body=b"1"))
    says.usual = Reply(status=404)
    origin = upstream(says)
    copy = start(**settings(origin, MAX_REPORTS=10, MAX_AGE_SECONDS=NEVER, STALE_SECONDS=NEVER)).ready()
    assert read(copy, "results").state == (200, "fresh")
    for name in ("a.b", "%20", "%C3%A9", "x" * 65, "a%00b", "%ff", "a%3Fb=1", "a+b", "a%25"):
        answer = read(copy, name)
        assert answer.status == 404, name
        assert len(origin.seen) == 1, name
    for number in range(60):
        assert read(copy, f"nothing-{number}").status == 404
        assert read(copy, "results").body == b"1"
    assert len(calls(origin, "results")) == 1
    assert read(copy, "x" * 64).status == 404
    assert len(calls(origin, "x" * 64)) == 1


def test_sigterm_answers_the_readers_that_wait_and_ends_with_0(start: Start, upstream: Origin) -> None:
    origin = upstream(Origin_(results=Reply(wait=2)))
    copy = start(**settings(origin, TIMEOUT_SECONDS=5)).ready()
    idle = http.client.HTTPConnection("127.0.0.1", copy.port, timeout=LONG)
    idle.request("GET", "/healthz")
    assert idle.getresponse().read()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(crowd, copy, ["results"] * 20)
        wait_for("the call", lambda: calls(origin, "results"), LONG)
        time.sleep(0.5)  # the others have been received too
        copy.term()
        began = time.monotonic()
        assert [answer.state for answer in waiting.result()] == [(200, "fresh")] * 20
    assert copy.ended(6 + 1 + BUSY - (time.monotonic() - began)) == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", copy.port)) != 0
    idle.close()
