#!/usr/bin/env bash
# Starts jiexi nodes and CNRI servers on loopback. CNRI's Java client resolves through the nodes and administers one;
# jiexi resolves and administers at a CNRI server, which asks jiexi for its users' keys; another CNRI server copies a node;
# all handles of a third one move to a node: 50,000, or as many as MIGRATED says (1000000 in the long form).
# Prints the matrix client × operation × result and compares it with README.md (MATRIX=write writes it there).
# The last line is "interop: N passed, M failed". With CI=true a missing tool is a failure, else a skip.
# JIEXI names the program under test; without it the release build of this checkout is made and used.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)

for tool in java javac mvn; do
    if ! command -v "$tool" >/dev/null; then
        echo "interop: $tool is not installed (Debian: maven, openjdk-17-jdk-headless)" >&2
        if [[ ${CI:-} == true ]]; then exit 1; fi
        echo "interop: skipped"
        exit 0
    fi
done
if [[ -z ${JIEXI:-} ]]; then
    # With the features of the tests, so that what they have compiled is not compiled again.
    (cd "$root" && cargo build --release --locked --workspace --all-features --bin jiexi)
    JIEXI=${CARGO_TARGET_DIR:-$root/target}/release/jiexi
fi
fixture=${FIXTURE:-$root/proto/tests/vectors/fixture.ndjson}

work=$(mktemp -d)
pids=()
finish() {
    local status=$?
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    if [[ $status -ne 0 ]]; then
        for log in "$work"/*.log; do
            [[ -e $log ]] && echo "--- ${log##*/}, its end" >&2 && tail -n 40 "$log" >&2
        done
    fi
    rm -rf "$work"
}
trap finish EXIT

# Maven resets colours at its end even where it uses none.
plain() { sed -u 's/\x1b\[[0-9;]*m//g'; }

. "$root/tests/support/ports.sh"

# True when the node says on its operations port that it is ready.
ready() {
    local status
    { exec 3<>"/dev/tcp/127.0.0.1/$1"; } 2>/dev/null || return 1
    printf 'GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3
    read -r -t 5 status <&3 || status=
    exec 3>&-
    [[ $status == *" 200 "* ]]
}

# node NAME PREFIX PORT [SETTING=VALUE...]: makes a node, with the records of NAME.ndjson if there is such a file, starts
# it with these settings and waits until it is ready.
node() {
    local name=$1 prefix=$2 port=$3 operations
    shift 3
    operations=$(free_port)
    "$JIEXI" init --prefix "$prefix" --address 127.0.0.1 --port "$port" --data "$work/$name" \
        >"$work/$name-init.log" 2>&1
    if [[ -e $work/$name.ndjson ]]; then
        "$JIEXI" import --data "$work/$name" "$work/$name.ndjson" >"$work/$name-import.log" 2>&1
    fi
    env JIEXI_HANDLE_LISTEN=127.0.0.1 JIEXI_HTTP_PORT=0 JIEXI_OPERATIONS_LISTEN=127.0.0.1:$operations "$@" \
        "$JIEXI" serve --config "$work/$name/jiexi.toml" >"$work/$name-serve.log" 2>&1 &
    local pid=$!
    pids+=("$pid")
    for _ in {1..300}; do
        if ready "$operations"; then return; fi
        if ! kill -0 "$pid" 2>/dev/null; then
            echo "interop: node $name ended before it was ready" >&2
            return 1
        fi
        sleep 0.1
    done
    echo "interop: node $name was not ready after 30 s" >&2
    return 1
}

# The CNRI server's program, and what prepares it. No function, whose process would not be the server's.
cnri=(java -XX:TieredStopAtLevel=1 -cp 'target/server/classes:target/server/*' Cnri)

