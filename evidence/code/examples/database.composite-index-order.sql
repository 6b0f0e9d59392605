CREATE TABLE orders (id bigint PRIMARY KEY, tenant_id int, status text, created_at timestamptz, note text);
INSERT INTO orders SELECT n, n % 20, CASE n % 3 WHEN 0 THEN 'open' ELSE 'done' END, now() - n * interval '1 s', repeat('x', 100) FROM generate_series(1, 60000) n;
<<CELL>>
ANALYZE orders;
--: plan orders_tenant_status_created
SELECT * FROM orders WHERE tenant_id = 3 AND status = 'open' ORDER BY created_at DESC LIMIT 20;
--: no plan Sort
SELECT * FROM orders WHERE tenant_id = 3 AND status = 'open' ORDER BY created_at DESC LIMIT 20;
--: shows equality first, then the order: an index scan without a sort
