//! Goal: our own client changes records as the reference client does, whatever happens on the way. Method: the node with
//! the recorded fixture; a relay in between that loses answers, or goes on with another node.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use jiexi::client::{
    Administrator, Client, ClientError, Credentials, Key, Operation, Place, Protection, Question,
    Target, Transports,
};
use jiexi::registry::keys::NodeKey;
use jiexi::registry::plan::Request;
use jiexi_proto::code::ResponseCode;
use jiexi_proto::message::Body;
use jiexi_proto::value::{Reference, Value};

use crate::client::{ask_octets, read_one};
use crate::hazards::put;
use crate::node::{Node, keys, private_key};

/// All ways of protecting requests.
const PROTECTIONS: [Protection; 3] = [
    Protection::Proofs,
    Protection::Session,
    Protection::Encrypted,
];

fn credentials(index: u32) -> Credentials {
    let secret = keys()["secret_key_301"]
        .as_str()
        .expect("a secret")
        .as_bytes()
        .to_vec();
    Credentials {
        user: Reference {
            handle: Bytes::from_static(b"0.NA/88.118.8"),
            index,
        },
        key: match index {
            300 => {
                let key = NodeKey::new(&private_key("admin_rsa_priv.bin_hex"));
                Key::Rsa(Box::new(key.expect("a key")))
            }
            _ => Key::Secret(secret.into()),
        },
    }
}

fn administrator(address: SocketAddr, index: u32, protection: Protection) -> Administrator {
    let mut client = Client::new(Transports::Any, jiexi::clock::unix_seconds);
    client.tcp_answer = Duration::from_secs(20);
    let target = Target {
        place: Place {
            udp: None,
            ..Place::at(address)
        },
        key: None,
    };
    Administrator::new(client, target, Some(credentials(index)), protection)
}

fn value(index: u32, data: &'static str) -> Value {
    jiexi::identity::value(index, b"URL", Bytes::from_static(data.as_bytes()), 0)
}

