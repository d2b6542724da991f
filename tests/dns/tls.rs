//! Goal: DNS over TLS. Method: a certificate that openssl makes for the test, kdig as client.

use std::process::Command;

use jiexi::server::certificate::{Identity, Origin};
use jiexi::server::dns::serve::Tls;

use crate::node::{Node, config};

#[test]
fn rfc7858_3_questions_over_tls() {
    let directory = tempfile::tempdir().expect("a directory");
    let (certificate, key) = (
        directory.path().join("cert.pem"),
        directory.path().join("key.pem"),
    );
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
            "-keyout",
        ])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("openssl");
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let identity = Identity::load(Origin::Files {
        certificate: certificate.clone(),
        key,
    });
    let mut secure = config();
    secure.tls = Some(Tls {
        port: 0,
        certificate: identity.expect("a pair"),
    });
    let node = Node::start(secure);
    let port = node.tls.expect("an address").port().to_string();
    let ca = format!("+tls-ca={}", certificate.display());
    let shown = Command::new("kdig")
        .args([
            "@127.0.0.1",
            "-p",
            &port,
            &ca,
            "+tls-hostname=localhost",
            "+padding",
            "cnc-1.88-118-1.id.example.net",
            "NAPTR",
        ])
        .output()
        .expect("kdig; .ci/run installs it");
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        text.contains("!^.*$!https://id.example/cnc-1!"),
        "{text}{}",
        String::from_utf8_lossy(&shown.stderr)
    );
    assert!(
        text.contains("(TLS1.3)") && text.contains("PADDING"),
        "{text}"
    );
    assert!(text.contains("Received 468 B"), "{text}");
    let asked = r#"jiexi_requests_total{op="resolve",protocol="dns",transport="tls"}"#;
    assert_eq!(node.metric(asked), 1.0);
}
