-- A constraint left NOT VALID says nothing about the rows that were there before it.
SELECT 'database/lock-timeout-ddl' AS ref,
       c.conrelid::regclass::text AS object,
       format('constraint %s was never validated: ALTER TABLE ... VALIDATE CONSTRAINT', c.conname) AS finding,
       pg_get_constraintdef(c.oid) AS evidence
FROM pg_constraint c
WHERE NOT c.convalidated AND c.conrelid <> 0 AND c.conparentid = 0
  AND coalesce(to_jsonb(c) ->> 'conenforced', 'true') = 'true';
