-- Without checksums a damaged page is read as data, copied into backups, and found when it is too late.
SELECT 'database/pg-upgrade-to-18' AS ref,
       'data_checksums' AS object,
       'pages carry no checksums; clusters made by PostgreSQL 18 have them, and pg_upgrade wants both alike' AS finding,
       'data_checksums = off' AS evidence
WHERE current_setting('data_checksums') = 'off';
