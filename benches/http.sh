#!/usr/bin/env bash
# CPU per GET of /api/handles beside nginx serving a file of the same size, in the same run: plain HTTP, keep-alive, all
# layers on. Prints microseconds of CPU per request of both, and their ratio, which is to be at most 2.
set -euo pipefail
cd "$(dirname "$0")/.."
JIEXI=${JIEXI:-$PWD/target/release/jiexi}
seconds=${SECONDS_EACH:-8}
work=$(mktemp -d)
pids=()
trap 'for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done; rm -rf "$work"' EXIT
. tests/support/ports.sh
http=$(free_port) operations=$(free_port) file=$(free_port)
export JIEXI_HANDLE_LISTEN=127.0.0.1 JIEXI_HANDLE_PORT JIEXI_HTTP_LISTEN=127.0.0.1 JIEXI_HTTP_PORT=$http
# The limits of requests work, at a height that a load does not reach.
export JIEXI_HTTP_RATE=10000000 JIEXI_HTTP_BURST=10000000 JIEXI_ANONYMOUS_RATE=10000000 JIEXI_ANONYMOUS_BURST=10000000
export JIEXI_OPERATIONS_LISTEN=127.0.0.1:$operations
export JIEXI_STORE_DISK_FREE_MIN=64MiB JIEXI_STORE_DISK_FREE_PERCENT=0
JIEXI_HANDLE_PORT=$(free_port)
"$JIEXI" init --prefix 88.118.20 --address 127.0.0.1 --data "$work/data" >/dev/null
echo '{"handle":"88.118.20/pump","values":[{"index":1,"type":"URL","data":"https://example.cn/pump/1"},{"index":2,"type":"MODEL","data":"离心泵 IS80-65-160"},{"index":100,"type":"HS_ADMIN","data":{"format":"admin","value":{"handle":"0.NA/88.118.20","index":300,"permissions":"011111110011"}}}]}' >"$work/r.ndjson"
"$JIEXI" import "$work/r.ndjson" --config "$work/data/jiexi.toml" >/dev/null
"$JIEXI" serve --config "$work/data/jiexi.toml" >"$work/log" 2>&1 &
node=$!
pids+=("$node")
for _ in $(seq 600); do
    curl -sf "http://127.0.0.1:$operations/ready" >/dev/null && break
    sleep 0.1
done
mkdir "$work/root" "$work/temp"
curl -sf "http://127.0.0.1:$http/api/handles/88.118.20/pump" >"$work/root/pump.json"
cat >"$work/nginx.conf" <<END
worker_processes 2; pid $work/nginx.pid; error_log $work/error.log; daemon off;
events { worker_connections 1024; }
http {
    access_log off; keepalive_requests 1000000000; sendfile on; default_type application/json;
    client_body_temp_path $work/temp; proxy_temp_path $work/temp; fastcgi_temp_path $work/temp;
    uwsgi_temp_path $work/temp; scgi_temp_path $work/temp;
    server { listen 127.0.0.1:$file; root $work/root; }
}
END
chmod -R a+rX "$work"
nginx -c "$work/nginx.conf" -p "$work" &
master=$!
pids+=("$master")
sleep 1
ticks() { for pid in "$@"; do awk '{ print $14 + $15 }' "/proc/$pid/stat"; done | awk '{ n += $1 } END { print n }'; }
# measure URL PID...: microseconds of CPU per request.
measure() {
    local url=$1 before after requests
    shift
    wrk -t1 -c16 -d2 "$url" >/dev/null
    before=$(ticks "$@")
    requests=$(wrk -t1 -c16 -d"$seconds" "$url" | awk '/requests in/ { print $1 }')
    after=$(ticks "$@")
    awk -v t=$((after - before)) -v n="$requests" -v hz="$(getconf CLK_TCK)" 'BEGIN { printf "%.2f", t / hz * 1e6 / n }'
}
mapfile -t workers < <(pgrep -P "$master")
nginx_us=$(measure "http://127.0.0.1:$file/pump.json" "${workers[@]}")
jiexi_us=$(measure "http://127.0.0.1:$http/api/handles/88.118.20/pump" "$node")
ratio=$(awk -v a="$jiexi_us" -v b="$nginx_us" 'BEGIN { printf "%.2f", a / b }')
echo "http: $(stat -c %s "$work/root/pump.json") bytes, jiexi $jiexi_us us of CPU per GET, nginx $nginx_us us, ratio $ratio"
awk -v r="$ratio" 'BEGIN { exit !(r <= 2) }'
