-- A prepared transaction keeps its locks and the vacuum horizon over restarts, until somebody ends it.
-- checks.prepared_seconds: how old one may be (300).
SELECT 'database/long-transactions' AS ref,
       gid AS object,
       format('prepared transaction is %s s old: COMMIT PREPARED or ROLLBACK PREPARED', round(extract(epoch FROM now() - prepared)))
           AS finding,
       format('of %s in %s', owner, database) AS evidence
FROM pg_prepared_xacts
WHERE now() - prepared
      > coalesce(nullif(current_setting('checks.prepared_seconds', true), '')::numeric, 300) * interval '1 second';
