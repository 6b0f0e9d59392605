"""Real relays between a real PostgreSQL and a real Valkey: killed, paused, cut off, doubled, restarted under."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from recipes.engines import Postgres, Valkey, wait_for

HERE = Path(__file__).parent
LONG = 40  # seconds to wait for what takes one, on a machine that is busy
FOREVER = "3600"

Fault = Callable[[str, str], None]
Outbox = psycopg.Connection[Any]


class Proxy:
    """Stands between a relay and Valkey, and loses what it is told to lose."""

    def __init__(self, port: int) -> None:
        self.target, self.listener = port, socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.hold = threading.Event()  # while it is set answers stay here
        self.held = threading.Event()
        self.cut_append, self.cut = False, threading.Event()  # pass the next events on, then cut instead of answering
        self.cutting: set[socket.socket] = set()
        threading.Thread(target=self.accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
                threading.Thread(target=self.pump, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self.pump, args=(server, client, False), daemon=True).start()

    def pump(self, source: socket.socket, sink: socket.socket, request: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 20):
                if request and self.cut_append and b"XADD" in data:
                    self.cut_append = False
                    self.cutting.add(sink)
                if not request and source in self.cutting:
                    self.cut.set()
                    break
                if not request and self.hold.is_set():
                    self.held.set()
                    wait_for("the end of the silence", lambda: not self.hold.is_set(), 300)
                sink.sendall(data)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


class Relays:
    def __init__(self, database: str, valkey: str, folder: Path) -> None:
        self.database, self.valkey, self.folder = database, valkey, folder
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, valkey: str = "", database: str = "", **settings: object) -> subprocess.Popen[bytes]:
        chosen = {"POLL": "0.02", "MAX_PAUSE": "0.2", "SILENCE": FOREVER, "CONFIRM": "20"}
        chosen |= {name: str(value) for name, value in settings.items()}
        urls = {"DATABASE_URL": database or self.database, "VALKEY_URL": valkey or self.valkey}
        with open(self.folder / "log", "ab") as log:
            process = subprocess.Popen(
                [sys.executable, HERE / "relay.py"], env={**os.environ, **chosen, **urls}, stdout=log, stderr=log
            )
        self.processes.append(process)
        return process

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8")

    def logged(self, words: str) -> None:
        wait_for(f"{words!r} in the log", lambda: words in self.log, LONG)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    # Processes are killed here, machines are not: without fsync a busy disk holds nothing up.
    server = Postgres(tmp_path_factory.mktemp("outbox"), {"fsync": "off"})
    yield server
    server.stop()


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path, "--appendonly", "yes", "--appendfsync", "always", "--repl-diskless-sync-delay", 0)
    yield server
    server.stop()


@pytest.fixture
def outbox(database: str) -> Iterator[Outbox]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute((HERE / "outbox.sql").read_text(encoding="utf-8"))  # type: ignore[arg-type]
        yield connection


@pytest.fixture
def relays(database: str, outbox: Outbox, valkey: Valkey, tmp_path: Path) -> Iterator[Relays]:
    started = Relays(database, valkey.url, tmp_path)
    yield started
    for process in started.processes:
        process.kill()
        process.wait()


def write(connection: psycopg.Connection[Any], aggregate: object, n: int, extra: str = "") -> None:
    query = "INSERT INTO outbox (aggregate_type, aggregate_id, type, payload) VALUES ('order', %s, 'Happened', %s)"
    connection.execute(query, (str(aggregate), json.dumps({"n": n, "extra": extra})))


def one(connection: psycopg.Connection[Any], query: str, *values: object) -> Any:
    row = connection.execute(query, values).fetchone()  # type: ignore[arg-type]
    return row[0] if row else None


def stream(url: str) -> list[tuple[str, str, int]]:
    """(id of the event, aggregate, n) of all that is in the stream."""
    with redis.Redis.from_url(url, decode_responses=True) as client:
        entries: Any = client.xrange("events")
    return [(each["id"], each["aggregate_id"], json.loads(each["payload"])["n"]) for _, each in entries]


def consumed(url: str) -> dict[str, list[int]]:
    """What a consumer sees who leaves out what it has seen before: {aggregate: [n, ...]}."""
    seen: dict[str, list[int]] = {}
    for _, aggregate, n in dict.fromkeys(stream(url)):
        seen.setdefault(aggregate, []).append(n)
    return seen


def unpublished(outbox: Outbox) -> int:
    return int(one(outbox, "SELECT count(*) FROM outbox WHERE published_at IS NULL"))


def all_published(outbox: Outbox) -> None:
    wait_for("an outbox that is published", lambda: unpublished(outbox) == 0, LONG)


def at_a_lock(outbox: Outbox, count: int = 1) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return bool(one(outbox, query) >= count)


def repeated(url: str) -> int:
    return len(stream(url)) - len({event for event, _, _ in stream(url)})


def test_what_is_rolled_back_is_not_published(
    outbox: Outbox, relays: Relays, database: str, valkey: Valkey, fault: Fault
) -> None:
    relays.start()
    with psycopg.connect(database) as business:
        write(business, "a", 1)
        business.rollback()
        write(business, "a", 2)
    all_published(outbox)
    wait_for("the stream", lambda: stream(valkey.url), LONG)
    assert consumed(valkey.url) == {"a": [2]}
    fault("a transaction rolls back, the next one commits", f"published: {len(stream(valkey.url))} of 2 events")


def test_an_event_that_commits_late_is_not_skipped(
    outbox: Outbox, relays: Relays, database: str, valkey: Valkey, fault: Fault
) -> None:
    relays.start()
    with psycopg.connect(database) as slow:
        write(slow, "a", 1)
        write(outbox, "b", 2)
        all_published(outbox)
        wait_for("the second event", lambda: len(stream(valkey.url)) == 1, LONG)
    all_published(outbox)
    positions = [row[0] for row in outbox.execute("SELECT position FROM outbox ORDER BY published_at")]
    assert positions == [2, 1]
    assert consumed(valkey.url) == {"b": [2], "a": [1]}
    fault("position 1 commits after position 2 was published", f"published in the order {positions}, none skipped")


def test_events_of_one_aggregate_are_published_in_the_order_of_their_commits(
    outbox: Outbox, relays: Relays, database: str, valkey: Valkey, fault: Fault
) -> None:
    relays.start()

    def second() -> None:
        with psycopg.connect(database) as other:
            write(other, "a", 2)

    thread = threading.Thread(target=second)
    with psycopg.connect(database) as first:
        write(first, "a", 1)
        thread.start()
        wait_for("the second", lambda: at_a_lock(outbox) or len(stream(valkey.url)) == 1, LONG)
        early = len(stream(valkey.url))
    thread.join()
    all_published(outbox)
    wait_for("both", lambda: len(stream(valkey.url)) == 2, LONG)
    assert consumed(valkey.url) == {"a": [1, 2]}
    fault(
        "two transactions that lock nothing else write events of one aggregate at once",
        f"{early} published before the first commit, then in the order {consumed(valkey.url)['a']}",
    )


def test_a_relay_killed_between_publishing_and_marking_loses_nothing(
    outbox: Outbox, relays: Relays, database: str, valkey: Valkey, fault: Fault
) -> None:
    for n in range(10):
        write(outbox, n % 2, n)
    with psycopg.connect(database) as other:
        other.execute("SELECT FROM outbox WHERE position = 10 FOR UPDATE")  # holds up the mark
        first = relays.start()
        wait_for("the relay at its mark", lambda: len(stream(valkey.url)) == 10 and at_a_lock(outbox), LONG)
        first.kill()
        first.wait()
        marked = 10 - unpublished(outbox)
    relays.start()
    all_published(outbox)
    assert marked == 0
    assert consumed(valkey.url) == {"0": [0, 2, 4, 6, 8], "1": [1, 3, 5, 7, 9]}
    fault(
        "kill -9 of the relay after it published 10 events, before it marked them",
        f"{repeated(valkey.url)} published again under the same ids, 0 lost, the order held",
    )


def test_a_lost_confirmation_loses_no_event(outbox: Outbox, relays: Relays, valkey: Valkey, fault: Fault) -> None:
    proxy = Proxy(valkey.port)
    proxy.cut_append = True
    for n in range(10):
        write(outbox, "a", n)
    relays.start(proxy.url)
    assert proxy.cut.wait(LONG)
    all_published(outbox)
    assert consumed(valkey.url) == {"a": list(range(10))}
    fault(
        "the connection to the broker breaks after it took 10 events, before its confirmation",
        f"{repeated(valkey.url)} published again under the same ids, 0 lost, the order held",
    )


def test_a_broker_that_never_answers_is_given_up(outbox: Outbox, relays: Relays, valkey: Valkey, fault: Fault) -> None:
    proxy = Proxy(valkey.port)
    relays.start(proxy.url, CONFIRM=0.2)
    write(outbox, "a", 0)
    all_published(outbox)
    proxy.hold.set()
    write(outbox, "a", 1)
    assert proxy.held.wait(LONG)
    relays.start()
    all_published(outbox)
    assert consumed(valkey.url) == {"a": [0, 1]}
    query = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND datname = current_database()"
    wait_for("no transaction open", lambda: one(outbox, query) == 0, LONG)
    proxy.hold.clear()
    fault(
        "the broker takes the events of one relay and never answers",
        f"given up after CONFIRM + 2 s, the relay that stood by went on; {unpublished(outbox)} unpublished",
    )


def test_a_broker_that_cannot_confirm_gets_nothing(
    outbox: Outbox, relays: Relays, tmp_path: Path, fault: Fault
) -> None:
    (tmp_path / "careless").mkdir()
    careless = Valkey(tmp_path / "careless")
    try:
        write(outbox, "a", 1)
        relays.start(careless.url)
        wait_for("three attempts", lambda: relays.log.count("ResponseError") >= 3, LONG)
        entries, left = len(stream(careless.url)), unpublished(outbox)
        with redis.Redis.from_url(careless.url) as client:
            client.config_set("appendonly", "yes")
        all_published(outbox)
        assert (entries, left, consumed(careless.url)) == (0, 1, {"a": [1]})
        fault(
            "the broker keeps no log on its disk (appendonly no)",
            f"{entries} events sent, {left} unpublished, until appendonly was yes",
        )
    finally:
        careless.stop()


def test_a_replica_that_is_missing_is_waited_for(
    outbox: Outbox, relays: Relays, valkey: Valkey, tmp_path: Path, fault: Fault
) -> None:
    for n in range(3):
        write(outbox, "a", n)
    relays.start(REPLICAS=1, CONFIRM=1)
    wait_for("two attempts", lambda: relays.log.count("Unconfirmed") >= 2, LONG)
    entries, left = len(stream(valkey.url)), unpublished(outbox)
    (tmp_path / "replica").mkdir()
    replica = Valkey(tmp_path / "replica", "--appendonly", "yes", "--replicaof", "127.0.0.1", valkey.port)
    try:
        all_published(outbox)
        assert (entries, left) == (0, 3)
        kept = consumed(replica.url)["a"]  # a busy machine may confirm too late, and gets them again
        assert kept == [0, 1, 2]
        fault(
            "REPLICAS=1 and no replica, then one comes",
            f"{entries} events sent and {left} unpublished before, {len(kept)} on the replica after",
        )
    finally:
        replica.stop()


def test_events_survive_a_crash_of_the_broker(outbox: Outbox, relays: Relays, valkey: Valkey, fault: Fault) -> None:
    process = relays.start()
    for n in range(100):
        write(outbox, n % 5, n)
    all_published(outbox)
    valkey.stop(signal.SIGKILL)
    for n in range(100, 200):
        write(outbox, n % 5, n)
    relays.logged("ConnectionError")
    valkey.start()
    all_published(outbox)
    expected = {str(each): list(range(each, 200, 5)) for each in range(5)}
    assert consumed(valkey.url) == expected
    assert process.poll() is None
    fault(
        "kill -9 of the broker after 100 events, 100 more while it is away",
        f"{sum(map(len, consumed(valkey.url).values()))} in its stream after the restart, in order, "
        f"{repeated(valkey.url)} twice",
    )


def test_a_database_that_never_answers_is_given_up(
    postgres: Postgres, outbox: Outbox, relays: Relays, database: str, valkey: Valkey, fault: Fault
) -> None:
    proxy = Proxy(postgres.port)
    process = relays.start(database=database.replace(str(postgres.port), str(proxy.port)), SILENCE=1)
    write(outbox, "a", 0)
    all_published(outbox)
    proxy.hold.set()
    write(outbox, "a", 1)
    relays.logged("TimeoutError")
    proxy.hold.clear()
    all_published(outbox)
    assert (consumed(valkey.url), process.poll()) == ({"a": [0, 1]}, None)
    fault(
        "PostgreSQL takes a question and never answers, then others can be asked",
        f"given up after twice SILENCE, the same relay went on; {len(consumed(valkey.url)['a'])} of 2 events published",
    )


@pytest.mark.parametrize(("how", "name"), [(signal.SIGINT, "restart"), (signal.SIGKILL, "kill -9")])
def test_the_relay_outlives_the_database(
    postgres: Postgres,
    outbox: Outbox,
    relays: Relays,
    valkey: Valkey,
    database: str,
    fault: Fault,
    how: signal.Signals,
    name: str,
) -> None:
    process = relays.start()
    write(outbox, "a", 1)
    all_published(outbox)
    postgres.stop(how)
    relays.logged("OperationalError")
    postgres.start()
    with psycopg.connect(database, autocommit=True) as again:
        write(again, "a", 2)
        all_published(again)
    assert (consumed(valkey.url), process.poll()) == ({"a": [1, 2]}, None)
    fault(f"{name} of PostgreSQL", f"the same relay went on, {len(consumed(valkey.url)['a'])} of 2 events published")


def test_two_relays_keep_the_order_and_repeat_nothing(
    outbox: Outbox, relays: Relays, valkey: Valkey, database: str, fault: Fault
) -> None:
    def writer(first: int) -> None:
        with psycopg.connect(database, autocommit=True) as connection:
            for n in range(100):
                write(connection, (first + n) % 20, first * 1000 + n)

    relays.start(BATCH=7)
    relays.start(BATCH=7)
    writers = [threading.Thread(target=writer, args=(number,)) for number in range(4)]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    all_published(outbox)
    written: dict[str, list[int]] = {}
    for aggregate, n in outbox.execute("SELECT aggregate_id, payload->'n' FROM outbox ORDER BY position"):
        written.setdefault(aggregate, []).append(n)
    assert consumed(valkey.url) == written
    assert (len(stream(valkey.url)), repeated(valkey.url)) == (400, 0)
    fault(
        "4 writers, 20 aggregates, 2 relays with BATCH=7",
        f"{len(stream(valkey.url))} events in the order of their aggregates, {repeated(valkey.url)} twice",
    )


def test_a_relay_that_hangs_is_replaced_and_does_no_harm(
    outbox: Outbox, relays: Relays, valkey: Valkey, fault: Fault
) -> None:
    proxy = Proxy(valkey.port)
    first = relays.start(proxy.url, SILENCE=2, CONFIRM=FOREVER)
    write(outbox, "a", 0)
    all_published(outbox)
    proxy.hold.set()
    with outbox.transaction():
        for n in range(1, 10):
            write(outbox, "a", n)
    assert proxy.held.wait(LONG)
    first.send_signal(signal.SIGSTOP)
    relays.start()
    all_published(outbox)
    again = repeated(valkey.url)
    proxy.hold.clear()
    first.send_signal(signal.SIGCONT)
    relays.logged("idle-in-transaction timeout")
    write(outbox, "a", 10)
    all_published(outbox)
    assert first.poll() is None
    assert consumed(valkey.url) == {"a": list(range(11))}
    assert repeated(valkey.url) == again
    fault(
        "a relay is stopped in the middle of a batch, and goes on after another has taken over",
        f"the database freed its lock after SILENCE; {again} events published by both under the same ids, "
        f"{repeated(valkey.url) - again} after that, the order held",
    )


def test_an_event_that_the_broker_refuses_is_not_overtaken(
    outbox: Outbox, relays: Relays, valkey: Valkey, fault: Fault
) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        client.config_set("proto-max-bulk-len", 1 << 20)
        with outbox.transaction():
            write(outbox, "a", 1)
            write(outbox, "a", 2, "x" * (2 << 20))
            write(outbox, "a", 3)
        relays.start()
        wait_for("three attempts", lambda: relays.log.count("Error") >= 3, LONG)
        entries, left = len(stream(valkey.url)), unpublished(outbox)
        client.config_set("proto-max-bulk-len", 8 << 20)
        all_published(outbox)
    assert (entries, left, consumed(valkey.url)) == (0, 3, {"a": [1, 2, 3]})
    fault(
        "the second of 3 events is larger than the broker takes, until it takes larger ones",
        f"{entries} published and {left} waiting meanwhile, then in the order {consumed(valkey.url)['a']}",
    )


def test_only_published_events_are_purged(
    outbox: Outbox, relays: Relays, database: str, valkey: Valkey, fault: Fault
) -> None:
    for n in range(4):
        write(outbox, "a", n)
    outbox.execute("UPDATE outbox SET created_at = now() - interval '1 year'")
    outbox.execute("UPDATE outbox SET published_at = now() - interval '2 hours' WHERE position = 1")
    outbox.execute("UPDATE outbox SET published_at = now() - interval '1 minute' WHERE position = 2")
    old = (
        "INSERT INTO outbox (aggregate_type, aggregate_id, type, payload, published_at)"
        " SELECT 'order', 'b', 'Happened', '{}', now() - interval '2 hours' FROM generate_series(1, 2500)"
    )
    outbox.execute(old)
    with psycopg.connect(database) as other:
        other.execute("SELECT pg_advisory_xact_lock(7165, 1)")  # as a relay that is at work
        relays.start(KEEP="1 hour", PURGE=0)
        wait_for("the purge", lambda: one(outbox, "SELECT count(*) FROM outbox") <= 3, LONG)
        kept = [row[0] for row in outbox.execute("SELECT position FROM outbox ORDER BY position")]
    all_published(outbox)
    assert (kept, consumed(valkey.url)) == ([2, 3, 4], {"a": [2, 3]})
    fault(
        "2501 events published 2 hours ago, 1 a minute ago, 2 unpublished ones a year old; KEEP is 1 hour",
        f"{2504 - len(kept)} purged, {len(kept)} kept, {len(consumed(valkey.url)['a'])} published later",
    )


def test_sigterm_ends_after_the_batch(
    outbox: Outbox, relays: Relays, database: str, valkey: Valkey, fault: Fault
) -> None:
    for n in range(10):
        write(outbox, "a", n)
    with psycopg.connect(database) as other:
        other.execute("SELECT FROM outbox WHERE position = 5 FOR UPDATE")
        process = relays.start(BATCH=5)
        wait_for("the relay at its mark", lambda: len(stream(valkey.url)) == 5 and at_a_lock(outbox), LONG)
        process.terminate()
    code, left = process.wait(timeout=LONG), unpublished(outbox)
    relays.start()
    all_published(outbox)
    assert (code, left, repeated(valkey.url)) == (0, 5, 0)
    assert consumed(valkey.url) == {"a": list(range(10))}
    fault(
        "SIGTERM between publishing and marking the first 5 of 10 events",
        f"exit {code}, these 5 marked, {repeated(valkey.url)} repeated by the next relay",
    )
