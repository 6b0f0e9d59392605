CREATE EXTENSION vector;
CREATE TABLE chunk (id int PRIMARY KEY, tenant_id int, embedding vector(8));
SELECT setseed(0.5);
INSERT INTO chunk SELECT n, CASE WHEN n % 50 = 0 THEN 7 ELSE n % 40 + 100 END, ARRAY(SELECT random() + 0 * n FROM generate_series(1, 8))::vector FROM generate_series(1, 20000) n;
CREATE INDEX chunk_tenant ON chunk (tenant_id);
CREATE INDEX chunk_hnsw ON chunk USING hnsw (embedding vector_cosine_ops);
ANALYZE chunk;
--: with [1,0,0,0,0,0,0,1]
--: plan chunk_hnsw
SELECT id FROM chunk WHERE tenant_id = 7 ORDER BY embedding <=> $1 LIMIT 10;
SELECT count(*) < 10 FROM (SELECT id FROM chunk WHERE tenant_id = 7 ORDER BY embedding <=> $1 LIMIT 10) c;
--: gives t
<<CELL>>
--: rows 10
--: plan chunk_tenant
SELECT id FROM chunk WHERE tenant_id = 7 ORDER BY (embedding <=> $1) + 0 LIMIT 10;
--: shows with a 2 % filter the planner takes HNSW despite a B-tree and finds fewer than 10; the iterative scan finds 10; + 0 forces the exact search
