-- Rows in the default partition mean that a partition was missing; each ATTACH now scans them under a lock.
SELECT 'database/partitioning' AS ref,
       p.partdefid::regclass::text AS object,
       format('default partition of %s holds rows', p.partrelid::regclass) AS finding,
       pg_size_pretty(pg_relation_size(p.partdefid)) AS evidence
FROM pg_partitioned_table p
WHERE p.partdefid <> 0 AND p.partstrat = 'r' AND pg_relation_size(p.partdefid) > 0;
