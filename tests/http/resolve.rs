//! Goal: resolution as `http-apis` describes it, raw paths and hostile clients included.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiexi_proto::message::Body;
use jiexi_proto::message::credential::CredentialField;
use jiexi_proto::message::resolution::Resolution;
use jiexi_proto::{Envelope, Header, Message, OpCode, Version};
use serde_json::json;

use crate::node::{Node, PATIENCE, curl};

fn indexes(node: &Node, query: &str) -> Vec<u64> {
    let reply = node.get(&format!("/api/handles/88.118.20/pump{query}"));
    assert_eq!(reply.both(), (200, 1), "{query}: {reply:?}");
    let values = reply.json()["values"].as_array().expect("values").clone();
    values
        .iter()
        .map(|value| value["index"].as_u64().expect("an index"))
        .collect()
}

#[test]
fn parameters_and_formats() {
    let node = Node::new();
    for (query, expected) in [
        ("", &[1, 2, 3, 4, 5][..]),
        ("?index=2&index=4", &[2, 4]),
        ("?type=URL", &[1]),
        ("?type=URL.", &[1, 3]),
        ("?type=url&index=2", &[1, 2]),
        ("?auth=true&cert=true&unknown=x", &[1, 2, 3, 4, 5]),
        ("?publicOnly=true", &[1, 2, 3, 4, 5]),
    ] {
        assert_eq!(indexes(&node, query), expected, "{query}");
    }
    let record = node.get("/api/handles/88.118.20/PUMP").json();
    assert_eq!(record["handle"], "88.118.20/PUMP", "echoed as it was asked");
    assert_eq!(
        record["values"][1]["data"],
        json!({"format": "string", "value": "离心泵"})
    );
    assert_eq!(
        record["values"][3]["data"],
        json!({"format": "base64", "value": "AP8="})
    );
    assert_eq!(record["values"][4]["data"]["format"], "vlist");
    assert_eq!(record["values"][0]["ttl"], 86400);
    let prefix = node.get("/api/handles/0.NA/88.118.20").json();
    let formats: Vec<&str> = prefix["values"]
        .as_array()
        .unwrap()
        .iter()
        .map(|value| value["data"]["format"].as_str().unwrap())
        .collect();
    for format in ["site", "admin", "key"] {
        assert!(formats.contains(&format), "{format} in {formats:?}");
    }
    let script = node.get("/api/handles/88.118.20/pump?callback=a.b&index=1");
    assert!(
        script.body.starts_with("/**/a.b({\"responseCode\":1"),
        "{script:?}"
    );
    assert_eq!(
        script.header("content-type"),
        Some("application/javascript; charset=utf-8")
    );
    assert!(
        node.get("/api/handles/88.118.20/pump?pretty=true")
            .body
            .contains("\n  \"handle\"")
    );
    let zipped = node.ask(
        "http",
        "/api/handles/88.118.20/pump",
        &["-H", "Accept-Encoding: gzip", "--compressed"],
    );
    assert_eq!(zipped.header("content-encoding"), Some("gzip"));
    assert_eq!(zipped.both(), (200, 1));
}

#[test]
fn statuses_and_problems() {
    let node = Node::new();
    for (path, expected) in [
        ("/api/handles/88.118.20/nope", (404, 100)),
        ("/api/handles/88.118.20/pump?type=NONE", (200, 200)),
        ("/api/handles/10.9999/x", (400, 301)),
        ("/api/handles/", (400, 102)),
        ("/api/handles/88.118.20/%FF", (400, 102)),
        ("/api/handles/88.118.20/pump?index=x", (400, 4)),
        ("/api/handles/88.118.20/pump?index=0", (400, 4)),
        ("/api/handles/88.118.20/pump?callback=alert(1)", (400, 4)),
        ("/api/handles/88.118.20/secret", (200, 200)),
        // Restricted values: over plain HTTP nobody can prove anything.
        ("/api/handles/88.118.20/secret?publicOnly=false", (403, 402)),
    ] {
        assert_eq!(node.get(path).both(), expected, "{path}");
    }
    let long = format!("/api/handles/88.118.20/{}", "x".repeat(2100));
    assert_eq!(node.get(&long).both(), (400, 102));
    let secret = node.ask(
        "https",
        "/api/handles/88.118.20/secret?publicOnly=false",
        &[],
    );
    assert_eq!(secret.both(), (401, 402));
    assert!(secret.headers.contains("Basic realm="), "{secret:?}");
    for (language, title) in [
        ("zh-CN,zh;q=0.9", "标识不存在"),
        ("en", "No such handle"),
        ("de", "No such handle"),
    ] {
        let header = format!("Accept-Language: {language}");
        let reply = node.ask("http", "/api/handles/88.118.20/nope", &["-H", &header]);
        let problem = reply.json();
        assert_eq!(problem["title"], title);
        assert_eq!(problem["code"], "handle_not_found");
        assert_eq!(problem["status"], 404);
        assert_eq!(problem["requestId"].as_str(), reply.header("x-request-id"));
    }
    assert_eq!(node.get("/api/handles/x?index=x").json()["field"], "index");
}

