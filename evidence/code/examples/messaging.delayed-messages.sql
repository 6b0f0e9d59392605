CREATE TABLE scheduled_message (id int PRIMARY KEY, payload text, due_at timestamptz, sent_at timestamptz);
INSERT INTO scheduled_message SELECT n, 'x', now() - n * interval '1 s' FROM generate_series(1, 101) n;
INSERT INTO scheduled_message VALUES (0, 'later', now() + interval '1 h');
--: as a
BEGIN;
<<CELL>>
--: as b
SET lock_timeout = '200ms';
<<CELL>>
--: gives 1|x
--: shows a second poller gets the one left over without waiting
