CREATE TABLE users (id bigint PRIMARY KEY, email text, deleted_at timestamptz, note text);
INSERT INTO users SELECT n, 'U' || n, NULL, repeat('x', 200) FROM generate_series(1, 20000) n;
<<CELL>>
VACUUM ANALYZE users;
--: plan Index Only Scan using users_email_live
SELECT id FROM users WHERE lower(email) = 'u7' AND deleted_at IS NULL;
--: no plan users_email_live
SELECT id FROM users WHERE lower(email) = 'u7';
--: fails 23505
INSERT INTO users VALUES (0, 'u7');
UPDATE users SET deleted_at = now() WHERE id = 7;
INSERT INTO users VALUES (0, 'u7');
--: shows an index-only scan with the bare column included; unique among the living; without the predicate the query does not use it
