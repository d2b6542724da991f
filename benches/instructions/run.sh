#!/usr/bin/env bash
# Counts the instructions of one look-up of each kind with callgrind, and compares them with counts.tsv: more than 5 %
# away in either direction is a failure, so that a loss is seen and a gain is kept. Tables are keyed anew in each process,
# so what is off is counted twice more and the median decides.
#
#   benches/instructions/run.sh            compares
#   COUNTS=write benches/instructions/run.sh    writes counts.tsv
#
# The counts are those of x86-64. INSTRUCTIONS names the program; without it the release build is made and used.
set -euo pipefail
cd "$(dirname "$0")/../.."
counts=benches/instructions/counts.tsv

if ! command -v valgrind >/dev/null; then
    root=()
    if [[ $EUID -ne 0 ]]; then root=(sudo); fi
    "${root[@]}" apt-get update -q
    DEBIAN_FRONTEND=noninteractive "${root[@]}" apt-get install -q -y --no-install-recommends valgrind libc6-dbg
fi
if [[ -z ${INSTRUCTIONS:-} ]]; then
    # With the features of the tests, so that nothing is compiled twice.
    INSTRUCTIONS=$(cargo build --release --locked --workspace --all-features --bench instructions \
        --message-format=json-render-diagnostics |
        sed -n 's/.*"name":"instructions".*"executable":"\([^"]*\)".*/\1/p')
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

count() { # KIND: instructions of one look-up
    local lookups total
    lookups=$(valgrind --tool=callgrind --callgrind-out-file="$work/$1" --collect-atstart=no \
        '--toggle-collect=*counted_*' "$INSTRUCTIONS" "$1" 2>"$work/log") || { cat "$work/log" >&2; exit 1; }
    total=$(sed -n 's/^\(summary\|totals\): \([0-9]*\).*/\2/p' "$work/$1" | tail -n 1)
    echo $((total / lookups))
}
verdict() { # COUNT KNOWN
    awk -v n="$1" -v k="${2:-0}" 'BEGIN {
        if (n == 0) print "nothing was counted"
        else if (k == 0) print "unknown"
        else if (n > k * 1.05) print "MORE"
        else if (n < k * 0.95) print "LESS: write it down"
        else print "ok" }'
}

failed=0
for kind in $("$INSTRUCTIONS"); do
    each=$(count "$kind")
    known=$(awk -v kind="$kind" '$1 == kind { print $2 }' "$counts" 2>/dev/null || true)
    verdict=$(verdict "$each" "$known")
    if [[ $verdict != ok ]]; then
        each=$(printf '%s\n' "$each" "$(count "$kind")" "$(count "$kind")" | sort -n | sed -n 2p)
        verdict=$(verdict "$each" "$known")
    fi
    printf '%s\t%s\n' "$kind" "$each" >>"$work/counts"
    printf '%-22s %7s instructions, %7s written down: %s\n' "$kind" "$each" "${known:-no}" "$verdict"
    if [[ $verdict != ok ]]; then failed=1; fi
done
if [[ ${COUNTS:-} == write ]]; then
    cp "$work/counts" "$counts"
    failed=0
fi
exit "$failed"
