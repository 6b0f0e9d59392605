CREATE TABLE article (id int PRIMARY KEY, title text NOT NULL, body text NOT NULL);
INSERT INTO article VALUES (1, 'Cooking', 'a replica fails now and then'), (2, 'Replica lag', 'nothing here'), (3, 'Bread', 'flour');
--: with replicas
<<CELL>>
--: gives 2 / 1
SELECT id FROM article, websearch_to_tsquery('english', '"unclosed (') AS q WHERE ts @@ q;
--: fails 42601
SELECT to_tsquery('english', '"unclosed (');
SELECT DISTINCT ts_rank(ts, q) FROM article, websearch_to_tsquery('english', 'replica -flour') AS q WHERE ts @@ q;
--: gives 1e-20
--: shows a hit in the title comes first; bad syntax is no error; a negated word makes all ranks equal
