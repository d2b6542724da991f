//! Goal: a create that was acknowledged to its client is there, whatever happens to the process.
//! Method: the real program is killed 30 times while clients create handles over the wire; after
//! each start everything acknowledged so far in that round, and at the end everything at all, is
//! looked up. The audit trail is whole as well, and tells of every handle there is: also of those whose client was not
//! answered any more. The seed is printed.

#![expect(
    clippy::expect_used,
    reason = "helpers of a test: a failed assumption is a failed test"
)]

#[path = "../handle/client.rs"]
#[expect(dead_code, reason = "no SM2, and no encryption here")]
mod client;
#[expect(dead_code, reason = "the benchmark beside asks for the process, too")]
mod node;
mod old;
#[path = "../support/ports.rs"]
mod ports;
mod secrets;

use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use jiexi_proto::OpCode;
use jiexi_proto::code::OpFlags;
use jiexi_proto::message::Body;
use jiexi_proto::message::resolution::Resolution;

use crate::client::{octets, request};
use crate::node::{Node, ask_on, create};

/// How often the node is killed.
const KILLS: u32 = 30;
/// Clients that create at the same time.
const CLIENTS: u8 = 4;

/// The code of an answer.
fn code(answer: &[u8]) -> u32 {
    u32::from_be_bytes(answer[24..28].try_into().expect("four"))
}

/// Looks each handle up; says which are missing.
fn missing(address: SocketAddr, handles: &[String]) -> Vec<String> {
    let mut stream = TcpStream::connect(address).expect("connected");
    let mut missing = Vec::new();
    for (id, handle) in (0..).zip(handles) {
        let body = Body::Resolution(Resolution {
            handle: Bytes::copy_from_slice(handle.as_bytes()),
            indexes: Vec::new(),
            types: Vec::new(),
            trailer: None,
        });
        let asked = request(OpCode::RESOLUTION, OpFlags::RESOLUTION, body, id);
        let answer = ask_on(&mut stream, &octets(&asked)).expect("an answer");
        if code(&answer) != 1 {
            missing.push(handle.clone());
        }
    }
    missing
}

#[test]
fn acknowledged_creates_survive_kills() {
    let seed = std::env::var("JIEXI_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| u64::from(jiexi::clock::unix_seconds()));
    println!("JIEXI_SEED={seed}");
    let directory = tempfile::Builder::new()
        .prefix("jx")
        .tempdir()
        .expect("a directory");
    let mut node = Node::init(directory.path());
    let (mut state, mut all) = (seed | 1, Vec::new());
    for round in 0..KILLS {
        node.start();
        let acknowledged: Arc<Mutex<Vec<String>>> = Arc::default();
        let sessions: Vec<_> = (0..CLIENTS)
            .map(|client| node.session(client + 2))
            .collect();
        let clients: Vec<_> = (0..)
            .zip(sessions)
            .map(|(client, mut session)| {
                let (address, acknowledged) = (node.address, Arc::clone(&acknowledged));
                std::thread::spawn(move || {
                    let Ok(mut stream) = TcpStream::connect(address) else {
                        return;
                    };
                    for number in 0_u32.. {
                        let handle = format!("88.118/kill-{round}-{client}-{number}");
                        let asked = session.sign(create(&handle, number + 10));
                        match ask_on(&mut stream, &octets(&asked)) {
                            Ok(answer) if code(&answer) == 1 => {
                                acknowledged.lock().expect("no panic").push(handle);
                            }
                            Ok(answer) => {
                                assert_eq!(code(&answer), 3, "an answer other than done and busy")
                            }
                            Err(_) => return,
                        }
                    }
                })
            })
            .collect();
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        std::thread::sleep(Duration::from_millis(20 + state % 200));
        node.kill();
        clients
            .into_iter()
            .for_each(|client| client.join().expect("a client"));
        let acknowledged = std::mem::take(&mut *acknowledged.lock().expect("no panic"));
        node.start();
        assert_eq!(
            missing(node.address, &acknowledged),
            Vec::<String>::new(),
            "round {round}"
        );
        node.kill();
        all.extend(acknowledged);
    }
    node.start();
    assert_eq!(
        missing(node.address, &all),
        Vec::<String>::new(),
        "at the end"
    );
    node.terminate();
    let report = node.audit_report();
    assert_eq!(report["good"], true, "{report}");
    let (handles, told) = (node.handles(), node.audited());
    let unknown: Vec<_> = handles
        .iter()
        .filter(|handle| !told.contains(*handle))
        .collect();
    assert!(
        unknown.is_empty(),
        "of {} handles the trail does not know {unknown:?}",
        handles.len()
    );
    println!(
        "{} entries were completed from the journal",
        report["recovered"]
    );
    let audited = report["entries"].as_u64().expect("a count");
    println!(
        "{KILLS} kills, {} acknowledged creates, all there; {} audit entries",
        all.len(),
        audited
    );
    assert!(all.len() > 100, "the clients did something");
    assert!(
        audited >= all.len() as u64,
        "every acknowledged create is audited"
    );
}
