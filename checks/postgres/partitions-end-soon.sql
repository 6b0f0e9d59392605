-- When the newest partition is full of the past, every insert fails: no partition of relation found for row.
-- checks.partition_days: how many days ahead there must be a partition (7).
WITH bounds AS (
    SELECT p.partrelid, p.partdefid, pg_get_expr(c.relpartbound, c.oid) AS bound
    FROM pg_partitioned_table p
    JOIN pg_inherits h ON h.inhparent = p.partrelid
    JOIN pg_class c ON c.oid = h.inhrelid
    JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
    WHERE p.partstrat = 'r' AND p.partnatts = 1
      AND a.atttypid IN ('date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype)
), ends AS (
    SELECT partrelid, partdefid, bool_or(bound LIKE '%TO (MAXVALUE)') AS endless,
           max(substring(bound FROM 'TO \(''([^'']+)''\)')::timestamptz) AS newest
    FROM bounds
    GROUP BY partrelid, partdefid
)
SELECT 'database/partitioning' AS ref,
       partrelid::regclass::text AS object,
       format('the newest partition ends on %s', newest::date) AS finding,
       CASE partdefid WHEN 0 THEN 'inserts beyond it fail' ELSE 'rows beyond it go to the default partition' END AS evidence
FROM ends
WHERE NOT endless
  AND newest < now() + coalesce(nullif(current_setting('checks.partition_days', true), '')::numeric, 7) * interval '1 day';
