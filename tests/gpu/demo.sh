#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: demo.sh KVLANE
# The demo and a replay with KV caches on the GPU; skips where there is none.
set -eu
kvlane=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
unset KVLANE_CONFIG

status=0
"$kvlane" demo --gpu yes --prompts 2 --tokens 1200 >"$folder/out" 2>"$folder/err" || status=$?
if [ $status = 4 ] && grep -qE 'no CUDA driver|shows no device|cuInit failed' "$folder/err"; then
    echo "skipped: $(cat "$folder/err")"
    exit 77
fi
cat "$folder/out" "$folder/err"
[ $status = 0 ] || exit 1
tail -n 1 "$folder/out" | grep -q '^demo: ok paths=local,cuda_ipc,.* ttft_cuda_ipc_ms='

# Request n + 1 begins with all of request n.
for n in $(seq 40); do
    echo "{\"timestamp\": $n, \"input_length\": $((512 * n)), \"output_length\": 1," \
        "\"hash_ids\": [$(seq -s, "$n")]}"
done >"$folder/trace"
"$kvlane" replay --gpu --engines 2 --trace "$folder/trace" | tee "$folder/out"
tail -n 1 "$folder/out" | grep -q '^replay: ok .* hits=780 .* recompute=40 lost=0 errors=0$'
grep -qE "^ +from a GPU's memory +[1-9]" "$folder/out"
