#!/usr/bin/env bash
# Compares DNS of a node with Knot and NSD: the same names, one core each in turn, CPU time per question; beside the
# echo floor. Knot, NSD and dnsperf must be installed (Debian: knot, nsd, dnsperf).
#
#   benches/dns.sh             1,000,000 and 2,000,000 names (some 10 minutes)
#   benches/dns.sh --smoke     10,000 names, short: shows that everything works, measures nothing
#
# Settings: SIZES, SECONDS_EACH; JIEXI and LOAD as in run.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
sizes=(${SIZES:-1000000 2000000}) seconds=${SECONDS_EACH:-5}
if [[ ${1:-} == --smoke ]]; then sizes=(10000) seconds=1; fi
if [[ -z ${JIEXI:-} ]]; then
    cargo build --release --locked --bin jiexi
    JIEXI=${CARGO_TARGET_DIR:-target}/release/jiexi
fi
if [[ -z ${LOAD:-} ]]; then
    LOAD=$(cargo build --release --locked --bench load --message-format=json-render-diagnostics |
        sed -n 's/.*"name":"load".*"executable":"\([^"]*\)".*/\1/p')
fi
for tool in knotd nsd dnsperf; do
    command -v "$tool" >/dev/null || { echo "dns bench: $tool is missing" >&2; exit 1; }
done
core0=(taskset -c 0) core1=(taskset -c 1)
if chrt -r 10 true 2>/dev/null; then core0+=(chrt -r 10) core1+=(chrt -r 10); fi

work=$(mktemp -d "${BENCH_DIR:-${TMPDIR:-/tmp}}/jiexi-dns.XXXXXX")
server=
stop() {
    if [[ -n $server ]]; then
        kill $(descendants "$server") 2>/dev/null || true
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    server=
}
trap 'stop; rm -rf "$work"' EXIT

port=5399
# Nanoseconds of CPU time and KiB of memory of the server and all that it started.
descendants() { local p; for p in $(pgrep -P "$1"); do echo "$p"; descendants "$p"; done; }
processes() { echo "$server"; descendants "$server"; }
cpu() { local p; for p in $(processes); do cat /proc/"$p"/task/*/schedstat; done | awk '{ n += $1 } END { printf "%.0f\n", n }'; }
memory() { local p; for p in $(processes); do sed -n 's/^Pss: *\([0-9]*\) kB/\1/p' "/proc/$p/smaps_rollup"; done | awk '{ n += $1 } END { printf "%.0f\n", n }'; }

ready() { # waits until the server knows the last name
    for _ in {1..1200}; do
        if dig @127.0.0.1 -p "$port" +time=1 +tries=1 +short NAPTR "$last" 2>/dev/null | grep -qF '!^'; then return; fi
        sleep 0.1
    done
    echo "dns bench: $1 does not answer" >&2
    return 1
}

measure() { # NAME SIZE
    ready "$1"
    "${core1[@]}" dnsperf -s 127.0.0.1 -p "$port" -d "$work/questions" -c 16 -T 1 -q 400 -l 1 >/dev/null
    local before after answered
    before=$(cpu)
    "${core1[@]}" dnsperf -s 127.0.0.1 -p "$port" -d "$work/questions" -c 16 -T 1 -q 400 -l "$seconds" >"$work/out"
    after=$(cpu)
    answered=$(sed -n 's/.*Queries completed: *\([0-9]*\).*/\1/p' "$work/out")
    awk -v name="$1" -v size="$2" -v n="$answered" -v t="$((after - before))" -v m="$(memory)" -v s="$seconds" 'BEGIN {
        printf "%-6s %8d names  %8.0f answers/s  %6.2f us CPU/answer  %7.0f MiB\n", name, size, n / s, t / n / 1000, m / 1024 }'
    stop
}

for size in "${sizes[@]}"; do
    rm -rf "$work/data"
    "$JIEXI" init --prefix 88.118 --address 127.0.0.1 --data "$work/data" >/dev/null
    "$LOAD" generate --records "$size" >"$work/records.ndjson"
    "$JIEXI" import "$work/records.ndjson" --data "$work/data" >/dev/null 2>&1
    cat >>"$work/data/jiexi.toml" <<END

[[dns.zones]]
name = "id.example.net"
mapping = "handle"
handles = "88.118/"
nameservers = ["ns1.example.net"]
mail = "hostmaster.example.net"
END
    "$JIEXI" dns zone export id.example.net --data "$work/data" --file "$work/zone" 2>/dev/null
    awk '$4 == "NAPTR" { print $1 ".id.example.net NAPTR" }' "$work/zone" | shuf -n 200000 >"$work/questions"
    last=$(awk '$4 == "NAPTR" { n = $1 } END { print n ".id.example.net" }' "$work/zone")

    JIEXI_HANDLE_LISTEN=127.0.0.1 JIEXI_HANDLE_PORT=$((port + 1)) JIEXI_OPERATIONS_LISTEN=127.0.0.1:$((port + 2)) \
        JIEXI_HTTP_LISTEN= JIEXI_DNS_ENABLED=true JIEXI_DNS_LISTEN=127.0.0.1 JIEXI_DNS_PORT=$port JIEXI_DNS_UDP_WORKERS=1 \
        JIEXI_DNS_AMPLIFICATION_RATE=1TiB JIEXI_DNS_AMPLIFICATION_BURST=1TiB \
        "${core0[@]}" "$JIEXI" serve --data "$work/data" >/dev/null 2>&1 &
    server=$!
    measure jiexi "$size"

    mkdir -p "$work/knot"
    cat >"$work/knot.conf" <<END
server:
    rundir: "$work/knot"
    listen: 127.0.0.1@$port
    udp-workers: 1
database:
    storage: "$work/knot"
zone:
  - domain: id.example.net
    file: "$work/zone"
    zonefile-sync: -1
    semantic-checks: false
    journal-content: none
END
    "${core0[@]}" knotd -c "$work/knot.conf" >/dev/null 2>&1 &
    server=$!
    measure knot "$size"

    mkdir -p "$work/nsd"
    cat >"$work/nsd.conf" <<END
server:
  ip-address: 127.0.0.1@$port
  server-count: 1
  username: ""
  chroot: ""
  zonesdir: "$work/nsd"
  database: ""
  pidfile: "$work/nsd/pid"
  xfrdfile: "$work/nsd/xfrd"
  zonelistfile: "$work/nsd/list"
  xfrdir: "$work/nsd"
  logfile: "$work/nsd/log"
  minimal-responses: yes
  rrl-ratelimit: 0
remote-control:
  control-enable: no
zone:
  name: id.example.net
  zonefile: "$work/zone"
END
    "${core0[@]}" nsd -d -c "$work/nsd.conf" >/dev/null 2>&1 &
    server=$!
    measure nsd "$size"
done

# The floor: packets of about the same sizes, moved and not read.
"${core0[@]}" "$LOAD" echo --listen 127.0.0.1:$port --reply 130 >/dev/null 2>&1 &
server=$!
sleep 0.5
before=$(cpu)
answered=$("${core1[@]}" "$LOAD" udp --echo --server 127.0.0.1:$port --records 10000 --warm-up 0 --seconds "$seconds" | sed -n 's/.*"answers":\([0-9]*\).*/\1/p')
after=$(cpu)
awk -v n="${answered:-0}" -v t="$((after - before))" 'BEGIN { if (n > 0) printf "echo floor %6.2f us CPU/answer\n", t / n / 1000 }'
