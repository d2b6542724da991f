#!/usr/bin/env bash
# The Debian package of the release binary that is there: build.sh OUTPUT. Needs cargo-deb.
set -euo pipefail
cd "$(dirname "$0")/../.."
JIEXI=${JIEXI:-$PWD/target/release/jiexi}
made=target/package
rm -rf "$made"
mkdir -p "$made/man"
"$JIEXI" man "$made/man"
for shell in bash zsh fish; do "$JIEXI" completions "$shell" >"$made/jiexi.$shell"; done
cargo-deb --no-build --strip --locked --output "$1"
