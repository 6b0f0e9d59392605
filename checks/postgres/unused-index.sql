-- An index that no query has read for a week costs writes, memory and vacuum; check replicas before you drop it.
-- checks.unused_days: how old the statistics must be (7).
SELECT 'database/composite-index-order' AS ref,
       s.indexrelid::regclass::text AS object,
       'index was never read since statistics began: look at replicas too, then drop it' AS finding,
       format('on %s, %s, statistics since %s', s.relid::regclass, pg_size_pretty(pg_relation_size(s.indexrelid)),
              coalesce(d.stats_reset, pg_postmaster_start_time())::date) AS evidence
FROM pg_stat_user_indexes s
JOIN pg_index i USING (indexrelid)
JOIN pg_stat_database d ON d.datname = current_database()
WHERE s.idx_scan = 0
  AND NOT i.indisunique
  AND i.indisvalid
  AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = s.indexrelid)
  AND pg_relation_size(s.indexrelid) > 1048576
  AND coalesce(d.stats_reset, pg_postmaster_start_time())
      <= now() - coalesce(nullif(current_setting('checks.unused_days', true), '')::numeric, 7) * interval '1 day';
