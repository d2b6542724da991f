#!/usr/bin/env bash
# Measures a node beside its peers: server on core 0, load on core 1, the same records, one after the other in turns,
# medians. Prints one table.
#
#   benches/peers/run.sh                 1,000,000 records, three turns of 1.5 s for each load (some 9 minutes)
#   benches/peers/run.sh knot nsd        these again; the rest of the table stays as measured last
#   benches/peers/run.sh --table         the table of what was measured last
#   benches/peers/run.sh --slope         what a further name costs the node, the node without DNS, and Knot, from twice as
#                                        many; and what DNS adds to a name that the node has for Handle anyhow
#   benches/peers/run.sh --both-cores    the node on both cores: two workers beside one, and p99.9 at half the peak while
#                                        WRITES (20,000) records a second are written, beside the floor's
#   benches/peers/run.sh --smoke         2,000 records, one short turn: shows that everything works, measures nothing
#   TABLE=write benches/peers/run.sh     and puts the table into README.md
#
# The peers: floor, jiexi, redis, knot, nsd (Debian), cnri (Maven Central). What is missing is installed.
# Settings: RECORDS, CNRI_RECORDS, RUNS, SECONDS_EACH, HISTORY. JIEXI and PEERS_BIN name the two programs; without them the
# release build of this checkout is made and used. BENCH_DIR is a directory on the disk to use.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-$PWD/target}
cnri_version=6.2
# Those of the tests, so that nothing is compiled twice.
features=(--workspace --all-features)

smoke=false table_only=false slope=false both_cores=false chosen=()
for argument in "$@"; do
    case $argument in
        --smoke) smoke=true ;;
        --table) table_only=true ;;
        --slope) slope=true ;;
        --both-cores) both_cores=true ;;
        floor | jiexi | redis | knot | nsd | cnri) chosen+=("$argument") ;;
        *) echo "peers: unknown argument $argument; see the head of $0" >&2; exit 2 ;;
    esac
