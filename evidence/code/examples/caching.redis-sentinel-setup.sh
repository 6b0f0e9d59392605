set -eu
cat > sentinel.conf <<'CONF'
<<CELL>>
CONF
sed -i 's/redis-0.redis/localhost/; s/sentinel-0.sentinel/localhost/' sentinel.conf
port=$((RANDOM % 10000 + 20000))
"$REDIS_SERVER" sentinel.conf --sentinel --port $port --dir "$PWD" > log &
server=$!
trap 'kill $server' EXIT
sleep 1
redis-cli -p $port SENTINEL MASTERS > masters
grep -A1 '^down-after-milliseconds' masters | grep -qx 5000
echo "shows Sentinel takes the file in this order"
