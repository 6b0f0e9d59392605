-- Without log_lock_waits a queue behind a lock leaves no trace once it has gone.
SELECT 'database/deadlocks' AS ref,
       'log_lock_waits' AS object,
       'waits for locks longer than deadlock_timeout are not logged' AS finding,
       format('log_lock_waits = off, %s deadlocks in this database since %s', deadlocks,
              coalesce(stats_reset::date::text, 'it was made')) AS evidence
FROM pg_stat_database
WHERE datname = current_database() AND (SELECT reset_val FROM pg_settings WHERE name = 'log_lock_waits') = 'off';
