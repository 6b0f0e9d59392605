-- An unlogged table is empty after a crash, and on every standby.
SELECT 'database/replication' AS ref,
       t.oid::regclass::text AS object,
       'table is unlogged: empty after a crash and after a failover' AS finding,
       pg_size_pretty(pg_relation_size(t.oid)) AS evidence
FROM pg_class t
WHERE t.relkind = 'r' AND t.relpersistence = 'u' AND pg_relation_size(t.oid) > 0;
