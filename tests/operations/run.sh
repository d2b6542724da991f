#!/usr/bin/env bash
# What operators get beside the binary: rules tested with promtool, each with a section of the runbook; dashboards whose
# every query has data on a real Prometheus that scrapes the node under load, with refusals of every kind; the compose file;
# the unit. Everything listens on loopback. The last line is "operations: N passed, M failed".
set -euo pipefail
cd "$(dirname "$0")/../.."
JIEXI=${JIEXI:-$PWD/target/release/jiexi}
tools=${OPERATIONS_ENV:-$PWD/target/operations-env}
work=$(mktemp -d)
pids=()
cleanup() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

passed=0
failed=0
# check NAME COMMAND...: one line of the report; the output only when it fails.
check() {
    local name=$1
    shift
    if "$@" >"$work/output" 2>&1; then
        passed=$((passed + 1))
        echo "ok      $name$(sed -n 's/^\([0-9][0-9]* .*\)/: \1/p' "$work/output" | tail -n 1)"
    else
        failed=$((failed + 1))
        echo "FAILED  $name"
        cat "$work/output"
    fi
}

. tests/support/ports.sh
# until_answers URL: within a minute.
until_answers() {
    for _ in $(seq 600); do
        curl -sf -o /dev/null "$1" && return
        sleep 0.1
    done
    echo "$1 does not answer"
    return 1
}

start_node() {
    handle=$(free_port) http=$(free_port) dns=$(free_port) operations=$(free_port)
    export JIEXI_HANDLE_LISTEN=127.0.0.1 JIEXI_HANDLE_PORT=$handle JIEXI_HTTP_LISTEN=127.0.0.1 JIEXI_HTTP_PORT=$http
    export JIEXI_DNS_LISTEN=127.0.0.1 JIEXI_DNS_PORT=$dns JIEXI_DNS_ENABLED=true JIEXI_DNS_TLS_PORT
    export JIEXI_OPERATIONS_LISTEN=127.0.0.1:$operations
    export JIEXI_STORE_DISK_FREE_MIN=64MiB JIEXI_STORE_DISK_FREE_PERCENT=0
    # So small that the load goes over it: refusals are part of the picture.
    export JIEXI_HANDLE_AMPLIFICATION_RATE=64KiB JIEXI_HANDLE_AMPLIFICATION_BURST=4MiB
    JIEXI_DNS_TLS_PORT=$(free_port)
    openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -days 90 \
        -keyout "$work/tls.key" -out "$work/tls.pem" 2>/dev/null
    export JIEXI_DNS_CERTIFICATE=$work/tls.pem JIEXI_DNS_KEY=$work/tls.key
    JIEXI_DNS_ENABLED=false "$JIEXI" init --prefix 88.118 --address 127.0.0.1 --port "$handle" --data "$work/node"
    printf '\n[[dns.zones]]\nname = "id.example.net"\nmapping = "handle"\nnameservers = ["ns.example.net"]\n%s\n' \
        'mail = "hostmaster.example.net"' >>"$work/node/jiexi.toml"
    config=$work/node/jiexi.toml
    "$JIEXI" bench records --records 2000 >"$work/records.ndjson"
    "$JIEXI" import "$work/records.ndjson" --config "$config"
    "$JIEXI" serve --config "$config" 2>"$work/node.log" &
    pids+=($!)
    until_answers "http://127.0.0.1:$operations/ready"
}