# cnri_node NAME PORT [ROOT-PORT]: starts the CNRI server whose directory is prepared, and waits until it answers.
cnri_node() {
    local name=$1 port=$2
    "${cnri[@]}" serve "$work/$name" "${@:3}" >"$work/$name-serve.log" 2>&1 &
    local pid=$!
    pids+=("$pid")
    for _ in {1..150}; do
        if { exec 3<>"/dev/tcp/127.0.0.1/$port"; } 2>/dev/null; then
            exec 3>&-
            return
        fi
        if ! kill -0 "$pid" 2>/dev/null; then break; fi
        sleep 0.2
    done
    echo "interop: CNRI server $name does not listen" >&2
    return 1
}

mvn -q -B -ntp -Dstyle.color=never test-compile dependency:copy-dependencies@client dependency:copy@server | plain
mkdir -p target/server/classes
javac -nowarn -d target/server/classes -cp 'target/server/*' "$root/benches/peers/Cnri.java"
port_a=$(free_port)
port_b=$(free_port)
port_c=$(free_port)
java -cp 'target/classes:target/lib/*' interop.Prepare \
    "$fixture" "$work" 127.0.0.1 "$port_a" 127.0.0.1 "$port_b"
node a 88.118 "$port_a"
node b 88.118.9 "$port_b"
node c 88.300 "$port_c"
# As an operator does: the enterprise's node is set up by itself, and its prefix delegated by one command at the parent.
port_d=$(free_port)
node d 88.300.7 "$port_d"
export JIEXI_HTTP_PORT=0
"$JIEXI" handle create 88.300.7/pump --value 1:URL=https://d.example.cn/pump --data "$work/d" >/dev/null
"$JIEXI" prefix add 88.300.7 --site "127.0.0.1:$port_d" --data "$work/c" >/dev/null

# CNRI server e: home of prefixes that jiexi node r delegates to it, or asks upstream for. Its global service is r, where it
# finds the rights and keys of its users. Node d delegates one to it, too, and another one to r: with c a chain of three.
port_e=$(free_port)
port_r=$(free_port)
"$JIEXI" key new --out "$work/peer.key" >/dev/null
"$JIEXI" key export "$work/peer.key" --public --out "$work/peer.pub" >/dev/null
echo "a secret of this run" >"$work/peer.secret"
java -cp 'target/classes:target/lib/*' interop.PreparePeers "$work" "$work/peer.pub" "$work/peer.secret"
"${cnri[@]}" load "$work/e" "$port_e" 88.310.1,88.401,88.300.7.1 8 300:88.310.1/ADMIN <"$work/e.lines" >"$work/e-load.log"
node r 88.310 "$port_r" JIEXI_RECURSION_ALLOW_RECURSION=true "JIEXI_RECURSION_UPSTREAM=127.0.0.1:$port_e" \
    JIEXI_RECURSION_OUTBOUND_ALLOW=127.0.0.0/8
cnri_node e "$port_e" "$port_r"
{
    "$JIEXI" prefix add 88.310.1 --site "127.0.0.1:$port_e" --admin-key "$work/peer.key" --data "$work/r"
    "$JIEXI" value add 0.NA/88.310.1 --value-file "301:HS_SECKEY=$work/peer.secret" --data "$work/r"
    "$JIEXI" value set 0.NA/88.310.1 --data "$work/r" --value \
        "200:HS_VLIST=300:0.NA/88.310.1,301:0.NA/88.310.1,300:88.310.1/ADMIN,301:88.310.1/ADMIN"
    "$JIEXI" prefix add 88.300.7.1 --site "127.0.0.1:$port_e" --data "$work/d"
    "$JIEXI" prefix add 88.300.7.2 --site "127.0.0.1:$port_r" --data "$work/d"
    "$JIEXI" prefix add 88.300.7.2.1 --hosted --admin-key "$work/peer.key" --data "$work/r"
    "$JIEXI" handle create 88.300.7.2.1/gate --value 1:URL=https://r.example.cn/gate --data "$work/r"
} >"$work/peers.log" 2>&1 || { cat "$work/peers.log" >&2; exit 1; }

