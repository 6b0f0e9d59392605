set -eu
redis-cli DEL session:9 > /dev/null
<<CELL>>
test "$(redis-cli HTTL session:9 FIELDS 1 csrf | tail -1)" -gt 890 && valkey-cli HSETEX session:9 EX 900 FIELDS 1 otp 1 > /dev/null
echo "shows Redis and Valkey take HSETEX"
