-- One session that waits for a table lock stops everybody who comes after it.
-- checks.blocked_seconds: how long a session may wait for a lock (10).
SELECT 'database/lock-timeout-ddl' AS ref,
       format('pid %s', a.pid) AS object,
       format('waits for a lock since %s s, blocked by %s', round(extract(epoch FROM now() - l.waitstart)),
              array_to_string(pg_blocking_pids(a.pid), ', ')) AS finding,
       format('%s on %s: %s', l.mode, coalesce(l.relation::regclass::text, l.locktype), left(a.query, 80)) AS evidence
FROM pg_locks l
JOIN pg_stat_activity a USING (pid)
WHERE NOT l.granted
  AND l.waitstart < now()
      - coalesce(nullif(current_setting('checks.blocked_seconds', true), '')::numeric, 10) * interval '1 second';
