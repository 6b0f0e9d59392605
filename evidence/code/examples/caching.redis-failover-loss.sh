set -eu
cat > redis.conf <<'CONF'
<<CELL>>
CONF
port=$((RANDOM % 10000 + 20000))
"$REDIS_SERVER" redis.conf --port $port --save '' --dir "$PWD" > log &
server=$!
trap 'kill $server' EXIT
sleep 1
redis-cli -p $port SET a 1 | grep -q NOREPLICAS
echo "shows without a replica writes are refused with NOREPLICAS"