done
if [[ ${#chosen[@]} -eq 0 ]]; then chosen=(floor jiexi redis knot nsd cnri); fi
if $smoke; then
    records=2000 cnri_records=500 runs=1 seconds=0.3 warm_up=0.1 results=$target/peers-smoke
else
    records=${RECORDS:-1000000} cnri_records=${CNRI_RECORDS:-100000} runs=${RUNS:-3} seconds=${SECONDS_EACH:-1.5}
    warm_up=0.5 results=$target/peers
fi
mkdir -p "$results"

# The rows: name, peer, protocol, group, what it is. The loads are windows; see measure.
rows=(
    "floor-udp|floor|udp|UDP|floor: recvmmsg–sendmmsg echo"
    "jiexi-udp|jiexi|udp|UDP|**jiexi**"
    "jiexi-miss|jiexi|miss|UDP|**jiexi**, unknown suffix"
    "cnri-udp|cnri|udp|UDP|CNRI"
    "floor-dns|floor|dns|DNS, NAPTR|floor: recvmmsg–sendmmsg echo"
    "jiexi-dns|jiexi|dns|DNS, NAPTR|**jiexi**"
    "knot-dns|knot|dns|DNS, NAPTR|Knot"
    "nsd-dns|nsd|dns|DNS, NAPTR|NSD"
    "floor-tcp|floor|tcp|TCP pipelined|floor: tokio read–write echo"
    "jiexi-tcp|jiexi|tcp|TCP pipelined|**jiexi**"
    "redis-tcp|redis|redis|TCP pipelined|redis, GET"
    "floor-connect|floor|connect|TCP, one each|floor: tokio accept–read–write echo"
    "jiexi-connect|jiexi|connect|TCP, one each|**jiexi**"
    "cnri-connect|cnri|connect|TCP, one each|CNRI"
)
loads=(peak w16 w1)

packages() {
    local missing=() wanted
    for wanted in redis-server:redis-server knotd:knot nsd:nsd mvn:maven javac:openjdk-17-jdk-headless \
        chrt:util-linux; do
        PATH=$PATH:/usr/sbin:/sbin command -v "${wanted%%:*}" >/dev/null || missing+=("${wanted##*:}")
    done
    if [[ ${#missing[@]} -eq 0 ]]; then return; fi
    local root=()
    if [[ $EUID -ne 0 ]]; then root=(sudo); fi
    "${root[@]}" apt-get update -q
    DEBIAN_FRONTEND=noninteractive "${root[@]}" apt-get install -q -y --no-install-recommends "${missing[@]}"
}

programs() {
    if [[ -z ${JIEXI:-} ]]; then
        cargo build --release --locked "${features[@]}" --bin jiexi
        JIEXI=$target/release/jiexi
    fi
    if [[ -z ${PEERS_BIN:-} ]]; then
        PEERS_BIN=$(cargo build --release --locked "${features[@]}" --bench peers --message-format=json-render-diagnostics |
            sed -n 's/.*"name":"peers".*"executable":"\([^"]*\)".*/\1/p')
    fi
    cnri_jar=$target/tools/handle-$cnri_version.jar
    if [[ ! -e $cnri_jar ]]; then
        mvn -q -B -ntp -Dstyle.color=never dependency:copy -Dartifact=org.dspace:handle:$cnri_version \
            -DoutputDirectory="$target/tools" >/dev/null
    fi
}

# Real-time priority keeps other work out of the figures; not every machine permits it.
cores() {
    core0=(taskset -c 0) core1=(taskset -c 1)
    if chrt -r 10 true 2>/dev/null; then
        core0+=(chrt -r 10) core1+=(chrt -r 10)
    fi
    if [[ $(nproc) -lt 2 ]]; then
        echo "peers: one core only: server and load share it, the figures mean little" >&2
        core0=(env) core1=(env)
    fi
}

pids=()
stop_all() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    pids=()
}
finish() {
    local status=$?
    stop_all
    if [[ $status -ne 0 ]]; then
        for log in "$work"/*.log; do
            [[ -s $log ]] && echo "--- ${log##*/}, its end" >&2 && tail -n 20 "$log" >&2
        done
    fi
    rm -rf "$work" "$memory"
}

# start NAME COMMAND...: on core 0, with its output in NAME.log; its process is $started.
start() {
    local name=$1
    shift
    "${core0[@]}" "$@" >"$work/$name.log" 2>&1 &
    started=$!
    pids+=("$started")
    server[$name]=$started
}

declare -A server address
# A port of loopback where nobody listens, and nobody will: below the range that the kernel hands out.
port=$((20000 + RANDOM % 10000))
next_address() { port=$((port + 1)); address[$1]=127.0.0.1:$port; }

# await WHAT COMMAND...: until it succeeds.
await() {
    local what=$1
    shift
    for _ in {1..240}; do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.5
    done
    echo "peers: $what does not answer" >&2
    "$@" >&2
}

start_floor() {
    next_address floor-udp; next_address floor-dns; next_address floor-tcp
    start floor-udp "$PEERS_BIN" echo-udp --listen "${address[floor-udp]}" --records "$records"
    start floor-dns "$PEERS_BIN" echo-dns --listen "${address[floor-dns]}" --records "$records"
    start floor-tcp "$PEERS_BIN" echo-tcp --listen "${address[floor-tcp]}" --records "$records"
    await floor-udp "$JIEXI" bench first --server "${address[floor-udp]}"
    await floor-dns ask floor-dns dns 1 1 0.05
}

# The data of the node, whose zone Knot and NSD serve, too.
data() {
    if [[ -e $work/node ]]; then return; fi
    "$JIEXI" init --prefix 88.118 --address 127.0.0.1 --data "$work/node" >/dev/null
    "$JIEXI" bench records --records "$records" >"$work/records.ndjson"
    local begun=$EPOCHREALTIME
    "$JIEXI" import --data "$work/node" "$work/records.ndjson" >"$work/import.log" 2>&1
    awk -v n="$records" -v a="$begun" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.0f\n", n / (b - a) }' >"$work/import"
    rm "$work/records.ndjson"
    cat >>"$work/node/jiexi.toml" <<END

[[dns.zones]]
name = "id.example.net"
mapping = "handle"
handles = "88.118/"
nameservers = ["ns1.example.net"]
mail = "hostmaster.example.net"
END
}

# start_jiexi [DNS]: with DNS, or with Handle alone when that is false.
start_jiexi() {
    local dns=${1:-true}
    data
    next_address jiexi; next_address jiexi-dns; next_address operations
    # One UDP thread where there is one core for it. The guard works, with a limit that a load does not reach. The log of
    # resolutions is off unless HISTORY=true: no peer keeps one, and most of its cost is gzip's, in a thread of its own.
    start jiexi env JIEXI_HANDLE_LISTEN=127.0.0.1 JIEXI_HANDLE_PORT="${address[jiexi]##*:}" \
        JIEXI_HANDLE_UDP_WORKERS="${workers:-1}" JIEXI_HANDLE_AMPLIFICATION_RATE=64GiB \
        JIEXI_HANDLE_AMPLIFICATION_BURST=64GiB JIEXI_ANONYMOUS_RATE=1000000000 JIEXI_ANONYMOUS_BURST=1000000000 \
        JIEXI_DNS_ENABLED="$dns" JIEXI_DNS_LISTEN=127.0.0.1 \
        JIEXI_DNS_PORT="${address[jiexi-dns]##*:}" JIEXI_DNS_UDP_WORKERS=1 JIEXI_DNS_AMPLIFICATION_RATE=64GiB \
        JIEXI_DNS_AMPLIFICATION_BURST=64GiB JIEXI_HTTP_LISTEN= JIEXI_HISTORY_ENABLED="${HISTORY:-false}" \
        JIEXI_OPERATIONS_LISTEN="${address[operations]}" \
        "$JIEXI" serve --config "$work/node/jiexi.toml"
    server[jiexi-dns]=${server[jiexi]}
    "$JIEXI" bench first --server "${address[jiexi]}" --records "$records" --time 5m -o json >"$work/first"
    echo "jiexi imported $(<"$work/import") records/s from NDJSON into all its files and gave the first answer $(
        sed -n 's/.*first_answer_s": *\([0-9]*\.[0-9]\).*/\1/p' "$work/first") s after its start$(
        [[ ${HISTORY:-false} == true ]] || echo "; its log of resolutions was off, as the peers have none")" >"$results/start"
    if $dns; then await jiexi ask jiexi-dns dns 1 1 0.05; fi
}

# The node with DNS off, under the same name.
start_handle() {
    start_jiexi false
    if (exec 3<>"/dev/tcp/${address[jiexi-dns]/:/\/}") 2>/dev/null; then
        echo "peers: the node without DNS listens at ${address[jiexi-dns]}" >&2
        return 1
    fi
}

start_redis() {
    next_address redis
    start redis redis-server --bind 127.0.0.1 --port "$port" --save '' --appendonly no --dir "$work"
    await redis redis-cli -p "$port" ping
    "$PEERS_BIN" generate redis --records "$records" | redis-cli -p "$port" --pipe >"$work/redis-load.log"
    await redis ask redis redis 1 1 0.05
}

zone() {
    data
    if [[ ! -e $work/zone ]]; then
        "$JIEXI" dns zone export id.example.net --data "$work/node" --file "$work/zone" 2>"$work/zone.log"
    fi
}

start_knot() {
    next_address knot; zone
    mkdir -p "$work/knot"
    cat >"$work/knot.conf" <<END
server:
    listen: 127.0.0.1@$port
    rundir: $work/knot
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
database:
    storage: $work/knot
log:
  - target: stderr
    any: warning
template:
  - id: default
    storage: $work
    zonefile-load: whole
    journal-content: none
    semantic-checks: off
zone:
  - domain: id.example.net
    file: zone
END
    start knot knotd -c "$work/knot.conf"
    await knot ask knot dns 1 1 0.05
}

start_nsd() {
    next_address nsd; zone
    cat >"$work/nsd.conf" <<END
server:
    ip-address: 127.0.0.1@$port
    server-count: 1
    username: ""
    chroot: ""
    zonesdir: "$work"
    database: ""
    pidfile: "$work/nsd.pid"
    xfrdfile: "$work/nsd-xfrd"
    zonelistfile: "$work/nsd-zones"
    minimal-responses: yes
    rrl-ratelimit: 0
    rrl-whitelist-ratelimit: 0
remote-control:
    control-enable: no
zone:
    name: id.example.net
    zonefile: zone
END
    start nsd nsd -d -c "$work/nsd.conf"
    await nsd ask nsd dns 1 1 0.05
}

start_cnri() {
    next_address cnri
    "$PEERS_BIN" generate cnri --records "$cnri_records" |
        java -cp "$cnri_jar" benches/peers/Cnri.java load "$memory/cnri" "$port" 88.118 16 >"$work/cnri-load.log" 2>&1
    start cnri java -cp "$cnri_jar" benches/peers/Cnri.java serve "$memory/cnri"
    await cnri "$JIEXI" bench first --server "${address[cnri]}" --records "$cnri_records" --time 1s
}

# The records that a peer holds.
held() { if [[ $1 == cnri ]]; then echo "$cnri_records"; else echo "$records"; fi; }
# The process of a peer and those that it has started.
family() {
    local pid children
    echo "$1"
    children=$(cat "/proc/$1/task/$1/children" 2>/dev/null || true)
    for pid in $children; do family "$pid"; done
}

# ask PEER PROTOCOL WINDOW SOCKETS SECONDS: a peer in its own protocol.
ask() {
    local with=()
    for pid in $(family "${server[$1]}"); do with+=(--pid "$pid"); done
    "${core1[@]}" "$PEERS_BIN" ask "$2" --server "${address[$1]}" --records "$records" --window "$3" --sockets "$4" \
        --seconds "$5" --warm-up "$warm_up" "${with[@]}"
}

# measure ROW PEER KIND LOAD: one turn; its report is added to the results.
measure() {
    local row=$1 peer=$2 kind=$3 load=$4 window sockets=64 process=$2 with=() transport=$3
    # A window that the usual receive buffer holds: no peer is to be measured by what it loses.
    case $kind in
        tcp | redis) window=512 sockets=8 ;;
        connect) window=8 sockets=1 ;;
        *) window=256 ;;
    esac
    if [[ $load == w16 ]]; then window=16; fi
    if [[ $load == w1 ]]; then window=1; fi
    if [[ $sockets -gt $window ]]; then sockets=$window; fi
    if [[ $peer == floor || $row == jiexi-dns ]]; then process=${row/connect/tcp}; fi
    if [[ $kind == dns || $kind == redis ]]; then
        ask "$process" "$kind" "$window" "$sockets" "$seconds"
        return
    fi
    if [[ $kind == miss ]]; then transport=udp with=(--miss 100); fi
    "${core1[@]}" "$JIEXI" bench lookups --server "${address[$process]}" --transport "$transport" --window "$window" \
        --sockets "$sockets" --records "$(held "$peer")" --time "${seconds}s" --warm-up "${warm_up}s" \
        --pid "${server[$process]}" "${with[@]}" -o json
}

