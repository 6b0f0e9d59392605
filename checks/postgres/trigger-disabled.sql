-- Triggers that somebody switched off for an import stay off; among them are those that keep foreign keys.
SELECT 'database/bulk-import-copy' AS ref,
       t.tgrelid::regclass::text AS object,
       CASE WHEN bool_or(t.tgisinternal) THEN 'foreign keys are not checked: ALTER TABLE ... ENABLE TRIGGER ALL'
            ELSE 'trigger is disabled' END AS finding,
       string_agg(t.tgname, ', ' ORDER BY t.tgname) AS evidence
FROM pg_trigger t
WHERE t.tgenabled = 'D'
GROUP BY t.tgrelid;
