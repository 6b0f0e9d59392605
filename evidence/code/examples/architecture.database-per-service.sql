CREATE ROLE stock_app LOGIN;
GRANT CREATE ON SCHEMA public TO PUBLIC;
<<CELL>>
--: as o orders_app
CREATE TABLE orders_table (id int);
SELECT schemaname FROM pg_tables WHERE tablename = 'orders_table';
--: gives orders
--: as s stock_app
--: fails 42501
SELECT * FROM orders.orders_table;
--: fails 42501
CREATE TABLE public.leak (id int);
--: as main
CREATE TABLE moved (id int);
GRANT INSERT ON moved TO stock_app;
GRANT USAGE ON SCHEMA public TO stock_app;
--: as s
BEGIN;
INSERT INTO public.moved VALUES (1);
--: as main
SET lock_timeout = '200ms';
BEGIN;
--: fails 55P03
LOCK TABLE moved IN SHARE ROW EXCLUSIVE MODE;
ROLLBACK;
REVOKE ALL ON moved FROM stock_app;
--: as s
COMMIT;
--: fails 42501
INSERT INTO public.moved VALUES (2);
--: as main
SELECT count(*) FROM moved;
--: gives 1
--: shows REVOKE waits for no open transaction, LOCK TABLE does
DROP OWNED BY orders_app;
DROP OWNED BY stock_app;
--: shows another service can neither read the schema nor create in public
