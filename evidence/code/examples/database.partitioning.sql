<<CELL>>
SELECT count(*) FROM pg_inherits;
--: gives 0
ALTER TABLE event ATTACH PARTITION event_2026_08 FOR VALUES FROM ('2026-08-01 00:00Z') TO ('2026-09-01 00:00Z');
CREATE TABLE event_2026_09 (LIKE event INCLUDING DEFAULTS INCLUDING CONSTRAINTS, CHECK (at >= '2026-09-01 00:00Z' AND at < '2026-10-01 00:00Z'));
--: fails 23514
INSERT INTO event VALUES (1, '2026-09-05 00:00Z');
--: as w
BEGIN;
INSERT INTO event VALUES (1, '2026-08-05 00:00Z');
--: as main
SET lock_timeout = '200ms';
ALTER TABLE event ATTACH PARTITION event_2026_09 FOR VALUES FROM ('2026-09-01 00:00Z') TO ('2026-10-01 00:00Z');
--: fails 55P03
CREATE TABLE event_2026_10 PARTITION OF event FOR VALUES FROM ('2026-10-01 00:00Z') TO ('2026-11-01 00:00Z');
--: as w
COMMIT;
--: as main
--: no plan event_2026_08
SELECT * FROM event WHERE at >= '2026-09-01 00:00Z';
--: shows ATTACH does not wait for a writer, CREATE ... PARTITION OF does; a row outside is refused; the query is pruned
