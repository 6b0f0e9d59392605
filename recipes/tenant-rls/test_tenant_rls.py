from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.errors import DivisionByZero, ForeignKeyViolation, InsufficientPrivilege
from psycopg_pool import ConnectionPool

HERE = Path(__file__).parent
Fault = Callable[[str, str], None]
Pool = ConnectionPool[psycopg.Connection[Any]]
A, B = UUID(int=0xA), UUID(int=0xB)
ANN, BOB, FREE = UUID(int=0xAA), UUID(int=0xBB), UUID(int=0xFF)  # customers of A and of B, and nobody's key

specification = importlib.util.spec_from_file_location("tenants", HERE / "tenants.py")
assert specification and specification.loader
tenants = importlib.util.module_from_spec(specification)
specification.loader.exec_module(tenants)


def rows(db: psycopg.Connection[Any], query: Any, *values: object) -> list[Any]:
    return db.execute(query, values or None).fetchall()


@pytest.fixture
def admin(database: str) -> Iterator[psycopg.Connection[Any]]:
    """A superuser's connection to a database in which each of two tenants has a customer with two invoices."""
    with psycopg.connect(database, autocommit=True) as db:
        db.execute((HERE / "tenants.sql").read_text(encoding="utf-8"))  # type: ignore[arg-type]
        for tenant, customer, name, total in (A, ANN, "ann", 10), (B, BOB, "bob", 500):
            db.execute("INSERT INTO shop.customer VALUES (%s, %s, %s)", (tenant, customer, f"{name}@example.com"))
            for _ in range(2):
                db.execute("INSERT INTO shop.invoice VALUES (%s, %s, %s, %s)", (tenant, uuid4(), customer, total))
        yield db


@pytest.fixture
def app(admin: psycopg.Connection[Any], database: str) -> str:
    return database.replace("postgres@", "shop_app@")


@pytest.fixture
def pool(app: str) -> Iterator[Pool]:
    """A pool of one connection, so that everybody is the next user of everybody's connection."""
    with ConnectionPool(app, min_size=1, max_size=1) as connections:
        yield connections


def refused(db: psycopg.Connection[Any], error: type[Exception], query: Any, *values: object) -> str:
    """The message with which a statement fails."""
    with pytest.raises(error) as raised, db.transaction():
        db.execute(query, values or None)
    return str(raised.value)


STATEMENTS = (
    "SELECT FROM shop.customer",
    "SELECT FROM shop.turnover",
    f"INSERT INTO shop.customer (id, email) VALUES ('{FREE}', 'x')",
    f"INSERT INTO shop.customer VALUES ('{A}', '{FREE}', 'x')",
    "UPDATE shop.customer SET email = 'x'",
    "DELETE FROM shop.invoice",
    f"SELECT shop.erase_customer('{ANN}')",
    "WITH gone AS (DELETE FROM shop.customer RETURNING 1) SELECT count(*) FROM gone",
)


def test_without_a_tenant_every_statement_fails(app: str, pool: Pool, fault: Fault) -> None:
    messages: Counter[str] = Counter()
    with psycopg.connect(app, autocommit=True) as fresh:
        messages.update(refused(fresh, InsufficientPrivilege, statement).splitlines()[0] for statement in STATEMENTS)
    with tenants.tenant(pool, A):
        pass
    with pool.connection() as used:
        messages.update(refused(used, InsufficientPrivilege, statement).splitlines()[0] for statement in STATEMENTS)
    (message, number), *others = messages.items()
    assert not others
    fault(
        "8 statements without a tenant, on a fresh connection and on one that a tenant has used",
        f'{number} of 16 fail with 42501 "{message}"',
    )


def test_a_tenant_reads_its_own_rows_only(pool: Pool, fault: Fault) -> None:
    found = {}
    for tenant in (A, B):
        with tenants.tenant(pool, tenant) as db:
            with db.cursor().copy("COPY shop.customer TO STDOUT") as copy:
                copied = [UUID(row[0]) for row in copy.rows()]
            emails = [email for (email,) in rows(db, "SELECT email FROM shop.customer")]
            assert rows(db, "SELECT DISTINCT tenant_id FROM shop.invoice") == [(tenant,)]
            assert copied == [tenant]
            found[tenant] = emails
    assert found == {A: ["ann@example.com"], B: ["bob@example.com"]}
    fault("SELECT without any condition, and COPY, by two tenants in turn", "each got its own rows only")


