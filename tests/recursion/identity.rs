//! Goal: users whose keys are at home elsewhere prove themselves, nobody else does, and nobody waits for a home that is
//! down. Method: one node has the user, another the handle that the user may change.

use std::time::{Duration, Instant};

use bytes::Bytes;
use jiexi_proto::OpCode;
use jiexi_proto::code::{OpFlags, Permissions};
use jiexi_proto::message::Body;
use jiexi_proto::message::values::HandleValues;
use jiexi_proto::value::site::SiteRecord;
use jiexi_proto::value::{Ttl, Value};

use crate::client::{Key, ask_as, request};
use crate::login::{Line, private_key, recorded, user};
use crate::node::{Node, ask, code, free, question, question_for, values};

const SECRET: &str = "a secret of Alice";

/// Alice, with a public key and a secret one.
fn alice() -> String {
    serde_json::json!({"handle": "10.7/alice", "values": [
        {"index": 300, "type": "HS_PUBKEY", "ttl": 3_600,
            "data": {"format": "hex", "value": hex::encode(recorded("admin_rsa_pub.bin_hex"))}},
        {"index": 301, "type": "HS_SECKEY", "ttl": 3_600, "permissions": "1100",
            "data": {"format": "string", "value": SECRET}},
    ]})
    .to_string()
}

/// A handle that Alice may change, by either key.
fn device() -> String {
    let admin = |index: u32, key: u32| {
        serde_json::json!({"index": index, "type": "HS_ADMIN", "data": {"format": "admin",
            "value": {"handle": "10.7/alice", "index": key, "permissions": "111111111111"}}})
    };
    serde_json::json!({"handle": "88.118/device", "values": [
        {"index": 1, "type": "URL", "data": {"format": "string", "value": "before"}},
        admin(100, 300), admin(101, 301), admin(102, 302)]})
    .to_string()
}

fn node(home: &Node) -> Node {
    Node::new(&[device()])
        .recursing(&[home.address])
        .with("recursion_allow_recursion", "false")
        .with("recursion_authentication", "true")
}

/// The body of a change of the device.
fn change(data: &'static str) -> Body {
    let value = Value {
        index: 1,
        timestamp: 0,
        ttl: Ttl::Relative(60),
        permissions: Permissions(0x0E),
        kind: Bytes::from_static(b"URL"),
        data: Bytes::from_static(data.as_bytes()),
        references: Vec::new(),
    };
    Body::Values(HandleValues {
        handle: Bytes::from_static(b"88.118/device"),
        values: vec![value],
    })
}

fn is_now(node: &Node, data: &str) -> bool {
    let answer = ask(node.address, &question_for("88.118/device", &["URL"], 1));
    values(&answer)[0].data == data.as_bytes()
}

#[test]
fn users_from_elsewhere_log_in_and_change_what_is_theirs() {
    let home = Node::home("10.7", &[alice()]);
    let node = node(&home).start();
    let (rsa, other) = (
        private_key("admin_rsa_priv.bin_hex"),
        private_key("server_priv.bin_hex"),
    );
    let alice = user("10.7/Alice", 300);
    let mut line = Line::new(node.address);
    let welcome = line.log_in(&alice, &rsa);
    assert_eq!(
        (welcome.header.op_code, code(&welcome)),
        (OpCode::LOGIN, 1),
        "{welcome:?}"
    );
    let changed = line.ask(
        OpCode::MODIFY_VALUE,
        change("by login"),
        OpFlags::RESOLUTION,
    );
    assert_eq!(code(&changed), 1, "{changed:?}");
    assert!(is_now(&node, "by login"));

    for (who, key, expected) in [
        (&alice, &other, 403),
        (&user("10.7/alice", 302), &rsa, 403),
        (&user("10.7/nobody", 300), &rsa, 403),
        (&user("10.9/nobody", 300), &rsa, 403),
    ] {
        let refused = Line::new(node.address).log_in(who, key);
        assert_eq!(code(&refused), expected, "{who:?} {refused:?}");
    }
    let modify = |data, id| request(OpCode::MODIFY_VALUE, OpFlags::RESOLUTION, change(data), id);
    assert_eq!(
        code(&ask_as(node.address, &modify("signed", 1), &alice, &rsa)),
        1
    );
    assert!(is_now(&node, "signed"));
    assert_eq!(
        code(&ask_as(node.address, &modify("x", 2), &alice, &other)),
        403
    );
    // Her secret stays at home: it is asked whether she has it.
    let (secret, wrong) = (Key::Secret(SECRET.into()), Key::Secret(b"a guess".to_vec()));
    let by_secret = user("10.7/alice", 301);
    assert_eq!(
        code(&ask_as(node.address, &modify("x", 3), &by_secret, &wrong)),
        403
    );
    assert_eq!(
        code(&ask_as(
            node.address,
            &modify("by secret", 4),
            &by_secret,
            &secret
        )),
        1
    );
    assert!(is_now(&node, "by secret"));
    assert_eq!(
        code(&ask(node.address, &question("10.7/alice", 5))),
        301,
        "no recursion"
    );
}

