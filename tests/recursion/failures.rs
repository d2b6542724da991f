//! Goal: what is told when a home is dead, slow, frozen or forged: the last known answer, marked, then a refusal, and soon.

use std::process::Command;
use std::time::{Duration, Instant};

use jiexi_proto::code::OpFlags;

use crate::client::octets;
use crate::node::{
    Impostor, Node, PATIENCE, ask, ask_udp, code, found, free, question, record, text, values,
};

/// One that lives a second, and one that lives an hour.
fn records() -> Vec<String> {
    vec![
        record("10.7/short", &[(1, "URL", "short", 1, true)]),
        record("10.7/long", &[(1, "URL", "long", 3_600, true)]),
        record("10.7/other", &[(1, "URL", "other", 1, true)]),
    ]
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
fn a_dead_home_leaves_its_last_answers_for_a_while() {
    let mut home = Node::home("10.7", &records());
    let node = Node::recursive(&[home.address])
        .with("recursion_stale", "15s")
        .with("recursion_retry", "500ms")
        .start();
    for handle in ["10.7/short", "10.7/long"] {
        let answer = ask_udp(node.address, &question(handle, 1));
        assert_eq!((code(&answer), is_stale(&answer)), (1, false));
    }
    let learnt = Instant::now();
    home.kill();
    std::thread::sleep(Duration::from_millis(1_100));
    for _ in 0..20 {
        let answer = ask_udp(node.address, &question("10.7/SHORT", 2));
        if learnt.elapsed() < Duration::from_secs(15) {
            assert_eq!((code(&answer), is_stale(&answer)), (1, true), "{answer:?}");
            assert_eq!(values(&answer)[0].data, &b"short"[..]);
        }
    }
    let fresh = ask_udp(node.address, &question("10.7/long", 3));
    assert!(!is_stale(&fresh), "this one lives");
    // Who is told something old does not tell it as new.
    let behind = Node::recursive(&[node.address]).start();
    for id in 10..12 {
        let answer = ask_udp(behind.address, &question("10.7/short", id));
        if learnt.elapsed() < Duration::from_secs(14) {
            assert_eq!((code(&answer), is_stale(&answer)), (1, true), "{answer:?}");
        }
    }
    if learnt.elapsed() < Duration::from_secs(14) {
        let told = trace(&node, "10.7/short", &[]);
        assert!(told.contains("stale"), "{told}");
        let told = trace(&node, "10.7/short", &["-o", "json"]);
        assert!(told.contains("\"stale\": true"), "{told}");
    }
    assert!(node.forwarded("stale") >= 1.0);
    // Whoever insists on its home is not told what is remembered.
    let mut asked = question("10.7/long", 4);
    asked.header.flags = asked.header.flags.with(OpFlags::AUTH);
    assert_eq!(code(&ask(node.address, &asked)), 2);
    let began = Instant::now();
    for number in 0..20 {
        let answer = ask_udp(node.address, &question(&format!("10.7/new{number}"), 5));
        assert_eq!(code(&answer), 2);
        assert!(
            text(&answer).contains("does not answer"),
            "{}",
            text(&answer)
        );
    }
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "nobody waits for the dead"
    );
    std::thread::sleep(Duration::from_secs(17).saturating_sub(learnt.elapsed()));
    assert_eq!(
        code(&ask_udp(node.address, &question("10.7/short", 6))),
        2,
        "too old"
    );
    assert!(node.forwarded("failed") >= 22.0);
    home.begin();
    let start = Instant::now();
    while code(&ask_udp(node.address, &question("10.7/short", 7))) != 1 {
        assert!(start.elapsed() < PATIENCE, "it is found again");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_frozen_home_holds_nobody_up_for_long() {
    let home = Node::home("10.7", &records());
    let node = Node::recursive(&[home.address])
        .with("recursion_deadline", "8s")
        .with("recursion_retry", "1s")
        .start();
    assert_eq!(code(&ask_udp(node.address, &question("10.7/short", 1))), 1);
    std::thread::sleep(Duration::from_millis(1_100));
    home.freeze();
    let began = Instant::now();
    let answer = ask_udp(node.address, &question("10.7/short", 2));
    assert_eq!((code(&answer), is_stale(&answer)), (1, true));
    let took = began.elapsed();
    assert!(
        took < Duration::from_secs(6),
        "before the deadline: {took:?}"
    );
    let began = Instant::now();
    assert_eq!(code(&ask(node.address, &question("10.7/other", 3))), 2);
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
    // It was found out meanwhile that nobody is there.
    let start = Instant::now();
    loop {
        let began = Instant::now();
        let name = format!("10.7/n{}", start.elapsed().as_millis());
        assert_eq!(code(&ask(node.address, &question(&name, 4))), 2);
        if began.elapsed() < Duration::from_millis(500) {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "it is left alone at last");
    }
    home.thaw();
    let start = Instant::now();
    while code(&ask(node.address, &question("10.7/other", 5))) != 1 {
        assert!(start.elapsed() < PATIENCE, "it is found again");
        std::thread::sleep(Duration::from_millis(50));
    }
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
