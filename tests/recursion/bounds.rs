//! Goal: whatever is asked, the node connects nowhere it should not, holds no more than it may, and serves its own.

use std::io::Read as _;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use jiexi_proto::Message;
use jiexi_proto::code::OpFlags;
use jiexi_proto::value::site::SiteRecord;

use crate::client::octets;
use crate::node::{
    Impostor, Node, PATIENCE, ask, ask_udp, code, found, question, question_for, record, socket,
    text, values,
};

/// A prefix whose site record leads to a place that nobody but the node reaches.
#[test]
fn a_site_record_does_not_make_the_node_knock_at_private_doors() {
    let trap = TcpListener::bind("127.0.0.2:0").expect("a port");
    trap.set_nonblocking(true).expect("does not wait");
    let port = trap.local_addr().expect("an address").port();
    let parent = Node::new(&[]).start();
    let real = Node::home(
        "88.118.9",
        &[record("88.118.9/x", &[(1, "URL", "u", 60, true)])],
    );
    let site = real.address.to_string();
    parent.command(&[
        "prefix", "add", "88.118.9", "--site", &site, "--data", "node",
    ]);
    // The record of the prefix, moved to the trap.
    let site = ask(
        parent.address,
        &question_for("0.NA/88.118.9", &["HS_SITE"], 1),
    );
    let mut moved = SiteRecord::decode(&values(&site)[0].data).expect("a site");
    for server in &mut moved.servers {
        server.address[12..].copy_from_slice(&[127, 0, 0, 2]);
        for interface in &mut server.interfaces {
            interface.port = port.into();
        }
    }
    let mut wire = Vec::new();
    moved.encode(&mut wire);
    let data = hex::encode(wire);
    let line = serde_json::json!({"handle": "0.NA/88.118.8", "values": [{"index": 1, "type": "HS_SITE",
        "data": {"format": "hex", "value": data}}]});
    let trapped = Node::new(&[line.to_string()]).start();

    let node = Node::recursive(&[trapped.address])
        .with("recursion_outbound_allow", "127.0.0.1/32")
        .start();
    let answer = ask(node.address, &question("88.118.8/x", 1));
    assert_eq!(code(&answer), 2);
    assert!(
        text(&answer).contains("does not connect to"),
        "{}",
        text(&answer)
    );
    assert!(node.metric("jiexi_forward_forbidden_total") >= 1.0);
    assert!(trap.accept().is_err(), "nobody has knocked");

    let node = Node::recursive(&[trapped.address])
        .with("recursion_deadline", "1s")
        .start();
    assert_eq!(code(&ask(node.address, &question("88.118.8/x", 1))), 2);
    trap.set_nonblocking(false).expect("waits");
    let (mut knocked, _) = trap.accept().expect("with the list it is connected to");
    assert!(knocked.read(&mut [0; 20]).is_ok());

    let ports = Node::recursive(&[parent.address])
        .with(
            "recursion_outbound_ports",
            &parent.address.port().to_string(),
        )
        .start();
    let answer = ask(ports.address, &question("88.118.9/x", 1));
    assert!(text(&answer).contains("does not connect to"), "{answer:?}");
    let all = Node::recursive(&[parent.address]).start();
    assert_eq!(code(&ask(all.address, &question("88.118.9/x", 1))), 1);
}

#[test]
fn equal_questions_are_one_question() {
    const MANY: u32 = 100;
    let upstream = Impostor::new(|asked| {
        std::thread::sleep(Duration::from_millis(150));
        vec![octets(&found(asked, "once"))]
    });
    // So that no question is repeated.
    let node = Node::recursive(&[upstream.address])
        .with("recursion_deadline", "60s")
        .start();
    let sockets: Vec<_> = (0..MANY).map(|_| socket(node.address, PATIENCE)).collect();
    for (id, socket) in (0..MANY).zip(&sockets) {
        let handle = if id % 2 == 0 {
            "10.a/many"
        } else {
            "10.A/many"
        };
        socket.send(&octets(&question(handle, id))).expect("sent");
    }
    for (id, socket) in (0..MANY).zip(&sockets) {
        let mut buffer = [0; 2048];
        let length = socket.recv(&mut buffer).expect("an answer");
        assert_eq!(buffer[8..12], id.to_be_bytes(), "its own");
        assert_eq!(buffer[24..28], [0, 0, 0, 1]);
        let name: &[u8] = if id % 2 == 0 {
            b"10.a/many"
        } else {
            b"10.A/many"
        };
        assert!(
            buffer[..length]
                .windows(name.len())
                .any(|part| part == name),
            "as it asked"
        );
    }
    assert_eq!(upstream.asked(), 1);
    assert_eq!(node.metric("jiexi_forward_fetches_total"), 1.0);
    assert_eq!(
        node.forwarded("answered") + node.forwarded("cached"),
        f64::from(MANY)
    );
    assert_eq!(node.metric("jiexi_forward_waiting"), 0.0);
}

