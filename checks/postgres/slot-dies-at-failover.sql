-- After a promotion a logical slot without `failover` is not on the new primary, and its consumer loses changes.
SELECT 'database/logical-slot-failover' AS ref,
       s.slot_name::text AS object,
       'logical slot is not copied to the standby: set failover on its subscription or connector' AS finding,
       format('failover = %s, plugin %s', to_jsonb(s) ->> 'failover', s.plugin) AS evidence
FROM pg_replication_slots s
WHERE s.slot_type = 'logical'
  AND NOT s.temporary
  AND to_jsonb(s) ->> 'failover' = 'false'
  AND EXISTS (SELECT FROM pg_replication_slots p WHERE p.slot_type = 'physical');
