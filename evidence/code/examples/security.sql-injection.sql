CREATE TABLE customer (id int PRIMARY KEY, tenant_id int, name text, status text, created_at timestamptz DEFAULT now());
INSERT INTO customer VALUES (1, 1, 'b', 'active'), (2, 1, 'a', 'active'), (3, 2, 'c', 'active');
--: with 1 {active} name 10
<<CELL>>
DO $$ BEGIN ASSERT (SELECT count(*) FROM customer) = 3; END $$;
--: with 1 {active} 'name; DROP TABLE customer' 10
<<CELL>>
SELECT count(*) FROM customer;
--: gives 3
--: shows a hostile column name only changes the order
