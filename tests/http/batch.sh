#!/usr/bin/env bash
# A large batch by clients as they are: Python requests, which reads nothing before it has sent everything, and curl.
# LINES=5000000 is the long form. Needs python3 with venv; JIEXI is the binary, PYHANDLE_ENV a virtual environment.
set -euo pipefail
cd "$(dirname "$0")/../.."
JIEXI=${JIEXI:-$PWD/target/release/jiexi}
environment=${PYHANDLE_ENV:-$PWD/target/pyhandle}
lines=${LINES:-200000}
[[ -x $environment/bin/python ]] || python3 -m venv "$environment"
"$environment/bin/python" -c 'import requests' 2>/dev/null || "$environment/bin/pip" install --quiet requests
work=$(mktemp -d)
trap 'kill $node 2>/dev/null || true; wait; rm -rf "$work"' EXIT
. tests/support/ports.sh
http=$(free_port) operations=$(free_port) JIEXI_HANDLE_PORT=$(free_port)
export JIEXI_HANDLE_LISTEN=127.0.0.1 JIEXI_HANDLE_PORT JIEXI_HTTP_LISTEN=127.0.0.1 JIEXI_HTTP_PORT=$http
export JIEXI_HTTP_PLAIN_LOOPBACK=true JIEXI_OPERATIONS_LISTEN=127.0.0.1:$operations
export JIEXI_STORE_DISK_FREE_MIN=64MiB JIEXI_STORE_DISK_FREE_PERCENT=0
"$JIEXI" init --prefix 88.118.20 --address 127.0.0.1 --data "$work/data" >/dev/null
config=$work/data/jiexi.toml
echo '{"handle":"88.118.20/pump","values":[{"index":1,"type":"URL","data":"https://example.cn/pump/1"}]}' >"$work/r.ndjson"
"$JIEXI" import "$work/r.ndjson" --config "$config" >/dev/null
"$JIEXI" token create --identity 300:0.NA/88.118.20 --right batch --config "$config" --token-file "$work/token" >/dev/null
"$JIEXI" serve --config "$config" >"$work/log" 2>&1 &
node=$!
for _ in $(seq 600); do
    curl -sf "http://127.0.0.1:$operations/ready" >/dev/null && break
    sleep 0.1
done
awk -v n="$lines" 'BEGIN { for (i = 1; i <= n; i++) print "88.118.20/" (i % 100 ? "pump" : "none-" i) }' >"$work/in.txt"
cat >"$work/client.py" <<'END'
import json, sys, requests
url, token, path, lines = sys.argv[1], open(sys.argv[2]).read().strip(), sys.argv[3], int(sys.argv[4])
headers = {"Authorization": "Bearer " + token, "Content-Type": "text/plain"}
def pieces():
    with open(path, "rb") as file:
        while piece := file.read(1 << 16):
            yield piece
for name, body in (("Content-Length", open(path, "rb")), ("chunked", pieces())):
    # gzip is what requests asks for by itself.
    with requests.post(url, data=body, headers=headers, stream=True, timeout=600) as answer:
        answer.raise_for_status()
        expected, record = 0, None
        for line in answer.iter_lines(chunk_size=1 << 20):
            record = json.loads(line)
            if "line" in record:
                expected += 1
                assert record["line"] == expected, (record, expected)
                assert record["responseCode"] == (1 if expected % 100 else 100), record
    assert record["complete"] is True and record["lines"] == lines == expected, record
    print(f"requests, {name}: {record}")
END
"$environment/bin/python" -c 'import pyarrow' 2>/dev/null || "$environment/bin/pip" install --quiet pyarrow
cat >"$work/table.py" <<'END'
import sys, pyarrow as pa, pyarrow.parquet as parquet
path, lines = sys.argv[1], int(sys.argv[2])
file = parquet.ParquetFile(path)
groups = [file.metadata.row_group(place).num_rows for place in range(file.metadata.num_row_groups)]
assert max(groups) <= 65536 and sum(groups) == lines, groups
for group in range(len(groups)):
    table = file.read_row_group(group).to_pylist()
    for place, row in enumerate(table, sum(groups[:group]) + 1):
        assert row["line"] == place and row["responseCode"] == (1 if place % 100 else 100), row
        assert len(row["values"]) == (1 if place % 100 else 0), row
value = file.read_row_group(0).to_pylist()[0]["values"][0]
assert (value["index"], value["type"], value["value"]) == (1, "URL", "https://example.cn/pump/1"), value
assert value["timestamp"].year >= 2020 and value["ttl"] == 86400 and value["expires"] is None, value
# What others write: one table with a row for each value, one with lists.
flat = {"handle": ["88.118.20/t1", "88.118.20/t1", "88.118.20/t2"], "index": [1, 2, 1], "type": ["URL", "BIN", "T"],
        "ttl": [60.0, None, None], "value": [b"https://example.cn/t", b"\x00\xff", "标识".encode()]}
parquet.write_table(pa.table(flat), sys.argv[3])
nested = [{"handle": "88.118.20/t2", "values": [{"index": 1, "type": "T", "value": "标识"}]},
          {"handle": "88.118.20/t3", "values": [{"index": 7, "type": "T", "encoding": "hex", "value": "00ff"}]}]
parquet.write_table(pa.Table.from_pylist(nested), sys.argv[4], compression="gzip")
print(f"pyarrow {pa.__version__}: {len(groups)} groups")
END
"$JIEXI" batch resolve "$work/in.txt" --server "http://127.0.0.1:$http" --token-file "$work/token" -o parquet \
    --out "$work/out.parquet"
"$environment/bin/python" "$work/table.py" "$work/out.parquet" "$lines" "$work/flat.parquet" "$work/nested.parquet"
"$JIEXI" token create --identity 300:0.NA/88.118.20 --right write --config "$config" --token-file "$work/writer" >/dev/null
for table in flat nested; do
    "$JIEXI" bulk import "$work/$table.parquet" --server "http://127.0.0.1:$http" --token-file "$work/writer" -o json \
        --results "$work/$table.results" >/dev/null
done
[[ $(grep -c '"result":"created"' "$work/flat.results") -eq 2 ]]
[[ $(grep -o '"result":"[a-z]*"' "$work/nested.results" | tr '\n' ' ') == '"result":"same" "result":"created" ' ]]
url=http://127.0.0.1:$http/api/v1/batch/resolve
"$environment/bin/python" "$work/client.py" "$url" "$work/token" "$work/in.txt" "$lines"
for coding in identity gzip; do
    curl -sSf -o "$work/out" -H "Authorization: Bearer $(cat "$work/token")" -H 'Content-Type: text/plain' \
        -H "Accept-Encoding: $coding" -T "$work/in.txt" -X POST "$url"
    if [[ $coding == gzip ]]; then gunzip -c <"$work/out" >"$work/plain" && mv "$work/plain" "$work/out"; fi
    [[ $(wc -l <"$work/out") -eq $((lines + 1)) ]]
    tail -n 1 "$work/out" | grep -q "^{\"complete\":true,\"lines\":$lines,"
    echo "curl, $coding: $(tail -n 1 "$work/out")"
done
[[ -z $(ls -A "$work/data/spool") ]]
echo "resident at most: $(awk '/VmHWM/ { print $2 / 1024 }' "/proc/$node/status") MiB"
