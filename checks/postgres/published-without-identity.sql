-- UPDATE and DELETE fail on a published table that has no replica identity.
SELECT 'messaging/change-data-capture' AS ref,
       format('%I.%I', v.schemaname, v.tablename) AS object,
       format('publication %s sends updates of a table without replica identity: they fail', p.pubname) AS finding,
       format('replica identity %s, no primary key', t.relreplident) AS evidence
FROM pg_publication_tables v
JOIN pg_publication p USING (pubname)
JOIN pg_namespace n ON n.nspname = v.schemaname
JOIN pg_class t ON t.relnamespace = n.oid AND t.relname = v.tablename
WHERE (p.pubupdate OR p.pubdelete)
  AND t.relreplident IN ('d', 'n')
  AND (t.relreplident = 'n' OR NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = t.oid AND i.indisprimary));