def test_a_view_shows_the_tenants_own_rows(admin: Any, pool: Pool, fault: Fault) -> None:
    owner = rows(admin, "SELECT rolsuper FROM pg_class JOIN pg_roles r ON r.oid = relowner WHERE relname = 'turnover'")
    assert owner == [(True,)]
    with tenants.tenant(pool, A) as db:
        seen = rows(db, "SELECT email, total FROM shop.turnover")
    assert seen == [("ann@example.com", 20)]
    fault("a view that belongs to a superuser", f"{len(seen)} row of {len(rows(admin, 'TABLE shop.turnover'))}")


def test_a_security_definer_function_obeys_the_policies(admin: Any, pool: Pool, fault: Fault) -> None:
    with tenants.tenant(pool, A) as db:
        erased = [rows(db, "SELECT shop.erase_customer(%s)", customer)[0][0] for customer in (BOB, ANN)]
    assert erased == [0, 1]
    assert rows(admin, "SELECT id FROM shop.customer") == [(BOB,)]
    fault(
        "a SECURITY DEFINER function erases another tenant's customer by its key, then an own one",
        f"{erased[0]} erased, {erased[1]} erased",
    )


def test_the_owner_obeys_the_policies(admin: Any, fault: Fault) -> None:
    with admin.transaction():
        admin.execute("SET LOCAL ROLE shop_owner")
        message = refused(admin, InsufficientPrivilege, "SELECT FROM shop.customer").splitlines()[0]
        admin.execute("SELECT set_config('app.tenant', %s, true)", (str(A),))
        seen = rows(admin, "SELECT id FROM shop.customer")
    assert seen == [(ANN,)]
    fault("the tables' owner reads, without a tenant and with one", f'"{message}", {len(seen)} row of 2')


def test_the_next_user_of_a_connection_has_no_tenant(pool: Pool, fault: Fault) -> None:
    ways: dict[str, Callable[[Any], object]] = {
        "commit": lambda db: db.execute("SELECT 1"),
        "error": lambda db: db.execute("SELECT 1 / 0"),
        "exception": lambda db: (_ for _ in ()).throw(DivisionByZero()),
        "timeout": lambda db: db.execute("SET LOCAL statement_timeout = 1; SELECT pg_sleep(60)"),
    }
    pids = set()
    for name, work in ways.items():
        try:
            with tenants.tenant(pool, A) as db:
                pids.add(db.info.backend_pid)
                work(db)
        except (DivisionByZero, psycopg.errors.QueryCanceled):
            assert name != "commit"
        with pool.connection() as following:
            pids.add(following.info.backend_pid)
            refused(following, InsufficientPrivilege, "SELECT FROM shop.customer")
    assert len(pids) == 1
    fault(
        f"a tenant's transaction ends by {', '.join(ways)}; the next user of the connection sets no tenant",
        f"{len(ways)} of {len(ways)} times it sees nothing",
    )


def test_a_tenants_block_cannot_lose_its_tenant(pool: Pool) -> None:
    with tenants.tenant(pool, A) as db:
        with pytest.raises(psycopg.ProgrammingError):
            db.commit()
        assert rows(db, "SELECT id FROM shop.customer") == [(ANN,)]


