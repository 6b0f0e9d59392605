-- Since the minor releases of August 2026 a plugin outside output_plugin_libraries stops decoding.
SELECT 'database/logical-decoding-plugin-allowlist' AS ref,
       s.slot_name::text AS object,
       format('plugin %s is not in output_plugin_libraries', s.plugin) AS finding,
       format('output_plugin_libraries = %s', current_setting('output_plugin_libraries', true)) AS evidence
FROM pg_replication_slots s
WHERE s.slot_type = 'logical'
  AND current_setting('output_plugin_libraries', true) IS NOT NULL
  AND s.plugin <> ALL (string_to_array(replace(current_setting('output_plugin_libraries', true), ' ', ''), ','));
