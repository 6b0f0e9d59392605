CREATE TABLE article (id int PRIMARY KEY, body text, version int);
INSERT INTO article VALUES (1, 'a', 3);
--: with b 1 3
<<CELL>>
--: gives 4
--: with c 1 3
<<CELL>>
--: gives
--: shows the second writer of the same version gets no row
