CREATE TABLE account (id int PRIMARY KEY, balance int);
CREATE TABLE entry (id int, account_id int REFERENCES account);
INSERT INTO account VALUES (3, 0), (7, 0);
--: as a
BEGIN;
<<CELL>>
--: gives 3 / 7
--: as b
SET lock_timeout = '200ms';
INSERT INTO entry VALUES (1, 7);
--: as a
COMMIT;
BEGIN;
SELECT id FROM account FOR UPDATE;
--: as b
--: fails 55P03
INSERT INTO entry VALUES (2, 7);
--: shows rows are locked by id; inserting a child goes on, and waits with FOR UPDATE
