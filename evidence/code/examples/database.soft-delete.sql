CREATE TABLE account (id int GENERATED ALWAYS AS IDENTITY, email text, deleted_at timestamptz);
--: with Ann@example.com
<<CELL>>
INSERT INTO account (email) VALUES ('ann@example.com') ON CONFLICT (lower(email)) WHERE deleted_at IS NULL DO NOTHING;
SELECT count(*) FROM account;
--: gives 1
UPDATE account SET deleted_at = now();
INSERT INTO account (email) VALUES ('ann@example.com') ON CONFLICT (lower(email)) WHERE deleted_at IS NULL DO NOTHING;
SELECT count(*) FROM account;
--: gives 2
--: shows an address is unique among the living and free after deletion
