-- Two indexes with the same columns cost twice on each write and help once.
SELECT 'database/composite-index-order' AS ref,
       min(i.indexrelid::regclass::text) AS object,
       format('%s indexes on %s have the same columns, order and predicate', count(*), i.indrelid::regclass) AS finding,
       string_agg(format('%s (%s)', i.indexrelid::regclass, pg_size_pretty(pg_relation_size(i.indexrelid))), ', '
                  ORDER BY i.indexrelid) AS evidence
FROM pg_index i
JOIN pg_class x ON x.oid = i.indexrelid
JOIN pg_namespace n ON n.oid = x.relnamespace
WHERE n.nspname NOT IN ('pg_catalog', 'pg_toast') AND i.indisvalid
GROUP BY i.indrelid, x.relam, i.indkey::text, i.indclass::text, i.indcollation::text, i.indoption::text,
         coalesce(pg_get_expr(i.indexprs, i.indrelid), ''), coalesce(pg_get_expr(i.indpred, i.indrelid), ''),
         i.indnkeyatts
HAVING count(*) > 1;
