set -eu
<<CELL>>
test "$(valkey-cli CONFIG GET 'lazyfree-lazy-*' | grep -c '^yes')" = 5
echo "shows all five lazyfree settings are yes by default"
