CREATE TABLE webhook_inbox (provider text, event_id text, received_at timestamptz, body jsonb, PRIMARY KEY (provider, event_id));
--: with stripe evt_1 '{"a": 1}'
<<CELL>>
<<CELL>>
SELECT count(*) FROM webhook_inbox;
--: gives 1
--: shows a repeated delivery is stored once
