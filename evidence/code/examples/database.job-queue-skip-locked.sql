CREATE TABLE job (id int PRIMARY KEY, run_at timestamptz, attempt int DEFAULT 0, payload text);
CREATE TABLE job_log (job_id int REFERENCES job, line text);
CREATE INDEX job_due ON job (run_at) WHERE attempt < 5;
INSERT INTO job SELECT n, now() - n * interval '1 min' FROM generate_series(1, 15) n;
--: as child
BEGIN;
INSERT INTO job_log VALUES (15, 'x');
--: as a
BEGIN;
SELECT min(id), max(id) FROM (SELECT id FROM job FOR UPDATE SKIP LOCKED) p;
--: gives 1|14
ROLLBACK;
BEGIN;
<<CELL>>
--: as b
SET lock_timeout = '200ms';
<<CELL>>
--: as a
COMMIT;
--: as child
COMMIT;
SELECT count(*), sum(attempt), min(attempt) FROM job;
--: gives 15|15|1
<<CELL>>
--: gives
UPDATE job SET run_at = now() - interval '1 s' WHERE id = 7;
UPDATE job SET run_at = now() - interval '1 s', attempt = 5 WHERE id = 8;
<<CELL>>
--: gives 7|2|
SET enable_seqscan = off;
--: plan job_due
SELECT id FROM job WHERE run_at <= now() AND attempt < 5 ORDER BY run_at LIMIT 10 FOR NO KEY UPDATE SKIP LOCKED;
--: shows two workers claim 10 and 5 without waiting, none twice, also a job whose child is being inserted, which FOR UPDATE passes over
--: shows a lease that ended is claimed again without a sweeper, a job of 5 attempts is not
