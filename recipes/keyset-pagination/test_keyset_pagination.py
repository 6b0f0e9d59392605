"""Lists that change while they are read, on a real PostgreSQL."""

from __future__ import annotations

import importlib.util
import json
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from recipes.engines import Postgres

HERE = Path(__file__).parent
Fault = Callable[[str, str], None]
Db = psycopg.Connection[Any]
CUSTOMER, OTHER = 7, 8
TODAY, YESTERDAY = b"key of today", b"key of yesterday"

specification = importlib.util.spec_from_file_location("keyset", HERE / "keyset.py")
assert specification and specification.loader
keyset: Any = importlib.util.module_from_spec(specification)
specification.loader.exec_module(keyset)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """Nothing here is about crashes, so that the million rows need not reach the disk."""
    quick = {"fsync": "off", "max_wal_size": "4GB", "autovacuum": "off"}
    server = Postgres(tmp_path_factory.mktemp("keyset"), quick)
    yield server
    server.stop(signal.SIGQUIT)


@pytest.fixture
def db(database: str) -> Iterator[Db]:
    with psycopg.connect(database, autocommit=True, options="-c statement_timeout=60s") as connection:
        connection.execute(keyset.__doc__[keyset.__doc__.index("CREATE TABLE") :])
        yield connection


def add(db: Db, count: int, created: str = "now() - n * interval '1 second'", **values: object) -> list[int]:
    """So many orders, the first of them the newest unless created says otherwise."""
    columns = {"customer_id": CUSTOMER, "status": "open", "paid_at": None, **values}
    query = f"""
        INSERT INTO orders (created_at, customer_id, status, paid_at)
        SELECT {created}, %s, %s, %s FROM generate_series(1, %s) AS n RETURNING id"""
    return [row[0] for row in db.execute(query, [*columns.values(), count])]  # type: ignore[arg-type]


def read(db: Db, customer: int = CUSTOMER, **options: Any) -> Any:
    return keyset.list_orders(db, [TODAY, YESTERDAY], customer, **options)


def walk(db: Db, between: Callable[[], object] = lambda: None, **options: Any) -> list[dict[str, Any]]:
    """All items of a list, page by page; `between` is called after each page."""
    items, page = [], read(db, **options)
    for _ in range(10_000):
        items += page.items
        between()
        if page.next is None:
            return items
        page = read(db, cursor=page.next, **options)
    raise AssertionError("the list has no end")


def ids(items: list[dict[str, Any]]) -> list[int]:
    return [item["id"] for item in items]


def doubled(seen: list[int]) -> int:
    return sum(count - 1 for count in Counter(seen).values())


def offset_walk(db: Db, between: Callable[[], object], limit: int) -> list[int]:
    """The same list by OFFSET, for comparison."""
    seen: list[int] = []
    for page in range(10_000):
        query = "SELECT id FROM orders WHERE customer_id = %s ORDER BY created_at DESC, id DESC LIMIT %s OFFSET %s"
        found = [row[0] for row in db.execute(query, [CUSTOMER, limit, page * limit])]
        seen += found
        between()
        if len(found) < limit:
            break
    return seen


def test_rows_that_stay_are_seen_once_while_others_come_and_go(db: Db, fault: Fault) -> None:
    found = {}
    for name in ("keyset", "offset"):
        db.execute("TRUNCATE orders")
        stay = add(db, 500, "now() - n * interval '2 seconds'")
        go = add(db, 500, "now() - n * interval '2 seconds' - interval '1 second'")
        chance = random.Random(1)

        def disturb(chance: random.Random = chance, go: list[int] = go) -> None:
            add(db, 4)  # the newest
            add(db, 2, "now() - interval '1 second' * (random() * 1000)")
            gone = [go.pop(chance.randrange(len(go))) for _ in range(min(7, len(go)))]
            db.execute("DELETE FROM orders WHERE id = ANY(%s)", [gone])

        seen = ids(walk(db, disturb, limit=25)) if name == "keyset" else offset_walk(db, disturb, 25)
        found[name] = doubled(seen), len(set(stay) - set(seen))
    assert found["keyset"] == (0, 0)
    assert all(found["offset"])
    fault(
        "13 rows come and go after each page of 25 of a list of 1,000, half of which stay",
        f"of the rows that stay {found['keyset'][1]} were missed, {found['keyset'][0]} rows came twice; by OFFSET "
        f"{'some' if found['offset'][1] else 'none'} missed, {'some' if found['offset'][0] else 'none'} twice",
    )