# memory PEER: KiB of its processes, what they share counted once.
memory() {
    for pid in $(family "${server[$1]}"); do cat "/proc/$pid/smaps_rollup"; done |
        awk '/^Pss:/ { kib += $2 } END { print kib }'
}

# What a name costs beyond the first ones: memory with twice as many, after they have been asked for. The node is asked over
# Handle with and without DNS, and over DNS besides where it has it, so that the difference is what DNS costs.
measure_slope() {
    local peer first=$records process before more=()
    declare -A held_kib each=()
    for records in "$first" $((2 * first)); do
        rm -rf "$work/node" "$work/zone"
        zone
        for peer in jiexi handle knot; do
            "start_$peer"
            process=${peer/handle/jiexi}
            if [[ $process == jiexi ]]; then lookups jiexi --window 256 >/dev/null; fi
            if [[ $peer != handle ]]; then ask "${peer/jiexi/jiexi-dns}" dns 256 64 "$seconds" >/dev/null; fi
            before=${held_kib[$peer]:-0}
            held_kib[$peer]=$(memory "$process")
            stop_all
            if [[ $records -gt $first ]]; then
                each[$peer]=$(((held_kib[$peer] - before) * 1024 / first))
                echo "${peer/handle/jiexi without DNS}: ${each[$peer]} bytes for each name beyond $first" \
                    "($((before / 1024)) MiB, then $((held_kib[$peer] / 1024)) MiB)"
            fi
        done
        more+=($(((held_kib[jiexi] - held_kib[handle]) * 1024 / records)))
    done
    echo "DNS over Handle alone: $((each[jiexi] - each[handle])) additional bytes for each name beyond $first;" \
        "of all memory, ${more[0]} for each of $first names and ${more[1]} for each of $records"
}

