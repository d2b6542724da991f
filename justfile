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

# look-ups beside the floors, redis, Knot, NSD and the CNRI server (some 9 minutes); writes the table of the README
bench:
    TABLE=write benches/peers/run.sh

# the same once, shortly: it works
bench-smoke:
    benches/peers/run.sh --smoke
    benches/peers/run.sh --smoke --slope
    benches/peers/run.sh --smoke --both-cores

# instructions of one look-up of each kind, compared with those written down
bench-instructions:
    benches/instructions/run.sh

# the parts of a look-up in time, and durable writes beside bare append and fdatasync
bench-parts:
    cargo bench --locked --bench lookup
    cargo bench --locked --bench store
    cargo bench --locked --package jiexi-proto --bench codec

# a node with realistic data on loopback
run:
    cargo run --release -- serve --demo

# fuzz one target for a minute: message, framing, …
fuzz target:
    cd fuzz && cargo fuzz run {{target}} -- -max_total_time=60
