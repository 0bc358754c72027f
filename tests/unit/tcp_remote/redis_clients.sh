#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: redis_clients.sh KVLANE MODULE
# redis-cli and redis-benchmark against a server of ours: values come back byte for byte, and their
# many connections and pipelines find nothing to complain about. 77 where they are not installed.
set -eu
for tool in redis-cli redis-benchmark; do
    command -v "$tool" >/dev/null || { echo "$tool is not installed" && exit 77; }
done
kvlane=$1
folder=$(mktemp -d)
server=
cleanup() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    rm -rf "$folder"
}
trap cleanup EXIT

cat >"$folder/kvlane.ini" <<INI
[kvlane]
module_path = $(cd "$(dirname "$2")" && pwd)
[store]
max_bytes = 256MiB
[tcp_remote]
role = server
listen = unix:$folder/lm
resp_listen = unix:$folder/resp
resp_password = sesame
INI
"$kvlane" serve --config "$folder/kvlane.ini" >"$folder/out" 2>&1 &
server=$!
tries=0
until grep -q '^ready: ' "$folder/out"; do
    tries=$((tries + 1))
    if [ $tries -gt 100 ] || ! kill -0 "$server"; then cat "$folder/out" && exit 1; fi
    sleep 0.1
done

cli() {
    REDISCLI_AUTH=sesame redis-cli -s "$folder/resp" "$@" 2>&1
}

expect() {
    want=$1
    shift
    got=$(cli "$@")
    [ "$got" = "$want" ] || { echo "redis-cli $*: '$got' instead of '$want'" && exit 1; }
}

expect PONG PING
expect OK SET key value
expect value GET key
expect 1 EXISTS key
expect 0 EXISTS other
expect '' GET other
case $(redis-cli -s "$folder/resp" GET key 2>&1) in
    *NOAUTH*) ;;
    *) echo 'served without a password' && exit 1 ;;
esac
case $(cli DEL key) in
    *ERR*) ;;
    *) echo 'an unknown command is no error' && exit 1 ;;
esac

head -c 5000000 /dev/urandom >"$folder/value"
[ "$(cli -x SET big <"$folder/value")" = OK ]
cli --raw GET big | head -c 5000000 | cmp - "$folder/value"

redis-benchmark -s "$folder/resp" -a sesame -t ping,set,get -n 20000 -c 50 -P 8 -d 4000 \
    -r 1000 -q >"$folder/bench" 2>&1 || { cat "$folder/bench" && exit 1; }
tr '\r' '\n' <"$folder/bench" | grep 'requests per second'
[ "$(tr '\r' '\n' <"$folder/bench" | grep -c 'requests per second')" = 4 ]
if grep -iE '^ERR|error:' "$folder/bench"; then exit 1; fi
kill "$server"
wait "$server"
server=
