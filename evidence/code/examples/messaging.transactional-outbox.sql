CREATE TABLE orders (id uuid PRIMARY KEY, customer_id bigint, total_cents bigint);
CREATE TABLE outbox (id uuid PRIMARY KEY, aggregatetype text, aggregateid text, type text, payload jsonb);
--: with f81d4fae-7dec-11d0-a765-00a0c91e6bf6 1 500
--: then f81d4fae-7dec-11d0-a765-00a0c91e6bf7 f81d4fae-7dec-11d0-a765-00a0c91e6bf6 {}
<<CELL>>
SELECT o.id::text = x.aggregateid, o.xmin::text = x.xmin::text FROM orders o, outbox x;
--: gives t|t
--: shows one transaction writes order and event
