CREATE TABLE orders (id int PRIMARY KEY, account_id int, status text, shipping_address text);
INSERT INTO orders VALUES (1, 10, 'open', 'x');
--: with 1 11 y
<<CELL>>
--: gives
--: with 1 10 y
<<CELL>>
--: gives 1
--: shows another account's order gives no row
