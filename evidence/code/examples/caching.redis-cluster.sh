set -u
port=$((RANDOM % 10000 + 20000))
"$REDIS_SERVER" --port $port --cluster-enabled yes --save '' --dir "$PWD" > log &
server=$!
trap 'kill $server' EXIT
sleep 1
client=$(command -v redis-cli)
redis-cli() { "$client" -p $port "$@"; }
redis-cli CLUSTER ADDSLOTSRANGE 0 16383 > /dev/null
sleep 1
<<CELL>>
test "$(redis-cli CLUSTER KEYSLOT '{cart:42}:items')" = "$(redis-cli CLUSTER KEYSLOT cart:42)" || exit 1
redis-cli MGET a b | grep -q CROSSSLOT || exit 1
echo "shows the braces alone decide the slot; MGET over two slots is refused"
