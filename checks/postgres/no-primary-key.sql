-- A table without a key cannot be updated through logical replication, nor repaired row by row.
SELECT 'database/replication' AS ref,
       t.oid::regclass::text AS object,
       'table has neither primary key nor replica identity' AS finding,
       pg_size_pretty(pg_relation_size(t.oid)) AS evidence
FROM pg_class t
JOIN pg_namespace n ON n.oid = t.relnamespace
WHERE t.relkind = 'r'
  AND NOT t.relispartition
  AND t.relpersistence = 'p'
  AND t.relreplident NOT IN ('f', 'i')
  AND n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND pg_relation_size(t.oid) > 1048576
  AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = t.oid AND i.indisprimary);
