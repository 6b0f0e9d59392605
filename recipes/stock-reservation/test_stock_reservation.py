from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from recipes.engines import Postgres, wait_for

SQL = (Path(__file__).parent / "stock_reservation.sql").read_text(encoding="utf-8")
Fault = Callable[[str, str], None]


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    server = Postgres(tmp_path_factory.mktemp("stock"), {"max_connections": "400"})
    yield server
    server.stop()


@pytest.fixture
def url(database: str) -> str:
    """A database with the recipe in it; what PL/pgSQL warns about fails."""
    with psycopg.connect(database, options="-c plpgsql.extra_errors=all") as connection:
        connection.execute(SQL)  # type: ignore[arg-type]
    return database


@pytest.fixture
def shop(url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection on which whoever waits longer than 20 s fails."""
    with psycopg.connect(url, autocommit=True, options="-c statement_timeout=20s") as connection:
        yield connection


def one(connection: psycopg.Connection[Any], query: str, *values: object) -> Any:
    row = connection.execute(query, values).fetchone()  # type: ignore[arg-type]
    assert row
    return row[0]


def open_stock(shop: psycopg.Connection[Any], units: int, buckets: int) -> None:
    shop.execute("SELECT open_stock('lamp', %s, %s)", (units, buckets))


def reserve(connection: psycopg.Connection[Any], key: UUID, units: int = 1, hold: str = "15 minutes") -> str:
    return str(one(connection, "SELECT reserve(%s, 'lamp', %s, %s)", key, units, hold))


def left(connection: psycopg.Connection[Any]) -> int:
    return int(one(connection, "SELECT sum(available) FROM stock WHERE sku = 'lamp'"))


def states(connection: psycopg.Connection[Any]) -> dict[str, int]:
    return dict(connection.execute("SELECT state, sum(quantity)::int FROM reservation GROUP BY state").fetchall())


def at_once(url: str, works: list[Callable[[psycopg.Connection[Any]], Any]]) -> list[Any]:
    """Run each in a thread with a connection of its own, all released at the same moment; raises what any raised."""
    results: list[Any] = [None] * len(works)
    gate = threading.Barrier(len(works))

    def run(number: int) -> None:
        try:
            with psycopg.connect(url, autocommit=True, options="-c statement_timeout=60s") as connection:
                gate.wait(120)
                results[number] = works[number](connection)
        except BaseException as error:
            gate.abort()
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, threading.BrokenBarrierError):
            raise result
    return results


def waits_for_lock(shop: psycopg.Connection[Any], connection: psycopg.Connection[Any]) -> bool:
    question = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
    return bool(one(shop, question, connection.info.backend_pid))


@pytest.mark.parametrize(("buckets", "where"), [(1, "in one row"), (8, "in 8 buckets")])
def test_250_buyers_at_once_get_40_units(url: str, shop: Any, fault: Fault, buckets: int, where: str) -> None:
    open_stock(shop, 40, buckets)
    answers = Counter(at_once(url, [lambda buyer: reserve(buyer, uuid4())] * 250))
    assert answers == {"held": 40, "sold_out": 210}
    assert states(shop) == {"held": 40}
    fault(
        f"250 buyers at once for 40 units {where}",
        f"{answers['held']} held, {answers['sold_out']} sold out, {left(shop)} left",
    )


def test_units_scattered_over_buckets_are_collected(url: str, shop: Any, fault: Fault) -> None:
    open_stock(shop, 32, 16)
    answers = Counter(at_once(url, [lambda buyer: reserve(buyer, uuid4(), 3)] * 200))
    assert answers == {"held": 10, "sold_out": 190}
    assert left(shop) == 2
    fault(
        "200 buyers at once, 3 units each, of 32 units that lie in 16 buckets of 2",
        f"{answers['held']} held, {answers['sold_out']} sold out, {left(shop)} left, no deadlock",
    )


def test_collecting_buyers_wait_in_one_order(url: str, shop: Any) -> None:
    open_stock(shop, 3, 3)
    with psycopg.connect(url) as holder, psycopg.connect(url, autocommit=True) as buyer:
        holder.execute("SELECT FROM stock WHERE bucket = 0 FOR UPDATE")
        answer: list[str] = []
        thread = threading.Thread(target=lambda: answer.append(reserve(buyer, uuid4(), 3)))
        thread.start()
        wait_for("the buyer's wait", lambda: waits_for_lock(shop, buyer))
        holder.execute("SELECT FROM stock WHERE bucket = 2 FOR UPDATE")  # a deadlock if the buyer holds it already
        holder.commit()
        thread.join()
        assert answer == ["held"]


def collects_while_another_wants_bucket_1(
    shop: psycopg.Connection[Any], url: str, buyer: psycopg.Connection[Any], lose: Callable[[], None]
) -> str:
    """Let the buyer lose the unit of bucket 1, then wait for bucket 0, whose holder wants bucket 1; the answer."""
    with psycopg.connect(url) as holder:
        holder.execute("SELECT FROM stock WHERE bucket = 0 FOR UPDATE")
        answer: list[str] = []
        thread = threading.Thread(target=lambda: answer.append(reserve(buyer, uuid4())))
        thread.start()
        wait_for("the buyer's wait", lambda: waits_for_lock(shop, buyer))
        lose()
        backends = holder.info.backend_pid, buyer.info.backend_pid
        wait_for("the wait for bucket 0", lambda: one(shop, "SELECT %s = ANY(pg_blocking_pids(%s))", *backends))
        holder.execute("UPDATE stock SET available = 1 WHERE bucket = 1")  # a deadlock if the buyer still holds it
        holder.commit()
        thread.join()
    return answer[0]


def test_a_buyer_who_waited_in_vain_holds_nothing(url: str, shop: Any, fault: Fault) -> None:
    shop.execute("INSERT INTO stock VALUES ('lamp', 0, 0), ('lamp', 1, 1)")
    with psycopg.connect(url) as first, psycopg.connect(url) as buyer:
        first.execute("UPDATE stock SET available = 0 WHERE bucket = 1")
        answer = collects_while_another_wants_bucket_1(shop, url, buyer, first.commit)
    assert answer == "held"
    fault(
        "a buyer waits for the last unit, loses it, and waits for a second bucket whose holder wants the first",
        f"no deadlock; the buyer got a unit that came back meanwhile: {answer}",
    )


def test_a_buyer_who_looked_too_early_holds_nothing(url: str, shop: Any, fault: Fault) -> None:
    shop.execute("INSERT INTO stock VALUES ('lamp', 0, 0), ('lamp', 1, 1)")
    shop.execute("""
        CREATE SCHEMA slow;
        CREATE FUNCTION slow.random() RETURNS float8 LANGUAGE sql VOLATILE AS  -- called between reading and locking
            'SELECT 0.5 FROM (SELECT pg_advisory_xact_lock_shared(1) OFFSET 0) AS waited'
    """)
    path = "-c search_path=slow,pg_catalog,public"
    with psycopg.connect(url) as gate, psycopg.connect(url, options=path) as buyer:
        gate.execute("SELECT pg_advisory_xact_lock(1)")

        def lose() -> None:
            shop.execute("UPDATE stock SET available = 0 WHERE bucket = 1")
            gate.commit()

        answer = collects_while_another_wants_bucket_1(shop, url, buyer, lose)
    assert answer == "held"
    fault(
        "the same, but the unit is lost between the buyer's look at the bucket and its lock",
        f"no deadlock; the buyer got a unit that came back meanwhile: {answer}",
    )


@pytest.mark.parametrize("buckets", [1, 4])
def test_sold_out_is_answered_without_waiting(url: str, shop: Any, fault: Fault, buckets: int) -> None:
    open_stock(shop, 0, buckets)
    with psycopg.connect(url) as stalled:
        stalled.execute("SELECT FROM stock FOR UPDATE")
        answers = Counter(at_once(url, [lambda buyer: reserve(buyer, uuid4())] * 50))
    assert answers == {"sold_out": 50}
    fault("50 buyers come too late while a transaction that hangs holds every stock row", "50 sold out, none waited")


def test_a_stalled_buyer_blocks_one_bucket_only(url: str, shop: Any, fault: Fault) -> None:
    open_stock(shop, 40, 4)
    with psycopg.connect(url) as stalled:
        assert reserve(stalled, uuid4()) == "held"
        answers = Counter(reserve(shop, uuid4()) for _ in range(30))
        assert answers == {"held": 30}
        fault(
            "a buyer's transaction hangs after it took a unit from one of 4 buckets of 10",
            f"{answers['held']} units of the other buckets were sold meanwhile, none of the buyers waited",
        )


def test_a_repeated_request_reserves_once(url: str, shop: Any, fault: Fault) -> None:
    open_stock(shop, 5, 1)
    key = uuid4()
    answers = Counter(at_once(url, [lambda buyer: reserve(buyer, key)] * 200))
    assert answers == {"held": 200}
    assert (left(shop), states(shop)) == (4, {"held": 1})
    with pytest.raises(psycopg.errors.UniqueViolation):
        reserve(shop, key, units=2)
    fault("the same request 200 times at once", f"{answers['held']} answers held, {5 - left(shop)} unit taken")


def test_an_answer_lost_after_the_commit_is_given_again(url: str, shop: Any, fault: Fault) -> None:
    open_stock(shop, 1, 1)
    key = uuid4()
    buyer = psycopg.connect(url, autocommit=True)
    buyer.pgconn.send_query(f"SELECT reserve('{key}', 'lamp', 1, '15 minutes')".encode())
    wait_for("the commit", lambda: states(shop) == {"held": 1})
    buyer.close()
    answer = reserve(shop, key)
    assert (answer, left(shop), states(shop)) == ("held", 0, {"held": 1})
    fault(
        "the connection breaks after the commit of the last unit, before the answer",
        f"the repeated request: {answer}, not sold out",
    )


def test_at_the_moment_of_expiry_each_unit_is_sold_again_once(url: str, shop: Any, fault: Fault) -> None:
    open_stock(shop, 20, 4)
    for _ in range(20):
        reserve(shop, uuid4(), hold="0 seconds")
    sweep = [lambda worker: one(worker, "SELECT expire_reservations()")] * 4
    answers = at_once(url, [*sweep, *[lambda buyer: reserve(buyer, uuid4())] * 230])
    swept, sold = sum(answers[:4]), answers[4:].count("held")
    assert swept + one(shop, "SELECT expire_reservations()") == 20
    sold += sum(reserve(shop, uuid4()) == "held" for _ in range(25))
    assert (sold, left(shop), states(shop)) == (20, 0, {"held": 20, "expired": 20})
    fault(
        "20 reservations lapse; 4 sweepers and 230 buyers at that moment, then 25 more buyers",
        f"{states(shop)['expired']} units came back, {sold} were sold again, {left(shop)} left",
    )


def test_a_late_confirmation_takes_the_units_again_or_refuses(shop: Any, fault: Fault) -> None:
    open_stock(shop, 1, 1)
    late, later, other = uuid4(), uuid4(), uuid4()
    confirm = "SELECT confirm(%s)"
    reserve(shop, late, hold="0 seconds")
    assert one(shop, confirm, late) == "confirmed"  # nobody has swept: the unit is still held
    shop.execute("SELECT add_stock('lamp', 1)")
    reserve(shop, later, hold="0 seconds")
    assert one(shop, "SELECT expire_reservations()") == 1
    reserve(shop, other)
    refused = one(shop, confirm, later)
    assert (refused, left(shop)) == ("expired", 0)
    assert one(shop, "SELECT release(%s)", other) == "released"
    accepted = [one(shop, confirm, later), one(shop, confirm, later)]
    assert accepted == ["confirmed", "confirmed"]
    assert (left(shop), states(shop)) == (0, {"confirmed": 2, "released": 1})
    assert one(shop, confirm, other) == "released"
    assert one(shop, confirm, uuid4()) is None
    fault("payment arrives after expiry, the unit is sold to somebody else", f"{refused}: give the money back")
    fault("payment arrives twice after expiry, the unit is on sale", f"{' and '.join(accepted)}, one unit taken")


def test_confirmation_and_expiry_never_both_happen(url: str, shop: Any, fault: Fault) -> None:
    open_stock(shop, 101, 8)
    keys = [uuid4() for _ in range(101)]
    for key in keys:
        reserve(shop, key, hold="0 seconds")
    with psycopg.connect(url) as payer:  # its confirmation is under way while the sweeper comes
        assert one(payer, "SELECT confirm(%s)", keys[0]) == "confirmed"
        assert one(shop, "SELECT expire_reservations(1)") == 1
        payer.commit()
    confirms = [lambda payer, key=key: one(payer, "SELECT confirm(%s)", key) for key in keys[1:]]
    sweeps = [lambda worker: one(worker, "SELECT expire_reservations(10)")] * 8
    answers = at_once(url, [*sweeps, *confirms])
    assert set(answers[8:]) == {"confirmed"}  # nobody else bought, so that a lapsed one got its unit back
    assert (left(shop), states(shop)) == (0, {"confirmed": 101})
    fault(
        "100 payments arrive while 8 sweepers expire their reservations",
        f"{states(shop)['confirmed'] - 1} confirmed, {left(shop)} units left over or sold twice",
    )


def test_a_second_release_gives_nothing_back(url: str, shop: Any, fault: Fault) -> None:
    open_stock(shop, 10, 2)
    freed, paid = uuid4(), uuid4()
    reserve(shop, freed)
    reserve(shop, paid)
    one(shop, "SELECT confirm(%s)", paid)
    answers = Counter(at_once(url, [lambda buyer: one(buyer, "SELECT release(%s)", freed)] * 100))
    assert answers == {"released": 100}
    assert one(shop, "SELECT release(%s)", paid) == "confirmed"
    assert left(shop) == 9
    fault("one reservation released 100 times at once, a confirmed one once", f"{left(shop) - 8} unit came back")


BUYER = """
import sys, time, psycopg
connection = psycopg.connect(sys.argv[1], autocommit=sys.argv[3] == "committed")
connection.execute("SELECT reserve(%s, 'lamp', 1, '1 hour')", (sys.argv[2],))
print("reserved", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("how", ["committed", "open"])
def test_a_buyer_killed_after_reserving_loses_no_unit(url: str, shop: Any, fault: Fault, how: str) -> None:
    open_stock(shop, 1, 1)
    key = uuid4()
    command = [sys.executable, "-c", BUYER, url, str(key), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as buyer:
        assert buyer.stdout and buyer.stdout.readline() == b"reserved\n"
        buyer.kill()
    if how == "open":
        wait_for("the rollback", lambda: reserve(shop, uuid4()) == "held")
        fault("kill -9 of the buyer's process before its commit", "the unit was on sale again without a sweep")
        return
    early = one(shop, "SELECT expire_reservations()")
    assert (early, reserve(shop, uuid4())) == (0, "sold_out")
    shop.execute("UPDATE reservation SET expires_at = expires_at - interval '1 hour'")
    swept = one(shop, "SELECT expire_reservations()")
    assert (swept, reserve(shop, uuid4())) == (1, "held")
    fault(
        "kill -9 of the buyer's process between reservation and payment",
        f"{early} came back before the hour, {swept} after it, and was sold",
    )


def test_a_crash_of_the_server_loses_no_unit(url: str, shop: Any, fault: Fault) -> None:
    open_stock(shop, 300, 4)
    answered, crashed = threading.Semaphore(0), threading.Event()

    def buy(unused: psycopg.Connection[Any]) -> int:
        """Reserve ten times; after a broken connection repeat the request with the same id."""
        for _ in range(10):
            key = uuid4()
            for _ in range(600):
                try:
                    with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
                        assert reserve(connection, key) == "held"
                        break
                except psycopg.OperationalError:
                    crashed.wait(0.1)
            answered.release()
        return 10

    def crash(connection: psycopg.Connection[Any]) -> int:
        for _ in range(30):
            assert answered.acquire(timeout=60)
        os.kill(connection.info.backend_pid, signal.SIGKILL)  # the server ends all sessions and recovers from its log
        return 0

    sold = sum(at_once(url, [crash, *[buy] * 20]))
    with psycopg.connect(url, autocommit=True) as after:
        assert (sold, left(after), states(after)) == (200, 100, {"held": 200})
        fault(
            "kill -9 of a server process during a sale of 200 units; buyers repeat what got no answer",
            f"{states(after)['held']} held, {left(after)} of 300 left",
        )


def test_at_repeatable_read_a_retry_sells_the_rest(url: str, shop: Any, fault: Fault) -> None:
    open_stock(shop, 20, 2)

    def buy(connection: psycopg.Connection[Any]) -> str:
        connection.execute("SET default_transaction_isolation = 'repeatable read'")
        key = uuid4()
        for _ in range(1000):
            try:
                return reserve(connection, key)
            except psycopg.errors.SerializationFailure:
                pass
        return "gave up"

    answers = Counter(at_once(url, [buy] * 60))
    assert answers == {"held": 20, "sold_out": 40}
    assert left(shop) == 0
    fault(
        "60 buyers at once for 20 units at REPEATABLE READ, repeated on 40001",
        f"{answers['held']} held, {answers['sold_out']} sold out",
    )


def test_a_careless_statement_cannot_oversell(shop: Any, fault: Fault) -> None:
    open_stock(shop, 3, 1)
    with pytest.raises(psycopg.errors.CheckViolation) as error:
        shop.execute("UPDATE stock SET available = available - 5 WHERE sku = 'lamp'")
    assert left(shop) == 3
    fault("somebody's own UPDATE takes 5 of 3 units", f"SQLSTATE {error.value.sqlstate}, {left(shop)} left")


def test_an_unknown_article_is_an_error(shop: Any) -> None:
    for call in ("reserve(gen_random_uuid(), 'nothing', 1, '1 hour')", "add_stock('nothing', 1)"):
        with pytest.raises(psycopg.errors.NoDataFound):
            shop.execute(f"SELECT {call}")
