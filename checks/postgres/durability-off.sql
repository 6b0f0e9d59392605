-- What was committed can be gone after a crash; without fsync the whole cluster can be.
SELECT 'database/replication' AS ref,
       name AS object,
       CASE name WHEN 'synchronous_commit' THEN 'commits are confirmed before they are on disk'
                 ELSE 'a crash of the machine can destroy the cluster' END AS finding,
       format('%s = %s', name, reset_val) AS evidence
FROM pg_settings
WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit') AND reset_val = 'off';
