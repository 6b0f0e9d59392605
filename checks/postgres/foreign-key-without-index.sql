-- Each DELETE or key UPDATE of a parent row reads the whole child table when the child's foreign key has no index.
SELECT 'database/retention-deletion-jobs' AS ref,
       c.conrelid::regclass::text AS object,
       format('foreign key %s has no index that starts with its columns', c.conname) AS finding,
       format('%s refers to %s, table %s', pg_get_constraintdef(c.oid), c.confrelid::regclass,
              pg_size_pretty(pg_relation_size(c.conrelid))) AS evidence
FROM pg_constraint c
WHERE c.contype = 'f'
  AND c.conparentid = 0
  AND (pg_relation_size(c.conrelid) > 1048576
       OR EXISTS (SELECT FROM pg_partitioned_table p WHERE p.partrelid = c.conrelid))
  AND NOT EXISTS (
      SELECT FROM pg_index i
      WHERE i.indrelid = c.conrelid
        AND i.indisvalid
        AND (i.indpred IS NULL OR pg_get_expr(i.indpred, i.indrelid) ~ '^\(\w+ IS NOT NULL\)$')
        AND (i.indkey::int2[])[0:cardinality(c.conkey) - 1] @> c.conkey);
