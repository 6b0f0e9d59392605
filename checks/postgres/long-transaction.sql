-- While a transaction runs, no row that died since it began can be removed anywhere in the database.
-- checks.transaction_seconds: how long one may run (900).
SELECT 'database/long-transactions' AS ref,
       format('pid %s', pid) AS object,
       format('transaction runs for %s s', round(extract(epoch FROM now() - xact_start))) AS finding,
       format('%s, %s, holds back %s transactions: %s', usename, state, coalesce(age(backend_xmin)::text, 'no'),
              left(query, 80)) AS evidence
FROM pg_stat_activity
WHERE backend_type = 'client backend'
  AND pid <> pg_backend_pid()
  AND now() - xact_start
      > coalesce(nullif(current_setting('checks.transaction_seconds', true), '')::numeric, 900) * interval '1 second';
