CREATE TABLE password_reset (token_hash bytea PRIMARY KEY, user_id int, used_at timestamptz, expires_at timestamptz);
INSERT INTO password_reset VALUES (sha256('t1'), 1, NULL, now() + interval '1 h'), (sha256('t2'), 2, NULL, now() - interval '1 s');
--: with t1
<<CELL>>
--: gives 1
<<CELL>>
--: gives
--: with t2
<<CELL>>
--: gives
--: shows a token works once and not after its expiry
