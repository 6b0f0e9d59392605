"""The listener as a process of its own, between a real Kafka, a real PostgreSQL and a service that fails on demand."""

from __future__ import annotations

import http.server
import itertools
import json
import re
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections import Counter
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
# What the group coordinator waits for by default is 45 s.
BROKER: dict[str, object] = {
    "group.consumer.session.timeout.ms": 3000, "group.consumer.min.session.timeout.ms": 1000,
    "group.consumer.heartbeat.interval.ms": 300, "group.consumer.min.heartbeat.interval.ms": 100,
}  # fmt: skip


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The recipe compiled with all warnings as errors; returns the class path."""
    if not program("mvn"):
        pytest.skip("needs Maven")
    folder = tmp_path_factory.mktemp("build") / "code"
    shutil.copytree(HERE, folder)
    done = maven(folder, "compile")
    assert done.returncode == 0, done.stdout
    return f"{folder / 'target' / 'classes'}:{classpath(folder)}"


@pytest.fixture(scope="module")
def kafka(build: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    server = Kafka(tmp_path_factory.mktemp("kafka"), BROKER)
    yield server
    server.stop()


class Rates:
    """The service: answers 2 for every currency but XXX, or what `modes` says for the next calls."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.modes: Iterator[str] = itertools.repeat("works")
        self.ending = threading.Event()
        rates = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                currency = self.path.strip("/")
                rates.calls[currency] += 1
                mode = next(rates.modes)
                if mode == "never answers":
                    rates.ending.wait(20)
                    return
                self.send_response(404 if currency == "XXX" else 503 if mode == "answers 503" else 200)
                self.send_header("Content-Length", "20" if mode == "trickles" else "1")
                self.end_headers()
                self.wfile.write(b"2")
                if mode == "trickles":
                    rates.ending.wait(20)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/"