# lookups PROCESS ARGUMENT...: 256 sockets over UDP; the report on one line.
lookups() {
    local process=$1
    shift
    "${core1[@]}" "$JIEXI" bench lookups --server "${address[$process]}" --pid "${server[$process]}" --sockets 256 \
        --records "$records" --time "${seconds}s" --warm-up "${warm_up}s" -o json "$@" | tr -d '\n '
}

# The load keeps its core; the servers have both, at the usual priority, so that the node's writers give way.
measure_both_cores() {
    local workers process rate turn cpu=()
    core0=(taskset -c 0,1)
    for workers in 1 2; do
        start_jiexi
        for ((turn = 0; turn < runs; turn++)); do
            lookups jiexi --window 512 >>"$work/workers-$workers"
            echo >>"$work/workers-$workers"
        done
        cpu[workers]=$(field "$work/workers-$workers" cpu_us_per_request)
        if [[ $workers -eq 1 ]]; then stop_all; fi
    done
    awk -v one="${cpu[1]}" -v two="${cpu[2]}" 'BEGIN {
        printf "two workers: %.3f µs of CPU a look-up, one worker: %.3f; ratio %.2f\n", two, one, two / one }'
    rate=$(field "$work/workers-2" requests_per_second | awk '{ printf "%.0f", $1 / 2 }')
    start_floor
    for ((turn = 0; turn < runs; turn++)); do
        for process in floor-udp jiexi; do
            lookups "$process" --window 4096 --rate "$rate" --write-rate "${WRITES:-20000}" --data "$work/node" \
                >>"$work/writes-$process"
            echo >>"$work/writes-$process"
        done
    done
    for process in floor-udp jiexi; do
        echo "$process at $rate/s while $(field "$work/writes-$process" '"records_per_second') records/s are written:" \
            "p99 $(field "$work/writes-$process" 'latency_us":{[^}]*"p99') µs," \
            "p99.9 $(field "$work/writes-$process" 'latency_us":{[^}]*"p99\.9') µs," \
            "lost $(field "$work/writes-$process" '"lost')"
    done
}

