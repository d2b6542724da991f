//! Goal: every way to say who one is leads to the same decision; wrong and plain ones lead nowhere.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use getrandom::SysRng;
use jiexi::identity::KeyPair;
use jiexi::registry::keys::{Hash, NodeKey};
use serde_json::Value as Json;

use crate::node::{Node, USER, write_certificate};

const PATH: &str = "/api/handles/88.118.20/secret?publicOnly=false";
const BODY: &str = r#"[{"index":1,"type":"N","data":"x"}]"#;

#[test]
fn basic() {
    let node = Node::new();
    let ask = |user: &str| node.ask("https", PATH, &["-u", user]).both();
    assert_eq!(ask(USER), (200, 1));
    assert_eq!(
        ask("300%3A88.118.20%2Fuser:geheim"),
        (200, 1),
        "handles fold"
    );
    assert_eq!(ask("300%3A88.118.20%2FUSER:falsch"), (403, 403));
    assert_eq!(ask("301%3A88.118.20%2FUSER:geheim"), (403, 403));
    assert_eq!(ask("300%3A88.118.20%2FNOBODY:geheim"), (403, 403));
    assert_eq!(ask("nonsense:geheim"), (403, 403));
    assert_eq!(
        ask("300%3A88.118.20%2FSTRANGER:fremd"),
        (403, 400),
        "known, but no administrator"
    );
    let audited = node.must(&["audit", "--config", &node.config()]);
    assert!(audited.contains("prove"), "{audited}");
    assert!(
        !audited.contains("falsch") && !node.log().contains("falsch"),
        "a secret is in a log"
    );
}

#[test]
fn plain_http_takes_no_credentials() {
    let node = Node::new();
    for path in [PATH, "/api/handles/88.118.20/pump"] {
        assert_eq!(
            node.ask("http", path, &["-u", USER]).both(),
            (403, 402),
            "{path}"
        );
    }
    let put = ["-X", "PUT", "-d", BODY];
    assert_eq!(
        node.ask("http", "/api/handles/88.118.20/n", &put).both(),
        (403, 402)
    );
    assert_eq!(
        node.ask(
            "http",
            "/api/handles/88.118.20/n",
            &[&put[..], &["-u", USER]].concat()
        )
        .both(),
        (403, 402)
    );
    assert_eq!(
        node.ask("http", "/api/sessions", &["-X", "POST"]).both(),
        (403, 402)
    );
    assert_eq!(node.metric("jiexi_http_plain_credentials_total"), 3.0);
    let local = Node::with(&[("JIEXI_HTTP_PLAIN_LOOPBACK", "true")]);
    assert_eq!(local.ask("http", PATH, &["-u", USER]).both(), (200, 1));
    let forwarded = ["-u", USER, "-H", "X-Forwarded-For: 192.0.2.1"];
    assert_eq!(
        local.ask("http", PATH, &forwarded).both(),
        (403, 402),
        "a proxy is not this machine's user"
    );
}

fn admin(node: &Node) -> (KeyPair, NodeKey) {
    let pair = KeyPair::load(&node.data().join("admin.key")).expect("a key");
    let key = NodeKey::new(&pair.private).expect("a key");
    (pair, key)
}

fn log_in(node: &Node, method: &str, sign: &dyn Fn(&[u8]) -> (String, String)) -> (u16, Json) {
    let session = node.ask("https", "/api/sessions", &["-X", "POST"]).json();
    let (id, nonce) = (
        session["sessionId"].as_str().unwrap(),
        session["nonce"].as_str().unwrap(),
    );
    let cnonce = b"a nonce of ours!";
    let asked = [&STANDARD.decode(nonce).unwrap()[..], cnonce].concat();
    let (who, proof) = sign(&asked);
    let header = format!(
        "Authorization: Handle version=\"0\", sessionId=\"{id}\", {who}, cnonce=\"{}\", signature=\"{proof}\"",
        STANDARD.encode(cnonce)
    );
    let reply = node.ask(
        "https",
        "/api/sessions/this",
        &["-X", method, "-H", &header],
    );
    (reply.status, reply.json())
}

