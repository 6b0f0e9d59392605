CREATE TABLE projection_position (projection text PRIMARY KEY, position bigint);
CREATE TABLE order_list (order_id bigint PRIMARY KEY, status text, total int);
--: with 1 10 paid 500
<<CELL>>
SELECT count(*) FROM order_list;
--: gives 0
INSERT INTO projection_position VALUES ('order_list', 0);
<<CELL>>
--: with 1 9 placed 400
<<CELL>>
SELECT status, total, position FROM order_list, projection_position;
--: gives paid|500|10
--: shows without the position's row nothing is applied, and an older event changes nothing
