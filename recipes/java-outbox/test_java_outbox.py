"""The relay as a process of its own, between a real PostgreSQL and a real Kafka, each of them killed and frozen."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from recipes.engines import Kafka, Postgres, classpath, java_home, maven, program, wait_for

pytestmark = pytest.mark.slow  # compiles, and starts a broker and many virtual machines

HERE = Path(__file__).parent
PATIENCE = 90.0
NUMBERS = itertools.count(1)
Fault = Callable[[str, str], None]
WAITING = "SELECT count(*) FROM outbox WHERE sent_at IS NULL"


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The recipe and its test program compiled with all warnings as errors; returns the class path."""
    if not program("mvn"):
        pytest.skip("needs Maven")
    folder = tmp_path_factory.mktemp("build") / "code"
    shutil.copytree(HERE, folder)
    done = maven(folder, "compile")
    assert done.returncode == 0, done.stdout
    return f"{folder / 'target' / 'classes'}:{classpath(folder)}"


@pytest.fixture(scope="module")
def kafka(build: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    server = Kafka(tmp_path_factory.mktemp("kafka"))
    yield server
    server.stop()


class App:
    """One instance of the program, which writes events and relays them."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.log = log
        with open(log, "wb") as out:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=out, stdin=subprocess.PIPE, encoding="utf-8", bufsize=1
            )

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def logged(self, text: str, times: int = 1) -> None:
        wait_for(f"{text!r} in the log", lambda: self.output.count(text) >= times, PATIENCE)

    def ask(self, line: str) -> str:
        """The program's answer to a line."""
        before = self.output.count("answer: ")
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.logged("answer: ", before + 1)
        wait_for("the whole line", lambda: self.output.endswith("\n"))
        return self.output.split("answer: ")[-1].splitlines()[0]

    def send(self, how: signal.Signals) -> None:
        self.process.send_signal(how)

    def ended(self) -> int:
        return self.process.wait(timeout=PATIENCE)


class World:
    """A topic, a database with an outbox, and instances of the program."""

    def __init__(self, build: str, kafka: Kafka, postgres: Postgres, folder: Path) -> None:
        from confluent_kafka.admin import AdminClient

        self.build, self.kafka, self.folder = build, kafka, folder
        self.topic = f"events{next(NUMBERS)}"
        self.url = postgres.new_database()
        self.apps: list[App] = []
        self.admin = AdminClient({"bootstrap.servers": kafka.url, "log_level": 0})
        self.sql((HERE / "outbox.sql").read_text(encoding="utf-8"))
        self.sql("CREATE TABLE orders (id text PRIMARY KEY)")

    def create(self, **settings: str) -> None:
        from confluent_kafka.admin import NewTopic

        config = {name.replace("_", "."): value for name, value in settings.items()}
        for done in self.admin.create_topics([NewTopic(self.topic, 3, 1, config=config)]).values():
            done.result(PATIENCE)

    def configure(self, name: str, value: str) -> None:
        from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

        entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, self.topic, incremental_configs=[entry])
        for done in self.admin.incremental_alter_configs([resource]).values():
            done.result(PATIENCE)

    def sql(self, query: Any, *values: object) -> list[Any]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(query, values or None)
            return cursor.fetchall() if cursor.description else []

    def write(self, aggregate: str, *numbers: int, size: int = 0) -> None:
        """Events of one aggregate, each committed by itself."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            for number in numbers:
                payload = json.dumps({"number": number, "filling": "x" * size})
                connection.execute("INSERT INTO outbox (aggregate, type, payload) VALUES (%s, 'T', %s)",
                                   (aggregate, payload))  # fmt: skip

    def start(self, **settings: object) -> App:
        from urllib.parse import urlsplit

        place = urlsplit(self.url)
        options = {
            "spring.datasource.url": f"jdbc:postgresql://127.0.0.1:{place.port}{place.path}?user=postgres",
            "spring.kafka.bootstrap-servers": self.kafka.url,
            "outbox.topic": self.topic,
            **{name.replace("__", "."): value for name, value in settings.items()},
        }
        java = [str(java_home() / "bin" / "java"), "-XX:TieredStopAtLevel=1", "-Xmx256m", "-cp", self.build]
        words = [f"--{name}={value}" for name, value in options.items()]
        app = App([*java, "outbox.Orders", *words], self.folder / f"app{len(self.apps)}.log")
        self.apps.append(app)
        return app

    def records(self) -> list[tuple[str, int, str]]:
        """All records of the topic as aggregate, number, id; in order within a partition."""
        from confluent_kafka import Consumer, TopicPartition

        consumer = Consumer({"bootstrap.servers": self.kafka.url, "group.id": "x", "log_level": 0,
                             "enable.partition.eof": True, "enable.auto.commit": False})  # fmt: skip
        found, ends = [], 0
        consumer.assign([TopicPartition(self.topic, partition, 0) for partition in range(3)])
        while ends < 3:
            message = consumer.poll(PATIENCE)
            assert message is not None
            if message.error():
                ends += 1
                continue
            headers: dict[str, Any] = dict(message.headers() or [])
            number = json.loads(message.value() or b"")["number"]
            found.append(((message.key() or b"").decode(), number, headers["id"].decode()))
        consumer.close()
        return found

    def arrived(self, number: int) -> list[tuple[str, int, str]]:
        """The records, once there are so many."""
        try:
            wait_for(f"{number} records", lambda: len(self.records()) >= number, PATIENCE)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.apps[-1].output[-3000:]}") from None
        return self.records()

    def empty(self) -> None:
        """Wait until all events are marked."""
        wait_for("an empty outbox", lambda: self.sql(WAITING) == [(0,)], PATIENCE)

    def hold_marks(self, aggregate: str = "%") -> psycopg.Connection[Any]:
        """Relays wait before they mark events of an aggregate, for as long as this connection lives."""
        self.sql(f"""CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN new; END $$;
            CREATE TRIGGER hold BEFORE UPDATE ON outbox FOR EACH ROW WHEN (new.aggregate LIKE '{aggregate}')
            EXECUTE FUNCTION hold()""")
        holder = psycopg.connect(self.url, autocommit=True)
        holder.execute("SELECT pg_advisory_lock(1)")
        return holder

    def held(self) -> int:
        """How many relays wait before their marks."""
        query = """SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
            WHERE d.datname = current_database() AND locktype = 'advisory' AND objid = 1 AND NOT granted"""
        return int(self.sql(query)[0][0])

    def close(self) -> None:
        for app in self.apps:
            if app.process.poll() is None:
                app.process.kill()
            app.ended()


@pytest.fixture
def world(build: str, kafka: Kafka, postgres: Postgres, tmp_path: Path) -> Iterator[World]:
    pytest.importorskip("confluent_kafka")
    made = World(build, kafka, postgres, tmp_path)
    yield made
    made.close()


def first(records: list[tuple[str, int, str]], aggregate: str) -> list[int]:
    """The numbers of an aggregate's events in the order of their first appearance."""
    return list(dict.fromkeys(number for key, number, _ in records if key == aggregate))


