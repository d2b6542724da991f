//! Goal: the client behind a trusted proxy is who limits and the audit trail see; nobody else can say who they are.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::node::{Node, USER};

const WRONG: &str = "300%3A88.118.20%2FUSER:falsch";

fn sources(node: &Node) -> String {
    node.must(&["audit", "--config", &node.config()])
}

#[test]
fn forwarded_for() {
    let trusting = Node::with(&[("JIEXI_HTTP_TRUSTED_PROXIES", "127.0.0.0/8,10.0.0.0/8")]);
    let path = "/api/handles/88.118.20/pump";
    let forwarded = ["-H", "X-Forwarded-For: 1.2.3.4, 198.51.100.7, 10.1.1.1"];
    trusting.ask("https", path, &[&forwarded[..], &["-u", WRONG]].concat());
    assert!(
        sources(&trusting).contains("198.51.100.7"),
        "{}",
        sources(&trusting)
    );
    assert!(
        !sources(&trusting).contains("1.2.3.4"),
        "what the client itself wrote is not believed"
    );
    let secure = [
        "-u",
        USER,
        "-H",
        "X-Forwarded-For: 198.51.100.7",
        "-H",
        "X-Forwarded-Proto: https",
    ];
    assert_eq!(
        trusting.ask("http", path, &secure).both(),
        (200, 1),
        "TLS ended at the proxy"
    );
    assert_eq!(trusting.ask("http", path, &secure[..4]).both(), (403, 402));

    let cautious = Node::new();
    cautious.ask("https", path, &[&forwarded[..], &["-u", WRONG]].concat());
    assert!(
        sources(&cautious).contains("127.0.0.1") && !sources(&cautious).contains("198.51.100.7")
    );
    assert_eq!(cautious.ask("http", path, &secure).both(), (403, 402));
}

#[test]
fn proxy_protocol() {
    let header = |tls: bool| {
        let mut octets = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
        let rest = [
            &[198, 51, 100, 7, 127, 0, 0, 1, 0x10, 0, 0x20, 0][..],
            &[0x20, 0, 5, u8::from(tls), 0, 0, 0, 0],
        ]
        .concat();
        octets.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
        octets.extend(rest);
        octets
    };
    let ask = |node: &Node, tls: bool, user: &str| {
        use base64::Engine as _;
        let mut stream = TcpStream::connect(("127.0.0.1", node.http)).expect("connects");
        let user = base64::engine::general_purpose::STANDARD.encode(user);
        let request = format!(
            "GET /api/handles/88.118.20/pump HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Basic {user}\r\n\r\n"
        );
        stream
            .write_all(&[&header(tls)[..], request.as_bytes()].concat())
            .expect("writes");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    let trusting = Node::with(&[("JIEXI_HTTP_TRUSTED_PROXIES", "127.0.0.1/32")]);
    assert!(ask(&trusting, true, USER).starts_with("HTTP/1.1 200"));
    assert!(ask(&trusting, false, USER).starts_with("HTTP/1.1 403"));
    ask(&trusting, true, WRONG);
    assert!(
        sources(&trusting).contains("198.51.100.7"),
        "{}",
        sources(&trusting)
    );
    let cautious = Node::new();
    let refused = ask(&cautious, true, USER);
    assert!(!refused.starts_with("HTTP/1.1 200"), "{refused}");
}
