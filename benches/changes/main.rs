//! Creates over the wire beside bare append and fdatasync: how many a second, how much CPU each.
//!
//! ```text
//! cargo bench --bench changes            4 s each
//! SECONDS_EACH=1 cargo bench --bench changes
//! ```
//!
//! The node is the real program, on the disk of BENCH_DIR (or the directory for temporary files).
//! Clients keep one connection each. CPU is that of the node's process, user and system.

#![expect(
    clippy::expect_used,
    reason = "a benchmark that cannot go on ends with the reason"
)]

#[path = "../../tests/handle/client.rs"]
#[expect(dead_code, reason = "no DSA and no encryption here")]
mod client;
#[path = "../../tests/changes/node.rs"]
#[expect(dead_code, reason = "what only tests need")]
mod node;
#[path = "../../tests/support/ports.rs"]
mod ports;

use std::io::Write as _;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::client::{answer, octets};
use crate::node::{Node, ask_on, create};

/// Octets of one bare append: a block of the disk. Smaller ones rewrite a block, which is another
/// thing and on some disks ten times slower.
const APPEND: usize = 4096;

/// Octets of the file that is appended to, over and over.
const FILE: usize = 8 << 20;

fn seconds() -> Duration {
    let given = std::env::var("SECONDS_EACH")
        .ok()
        .and_then(|text| text.parse().ok());
    Duration::from_secs(given.unwrap_or(4))
}

/// Appends and syncs a second.
fn bare(directory: &Path) -> f64 {
    let mut file = std::fs::File::create(directory.join("bare")).expect("a file");
    // As the journal: the space is there before it is written to.
    file.write_all(&vec![0; FILE]).expect("written");
    file.sync_all().expect("synced");
    // What lies below the file system may still be busy with it.
    std::thread::sleep(Duration::from_secs(1));
    use std::io::Seek as _;
    file.rewind().expect("rewound");
    let (start, mut count) = (Instant::now(), 0_u64);
    while start.elapsed() < seconds() {
        file.write_all(&[1; APPEND]).expect("written");
        file.sync_data().expect("synced");
        count += 1;
        if count % (FILE / APPEND) as u64 == 0 {
            file.rewind().expect("rewound");
        }
    }
    count as f64 / start.elapsed().as_secs_f64()
}

/// CPU seconds that a process has used.
fn cpu(id: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).expect("a process");
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |place: usize| {
        fields
            .get(place)
            .and_then(|text| text.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    (ticks(11) + ticks(12)) / 100.0
}

/// Runs `clients` threads of `work` for a while: creates a second beside the mean of bare appends before and after, because
/// a disk that others use as well is another one a few seconds later; and CPU of the node for each.
fn measure<W>(name: &str, node: &Node, clients: u8, directory: &Path, work: impl Fn(u8) -> W)
where
    W: FnMut(u32) + Send + 'static,
{
    let bare_before = bare(directory);
    let (stop, count) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let works: Vec<W> = (0..clients).map(work).collect();
    let (before, start) = (cpu(node.id()), Instant::now());
    let threads: Vec<_> = works
        .into_iter()
        .map(|mut work| {
            let (stop, count) = (Arc::clone(&stop), Arc::clone(&count));
            std::thread::spawn(move || {
                for number in 0.. {
                    if stop.load(Relaxed) {
                        return;
                    }
                    work(number);
                    count.fetch_add(1, Relaxed);
                }
            })
        })
        .collect();
    std::thread::sleep(seconds());
    stop.store(true, Relaxed);
    threads
        .into_iter()
        .for_each(|thread| thread.join().expect("no error"));
    let (count, passed) = (count.load(Relaxed) as f64, start.elapsed().as_secs_f64());
    let rate = count / passed;
    let each = (cpu(node.id()) - before) / count * 1e6;
    let bare_after = bare(directory);
    println!(
        "{name:<28} {clients:>3} clients {rate:>9.0}/s  {:>5.2} x bare ({bare_before:.0}/s, then {bare_after:.0}/s)  \
         {each:>7.0} us CPU each",
        rate / f64::midpoint(bare_before, bare_after)
    );
}

fn main() {
    let base = std::env::var("BENCH_DIR").map_or_else(|_| std::env::temp_dir(), Into::into);
    let directory = tempfile::Builder::new()
        .prefix("jx")
        .tempdir_in(base)
        .expect("a directory");
    let mut node = Node::init(directory.path());
    node.start();
    for run in 1..=2_u32 {
        println!("run {run}");
        for clients in [1, 4, 64_u8] {
            let address = node.address;
            measure(
                "create in a session",
                &node,
                clients,
                directory.path(),
                |client| {
                    let mut session = node.session(client + 2);
                    let mut stream = TcpStream::connect(address).expect("connected");
                    move |number| {
                        let handle = format!("88.118/s-{run}-{clients}-{client}-{number}");
                        let asked = session.sign(create(&handle, number + 10));
                        let answer = ask_on(&mut stream, &octets(&asked)).expect("an answer");
                        assert_eq!(answer[24..28], [0, 0, 0, 1], "created");
                    }
                },
            );
        }
        for clients in [1, 4_u8] {
            let address = node.address;
            measure(
                "create with an RSA challenge",
                &node,
                clients,
                directory.path(),
                |client| {
                    let (user, key) = node.admin();
                    let mut stream = TcpStream::connect(address).expect("connected");
                    move |number| {
                        let handle = format!("88.118/r-{run}-{clients}-{client}-{number}");
                        let asked = create(&handle, number * 2 + 10);
                        let challenge = ask_on(&mut stream, &octets(&asked)).expect("an answer");
                        let challenge =
                            jiexi_proto::Message::decode(&challenge.into()).expect("a message");
                        let proof = answer(&asked, &challenge, &user, &key, number * 2 + 11);
                        let answer = ask_on(&mut stream, &octets(&proof)).expect("an answer");
                        assert_eq!(answer[24..28], [0, 0, 0, 1], "created");
                    }
                },
            );
        }
    }
}
