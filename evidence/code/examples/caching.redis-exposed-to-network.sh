set -eu
cat > redis.conf <<'CONF'
<<CELL>>
CONF
sed -i 's/^bind .*/bind 127.0.0.1/' redis.conf
port=$((RANDOM % 10000 + 20000))
"$REDIS_SERVER" redis.conf --port $port --save '' --dir "$PWD" > log &
server=$!
trap 'kill $server' EXIT
sleep 1
as_cart() { redis-cli -p $port --user cart --pass use-a-64-char-secret --no-auth-warning "$@"; }
redis-cli -p $port PING | grep -q NOAUTH
test "$(as_cart SET cart:1 x)" = OK
as_cart SET other:1 x | grep -q NOPERM
as_cart CONFIG GET dir | grep -q NOPERM
as_cart INFO | grep -q NOPERM
as_cart EVAL 'return 1' 0 | grep -q NOPERM
echo "shows no login without a user; cart has its own keys only, no CONFIG, no INFO, no scripts"
