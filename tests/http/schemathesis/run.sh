#!/usr/bin/env bash
# schemathesis over the whole description of the API: all checks, at least 100 examples of every operation, as nobody,
# with tokens that may read, ask for batches, and change everything, and logged in by a session; and the operations on
# sessions with a session for each request. No answer is a 5xx, every answer is described, every operation succeeds in
# some run (seen.py), problems are said in Chinese where that is asked for, and the node's memory is as it was.
# The last line is "schemathesis: N cases, M runs failed; RSS A KiB before, B KiB after".
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../../.."
JIEXI=${JIEXI:-$PWD/target/release/jiexi}
tools=${SCHEMATHESIS_ENV:-$PWD/target/schemathesis}
# Examples of every operation in each run.
examples=${EXAMPLES:-100}
# KiB by which the memory of the node may grow over all runs; what it keeps are the records that were made.
growth_max=${GROWTH_MAX:-16384}
work=$(mktemp -d)
pid=
trap '[[ -z $pid ]] || kill "$pid" 2>/dev/null || true; rm -rf "$work"' EXIT

if [[ ! -x $tools/bin/python ]]; then python3 -m venv "$tools"; fi
"$tools/bin/pip" install --quiet --disable-pip-version-check schemathesis==4.32.5

. tests/support/ports.sh
http=$(free_port)
operations=$(free_port)
export JIEXI_HANDLE_LISTEN=127.0.0.1 JIEXI_HANDLE_PORT JIEXI_HTTP_LISTEN=127.0.0.1 JIEXI_HTTP_PORT=$http
# The limit of requests works, at a height that one client does not reach.
export JIEXI_HTTP_RATE=10000000 JIEXI_HTTP_BURST=10000000
export JIEXI_OPERATIONS_LISTEN=127.0.0.1:$operations JIEXI_ADMINISTRATION_ADMINS=300:88.118.20/USER
export JIEXI_ADMINISTRATION_FULL_ACCESS=true JIEXI_STORE_DISK_FREE_MIN=64MiB JIEXI_STORE_DISK_FREE_PERCENT=0
JIEXI_HANDLE_PORT=$(free_port)
config=$work/data/jiexi.toml
gone=${GONE:-400}
"$JIEXI" init --prefix 88.118.20 --address 127.0.0.1 --data "$work/data" >/dev/null
cat >"$work/records.ndjson" <<'END'
{"handle":"88.118.20/USER","values":[{"index":100,"type":"HS_ADMIN","data":{"format":"admin","value":{"handle":"88.118.20/USER","index":300,"permissions":"111111111111"}}},{"index":300,"type":"HS_SECKEY","data":"geheim","permissions":"1100"}]}
{"handle":"88.118.20/pump","values":[{"index":1,"type":"URL","data":"https://example.cn/pump/1"},{"index":2,"type":"MODEL","data":"离心泵"},{"index":9,"type":"SECRET","data":"x","permissions":"1100"}]}
{"handle":"88.118.20/secret","values":[{"index":1,"type":"NOTE","data":"x"},{"index":2,"type":"SECRET","data":"x","permissions":"1100"}]}
END
# Records that are there to be deleted.
for number in $(seq 0 $((gone - 1))); do
    echo "{\"handle\":\"88.118.20/gone.$number\",\"values\":[{\"index\":1,\"type\":\"N\",\"data\":\"x\"}]}"
done >>"$work/records.ndjson"
"$JIEXI" import "$work/records.ndjson" --config "$config" >/dev/null
"$JIEXI" serve --config "$config" >"$work/log" 2>&1 &
pid=$!
for _ in $(seq 600); do
    curl -sf "http://127.0.0.1:$operations/ready" >/dev/null && break
    sleep 0.1
done
token() { "$JIEXI" token create --identity 300:88.118.20/USER --right "$1" --config "$config" -o json |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["token"])'; }
rss() { awk '/^VmRSS/ { print $2 }' "/proc/$pid/status"; }

read_token=$(token resolve,list)
# Whatever is read many at a time.
streamed=batch,resolve
if "$JIEXI" token create --help | grep -Eq '(^|[^a-z])changes([^a-z]|$)'; then streamed+=,changes; fi
batch_token=$(token "$streamed")
write_token=$(token resolve,list,write,admin)

origin=https://127.0.0.1:$http
description=$work/openapi.json
curl -skf "$origin/api/openapi.json" -o "$description"

