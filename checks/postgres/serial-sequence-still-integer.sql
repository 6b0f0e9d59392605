-- A bigint column whose sequence is still an integer one stops at 2,147,483,647 all the same.
SELECT 'database/integer-key-exhaustion' AS ref,
       s.seqrelid::regclass::text AS object,
       format('sequence is %s, its column %s.%s is bigint: ALTER SEQUENCE ... AS bigint', format_type(s.seqtypid, NULL),
              a.attrelid::regclass, a.attname) AS finding,
       format('ends at %s', s.seqmax) AS evidence
FROM pg_sequence s
JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = s.seqrelid AND d.deptype IN ('a', 'i')
JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE a.atttypid = 'int8'::regtype AND s.seqtypid <> 'int8'::regtype;
