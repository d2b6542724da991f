//! The parts of a look-up in time: the index, and the three passes over a batch. `cargo bench --bench lookup`.
//!
//! 100,000 records, more than the caches hold; each batch asks for others.

#![expect(
    clippy::expect_used,
    reason = "a bench ends where something is not as expected"
)]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use jiexi::bench::Protocol as _;
use jiexi::bench::records::Records;
use jiexi::bench::wire::Handle;
use jiexi::clock::Now;
use jiexi::metrics::{Metrics, Transport};
use jiexi::server::handle::{BATCH, Replies, Responder};
use jiexi::store::Lookup;

mod node;

const RECORDS: u64 = 100_000;

fn lookups(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory");
    let shared = Arc::new(node::shared(directory.path(), RECORDS));
    let records = Records::new(node::PREFIX, RECORDS);
    let mut group = criterion.benchmark_group("lookup");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (kind, first) in [("hit", 0), ("miss", RECORDS)] {
        let names: Vec<Vec<u8>> = (first..first + RECORDS)
            .map(|number| node::name(&records, number))
            .collect();
        let keys: Vec<Vec<u8>> = names.iter().map(|name| node::folded(name)).collect();
        let mut at = 0;
        let reader = shared.store.reader();
        group.bench_function(format!("index, a batch, {kind}"), |bencher| {
            bencher.iter(|| {
                let session = reader.session();
                let mut found = [const { Lookup::Absent }; BATCH];
                let wanted: [&[u8]; BATCH] =
                    std::array::from_fn(|i| &keys[(at + i * 331) % keys.len()][..]);
                session.find(&wanted, &mut found);
                at += 7919;
                black_box(&found);
            });
        });
        let requests: Vec<Vec<u8>> = names.iter().map(|name| request(name)).collect();
        let mut responder =
            Responder::new(Arc::clone(&shared), Metrics::default().cell(Transport::Udp));
        let (mut replies, now) = (Replies::default(), Now::read());
        group.bench_function(format!("respond, a batch, {kind}"), |bencher| {
            bencher.iter(|| {
                let batch: [&[u8]; BATCH] =
                    std::array::from_fn(|i| &requests[(at + i * 331) % requests.len()][..]);
                at += 7919;
                replies.clear();
                black_box(responder.respond(&batch, now, &mut replies))
            });
        });
    }
}

fn request(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Handle.request(1, name, &mut out);
    out
}

criterion_group!(benches, lookups);
criterion_main!(benches);
