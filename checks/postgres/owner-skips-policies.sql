-- The owner of a table sees all rows unless row-level security is forced; here the owner is connected.
SELECT 'security/tenant-isolation' AS ref,
       t.oid::regclass::text AS object,
       format('its owner %s is connected and skips its policies: FORCE ROW LEVEL SECURITY, or another role', r.rolname)
           AS finding,
       format('%s sessions', (SELECT count(*) FROM pg_stat_activity a WHERE a.usesysid = t.relowner)) AS evidence
FROM pg_class t
JOIN pg_roles r ON r.oid = t.relowner
WHERE t.relrowsecurity
  AND NOT t.relforcerowsecurity
  AND NOT r.rolsuper
  AND EXISTS (SELECT FROM pg_stat_activity a WHERE a.usesysid = t.relowner AND a.pid <> pg_backend_pid());
