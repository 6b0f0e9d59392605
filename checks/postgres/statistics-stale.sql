-- A plan made from statistics of another table than the one that is there now can be a thousand times slower.
SELECT 'database/explain-analyze' AS ref,
       relid::regclass::text AS object,
       CASE WHEN coalesce(last_analyze, last_autoanalyze) IS NULL THEN 'table was never analysed'
            ELSE format('%s rows changed since the last ANALYZE', n_mod_since_analyze) END AS finding,
       format('%s live rows, last analysed %s', n_live_tup,
              coalesce(greatest(last_analyze, last_autoanalyze)::text, 'never')) AS evidence
FROM pg_stat_user_tables
WHERE (coalesce(last_analyze, last_autoanalyze) IS NULL AND n_live_tup > 10000)
   OR (n_mod_since_analyze > 50000 AND n_mod_since_analyze > 0.5 * n_live_tup);