fn create(handle: &str) -> Request {
    Request::Create {
        handle: Bytes::from(handle.to_owned()),
        values: vec![value(1, "https://example.cn/1")],
        overwrite: false,
        mint: false,
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(future)
}

/// What the node answers to a request.
fn code(administrator: &mut Administrator, request: &Request) -> ResponseCode {
    let answer = run(administrator.perform(&Operation::from(request)));
    answer.expect("an answer").code
}

#[test]
fn every_operation_by_every_key_under_every_protection() {
    let node = Node::start();
    for (index, protection) in [300, 301]
        .into_iter()
        .flat_map(|index| PROTECTIONS.map(|p| (index, p)))
    {
        let name = format!("88.118.8/own-{index}-{protection:?}");
        let handle = Bytes::from(name.clone());
        let mut administrator = administrator(node.address, index, protection);
        let mut said = |request: &Request| code(&mut administrator, request);
        assert_eq!(said(&create(&name)), ResponseCode::SUCCESS);
        assert_eq!(said(&create(&name)), ResponseCode::HANDLE_ALREADY_EXISTS);
        let add = Request::Add {
            handle: handle.clone(),
            values: vec![value(2, "https://example.cn/2")],
            overwrite: false,
        };
        assert_eq!(said(&add), ResponseCode::SUCCESS);
        assert_eq!(said(&add), ResponseCode::VALUE_ALREADY_EXISTS);
        let modify = Request::Modify {
            handle: handle.clone(),
            values: vec![value(2, "https://example.cn/3")],
        };
        assert_eq!(said(&modify), ResponseCode::SUCCESS);
        let remove = Request::Remove {
            handle: handle.clone(),
            indexes: vec![1],
        };
        assert_eq!(said(&remove), ResponseCode::SUCCESS);
        let question = Question {
            handle: handle.clone(),
            ..Question::default()
        };
        let read = run(administrator.perform(&Operation::resolution(&question, true)));
        let Body::Resolved(found) = read.expect("an answer").body else {
            panic!("{name}")
        };
        let [left] = &found.values[..] else {
            panic!("{name}: {found:?}")
        };
        assert_eq!(
            (left.index, &left.data[..]),
            (2, &b"https://example.cn/3"[..])
        );
        let mut said = |request: &Request| code(&mut administrator, request);
        assert_eq!(
            said(&Request::Delete {
                handle: handle.clone()
            }),
            ResponseCode::SUCCESS
        );
        assert_eq!(
            said(&Request::Delete { handle }),
            ResponseCode::HANDLE_NOT_FOUND
        );
        let prefix = Bytes::from(format!("0.NA/88.118.8.{index}"));
        assert_eq!(
            said(&Request::Home {
                prefix: prefix.clone(),
                record: None,
            }),
            ResponseCode::SUCCESS
        );
        let unhome = Request::Unhome {
            prefix,
            record: false,
        };
        assert_eq!(said(&unhome), ResponseCode::SUCCESS);
        let sessions = node.desk.registry().table.sessions();
        assert_eq!(
            sessions,
            usize::from(protection != Protection::Proofs),
            "one session for all"
        );
        run(administrator.close());
        assert_eq!(node.desk.registry().table.sessions(), 0, "and it is ended");
    }
}

/// Goal: a prefix and its record go together or not at all.
#[test]
fn a_prefix_whose_record_may_not_be_deleted_stays_homed() {
    let node = Node::start();
    let registry = node.desk.registry();
    let prefix = Bytes::from_static(b"0.NA/20.500");
    let home = Request::Home {
        prefix: prefix.clone(),
        record: None,
    };
    let mut first = administrator(node.address, 300, Protection::Proofs);
    assert_eq!(code(&mut first, &home), ResponseCode::SUCCESS);
    put(
        &node,
        "0.NA/20.500",
        &[jiexi::identity::admin_value(&prefix, 200, 0)],
    );
    let before = committed(&node);
    for protection in PROTECTIONS {
        // A server administrator may unhome it, but has no right on its record.
        let mut administrator = administrator(node.address, 300, protection);
        let removal = Request::Unhome {
            prefix: prefix.clone(),
            record: true,
        };
        let refused = code(&mut administrator, &removal);
        assert_eq!(refused, ResponseCode::INVALID_ADMIN, "{protection:?}");
        assert_eq!(committed(&node), before, "{protection:?}");
        assert_eq!(registry.records.is_homed(&prefix), Ok(true));
    }
}

/// A list of 130 handles comes in three messages.
#[test]
fn lists_go_on_over_continuous_answers() {
    let node = Node::start();
    let mut writer = administrator(node.address, 300, Protection::Session);
    let prefix = Bytes::from_static(b"0.NA/88.118.8.77");
    assert_eq!(
        code(
            &mut writer,
            &Request::Home {
                prefix: prefix.clone(),
                record: None,
            }
        ),
        ResponseCode::SUCCESS
    );
    let record = Request::Create {
        handle: prefix.clone(),
        values: vec![jiexi::identity::admin_value(b"0.NA/88.118.8", 200, 0)],
        overwrite: false,
        mint: false,
    };
    assert_eq!(code(&mut writer, &record), ResponseCode::SUCCESS);
    for number in 0..130 {
        let request = create(&format!("88.118.8.77/{number:03}"));
        assert_eq!(code(&mut writer, &request), ResponseCode::SUCCESS);
    }
    for protection in PROTECTIONS {
        let mut administrator = administrator(node.address, 301, protection);
        let (mut pages, mut names) = (Vec::new(), Vec::new());
        let listing = Operation::list(prefix.clone());
        let listed = administrator.list(&listing, |page| {
            pages.push(page.len());
            names.extend(page.iter().cloned());
            Ok::<(), ClientError>(())
        });
        assert_eq!(run(listed).expect("listed").code, ResponseCode::SUCCESS);
        assert_eq!(pages, [50, 50, 30], "{protection:?}");
        assert!(names.is_sorted() && names[129] == "88.118.8.77/129");
    }
}

#[test]
fn refusals_are_answers() {
    let node = Node::start();
    for protection in PROTECTIONS {
        let mut wrong = credentials(301);
        wrong.key = Key::Secret(b"another".to_vec().into());
        let target = Target {
            place: Place::at(node.address),
            key: None,
        };
        let client = Client::new(Transports::Any, jiexi::clock::unix_seconds);
        let mut stranger = Administrator::new(client, target, Some(wrong), protection);
        let refused = code(&mut stranger, &create("88.118.8/refused"));
        assert_eq!(
            refused,
            ResponseCode::AUTHENTICATION_FAILED,
            "{protection:?}"
        );
    }
    let client = Client::new(Transports::Any, jiexi::clock::unix_seconds);
    let target = Target {
        place: Place::at(node.address),
        key: None,
    };
    let mut nobody = Administrator::new(client, target, None, Protection::Proofs);
    let asked = run(nobody.perform(&Operation::from(&create("88.118.8/refused"))));
    assert!(matches!(asked, Err(ClientError::NeedsKey(_))), "{asked:?}");
}

/// Goal: no session with somebody who has not got the key of the site record.
#[test]
fn a_server_with_another_key_gets_no_session() {
    let node = Node::start();
    let other = NodeKey::new(&private_key("admin_rsa_priv.bin_hex")).expect("a key");
    let target = Target {
        place: Place::at(node.address),
        key: Some(other.public().clone()),
    };
    let client = Client::new(Transports::Any, jiexi::clock::unix_seconds);
    let credentials = Some(credentials(300));
    let mut administrator = Administrator::new(client, target, credentials, Protection::Session);
    let asked = run(administrator.perform(&Operation::from(&create("88.118.8/refused"))));
    assert!(matches!(asked, Err(ClientError::Unsigned(..))), "{asked:?}");
}

/// Passes requests on to a node, and may lose answers.
struct Relay {
    address: SocketAddr,
    node: Arc<Mutex<SocketAddr>>,
    /// One bit for each answer to come, the lowest first: whether it is lost.
    lose: Arc<AtomicU32>,
}

impl Relay {
    fn start(node: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let relay = Self {
            address: listener.local_addr().expect("an address"),
            node: Arc::new(Mutex::new(node)),
            lose: Arc::default(),
        };
        let (node, lose) = (Arc::clone(&relay.node), Arc::clone(&relay.lose));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let Ok(request) = read_one(&mut stream) else {
                    continue;
                };
                let node = *node.lock().expect("no panic");
                let answer = ask_octets(node, &request);
                let fates = lose.load(Ordering::SeqCst);
                lose.store(fates >> 1, Ordering::SeqCst);
                if fates & 1 == 0 {
                    deliver(&mut stream, &answer);
                }
            }
        });
        relay
    }
}

