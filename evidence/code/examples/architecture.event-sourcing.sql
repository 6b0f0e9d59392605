--: with 0 0
<<CELL>>
INSERT INTO event VALUES ('f81d4fae-7dec-11d0-a765-00a0c91e6bf6', 1, 'a', '{}');
--: fails 23505
INSERT INTO event VALUES ('f81d4fae-7dec-11d0-a765-00a0c91e6bf6', 1, 'b', '{}');
--: shows a second writer of the same version is refused with 23505
TRUNCATE event;
--: as early
BEGIN;
INSERT INTO event VALUES ('f81d4fae-7dec-11d0-a765-00a0c91e6bf6', 2, 'first', '{}');
--: as late
INSERT INTO event VALUES ('f81d4fae-7dec-11d0-a765-00a0c91e6bf6', 3, 'second', '{}');
--: as reader
SELECT type FROM event WHERE position > 0 ORDER BY position;
--: gives second
SELECT type FROM event WHERE (xid, position) > ('0'::xid8, 0) AND xid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY xid, position;
--: gives
--: as early
COMMIT;
--: as reader
SELECT type FROM event WHERE (xid, position) > ('0'::xid8, 0) AND xid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY xid, position;
--: gives first / second
--: shows below the snapshot's xmin no event is skipped, by position alone the one that commits later is
