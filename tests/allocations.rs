//! Goal: a steady look-up allocates nothing. Method: a counting allocator around the system's, which
//! counts for this thread and for UDP workers; first the three passes alone, then whole workers
//! behind real sockets.

#![expect(
    clippy::expect_used,
    reason = "helpers of a test: a failed assumption is a failed test"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read as _, Write as _};
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
        if current
            .name()
            .is_some_and(|name| name.starts_with("udp-") || name.starts_with("tokio-"))
        {
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
#[path = "support/ports.rs"]
mod ports;

#[path = "dns/node.rs"]
#[expect(dead_code, reason = "this test needs a part of it")]
mod dns_node;

use std::sync::Arc;

use jiexi::clock::Now;
use jiexi::history::History;
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
    assert_eq!(
        over_tcp(&requests),
        0,
        "allocations in 8,000 look-ups over TCP"
    );
    assert_eq!(
        plain_dns_questions(),
        0,
        "allocations in 32,000 questions of DNS"
    );
    assert_eq!(
        dns_over_udp(),
        0,
        "allocations in 8,000 questions of DNS over UDP"
    );
}

/// Plain questions of every outcome: found, found with a cookie, no such type, no such name, cut, found by a hash.
fn dns_questions() -> Vec<Vec<u8>> {
    use hickory_proto::rr::RecordType;
    let question = |name: &str, kind| {
        let name = format!("{name}.id.example.net.");
        dns_node::question(&name, kind)
    };
    [
        question("cnc-1.88-118-1", RecordType::NAPTR),
        dns_node::with_edns(question("cnc-1.88-118-1", RecordType::from(256)), &[]),
        dns_node::with_edns(
            question("CNC-1.88-118-1", RecordType::NAPTR),
            &[(10, b"clientck")],
        ),
        question("cnc-1.88-118-1", RecordType::MX),
        question("none.88-118-1", RecordType::NAPTR),
        question("big.88-118-1", RecordType::NAPTR),
        // The hash of a suffix that fits no label.
        question(
            "_hpg2h3ivmegfid5otsibstgjlv0qt8fl4.88-118-1",
            RecordType::NAPTR,
        ),
    ]
    .iter()
    .map(|message| message.to_vec().expect("encodes"))
    .collect()
}

/// Allocations of 1,000 full batches of DNS.
fn plain_dns_questions() -> u64 {
    use jiexi::server::dns::{Channel, Replies};
    let mut bench = dns_node::Bench::new();
    let questions = dns_questions();
    let client = std::net::IpAddr::from([192, 0, 2, 1]);
    let batch: Vec<(&[u8], std::net::IpAddr)> = questions
        .iter()
        .map(|question| (question.as_slice(), client))
        .cycle()
        .take(32)
        .collect();
    let mut replies = Replies::default();
    let mut answer = |rounds: u32| {
        let before = COUNT.load(Relaxed);
        for _ in 0..rounds {
            bench
                .plain
                .respond(&batch, Channel::Udp, Now::read(), &mut replies);
            assert_eq!(replies.answers().flatten().count(), 32);
        }
        COUNT.load(Relaxed) - before
    };
    answer(10);
    answer(1000)
}

/// Allocations of a DNS worker while 8,000 datagrams are answered.
fn dns_over_udp() -> u64 {
    let node = dns_node::Node::start(dns_node::config());
    let questions = dns_questions();
    let socket = node.client();
    let mut buffer = [0; 2048];
    let mut ask = |rounds: usize| {
        let before = COUNT.load(Relaxed);
        for _ in 0..rounds {
            for question in questions.iter().cycle().take(16) {
                socket.send(question).expect("sent");
            }
            for _ in 0..16 {
                socket.recv(&mut buffer).expect("an answer");
            }
        }
        COUNT.load(Relaxed) - before
    };
    ask(10);
    fewest(|| ask(500))
}

/// Allocations of the three passes over 1,000 full batches.
fn in_three_passes(requests: &[Vec<u8>]) -> u64 {
    let directory = tempfile::tempdir().expect("a directory");
    let shared = node::shared_by(
        directory.path(),
        node::registry_config(),
        desk::Config::default(),
    );
    // With the log of resolutions: what a worker writes there has its place already.
    let metrics = Metrics::default();
    let log = jiexi::history::Config {
        directory: directory.path().join("history"),
        days: 180,
        budget: 1 << 30,
    };
    let history = Arc::new(History::open(log).expect("a log"));
    metrics.remember_in(&history);
    let mut responder = Responder::new(Arc::new(shared), metrics.cell(Transport::Udp));
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
            let now = Now::read();
            replies.clear();
            assert_eq!(responder.respond(&batch, now, &mut replies), 32);
            responder.remember(&replies, now, |_| [192, 0, 2, 7].into());
        }
        COUNT.load(Relaxed) - before
    };
    answer(10);
    let allocated = answer(1000);
    history.close();
    let files = std::fs::read_dir(directory.path().join("history")).expect("the log");
    assert!(files.count() > 0, "the look-ups are in the log");
    allocated
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
    fewest(|| ask(500))
}

/// Allocations of a node, and of this client, while 8,000 requests are answered on one connection, 16 in flight.
fn over_tcp(requests: &[Vec<u8>]) -> u64 {
    let node = node::Node::with(node::config(&["127.0.0.1:0"]));
    let before = COUNT.load(Relaxed);
    let mut stream = node.connect();
    let burst: Vec<u8> = requests
        .iter()
        .cycle()
        .take(16)
        .flatten()
        .copied()
        .collect();
    let mut buffer = vec![0; 64 * 1024];
    let mut ask = |rounds: usize| {
        let before = COUNT.load(Relaxed);
        for _ in 0..rounds {
            stream.write_all(&burst).expect("sent");
            let (mut filled, mut answers) = (0, 0);
            while answers < 16 {
                filled += stream.read(&mut buffer[filled..]).expect("an answer");
                answers = complete(&buffer[..filled]);
            }
        }
        COUNT.load(Relaxed) - before
    };
    ask(50);
    assert!(
        COUNT.load(Relaxed) > before,
        "the threads of connections are counted: a new one allocates"
    );
    fewest(|| ask(500))
}

/// The fewest allocations of three rounds: one that each look-up made would be in all of them, and a thread of the
/// runtime may make one by itself now and then.
fn fewest(round: impl FnMut() -> u64) -> u64 {
    std::iter::repeat_with(round)
        .take(3)
        .min()
        .expect("three rounds")
}

/// How many complete messages `octets` begin with.
fn complete(mut octets: &[u8]) -> usize {
    let mut count = 0;
    while let Some(length) = octets.get(16..20) {
        let length = 20 + u32::from_be_bytes(length.try_into().expect("four")) as usize;
        let Some(rest) = octets.get(length..) else {
            break;
        };
        octets = rest;
        count += 1;
    }
    count
}
