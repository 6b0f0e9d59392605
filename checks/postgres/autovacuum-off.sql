-- Without autovacuum a table grows, its statistics age, and transaction ids run out.
SELECT 'database/vacuum-and-bloat' AS ref, 'autovacuum' AS object,
       'autovacuum is off for the whole server' AS finding,
       format('autovacuum = %s, track_counts = %s', current_setting('autovacuum'), current_setting('track_counts'))
           AS evidence
WHERE current_setting('autovacuum') = 'off' OR current_setting('track_counts') = 'off'
UNION ALL
SELECT 'database/vacuum-and-bloat', oid::regclass::text, 'autovacuum is off for this table',
       array_to_string(reloptions, ', ')
FROM pg_class
WHERE relkind IN ('r', 'm') AND reloptions && ARRAY['autovacuum_enabled=false', 'autovacuum_enabled=off',
                                                    'autovacuum_enabled=no', 'autovacuum_enabled=0'];