/// Goal: over HTTP they are who they are over the wire. Method: curl, by Basic authentication.
#[test]
fn users_from_elsewhere_change_what_is_theirs_over_http() {
    let home = Node::home("10.7", &[alice()]);
    let port = free().port();
    let node = node(&home)
        .with("http_listen", "127.0.0.1")
        .with("http_port", &port.to_string())
        .start();
    let url = format!("https://127.0.0.1:{port}/api/handles/88.118/device?index=1");
    let put = |user: &str, data: &str| {
        let body = serde_json::json!([{"index": 1, "type": "URL", "data": data}]).to_string();
        let output = std::process::Command::new("curl")
            .args([
                "-sk",
                "--max-time",
                "60",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                "-u",
                user,
            ])
            .args(["-X", "PUT", "-d", &body, &url])
            .output()
            .expect("curl is installed");
        String::from_utf8(output.stdout).expect("text")
    };
    assert_eq!(put("301%3A10.7%2Falice:a guess", "x"), "403");
    assert_eq!(put(&format!("302%3A10.7%2Falice:{SECRET}"), "x"), "403");
    assert_eq!(
        put(&format!("301%3A10.7%2FAlice:{SECRET}"), "by http"),
        "200"
    );
    assert!(is_now(&node, "by http"));
    home.freeze();
    assert_eq!(
        put(&format!("301%3A10.7%2Falice:{SECRET}"), "y"),
        "503",
        "not now"
    );
    assert!(is_now(&node, "by http"));
}

#[test]
fn users_from_elsewhere_are_strangers_until_configured() {
    let home = Node::home("10.7", &[alice()]);
    let node = node(&home)
        .with("recursion_authentication", "false")
        .start();
    let refused = Line::new(node.address).log_in(
        &user("10.7/alice", 300),
        &private_key("admin_rsa_priv.bin_hex"),
    );
    assert_eq!(code(&refused), 403);
    assert_eq!(
        home.metric(r#"jiexi_requests_total{op="resolve",protocol="handle",transport="tcp"}"#),
        0.0
    );
}

#[test]
fn a_home_that_is_down_holds_up_its_own_users_only() {
    let home = Node::home("10.7", &[alice()]);
    let node = node(&home)
        .with("recursion_deadline", "2s")
        .with("recursion_questions", "8")
        .start();
    let rsa = private_key("admin_rsa_priv.bin_hex");
    let alice = user("10.7/alice", 300);
    assert_eq!(code(&Line::new(node.address).log_in(&alice, &rsa)), 1);
    home.freeze();
    assert_eq!(
        code(&Line::new(node.address).log_in(&alice, &rsa)),
        1,
        "her key is known"
    );
    // More than may wait for other nodes, and than there are threads.
    let waiting: Vec<_> = (0..24)
        .map(|number| {
            let address = node.address;
            std::thread::spawn(move || {
                let key = private_key("admin_rsa_priv.bin_hex");
                let stranger = user(&format!("10.7/stranger{number}"), 300);
                code(&Line::new(address).log_in(&stranger, &key))
            })
        })
        .collect();
    let began = Instant::now();
    for _ in 0..5 {
        assert_eq!(code(&Line::new(node.address).log_in(&alice, &rsa)), 1);
    }
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "{:?}",
        began.elapsed()
    );
    for stranger in waiting {
        assert_eq!(stranger.join().expect("ends"), 3, "to be tried again");
    }
}

/// Somebody who speaks for the home without its key is not believed.
#[test]
fn a_home_signs_what_it_says() {
    let home = Node::home("10.7", &[alice()]);
    let site = ask(home.address, &question_for("0.NA/10.7", &["HS_SITE"], 1));
    let mut record = SiteRecord::decode(&values(&site)[0].data).expect("a site");
    for server in &mut record.servers {
        server.public_key = recorded("server_pub.bin_hex").into();
    }
    let mut wire = Vec::new();
    record.encode(&mut wire);
    let line = serde_json::json!({"handle": "0.NA/10.7", "values": [{"index": 1, "type": "HS_SITE",
        "data": {"format": "hex", "value": hex::encode(wire)}}]});
    let liar = Node::new(&[line.to_string(), r#"{"prefix":"0.NA"}"#.into()]).start();
    let node = node(&liar).start();
    for (index, key) in [
        (300, private_key("admin_rsa_priv.bin_hex")),
        (301, Key::Secret(SECRET.into())),
    ] {
        let refused = Line::new(node.address).log_in(&user("10.7/alice", index), &key);
        assert_eq!(code(&refused), 3, "{refused:?}");
    }
}
