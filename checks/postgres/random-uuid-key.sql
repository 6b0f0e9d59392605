-- Random keys spread inserts over the whole index: more pages read and written, more WAL.
SELECT 'database/primary-key-uuidv7' AS ref,
       format('%s.%s', a.attrelid::regclass, a.attname) AS object,
       'primary key is a random UUID on a table that outgrows the cache: uuidv7() or bigint' AS finding,
       format('default %s, table %s', pg_get_expr(d.adbin, d.adrelid), pg_size_pretty(pg_relation_size(a.attrelid)))
           AS evidence
FROM pg_index i
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE i.indisprimary
  AND i.indnkeyatts = 1
  AND a.atttypid = 'uuid'::regtype
  AND pg_get_expr(d.adbin, d.adrelid) ~ '(gen_random_uuid|uuid_generate_v4|uuidv4)\('
  -- checks.cache_share: of shared_buffers that the index may take (0.25).
  AND pg_relation_size(i.indexrelid)
      > coalesce(nullif(current_setting('checks.cache_share', true), '')::numeric, 0.25)
        * pg_size_bytes(current_setting('shared_buffers'));
