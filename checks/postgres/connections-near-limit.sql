-- When the last connection is taken, deploys, jobs and whoever wants to look fail with 53300.
SELECT 'database/pool-sizing' AS ref,
       'max_connections' AS object,
       format('%s of %s connections are taken', count(*), room) AS finding,
       (SELECT string_agg(format('%s: %s', usename, number), ', ' ORDER BY number DESC)
        FROM (SELECT coalesce(usename, '-') AS usename, count(*) AS number FROM pg_stat_activity
              WHERE backend_type = 'client backend' GROUP BY 1 ORDER BY 2 DESC LIMIT 5) u) AS evidence
FROM pg_stat_activity
CROSS JOIN (SELECT current_setting('max_connections')::int
                   - current_setting('superuser_reserved_connections')::int
                   - coalesce(current_setting('reserved_connections', true)::int, 0) AS room) r
WHERE backend_type = 'client backend'
GROUP BY room
HAVING count(*) > 0.8 * room;
