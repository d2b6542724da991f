#!/usr/bin/env bash
# Batch resolve from file to file: RECORDS records of 200-400 octets (values on the wire), 99 % hits, random order, node
# and client on the same two cores, over HTTP; TLS, zstd and the Handle protocol beside it. Prints identifiers a second,
# the node's memory above its level before, and the client's. The target of 500,000/s is that of plain HTTP.
set -euo pipefail
cd "$(dirname "$0")/.."
JIEXI=${JIEXI:-$PWD/target/release/jiexi}
records=${RECORDS:-1000000}
runs=${RUNS:-3}
work=$(mktemp -d)
node=
trap '[[ -z $node ]] || kill "$node" 2>/dev/null || true; wait; rm -rf "$work"' EXIT
. tests/support/ports.sh
http=$(free_port) operations=$(free_port) JIEXI_HANDLE_PORT=$(free_port)
export JIEXI_HANDLE_LISTEN=127.0.0.1 JIEXI_HANDLE_PORT JIEXI_HTTP_LISTEN=127.0.0.1 JIEXI_HTTP_PORT=$http
export JIEXI_HTTP_PLAIN_LOOPBACK=true JIEXI_OPERATIONS_LISTEN=127.0.0.1:$operations
# The limit works, at a height that a load does not reach.
export JIEXI_ANONYMOUS_RATE=1000000000 JIEXI_ANONYMOUS_BURST=1000000000
export JIEXI_STORE_DISK_FREE_MIN=64MiB JIEXI_STORE_DISK_FREE_PERCENT=0
python3 - "$records" "$work" <<'END'
import hashlib, json, random, sys
count, work = int(sys.argv[1]), sys.argv[2]
def handle(i):
    return f"88.118.20/pump-{hashlib.blake2b(str(i).encode(), digest_size=8).hexdigest()}"
with open(work + "/records.ndjson", "w") as out:
    for i in range(count):
        size = 200 + i * 7919 % 200 - 3 * 31
        url = "https://example.cn/p/" + "x" * (size // 2 - 21)
        values = [{"index": n, "type": kind, "data": data, "timestamp": "2026-01-01T00:00:00Z"} for n, kind, data in
                  ((1, "URL", url), (2, "MODEL", "离心泵 " + "m" * (size // 4)), (3, "BATCH", "b" * (size // 4)))]
        out.write(json.dumps({"handle": handle(i), "values": values}, ensure_ascii=False) + "\n")
random.seed(1)
order = list(range(count))
random.shuffle(order)
with open(work + "/in.ndjson", "w") as out:
    for n, i in enumerate(order):
        out.write('{"handle":"%s"}\n' % (handle(i) if n % 100 else f"88.118.20/none-{i}"))
END
"$JIEXI" init --prefix 88.118.20 --address 127.0.0.1 --data "$work/data" >/dev/null
config=$work/data/jiexi.toml
"$JIEXI" import "$work/records.ndjson" --config "$config" >/dev/null
"$JIEXI" token create --identity 300:0.NA/88.118.20 --right batch --config "$config" --token-file "$work/token" >/dev/null
"$JIEXI" serve --config "$config" >"$work/log" 2>&1 &
node=$!
until curl -sf "http://127.0.0.1:$operations/ready" >/dev/null; do sleep 0.1; done
openssl s_client -connect "127.0.0.1:$http" </dev/null 2>/dev/null | openssl x509 >"$work/node.pem"
resident() { awk "/$1/ { print \$2 }" "/proc/$node/status"; }
# A node that answers still opens and verifies its state on disk: its level is what it has when that is done.
before=0 now=$(resident VmRSS)
until ((now - before < 1024 && before - now < 1024)); do
    sleep 3
    before=$now now=$(resident VmRSS)
done
before=$now
# What it takes at most is counted from here.
echo 5 >"/proc/$node/clear_refs"
# run NAME ARGUMENTS...: the best of some runs, and the largest client.
run() {
    local name=$1 i best=0 most=0 rate size
    shift
    for i in $(seq "$runs"); do
        rm -f "$work/out"
        python3 - "$work/said" "$JIEXI" batch resolve "$work/in.ndjson" --token-file "$work/token" --out "$work/out" "$@" \
            >"$work/size" <<'END'
import resource, subprocess, sys
with open(sys.argv[1], "w") as said:
    code = subprocess.run(sys.argv[2:], stderr=said).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
END
        rate=$(sed -n 's/.*(\([0-9]*\)\/s).*/\1/p' "$work/said") size=$(cat "$work/size")
        ((rate > best)) && best=$rate
        ((size > most)) && most=$size
    done
    after=$(resident VmHWM)
    echo "batch, $name: $best identifiers/s, $(($(stat -c %s "$work/out") / records)) octets a line," \
        "node $(((after - before) / 1024)) MiB above $((before / 1024)), client $((most / 1024)) MiB"
}
run http --server "http://127.0.0.1:$http"
run tls --server "https://127.0.0.1:$http" --ca "$work/node.pem"
run zstd --server "http://127.0.0.1:$http" --zstd
run handle --server "handle://127.0.0.1:$JIEXI_HANDLE_PORT"
