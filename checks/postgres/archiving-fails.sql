-- While archiving fails WAL piles up, and nothing written since can be restored.
SELECT 'database/backup-and-pitr' AS ref,
       'archive_command' AS object,
       'the last attempt to archive failed' AS finding,
       format('%s failed at %s, %s failures; last success %s', last_failed_wal, last_failed_time, failed_count,
              coalesce(last_archived_time::text, 'never')) AS evidence
FROM pg_stat_archiver
WHERE last_failed_time > coalesce(last_archived_time, '-infinity');