def test_the_row_at_the_cursor_may_go(db: Db, fault: Fault) -> None:
    rows = add(db, 100)
    first = read(db, limit=10)
    db.execute("DELETE FROM orders WHERE id = ANY(%s)", [ids(first.items)])
    second = read(db, limit=10, cursor=first.next)
    assert ids(second.items) == rows[10:20]
    fault(
        "all rows of the first page, the cursor's among them, are deleted",
        f"the second page begins with row {rows.index(second.items[0]['id']) + 1}",
    )


def test_writers_beside_the_reading_disturb_nothing(db: Db, database: str, fault: Fault) -> None:
    stay = add(db, 3000)
    stop, errors = threading.Event(), []
    wrote = threading.Semaphore(0)

    def write() -> None:
        try:
            with psycopg.connect(database, autocommit=True) as connection:
                while not stop.is_set():
                    mine = add(connection, 5, "now() - interval '1 second' * (random() * 3000)")
                    connection.execute("DELETE FROM orders WHERE id = ANY(%s)", [mine[:3]])
                    wrote.release()
        except psycopg.Error as error:
            errors.append(error)

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    try:
        seen = ids(walk(db, lambda: wrote.acquire(timeout=30), limit=30))  # between two pages somebody writes
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert not errors
    missed = len(set(stay) - set(seen))
    assert (doubled(seen), missed) == (0, 0)
    fault(
        "4 writers insert and delete all the time while 3,000 rows are read in pages of 30",
        f"{missed} missed, {doubled(seen)} twice",
    )


def test_equal_timestamps_are_told_apart_by_id(db: Db, fault: Fault) -> None:
    rows = [row for day in (21, 22) for row in add(db, 2500, f"timestamptz '2026-11-{day} 12:00Z'")]
    seen = ids(walk(db, limit=37))
    assert seen == sorted(rows, reverse=True)
    fault(
        "2 x 2,500 rows with the same timestamp, in pages of 37",
        f"{len(set(seen))} seen, {doubled(seen)} twice",
    )


def test_no_digit_of_a_timestamp_is_lost(db: Db, fault: Fault) -> None:
    rows = add(db, 300, "timestamptz '2026-10-25 00:30Z' - n * interval '1 microsecond'")
    rows += add(db, 200, "timestamptz '2026-10-25 00:29Z' - n * interval '40 seconds'")  # in the hour that comes twice
    zones = ["UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu"]
    turn = iter(zones * 100)
    seen = ids(walk(db, lambda: db.execute("SELECT set_config('TimeZone', %s, false)", [next(turn)]), limit=7))
    assert seen == rows
    fault(
        "300 rows 1 microsecond apart, 200 around the hour that Berlin has twice; "
        f"the session's time zone changes from page to page, {len(zones)} in turn",
        f"{len(set(seen))} of {len(rows)} seen, {doubled(seen)} twice",
    )


def test_rows_without_a_value_have_their_place(db: Db, fault: Fault) -> None:
    paid = add(db, 60, paid_at="2026-11-01 12:00Z") + add(db, 60, paid_at="2026-11-02 12:00Z")
    unpaid = add(db, 80)
    seen = ids(walk(db, limit=9, order="paid"))
    assert seen == [*sorted(paid, reverse=True), *sorted(unpaid, reverse=True)]
    fault(
        "sorted by a column that is NULL in 80 of 200 rows",
        f"{len(paid)} with a value, then {len(unpaid)} without, {doubled(seen)} twice",
    )