#[test]
fn methods_and_scripts_of_other_sites() {
    let node = Node::new();
    let path = "/api/handles/88.118.20/pump";
    let head = node.ask("http", path, &["-I", "-o", "/dev/null"]);
    assert_eq!(head.status, 200);
    assert_eq!(
        head.header("content-length"),
        Some(node.get(path).body.len().to_string()).as_deref()
    );
    let varies = |reply: &crate::node::Reply| {
        let vary = reply.header("vary").unwrap_or_default().to_lowercase();
        vary.contains("accept-encoding")
    };
    let zipped = node.ask("http", path, &["--compressed"]);
    assert!(varies(&node.get(path)) && varies(&zipped) && varies(&head));
    let options = node.ask("http", path, &["-X", "OPTIONS"]);
    assert_eq!(
        (options.status, options.header("allow")),
        (204, Some("GET, HEAD, PUT, DELETE, OPTIONS"))
    );
    assert_eq!(node.ask("http", path, &["-X", "PATCH"]).status, 405);
    assert_eq!(
        node.get(path).header("access-control-allow-origin"),
        Some("*")
    );
    let known = node.admin(path, &[]);
    assert_eq!(
        known.header("access-control-allow-origin"),
        None,
        "only what everybody may read"
    );
    assert_eq!(known.header("cache-control"), Some("no-store"));
    assert_eq!(
        node.ask("http", path, &["-X", "PUT", "-d", "[]"])
            .header("access-control-allow-origin"),
        None
    );
}

/// Paths as clients send them, decoded once and never tidied up.
#[test]
fn raw_paths() {
    let node = Node::new();
    let names = [
        "88.118.20/a/b",
        "88.118.20//x",
        "88.118.20/a%2Fb",
        "88.118.20/a+b",
        "88.118.20/a?b#c",
        "88.118.20/../up",
        "88.118.20/./here",
        "88.118.20/工业/互联网",
        "88.118.20/a b",
        "88.118.20/100%",
    ];
    let lines: Vec<String> = names
        .iter()
        .map(|name| {
            json!({"handle": name, "values": [{"index": 1, "type": "N", "data": name}]}).to_string()
        })
        .collect();
    node.import(&lines.join("\n"));
    for (path, expected) in [
        ("88.118.20/a/b", 0),
        ("88.118.20%2Fa%2Fb", 0),
        ("88.118.20//x", 1),
        ("88.118.20/%2Fx", 1),
        ("88.118.20/a%252Fb", 2),
        ("88.118.20/a+b", 3),
        ("88.118.20/a%2Bb", 3),
        ("88.118.20/a%3Fb%23c", 4),
        ("88.118.20/../up", 5),
        ("88.118.20/%2E%2E/up", 5),
        ("88.118.20/./here", 6),
        (
            "88.118.20/%E5%B7%A5%E4%B8%9A/%E4%BA%92%E8%81%94%E7%BD%91",
            7,
        ),
        ("88.118.20/工业/互联网", 7),
        ("88.118.20/a%20b", 8),
        ("88.118.20/100%", 9),
        ("88.118.20/100%25", 9),
    ] {
        let reply = node.get(&format!("/api/handles/{path}"));
        assert_eq!(reply.both(), (200, 1), "{path}: {reply:?}");
        assert_eq!(
            reply.json()["values"][0]["data"]["value"],
            names[expected],
            "{path}"
        );
        assert_eq!(reply.json()["handle"], names[expected], "{path}");
    }
}

