CREATE EXTENSION btree_gist;
CREATE TABLE net (a inet, b int);
CREATE INDEX old_style ON net USING gist (a gist_inet_ops);
CREATE INDEX other ON net USING gist (b);
<<CELL>>
--: gives old_style|gist_inet_ops
--: shows only the index over inet is listed
