CREATE ROLE audit_owner;
CREATE ROLE app_writer LOGIN;
<<CELL>>
--: as app app_writer
INSERT INTO audit_event (id, tenant_id, actor, action, object, outcome) VALUES (uuidv7(), uuidv7(), 'a', 'read', 'o', 'ok');
--: fails 42501
UPDATE audit_event SET outcome = 'denied';
--: fails 42501
DELETE FROM audit_event;
--: fails 42501
SELECT * FROM audit_event;
--: as main
DROP OWNED BY app_writer;
DROP OWNED BY audit_owner;
--: shows the writer can add and neither read, change nor delete
