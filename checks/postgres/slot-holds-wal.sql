-- A slot that nobody reads keeps WAL until the disk is full and the server stops.
-- checks.slot_bytes: how much WAL may be held (1 GiB).
SELECT 'database/replication' AS ref,
       slot_name::text AS object,
       format('slot holds %s of WAL', pg_size_pretty(held)) AS finding,
       format('%s, %s, wal_status %s', slot_type, CASE WHEN active THEN 'active' ELSE 'nobody reads it' END, wal_status)
           AS evidence
FROM (
    SELECT *, pg_wal_lsn_diff(
        CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END, restart_lsn) AS held
    FROM pg_replication_slots
) s
WHERE held > coalesce(nullif(current_setting('checks.slot_bytes', true), '')::numeric, 1073741824);
