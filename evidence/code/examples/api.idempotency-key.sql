CREATE TABLE idempotency_key (account_id bigint, key uuid, request_hash bytea, locked_until timestamptz, PRIMARY KEY (account_id, key));
--: with 1 'f81d4fae-7dec-11d0-a765-00a0c91e6bf6' '\\x00'
<<CELL>>
--: gives f81d4fae-7dec-11d0-a765-00a0c91e6bf6
<<CELL>>
--: gives
--: with 2 'f81d4fae-7dec-11d0-a765-00a0c91e6bf6' '\\x00'
<<CELL>>
--: gives f81d4fae-7dec-11d0-a765-00a0c91e6bf6
--: shows a repeated key gives no row, another account's same key does