def test_back_and_forth_shows_the_same(db: Db, fault: Fault) -> None:
    made = add(db, 100, "timestamptz '2026-11-21 12:00Z' - n / 10 * interval '1 second'")
    rows = [row for _, row in sorted(enumerate(made, 1), key=lambda each: (each[0] // 10, -each[1]))]
    page, at, chance, turns = read(db, limit=7), 0, random.Random(2), Counter[str]()
    for _ in range(300):
        assert ids(page.items) == rows[at : at + 7]
        assert (page.previous is None, page.next is None) == (at == 0, at + 7 >= len(rows))
        back = page.previous is not None and (page.next is None or chance.random() < 0.5)
        page = read(db, limit=7, cursor=page.previous if back else page.next)
        at += -7 if back else 7
        turns["back" if back else "on"] += 1
    newest = add(db, 3)
    while page.previous is not None:
        page = read(db, limit=7, cursor=page.previous)
    assert set(ids(page.items)) & set(newest)
    fault(
        f"300 turns through 100 rows, {turns['back']} of them back, with 10 rows to a timestamp",
        "each page was the same in both directions",
    )


def refused(call: Callable[[], object]) -> bool:
    try:
        call()
    except keyset.BadRequest:
        return True
    return False


def test_a_changed_cursor_is_refused(db: Db, fault: Fault) -> None:
    add(db, 20)
    cursor = read(db, limit=10).next
    payload, _, signature = cursor.partition(".")
    letters = "ABab01-_.= \0\u00e9"
    changed = {cursor[:n] + letter + cursor[n + 1 :] for n in range(len(cursor)) for letter in letters} - {cursor}
    cut = {cursor[:n] for n in range(len(cursor))} | {cursor[n:] for n in range(1, len(cursor))}
    foreign = {payload, f"{payload}.", f".{signature}", f"{cursor}.", f"{cursor}=", cursor * 20, "A" * 10_000_000}
    db.close()  # none of them gets as far as the database
    tries = changed | cut | foreign
    answers = Counter(refused(lambda cursor=text: read(db, cursor=cursor)) for text in tries)
    assert set(answers) == {True}
    fault(
        "a cursor with each character replaced by others, cut at each place, without signature, with 10 MB",
        f"{answers[True] / len(tries):.0%} refused before any SQL",
    )


def test_a_cursor_fits_one_list_only(db: Db, fault: Fault) -> None:
    add(db, 20)
    add(db, 20, status="sent")
    add(db, 20, customer_id=OTHER)
    cursor = read(db, limit=10).next
    uses: list[dict[str, Any]] = [{"customer": OTHER}, {"status": "open"}, {"order": "paid"}]
    uses += [{"customer": OTHER, "status": "sent"}]
    answers = [refused(lambda use=use: read(db, cursor=cursor, **use)) for use in uses]
    assert all(answers)
    assert read(db, cursor=cursor).items
    narrow = read(db, limit=10, status="open").next
    assert refused(lambda: read(db, cursor=narrow))
    fault(
        "a cursor used for another customer, filter or order",
        f"{sum(answers)} of {len(answers)} refused",
    )


def test_keys_can_be_changed(db: Db, fault: Fault) -> None:
    add(db, 20)
    old = keyset.list_orders(db, [YESTERDAY], CUSTOMER, limit=10).next
    accepted = not refused(lambda: read(db, cursor=old))
    late = refused(lambda: keyset.list_orders(db, [TODAY], CUSTOMER, cursor=old))
    new = read(db, limit=10).next
    assert (accepted, late) == (True, True)
    assert keyset.list_orders(db, [TODAY], CUSTOMER, cursor=new).items
    fault("the signing key is changed while somebody reads", "the old cursor works until the old key is removed")


def test_limits_are_kept(db: Db, fault: Fault) -> None:
    add(db, 1500)
    sizes = {limit: len(read(db, limit=limit).items) for limit in (0, 1, 1000, 1001, 10**9)}
    assert sizes == {0: 50, 1: 1, 1000: 1000, 1001: 1000, 10**9: 1000}
    assert refused(lambda: read(db, limit=-1))
    assert refused(lambda: read(db, order="created_at; DROP TABLE orders"))
    assert refused(lambda: read(db, order=""))
    first = read(db, limit=1)
    rest = walk(db, limit=1000)
    assert ids(read(db, limit=20, cursor=first.next).items) == ids(rest)[1:21]
    fault("a limit of 1,000,000,000 and one of -1", f"{sizes[10**9]} rows, refused")


def test_a_late_commit_behind_the_reader_is_missed_by_that_reading(db: Db, database: str, fault: Fault) -> None:
    old = add(db, 20)
    with psycopg.connect(database) as slow:
        mine = add(slow, 5, "now()")  # the default: the moment when the transaction began
        newer = add(db, 20, "now()")
        page = read(db, limit=25)
        assert set(ids(page.items)) == {*newer, *old[:5]}
        slow.commit()
    seen = ids(page.items) + ids(read(db, cursor=page.next).items)
    again = ids(walk(db, limit=10))
    missed = len(set(mine) - set(seen))
    assert (missed, doubled(seen), len(set(again) & set(mine))) == (5, 0, 5)
    assert len(set(seen) & {*old, *newer}) == 40
    fault(
        "a transaction that began earlier commits 5 rows whose place the reader has passed",
        f"{missed} missed by this reading, {doubled(seen)} twice; {len(set(again) & set(mine))} in the next reading",
    )


def test_a_row_whose_key_changes_moves(db: Db, fault: Fault) -> None:
    rows = add(db, 40, paid_at="2026-11-01 12:00Z")
    page = read(db, limit=20, order="paid")
    seen, rest = ids(page.items), sorted(set(rows) - set(ids(page.items)))
    db.execute("UPDATE orders SET paid_at = '2026-11-02 12:00Z' WHERE id = %s", [rest[0]])
    db.execute("UPDATE orders SET paid_at = '2026-10-31 12:00Z' WHERE id = %s", [seen[0]])
    seen += ids(read(db, limit=50, order="paid", cursor=page.next).items)
    missed = len(set(rows) - set(seen))
    assert (missed, doubled(seen)) == (1, 1)
    fault(
        "sorted by a column that changes: one row moves back over the reader, one ahead of it",
        f"{missed} missed, {doubled(seen)} twice",
    )


class Plans:
    """What PostgreSQL itself says about the statements of a connection: auto_explain, as notices."""

    def __init__(self, db: Db) -> None:
        settings = "log_min_duration=0 log_analyze=on log_buffers=on log_timing=off log_format=json"
        db.execute("LOAD 'auto_explain'")
        db.execute("SET max_parallel_workers_per_gather = 0")
        for setting in settings.split():
            db.execute(f"SET auto_explain.{setting.replace('=', ' = ')}")  # type: ignore[arg-type]
        db.execute("SET client_min_messages = log")
        self.plans: list[dict[str, Any]] = []
        db.add_notice_handler(self.note)

    def note(self, notice: psycopg.errors.Diagnostic) -> None:
        text = notice.message_primary or ""
        if "plan:" in text:
            self.plans.append(json.loads(text.partition("plan:")[2])["Plan"])

    def last(self, call: Callable[[], Any]) -> tuple[dict[str, Any], int, list[dict[str, Any]]]:
        """The nodes' names with what they are, the pages of 8 kB that it read, and all nodes."""
        call()  # the second time, nothing is read from the catalogs
        call()
        plan = self.plans[-1]
        nodes, todo = [], [plan]
        while todo:
            node = todo.pop()
            nodes.append(node)
            todo += node.get("Plans", [])
        return plan, plan["Shared Hit Blocks"] + plan["Shared Read Blocks"], nodes


def test_every_page_is_a_range_of_an_index(db: Db, fault: Fault) -> None:
    db.execute("""
        INSERT INTO orders (customer_id, status, created_at, paid_at)
        SELECT CASE WHEN n % 10 = 0 THEN 8 ELSE 7 END,
               CASE WHEN n % 3 = 0 THEN 'sent' ELSE 'open' END,
               now() - n * interval '1 second',
               CASE WHEN n % 2 = 0 THEN now() - n * interval '1 second' END
        FROM generate_series(1, 60000) AS n
    """)
    db.execute("VACUUM (ANALYZE) orders")
    lists: list[tuple[dict[str, Any], str]] = [({}, "orders_created"), ({"order": "paid"}, "orders_paid")]
    lists += [({"status": "sent"}, "orders_status")]
    plans, checked = Plans(db), 0
    for options, index in lists:
        first = read(db, **options)
        second = read(db, cursor=first.next, **options)
        for cursor in (None, first.next, second.next, second.previous):
            for _ in range(7):  # from the sixth on the statement is prepared, and may get a generic plan
                read(db, cursor=cursor, **options)
            _, _, nodes = plans.last(lambda cursor=cursor, options=options: read(db, cursor=cursor, **options))
            kinds = [node["Node Type"] for node in nodes]
            assert kinds == ["Limit", "Index Scan"], (options, cursor, nodes)
            assert nodes[1]["Index Name"] == index
            assert nodes[1].get("Rows Removed by Filter", 0) == 0
            checked += 1
    fault(
        f"EXPLAIN of {checked} pages: {len(lists)} lists, first, next and previous, after 7 runs of each",
        f"{checked} range scans of the index meant, 0 sorts, 0 rows filtered away",
    )


def test_a_page_at_depth_1000000_reads_no_more_than_the_first(db: Db, fault: Fault) -> None:
    db.execute("DROP INDEX orders_paid, orders_status")
    db.execute("SET max_parallel_maintenance_workers = 0")
    add(db, 200, "timestamptz '2026-11-01 12:00Z' - n * interval '1 second'")
    cursor = read(db).next
    db.execute("DROP INDEX orders_created")
    query = """
        INSERT INTO orders (customer_id, created_at)
        SELECT %s, timestamptz '2026-11-01 12:00Z' + n * interval '1 second' FROM generate_series(1, 1000000) AS n"""
    db.execute(query, [CUSTOMER])
    db.execute("CREATE INDEX orders_created ON orders (customer_id, created_at, id)")
    db.execute("VACUUM (ANALYZE) orders")
    plans = Plans(db)
    _, first, _ = plans.last(lambda: read(db))
    _, deep, _ = plans.last(lambda: read(db, cursor=cursor))
    assert ids(read(db, cursor=cursor).items) == list(range(51, 101))
    query = "SELECT * FROM orders WHERE customer_id = %s ORDER BY created_at DESC, id DESC LIMIT 50 OFFSET 1000050"
    _, offset, _ = plans.last(lambda: db.execute(query, [CUSTOMER]))
    assert deep < 20
    assert offset > 1000
    fault(
        "page of 50 after 1,000,050 rows, in pages of 8 kB read",
        f"{deep}, as for the first page ({first}); OFFSET reads {offset:,}",
    )