measure_all() {
    local run load row cell
    for peer in "${chosen[@]}"; do rm -f "$results/$peer"-*; done
    for ((run = 1; run <= runs; run++)); do
        for load in "${loads[@]}"; do
            for row in "${rows[@]}"; do
                IFS='|' read -ra cell <<<"$row"
                [[ " ${chosen[*]} " == *" ${cell[1]} "* ]] || continue
                echo "turn $run, $load: ${cell[0]}" >&2
                measure "${cell[0]}" "${cell[1]}" "${cell[2]}" "$load" >"$work/report"
                tr -d '\n ' <"$work/report" >>"$results/${cell[0]}.$load"
                echo >>"$results/${cell[0]}.$load"
            done
        done
    done
    for row in "${rows[@]}"; do
        IFS='|' read -ra cell <<<"$row"
        [[ " ${chosen[*]} " == *" ${cell[1]} "* && ${cell[1]} != floor ]] || continue
        memory "${cell[1]}" | awk -v n="$(held "${cell[1]}")" '{ printf "%.0f|%.0f\n", $1 / 1024, $1 * 1024 / n }' \
            >"$results/${cell[0]}.memory"
    done
    about >"$results/about"
}

about() {
    echo "$(held jiexi) records (CNRI: $(held cnri)), answers of $("$PEERS_BIN" means --records "$records" |
        sed 's/.*"answer_octets":\([0-9]*\).*/\1/') octets on average; medians of $runs; $(
        redis-server --version | sed 's/.*v=\([^ ]*\).*/redis \1/'), $(knotd --version | sed 's/.*, version/Knot/'), NSD $(
        nsd -v 2>&1 | sed -n 's/^NSD version //p'), CNRI $cnri_version. $(<"$results/start"); $(
        sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) cores, Linux $(uname -r)"
}

