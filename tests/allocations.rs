//! Goal: a steady look-up allocates nothing. Method: a counting allocator around the system's, which
//! counts for this thread and for UDP workers; first the three passes alone, then whole workers
//! behind real sockets.

#![expect(
    clippy::expect_used,
    reason = "helpers of a test: a failed assumption is a failed test"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Allocations so far of the threads that count.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// Whether a thread counts.
#[derive(Clone, Copy, PartialEq)]
enum Role {
    Unknown,
    Counted,
    Ignored,
}

thread_local! {
    static ROLE: Cell<Role> = const { Cell::new(Role::Unknown) };
}

/// Counts an allocation of a thread that counts; a thread's name tells, the first time.
fn count() {
    if ROLE.get() == Role::Unknown {
        // Asking for the name may allocate.
        ROLE.set(Role::Ignored);
        let current = std::thread::current();
        if current.name().is_some_and(|name| name.starts_with("udp-")) {
            ROLE.set(Role::Counted);
        }
    }
    if ROLE.get() == Role::Counted {
        COUNT.fetch_add(1, Relaxed);
    }
}

struct Counting;

#[expect(
    unsafe_code,
    reason = "the interface of a global allocator is unsafe; this one only counts"
)]
// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller promised.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[path = "handle/node.rs"]
#[expect(dead_code, reason = "this test needs no streams")]
mod node;

use std::sync::Arc;

use jiexi::clock::Now;
use jiexi::metrics::{Metrics, Transport};
use jiexi::server::handle::{Replies, Responder, desk};

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
    ROLE.set(Role::Counted);
    let before = COUNT.load(Relaxed);
    drop(Box::new(0));
    assert!(
        COUNT.load(Relaxed) > before,
        "allocations of this thread are counted"
    );
    let requests: Vec<Vec<u8>> = ASKED.map(request).to_vec();
    assert_eq!(
        in_three_passes(&requests),
        0,
        "allocations in 32,000 look-ups"
    );
    assert_eq!(
        over_udp(&requests),
        0,
        "allocations in 8,000 look-ups over UDP"
    );
}

/// Allocations of the three passes over 1,000 full batches.
fn in_three_passes(requests: &[Vec<u8>]) -> u64 {
    let directory = tempfile::tempdir().expect("a directory");
    let shared = node::shared_by(
        directory.path(),
        node::registry_config(),
        desk::Config::default(),
    );
    let mut responder = Responder::new(Arc::new(shared), Metrics::default().cell(Transport::Udp));
    let mut replies = Replies::default();
    let batch: Vec<&[u8]> = requests
        .iter()
        .map(Vec::as_slice)
        .cycle()
        .take(32)
        .collect();
    let mut answer = |rounds: u32| {
        let before = COUNT.load(Relaxed);
        for _ in 0..rounds {
            replies.clear();
            assert_eq!(responder.respond(&batch, Now::read(), &mut replies), 32);
        }
        COUNT.load(Relaxed) - before
    };
    answer(10);
    answer(1000)
}

/// Allocations of a node, and of this client, while 8,000 datagrams are answered.
fn over_udp(requests: &[Vec<u8>]) -> u64 {
    let mut config = node::config(&["0.0.0.0:0"]);
    config.budget.bytes_per_second = 1 << 40;
    config.budget.burst_bytes = 1 << 40;
    let node = node::Node::with(config);
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket
        .connect(("127.0.0.1", node.address.port()))
        .expect("connected");
    socket
        .set_read_timeout(Some(node::PATIENCE))
        .expect("a time-out");
    let mut buffer = [0; 2048];
    let mut ask = |rounds: usize| {
        let before = COUNT.load(Relaxed);
        for _ in 0..rounds {
            for request in requests.iter().cycle().take(16) {
                socket.send(request).expect("sent");
            }
            for _ in 0..16 {
                socket.recv(&mut buffer).expect("an answer");
            }
        }
        COUNT.load(Relaxed) - before
    };
    ask(10);
    ask(500)
}
