//! Goal: who is asked, and what the answer looks like to who asked.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiexi_proto::code::{HashId, OpFlags, Version};
use jiexi_proto::message::Body;
use jiexi_proto::{Message, OpCode};
use sha2::{Digest as _, Sha256};

use crate::client::{octets, read_one};
use crate::node::{
    Impostor, Node, PATIENCE, ask, ask_udp, code, found, question, question_for, record, text,
    values,
};

fn pump() -> Vec<String> {
    let values = [
        (1, "URL", "https://example.cn/1", 3_600, true),
        (2, "URL.MIRROR", "https://example.cn/2", 3_600, true),
        (3, "NOTE", "for administrators", 3_600, false),
    ];
    vec![record("10.7/Pump", &values)]
}

/// The octets of an answer from its body on.
fn body(message: &Message) -> Vec<u8> {
    octets(message)[44..].to_vec()
}

#[test]
fn an_answer_of_another_node_is_the_answer() {
    let home = Node::home("10.7", &pump());
    let node = Node::recursive(&[home.address]).start();
    for (round, manner) in [(0, "answered"), (1, "cached")] {
        let asked = question("10.7/pUMP", 70 + round);
        let (here, there) = (ask_udp(node.address, &asked), ask_udp(home.address, &asked));
        assert_eq!(
            body(&here),
            body(&there),
            "values and the name as it was asked"
        );
        assert_eq!(here.envelope, there.envelope);
        assert_eq!(values(&here).len(), 2, "what is restricted stays there");
        let flags = OpFlags::RESOLUTION;
        assert_eq!(there.header.flags, flags.with(OpFlags::AUTH));
        assert_eq!(here.header.flags, flags, "no authority, and nothing old");
        assert_eq!(node.forwarded(manner), 1.0);
    }
    let mut asked = question_for("10.7/PUMP", &["URL.", "NOTE"], 9);
    asked.header.flags = asked.header.flags.with(OpFlags::RRDG);
    asked.header.recursion_count = 3;
    for answer in [ask(node.address, &asked), ask_udp(node.address, &asked)] {
        assert_eq!((code(&answer), answer.header.recursion_count), (1, 3));
        assert_eq!(values(&answer).len(), 2);
        let digest = answer.digest.as_ref().expect("a digest of the question");
        let mut signed = Vec::new();
        asked.encode_signed(&mut signed);
        assert_eq!(
            (digest.hash, &digest.octets[..]),
            (HashId::SHA256, &Sha256::digest(&signed)[..])
        );
    }
    for (handle, types, expected) in [
        ("10.7/nothing", &[][..], 100),
        ("10.7/pump", &["EMAIL"][..], 200),
        ("10.7/pump", &["NOTE"][..], 200),
        ("10.8/elsewhere", &[][..], 301),
    ] {
        for _ in 0..2 {
            let answer = ask_udp(node.address, &question_for(handle, types, 1));
            assert_eq!(code(&answer), expected, "{handle} {types:?}");
        }
    }
    assert_eq!(node.metric("jiexi_forward_fetches_total"), 6.0, "each once");
}

/// Goal: only the home of a prefix knows whether the case of its suffixes matters, so that each spelling is a question of
/// its own; that of the prefix matters nowhere. Method: a home that gives each spelling a value of its own.
#[test]
fn suffixes_are_remembered_as_they_are_written() {
    let home = Impostor::new(|asked| match &asked.body {
        Body::Resolution(resolution) => {
            let spelling = String::from_utf8_lossy(&resolution.handle);
            vec![octets(&found(asked, &spelling))]
        }
        _ => Vec::new(),
    });
    let node = Node::recursive(&[home.address]).start();
    let told = |handle: &str| {
        let answer = ask(node.address, &question(handle, 1));
        String::from_utf8_lossy(&values(&answer)[0].data).into_owned()
    };
    for _ in 0..2 {
        for handle in ["10.A/pump", "10.A/Pump", "10.A/PUMP"] {
            assert_eq!(told(handle), handle);
        }
        assert_eq!(told("10.a/Pump"), "10.A/Pump", "remembered");
    }
    assert_eq!(node.metric("jiexi_forward_fetches_total"), 3.0, "each once");
}

#[test]
fn recursion_is_off_until_it_is_allowed_and_asked_for() {
    let home = Node::home("10.7", &pump());
    let closed = Node::recursive(&[home.address])
        .with("recursion_allow_recursion", "false")
        .start();
    assert_eq!(
        code(&ask_udp(closed.address, &question("10.7/pump", 1))),
        301
    );
    let open = Node::recursive(&[home.address]).start();
    let mut asked = question("10.7/pump", 2);
    asked.header.flags = asked.header.flags.without(OpFlags::RECU);
    assert_eq!(code(&ask(open.address, &asked)), 301);
    assert_eq!(open.metric("jiexi_forward_fetches_total"), 0.0);
}

#[test]
fn what_is_restricted_is_left_to_its_home() {
    let home = Node::home("10.7", &pump());
    let node = Node::recursive(&[home.address]).start();
    assert_eq!(
        values(&ask(node.address, &question("10.7/pump", 1))).len(),
        2
    );
    let mut asked = question("10.7/pump", 2);
    asked.header.flags = asked.header.flags.without(OpFlags::PUBL);
    for _ in 0..2 {
        let answer = ask(node.address, &asked);
        assert_eq!(code(&answer), 301);
        assert!(
            text(&answer).contains("home of the prefix"),
            "{}",
            text(&answer)
        );
    }
    let mut asked = question_for("10.7/pump", &["URL"], 3);
    asked.header.flags = asked.header.flags.without(OpFlags::PUBL);
    assert_eq!(
        values(&ask(node.address, &asked)).len(),
        1,
        "all of these are public"
    );
}

