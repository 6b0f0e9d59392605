<<CELL>>
SELECT failover, temporary, two_phase FROM pg_replication_slots WHERE slot_name = 'orders_cdc';
--: gives t|f|f
SELECT pg_drop_replication_slot('orders_cdc');
--: shows the fifth argument makes a slot that is carried over
