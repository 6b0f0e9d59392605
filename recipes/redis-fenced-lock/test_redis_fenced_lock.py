"""The fenced lock with holders that are paused, killed and late, and a Redis that forgets."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from redis import Redis
from redis.exceptions import RedisError

from recipes.engines import Valkey, wait_for

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))
from fenced_lock import Lease, LockHeld, LockLost, client, hold  # noqa: E402

Fault = Callable[[str, str], None]
SHORT, LONG = 2, 600  # seconds of a lease: one that is to end, and one that no busy machine meets
KEY = "lock:{report}"

# A program that holds the lock and does a step for each line that it is told; an answer is printed for each.
HOLDER = """
import sys
import psycopg
from fenced_lock import Lease, LockLost, client
redis, db = client(sys.argv[1]), psycopg.connect(sys.argv[2], autocommit=True)
lease = Lease(redis, "report", float(sys.argv[3]))
for line in sys.stdin:
    step, _, text = line.strip().partition(" ")
    try:
        if step == "take":
            lease.acquire(wait=60)
            lease.claim(db)
        elif step == "write":
            with lease.transaction(db):
                db.execute("UPDATE report SET body = %s", (text,))
        elif step == "begin":
            with lease.transaction(db):
                db.execute("UPDATE report SET body = %s", (text,))
                print("begun", flush=True)
                sys.stdin.readline()
        else:
            getattr(lease, step)()
        print(lease.token, flush=True)
    except (LockLost, psycopg.Error) as error:
        print(type(error).__name__, flush=True)