#[test]
fn sessions() {
    let node = Node::new();
    let (_, key) = admin(&node);
    let by_key = |asked: &[u8]| {
        let signature = key.sign(Hash::Sha256, asked, &mut SysRng).expect("signs");
        let who = "id=\"300:0.NA/88.118.20\", type=\"HS_PUBKEY\", alg=\"SHA256\"".to_owned();
        (who, STANDARD.encode(signature))
    };
    let by_secret = |asked: &[u8]| {
        use hmac::{KeyInit as _, Mac as _};
        let mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(b"geheim").unwrap();
        let mac = mac.chain_update(asked).finalize().into_bytes();
        let who = "id=\"300:88.118.20/USER\", type=\"HS_SECKEY\", alg=\"HMAC-SHA256\"".to_owned();
        (who, STANDARD.encode(mac))
    };
    for (method, sign) in [
        ("POST", &by_key as &dyn Fn(&[u8]) -> _),
        ("PUT", &by_key),
        ("POST", &by_secret),
    ] {
        let (status, session) = log_in(&node, method, sign);
        assert_eq!(
            (status, session["authenticated"].as_bool()),
            (200, Some(true)),
            "{session}"
        );
        let header = format!(
            "Authorization: Handle version=\"0\", sessionId={}",
            session["sessionId"]
        );
        let ask = |path: &str, more: &[&str]| {
            node.ask("https", path, &[&["-H", &header][..], more].concat())
        };
        assert_eq!(ask(PATH, &[]).both(), (200, 1));
        assert_eq!(
            ask(
                "/api/handles/88.118.20/by-session",
                &["-X", "PUT", "-d", BODY]
            )
            .code(),
            1
        );
        assert_eq!(ask("/api/sessions/this", &[]).json()["id"], session["id"]);
        assert_eq!(ask("/api/sessions/this", &["-X", "DELETE"]).status, 200);
        assert_eq!(ask(PATH, &[]).both(), (401, 500), "closed");
    }
    // A signature over something else, and one of somebody else.
    let wrong = |asked: &[u8]| by_key(&[asked, b"x"].concat());
    assert_eq!(log_in(&node, "POST", &wrong).0, 403);
    let stolen = |asked: &[u8]| (by_secret(asked).0, by_key(asked).1);
    assert_eq!(log_in(&node, "POST", &stolen).0, 403);
    let open = node.ask("https", "/api/sessions", &["-X", "POST"]).json();
    let header = format!("Authorization: Handle sessionId={}", open["sessionId"]);
    assert_eq!(
        node.ask("https", PATH, &["-H", &header]).both(),
        (401, 402),
        "not logged in"
    );
    assert_eq!(
        node.ask(
            "https",
            "/api/sessions/this",
            &["-X", "POST", "-H", "Authorization: Handle x"]
        )
        .status,
        400
    );
}

#[test]
fn client_certificates() {
    let node = Node::with(&[("JIEXI_HTTP_CLIENT_CERTIFICATES", "true")]);
    let (pair, _) = admin(&node);
    let stranger = KeyPair::generate().expect("a key");
    let ask = |pair: &KeyPair, name: &str| {
        let (certificate, key) = (node.path("client.pem"), node.path("client.key"));
        write_certificate(pair, name, &certificate, &key);
        let (certificate, key) = (
            certificate.to_str().unwrap().to_owned(),
            key.to_str().unwrap().to_owned(),
        );
        let header = "Authorization: Handle clientCert=\"true\"";
        node.ask(
            "https",
            PATH,
            &["--cert", &certificate, "--key", &key, "-H", header],
        )
        .both()
    };
    assert_eq!(ask(&pair, "300:0.NA/88.118.20"), (200, 1));
    assert_eq!(
        ask(&stranger, "300:0.NA/88.118.20"),
        (403, 403),
        "another key"
    );
    assert_eq!(
        ask(&pair, "301:0.NA/88.118.20"),
        (403, 403),
        "another identity"
    );
    assert_eq!(ask(&pair, "somebody"), (403, 403));
    let without = node.ask(
        "https",
        PATH,
        &["-H", "Authorization: Handle clientCert=\"true\""],
    );
    assert_eq!(without.both(), (403, 403));
    assert_eq!(
        node.ask("https", PATH, &["-u", USER]).both(),
        (200, 1),
        "nobody must have one"
    );
    assert_eq!(
        node.metric("jiexi_authentications_total{method=\"tls\",result=\"accepted\"}"),
        1.0
    );
}
