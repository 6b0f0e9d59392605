-- A slot that has lost its WAL never catches up: its consumer needs a new copy of everything.
SELECT 'database/logical-slot-failover' AS ref,
       slot_name::text AS object,
       format('slot is %s', wal_status) AS finding,
       format('%s, %s', slot_type, coalesce(to_jsonb(s) ->> 'invalidation_reason', 'no reason on record')) AS evidence
FROM pg_replication_slots s
WHERE wal_status IN ('lost', 'unreserved') OR to_jsonb(s) ->> 'invalidation_reason' IS NOT NULL;
