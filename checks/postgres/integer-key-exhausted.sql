-- An integer key above half of its range stops all inserts when it ends; widening it takes weeks.
-- A sequence's value needs SELECT on it (pg_read_all_data has that); without, the number of rows inserted is taken.
WITH keys AS (
    SELECT a.attrelid, a.attname, s.seqrelid,
           least(s.seqmax, CASE a.atttypid WHEN 'int2'::regtype THEN 32767 ELSE 2147483647 END) AS top,
           CASE WHEN has_sequence_privilege(s.seqrelid, 'SELECT') THEN pg_sequence_last_value(s.seqrelid) END AS exact,
           greatest(t.reltuples::numeric, pg_stat_get_tuples_inserted(t.oid)) AS estimate
    FROM pg_sequence s
    JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = s.seqrelid AND d.deptype IN ('a', 'i')
    JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
    JOIN pg_class t ON t.oid = a.attrelid
    WHERE a.atttypid IN ('int2'::regtype, 'int4'::regtype) AND s.seqincrement > 0
)
SELECT 'database/integer-key-exhaustion' AS ref,
       format('%s.%s', attrelid::regclass, attname) AS object,
       format('%s %% of the key range is used', round(100 * coalesce(exact, estimate) / top)) AS finding,
       format('%s %s of %s', CASE WHEN exact IS NULL THEN 'about' ELSE 'sequence at' END,
              round(coalesce(exact, estimate)), top) AS evidence
FROM keys
WHERE coalesce(exact, estimate) > 0.5 * top;
