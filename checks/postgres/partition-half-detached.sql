-- A DETACH CONCURRENTLY that was interrupted leaves a partition that belongs to nobody's queries.
SELECT 'database/partitioning' AS ref,
       h.inhrelid::regclass::text AS object,
       'partition is half detached: ALTER TABLE ... DETACH PARTITION ... FINALIZE' AS finding,
       format('of %s', h.inhparent::regclass) AS evidence
FROM pg_inherits h
WHERE h.inhdetachpending;
