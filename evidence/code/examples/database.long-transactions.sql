CREATE ROLE app LOGIN;
<<CELL>>
--: as x app
SHOW transaction_timeout;
--: gives 1min
SET idle_in_transaction_session_timeout = '100ms';
BEGIN;
--: as main
SELECT pg_sleep(0.4);
--: as x
--: fails 25P03
SELECT 1;
--: shows the role's new sessions have the limits, and an idle transaction ends its session with 25P03
