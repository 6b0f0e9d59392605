CREATE TABLE users (id bigint PRIMARY KEY, email text, email_norm text);
INSERT INTO users SELECT n, 'U' || n FROM generate_series(1, 12000) n;
--: with 0
<<CELL>>
SELECT count(email_norm), max(email_norm) FILTER (WHERE id = 5000) FROM users;
--: gives 5000|u5000
CREATE TABLE touched AS SELECT id, xmin::text AS x FROM users;
<<CELL>>
SELECT count(*) FROM users JOIN touched USING (id) WHERE users.xmin::text <> x;
--: gives 0
--: shows a batch is 5,000 rows, and a rerun writes none
