CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint, created_at timestamptz, total int);
INSERT INTO orders SELECT n, n % 50, '2026-01-01'::timestamptz + n / 200 * interval '1 s', n FROM generate_series(1, 20000) n;
CREATE INDEX ON orders (customer_id, created_at, id);
ANALYZE orders;
--: with 7 '2026-01-01 00:00:50+00' 10007
SET timezone = 'UTC';
--: no plan Sort
<<CELL>>
--: plan ROW(created_at, id) <
<<CELL>>
<<CELL>>
--: shows rows of equal time are neither skipped nor repeated, and the index gives the order
CREATE TABLE page1 AS SELECT id FROM orders WHERE customer_id = 7 ORDER BY created_at DESC, id DESC LIMIT 51;
DO $$ DECLARE l record; pages int := 0; seen int := 51; n int; BEGIN
  SELECT created_at, id INTO l FROM orders WHERE customer_id = 7 ORDER BY created_at DESC, id DESC OFFSET 50 LIMIT 1;
  LOOP
    SELECT count(*) INTO n FROM (SELECT FROM orders WHERE customer_id = 7 AND (created_at, id) < (l.created_at, l.id) ORDER BY created_at DESC, id DESC LIMIT 51) p;
    EXIT WHEN n = 0;
    seen := seen + n;
    SELECT created_at, id INTO l FROM (SELECT created_at, id FROM orders WHERE customer_id = 7 AND (created_at, id) < (l.created_at, l.id) ORDER BY created_at DESC, id DESC LIMIT 51) p ORDER BY created_at, id LIMIT 1;
  END LOOP;
  ASSERT seen = (SELECT count(*) FROM orders WHERE customer_id = 7), seen;
END $$;
