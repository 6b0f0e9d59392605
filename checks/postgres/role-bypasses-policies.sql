-- A login role with BYPASSRLS sees the rows of all tenants, whatever the policies say.
SELECT 'security/tenant-isolation' AS ref,
       r.rolname::text AS object,
       'role can log in and skips row-level security' AS finding,
       'rolbypassrls' AS evidence
FROM pg_roles r
WHERE r.rolbypassrls
  AND r.rolcanlogin
  AND NOT r.rolsuper
  AND EXISTS (SELECT FROM pg_class t WHERE t.relrowsecurity);
