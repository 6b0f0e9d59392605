-- Without pg_stat_statements nobody can say which statement costs the most.
SELECT 'monitoring/database-monitoring' AS ref,
       'shared_preload_libraries' AS object,
       'pg_stat_statements is not loaded' AS finding,
       format('shared_preload_libraries = %s', coalesce(nullif(current_setting('shared_preload_libraries'), ''), 'empty'))
           AS evidence
WHERE current_setting('shared_preload_libraries') !~ 'pg_stat_statements';
