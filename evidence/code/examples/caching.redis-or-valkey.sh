set -eu
<<CELL>>
valkey-cli INFO server | grep -q 'valkey_version'
valkey-cli INFO server | grep -q 'redis_version:7.2.4'
echo "shows Valkey names itself and still says redis_version 7.2.4"
