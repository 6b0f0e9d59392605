-- A subscription that is disabled or fails again and again keeps its slot on the publisher, which fills its disk.
SELECT 'database/replication' AS ref,
       s.subname::text AS object,
       CASE WHEN s.subenabled THEN 'subscription fails while it applies changes' ELSE 'subscription is disabled' END
           AS finding,
       format('%s errors while applying', t.apply_error_count) AS evidence
FROM pg_subscription s
JOIN pg_stat_subscription_stats t ON t.subid = s.oid
WHERE s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (NOT s.subenabled OR (t.apply_error_count > 0 AND NOT EXISTS (
      SELECT FROM pg_stat_subscription w WHERE w.subid = s.oid AND w.pid IS NOT NULL)));
