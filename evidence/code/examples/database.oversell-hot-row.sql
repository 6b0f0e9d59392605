CREATE TABLE stock (sku text PRIMARY KEY, available int);
INSERT INTO stock VALUES ('a', 1);
--: as a
BEGIN;
--: with a 1
<<CELL>>
--: gives 0
--: as b
--: aside
UPDATE stock SET available = available - 1 WHERE sku = 'a' AND available >= 1 RETURNING available;
--: waits b
--: as a
COMMIT;
--: ends b
<<CELL>>
--: gives
SELECT available FROM stock;
--: gives 0
--: shows a waiting buyer checks again and gets no row
