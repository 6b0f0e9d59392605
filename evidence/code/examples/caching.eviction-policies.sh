set -eu
<<CELL>>
test "$(redis-cli CONFIG GET maxmemory | tail -1)" = 8589934592
redis-cli CONFIG SET maxmemory 0 > /dev/null
echo "shows maxmemory is set in bytes"
