-- Text indexes built under another version of the sort order miss rows and let duplicates in.
SELECT 'database/collation-version-mismatch' AS ref,
       format('database %I', datname) AS object,
       'collation version differs: REINDEX text indexes, then ALTER DATABASE ... REFRESH COLLATION VERSION' AS finding,
       format('recorded %s, now %s', datcollversion, pg_database_collation_actual_version(oid)) AS evidence
FROM pg_database
WHERE datcollversion <> pg_database_collation_actual_version(oid)
UNION ALL
SELECT 'database/collation-version-mismatch',
       format('collation %s', c.oid::regcollation),
       'collation version differs: REINDEX what uses it, then ALTER COLLATION ... REFRESH VERSION',
       format('recorded %s, now %s', c.collversion, pg_collation_actual_version(c.oid))
FROM pg_collation c
WHERE c.collversion <> pg_collation_actual_version(c.oid)
  AND EXISTS (SELECT FROM pg_attribute a WHERE a.attcollation = c.oid AND NOT a.attisdropped AND a.attnum > 0);
