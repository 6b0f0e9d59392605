CREATE TABLE session (id int PRIMARY KEY, expires_at timestamptz);
CREATE INDEX ON session (expires_at);
INSERT INTO session SELECT n, now() - interval '100 days' FROM generate_series(1, 6000) n;
INSERT INTO session VALUES (0, now());
--: as a
BEGIN;
SELECT id FROM session WHERE id = 17 FOR UPDATE;
--: as b
SET lock_timeout = '200ms';
<<CELL>>
SELECT count(*) FROM session;
--: gives 1001
<<CELL>>
SELECT id FROM session ORDER BY id;
--: gives 0 / 17
--: shows batches of 5,000, a locked row is passed over without waiting
