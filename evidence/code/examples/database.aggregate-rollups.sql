CREATE TABLE orders (id int, tenant_id int, placed_at timestamptz, total_minor bigint);
CREATE TABLE sales_daily (day date, tenant_id int, orders bigint, revenue_minor numeric, PRIMARY KEY (day, tenant_id));
INSERT INTO orders SELECT n, n % 3, now() - n * interval '1 h', 100 FROM generate_series(1, 60) n;
<<CELL>>
CREATE TABLE before AS SELECT * FROM sales_daily;
<<CELL>>
SELECT count(*) FROM (TABLE before EXCEPT TABLE sales_daily) d;
--: gives 0
TRUNCATE sales_daily;
--: as a
BEGIN;
DELETE FROM sales_daily WHERE day >= current_date - 2;
INSERT INTO sales_daily SELECT placed_at::date, tenant_id, count(*), sum(total_minor) FROM orders WHERE placed_at >= current_date - 2 GROUP BY 1, 2;
--: as b
--: aside
<<CELL>>
--: waits b
--: as a
COMMIT;
--: ends b 23505
--: shows a rerun gives the same totals, a parallel run fails with 23505
