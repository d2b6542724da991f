//! Goal: a steady look-up allocates nothing. Method: a counting allocator around the system's; the
//! three passes answer the same kinds of requests again and again on this thread, and only the
//! allocations of this thread count.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Allocations of this thread.
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

#[expect(
    unsafe_code,
    reason = "the interface of a global allocator is unsafe; this one only counts"
)]
// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: as the caller promised.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[path = "handle/node.rs"]
#[expect(dead_code, reason = "this test needs no sockets")]
mod node;

use std::sync::Arc;

use jiexi::clock::Now;
use jiexi::metrics::{Metrics, Transport};
use jiexi::server::handle::{Replies, Responder};

/// The recorded requests whose kinds are looked up.
const ASKED: [&str; 7] = [
    "res_all_udp",
    "res_by_index",
    "res_by_type",
    "res_not_found",
    "res_values_not_found",
    "res_request_digest",
    "ref_10-9999_1",
];

fn request(scenario: &str) -> Vec<u8> {
    let path = node::vectors().join(format!("{scenario}.json"));
    let text = std::fs::read_to_string(path).expect("a vector");
    let vector: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let hex = vector["exchanges"][0]["messages"][0]["datagram_hex"]
        .as_str()
        .expect("octets");
    hex::decode(hex).expect("hex")
}

#[test]
fn a_steady_lookup_allocates_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let shared = node::shared(directory.path());
    let mut responder = Responder::new(Arc::new(shared), Metrics::default().cell(Transport::Udp));
    let mut replies = Replies::default();
    let requests: Vec<Vec<u8>> = ASKED.map(request).to_vec();
    let batch: Vec<&[u8]> = requests
        .iter()
        .map(Vec::as_slice)
        .cycle()
        .take(32)
        .collect();
    let mut answer = |rounds: u32| {
        let before = COUNT.with(Cell::get);
        for _ in 0..rounds {
            replies.clear();
            assert_eq!(responder.respond(&batch, Now::read(), &mut replies), 32);
        }
        COUNT.with(Cell::get) - before
    };
    answer(10);
    assert_eq!(answer(1000), 0, "allocations in 32,000 look-ups");
}
