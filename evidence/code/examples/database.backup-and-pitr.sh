set -eu
# pg_basebackup
psql -qc 'CREATE TABLE a AS SELECT generate_series(1, 1000) AS n' -c 'CHECKPOINT'
<<CELL>>
test "$(du -sk incr1 | cut -f1)" -lt "$(du -sk full | cut -f1)"
test -f restored/PG_VERSION && test -f restored/backup_manifest
pg_verifybackup restored > /dev/null
echo "shows the combined backup verifies; the second is smaller than the first"