start_prometheus() {
    local scraped
    prometheus=$(free_port)
    scraped=$(free_port)
    prometheus-node-exporter --web.listen-address="127.0.0.1:$scraped" 2>"$work/exporter.log" &
    pids+=($!)
    mkdir "$work/prometheus"
    cp docker/prometheus/*.yml "$work/prometheus"
    # The configuration that is shipped, with these ports, and quicker.
    sed -i -e "s/\"127.0.0.1:9641\"/\"127.0.0.1:$operations\", \"127.0.0.1:$standby\"/" -e "s/127.0.0.1:9100/127.0.0.1:$scraped/" \
        -e 's/_interval: 15s/_interval: 1s/' "$work/prometheus/prometheus.yml"
    prometheus --config.file="$work/prometheus/prometheus.yml" --storage.tsdb.path="$work/tsdb" \
        --web.listen-address="127.0.0.1:$prometheus" 2>"$work/prometheus.log" &
    pids+=($!)
    node_metrics=http://127.0.0.1:$operations/metrics
    host_metrics=http://127.0.0.1:$scraped/metrics
    until_answers "http://127.0.0.1:$prometheus/-/ready"
}

# A standby of that node, with its key: what Prometheus says of standbys needs one.
start_standby() {
    local data=$work/standby
    mkdir "$data"
    cp "$work/node/jiexi.toml" "$work/node/site.json" "$data"
    echo 'a long passphrase' >"$work/passphrase"
    "$JIEXI" key escrow export --out "$work/escrow" --passphrase-file "$work/passphrase" --data "$work/node"
    "$JIEXI" key escrow import "$work/escrow" --passphrase-file "$work/passphrase" --data "$data"
    "$JIEXI" token create --identity 300:0.NA/88.118 --right replicate --token-file "$work/token" --config "$config"
    openssl s_client -connect "127.0.0.1:$http" </dev/null 2>/dev/null | openssl x509 >"$work/http.pem"
    standby=$(free_port)
    JIEXI_HANDLE_PORT=$(free_port) JIEXI_HTTP_PORT=$(free_port) JIEXI_DNS_PORT=$(free_port) \
        JIEXI_DNS_TLS_PORT=$(free_port) JIEXI_OPERATIONS_LISTEN=127.0.0.1:$standby \
        "$JIEXI" serve --follow "https://127.0.0.1:$http" --token-file "$work/token" --ca-file "$work/http.pem" \
        --config "$data/jiexi.toml" 2>"$work/standby.log" &
    pids+=($!)
    until_answers "http://127.0.0.1:$standby/ready"
}

# Load of every protocol, and what the node refuses, over and over until it is told to stop.
load() {
    local secret=$work/wrong.secret count=0
    printf 'not the secret' >"$secret"
    "$JIEXI" store snapshot --config "$config"
    while [[ ! -e $work/enough ]]; do
        count=$((count + 1))
        "$JIEXI" bench lookups --server "127.0.0.1:$handle" --records 2000 --miss 10 --rate 2000 --time 1s --warm-up 0s
        "$JIEXI" bench lookups --server "127.0.0.1:$handle" --records 2000 --transport tcp --rate 500 --time 500ms \
            --warm-up 0s
        "$JIEXI" handle create "88.118/operations.$count" --value 1:URL=https://example.cn --config "$config"
        # Refused: what is there already; a wrong secret; secrets over plain HTTP; a datagram that is no message.
        "$JIEXI" handle create "88.118/operations.$count" --value 1:URL=https://example.cn --config "$config" || true
        "$JIEXI" handle create 88.118/x --value 1:URL=https://example.cn --server "127.0.0.1:$handle" \
            --identity 300:0.NA/88.118 --secret-file "$secret" || true
        curl -s -u '300%3A0.NA%2F88.118:wrong' -X DELETE "http://127.0.0.1:$http/api/handles/88.118/operations.1" || true
        curl -sk -u '300%3A0.NA%2F88.118:wrong' -X DELETE "https://127.0.0.1:$http/api/handles/88.118/operations.1" || true
        curl -s "http://127.0.0.1:$http/api/handles/88.118/operations.1" || true
        curl -s --tls-max 1.1 "https://127.0.0.1:$http/" || true
        printf x >"/dev/udp/127.0.0.1/$handle" || true
        for way in +notcp +tcp; do
            dig +tries=1 +time=2 "$way" -p "$dns" @127.0.0.1 "operations_2e1.88-118.id.example.net" NAPTR || true
            dig +tries=1 +time=2 "$way" -p "$dns" @127.0.0.1 "nothing.88-118.id.example.net" NAPTR || true
        done
    done
}

check "rules" promtool check rules docker/prometheus/recording.yml docker/prometheus/alerts.yml
check "Prometheus' configuration" promtool check config docker/prometheus/prometheus.yml
check "alerts ring when they should" promtool test rules tests/operations/*.test.yml
check "dashboards are what their source makes" docker/grafana/dashboards.py --check
check "compose file" docker-compose --file docker/compose.yaml config --quiet
sed "s,/usr/bin/jiexi,$JIEXI," config/jiexi.service >"$work/jiexi.service"
check "systemd unit" systemd-analyze verify --man=no "$work/jiexi.service"
check "exposure of the unit at most 2.0" systemd-analyze security --offline=yes --threshold=20 "$work/jiexi.service"
check "virtual environment" python3 -m venv "$tools"
check "parser" "$tools/bin/pip" install --quiet --disable-pip-version-check promql-parser==0.12.0 PyYAML==6.0.2
check "runbook and dashboards" "$tools/bin/python" tests/operations/check.py files
start_node >"$work/start.log" 2>&1 || { cat "$work/start.log" "$work/node.log"; exit 1; }
start_standby >"$work/start.log" 2>&1 || { cat "$work/start.log" "$work/standby.log"; exit 1; }
start_prometheus
load >"$work/load.log" 2>&1 &
loader=$!
check "every query has data" "$tools/bin/python" tests/operations/check.py live \
    "http://127.0.0.1:$prometheus" "$node_metrics" "$host_metrics"
check "the exposition" bash -c "curl -sf '$node_metrics' | promtool check metrics"
touch "$work/enough"
wait "$loader" || { tail -n 30 "$work/load.log"; failed=$((failed + 1)); }

echo "operations: $passed passed, $failed failed"
[[ $failed -eq 0 ]]
