-- Without max_slot_wal_keep_size one dead consumer fills the disk of the primary.
SELECT 'database/replication' AS ref,
       'max_slot_wal_keep_size' AS object,
       'slots exist and nothing limits the WAL that they keep' AS finding,
       format('max_slot_wal_keep_size = -1, slots: %s', string_agg(slot_name, ', ' ORDER BY slot_name)) AS evidence
FROM pg_replication_slots
WHERE NOT temporary AND current_setting('max_slot_wal_keep_size') = '-1'
HAVING count(*) > 0;
