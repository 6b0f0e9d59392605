CREATE TABLE inbox (consumer text, event_source text, event_id text, PRIMARY KEY (consumer, event_source, event_id));
--: with /orders e1
<<CELL>>
--: gives e1
<<CELL>>
--: gives
--: shows a redelivery gives no row
