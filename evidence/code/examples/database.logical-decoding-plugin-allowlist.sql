SELECT pg_create_logical_replication_slot('allowlist', 'pgoutput');
<<CELL>>
SELECT pg_sleep(0.3);
SHOW output_plugin_libraries;
SELECT pg_drop_replication_slot('allowlist');
ALTER SYSTEM RESET output_plugin_libraries;
SELECT pg_reload_conf();
