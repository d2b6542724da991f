//! Goal: what is told when a home is dead, slow, frozen or forged: the last known answer, marked, then a refusal, and soon.

use std::process::Command;
use std::time::{Duration, Instant};

use jiexi_proto::code::OpFlags;

use crate::client::octets;
use crate::node::{
    Impostor, Node, PATIENCE, ask, ask_udp, code, found, free, question, record, socket, text,
    values,
};

/// One that lives a second, and one that lives an hour.
fn records() -> Vec<String> {
    vec![
        record("10.7/short", &[(1, "URL", "short", 1, true)]),
        record("10.7/long", &[(1, "URL", "long", 3_600, true)]),
        record("10.7/other", &[(1, "URL", "other", 1, true)]),
    ]
}

/// Longer than a second: what lives that long lives no longer.
const OLD: Duration = Duration::from_millis(1_100);

/// Asks until it is found, as it is by and by.
fn until_found(node: &Node, handle: &str) {
    let start = Instant::now();
    while code(&ask_udp(node.address, &question(handle, 7))) != 1 {
        assert!(start.elapsed() < PATIENCE, "it is found again");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn is_stale(message: &jiexi_proto::Message) -> bool {
    message.header.flags.contains(OpFlags::STALE)
}

/// What `resolve --trace` says on both streams.
fn trace(node: &Node, handle: &str, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_jiexi"))
        .args(["resolve", handle, "--trace", "--server"])
        .arg(format!("127.0.0.1:{}", node.address.port()))
        .args(arguments)
        .output()
        .expect("runs");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn a_dead_home_leaves_its_last_answers() {
    let mut home = Node::home("10.7", &records());
    let node = Node::recursive(&[home.address])
        .with("recursion_stale", "1h")
        .with("recursion_retry", "500ms")
        .start();
    for handle in ["10.7/short", "10.7/long"] {
        let answer = ask_udp(node.address, &question(handle, 1));
        assert_eq!((code(&answer), is_stale(&answer)), (1, false));
    }
    home.kill();
    std::thread::sleep(OLD);
    for _ in 0..20 {
        let answer = ask_udp(node.address, &question("10.7/short", 2));
        assert_eq!((code(&answer), is_stale(&answer)), (1, true), "{answer:?}");
        assert_eq!(values(&answer)[0].data, &b"short"[..]);
    }
    let fresh = ask_udp(node.address, &question("10.7/long", 3));
    assert!(!is_stale(&fresh), "this one lives");
    // Who is told something old does not tell it as new.
    let behind = Node::recursive(&[node.address])
        .with("recursion_deadline", "60s")
        .start();
    for id in 10..12 {
        let answer = ask_udp(behind.address, &question("10.7/short", id));
        assert_eq!((code(&answer), is_stale(&answer)), (1, true), "{answer:?}");
    }
    let told = trace(&node, "10.7/short", &[]);
    assert!(told.contains("stale"), "{told}");
    let told = trace(&node, "10.7/short", &["-o", "json"]);
    assert!(told.contains("\"stale\": true"), "{told}");
    assert!(node.forwarded("stale") >= 1.0);
    // Whoever insists on its home is not told what is remembered.
    let mut asked = question("10.7/long", 4);
    asked.header.flags = asked.header.flags.with(OpFlags::AUTH);
    assert_eq!(code(&ask(node.address, &asked)), 2);
    let answer = ask_udp(node.address, &question("10.7/new", 5));
    assert_eq!(code(&answer), 2);
    assert!(
        text(&answer).contains("does not answer"),
        "{}",
        text(&answer)
    );
    assert!(node.forwarded("failed") >= 2.0);
    home.begin();
    until_found(&node, "10.7/short");
}

#[test]
fn what_is_too_old_is_told_no_more() {
    let mut home = Node::home("10.7", &records());
    let node = Node::recursive(&[home.address])
        .with("recursion_stale", "1s")
        .with("recursion_retry", "500ms")
        .start();
    assert_eq!(code(&ask_udp(node.address, &question("10.7/short", 1))), 1);
    home.kill();
    std::thread::sleep(2 * OLD);
    assert_eq!(code(&ask_udp(node.address, &question("10.7/short", 2))), 2);
    home.begin();
    until_found(&node, "10.7/short");
}

/// The id of a message by which a test knows that what was sent before it is there.
const MARK: u32 = 0x6D61_726B;

/// Goal: nobody waits for the dead. Method: a socket that never says anything counts who asks it: once it is known to be
/// silent, and for as long as nobody looks at it again, that is nobody.
#[test]
fn a_silent_home_is_left_alone() {
    let (seen, marks) = std::sync::mpsc::channel();
    let silent = Impostor::new(move |asked| {
        if asked.envelope.request_id == MARK {
            seen.send(()).expect("the test hears");
        }
        Vec::new()
    });
    let node = Node::recursive(&[silent.address])
        .with("recursion_deadline", "2s")
        .with("recursion_retry", "1h")
        .start();
    let refused = |number: u32| {
        let answer = ask_udp(
            node.address,
            &question(&format!("10.7/new{number}"), number),
        );
        assert_eq!(code(&answer), 2);
        assert!(
            text(&answer).contains("does not answer"),
            "{}",
            text(&answer)
        );
        // What was sent before the mark has been counted when the mark is there.
        let mark = octets(&question("mark", MARK));
        socket(silent.address, PATIENCE).send(&mark).expect("sent");
        marks.recv_timeout(PATIENCE).expect("it is there");
        silent.asked() - number as usize
    };
    let (start, mut number) = (Instant::now(), 1);
    let mut asked = refused(number);
    assert!(asked > 0, "the first one had to find out");
    loop {
        number += 1;
        let now = refused(number);
        if now == asked {
            break;
        }
        asked = now;
        assert!(start.elapsed() < PATIENCE, "it is left alone at last");
    }
    for _ in 0..20 {
        number += 1;
        assert_eq!(refused(number), asked, "nobody asks it");
    }
}

/// Goal: who asks for what is remembered does not wait as long as a home may take. Method: it may take longer than the
/// test waits.
#[test]
fn a_frozen_home_holds_up_nobody_who_can_be_told_something_old() {
    let home = Node::home("10.7", &records());
    let node = Node::recursive(&[home.address])
        .with("recursion_deadline", "60s")
        .start();
    assert_eq!(code(&ask_udp(node.address, &question("10.7/short", 1))), 1);
    std::thread::sleep(OLD);
    home.freeze();
    let answer = ask_udp(node.address, &question("10.7/short", 2));
    assert_eq!((code(&answer), is_stale(&answer)), (1, true));
    home.thaw();
    until_found(&node, "10.7/other");
}

#[test]
fn a_frozen_home_is_waited_for_until_the_deadline() {
    let home = Node::home("10.7", &records());
    let node = Node::recursive(&[home.address])
        .with("recursion_deadline", "2s")
        .with("recursion_retry", "1s")
        .start();
    assert_eq!(code(&ask_udp(node.address, &question("10.7/short", 1))), 1);
    home.freeze();
    for handle in ["10.7/other", "10.7/more"] {
        assert_eq!(code(&ask(node.address, &question(handle, 3))), 2);
    }
    home.thaw();
    until_found(&node, "10.7/other");
}

/// One slow handle of an upstream that lives does not make the upstream count as dead.
#[test]
fn a_server_that_waits_for_another_one_is_not_given_up() {
    let upstream = Impostor::new(|asked| match &asked.body {
        jiexi_proto::message::Body::Resolution(resolution)
            if resolution.handle.ends_with(b"slow") =>
        {
            Vec::new()
        }
        jiexi_proto::message::Body::Resolution(_) => vec![octets(&found(asked, "quick"))],
        // It is asked whether it lives.
        _ => {
            let mut refusal = found(&question("x", asked.envelope.request_id), "");
            refusal.header.op_code = asked.header.op_code;
            refusal.header.response_code.0 = 5;
            refusal.body = jiexi_proto::message::Body::Empty;
            vec![octets(&refusal)]
        }
    });
    let node = Node::recursive(&[upstream.address])
        .with("recursion_deadline", "4s")
        .start();
    for number in 0..2 {
        assert_eq!(
            code(&ask(
                node.address,
                &question(&format!("10.7/{number}/slow"), 1)
            )),
            2
        );
        let answer = ask(node.address, &question(&format!("10.7/{number}/quick"), 2));
        assert_eq!(code(&answer), 1, "{answer:?}");
    }
}

#[test]
fn forged_and_broken_answers_are_not_believed() {
    let upstream = Impostor::new(|asked| {
        let url = |url| found(asked, url);
        let mut other_id = url("forged");
        other_id.envelope.request_id ^= 1;
        let mut request = url("forged");
        request.header.response_code.0 = 0;
        let right = octets(&url("right"));
        vec![
            b"noise".to_vec(),
            octets(&other_id),
            right[..right.len() / 2].to_vec(),
            right,
        ]
    });
    let node = Node::recursive(&[upstream.address]).start();
    let answer = ask(node.address, &question("10.7/x", 1));
    // A piece of the right answer may take its place; then it is no answer, never a wrong one.
    match code(&answer) {
        1 => assert_eq!(values(&answer)[0].data, &b"right"[..]),
        other => assert_eq!(other, 2, "{answer:?}"),
    }
    let forger = Impostor::new(|asked| {
        let mut other = asked.clone();
        if let jiexi_proto::message::Body::Resolution(resolution) = &mut other.body {
            resolution.handle = bytes::Bytes::from_static(b"10.7/other");
        }
        vec![octets(&found(&other, "of another handle"))]
    });
    let node = Node::recursive(&[forger.address]).start();
    let answer = ask(node.address, &question("10.7/x", 1));
    assert_eq!(code(&answer), 2);
    assert!(
        text(&answer).contains("no usable answer"),
        "{}",
        text(&answer)
    );
}

#[test]
fn the_next_upstream_is_asked_when_the_first_is_dead() {
    let home = Node::home("10.7", &records());
    let node = Node::recursive(&[free(), home.address]).start();
    for handle in ["10.7/short", "10.7/long"] {
        assert_eq!(code(&ask_udp(node.address, &question(handle, 1))), 1);
    }
}
