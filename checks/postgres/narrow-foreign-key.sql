-- A reference narrower than the key that it refers to fails first: integer out of range, while the parent still counts.
SELECT 'database/integer-key-exhaustion' AS ref,
       format('%s.%s', c.conrelid::regclass, a.attname) AS object,
       format('%s refers to %s.%s, which is %s', format_type(a.atttypid, NULL), c.confrelid::regclass, b.attname,
              format_type(b.atttypid, NULL)) AS finding,
       c.conname::text AS evidence
FROM pg_constraint c
CROSS JOIN LATERAL unnest(c.conkey, c.confkey) AS k (mine, theirs)
JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.mine
JOIN pg_attribute b ON b.attrelid = c.confrelid AND b.attnum = k.theirs
WHERE c.contype = 'f'
  AND c.conparentid = 0
  AND (a.atttypid, b.atttypid) IN (('int4'::regtype, 'int8'::regtype), ('int2'::regtype, 'int8'::regtype),
                                   ('int2'::regtype, 'int4'::regtype));
