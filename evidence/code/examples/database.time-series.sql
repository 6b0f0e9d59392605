CREATE TABLE reading (device int, at timestamptz, v float);
CREATE TABLE reading_5m (device int, at timestamptz, sum_v float, n bigint, PRIMARY KEY (device, at));
INSERT INTO reading SELECT 1, '2026-11-29 00:00+00'::timestamptz + n * interval '1 s', 1 FROM generate_series(0, 99999) n;
--: with '2026-11-29 00:00+00' '2026-11-29 01:00+00'
<<CELL>>
CREATE TABLE before AS TABLE reading_5m;
INSERT INTO reading VALUES (1, '2026-11-29 00:00:01+00', 5);
DROP INDEX reading_at_brin;
<<CELL>>
SELECT count(*), sum(n) FROM reading_5m;
--: gives 12|3601
ANALYZE reading;
SELECT brin_summarize_new_values('reading_at_brin');
--: plan reading_at_brin
SELECT sum(v) FROM reading WHERE at >= '2026-11-29 00:00+00' AND at < '2026-11-29 00:05+00';
--: shows a rerun for late data replaces, the range scan takes the BRIN index
