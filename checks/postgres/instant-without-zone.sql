-- A timestamp without time zone changes its meaning with whoever reads it, and ignores an offset in its input.
SELECT 'database/money-and-time-columns' AS ref,
       format('%s.%s', a.attrelid::regclass, a.attname) AS object,
       format('an instant is kept as %s: use timestamptz', format_type(a.atttypid, NULL)) AS finding,
       'by its type and name' AS evidence
FROM pg_attribute a
JOIN pg_class t ON t.oid = a.attrelid AND t.relkind IN ('r', 'p') AND NOT t.relispartition
JOIN pg_namespace n ON n.oid = t.relnamespace AND n.nspname NOT IN ('pg_catalog', 'information_schema')
WHERE a.attnum > 0
  AND NOT a.attisdropped
  AND (a.atttypid = 'timetz'::regtype
       OR (a.atttypid = 'timestamp'::regtype AND a.attname ~ '(_at|_ts|^created|^updated|^deleted|timestamp)$'));
