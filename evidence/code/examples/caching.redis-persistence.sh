set -eu
<<CELL>>
grep -q '^appendonly yes' "$(redis-cli INFO server | sed -n 's/^config_file://p' | tr -d '\r')"
echo "shows the file has it after CONFIG REWRITE"
redis-cli CONFIG SET appendonly no > /dev/null
