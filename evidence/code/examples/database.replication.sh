set -eu
initdb() { setpriv --reuid 65534 --regid 65534 --clear-groups "$(command -v initdb)" "$@"; }
server() { setpriv --reuid 65534 --regid 65534 --clear-groups "$(command -v postgres)" "$@"; }
initdb -D cluster --no-sync > /dev/null
cat >> cluster/postgresql.conf <<'CONF'
<<CELL>>
CONF
test "$(server -D cluster -C max_slot_wal_keep_size)" = 51200
test "$(server -D cluster -C idle_replication_slot_timeout)" = 172800 || server -D cluster -C idle_replication_slot_timeout
test "$(server -D cluster -C synchronous_standby_names)" = 'ANY 1 (standby_a, standby_b)'
echo "shows PostgreSQL reads the file"
