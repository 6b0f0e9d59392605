<<CELL>>
INSERT INTO event VALUES ('f81d4fae-7dec-11d0-a765-00a0c91e6bf6', 1, 'a', '{}');
--: fails 23505
INSERT INTO event VALUES ('f81d4fae-7dec-11d0-a765-00a0c91e6bf6', 1, 'b', '{}');
--: shows a second writer of the same version is refused with 23505
