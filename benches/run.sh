#!/usr/bin/env bash
# Measures look-ups of a node beside the echo floor: server on core 0, load on core 1, interleaved, medians.
#
#   benches/run.sh             100,000 and 1,000,000 records, three runs of 5 s each (some 10 minutes)
#   benches/run.sh --smoke     10,000 records, one short run: shows that everything works, measures nothing
#
# Settings: SIZES, RUNS, SECONDS_EACH; BENCH_DIR for a directory on the disk to measure.
# JIEXI and LOAD name the two programs; without them the release build of this checkout is made and used.
set -euo pipefail
cd "$(dirname "$0")/.."

smoke=false
if [[ ${1:-} == --smoke ]]; then smoke=true; fi
if $smoke; then
    sizes=(10000) runs=1 seconds=1
else
    read -ra sizes <<<"${SIZES:-100000 1000000}"
    runs=${RUNS:-3} seconds=${SECONDS_EACH:-5}
fi

if [[ -z ${JIEXI:-} ]]; then
    cargo build --release --locked --bin jiexi
    JIEXI=${CARGO_TARGET_DIR:-target}/release/jiexi
fi
if [[ -z ${LOAD:-} ]]; then
    LOAD=$(cargo build --release --locked --bench load --message-format=json-render-diagnostics |
        sed -n 's/.*"name":"load".*"executable":"\([^"]*\)".*/\1/p')
fi

# Real-time priority keeps other work out of the figures; not every machine permits it.
core0=(taskset -c 0) core1=(taskset -c 1)
if chrt -r 10 true 2>/dev/null; then
    core0+=(chrt -r 10) core1+=(chrt -r 10)
fi
if [[ $(nproc) -lt 2 ]]; then
    echo "bench: one core only: server and load share it, the figures mean little" >&2
    core0=(env) core1=(env)
fi

work=$(mktemp -d "${BENCH_DIR:-${TMPDIR:-/tmp}}/jiexi-bench.XXXXXX")
node=
echo_pid=
stop() { # PID: ends it and waits
    if [[ -n $1 ]]; then
        kill "$1" 2>/dev/null || true
        wait "$1" 2>/dev/null || true
    fi
}
finish() {
    local status=$?
    stop "$echo_pid"
    stop "$node"
    if [[ $status -ne 0 && -e $work/serve.log ]]; then tail -n 40 "$work/serve.log" >&2; fi
    rm -rf "$work"
}
trap finish EXIT

# field NAME: a number of the one-line JSON on standard input.
field() { sed -n "s/.*\"$1\":\([0-9.]*\).*/\1/p"; }
# median FILE NAME: the middle one of that number over all lines of the file.
median() { field "$2" <"$1" | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
ratio() { awk -v a="$1" -v b="$2" -v d="${3:-2}" 'BEGIN { printf "%." d "f", (b > 0 ? a / b : 0) }'; }
now() { date +%s.%N; }

port=$((20000 + RANDOM % 10000))
server=127.0.0.1:$port
echo_address=127.0.0.1:$((port + 1))
serve() {
    # One UDP thread, since there is one core for it. The guard works, with a limit that a load does not reach.
    JIEXI_HANDLE_LISTEN=127.0.0.1 JIEXI_HANDLE_UDP_WORKERS=1 JIEXI_HTTP_LISTEN= \
        JIEXI_HANDLE_AMPLIFICATION_RATE=64GiB JIEXI_HANDLE_AMPLIFICATION_BURST=64GiB \
        JIEXI_OPERATIONS_LISTEN=127.0.0.1:$((port + 2)) \
        "${core0[@]}" "$JIEXI" serve --config "$work/node/jiexi.toml" >"$work/serve.log" 2>&1 &
    node=$!
}

rows=()
for records in "${sizes[@]}"; do
    rm -rf "$work/node"
    "$LOAD" generate --records "$records" >"$work/records.ndjson"
    "$JIEXI" init --prefix 88.118 --address 127.0.0.1 --port "$port" --data "$work/node" >/dev/null
    begun=$(now)
    "$JIEXI" import --data "$work/node" "$work/records.ndjson" >"$work/import.log" 2>&1 ||
        { cat "$work/import.log" >&2; exit 1; }
    import_rate=$(awk -v n="$records" -v a="$begun" -v b="$(now)" 'BEGIN { printf "%.0f", n / (b - a) }')
    rm "$work/records.ndjson"

    serve
    first=$("$LOAD" first --server "$server" --records "$records" --seconds 300 | field first_answer_s)
    reply=$("$LOAD" sizes --records "$records" | field answer_octets)

    common=(--records "$records" --seconds "$seconds")
    rm -f "$work"/*.json
    for ((run = 1; run <= runs; run++)); do
        "${core0[@]}" "$LOAD" echo --listen "$echo_address" --reply "$reply" 2>/dev/null &
        echo_pid=$!
        "$LOAD" first --server "$echo_address" --records 1 >/dev/null
        "${core1[@]}" "$LOAD" udp --server "$echo_address" --echo --pid "$echo_pid" "${common[@]}" >>"$work/echo.json"
        stop "$echo_pid"
        echo_pid=
        "${core1[@]}" "$LOAD" udp --server "$server" --pid "$node" "${common[@]}" >>"$work/udp.json"
        "${core1[@]}" "$LOAD" tcp --server "$server" --pid "$node" "${common[@]}" >>"$work/tcp.json"
        "${core1[@]}" "$LOAD" udp --server "$server" --pid "$node" --miss 100 "${common[@]}" >>"$work/miss.json"
    done
    stop "$node"
    node=

    floor=$(median "$work/echo.json" cpu_us_per_request)
    for kind in echo udp miss tcp; do
        file=$work/$kind.json
        cpu=$(median "$file" cpu_us_per_request)
        rows+=("$records|$kind|$(median "$file" requests_per_second)|$cpu|$(ratio "$cpu" "$floor")|$(
            median "$file" p50_us)|$(median "$file" p99_us)|$(median "$file" p999_us)|$(
            median "$file" server_cores)|$(median "$file" lost)")
        cat "$file" >>"$work/all"
    done
    rows+=("# $records records: import $import_rate records/s; first answer $first s after the start; $(
        ratio "$(median "$work/udp.json" server_rss_kib)" 1024 0) MiB resident")
done

echo
printf '%9s %-5s %10s %9s %7s %9s %9s %9s %6s %5s\n' \
    records what req/s CPU-µs ×echo p50-µs p99-µs p99.9-µs cores lost
for row in "${rows[@]}"; do
    if [[ $row == "#"* ]]; then
        echo "${row#\# }"
    else
        IFS='|' read -ra cell <<<"$row"
        printf '%9s %-5s %10s %9s %7s %9s %9s %9s %6s %5s\n' "${cell[@]}"
    fi
done

if ! $smoke && [[ -e benches/store.rs || -d benches/store ]]; then
    echo
    echo "Durable single writes, beside bare append and fdatasync:"
    cargo bench --locked --bench store
fi