# Since e has asked r for its root's record before it listened itself, r takes it for down until it has looked again.
for _ in {1..60}; do
    if "$JIEXI" resolve 88.310.1/ADMIN --server "127.0.0.1:$port_r" >>"$work/peers.log" 2>&1; then break; fi
    sleep 0.5
done

# CNRI server f: a mirror of jiexi node m, which has 10,000 handles.
port_f=$(free_port)
port_m=$(free_port)
node m 88.320 "$port_m" JIEXI_ADMINISTRATION_REPLICATION_ADMINS=300:0.NA/88.320
"${cnri[@]}" mirror "$work/f" "$port_f" "$port_m" 300:0.NA/88.320 "$work/m/admin.key"
cnri_node f "$port_f" "$port_m"

# CNRI server g, from which everything moves to jiexi node h, which is stopped.
migrated=${MIGRATED:-50000}
port_g=$(free_port)
java -cp 'target/classes:target/lib/*' interop.PrepareMigration "$migrated" "$work/peer.pub" "$work/peer.secret" |
    "${cnri[@]}" load "$work/g" "$port_g" 88.330,88.331,0.NA 8 300:88.330/ADMIN >"$work/g-load.log"
cnri_node g "$port_g"
"$JIEXI" init --prefix 88.339 --address 127.0.0.1 --port "$(free_port)" --data "$work/h" >"$work/h-init.log" 2>&1

status=0
mvn -B -ntp -Dstyle.color=never surefire:test \
    -Dinterop.timeout=$((600 + migrated / 100)) \
    -Dinterop.data="$work" \
    -Dinterop.a.address=127.0.0.1 -Dinterop.a.port="$port_a" \
    -Dinterop.b.address=127.0.0.1 -Dinterop.b.port="$port_b" \
    -Dinterop.c.address=127.0.0.1 -Dinterop.c.port="$port_c" \
    -Dinterop.d.port="$port_d" -Dinterop.r.port="$port_r" -Dinterop.m.port="$port_m" \
    -Dinterop.e.port="$port_e" -Dinterop.f.port="$port_f" -Dinterop.g.port="$port_g" -Dinterop.migrated="$migrated" \
    -Dinterop.jiexi="$JIEXI" -Dinterop.server.classpath='target/server/classes:target/server/*' \
    -Dinterop.outcomes="$work/outcomes.tsv" | plain | tee "$work/tests.txt" || status=$?

total='Tests run: ([0-9]+), Failures: ([0-9]+), Errors: ([0-9]+), Skipped: ([0-9]+)$'
if ! [[ $(grep -E "$total" "$work/tests.txt" | tail -n 1) =~ $total ]]; then
    echo "interop: no tests ran" >&2
    exit 1
fi
ran=("${BASH_REMATCH[@]}")

# The table of the README is the one that this run prints.
echo
java -cp 'target/test-classes:target/classes:target/lib/*' interop.Matrix "$work/outcomes.tsv" | tee "$work/matrix.md"
begin='<!-- interop matrix -->' end='<!-- end of interop matrix -->'
if [[ ${MATRIX:-} == write ]]; then
    sed -i -e "/^$begin/,/^$end/{/^|/d}" -e "/^$begin/r $work/matrix.md" "$root/README.md"
fi
if ! diff -u --label README.md --label "this run" \
    <(sed -n "/^$begin/,/^$end/{/^|/p}" "$root/README.md") "$work/matrix.md"; then
    echo "interop: the matrix in README.md is not that of this run; MATRIX=write $0 brings it up to date" >&2
    status=1
fi

failed=$((ran[2] + ran[3]))
echo "interop: $((ran[1] - failed - ran[4])) passed, $failed failed"
if [[ $status -eq 0 && $failed -gt 0 ]]; then status=1; fi
exit "$status"
