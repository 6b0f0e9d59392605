CREATE TABLE orders (id serial PRIMARY KEY, note text);
SELECT setval('orders_id_seq', 2147483647);
--: fails 2200H
INSERT INTO orders (note) VALUES ('refused');
<<CELL>>
INSERT INTO orders (note) VALUES ('a') RETURNING id;
--: gives -2147483648
--: shows an exhausted serial goes on with negative values
