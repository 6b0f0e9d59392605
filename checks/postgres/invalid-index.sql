-- A CREATE INDEX CONCURRENTLY that failed leaves an index that costs every write and serves no query.
SELECT 'database/lock-timeout-ddl' AS ref,
       i.indexrelid::regclass::text AS object,
       'index is invalid: drop it CONCURRENTLY, then build it again' AS finding,
       format('on %s, %s', i.indrelid::regclass, pg_size_pretty(pg_relation_size(i.indexrelid))) AS evidence
FROM pg_index i
WHERE NOT i.indisvalid
  AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.index_relid = i.indexrelid);
