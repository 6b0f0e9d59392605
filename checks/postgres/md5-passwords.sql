-- MD5 password hashes can be used to log in as they are, and later releases drop them.
SELECT 'database/pg-upgrade-to-19' AS ref,
       'password_encryption' AS object,
       'new passwords are stored as MD5: set scram-sha-256, then let each role set its password again' AS finding,
       format('password_encryption = %s', reset_val) AS evidence
FROM pg_settings
WHERE name = 'password_encryption' AND reset_val = 'md5';
