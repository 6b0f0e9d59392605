-- A superuser skips every policy, and one injection can run programs on the server.
SELECT 'security/tenant-isolation' AS ref,
       a.usename::text AS object,
       format('%s sessions of a superuser come from applications', count(*)) AS finding,
       string_agg(DISTINCT format('%s from %s', coalesce(nullif(a.application_name, ''), 'no name'), a.client_addr), ', ')
           AS evidence
FROM pg_stat_activity a
JOIN pg_roles r ON r.oid = a.usesysid
WHERE r.rolsuper
  AND a.backend_type = 'client backend'
  AND a.pid <> pg_backend_pid()
  AND a.client_addr IS NOT NULL
  AND a.application_name !~* '^(psql|pg_|pgadmin|dbeaver|datagrip|barman|pgbackrest|patroni)'
GROUP BY a.usename;
