CREATE TABLE item (id int PRIMARY KEY, data jsonb);
INSERT INTO item SELECT n, jsonb_build_object('status', CASE WHEN n % 500 = 0 THEN 'open' ELSE 'done' END, 'n', n) FROM generate_series(1, 20000) n;
ANALYZE item;
<<CELL>>
--: plan item_data
SELECT id FROM item WHERE data @> '{"status": "open"}';
--: no plan item_data
SELECT id FROM item WHERE data ->> 'status' = 'open';
--: shows @> uses the index, ->> does not
