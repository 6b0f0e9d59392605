-- At two billion transactions without freezing the server takes no more writes.
SELECT 'database/vacuum-and-bloat' AS ref,
       t.oid::regclass::text AS object,
       format('oldest transaction id is %s transactions old', age(t.relfrozenxid)) AS finding,
       format('autovacuum_freeze_max_age = %s; writes stop near 2,100,000,000',
              current_setting('autovacuum_freeze_max_age')) AS evidence
FROM pg_class t
WHERE t.relkind IN ('r', 'm', 't')
  AND t.relfrozenxid <> '0'
  AND age(t.relfrozenxid) > 2 * current_setting('autovacuum_freeze_max_age')::bigint;