/// The binary protocol by POST answers as TCP does, octet by octet.
#[test]
fn messages_by_post() {
    let node = Node::new();
    let question = |handle: &'static str| -> Vec<u8> {
        let body = Resolution {
            handle: Bytes::from_static(handle.as_bytes()),
            indexes: vec![],
            types: vec![],
            trailer: None,
        };
        let header = Header {
            op_code: OpCode::RESOLUTION,
            response_code: jiexi_proto::code::ResponseCode(0),
            flags: jiexi_proto::code::OpFlags::PUBL,
            site_serial: 0,
            recursion_count: 0,
            reserved: 0,
            expiration: 0,
            body_length: 0,
        };
        let envelope = Envelope {
            version: Version::V2_11,
            request_id: 7,
            ..Envelope::default()
        };
        let mut out = Vec::new();
        Message {
            envelope,
            header,
            body: Body::Resolution(body),
            digest: None,
            credential: CredentialField::Empty,
        }
        .encode(&mut out);
        out
    };
    for (handle, kind) in [
        ("88.118.20/pump", "application/x-hdl-message"),
        ("88.118.20/nope", "Application/X-HDL-Message; charset=UTF-8"),
        ("10.9999/x", "application/x-hdl-message"),
    ] {
        let message = question(handle);
        let mut stream = TcpStream::connect(("127.0.0.1", node.handle)).expect("connects");
        stream.write_all(&message).expect("writes");
        let mut over_tcp = vec![0; 20];
        stream.read_exact(&mut over_tcp).expect("an envelope");
        let length = u32::from_be_bytes(over_tcp[16..20].try_into().unwrap()) as usize;
        let mut rest = vec![0; length];
        stream.read_exact(&mut rest).expect("a message");
        over_tcp.extend(rest);
        let file = node.path("message");
        std::fs::write(&file, &message).expect("writes");
        let answer = node.path("answer");
        // As the reference client does: to the path of the handle.
        let reply = node.ask(
            "http",
            "/88.118.20%2Fpump",
            &[
                "-H",
                &format!("Content-Type: {kind}"),
                "--data-binary",
                &format!("@{}", file.display()),
                "-o",
                answer.to_str().unwrap(),
            ],
        );
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(
            reply.header("content-type"),
            Some("application/x-hdl-message")
        );
        let mut over_http = std::fs::read(&answer).expect("an answer");
        // The time at which the answer expires.
        over_tcp[36..40].fill(0);
        over_http[36..40].fill(0);
        assert_eq!(hex::encode(over_http), hex::encode(over_tcp), "{handle}");
    }
    assert!(
        node.metric("jiexi_requests_total{op=\"resolve\",protocol=\"handle\",transport=\"http\"}")
            >= 3.0
    );
    let nonsense = node.ask(
        "http",
        "/",
        &[
            "-H",
            "Content-Type: application/x-hdl-message",
            "-d",
            "nonsense",
        ],
    );
    assert_eq!(nonsense.status, 400);
}

/// Goal: paths beside those of the API are nothing, in the form of their neighbours, and no handles; `/hdl/` reaches
/// handles of such names.
#[test]
fn what_is_not_there() {
    let node = Node::new();
    let before = resolutions(&node);
    let page = "text/html; charset=utf-8";
    let (problem, coded) = ("application/problem+json", "application/json");
    for (path, form) in [
        ("/api", coded),
        ("/api/", coded),
        ("/api/x", coded),
        ("/api/sessions/", coded),
        ("/api/sessions/this/x", coded),
        ("/api/handlesx", coded),
        ("/api/v12/x", coded),
        ("/api/v1", problem),
        ("/api/v1/", problem),
        ("/api/v1/x/y", problem),
        ("/docs/", page),
    ] {
        for method in ["GET", "PUT", "DELETE"] {
            let reply = node.ask("http", path, &["-X", method]);
            let seen = (reply.status, reply.header("content-type"));
            assert_eq!(seen, (404, Some(form)), "{method} {path}");
            if form == page {
                assert!(
                    reply.body.contains("There is nothing at this path"),
                    "{reply:?}"
                );
                continue;
            }
            let body = reply.json();
            assert_eq!(body["code"], "no_such_page", "{path}");
            let code = (form == coded).then_some(4);
            assert_eq!(body["responseCode"].as_i64(), code, "{path}");
        }
    }
    assert_eq!(resolutions(&node), before, "none of these is a resolution");
    // A handle of that name is known elsewhere.
    assert_eq!(node.get("/hdl/api/x").status, 400);
    assert_eq!(node.get("/api/handles/api/x").both(), (400, 301));
    assert_eq!(resolutions(&node), before + 2.0);
}

/// Resolutions over plain HTTP so far.
fn resolutions(node: &Node) -> f64 {
    node.metric("jiexi_requests_total{op=\"resolve\",protocol=\"http\",transport=\"tcp\"}")
}

