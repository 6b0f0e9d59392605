CREATE TABLE leader (name text PRIMARY KEY, holder text, term bigint, expires_at timestamptz);
CREATE TABLE billing_run (id int PRIMARY KEY, state text);
INSERT INTO leader VALUES ('billing', 'a', 4, now() - interval '1 s');
INSERT INTO billing_run VALUES (1, 'new'), (2, 'new');
--: with b
--: then 5 paid 1
<<CELL>>
--: gives 5
--: with b
--: then 4 stale 2
<<CELL>>
--: gives 5
SELECT state FROM billing_run ORDER BY id;
--: gives paid / new
--: with c
--: then 4 stale 2
<<CELL>>
--: gives
--: shows an expired lease is taken with a higher term, a running one is renewed only by its holder, and a write with another term changes nothing
--: as leader
SET idle_session_timeout = '300ms';
SELECT pg_try_advisory_lock(7);
--: gives t
--: as standby
SELECT pg_try_advisory_lock(7);
--: gives f
SELECT pg_sleep(0.6);
SELECT pg_try_advisory_lock(7);
--: gives t
--: as leader
--: fails 57P05
SELECT 1;
--: shows a silent leader's session ends with 57P05 and its advisory lock is free
