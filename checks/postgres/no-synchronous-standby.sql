-- With synchronous_standby_names set and no such standby connected, every commit hangs.
SELECT 'database/replication' AS ref,
       'synchronous_standby_names' AS object,
       'no synchronous standby is connected: commits wait for ever' AS finding,
       format('synchronous_standby_names = %s, %s standbys connected', current_setting('synchronous_standby_names'),
              (SELECT count(*) FROM pg_stat_replication)) AS evidence
WHERE current_setting('synchronous_standby_names') <> ''
  AND NOT pg_is_in_recovery()
  AND NOT EXISTS (SELECT FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum'));
