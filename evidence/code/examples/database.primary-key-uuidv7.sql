<<CELL>>
INSERT INTO orders DEFAULT VALUES;
SELECT pg_sleep(0.01);
INSERT INTO orders DEFAULT VALUES;
SELECT uuid_extract_version(id) FROM orders LIMIT 1;
--: gives 7
SELECT array_agg(id ORDER BY placed_at) = array_agg(id ORDER BY id) FROM orders;
--: gives t
--: shows IDs are in the order of their making
