# `just` lists the recipes. `just check` is what CI runs.

_default:
    @just --list --unsorted

# everything that CI checks
check:
    .ci/run

# the tests of the README
test:
    cargo test --release --workspace --all-features

# format the sources
fmt:
    cargo fmt --all

# lints, warnings denied
lint:
    cargo clippy --release --workspace --all-targets --all-features -- -D warnings

# the documentation, warnings denied
doc:
    RUSTDOCFLAGS=-Dwarnings cargo doc --release --workspace --all-features --no-deps

# licences, duplicates and sources of the dependencies
deny:
    cargo deny check bans licenses sources

# CNRI's Java client against two nodes
interop:
    tests/interop/run.sh

# look-ups per second and per core, beside the echo floor (some 10 minutes)
bench:
    benches/run.sh

# the benchmarks once, shortly: they work
bench-smoke:
    benches/run.sh --smoke

# a node with realistic data on loopback
run:
    cargo run --release -- serve --demo

# fuzz one target for a minute: message, framing, …
fuzz target:
    cd fuzz && cargo fuzz run {{target}} -- -max_total_time=60
