#!/usr/bin/env bash
# A bulk job of ROWS registrations, NDJSON from a file over HTTP (loopback), node and client on the same machine. Prints
# durable rows a second from the job's start to its end, as the node says it, and with the hand-over; the node's memory;
# then the same job again, whose rows are all there already ("same").
# RUNS: how often, each with rows of its own. DIR: where the node's data are, for the disk that is meant.
set -euo pipefail
cd "$(dirname "$0")/.."
JIEXI=${JIEXI:-$PWD/target/release/jiexi}
rows=${ROWS:-1000000}
runs=${RUNS:-3}
work=$(mktemp -d -p "${DIR:-${TMPDIR:-/tmp}}")
node=
trap '[[ -z $node ]] || kill "$node" 2>/dev/null || true; wait; rm -rf "$work"' EXIT
. tests/support/ports.sh
http=$(free_port) operations=$(free_port) JIEXI_HANDLE_PORT=$(free_port)
export JIEXI_HANDLE_LISTEN=127.0.0.1 JIEXI_HANDLE_PORT JIEXI_HTTP_LISTEN=127.0.0.1 JIEXI_HTTP_PORT=$http
export JIEXI_HTTP_PLAIN_LOOPBACK=true JIEXI_OPERATIONS_LISTEN=127.0.0.1:$operations
export JIEXI_STORE_DISK_FREE_MIN=64MiB JIEXI_STORE_DISK_FREE_PERCENT=0
export JIEXI_ADMINISTRATION_ADMINS=300:0.NA/88.118.20 JIEXI_ADMINISTRATION_FULL_ACCESS=true
"$JIEXI" init --prefix 88.118.20 --address 127.0.0.1 --data "$work/data" >/dev/null
config=$work/data/jiexi.toml
"$JIEXI" token create --identity 300:0.NA/88.118.20 --right write --config "$config" --token-file "$work/token" >/dev/null
"$JIEXI" serve --config "$config" >"$work/log" 2>&1 &
node=$!
until curl -sf "http://127.0.0.1:$operations/ready" >/dev/null; do sleep 0.1; done
before=$(awk '/VmRSS/ { print $2 }' "/proc/$node/status")

# run NAME FILE: one job from the file, as the command does it.
run() {
    local name=$1 file=$2 begun ended
    begun=$(date +%s.%N)
    "$JIEXI" bulk import "$file" --server "http://127.0.0.1:$http" --token-file "$work/token" -o json >"$work/job" 2>"$work/said"
    ended=$(date +%s.%N)
    python3 - "$work/job" "$name" "$begun" "$ended" <<'END'
import json, sys
job, whole = json.load(open(sys.argv[1])), float(sys.argv[4]) - float(sys.argv[3])
counts = {name: count for name, count in job["counts"].items() if count}
print(f"bulk, {sys.argv[2]}: {job['rows']} rows {counts} in {whole:.2f} s with the hand-over: {job['rows'] / whole:.0f}/s")
END
}
for i in $(seq "$runs"); do
    python3 - "$rows" "$i" >"$work/rows.ndjson" <<'END'
import hashlib, sys
for n in range(int(sys.argv[1])):
    name = hashlib.blake2b(f"{sys.argv[2]}-{n}".encode(), digest_size=8).hexdigest()
    print('{"handle":"88.118.20/%s","values":[{"index":1,"type":"URL","data":"https://example.cn/p/%s"},'
          '{"index":2,"type":"MODEL","data":"离心泵 %s"},{"index":3,"type":"BATCH","data":"b%s"}]}' % (name, name, "m" * 40, "b" * 40))
END
    run "created $i" "$work/rows.ndjson"
done
run "there already" "$work/rows.ndjson"
after=$(awk '/VmHWM/ { print $2 }' "/proc/$node/status")
echo "bulk: node $(((after - before) / 1024)) MiB above $((before / 1024)) with $((rows * runs)) records of the index in it"
