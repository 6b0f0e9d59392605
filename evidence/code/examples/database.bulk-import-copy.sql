CREATE TABLE product (sku text PRIMARY KEY, price_minor bigint);
INSERT INTO product VALUES ('a', 1);
--: stdin sku,price_minor\na,5\nb,7\nb,8\n,9\nc,x\n
<<CELL>>
SELECT * FROM product ORDER BY sku;
--: gives a|5 / b|8
--: shows the last line of a sku wins, bad lines are passed over
