-- A foreign key without the tenant's column lets a row of one tenant refer to a row of another.
SELECT 'security/tenant-isolation' AS ref,
       c.conrelid::regclass::text AS object,
       format('foreign key %s to %s leaves out %s, which both tables have', c.conname, c.confrelid::regclass, mine.attname)
           AS finding,
       pg_get_constraintdef(c.oid) AS evidence
FROM pg_constraint c
JOIN pg_class a ON a.oid = c.conrelid AND a.relrowsecurity
JOIN pg_class b ON b.oid = c.confrelid AND b.relrowsecurity
JOIN pg_attribute mine ON mine.attrelid = a.oid AND mine.attname IN ('tenant_id', 'org_id', 'organization_id', 'account_id')
JOIN pg_attribute theirs ON theirs.attrelid = b.oid AND theirs.attname = mine.attname
WHERE c.contype = 'f' AND c.conparentid = 0 AND mine.attnum <> ALL (c.conkey);
