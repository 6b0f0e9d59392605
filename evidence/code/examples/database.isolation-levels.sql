CREATE TABLE shift (day date, doctor int, on_call boolean);
INSERT INTO shift VALUES ('2026-11-29', 1, true), ('2026-11-29', 2, true);
--: as a
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT count(*) FROM shift WHERE day = '2026-11-29' AND on_call;
--: gives 2
--: as b
--: with 2026-11-29 2
<<CELL>>
--: as a
--: fails 40001
UPDATE shift SET on_call = false WHERE day = '2026-11-29' AND doctor = 1; COMMIT;
ROLLBACK;
SELECT count(*) FROM shift WHERE on_call;
--: gives 1
--: shows of two write-skewed transactions one ends with 40001
