set -eu
# pg_upgrade does not run as root; both clusters are of 18, since only one version is at hand
cat > all.sh <<'INNER'
set -eu
cd "$1"
OLDBIN=$2 NEWBIN=$2
unset "${!PG@}"
initdb -D old --no-data-checksums --no-sync > /dev/null
initdb() { command initdb --no-sync "$@" > /dev/null; }
vacuumdb() { echo "vacuumdb $*" >> vacuumdb.log; }
<<CELL>>
test "$(wc -l < vacuumdb.log)" = 2
INNER
setpriv --reuid 65534 --regid 65534 --clear-groups bash all.sh "$PWD" "$(dirname "$(command -v initdb)")" > said || { cat said; exit 1; }
grep -q 'Clusters are compatible' said
vacuumdb --all --analyze-in-stages --missing-stats-only > /dev/null 2>&1
vacuumdb --all --analyze-only > /dev/null 2>&1
echo "shows pg_upgrade --check passes, vacuumdb knows its options"
