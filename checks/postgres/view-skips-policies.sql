-- A view reads with its owner's rights: without security_invoker it shows rows that the caller may not see.
SELECT DISTINCT 'security/tenant-isolation' AS ref,
       v.oid::regclass::text AS object,
       format('view over %s has no security_invoker', t.oid::regclass) AS finding,
       format('owner %s', pg_get_userbyid(v.relowner)) AS evidence
FROM pg_class v
JOIN pg_rewrite w ON w.ev_class = v.oid
JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_class'::regclass
JOIN pg_class t ON t.oid = d.refobjid AND t.oid <> v.oid
WHERE v.relkind = 'v'
  AND t.relrowsecurity
  AND NOT coalesce(v.reloptions && ARRAY['security_invoker=true', 'security_invoker=on', 'security_invoker=1',
                                         'security_invoker=yes'], false);
