#!/usr/bin/env bash
# Drives jiexi with id-pointer-sdk, the client of the Chinese system, as it is: three nodes on loopback, one of which is
# asked as the recursive one. Maven Central does not have this client, so that the checks replay its recorded traffic
# instead (../../handle/sdk.rs); this is for who has built it from its public source.
#   SDK_CLASSPATH=sdk.jar:dependencies… tests/interop/sdk/run.sh
# JIEXI names the program under test; without it the release build of this checkout. The last line is "sdk: N passed, M
# failed".
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../../.. && pwd)
: "${SDK_CLASSPATH:?the jar of id-pointer-sdk and those that it needs, separated by colons}"
JIEXI=${JIEXI:-${CARGO_TARGET_DIR:-$root/target}/release/jiexi}

work=$(mktemp -d)
pids=()
finish() {
    local status=$?
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    if [[ $status -ne 0 ]]; then tail -n 20 "$work"/*.log >&2; fi
    [[ -n ${KEEP:-} ]] || rm -rf "$work"
}
trap finish EXIT
. "$root/tests/support/ports.sh"

# node NAME PREFIX PORT [SETTING=VALUE...]: makes a node and starts it.
node() {
    local name=$1 prefix=$2 port=$3
    shift 3
    "$JIEXI" init --prefix "$prefix" --address 127.0.0.1 --port "$port" --data "$work/$name" >"$work/$name-init.log"
    env JIEXI_HANDLE_LISTEN=127.0.0.1 JIEXI_HTTP_PORT=0 JIEXI_OPERATIONS_LISTEN=127.0.0.1:0 \
        JIEXI_RECURSION_OUTBOUND_ALLOW=127.0.0.0/8 "$@" \
        "$JIEXI" serve --config "$work/$name/jiexi.toml" >"$work/$name.log" 2>&1 &
    pids+=("$!")
    for _ in {1..150}; do
        if "$JIEXI" resolve "0.NA/$prefix" --server "127.0.0.1:$port" >"$work/$name-resolve.log" 2>&1; then return; fi
        sleep 0.2
    done
    echo "sdk: node $name does not answer" >&2
    return 1
}

key() { # NAME [OPTION...]: a key as PEM, and the same as a public one
    "$JIEXI" key new --format pem --out "$work/$1.pem" "${@:2}"
    "$JIEXI" key export "$work/$1.pem" --public --format pem --out "$work/$1.pub"
}
key sm2 --sm2
key sm2-binary --sm2
key user
key wrong
key wrong-sm2 --sm2
# The other form of such a key in a value: its name, two octets of flags, the key.
python3 - "$work/sm2-binary.pub" <<'PYTHON'
import struct, sys

with open(sys.argv[1], "rb") as file:
    key = file.read()
name = b"SM2_PUB_KEY"
with open(sys.argv[1], "wb") as file:
    file.write(struct.pack(">I", len(name)) + name + b"\0\0" + struct.pack(">I", len(key)) + key)
PYTHON

# The recursive node r knows where 88.118.8 is at home; node u is the home of a user who works at n.
port_n=$(free_port)
port_r=$(free_port)
port_u=$(free_port)
node u 88.119 "$port_u"
node r 88.118 "$port_r" JIEXI_RECURSION_ALLOW_RECURSION=true "JIEXI_RECURSION_UPSTREAM=127.0.0.1:$port_u"
node n 88.118.8 "$port_n" JIEXI_RECURSION_AUTHENTICATION=true "JIEXI_RECURSION_UPSTREAM=127.0.0.1:$port_r"
export JIEXI_HTTP_PORT=0
"$JIEXI" key export "$work/n/admin.key" --format pem --out "$work/admin.pem"
{
    "$JIEXI" prefix add 88.118.8 --site "127.0.0.1:$port_n" --data "$work/r"
    "$JIEXI" handle create 88.119/USER --value-file "300:HS_PUBKEY=$work/user.pub" --data "$work/u"
    "$JIEXI" handle create 88.118.8/SM2 --value-file "300:HS_PUBKEY=$work/sm2.pub" --data "$work/n"
    "$JIEXI" handle create 88.118.8/SM2-BINARY --value-file "300:HS_PUBKEY=$work/sm2-binary.pub" --data "$work/n"
    "$JIEXI" value set 0.NA/88.118.8 --data "$work/n" --value \
        "200:HS_VLIST=300:0.NA/88.118.8,300:88.118.8/SM2,300:88.118.8/SM2-BINARY,300:88.119/USER"
    "$JIEXI" handle create 88.118.8/pump --data "$work/n" \
        --value 1:URL=https://example.cn/pump --value 2:EMAIL=pump@example.cn
    "$JIEXI" handle create 88.118.8/restricted --data "$work/n" \
        --value 1:URL=https://example.cn/restricted --admin 200:0.NA/88.118.8
    "$JIEXI" value add 88.118.8/restricted --data "$work/n" --value "2:DESC=for administrators" --permissions 1100
} >"$work/setup.log" 2>&1

javac -nowarn -d "$work/classes" -cp "$SDK_CLASSPATH" Sdk.java
java -cp "$work/classes:$SDK_CLASSPATH" Sdk "$work" "$port_r" "$port_n"