@pytest.mark.parametrize("autocommit", [False, True])
def test_2000_requests_share_4_connections(app: str, fault: Fault, autocommit: bool) -> None:
    query = "SELECT id, email FROM shop.customer"  # prepared by the driver after 5 times, and used by both tenants

    with ConnectionPool(app, min_size=4, max_size=4, timeout=60, kwargs={"autocommit": autocommit}) as shared:

        def request(number: int) -> bool:
            tenant, customer = ((A, ANN), (B, BOB))[number % 3 % 2]
            with tenants.tenant(shared, tenant) as db:
                return [key for key, _ in rows(db, query)] == [customer]

        with ThreadPoolExecutor(16) as threads:
            answers = Counter(threads.map(request, range(2000)))
    assert answers == {True: 2000}
    fault(
        "2,000 requests of two tenants from 16 threads over 4 connections" + ", in autocommit mode" * autocommit,
        f"{answers[True]} got their own rows, {answers[False]} others",
    )


def test_nothing_is_written_into_another_tenant(admin: Any, pool: Pool, fault: Fault) -> None:
    before = rows(admin, "SELECT * FROM shop.customer ORDER BY id")
    with tenants.tenant(pool, A) as db:
        for statement in (
            f"INSERT INTO shop.customer VALUES ('{B}', '{FREE}', 'x')",
            f"UPDATE shop.customer SET tenant_id = '{B}' WHERE id = '{ANN}'",
            f"INSERT INTO shop.customer VALUES ('{B}', '{BOB}', 'x')"
            " ON CONFLICT (tenant_id, id) DO UPDATE SET email = 'x'",
            f"MERGE INTO shop.customer c USING (VALUES (1)) v ON c.id = '{BOB}' WHEN MATCHED THEN DELETE"
            f" WHEN NOT MATCHED THEN INSERT VALUES ('{B}', '{BOB}', 'x')",
        ):
            refused(db, InsufficientPrivilege, statement)
        touched = db.execute("UPDATE shop.customer SET email = 'x' WHERE id = %s", (BOB,)).rowcount
        touched += db.execute("DELETE FROM shop.customer WHERE id = %s", (BOB,)).rowcount
    assert touched == 0
    assert rows(admin, "SELECT * FROM shop.customer ORDER BY id") == before
    fault("INSERT, UPDATE of tenant_id, ON CONFLICT and MERGE into another tenant", "4 of 4 refused with 42501")
    fault("UPDATE and DELETE of another tenant's row by its key", f"{touched} rows touched")


def test_a_foreign_key_neither_reaches_nor_reveals_another_tenant(pool: Pool, fault: Fault) -> None:
    query = "INSERT INTO shop.invoice (customer_id, total) VALUES (%s, 1)"
    with tenants.tenant(pool, A) as db:
        existing, missing = (refused(db, ForeignKeyViolation, query, key) for key in (BOB, FREE))
        assert existing.replace(str(BOB), str(FREE)) == missing
        assert db.execute(query, (ANN,)).rowcount == 1
    fault(
        "an invoice for a customer of another tenant, and for one that does not exist",
        "the same error 23503: the key does not tell whether somebody else has it",
    )


def test_a_unique_key_does_not_reveal_another_tenant(pool: Pool, fault: Fault) -> None:
    with tenants.tenant(pool, A) as db:
        query = "INSERT INTO shop.customer (id, email) VALUES (%s, %s)"
        taken = db.execute(query, (BOB, "bob@example.com")).rowcount
    assert taken == 1
    fault("key and e-mail address that another tenant has", "accepted like any other")


def test_a_function_in_the_condition_sees_no_foreign_row(pool: Pool, fault: Fault) -> None:
    seen: list[str] = []
    with tenants.tenant(pool, A) as db:
        db.add_notice_handler(lambda notice: seen.append(str(notice.message_primary)))
        db.execute("""CREATE FUNCTION pg_temp.peek(v text) RETURNS boolean LANGUAGE plpgsql COST 0.000001 AS
            $$ BEGIN RAISE NOTICE '%', v; RETURN true; END $$""")
        db.execute("SELECT FROM shop.customer WHERE pg_temp.peek(email)")
        assert rows(db, "SELECT id FROM shop.invoice WHERE 1 / (total - 500) > 0") == []
    assert seen == ["ann@example.com"]
    fault("a condition that prints what it is given, and one that divides by zero on a foreign row", "own rows only")


