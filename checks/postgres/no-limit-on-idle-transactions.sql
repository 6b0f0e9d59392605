-- Without idle_in_transaction_session_timeout one forgotten COMMIT bloats every busy table.
SELECT 'database/long-transactions' AS ref,
       'idle_in_transaction_session_timeout' AS object,
       'no limit for sessions that wait inside a transaction, neither for the server nor for a role' AS finding,
       'idle_in_transaction_session_timeout = 0' AS evidence
FROM pg_settings
WHERE name = 'idle_in_transaction_session_timeout'
  AND reset_val = '0'
  AND NOT EXISTS (SELECT FROM pg_db_role_setting
                  WHERE array_to_string(setconfig, ' ') ~ '(idle_in_transaction_session|transaction)_timeout=[1-9]');
