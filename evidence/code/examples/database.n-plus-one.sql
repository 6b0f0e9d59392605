CREATE TABLE orders (id int PRIMARY KEY);
CREATE TABLE order_item (id int PRIMARY KEY, order_id int, sku text, qty int);
INSERT INTO orders VALUES (1), (2);
INSERT INTO order_item SELECT n, 1 + n % 2, 's' || n, n FROM generate_series(1, 9) n;
--: with {1}
<<CELL>>
--: gives 1|s8|8 / 1|s6|6 / 1|s4|4
--: shows one statement gives the last three items of each order
