set -eu
redis-cli CONFIG RESETSTAT > /dev/null
<<CELL>>
redis-cli SET a 1 > /dev/null
redis-cli GET a > /dev/null
redis-cli GET a > /dev/null
redis-cli GET a > /dev/null
redis-cli GET b > /dev/null
test "$(
<<CELL>>
)" = "hit 75.00%  misses 1"
echo "shows 3 hits of 4 are 75 %, and an idle server divides by nothing"