"""


class Holder:
    def __init__(self, url: str, database: str, lease: float) -> None:
        command = [sys.executable, "-c", HOLDER, url, database, str(lease)]
        self.process = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": str(FOLDER)}, stdin=-1, stdout=-1, text=True
        )

    def tell(self, step: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(step + "\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout
        assert select.select([self.process.stdout], [], [], 60)[0], "no answer"
        return self.process.stdout.readline().strip()

    def do(self, step: str) -> str:
        self.tell(step)
        return self.answer()


@pytest.fixture
def holder(valkey: Valkey, database: str) -> Iterator[Callable[[float], Holder]]:
    started: list[Holder] = []

    def start(lease: float) -> Holder:
        started.append(Holder(valkey.url, database, lease))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate(timeout=30)


@pytest.fixture
def db(database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute((FOLDER / "fence.sql").read_text(encoding="utf-8"))  # type: ignore[arg-type]
        connection.execute("CREATE TABLE report (body text NOT NULL)")
        connection.execute("INSERT INTO report VALUES ('')")
        yield connection


@pytest.fixture
def redis(valkey: Valkey) -> Iterator[Redis]:
    with closing(client(valkey.url, timeout=30)) as connections:
        yield connections


def one(db: psycopg.Connection[Any], query: str) -> Any:
    row = db.execute(query).fetchone()  # type: ignore[arg-type]
    assert row
    return row[0]


def until_free(redis: Redis) -> None:
    wait_for("the end of the lease", lambda: not redis.exists(KEY))


def test_a_holder_paused_beyond_its_lease_writes_nothing(holder: Any, db: Any, redis: Redis, fault: Fault) -> None:
    first, second = holder(SHORT), holder(LONG)
    tokens = [first.do("take")]
    assert first.do("write first") == "1"
    first.process.send_signal(signal.SIGSTOP)
    tokens.append(second.do("take"))
    written = second.do("write second")
    first.tell("write first again")
    first.process.send_signal(signal.SIGCONT)
    assert tokens == ["1", "2"] and written == "2"
    answers = first.answer(), first.do("extend")
    body, held = one(db, "SELECT body FROM report"), second.do("extend")
    assert answers == ("LockLost", "LockLost") and body == "second" and held == "2"
    fault(
        "SIGSTOP of the holder until its lease of 2 s is over and another has written, then SIGCONT",
        f"its write and its extension: {', '.join(answers)}; the row is the {body} holder's",
    )


def test_a_claim_shuts_the_old_holder_out_before_the_first_write(holder: Any, db: Any, fault: Fault) -> None:
    first, second = holder(SHORT), holder(LONG)
    first.do("take")
    assert second.do("take") == "2"
    answer = first.do("write first")
    assert answer == "LockLost"
    fault("the old holder writes after another took over, before that one has written", f"{answer}")


def test_a_holder_paused_in_its_transaction_does_not_block(holder: Any, db: Any, fault: Fault) -> None:
    first, second = holder(SHORT), holder(LONG)
    first.do("take")
    assert first.do("begin first") == "begun"
    first.process.send_signal(signal.SIGSTOP)
    token, written = second.do("take"), second.do("write second")
    first.process.send_signal(signal.SIGCONT)
    answer = first.do("commit")
    body = one(db, "SELECT body FROM report")
    assert (token, written, body) == ("2", "2", "second") and answer not in {"1", "2"}
    fault(
        "SIGSTOP of the holder inside its open transaction",
        f"the server ends the session after one lease, the next one claims and writes; the first gets {answer}",
    )


def test_a_claim_waits_for_a_transaction_under_way(db: Any, database: str, redis: Redis, fault: Fault) -> None:
    first, second = Lease(redis, "report", LONG), Lease(redis, "report", LONG)
    first.acquire(0)
    first.claim(db)

    def append(lease: Lease, connection: Any, letter: str, meanwhile: Callable[[], object]) -> None:
        with lease.transaction(connection):
            body = one(connection, "SELECT body FROM report")
            meanwhile()
            connection.execute("UPDATE report SET body = %s", (body + letter,))

    with psycopg.connect(database, autocommit=True) as other, psycopg.connect(database, autocommit=True) as watch:

        def take_over() -> None:
            second.acquire(0)
            second.claim(other)
            append(second, other, "b", lambda: None)

        def waits_or_ended() -> bool:
            return thread.done() or one(watch, "SELECT count(*) FROM pg_locks WHERE NOT granted") > 0

        with ThreadPoolExecutor(1) as threads:
            redis.delete(KEY)  # the lease ends

            def start() -> None:
                nonlocal thread
                thread = threads.submit(take_over)
                wait_for("the other", waits_or_ended)

            thread: Any = None
            append(first, db, "a", start)
            thread.result(60)
    body = one(db, "SELECT body FROM report")
    assert body == "ab"
    fault(
        "the lease ends while a transaction of the holder (read, then write) is under way, another claims",
        f'the claim waits for the commit: "a" and "b" appended give "{body}"',
    )


def test_a_killed_holder_is_followed_after_its_lease(holder: Any, db: Any, redis: Redis, fault: Fault) -> None:
    first, second = holder(3), holder(LONG)
    first.do("take")
    first.process.kill()
    first.process.wait()
    left = redis.pttl(KEY)
    assert 0 < left <= 3000
    began = time.monotonic()
    token = second.do("take")
    took = time.monotonic() - began
    assert token == "2" and took > left / 1000 - 0.1
    fault("kill -9 of the holder, lease of 3 s", f"the next has token {token} once the lease is over, not before")


def test_a_stranger_releases_nothing(db: Any, redis: Redis, fault: Fault) -> None:
    first, second = Lease(redis, "report", 0.5), Lease(redis, "report", LONG)
    first.acquire(0)
    until_free(redis)
    second.acquire(0)
    first.release()
    owner = redis.get(KEY)
    with pytest.raises(LockHeld):
        Lease(redis, "report", LONG).acquire(0)
    assert owner == second.owner
    fault("release by a holder whose lease is over, while another has the lock", "the other still has it")
    second.release()
    second.release()
    assert not redis.exists(KEY)


def test_what_is_lost_cannot_be_extended(db: Any, redis: Redis, fault: Fault) -> None:
    first, second = Lease(redis, "report", 0.5), Lease(redis, "report", 60)
    first.acquire(0)
    first.milliseconds = LONG * 1000  # what it would extend to
    until_free(redis)
    with pytest.raises(LockLost):
        first.extend()
    keys = redis.exists(KEY)
    second.acquire(0)
    with pytest.raises(LockLost):
        first.extend()
    left = redis.pttl(KEY)
    assert keys == 0 and 0 < left <= 60_000
    fault(
        "extend after the lease is over, while nobody has the lock, then while another has it for 60 s",
        f"LockLost both times; {keys} locks made by it, the other's lease is no longer than before",
    )


def test_an_extension_gives_the_whole_lease_again(db: Any, redis: Redis) -> None:
    lease = Lease(redis, "report", 60)
    lease.acquire(0)
    redis.pexpire(KEY, 20_000)
    lease.extend()
    assert 30_000 < redis.pttl(KEY) <= 60_000


def test_a_redis_that_forgot_its_counter(
    holder: Any, valkey: Valkey, db: Any, redis: Redis, caplog: Any, fault: Fault
) -> None:
    for _ in range(5):
        with hold(redis, db, "report"):
            pass
    old = holder(LONG)
    assert (old.do("take"), old.do("write old")) == ("6", "6")
    valkey.stop(signal.SIGKILL)
    with pytest.raises(RedisError), hold(redis, db, "report"):
        pass
    meanwhile = old.do("write still old")
    valkey.start()
    with hold(redis, db, "report", LONG) as lease:
        counter, token = [r.args for r in caplog.records if "counter raised" in r.msg][-1][1:]
        with lease.transaction(db):
            db.execute("UPDATE report SET body = 'new'")
        answer = old.do("write old again")
        body, fence = one(db, "SELECT body FROM report"), one(db, "SELECT token FROM fence")
    following = Lease(redis, "report", LONG)
    following.acquire(0)
    assert (meanwhile, answer, body) == ("6", "LockLost", "new") and lease.token == fence == 7
    assert following.token == 8
    fault(
        "kill -9 of Redis without persistence at token 6, its holder works on, restart, another takes the lock",
        f"the holder writes while Redis is down; the new one gets {counter} from Redis, the database has {token - 1}, "
        f"the counter is raised to {token}, the old holder gets {answer}",
    )


def test_of_two_with_the_same_token_one_claims(valkey: Valkey, db: Any, redis: Redis, fault: Fault) -> None:
    first, second = Lease(redis, "report", LONG), Lease(redis, "report", LONG)
    first.acquire(0)
    redis.flushall()
    second.acquire(0)
    tokens = first.token, second.token
    second.claim(db)
    with pytest.raises(LockLost):
        first.claim(db)
    with second.transaction(db):
        pass
    assert tokens == (1, 1)
    fault(
        f"Redis forgets between two acquisitions, so that both get token {tokens[0]}",
        "whoever claims first has the fence, the other gets LockLost",
    )


@contextmanager
def proxy(port: int, answers: Callable[[int, socket.socket, bytes], None]) -> Iterator[str]:
    """Stands before Redis; `answers` gets the number of each answer to a script and passes it on, or not."""
    count = 0

    def serve(near: socket.socket) -> None:
        nonlocal count
        with near, socket.create_connection(("127.0.0.1", port)) as far:
            try:
                while sent := near.recv(65536):
                    far.sendall(sent)
                    answer = far.recv(65536)
                    if b"lock:{report}" not in sent:
                        near.sendall(answer)
                        continue
                    count += 1
                    answers(count, near, answer)
            except OSError:
                pass

    def accept() -> None:
        while True:
            try:
                near = listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=serve, args=(near,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def test_lock_and_token_are_taken_in_one_step(valkey: Valkey, db: Any, redis: Redis, fault: Fault) -> None:
    late, second = threading.Event(), Lease(redis, "report", LONG)

    def hold_back(number: int, near: socket.socket, answer: bytes) -> None:
        if number == 1:
            late.wait(60)
        near.sendall(answer)

    with proxy(valkey.port, hold_back) as url, ThreadPoolExecutor(1) as threads, closing(client(url, 60)) as slow:
        first = Lease(slow, "report", SHORT)
        acquired = threads.submit(first.acquire, 0)
        wait_for("the first to have it", lambda: redis.exists(KEY) or acquired.done())
        until_free(redis)
        second.acquire(0)
        second.claim(db)
        late.set()
        acquired.result(60)
        with pytest.raises(LockLost):
            first.claim(db)
    with second.transaction(db):
        pass
    assert (first.token, second.token) == (1, 2)
    fault(
        "the answer of an acquisition comes when the lease is over and another has claimed",
        f"token {first.token}, against {second.token}: the claim is LockLost",
    )


def test_a_lost_answer_does_not_lock_its_owner_out(valkey: Valkey, db: Any, redis: Redis, fault: Fault) -> None:
    def lose_the_first(number: int, near: socket.socket, answer: bytes) -> None:
        if number == 1:
            near.shutdown(socket.SHUT_RDWR)
        else:
            near.sendall(answer)

    with proxy(valkey.port, lose_the_first) as url, closing(client(url, 60)) as unlucky:
        with hold(unlucky, db, "report", LONG) as lease, lease.transaction(db):
            token = lease.token
        assert not redis.exists(KEY)
    fault(f"the answer of an acquisition is lost, lease of {LONG} s", f"it has the lock at once, with token {token}")


def test_a_redis_that_never_answers_costs_two_timeouts(fault: Fault) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        redis = client(f"redis://127.0.0.1:{silent.getsockname()[1]}", timeout=0.2)
        with ThreadPoolExecutor(1) as threads:
            try:
                error = threads.submit(Lease(redis, "report", LONG).acquire, 60).exception(4)
            finally:
                silent.shutdown(socket.SHUT_RDWR)
    assert isinstance(error, RedisError)
    fault("a Redis that accepts and never answers, timeout 0.2 s", f"{type(error).__name__} within 4 s")


def test_a_claim_inside_another_transaction_is_an_error(db: Any, redis: Redis, fault: Fault) -> None:
    with pytest.raises(RuntimeError), db.transaction(), hold(redis, db, "report"):
        pass
    assert not redis.exists(KEY)
    fault("a claim inside a transaction that the caller has begun", "RuntimeError, and the lock is released")


CONTENDER = """
import sys
from concurrent.futures import ThreadPoolExecutor
import psycopg
from fenced_lock import Lease, client
redis = client(sys.argv[1], timeout=30)
def work(_):
    lease = Lease(redis, "report", 600)
    lease.acquire(wait=120)
    with psycopg.connect(sys.argv[2], autocommit=True) as db:
        lease.claim(db)
        with lease.transaction(db):
            (last,) = db.execute("SELECT coalesce(max(number), 0) FROM entry").fetchone()
            db.execute("INSERT INTO entry VALUES (%s, %s)", (last + 1, lease.token))
    lease.release()
with ThreadPoolExecutor(50) as threads:
    list(threads.map(work, range(50)))
"""


def test_100_contenders_take_turns(valkey: Valkey, db: Any, database: str, fault: Fault) -> None:
    db.execute("CREATE TABLE entry (number int, token bigint)")  # no key: nothing but the lock keeps numbers apart
    env = {**os.environ, "PYTHONPATH": str(FOLDER)}
    command = [sys.executable, "-c", CONTENDER, valkey.url, database]
    processes = [subprocess.Popen(command, env=env) for _ in range(2)]
    assert [process.wait(120) for process in processes] == [0] * 2
    entries = db.execute("SELECT number, token FROM entry ORDER BY token").fetchall()
    kept = sum(number == place for place, (number, _) in enumerate(entries, 1))
    tokens = len({token for _, token in entries})
    assert len(entries) == kept == tokens == 100
    fault(
        f"{len(entries)} contenders in {len(processes)} processes read the last number and write the next",
        f"{kept} numbers in the order of their {tokens} tokens, none twice",
    )
