-- Type json is text: each access parses it again, it has no equality and no index.
SELECT 'database/jsonb-columns' AS ref,
       format('%s.%s', a.attrelid::regclass, a.attname) AS object,
       'column is json: use jsonb unless the exact text must be kept' AS finding,
       pg_size_pretty(pg_total_relation_size(a.attrelid)) AS evidence
FROM pg_attribute a
JOIN pg_class t ON t.oid = a.attrelid AND t.relkind IN ('r', 'p') AND NOT t.relispartition
JOIN pg_namespace n ON n.oid = t.relnamespace AND n.nspname NOT IN ('pg_catalog', 'information_schema')
WHERE a.atttypid = 'json'::regtype AND a.attnum > 0 AND NOT a.attisdropped;