class App:
    """One instance of the listener."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.log = log
        with open(log, "wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def logged(self, text: str, times: int = 1) -> None:
        wait_for(f"{text!r} in the log", lambda: self.output.count(text) >= times, PATIENCE)

    def send(self, how: signal.Signals) -> None:
        self.process.send_signal(how)

    def ended(self) -> int:
        return self.process.wait(timeout=PATIENCE)


class World:
    """A topic, a database with two accounts, the service, and instances of the listener."""

    def __init__(self, build: str, kafka: Kafka, postgres: Postgres, folder: Path) -> None:
        from confluent_kafka import Producer
        from confluent_kafka.admin import AdminClient

        self.build, self.kafka, self.folder = build, kafka, folder
        self.topic = f"payments{next(NUMBERS)}"
        self.url = postgres.new_database()
        self.rates = Rates()
        self.apps: list[App] = []
        quiet: dict[str, Any] = {"bootstrap.servers": kafka.url, "log_level": 0}
        self.admin = AdminClient(quiet)
        self.producer = Producer({**quiet, "message.max.bytes": 4_000_000})
        self.sql((HERE / "inbox.sql").read_text(encoding="utf-8"))
        self.sql("CREATE TABLE account (id text PRIMARY KEY, cents bigint NOT NULL CHECK (cents >= 0))")
        self.sql("INSERT INTO account VALUES ('a', 0), ('b', 0), ('c', 0)")

    def topics(self, partitions: int = 1, dead: bool = True) -> None:
        from confluent_kafka.admin import NewTopic

        new = [NewTopic(self.topic, partitions, 1)]
        if dead:
            new.append(NewTopic(f"{self.topic}-dlt", partitions, 1, config={"max.message.bytes": "2000000"}))
        for done in self.admin.create_topics(new).values():
            done.result(PATIENCE)

    def sql(self, query: Any, *values: object) -> list[Any]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(query, values or None)
            return cursor.fetchall() if cursor.description else []

    def fail(self, condition: str) -> None:
        """Let bookings on account c fail while the number of the attempt fulfils a condition."""
        self.sql(f"""CREATE SEQUENCE attempt;
            CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE n bigint := nextval('attempt');
            BEGIN IF {condition} THEN RAISE 'not now'; END IF; RETURN new; END $$;
            CREATE TRIGGER fail BEFORE UPDATE ON account FOR EACH ROW WHEN (new.id = 'c') EXECUTE FUNCTION fail()""")

    def attempts(self) -> int:
        return int(self.sql("SELECT last_value FROM attempt")[0][0])

    def raw(self, value: bytes | None, event: str | None = "", key: bytes = b"k", partition: int = 0) -> None:
        headers: dict[str, Any] = {} if event is None else {"id": event or str(uuid.uuid4())}
        self.producer.produce(self.topic, value, key, partition, headers=headers)
        assert self.producer.flush(PATIENCE) == 0

    def pay(self, account: str, cents: int = 100, currency: str = "USD", event: str = "", partition: int = 0) -> None:
        value = json.dumps({"account": account, "cents": cents, "currency": currency}).encode()
        self.raw(value, event, account.encode(), partition)

    def start(self, **settings: object) -> App:
        from urllib.parse import urlsplit

        place = urlsplit(self.url)
        options = {
            "spring.datasource.url": f"jdbc:postgresql://127.0.0.1:{place.port}{place.path}?user=postgres",
            "spring.kafka.bootstrap-servers": self.kafka.url,
            "payments.topic": self.topic,
            "payments.rates": self.rates.url,
            "spring.kafka.consumer.group-id": self.topic,
            **{name.replace("__", ".").replace("_", "-"): value for name, value in settings.items()},
        }
        java = [str(java_home() / "bin" / "java"), "-XX:TieredStopAtLevel=1", "-Xmx256m", "-cp", self.build]
        words = [f"--{name}={value}" for name, value in options.items()]
        app = App([*java, "payments.PaymentListener", *words], self.folder / f"app{len(self.apps)}.log")
        self.apps.append(app)
        return app

    def cents(self, account: str) -> int:
        return int(self.sql("SELECT cents FROM account WHERE id = %s", account)[0][0])

    def booked(self, account: str, cents: int) -> None:
        last = self.apps[-1].process
        try:
            wait_for(f"{cents} on {account}", lambda: self.cents(account) >= cents or last.poll() is not None, PATIENCE)
            assert last.poll() is None, self.apps[-1].output[-3000:]
        except TimeoutError as error:
            raise AssertionError(f"{error}: {self.cents(account)}\n{self.apps[-1].output[-3000:]}") from None
        assert self.cents(account) == cents

    def committed(self) -> int:
        """The sum of the offsets that the group has committed."""
        from confluent_kafka import ConsumerGroupTopicPartitions

        asked = self.admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(self.topic)])
        return sum(max(0, each.offset) for each in asked[self.topic].result(PATIENCE).topic_partitions)

    def commits(self, offset: int) -> None:
        wait_for(f"commit of {offset}", lambda: self.committed() >= offset, PATIENCE)
        assert self.committed() == offset

    def dead(self, number: int) -> list[Any]:
        """The dead letters, of which so many are expected."""
        from confluent_kafka import Consumer, TopicPartition

        consumer = Consumer({"bootstrap.servers": self.kafka.url, "group.id": "x", "log_level": 0,
                             "enable.partition.eof": True, "enable.auto.commit": False})  # fmt: skip
        found: list[Any] = []
        place = TopicPartition(f"{self.topic}-dlt", 0, 0)
        wait_for("dead letters", lambda: consumer.get_watermark_offsets(place, 10)[1] >= number, PATIENCE)
        consumer.assign([place])
        while (message := consumer.poll(PATIENCE)) is not None and not message.error():
            found.append(message)
        consumer.close()
        assert len(found) == number
        return found

    def close(self) -> None:
        for app in self.apps:
            if app.process.poll() is None:
                app.process.kill()
            app.ended()
        self.rates.ending.set()
        self.rates.server.shutdown()
        self.rates.server.server_close()


@pytest.fixture
def world(build: str, kafka: Kafka, postgres: Postgres, tmp_path: Path) -> Iterator[World]:
    pytest.importorskip("confluent_kafka")
    made = World(build, kafka, postgres, tmp_path)
    yield made
    made.close()


def test_the_same_event_has_its_effect_once(world: World, fault: Fault) -> None:
    world.topics()
    twice = str(uuid.uuid4())
    for event in (twice, twice, "", twice):
        world.pay("a", event=event)
    world.pay("b")
    world.start()
    world.booked("b", 200)
    world.booked("a", 400)
    world.commits(5)
    rows = world.sql("SELECT count(*) FROM inbox")[0][0]
    fault(
        "the same event 3 times at 3 offsets, among 2 others, all before the first start of the group",
        f"handled {sum(world.rates.calls.values())} times, booked {rows} times, "
        f"offset {world.committed()} of 5 committed",
    )


def test_what_cannot_succeed_goes_to_the_dead_letters_at_once(world: World, fault: Fault) -> None:
    world.topics()
    good = json.dumps({"account": "a", "cents": 1, "currency": "USD"}).encode()
    large = b"x" * 1_048_300  # with its headers as large as the topic takes
    bad: dict[str, tuple[bytes | None, str | None]] = {
        "bytes that are no JSON": (b"\xff\x00\x01", ""),
        "half a JSON": (good[:20], ""),
        "a field missing": (b'{"account": "a", "cents": 1}', ""),
        "a tombstone": (None, ""),
        "no event id": (good, None),
        "an id that is no UUID": (good, "17"),
        "an unknown account": (good.replace(b'"a"', b'"z"'), ""),
        "a violated constraint": (good.replace(b"1", b"-1"), ""),
        "1 MiB of rubbish": (large, ""),
    }
    unknown = 12  # more than the circuit breaker would open for, if it counted them
    for value, event in [*bad.values(), *[(good.replace(b"USD", b"XXX"), "")] * unknown]:
        world.raw(value, event, key=b"\xfe")
    world.pay("b")
    # A retry or an open circuit breaker would keep the last record back for longer than the test waits.
    world.start(payments__first_retry="100s", payments__retries="100s", payments__open="10m")
    world.booked("b", 200)
    dead = world.dead(len(bad) + unknown)
    same = [
        (each.key(), each.value()) == (b"\xfe", value) for each, (value, _) in zip(dead, bad.values(), strict=False)
    ]
    headers = [dict(each.headers()) for each in dead]
    assert all("kafka_dlt-exception-fqcn" in each and "kafka_dlt-original-offset" in each for each in headers)
    assert not any("kafka_dlt-exception-stacktrace" in each for each in headers)
    assert world.sql("SELECT count(*) FROM inbox") == [(1,)]
    fault(
        ", ".join(bad),
        f"{len(dead) - unknown} dead letters after one attempt each, {sum(same)} with key and value as they came; "
        f"the record behind them is booked",
    )
    fault(
        f"{unknown} records for which the service answers 404",
        f"{unknown} dead letters after {world.rates.calls['XXX']} calls, the circuit breaker stays closed",
    )


def test_a_failure_that_passes_is_retried(world: World, fault: Fault) -> None:
    world.topics()
    world.fail("n <= 2")
    world.pay("c")
    world.start(payments__first_retry="100ms")
    world.booked("c", 200)
    world.commits(1)
    fault(
        "the handler fails twice, then works",
        f"booked once at attempt {world.attempts()}, {len(world.dead(0))} dead letters",
    )


def test_a_failure_that_lasts_ends_in_the_dead_letters(world: World, fault: Fault) -> None:
    world.topics()
    world.fail("true")
    for account in "acb":
        world.pay(account)
    app = world.start(payments__first_retry="100ms", payments__retries="700ms")
    world.booked("b", 200)
    world.commits(3)
    dead = world.dead(1)
    assert json.loads(dead[0].value())["account"] == "c"
    assert (world.cents("a"), world.cents("c")) == (200, 0)
    fault(
        "the handler always fails for the second of 3 records, waits are 100 ms, 200 ms and so on, 700 ms in all",
        f"{len(dead)} dead letter after {world.attempts()} attempts, the records before and after it booked once; "
        f"in the log {len(re.findall('attempt .*: not now', app.output))} attempts with their reason "
        f"and {app.output.count(' to dead letters')} dead letter",
    )


def test_kill_between_the_database_and_the_offset(world: World, fault: Fault) -> None:
    world.topics()
    world.pay("a", currency="CHF")
    world.pay("b")
    with psycopg.connect(world.url) as holder:
        holder.execute("SELECT FROM account WHERE id = 'b' FOR UPDATE")
        app = world.start(spring__transaction__default_timeout="10s", spring__kafka__consumer__max_poll_records=5)
        world.booked("a", 200)
        wait_for("the second record", lambda: world.rates.calls["USD"], PATIENCE)
        between = world.committed()
        app.send(signal.SIGKILL)
        app.ended()
    assert between == 0
    world.start()
    world.booked("b", 200)
    world.commits(2)
    world.booked("a", 200)
    fault(
        "kill -9 after the commit in the database and before the commit of the offset, then a restart",
        f"the record came {world.rates.calls['CHF']} times and was booked {world.cents('a') // 200} time; "
        f"offset {between} committed before, {world.committed()} after",
    )


def test_the_container_pauses_while_the_service_is_down(world: World, fault: Fault) -> None:
    world.topics()
    modes = ("answers 503", "never answers", "trickles")
    world.rates.modes = itertools.cycle(modes)
    world.pay("a")
    world.pay("b")
    app = world.start(
        spring__kafka__consumer__max_poll_records=1, spring__kafka__consumer__max_poll_interval="4s",
        spring__transaction__default_timeout="1s", spring__datasource__hikari__connection_timeout=250,
        payments__deadline="500ms", payments__first_retry="100ms", payments__retries="300ms", payments__open="3s",
    )  # fmt: skip
    wait_for("3 calls", lambda: world.rates.calls["USD"] >= 3, PATIENCE)
    begin = time.monotonic()
    wait_for("4 probes", lambda: world.rates.calls["USD"] >= 7, PATIENCE)
    assert time.monotonic() - begin > 2 * 4
    assert world.committed() == 0
    world.rates.modes = itertools.repeat("works")
    world.booked("b", 200)
    world.booked("a", 200)
    world.commits(2)
    assigned = app.output.count(f"partitions assigned: [{world.topic}-0]")
    refused = app.output.count("does not permit further calls")
    fault(
        f"the service {', '.join(modes)} in turn, for more than twice max.poll.interval",
        f"the container paused: {refused} records handed out while the circuit breaker was open, partitions assigned "
        f"{assigned} time, {len(world.dead(0))} dead letters; all booked once when it was back",
    )


def test_a_database_that_is_away_costs_no_record(world: World, postgres: Postgres, fault: Fault) -> None:
    world.topics()
    app = world.start(payments__first_retry="100ms", payments__retries="300ms")
    app.logged(f"partitions assigned: [{world.topic}-0]")
    world.pay("a")
    world.booked("a", 200)
    postgres.stop(signal.SIGKILL)
    try:
        world.pay("a", currency="CHF")
        wait_for("4 attempts", lambda: world.rates.calls["CHF"] >= 4, PATIENCE)
    finally:
        postgres.start()
    world.booked("a", 400)
    world.commits(2)
    fault(
        "PostgreSQL killed and away for longer than all retries of a record together",
        f"{len(world.dead(0))} dead letters, the record waited and was booked once, by the same process",
    )


def test_a_second_instance_joins_and_the_first_leaves(world: World, fault: Fault) -> None:
    world.topics(6)
    first = world.start()
    total = 600

    def some(number: int) -> None:
        for each in range(number):
            value = json.dumps({"account": "a", "cents": 1, "currency": "USD"}).encode()
            world.producer.produce(world.topic, value, b"a", each % 6, headers={"id": str(uuid.uuid4())})
        assert world.producer.flush(PATIENCE) == 0

    some(200)
    wait_for("some bookings", lambda: world.cents("a") > 0, PATIENCE)
    second = world.start()
    some(200)
    wait_for("the second's share", lambda: f"partitions assigned: [{world.topic}-" in second.output, PATIENCE)
    some(200)
    first.send(signal.SIGTERM)
    status = first.ended()
    world.booked("a", 2 * total)
    world.commits(total)
    fault(
        f"a second instance joins and the first gets SIGTERM while {total} records arrive on 6 partitions",
        f"{world.sql('SELECT count(*) FROM inbox')[0][0]} booked, {world.cents('a') // 2 - total} of them twice, "
        f"{len(world.dead(0))} dead letters, exit {status}",
    )


def test_an_instance_that_stands_still_is_replaced(world: World, fault: Fault) -> None:
    world.topics()
    world.pay("a")
    with psycopg.connect(world.url) as holder:
        holder.execute("SELECT FROM account WHERE id = 'a' FOR UPDATE")
        frozen = world.start(spring__transaction__default_timeout="10s", spring__kafka__consumer__max_poll_records=5)
        waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        wait_for("its transaction", lambda: world.sql(waiting), PATIENCE)
        frozen.send(signal.SIGSTOP)
    try:
        world.start()
        world.booked("a", 200)
        world.commits(1)
    finally:
        frozen.send(signal.SIGCONT)
    frozen.logged("partitions lost")
    world.booked("a", 200)
    fault(
        "an instance freezes in the middle of its transaction (SIGSTOP), and goes on after another has taken over",
        f"the database ended its transaction, the other booked the record; booked {world.cents('a') // 200} time",
    )


def test_without_a_dead_letter_topic_nothing_is_skipped(world: World, fault: Fault) -> None:
    from confluent_kafka.admin import NewTopic

    world.topics(dead=False)
    world.raw(b"rubbish")
    world.pay("a")
    app = world.start(spring__kafka__producer__properties__max__block__ms=500)
    app.logged(f"Dead-letter publication to {world.topic}-dlt failed", 2)
    before = (world.committed(), world.cents("a"))
    assert before == (0, 0)
    for done in world.admin.create_topics([NewTopic(f"{world.topic}-dlt", 1, 1)]).values():
        done.result(PATIENCE)
    world.booked("a", 200)
    world.commits(2)
    fault(
        "no dead-letter topic, then somebody creates it",
        f"{before[0]} offsets committed and {before[1]} booked before, "
        f"{len(world.dead(1))} dead letter and the next record booked after",
    )


def test_shutdown_finishes_the_record_at_work_and_no_other(world: World, fault: Fault) -> None:
    world.topics()
    for account, currency in (("a", "CHF"), ("b", "SEK"), ("b", "NOK")):
        world.pay(account, currency=currency)
    with psycopg.connect(world.url) as holder:
        holder.execute("SELECT FROM account WHERE id = 'a' FOR UPDATE")
        app = world.start(
            spring__transaction__default_timeout="10s", spring__kafka__consumer__max_poll_records=5,
            logging__level__org__springframework__context__support__DefaultLifecycleProcessor="debug",
        )  # fmt: skip
        wait_for("the first record", lambda: world.rates.calls["CHF"], PATIENCE)
        app.send(signal.SIGTERM)
        app.logged("Stopping beans in phase")
        app.logged("org.springframework.kafka.config.internalKafkaListenerEndpointRegistry")
        alive = app.process.poll() is None
    status = app.ended()
    world.commits(1)
    assert world.cents("a") == 200
    assert alive and not world.rates.calls["SEK"]
    world.start()
    world.booked("b", 400)
    fault(
        "SIGTERM while the first of 3 records that were fetched together is at work",
        f"exit {status}, that record booked and its offset committed; the other 2 by the next process, "
        f"{sum(world.rates.calls.values()) - 3} records handled twice",
    )


def test_a_consumer_that_gives_up_ends_the_process(world: World, fault: Fault) -> None:
    world.topics()
    app = world.start(spring__kafka__consumer__auto_offset_reset="none")
    status = app.ended()
    assert "NO_OFFSET" in app.output or "no reset policy" in app.output
    fault("the consumer stops for good (no offset, auto-offset-reset: none)", f"the process ends with {status}")


def test_settings_that_would_exceed_the_poll_interval_are_refused(world: World, fault: Fault) -> None:
    world.topics()
    app = world.start(spring__kafka__consumer__max_poll_interval="60s")
    status = app.ended()
    assert "slow records would exceed max-poll-interval" in app.output
    fault("max-poll-interval of 60 s, 20 records of up to 9 s each", f"the process ends at start with {status}")
