//! Handles at home elsewhere: answers a second, cached and not, and how long they take with their home dead; logins a second.
//!
//! ```text
//! cargo bench --bench recursion            4 s each
//! SECONDS_EACH=1 cargo bench --bench recursion
//! ```
//!
//! Home and node are the real program on this machine, over loopback. The floor beside each figure is the home itself, asked
//! the same in the same way. Clients keep a window of questions under way; processor time is that of the node's process.

#![expect(
    clippy::expect_used,
    reason = "a benchmark that cannot go on ends with the reason"
)]

#[path = "../../tests/handle/client.rs"]
#[expect(dead_code, reason = "no sessions and no encryption here")]
mod client;
#[path = "../../tests/recursion/login.rs"]
mod login;
#[path = "../../tests/recursion/node.rs"]
#[expect(dead_code, reason = "what only tests need")]
mod node;
#[path = "../../tests/support/ports.rs"]
mod ports;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::client::{Key, octets};
use crate::login::{Line, private_key, recorded, user};
use crate::node::{Node, PATIENCE, question, record, socket};

/// Handles of each kind.
const HANDLES: u32 = 4_000;
/// Client sockets.
const CLIENTS: u32 = 4;
/// Questions that each has under way.
const WINDOW: u32 = 16;

fn seconds() -> Duration {
    let given = std::env::var("SECONDS_EACH").ok();
    let given = given.and_then(|text| text.parse().ok());
    Duration::from_secs_f64(given.unwrap_or(4.0))
}

/// CPU seconds that a process has used.
fn cpu(id: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).expect("a process");
    let fields: Vec<&str> = stat
        .rsplit(") ")
        .next()
        .unwrap_or_default()
        .split(' ')
        .collect();
    let ticks = |place: usize| fields[place].parse::<f64>().expect("a number");
    (ticks(11) + ticks(12)) / 100.0
}

/// What one client saw: answers by code, and how long they took in µs.
struct Seen {
    codes: [u64; 256],
    took: Histogram<u64>,
}

/// Asks for `name(number)` over and over.
fn ask(node: SocketAddr, window: u32, first: u32, name: impl Fn(u32) -> String) -> Seen {
    let socket = socket(node, PATIENCE);
    let mut sent = vec![Instant::now(); 1 << 16];
    let mut seen = Seen {
        codes: [0; 256],
        took: Histogram::new(3).expect("a histogram"),
    };
    let (start, mut next) = (Instant::now(), first);
    let mut send = |sent: &mut Vec<Instant>| {
        sent[next as usize & 0xFFFF] = Instant::now();
        socket
            .send(&octets(&question(&name(next), next)))
            .expect("sent");
        next += 1;
    };
    (0..window).for_each(|_| send(&mut sent));
    let (mut under_way, mut buffer) = (window, [0; 2048]);
    while under_way > 0 {
        socket.recv(&mut buffer).expect("an answer");
        let id = u32::from_be_bytes(buffer[8..12].try_into().expect("four"));
        let took = sent[id as usize & 0xFFFF].elapsed().as_micros();
        seen.took
            .record(u64::try_from(took).expect("short").max(1))
            .expect("recorded");
        seen.codes[usize::from(buffer[27])] += 1;
        match start.elapsed() < seconds() {
            true => send(&mut sent),
            false => under_way -= 1,
        }
    }
    seen
}

/// All clients at once; prints what they saw.
fn measure(
    what: &str,
    node: SocketAddr,
    id: u32,
    window: u32,
    name: impl Fn(u32) -> String + Sync,
) -> f64 {
    let (before, start) = (cpu(id), Instant::now());
    let name = &name;
    let seen: Vec<Seen> = std::thread::scope(|scope| {
        let client = |number: u32| scope.spawn(move || ask(node, window, number << 20, name));
        let clients: Vec<_> = (0..CLIENTS).map(client).collect();
        clients
            .into_iter()
            .map(|client| client.join().expect("no error"))
            .collect()
    });
    let passed = start.elapsed().as_secs_f64();
    let mut all: Histogram<u64> = Histogram::new(3).expect("a histogram");
    let mut codes = [0_u64; 256];
    for one in &seen {
        all.add(&one.took).expect("added");
        codes
            .iter_mut()
            .zip(one.codes)
            .for_each(|(sum, more)| *sum += more);
    }
    let rate = all.len() as f64 / passed;
    let codes: Vec<String> = (0..256)
        .filter(|code| codes[*code] > 0)
        .map(|code| format!("{code}: {}", codes[code]))
        .collect();
    println!(
        "{what:<34} {rate:>9.0}/s  p50 {:>6} p99 {:>6} p99.9 {:>6} us  {:>6.1} us CPU each  codes {}",
        all.value_at_quantile(0.5),
        all.value_at_quantile(0.99),
        all.value_at_quantile(0.999),
        (cpu(id) - before) / all.len() as f64 * 1e6,
        codes.join(", "),
    );
    rate
}

