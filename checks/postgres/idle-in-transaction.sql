-- A session that waits inside a transaction holds its locks and keeps vacuum from removing rows.
-- checks.idle_seconds: how long a session may wait so (60).
SELECT 'database/long-transactions' AS ref,
       format('pid %s', pid) AS object,
       format('idle in transaction for %s s', round(extract(epoch FROM now() - state_change))) AS finding,
       format('%s, %s, transaction of %s s, last: %s', usename, coalesce(nullif(application_name, ''), 'no name'),
              round(extract(epoch FROM now() - xact_start)), left(query, 80)) AS evidence
FROM pg_stat_activity
WHERE state LIKE 'idle in transaction%'
  AND now() - state_change
      > coalesce(nullif(current_setting('checks.idle_seconds', true), '')::numeric, 60) * interval '1 second';
