-- Without archived WAL a backup can be restored only as of its own end.
SELECT 'database/backup-and-pitr' AS ref,
       'archive_mode' AS object,
       'WAL is not archived: no point-in-time recovery, unless something reads it by streaming' AS finding,
       format('archive_mode = %s, archive_command %s', current_setting('archive_mode'),
              CASE current_setting('archive_command') WHEN '' THEN 'is empty' ELSE 'is set' END) AS evidence
WHERE NOT pg_is_in_recovery()
  AND (current_setting('archive_mode') = 'off'
       OR (current_setting('archive_command') IN ('', '(disabled)')
           AND coalesce(current_setting('archive_library', true), '') = ''))
  AND NOT EXISTS (SELECT FROM pg_stat_replication WHERE application_name ~ 'receivewal|barman|wal-g|pgbackrest');
