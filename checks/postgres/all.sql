-- Every check, in one transaction that cannot write:
--   psql "$DATABASE_URL" -XqAt -F ' | ' -f checks/postgres/all.sql
-- A line for each finding: the row that says what to do (search.py --show REF), the object, the finding, its evidence.
-- No line: nothing found. pg_monitor is enough. Limits can be set, such as PGOPTIONS="-c checks.idle_seconds=5".
BEGIN TRANSACTION READ ONLY;
SET LOCAL statement_timeout = '10s';
SET LOCAL lock_timeout = '100ms';
SET LOCAL search_path = pg_catalog;
\ir application-is-superuser.sql
\ir archiving-fails.sql
\ir archiving-off.sql
\ir autovacuum-off.sql
\ir blocked-session.sql
\ir checksums-off.sql
\ir collation-changed.sql
\ir connections-near-limit.sql
\ir constraint-not-validated.sql
\ir dead-rows.sql
\ir deadlocks.sql
\ir default-partition-fills.sql
\ir duplicate-index.sql
\ir durability-off.sql
\ir foreign-key-crosses-tenants.sql
\ir foreign-key-without-index.sql
\ir forgotten-prepared-transaction.sql
\ir gin-reltuples.sql
\ir idle-in-transaction.sql
\ir instant-without-zone.sql
\ir integer-key-exhausted.sql
\ir invalid-index.sql
\ir json-not-jsonb.sql
\ir lock-waits-not-logged.sql
\ir long-transaction.sql
\ir md5-passwords.sql
\ir money-in-floats.sql
\ir narrow-foreign-key.sql
\ir no-limit-on-idle-transactions.sql
\ir no-primary-key.sql
\ir no-synchronous-standby.sql
\ir outdated-extension.sql
\ir owner-skips-policies.sql
\ir partition-half-detached.sql
\ir partitions-end-soon.sql
\ir plugin-not-allowed.sql
\ir policies-not-enabled.sql
\ir published-without-identity.sql
\ir random-uuid-key.sql
\ir role-bypasses-policies.sql
\ir serial-sequence-still-integer.sql
\ir slot-dies-at-failover.sql
\ir slot-holds-wal.sql
\ir slot-lost.sql
\ir slot-without-limit.sql
\ir statements-not-recorded.sql
\ir statistics-stale.sql
\ir subscription-stands-still.sql
\ir temporary-files.sql
\ir transaction-ids-run-out.sql
\ir trigger-disabled.sql
\ir unlogged-table.sql
\ir unused-index.sql
\ir view-skips-policies.sql
COMMIT;
