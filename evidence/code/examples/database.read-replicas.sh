set -eu
# a standby of the server, made by pg_basebackup
psql -qAtc "SELECT count(pg_logical_emit_message(false, 'x', repeat('x', 1000000), true)) FROM generate_series(1, 110)" > /dev/null
pg_basebackup -D standby -R -c fast
chown -R 65534:65534 standby
chmod 700 standby
port=$((RANDOM % 10000 + 20000))
setpriv --reuid 65534 --regid 65534 --clear-groups "$(command -v postgres)" -D standby -p $port -k '' -c fsync=off > log 2>&1 &
server=$!
trap 'kill -INT $server; wait $server || true' EXIT
for _ in $(seq 300); do psql -p $port -Atc 'SELECT 1' > /dev/null 2>&1 && break; sleep 0.1; done
cat > cell.sql <<'SQL'
<<CELL>>
SQL
test "$(psql -p $port -Atf cell.sql)" = t
sed -i 's,0/642EF48,FFFF/0,' cell.sql
test "$(psql -p $port -Atf cell.sql)" = f
echo "shows true of a position that was replayed, false of one to come"
