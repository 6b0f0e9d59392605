-- Binary floating point cannot hold 0.10, and type money takes its decimals from lc_monetary.
SELECT 'database/money-and-time-columns' AS ref,
       format('%s.%s', a.attrelid::regclass, a.attname) AS object,
       format('an amount is kept as %s: use bigint minor units or numeric', format_type(a.atttypid, NULL)) AS finding,
       'by its type and name' AS evidence
FROM pg_attribute a
JOIN pg_class t ON t.oid = a.attrelid AND t.relkind IN ('r', 'p') AND NOT t.relispartition
JOIN pg_namespace n ON n.oid = t.relnamespace AND n.nspname NOT IN ('pg_catalog', 'information_schema')
WHERE a.attnum > 0
  AND NOT a.attisdropped
  AND (a.atttypid = 'money'::regtype
       OR (a.atttypid IN ('float4'::regtype, 'float8'::regtype)
           AND a.attname ~ '(^|_)(price|amount|balance|total|fee|cost|salary|revenue|tax|vat)(_|$|s$)'));
