CREATE TABLE events (stream_id text, version int, type text, payload jsonb, UNIQUE (stream_id, version));
--: with s 1 placed {}
<<CELL>>
--: fails 23505
<<CELL>>
--: shows a concurrent writer of the same version gets 23505