#[test]
fn memory_is_bounded() {
    let upstream = Impostor::new(|asked| {
        let long = "x".repeat(300);
        vec![octets(&found(asked, &long))]
    });
    let node = Node::recursive(&[upstream.address])
        .with("recursion_cache", "1MiB")
        .start();
    let socket = socket(node.address, PATIENCE);
    for id in 0..4_000_u32 {
        let name = format!("10.7/{id}-{}", "n".repeat(100));
        socket.send(&octets(&question(&name, id))).expect("sent");
        let mut buffer = [0; 2048];
        socket.recv(&mut buffer).expect("an answer");
        assert_eq!(buffer[24..28], [0, 0, 0, 1]);
    }
    let bytes = node.metric("jiexi_forward_cache_bytes");
    assert!((500_000.0..=1_048_576.0).contains(&bytes), "{bytes}");
    let entries = node.metric("jiexi_forward_cache_entries");
    assert!((500.0..2_000.0).contains(&entries), "{entries}");
}

/// Questions that hang are bounded, the next is told so at once, and what is at home here is answered as ever.
#[test]
fn what_hangs_elsewhere_does_not_stop_the_node() {
    let upstream = Impostor::new(|_| Vec::new());
    let node = Node::new(&[record("88.118/own", &[(1, "URL", "own", 60, true)])])
        .recursing(&[upstream.address])
        .with("recursion_deadline", "10s")
        .with("recursion_waiting", "8")
        .with("administration_queue", "16")
        .start();
    let began = Instant::now();
    let sockets: Vec<_> = (0..40_u32)
        .map(|id| {
            let socket = socket(node.address, PATIENCE);
            socket
                .send(&octets(&question(&format!("10.7/{id}"), id)))
                .expect("sent");
            socket
        })
        .collect();
    for _ in 0..50 {
        assert_eq!(code(&ask_udp(node.address, &question("88.118/own", 1))), 1);
    }
    let mut busy = 0;
    for socket in &sockets {
        let mut buffer = [0; 2048];
        socket.recv(&mut buffer).expect("an answer");
        match buffer[27] {
            3 => busy += 1,
            other => assert_eq!(other, 2),
        }
    }
    assert!(busy >= 40 - 8, "{busy}");
    assert!(began.elapsed() < PATIENCE);
}

/// A record that takes a dozen datagrams and more, whose values live so many seconds.
fn large(handle: &str, ttl: u32) -> String {
    let long = "y".repeat(1_000);
    let values: Vec<_> = (1..=12)
        .map(|index| (index, "URL", &long[..], ttl, true))
        .collect();
    record(handle, &values)
}

/// Goal: what is larger than was paid for it costs the network it goes to, whether it is remembered or has just come.
#[test]
fn strangers_cannot_make_the_node_flood_others() {
    let home = Node::home("10.7", &[large("10.7/kept", 3_600), large("10.7/gone", 0)]);
    for handle in ["10.7/kept", "10.7/gone"] {
        let node = Node::recursive(&[home.address])
            .with("handle_amplification_rate", "1KiB")
            .with("handle_amplification_burst", "256KiB")
            .start();
        let answer = ask_udp(node.address, &question(handle, 1));
        assert_eq!(values(&answer).len(), 12, "the first one is paid for");
        let flood = socket(node.address, PATIENCE);
        for _ in 0..60 {
            flood.send(&octets(&question(handle, 2))).expect("sent");
        }
        let dropped =
            r#"jiexi_dropped_total{protocol="handle",reason="rate_limited",transport="udp"}"#;
        let start = Instant::now();
        while node.metric(dropped) == 0.0 {
            assert!(start.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        let sent = node.metric(r#"jiexi_sent_bytes_total{protocol="handle",transport="udp"}"#);
        assert!(sent > 12_000.0, "{sent}");
        assert!(
            sent < 2.0 * 256.0 * 1024.0,
            "{sent}: a burst of each worker that the sockets meet"
        );
        assert_eq!(
            values(&ask(node.address, &question(handle, 3))).len(),
            12,
            "over TCP at once"
        );
    }
}

/// Goal: an answer that takes several datagrams comes even when nothing is remembered of it: its values live no moment,
/// its home was insisted on, or it is old already.
#[test]
fn large_answers_come_whether_or_not_they_are_remembered() {
    let records = [
        large("10.7/kept", 3_600),
        large("10.7/gone", 0),
        large("10.7/short", 1),
    ];
    let mut home = Node::home("10.7", &records);
    let node = Node::recursive(&[home.address]).start();
    let whole = |of: &Node, asked: &Message| {
        let answer = ask_udp(of.address, asked);
        assert_eq!(values(&answer).len(), 12);
        answer.header.flags.contains(OpFlags::STALE)
    };
    for id in 1..4 {
        assert!(!whole(&node, &question("10.7/kept", id)));
        assert!(!whole(&node, &question("10.7/gone", id)));
        let mut asked = question("10.7/kept", id);
        asked.header.flags = asked.header.flags.with(OpFlags::AUTH);
        assert!(!whole(&node, &asked));
    }
    assert!(!whole(&node, &question("10.7/short", 4)));
    home.kill();
    std::thread::sleep(Duration::from_millis(1_100));
    let behind = Node::recursive(&[node.address])
        .with("recursion_deadline", "60s")
        .start();
    for id in 5..7 {
        assert!(whole(&node, &question("10.7/short", id)));
        assert!(whole(&behind, &question("10.7/short", id)));
    }
}
