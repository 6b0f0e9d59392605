CREATE TABLE leader (name text PRIMARY KEY, holder text, term bigint, expires_at timestamptz);
INSERT INTO leader VALUES ('billing', 'a', 4, now() - interval '1 s');
--: with b
<<CELL>>
--: gives 5
--: with c
<<CELL>>
--: gives
--: shows an expired lease is taken with a higher term, a running one is not
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
