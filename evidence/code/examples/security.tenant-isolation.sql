CREATE ROLE isolation_app LOGIN;
CREATE TABLE invoice (id int, tenant_id uuid, total int, status text);
INSERT INTO invoice VALUES (1, '11111111-1111-1111-1111-111111111111', 5, 'open'), (2, '22222222-2222-2222-2222-222222222222', 6, 'open');
ALTER TABLE invoice OWNER TO isolation_app;
--: as app isolation_app
--: with 11111111-1111-1111-1111-111111111111
<<CELL>>
BEGIN;
SELECT set_config('app.tenant_id', $1, true);
SELECT id FROM invoice;
--: gives 1
COMMIT;
--: fails 22P02
SELECT id FROM invoice;
--: as main
DROP OWNED BY isolation_app;
--: shows the owner sees one tenant's rows; after the transaction the setting is empty and the query fails with 22P02
