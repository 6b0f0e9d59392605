# needs memcached
set -eu
cat > said.txt <<'TEXT'
<<CELL>>
TEXT
port=$((RANDOM % 10000 + 20000))
memcached -p $port -l 127.0.0.1 -u nobody &
server=$!
trap 'kill $server' EXIT
sleep 0.5
exec 3<> /dev/tcp/127.0.0.1/$port
token=881
while read -r line; do
  command=$(echo "${line%%->*}" | sed 's/ *$//')
  wanted=$(echo "${line#*-> }" | sed 's/   .*//')
  case $command in ms*) printf '%s\r\n%017d\r\n' "${command/C881/C$token}" 0 >&3 ;; *) printf '%s\r\n' "$command" >&3 ;; esac
  IFS= read -r answer <&3
  answer=${answer%$'\r'}
  case $command in mg*) token=${answer##* c}; token=${token%% *}; IFS= read -r _ <&3 ;; esac
  test "${answer/c$token/c881}" = "$wanted" || { echo "$command: $answer, not $wanted"; exit 1; }
done < said.txt
echo "shows the late write of the old row is refused"
