-- Twice as many dead rows as start autovacuum: it does not get through, or something holds the horizon.
SELECT 'database/vacuum-and-bloat' AS ref,
       s.relid::regclass::text AS object,
       format('%s dead rows, autovacuum starts at %s', s.n_dead_tup, round(start)) AS finding,
       format('%s live rows, last autovacuum %s, last vacuum %s', s.n_live_tup, coalesce(s.last_autovacuum::text, 'never'),
              coalesce(s.last_vacuum::text, 'never')) AS evidence
FROM pg_stat_user_tables s
JOIN pg_class t ON t.oid = s.relid
CROSS JOIN LATERAL (
    SELECT coalesce((SELECT option_value FROM pg_options_to_table(t.reloptions)
                     WHERE option_name = 'autovacuum_vacuum_threshold'),
                    current_setting('autovacuum_vacuum_threshold'))::numeric
           + coalesce((SELECT option_value FROM pg_options_to_table(t.reloptions)
                       WHERE option_name = 'autovacuum_vacuum_scale_factor'),
                      current_setting('autovacuum_vacuum_scale_factor'))::numeric
           * greatest(t.reltuples, 0)::float8::numeric AS start
) o
WHERE t.reltuples < 'Infinity' AND s.n_dead_tup > 10000 AND s.n_dead_tup > 2 * start;