def test_what_ignores_policies_is_not_granted(admin: Any, pool: Pool, fault: Fault) -> None:
    admin.execute("ANALYZE shop.customer")
    with tenants.tenant(pool, A) as db:
        for statement in (
            "TRUNCATE shop.invoice",
            "SET LOCAL ROLE shop_owner",
            "ALTER TABLE shop.customer DISABLE ROW LEVEL SECURITY",
            "CREATE TABLE shop.probe (t uuid, id uuid, FOREIGN KEY (t, id) REFERENCES shop.customer)",
            "SET LOCAL row_security = off; SELECT FROM shop.customer",
        ):
            refused(db, InsufficientPrivilege, statement)
        assert rows(db, "SELECT FROM pg_stats WHERE schemaname = 'shop'") == []
    fault("TRUNCATE, SET ROLE, DISABLE ROW LEVEL SECURITY, a probing foreign key, row_security = off", "5 of 5 refused")


PLANTED = {
    "CREATE TABLE shop.line (id int)": "no tenant_id",
    "ALTER TABLE shop.invoice DROP CONSTRAINT invoice_pkey;"
    "ALTER TABLE shop.invoice ALTER tenant_id DROP NOT NULL": "may be NULL",
    "ALTER TABLE shop.invoice NO FORCE ROW LEVEL SECURITY": "not enabled and forced",
    "ALTER TABLE shop.invoice DISABLE ROW LEVEL SECURITY": "not enabled and forced",
    "CREATE POLICY support ON shop.invoice FOR SELECT USING (total > 0)": "policy support",
    "ALTER POLICY tenant ON shop.invoice WITH CHECK (true)": "policy tenant",
    "CREATE UNIQUE INDEX careless ON shop.customer (email)": "unique without tenant_id",
    "CREATE UNIQUE INDEX careless ON shop.customer (email) INCLUDE (tenant_id)": "unique without tenant_id",
    "ALTER TABLE shop.customer ADD UNIQUE (id); ALTER TABLE shop.invoice ADD FOREIGN KEY (customer_id)"
    " REFERENCES shop.customer (id)": "foreign key without tenant_id",
    "ALTER VIEW shop.turnover RESET (security_invoker)": "security_invoker",
    "CREATE MATERIALIZED VIEW shop.report AS TABLE shop.invoice;"
    "GRANT SELECT ON shop.report TO shop_app": "materialized views",
    "GRANT TRUNCATE ON shop.invoice TO shop_app": "TRUNCATE",
    "ALTER FUNCTION shop.erase_customer OWNER TO postgres": "SECURITY DEFINER",
    "ALTER ROLE shop_app BYPASSRLS": "obeys no policy",
    "GRANT shop_owner TO shop_app": "obeys no policy",
    "CREATE TABLE shop.event (tenant_id uuid NOT NULL, at date) PARTITION BY RANGE (at);"
    "ALTER TABLE shop.event ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
    "CREATE TABLE shop.event_1 PARTITION OF shop.event DEFAULT": "not enabled and forced",
}


def test_the_check_finds_what_somebody_forgot(admin: Any, fault: Fault) -> None:
    assert rows(admin, "SELECT * FROM shop.tenant_leaks()") == []
    found = 0
    for change, leak in PLANTED.items():
        with admin.transaction(force_rollback=True):
            admin.execute(change)
            leaks = rows(admin, "SELECT leak FROM shop.tenant_leaks()")
            assert any(leak in text for (text,) in leaks), (change, leaks)
            found += 1
    with admin.transaction(force_rollback=True):
        admin.execute("SET LOCAL search_path = shop, public")
        admin.execute("CREATE TABLE shop.country (code text); COMMENT ON TABLE shop.country IS 'shared by all tenants'")
        admin.execute("CREATE POLICY big ON shop.invoice AS RESTRICTIVE USING (total < 1000)")
        false_alarms = rows(admin, "SELECT * FROM shop.tenant_leaks()")
    assert false_alarms == []
    fault(
        f"{len(PLANTED)} mistakes in the schema, one at a time, and 2 harmless changes",
        f"`tenant_leaks()` found {found}, {len(false_alarms)} false alarms",
    )
