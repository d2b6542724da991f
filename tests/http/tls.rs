//! Goal: TLS as operators need it: versions, HTTP/2, a certificate that changes while clients come.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use jiexi::identity::KeyPair;

use crate::node::{Node, PATIENCE, write_certificate};
use crate::ports::free_port;

#[test]
fn versions() {
    let node = Node::new();
    let path = "/api/handles/88.118.20/pump";
    for (version, expected) in [("--tlsv1.2", "TLSv1.2"), ("--tlsv1.3", "TLSv1.3")] {
        let most = if version == "--tlsv1.2" { "1.2" } else { "1.3" };
        let reply = node.ask("https", path, &[version, "--tls-max", most]);
        assert_eq!(reply.both(), (200, 1), "{expected}");
    }
    let http2 = node.ask("https", path, &["--http2"]);
    assert!(http2.headers.starts_with("HTTP/2 200"), "{}", http2.headers);
    let http1 = node.ask("https", path, &["--http1.1"]);
    assert!(
        http1.headers.starts_with("HTTP/1.1 200"),
        "{}",
        http1.headers
    );
    let old = Command::new("curl")
        .args(["-sk", "--tlsv1.1", "--tls-max", "1.1"])
        .arg(format!("https://127.0.0.1:{}{path}", node.http))
        .status()
        .expect("curl");
    assert!(!old.success());
}

#[test]
fn the_certificate_changes_under_load() {
    let place = tempfile::tempdir().unwrap();
    let (certificate, key) = (place.path().join("tls.pem"), place.path().join("tls.key"));
    let pairs = [KeyPair::generate().unwrap(), KeyPair::generate().unwrap()];
    write_certificate(&pairs[0], "first", &certificate, &key);
    let node = Node::with(&[
        ("JIEXI_HTTP_CERTIFICATE", certificate.to_str().unwrap()),
        ("JIEXI_HTTP_KEY", key.to_str().unwrap()),
        ("JIEXI_HTTP_TLS_RELOAD", "1s"),
    ]);
    let port = node.http;
    let subject = move || {
        let output = Command::new("curl")
            .args(["-skv", "-o", "/dev/null"])
            .arg(format!(
                "https://127.0.0.1:{port}/api/handles/88.118.20/pump"
            ))
            .output()
            .expect("curl");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let name = text
            .lines()
            .find_map(|line| line.split_once("subject: CN="))
            .map(|(_, name)| name.to_owned());
        (output.status.success(), name)
    };
    assert_eq!(subject(), (true, Some("first".into())));
    let (stop, failures, made) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU32::new(0)),
        Arc::new(AtomicU32::new(0)),
    );
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let (stop, failures, made) =
                (Arc::clone(&stop), Arc::clone(&failures), Arc::clone(&made));
            thread::spawn(move || {
                while !stop.load(Relaxed) {
                    made.fetch_add(1, Relaxed);
                    if !subject().0 {
                        failures.fetch_add(1, Relaxed);
                    }
                }
            })
        })
        .collect();
    // A key that is not that of the certificate: refused, the old pair stays.
    write_certificate(
        &pairs[1],
        "second",
        &certificate,
        &place.path().join("elsewhere"),
    );
    let begun = Instant::now();
    while !node.log().contains("the old one stays in use") {
        assert!(begun.elapsed() < PATIENCE, "{}", node.log());
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(subject().1, Some("first".into()));
    let good = "jiexi_config_last_reload_successful ";
    assert_eq!(node.metric(good), 0.0, "the next start would fail");
    std::fs::copy(place.path().join("elsewhere"), &key).unwrap();
    while subject().1 != Some("second".into()) {
        assert!(begun.elapsed() < PATIENCE, "{}", node.log());
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(node.metric(good), 1.0);
    stop.store(true, Relaxed);
    clients
        .into_iter()
        .for_each(|client| client.join().unwrap());
    assert_eq!(
        failures.load(Relaxed),
        0,
        "of {} handshakes",
        made.load(Relaxed)
    );
    assert!(made.load(Relaxed) > 5);
}

#[test]
fn a_pair_that_does_not_belong_together_does_not_start() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    let pairs = [KeyPair::generate().unwrap(), KeyPair::generate().unwrap()];
    write_certificate(&pairs[0], "a", &path("a.pem"), &path("a.key"));
    write_certificate(&pairs[1], "b", &path("b.pem"), &path("b.key"));
    let node = Node::new();
    let other = tempfile::tempdir().unwrap();
    node.must(&[
        "init",
        "--prefix",
        "88.118.99",
        "--address",
        "127.0.0.1",
        "--data",
        other.path().to_str().unwrap(),
    ]);
    let output = Command::new(env!("CARGO_BIN_EXE_jiexi"))
        .args([
            "serve",
            "--config",
            other.path().join("jiexi.toml").to_str().unwrap(),
        ])
        .env("JIEXI_HTTP_CERTIFICATE", path("a.pem"))
        .env("JIEXI_HTTP_KEY", path("b.key"))
        .env("JIEXI_HTTP_PORT", free_port().to_string())
        .env("JIEXI_HANDLE_PORT", free_port().to_string())
        .env("JIEXI_HTTP_LISTEN", "127.0.0.1")
        .env("JIEXI_HANDLE_LISTEN", "127.0.0.1")
        .env(
            "JIEXI_OPERATIONS_LISTEN",
            format!("127.0.0.1:{}", free_port()),
        )
        .output()
        .expect("runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success()
            && text.contains("b.key")
            && text.contains("not that of the certificate"),
        "{text}"
    );
}