# field FILE PATH: the median of a number over the reports in a file, one a line.
field() {
    sed -n "s/.*$2\":\([0-9.]*\).*/\1/p" "$1" 2>/dev/null | sort -n |
        awk '{ v[NR] = $1 } END { if (NR) print v[int((NR + 1) / 2)]; else print "–" }'
}

table() {
    local row cell load latency floor= transport=
    echo "| | | req/s | CPU, µs | × floor | p50 / p99 / p99.9 at the peak, µs | 16 under way | 1 under way | MiB | bytes a record |"
    echo "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    for row in "${rows[@]}"; do
        IFS='|' read -ra cell <<<"$row"
        local file=$results/${cell[0]} cpu memory='–|–' latencies=()
        if [[ ! -s $file.peak ]]; then
            echo "peers: ${cell[0]} was not measured" >&2
            # The README's table has all.
            [[ ${TABLE:-} != write ]] || return 1
            continue
        fi
        for load in "${loads[@]}"; do
            latency=$(for quantile in p50 p99 'p99\.9'; do field "$file.$load" "latency_us\":{[^}]*\"$quantile"; done)
            latencies+=("$(paste -sd'|' <<<"$latency" | sed 's/|/ \/ /g')")
        done
        cpu=$(field "$file.peak" cpu_us_per_request)
        if [[ ${cell[1]} == floor ]]; then floor=$cpu; fi
        if [[ -e $file.memory ]]; then memory=$(<"$file.memory"); fi
        [[ ${cell[3]} != "$transport" ]] && transport=${cell[3]} && cell[3]=$transport || cell[3]=
        local times
        times=$(awk -v a="$cpu" -v b="$floor" 'BEGIN { printf "%.2f", a / b }')
        printf '| %s ' "${cell[3]}" "${cell[4]}" "$(field "$file.peak" requests_per_second | sed 's/\..*//')" "$cpu" \
            "$times" "${latencies[@]}" "${memory%%|*}" "${memory##*|}"
        echo '|'
    done
    echo
    echo "$(<"$results/about")."
}

# Too many lost, or a server that was not busy: the figures do not mean what they say.
doubts() {
    local row cell lost cores
    for row in "${rows[@]}"; do
        IFS='|' read -ra cell <<<"$row"
        lost=$(field "$results/${cell[0]}.peak" '"lost')
        cores=$(field "$results/${cell[0]}.peak" server_cores)
        if [[ $lost != 0 ]]; then echo "peers: ${cell[0]} lost $lost requests" >&2; fi
        if awk -v c="$cores" 'BEGIN { exit !(c < 0.85) }'; then
            echo "peers: ${cell[0]} kept $cores of its core busy at the peak: the load was the limit" >&2
        fi
    done
}

PATH=$PATH:/usr/sbin:/sbin
if ! $table_only; then
    packages
    programs
    cores
    work=$(mktemp -d "${BENCH_DIR:-${TMPDIR:-/tmp}}/jiexi-peers.XXXXXX")
    # The CNRI server's storage writes every change at once: what is measured is in memory anyhow.
    memory=$(mktemp -d "$(test -w /dev/shm && echo /dev/shm || echo "$work")/jiexi-peers.XXXXXX")
    trap finish EXIT
    if $slope; then
        measure_slope
        exit
    fi
    if $both_cores; then
        measure_both_cores
        exit
    fi
    # Before a server is there: the zone is written from the same data.
    if [[ " ${chosen[*]} " == *" knot "* || " ${chosen[*]} " == *" nsd "* ]]; then zone; fi
    for peer in "${chosen[@]}"; do
        echo "starting $peer" >&2
        "start_$peer"
    done
    measure_all
fi
table | tee "$results/table.md"
if ! $smoke; then doubts; fi
if [[ ${TABLE:-} == write ]]; then
    begin='<!-- peers -->' end='<!-- end of peers -->'
    sed -i -e "/^$begin/,/^$end/{/^<!--/!d}" -e "/^$begin/r $results/table.md" README.md
fi
