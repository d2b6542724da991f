//! Creates over the wire beside bare append and fdatasync: how many a second, how much CPU each.
//!
//! ```text
//! cargo bench --bench changes            4 s each
//! SECONDS_EACH=1 cargo bench --bench changes
//! ```
//!
//! The node is the real program, on the disk of BENCH_DIR (or the directory for temporary files).
//! Clients keep one connection each. CPU is that of the node's process, user and system. What a network costs a client
//! that waits for each answer is in the first row: a thread that reads as many octets, appends and syncs, and answers.

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

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::net::{TcpListener, TcpStream};
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

/// Octets of a create in a session, and of its answer.
const ASKED: usize = 260;
const ANSWERED: usize = 71;

fn seconds() -> Duration {
    let given = std::env::var("SECONDS_EACH")
        .ok()
        .and_then(|text| text.parse().ok());
    Duration::from_secs(given.unwrap_or(4))
}

/// A file to append to, as the journal: the space is there before it is written to.
fn file(directory: &Path, name: &str) -> File {
    let mut file = File::create(directory.join(name)).expect("a file");
    file.write_all(&vec![0; FILE]).expect("written");
    file.sync_all().expect("synced");
    // What lies below the file system may still be busy with it.
    std::thread::sleep(Duration::from_secs(1));
    file.rewind().expect("rewound");
    file
}

/// Appends a block, in a circle.
fn append(file: &mut File) {
    file.write_all(&[1; APPEND]).expect("written");
    file.sync_data().expect("synced");
    if file.stream_position().expect("a position") >= FILE as u64 {
        file.rewind().expect("rewound");
    }
}

/// Appends and syncs a second.
fn bare(directory: &Path) -> f64 {
    let mut file = file(directory, "bare");
    let (start, mut count) = (Instant::now(), 0_u64);
    while start.elapsed() < seconds() {
        append(&mut file);
        count += 1;
    }
    count as f64 / start.elapsed().as_secs_f64()
}

/// Questions a second of one client whose server appends, syncs and answers: what there is to reach with one client.
fn over_the_network(directory: &Path) {
    let before = bare(directory);
    let mut file = file(directory, "network");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        stream.set_nodelay(true).expect("set");
        let mut asked = [0; ASKED];
        while stream.read_exact(&mut asked).is_ok() {
            append(&mut file);
            stream.write_all(&[1; ANSWERED]).expect("sent");
        }
    });
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_nodelay(true).expect("set");
    let (start, mut count) = (Instant::now(), 0_u64);
    while start.elapsed() < seconds() {
        stream.write_all(&[1; ASKED]).expect("sent");
        stream.read_exact(&mut [0; ANSWERED]).expect("an answer");
        count += 1;
    }
    let rate = count as f64 / start.elapsed().as_secs_f64();
    drop(stream);
    server.join().expect("no error");
    let after = bare(directory);
    println!(
        "{:<28} {:>3} clients {rate:>9.0}/s  {:>5.2} x bare ({before:.0}/s, then {after:.0}/s)",
        "read, append, sync, answer",
        1,
        rate / f64::midpoint(before, after)
    );
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
        over_the_network(directory.path());
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
