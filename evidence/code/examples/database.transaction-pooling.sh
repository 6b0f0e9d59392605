# needs pgbouncer
set -eu
port=$((RANDOM % 10000 + 20000))
cat > pgbouncer.ini <<INI
[databases]
postgres = host=$PGHOST port=$PGPORT
INI
cat >> pgbouncer.ini <<'INI'
<<CELL>>
INI
printf 'listen_addr = 127.0.0.1\nlisten_port = %s\nauth_type = any\nadmin_users = postgres\nunix_socket_dir =\n' $port >> pgbouncer.ini
sed -i "s/^postgres = .*/& user=postgres/" pgbouncer.ini
chmod 644 pgbouncer.ini
pgbouncer -q -u nobody pgbouncer.ini 2> log &
server=$!
trap 'kill -INT $server' EXIT
sleep 1
psql -p $port -d pgbouncer -Atc 'SHOW CONFIG' | grep -q '^pool_mode|transaction' || { cat log; exit 1; }
if PGOPTIONS='-c statement_timeout=5s' psql -p $port -d postgres -Atc 'SELECT 1' 2> refused; then exit 1; fi
grep -q 'unsupported startup parameter.*options' refused
echo "shows pool_mode is transaction; the startup parameter options is refused"