/// Logins a second, a connection for each.
fn logins(what: &str, node: &Node, clients: u32, handle: &str) {
    let (before, start) = (cpu(node.id()), Instant::now());
    let count: u64 = std::thread::scope(|scope| {
        let work = || {
            let key: Key = private_key("admin_rsa_priv.bin_hex");
            let (user, mut count) = (user(handle, 300), 0);
            while start.elapsed() < seconds() {
                let answer = Line::new(node.address).log_in(&user, &key);
                assert_eq!(answer.header.response_code.0, 1, "{answer:?}");
                count += 1;
            }
            count
        };
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(work)).collect();
        clients
            .into_iter()
            .map(|client| client.join().expect("no error"))
            .sum()
    });
    let rate = count as f64 / start.elapsed().as_secs_f64();
    let each = (cpu(node.id()) - before) / count as f64 * 1e6;
    println!("{what:<34} {rate:>9.0}/s  {clients} clients  {each:>6.0} us CPU each");
}

/// A user with the recorded RSA key.
fn with_key(handle: &str) -> String {
    serde_json::json!({"handle": handle, "values": [{"index": 300, "type": "HS_PUBKEY", "ttl": 3_600,
        "data": {"format": "hex", "value": hex::encode(recorded("admin_rsa_pub.bin_hex"))}}]})
    .to_string()
}

fn main() {
    let mut records: Vec<String> = vec![with_key("10.7/user")];
    for number in 0..HANDLES {
        for (kind, ttl) in [("lives", 3_600), ("never", 0), ("short", 1)] {
            let url = format!("https://example.cn/devices/{number}");
            let values = [
                (1, "URL", &url[..], ttl, true),
                (2, "EMAIL", "nobody@example.cn", ttl, true),
            ];
            records.push(record(&format!("10.7/{kind}{number}"), &values));
        }
    }
    let mut home = Node::home("10.7", &records);
    let node = Node::new(&[with_key("88.118/user")])
        .recursing(&[home.address])
        .with("recursion_authentication", "true")
        .start();
    let one_of = |kind: &'static str| move |number: u32| format!("10.7/{kind}{}", number % HANDLES);
    for _ in 0..2 {
        let (there, here) = (home.address, node.address);
        let floor = measure("the home itself", there, home.id(), WINDOW, one_of("lives"));
        measure(
            "remembered, first round",
            here,
            node.id(),
            WINDOW,
            one_of("lives"),
        );
        let rate = measure("remembered", here, node.id(), WINDOW, one_of("lives"));
        println!("{:<34} {:>9.2} x the home", "", rate / floor);
        let rate = measure("asked each time", here, node.id(), WINDOW, one_of("never"));
        println!("{:<34} {:>9.2} x the home", "", rate / floor);
    }
    for clients in [1, 4] {
        logins("login of a user here", &node, clients, "88.118/user");
        logins("login of a user elsewhere", &node, clients, "10.7/user");
    }
    measure(
        "to be told when its home is dead",
        node.address,
        node.id(),
        WINDOW,
        one_of("short"),
    );
    home.kill();
    std::thread::sleep(Duration::from_millis(1_200));
    measure(
        "stale, home dead, first seconds",
        node.address,
        node.id(),
        1,
        one_of("short"),
    );
    measure(
        "stale, home dead",
        node.address,
        node.id(),
        1,
        one_of("short"),
    );
    measure(
        "refused, home dead, never equal",
        node.address,
        node.id(),
        1,
        |number| format!("10.7/x{number}"),
    );
}
