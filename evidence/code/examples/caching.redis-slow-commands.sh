set -eu
<<CELL>>
redis-cli SLOWLOG RESET > /dev/null
redis-cli SET a 1 > /dev/null
redis-cli CONFIG SET slowlog-log-slower-than 0 > /dev/null
redis-cli SET a 1 > /dev/null
redis-cli SLOWLOG GET 25 | grep -q SET
redis-cli CONFIG SET slowlog-log-slower-than 10000 > /dev/null
echo "shows the threshold is in microseconds and takes effect at once"
