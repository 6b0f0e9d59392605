-- After an upgrade of the server an extension keeps its old SQL until ALTER EXTENSION ... UPDATE.
SELECT 'database/pg-upgrade-to-18' AS ref,
       name::text AS object,
       format('extension is at %s, the server brings %s: ALTER EXTENSION %I UPDATE', installed_version, default_version, name)
           AS finding,
       'pg_available_extensions' AS evidence
FROM pg_available_extensions
WHERE installed_version <> default_version;