fn deliver(stream: &mut TcpStream, answer: &[u8]) {
    // A client that is gone takes no answer.
    let _ = stream.write_all(answer);
}

/// Goal: a change whose answer is lost is asked for again under the same request id, and made once.
#[test]
fn a_lost_answer_makes_no_second_change() {
    let node = Node::start();
    for protection in PROTECTIONS {
        let relay = Relay::start(node.address);
        let mut administrator = administrator(relay.address, 301, protection);
        let warm = create(&format!("88.118.8/warm-{protection:?}"));
        assert_eq!(code(&mut administrator, &warm), ResponseCode::SUCCESS);
        let before = committed(&node);
        // Outside of sessions the challenge comes first: it is lost, or what comes after it is, once and twice.
        let fates = match protection {
            Protection::Proofs => [0b1, 0b10, 0b110],
            _ => [0b1, 0b11, 0b111],
        };
        for lost in fates {
            relay.lose.store(lost, Ordering::SeqCst);
            let request = create(&format!("88.118.8/once-{protection:?}-{lost}"));
            assert_eq!(code(&mut administrator, &request), ResponseCode::SUCCESS);
            assert_eq!(relay.lose.load(Ordering::SeqCst), 0, "answers were lost");
        }
        assert_eq!(committed(&node), before + 3, "{protection:?}");
    }
}

/// How many changes the node has made.
fn committed(node: &Node) -> u64 {
    node.store.stats().sequence
}

/// Goal: a session that the node has lost is set up anew, once, without anybody noticing.
#[test]
fn a_lost_session_is_set_up_anew() {
    let (first, second) = (Node::start(), Node::start());
    for protection in [Protection::Session, Protection::Encrypted] {
        let relay = Relay::start(first.address);
        let mut administrator = administrator(relay.address, 300, protection);
        let one = create(&format!("88.118.8/one-{protection:?}"));
        assert_eq!(code(&mut administrator, &one), ResponseCode::SUCCESS);
        // The same key and records, but none of its sessions: a node after its start.
        *relay.node.lock().expect("no panic") = second.address;
        let two = create(&format!("88.118.8/two-{protection:?}"));
        assert_eq!(code(&mut administrator, &two), ResponseCode::SUCCESS);
        let sessions = |node: &Node| node.desk.registry().table.sessions();
        assert_eq!(sessions(&second), 1);
        run(administrator.close());
        assert_eq!(sessions(&second), 0);
    }
}
