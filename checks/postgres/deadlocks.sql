-- Each deadlock costs a wait of deadlock_timeout and an aborted transaction; the cure is one order of locks.
-- checks.deadlocks: how many there may be since statistics began (10).
SELECT 'database/deadlocks' AS ref,
       datname::text AS object,
       format('%s deadlocks', deadlocks) AS finding,
       format('since %s', coalesce(stats_reset::date::text, 'the database was made')) AS evidence
FROM pg_stat_database
WHERE datname = current_database()
  AND deadlocks > coalesce(nullif(current_setting('checks.deadlocks', true), '')::numeric, 10);
