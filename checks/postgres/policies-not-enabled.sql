-- Policies on a table whose row-level security is off do nothing.
SELECT 'security/tenant-isolation' AS ref,
       t.oid::regclass::text AS object,
       'table has policies, but row-level security is not enabled' AS finding,
       string_agg(p.polname, ', ' ORDER BY p.polname) AS evidence
FROM pg_policy p
JOIN pg_class t ON t.oid = p.polrelid
WHERE NOT t.relrowsecurity
GROUP BY t.oid;