/// Goal: a client that asks too often is told so in the form of the route: with a code of the Handle protocol, or as a
/// problem below `/api/v1`.
#[test]
fn too_many_requests() {
    let node = Node::with(&[("JIEXI_HTTP_BURST", "1"), ("JIEXI_HTTP_RATE", "1")]);
    let refused = |path: &str| {
        let url = format!("http://127.0.0.1:{}{path}?[1-40]", node.http);
        let file = node.path("answer-#1").display().to_string();
        let said = "\n%{filename_effective} %{http_code} %{content_type}\n%{http_code}";
        let language = "Accept-Language: zh";
        let flood = curl(&[&url, "-H", language, "-o", &file, "-w", said]);
        assert!(flood.headers.contains("retry-after:"), "{flood:?}");
        let refused = flood.body.lines().find_map(|line| line.split_once(" 429 "));
        let (file, kind) = refused.expect("one is refused");
        let body: serde_json::Value =
            serde_json::from_slice(&std::fs::read(file).unwrap()).expect("JSON");
        assert_eq!(body["code"], "too_many_requests", "{path}: {body}");
        assert_eq!(body["detail"], "来自该网络的请求过多", "{path}");
        (kind.to_owned(), body["responseCode"].as_i64())
    };
    for path in ["/api/v1/identity", "/api/v1", "/api/v1/none"] {
        let problem = ("application/problem+json".to_owned(), None);
        assert_eq!(refused(path), problem, "{path}");
    }
    for path in ["/api/handles/88.118.20/pump", "/api/v12"] {
        let coded = ("application/json".to_owned(), Some(4));
        assert_eq!(refused(path), coded, "{path}");
    }
}

/// Goal: who scans a code in a network that asks too often reads why, on a page.
#[test]
fn too_many_scans() {
    let node = Node::with(&[("JIEXI_HTTP_BURST", "1"), ("JIEXI_HTTP_RATE", "1")]);
    let begun = Instant::now();
    let language = ["-H", "Accept-Language: zh"];
    let refused = loop {
        let reply = node.ask("http", "/88.118.20/pump", &language);
        if reply.status == 429 {
            break reply;
        }
        assert!(begun.elapsed() < PATIENCE, "nobody is refused");
    };
    assert_eq!(
        refused.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    assert!(
        refused.body.contains("请求过于频繁") && refused.body.contains("来自该网络的请求过多"),
        "{refused:?}"
    );
    let policy = refused
        .header("content-security-policy")
        .unwrap_or_default();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
}

/// Hostile clients cost little, and nobody else anything.
#[test]
fn bounds() {
    let node = Node::with(&[
        ("JIEXI_HTTP_READ", "1s"),
        ("JIEXI_HTTP_BURST", "60"),
        ("JIEXI_HTTP_RATE", "50"),
    ]);
    let big = "x".repeat(80 * 1024);
    let reply = node.ask(
        "http",
        "/api/handles/88.118.20/pump",
        &["-H", &format!("X-Big: {big}")],
    );
    assert_eq!(reply.status, 431);
    let file = node.path("big");
    std::fs::write(&file, "x".repeat(2 << 20)).unwrap();
    let put = [
        "-X",
        "PUT",
        "--data-binary",
        &format!("@{}", file.display()),
    ];
    assert_eq!(node.admin("/api/handles/88.118.20/big", &put).status, 413);
    // A head that never ends, a body that never comes, a client that says nothing.
    let slow = |text: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", node.http)).expect("connects");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream.write_all(text.as_bytes()).expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the node closes");
        answer
    };
    assert_eq!(slow("GET /api/handles/x HTTP/1.1\r\nHost: x\r\nX-"), "");
    assert_eq!(slow("PRI * HT"), "");
    assert!(slow("POST /x HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-hdl-message\r\nContent-Length: 99\r\n\r\nx")
        .starts_with("HTTP/1.1 408"));
    assert_eq!(slow(""), "");
    let many: Vec<u16> = (0..80)
        .map(|_| node.get("/api/handles/88.118.20/pump").status)
        .collect();
    let url = format!(
        "http://127.0.0.1:{}/api/handles/88.118.20/pump?[1-200]",
        node.http
    );
    let flood = curl(&[&url, "-o", "/dev/null"]);
    assert!(
        many.contains(&429) || flood.headers.contains("429 Too Many"),
        "{many:?}"
    );
    assert!(flood.headers.contains("retry-after:"), "{}", flood.headers);
}