/// The Chinese client asks for the bare prefix, with its trailing string, and takes the first site.
#[test]
fn the_sdk_finds_a_prefix() {
    let home = Node::home("10.7", &pump());
    let node = Node::recursive(&[home.address]).start();
    let mut asked = question_for("10.7", &["HS_SITE"], 5);
    asked.envelope.version = Version::V2_10;
    let Body::Resolution(resolution) = &mut asked.body else {
        panic!("a resolution");
    };
    resolution.trailer = Some(Bytes::new());
    let mut stream = TcpStream::connect(node.address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    for _ in 0..2 {
        stream.write_all(&octets(&asked)).expect("written");
        let answer = Message::decode(&read_one(&mut stream).expect("an answer").into());
        let answer = answer.expect("a message");
        assert_eq!(body(&answer), body(&ask(home.address, &asked)));
        assert_eq!(values(&answer)[0].kind, &b"HS_SITE"[..]);
    }
    stream
        .set_read_timeout(Some(Duration::from_millis(50)))
        .expect("a time-out");
    assert!(
        stream.read(&mut [0; 1]).is_err(),
        "the connection stays open"
    );
}

/// home ← parent, which delegates the prefix; a node that asks the parent, and one that is the parent.
#[test]
fn delegated_prefixes_are_followed_over_three_nodes() {
    let home = Node::home(
        "88.118.9",
        &[record("88.118.9/x", &[(1, "URL", "u", 60, true)])],
    );
    let parent = Node::new(&[]).start();
    let site = home.address.to_string();
    parent.command(&[
        "prefix", "add", "88.118.9", "--site", &site, "--data", "node",
    ]);
    let node = Node::recursive(&[parent.address]).start();
    let asked = question("88.118.9/X", 1);
    assert_eq!(
        code(&ask_udp(parent.address, &asked)),
        301,
        "it does not recurse"
    );
    assert_eq!(
        body(&ask_udp(node.address, &asked)),
        body(&ask_udp(home.address, &asked))
    );
    drop(parent);
    let parent = Node::new(&[]).recursing(&[]).start();
    parent.command(&[
        "prefix", "add", "88.118.9", "--site", &site, "--data", "node",
    ]);
    assert_eq!(
        body(&ask_udp(parent.address, &asked)),
        body(&ask_udp(home.address, &asked))
    );
    let unknown = ask_udp(parent.address, &question("10.7/x", 2));
    assert_eq!(code(&unknown), 301, "{}", text(&unknown));
}

#[test]
fn questions_do_not_go_round_in_circles() {
    let (one, two) = (Node::recursive(&[]), Node::recursive(&[]));
    let (first, second) = (one.address, two.address);
    let slow = |node: Node, other| node.recursing(&[other]).with("recursion_deadline", "60s");
    let (one, two) = (slow(one, second).start(), slow(two, first).start());
    let began = Instant::now();
    for handle in ["10.7/x", "10.7/y"] {
        assert_eq!(code(&ask(first, &question(handle, 1))), 6);
    }
    assert!(
        began.elapsed() < Duration::from_secs(50),
        "not by the deadline"
    );
    assert!(one.forwarded("loop") >= 2.0 && two.forwarded("loop") >= 2.0);
    let mut asked = question("10.7/z", 2);
    asked.header.recursion_count = 10;
    let before = one.metric("jiexi_forward_fetches_total");
    let answer = ask_udp(first, &asked);
    assert_eq!((code(&answer), answer.header.recursion_count), (6, 10));
    assert_eq!(one.metric("jiexi_forward_fetches_total"), before);
}

#[test]
fn answers_leave_from_the_address_that_was_asked() {
    let home = Node::home("10.7", &pump());
    let node = Node::recursive(&[home.address]).start();
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    for (id, host) in [(1, [127, 0, 0, 2]), (2, [127, 0, 0, 3])] {
        let to = SocketAddr::from((host, node.address.port()));
        socket
            .send_to(&octets(&question("10.7/pump", id)), to)
            .expect("sent");
        let mut buffer = [0; 2048];
        let (length, from) = socket.recv_from(&mut buffer).expect("an answer");
        assert_eq!(from, to);
        let answer =
            Message::decode(&Bytes::copy_from_slice(&buffer[..length])).expect("a message");
        assert_eq!(
            (answer.header.op_code, code(&answer)),
            (OpCode::RESOLUTION, 1)
        );
    }
}

/// A client that cannot follow a referral is spared it.
#[test]
fn old_clients_are_not_referred() {
    let home = Node::home("88.118.9.1", &[]);
    let parent = Node::new(&[]).recursing(&[]).start();
    let site = home.address.to_string();
    parent.command(&[
        "prefix", "add", "88.118.9", "--site", &site, "--data", "node",
    ]);
    let mut asked = question("0.NA/88.118.9.1", 1);
    assert_eq!(code(&ask(parent.address, &asked)), 303);
    asked.envelope.version = Version { major: 2, minor: 9 };
    asked.envelope.suggested = Version { major: 2, minor: 9 };
    let answer = ask(parent.address, &asked);
    assert_eq!(code(&answer), 1, "{answer:?}");
    assert_eq!(values(&answer)[0].kind, &b"HS_SITE"[..]);
}
