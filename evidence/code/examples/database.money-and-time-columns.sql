<<CELL>>
--: fails 23514
INSERT INTO booking VALUES (uuidv7(), 5, 'eur', '2027-03-28 09:00', 'Europe/Vienna');
--: fails 23514
INSERT INTO booking VALUES (uuidv7(), -5, 'EUR', '2027-03-28 09:00', 'Europe/Vienna');
INSERT INTO booking VALUES (uuidv7(), 5, 'EUR', '2027-03-28 09:00', 'Europe/Vienna');
SET timezone = 'UTC';
SELECT starts_local AT TIME ZONE zone FROM booking;
--: gives 2027-03-28 07:00:00+00:00
--: shows a currency in small letters and a negative price are refused
