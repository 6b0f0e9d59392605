-- PostgreSQL 18.0 to 18.4 could store an absurd row count with a GIN index, and autovacuum then skips the table.
SELECT 'database/gin-reltuples-autovacuum' AS ref,
       t.oid::regclass::text AS object,
       format('row count on record is %s: run ANALYZE by hand', t.reltuples) AS finding,
       format('%s pages, server %s', t.relpages, current_setting('server_version')) AS evidence
FROM pg_class t
WHERE t.relkind IN ('r', 'm')
  AND EXISTS (SELECT FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam
              WHERE i.indrelid = t.oid AND m.amname = 'gin')
  -- A page of 8 kB holds at most 291 rows.
  AND (t.reltuples IN ('Infinity', 'NaN') OR t.reltuples > 291.0 * greatest(pg_relation_size(t.oid) / 8192, 1));
