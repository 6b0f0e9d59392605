CREATE ROLE tenancy_app LOGIN;
CREATE TABLE invoice (id int, tenant_id uuid);
INSERT INTO invoice VALUES (1, '11111111-1111-1111-1111-111111111111'), (2, '22222222-2222-2222-2222-222222222222');
ALTER TABLE invoice OWNER TO tenancy_app;
--: as app tenancy_app
<<CELL>>
BEGIN;
SET LOCAL app.tenant_id = '11111111-1111-1111-1111-111111111111';
SELECT id FROM invoice;
--: gives 1
--: fails 42501
INSERT INTO invoice VALUES (3, '22222222-2222-2222-2222-222222222222');
ROLLBACK;
DROP POLICY tenant ON invoice;
SELECT count(*) FROM invoice;
--: gives 0
--: as main
DROP OWNED BY tenancy_app;
--: shows the owner sees one tenant's rows, cannot write another's, and without a policy sees none
