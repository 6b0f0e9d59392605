CREATE TABLE orders (id int PRIMARY KEY, status text);
INSERT INTO orders VALUES (42, 'open');
<<CELL>>
SELECT status FROM orders;
--: gives open
--: shows the analysed UPDATE is rolled back
