CREATE TABLE item (id int, data jsonb);
CREATE INDEX ON item USING gin (data);
CREATE TABLE plain (id int PRIMARY KEY);
<<CELL>>
--: gives item|-1.0|0
--: shows tables with a GIN index are listed, others not