def test_a_rolled_back_event_is_not_sent(world: World, fault: Fault) -> None:
    world.create()
    app = world.start()
    answers = [app.ask(line) for line in ("roll back 1", "without 2", "commit 3")]
    assert answers == ["IllegalStateException", "IllegalTransactionStateException", "done"]
    records = world.arrived(1)
    world.empty()
    assert [key for key, *_ in records] == ["order/3"] and world.sql("SELECT id FROM orders") == [("3",)]
    assert world.sql("SELECT id::text FROM outbox") == [(records[0][2],)]
    fault("a transaction rolls back after its event, the next one commits", f"{len(records)} of 2 events sent")
    fault("an event without a transaction", f"refused with {answers[1]}")


def test_an_event_that_commits_late_is_neither_skipped_nor_overtaken(world: World, fault: Fault) -> None:
    world.create()
    insert = "INSERT INTO outbox (aggregate, type, payload) VALUES (%s, 'T', %s)"
    with psycopg.connect(world.url) as late, psycopg.connect(world.url) as second:
        late.execute(insert, ("late", '{"number": 1}'))
        world.write("other", 1)
        world.start()
        world.arrived(1)
        world.empty()
        second.execute("SET lock_timeout = '300ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            second.execute(insert, ("late", '{"number": 2}'))
        late.commit()
    world.write("late", 2)
    records = world.arrived(3)
    order = [number for key, number, _ in records if key == "late"]
    assert order == [1, 2]
    fault(
        "an event commits after a later one of another aggregate was sent",
        f"sent, {3 - len(records)} skipped; a second writer of the same aggregate had to wait, order {order}",
    )


def test_kill_between_the_acknowledgement_and_the_mark(world: World, fault: Fault) -> None:
    world.create()
    world.write("a", *range(1, 6))
    with world.hold_marks():
        app = world.start()
        world.arrived(5)
        wait_for("the mark", world.held, PATIENCE)
        app.send(signal.SIGKILL)
        app.ended()
    world.start()
    world.empty()
    records = world.arrived(10)
    ids = [event for *_, event in records]
    assert ids[:5] == ids[5:] and first(records, "a") == [1, 2, 3, 4, 5]
    fault(
        "kill -9 of the relay after the broker acknowledged 5 events, before it marked them",
        f"{len(ids) - len(set(ids))} sent again under the same ids, {5 - len(set(ids))} lost, the order held",
    )


def test_a_broker_that_is_away_costs_no_event(world: World, kafka: Kafka, fault: Fault) -> None:
    world.create()
    world.write("a", 1)
    app = world.start(spring__kafka__producer__properties__delivery__timeout__ms=5000)
    world.arrived(1)
    world.empty()
    kafka.stop(signal.SIGKILL)
    try:
        for number in range(2, 12):
            world.write("a", number)
            world.write(f"b{number}", 1)
        app.logged("broker: ", 2)
        attempts = world.sql("SELECT count(*), sum(attempts) FROM outbox WHERE sent_at IS NULL")[0]
    finally:
        kafka.start()
    world.empty()
    records = world.records()
    assert attempts == (20, 0) and first(records, "a") == list(range(1, 12))
    fault(
        "kill -9 of the broker, 20 events while it is away",
        f"{attempts[0]} waiting and {attempts[1]} attempts counted against them; after its restart "
        f"{21 - len({event for *_, event in records})} lost, the order held, by the same process",
    )


def test_a_broker_that_hangs_holds_no_transaction_for_long(world: World, kafka: Kafka, fault: Fault) -> None:
    world.create()
    world.write("a", 1)
    app = world.start()
    world.arrived(1)
    world.empty()
    kafka.process.send_signal(signal.SIGSTOP)
    try:
        world.write("a", 2, 3)
        begin = time.monotonic()
        app.logged("broker: ", 2)
        took = time.monotonic() - begin
        waiting = world.sql(WAITING)[0][0]
    finally:
        kafka.process.send_signal(signal.SIGCONT)
    world.empty()
    # Two attempts, each given up by delivery.timeout.ms; the rest is left to a loaded machine.
    assert took < 60 and waiting == 2 and first(world.records(), "a") == [1, 2, 3]
    fault(
        "the broker accepts connections and never answers (SIGSTOP), then goes on",
        f"given up after delivery.timeout.ms and tried again, {waiting} waiting; sent in order afterwards",
    )


def test_weaker_acknowledgements_are_refused(world: World, fault: Fault) -> None:
    world.create()
    app = world.start(spring__kafka__producer__acks=1)
    status = app.ended()
    assert "Must set acks to all in order to use the idempotent producer" in app.output
    fault("somebody sets acks to 1", f"the process ends at start with {status}")


def test_two_relays_share_the_work_and_repeat_nothing(world: World, fault: Fault) -> None:
    world.create()
    world.write("a", 1, 2)
    lane = "SELECT hashtextextended(%s, 0) & 15"
    names = [f"b{number}" for number in range(40)]
    others = [each for each in names if world.sql(lane, each) != world.sql(lane, "a")][:20]
    with world.hold_marks("a"):
        world.start()
        wait_for("the first one's mark", world.held, PATIENCE)
        world.write("a", 3)
        world.start()
        for number in range(1, 4):  # each time the second relay finds nothing else to do, but the lane that is locked
            for each in others:
                world.write(each, number)
            wait_for("the others' marks", lambda: world.sql(WAITING + " AND aggregate <> 'a'") == [(0,)], PATIENCE)
        assert first(world.records(), "a") == [1, 2] and world.held() == 1
    for number in range(4, 11):
        for each in others:
            world.write(each, number)
    world.empty()
    records = world.records()
    ids = [event for *_, event in records]
    for each in others:
        assert first(records, each) == list(range(1, 11))
    assert first(records, "a") == [1, 2, 3] and all(app.process.poll() is None for app in world.apps)
    fault(
        "a second relay while the first has 2 of an aggregate's 3 events at work, then more events for both",
        f"the second took other lanes meanwhile; {len(set(ids))} events sent, "
        f"{len(ids) - len(set(ids))} twice, the order of {len(others) + 1} aggregates held",
    )


def test_a_relay_that_stands_still_loses_its_lane(world: World, fault: Fault) -> None:
    world.create()
    world.write("a", 1, 2, 3)
    with world.hold_marks():
        frozen = world.start(outbox__silence="5s")
        wait_for("its mark", world.held, PATIENCE)
        frozen.send(signal.SIGSTOP)
    try:
        world.start()
        world.write("a", 4)
        world.empty()
    finally:
        frozen.send(signal.SIGCONT)
    world.write("a", 5)
    world.empty()
    records = world.records()
    assert first(records, "a") == [1, 2, 3, 4, 5]
    fault(
        "a relay is frozen before it marks 3 events (SIGSTOP), and goes on after another has taken over",
        f"the database ended its transaction; {5 - len({event for *_, event in records})} lost, the order held",
    )


def test_an_oversized_event_stops_its_aggregate_only(world: World, fault: Fault) -> None:
    world.create(max_message_bytes="100000")
    world.write("a", 1)
    world.write("a", 2, size=200_000)
    world.write("a", 3)
    lane = "SELECT hashtextextended(%s, 0) & 15"
    same = next(each for each in map(str, range(999)) if world.sql(lane, each) == world.sql(lane, "a"))
    world.sql("""CREATE TABLE pause (attempts int, seconds int);
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO pause VALUES (new.attempts, round(extract(epoch FROM new.next_at - clock_timestamp())));
            RETURN new; END $$;
        CREATE TRIGGER note BEFORE UPDATE OF attempts ON outbox FOR EACH ROW EXECUTE FUNCTION note()""")
    world.start(outbox__batch=2)
    refused = "SELECT attempts, last_error FROM outbox WHERE sent_at IS NULL AND attempts > 1"
    wait_for("two attempts", lambda: world.sql(refused), PATIENCE)
    world.write(same, 1)
    others = world.arrived(2)
    assert first(others, "a") == [1] and first(others, same) == [1]
    error = world.sql(refused)[0][1].partition(":")[0].rpartition(".")[2]
    world.configure("max.message.bytes", "1000000")
    world.empty()
    records = world.records()
    assert len(records) == 4 and first(records, "a") == [1, 2, 3]
    pauses = [seconds for (seconds,) in world.sql("SELECT seconds FROM pause WHERE attempts < 3 ORDER BY attempts")]
    fault(
        "the second of 3 events of an aggregate is larger than the topic takes, until it takes larger ones",
        f"{error}, tried again after {pauses[0]} s, {pauses[1]} s and so on, an aggregate of the same lane goes on; "
        f"afterwards order {first(records, 'a')}",
    )


def test_a_database_that_restarts_costs_no_event(world: World, postgres: Postgres, fault: Fault) -> None:
    world.create()
    world.write("a", 1)
    app = world.start()
    world.arrived(1)
    world.empty()
    postgres.stop(signal.SIGKILL)
    postgres.start()
    world.write("a", 2)
    world.empty()
    records = world.records()
    assert app.process.poll() is None and first(records, "a") == [1, 2]
    fault("kill -9 of PostgreSQL", f"the same process went on, {len(records)} of 2 events sent")


def test_shutdown_sends_and_marks_the_batch_at_work(world: World, fault: Fault) -> None:
    world.create()
    world.write("a", 1, 2, 3)
    with world.hold_marks():
        app = world.start(
            **{"logging.level.org.springframework.context.support.DefaultLifecycleProcessor": "trace"}, outbox__batch=2
        )
        wait_for("the mark", world.held, PATIENCE)
        app.send(signal.SIGTERM)
        app.logged("Stopping beans in phase")
        with pytest.raises(subprocess.TimeoutExpired):
            app.process.wait(timeout=3)
        assert world.held()
    status = app.ended()
    marked = 3 - world.sql(WAITING)[0][0]
    world.start()
    world.empty()
    records = world.records()
    ids = [event for *_, event in records]
    assert marked >= 2
    fault(
        "SIGTERM between the acknowledgement and the mark of the first 2 of 3 events",
        f"exit {status}, these 2 marked, {len(ids) - len(set(ids))} repeated by the next process",
    )