# Logs in as the user by a session; its id.
log_in() {
    ORIGIN=$origin GONE=1 PYTHONPATH=$here PYTHONDONTWRITEBYTECODE=1 "$tools/bin/python" - <<'END'
import hooks
header = hooks.authorization("log_in")
url = hooks.os.environ["ORIGIN"] + "/api/sessions/this"
reply = hooks.requests.post(url, headers={"Authorization": header}, verify=False, timeout=60).json()
assert reply["authenticated"], reply
print(reply["sessionId"])
END
}

# explore WHO AUTHORIZATION HANDLES EXAMPLES OPTION...: one run, its output in a file; HANDLES is where handles are asked
# for, see hooks.py.
explore() {
    local who=$1 authorization=$2 handles=$3 count=$4 headers=()
    shift 4
    if [[ -n $authorization ]]; then headers=(--header "Authorization: $authorization"); fi
    mkdir "$work/$who"
    cp "$here/hooks.py" "$work/$who"
    cp "$here/refused.toml" "$work/$who/schemathesis.toml"
    if [[ $handles == any ]]; then cat "$here/elsewhere.toml" >>"$work/$who/schemathesis.toml"; fi
    if [[ $who == login* ]]; then cat "$here/login.toml" >>"$work/$who/schemathesis.toml"; fi
    (
        cd "$work/$who"
        HANDLES=$handles RUN=${who%.warm} SEEN=$work/seen ORIGIN=$origin GONE=$gone \
            PYTHONPATH=. SCHEMATHESIS_HOOKS=hooks PYTHONDONTWRITEBYTECODE=1 \
            "$tools/bin/st" run "$origin/api/openapi.json" --url "$origin" --tls-verify false \
            --checks all --max-examples "$count" --no-color \
            --generation-database none --suppress-health-check all "${headers[@]}" "$@"
    ) >"$work/$who.log" 2>&1
}

# What a token for batches, or a session, is not refused with beforehand; who may do what is tried by the other runs.
batches=(--exclude-tag sessions --exclude-tag jobs --exclude-tag pages --exclude-tag replication
    --exclude-operation-id put --exclude-operation-id delete --exclude-operation-id list)
by_session=(--exclude-tag sessions --exclude-tag jobs --exclude-tag pages --exclude-tag batch
    --exclude-tag replication)
chinese=(--header "Accept-Language: zh-CN,zh;q=0.9")

# Memory is compared with that of a node which has been explored already: its threads, their stacks and heaps are there,
# among them those of batches and jobs, which only begin when somebody asks for one.
session="Handle sessionId=\"$(log_in)\""
# all EXAMPLES SUFFIX OPTION...: every run beside the others; their processes in runs.
all() {
    local count=$1 suffix=$2
    shift 2
    runs=()
    explore "anonymous$suffix" "" any "$count" "$@" & runs+=($!)
    explore "read$suffix" "Bearer $read_token" homed "$count" "$@" & runs+=($!)
    CHINESE=1 explore "batch$suffix" "Bearer $batch_token" homed "$count" "${batches[@]}" "${chinese[@]}" "$@" & runs+=($!)
    CHINESE=1 explore "write$suffix" "Bearer $write_token" homed "$count" "${chinese[@]}" "$@" & runs+=($!)
    explore "session$suffix" "$session" homed "$count" "${by_session[@]}" "$@" & runs+=($!)
    CHINESE=1 explore "login$suffix" "" homed "$count" --include-tag sessions "${chinese[@]}" "$@" & runs+=($!)
}
all "$((examples / 10 + 1))" .warm --phases fuzzing
for run in "${runs[@]}"; do wait "$run" || true; done
: >"$work/seen"
before=$(rss)
all "$examples" "" --phases examples,coverage,fuzzing,stateful
whos=(anonymous read batch write session login)
failed=0
for run in "${runs[@]}"; do wait "$run" || failed=$((failed + 1)); done
after=$(rss)

cases=0
for who in "${whos[@]}"; do
    echo "--- $who"
    cat "$work/$who.log"
    count=$(sed -n 's/^ *\([0-9]*\) generated.*/\1/p' "$work/$who.log")
    cases=$((cases + ${count:-0}))
done
"$tools/bin/python" "$here/seen.py" "$description" "$work/seen" || failed=$((failed + 1))
if grep -E 'panicked|"level":"ERROR"| ERROR ' "$work/log"; then failed=$((failed + 1)); fi
if [[ $((after - before)) -gt $growth_max ]]; then
    echo "the node grew by $((after - before)) KiB, more than $growth_max"
    failed=$((failed + 1))
fi
echo "schemathesis: $cases cases, $failed runs failed; RSS $before KiB before, $after KiB after"
[[ $failed -eq 0 ]]
