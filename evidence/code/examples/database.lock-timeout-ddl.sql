CREATE TABLE orders (id int PRIMARY KEY, customer_id int);
INSERT INTO orders SELECT n, n FROM generate_series(1, 1000) n;
<<CELL>>
--: fails 23502
INSERT INTO orders VALUES (2000, NULL);
--: as main
ALTER TABLE orders DROP CONSTRAINT orders_cust_nn;
ALTER TABLE orders ADD CONSTRAINT orders_cust_nn NOT NULL customer_id NOT VALID;
BEGIN;
ALTER TABLE orders VALIDATE CONSTRAINT orders_cust_nn;
--: as b
SET lock_timeout = '200ms';
INSERT INTO orders VALUES (2001, 1);
--: as main
COMMIT;
--: as b
BEGIN;
SELECT count(*) FROM orders;
--: as main
SET lock_timeout = '200ms';
--: fails 55P03
ALTER TABLE orders ADD COLUMN note text;
--: shows writes go on while the constraint is validated; DDL behind a reader gives up with 55P03
--: as b
COMMIT;
CREATE TABLE parent (id int PRIMARY KEY, n int);
CREATE TABLE child (parent_id int);
INSERT INTO parent VALUES (1, 0);
--: as app
BEGIN;
UPDATE parent SET n = 1;
--: as ddl
--: aside
ALTER TABLE child ADD FOREIGN KEY (parent_id) REFERENCES parent NOT VALID;
--: waits ddl
--: as main
SELECT pg_sleep(0.4);
--: as app
--: fails 40P01
INSERT INTO child VALUES (1);
ROLLBACK;
--: ends ddl
ALTER TABLE child DROP CONSTRAINT child_parent_id_fkey;
BEGIN;
UPDATE parent SET n = 2;
--: as ddl
--: aside
BEGIN; LOCK TABLE parent IN SHARE ROW EXCLUSIVE MODE; ALTER TABLE child ADD FOREIGN KEY (parent_id) REFERENCES parent NOT VALID; COMMIT;
--: waits ddl
--: as app
INSERT INTO child VALUES (1);
COMMIT;
--: ends ddl
--: shows ADD FOREIGN KEY ends the transaction of code that writes the parent first with 40P01, unless the parent is locked before
