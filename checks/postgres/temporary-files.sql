-- Sorts and hashes that do not fit into work_mem go to disk, many times slower.
-- checks.temp_bytes: how much a day on average (10 GiB).
SELECT 'database/explain-analyze' AS ref,
       datname::text AS object,
       format('%s temporary files, %s', temp_files, pg_size_pretty(temp_bytes)) AS finding,
       format('since %s, work_mem = %s', coalesce(stats_reset, pg_postmaster_start_time())::date,
              current_setting('work_mem')) AS evidence
FROM pg_stat_database
WHERE datname = current_database()
  AND temp_bytes / greatest(extract(epoch FROM now() - coalesce(stats_reset, pg_postmaster_start_time())) / 86400, 1)
      > coalesce(nullif(current_setting('checks.temp_bytes', true), '')::numeric, 10737418240);
