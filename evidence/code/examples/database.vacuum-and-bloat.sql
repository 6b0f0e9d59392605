CREATE TABLE events (id int);
<<CELL>>
SELECT reloptions FROM pg_class WHERE relname = 'events';
--: gives ['autovacuum_vacuum_scale_factor=0.01', 'autovacuum_vacuum_insert_scale_factor=0.05']
