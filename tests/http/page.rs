//! Goal: a scanned code leads where its owner says and nowhere else, and what is shown does no harm. Method: hostile
//! records, asked as a phone asks. Browsers look at the same records in `tests/browser/run.sh`.

use serde_json::{Value as Json, json};

use crate::node::{Node, curl};

/// Records that somebody with bad intentions would write.
const HOSTILE: &str = include_str!("../browser/hostile.ndjson");

#[test]
fn redirects() {
    let node = Node::with(&[("JIEXI_HTTP_PUBLIC_URL", "https://id.example.cn")]);
    node.import(&[
        json!({"handle": "88.118.20/plain", "values": [{"index": 1, "type": "URL", "data": "https://example.cn/a?b=1"}]}),
        json!({"handle": "88.118.20/工业", "values": [{"index": 1, "type": "URL", "data": "https://例子.cn/页"}]}),
        json!({"handle": "88.118.20/loc", "values": [
            {"index": 1, "type": "URL", "data": "https://first.cn/"},
            {"index": 2, "type": "10320/loc", "data": "<locations><location href=\"https://loc.cn/\" weight=\"1\"/><location href=\"https://en.cn/\" weight=\"0\" lang=\"en\"/></locations>"}]}),
        json!({"handle": "88.118.20/self", "values": [{"index": 1, "type": "URL", "data": "https://id.example.cn/88.118.20/SELF"}]}),
        json!({"handle": "88.118.20/self2", "values": [{"index": 1, "type": "URL",
            "data": format!("http://127.0.0.1:{}/hdl/88.118.20%2Fself2", node.http)}]}),
        json!({"handle": "docs/x", "values": []}),
    ].map(|record: Json| record.to_string())[..5].join("\n"));
    let to = |path: &str| {
        let reply = node.get(path);
        (
            reply.status,
            reply.header("location").map(str::to_owned),
            reply.header("referrer-policy").map(str::to_owned),
        )
    };
    let found = |place: &str| (302, Some(place.to_owned()), Some("no-referrer".to_owned()));
    assert_eq!(to("/88.118.20/plain"), found("https://example.cn/a?b=1"));
    assert_eq!(
        to("/hdl/88.118.20/plain"),
        found("https://example.cn/a?b=1")
    );
    assert_eq!(
        to("/88.118.20/%E5%B7%A5%E4%B8%9A"),
        found("https://xn--fsqu00a.cn/%E9%A1%B5")
    );
    assert_eq!(to("/88.118.20/loc"), found("https://loc.cn/"));
    assert_eq!(to("/88.118.20/loc?locatt=lang:en"), found("https://en.cn/"));
    for back in [
        "/88.118.20/self",
        "/88.118.20/self2",
        "/hdl/88.118.20/self2",
        "/88.118.20/plain?noredirect",
    ] {
        let reply = node.get(back);
        assert_eq!(
            (reply.status, reply.header("location")),
            (200, None),
            "{back}"
        );
    }
    // What the client calls us is not what we are called.
    let evil = node.ask(
        "http",
        "/88.118.20/plain?noredirect",
        &["-H", "Host: evil.example"],
    );
    assert!(
        evil.body
            .contains("href=\"https://id.example.cn/hdl/88.118.20/plain\"")
            && !evil.body.contains("evil.example")
    );
    assert_eq!(node.get("/88.118.20/nothing").status, 404);
    assert_eq!(node.get("/10.9999/x").status, 400);
    assert_eq!(
        node.ask("http", "/88.118.20/plain", &["-X", "DELETE"])
            .status,
        405
    );
    assert_eq!(node.get("/").status, 200);
}

/// Goal: a record of this node's own address ends nowhere, by whatever name and version of HTTP it is asked. Method:
/// `localhost` is no name that the node knows itself by; HTTP/2 has no Host.
#[test]
fn no_redirect_to_itself() {
    let node = Node::new();
    let at = format!("localhost:{}/88.118.20/self", node.http);
    node.import(
        &json!({"handle": "88.118.20/self", "values": [
            {"index": 1, "type": "URL", "data": format!("https://{at}")}]})
        .to_string(),
    );
    for (version, status) in [("--http1.1", "HTTP/1.1 200"), ("--http2", "HTTP/2 200")] {
        let reply = curl(&[version, &format!("https://{at}")]);
        assert!(reply.headers.starts_with(status), "{version}: {reply:?}");
        assert_eq!(reply.header("location"), None, "{version}");
        let other = curl(&[
            version,
            &format!("https://127.0.0.1:{}/88.118.20/pump", node.http),
        ]);
        assert_eq!(other.status, 302, "{version}: others are led on");
    }
}

#[test]
fn languages() {
    let node = Node::new();
    let ask = |header: &str| node.ask("http", "/88.118.20/pump?noredirect", &["-H", header]);
    let chinese = ask("Accept-Language: zh-CN");
    assert!(
        chinese.body.contains("<html lang=\"zh-CN\">") && chinese.body.contains("工业互联网标识"),
        "{}",
        chinese.body
    );
    assert!(
        ask("Accept-Language: en")
            .body
            .contains("Industrial internet identifier")
    );
    assert!(
        node.get("/88.118.20/pump?noredirect&lang=zh")
            .body
            .contains("工业互联网标识")
    );
    assert!(
        node.ask("http", "/88.118.20/nope", &["-H", "Accept-Language: zh"])
            .body
            .contains("标识不存在")
    );
    assert_eq!(
        chinese
            .header("vary")
            .map(|vary| vary.contains("Accept-Language")),
        Some(true)
    );
}

#[test]
fn hostile_records_do_no_harm() {
    let node = Node::new();
    node.import(HOSTILE);
    let handles: Vec<String> = HOSTILE
        .lines()
        .map(|line| {
            serde_json::from_str::<Json>(line).unwrap()["handle"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert!(handles.len() >= 30, "{}", handles.len());
    for handle in handles {
        let path: String = handle
            .bytes()
            .map(|octet| format!("%{octet:02X}"))
            .collect();
        for query in ["", "?noredirect"] {
            let reply = node.get(&format!("/hdl/{path}{query}"));
            if reply.status == 302 {
                let place = reply.header("location").expect("a place");
                assert!(
                    place.starts_with("https://") || place.starts_with("http://"),
                    "{handle}: {place}"
                );
                assert!(
                    place.bytes().all(|octet| octet.is_ascii_graphic()),
                    "{handle}: {place}"
                );
                continue;
            }
            assert_eq!(reply.status, 200, "{handle}");
            assert!(
                reply
                    .header("content-security-policy")
                    .unwrap()
                    .starts_with("default-src 'none'; style-src 'sha256-")
            );
            for forbidden in [
                "<script",
                "<img",
                "<iframe",
                "<svg",
                "<object",
                "<form",
                "onerror=\"",
                "javascript:\"",
                "href=\"javascript",
                "href=\"data:",
                "href=\"vbscript",
                "<meta http-equiv",
            ] {
                let body = reply.body.to_ascii_lowercase();
                assert!(
                    !body.contains(forbidden),
                    "{handle}: {forbidden} in {}",
                    reply.body
                );
            }
            for hidden in [
                '\u{202E}', '\u{2066}', '\u{200B}', '\u{0}', '\u{1B}', '\u{FEFF}',
            ] {
                assert!(!reply.body.contains(hidden), "{handle}: {hidden:?}");
            }
        }
    }
}

/// Every answer and body in JSON has a shape that is described.
fn assert_shapes(description: &Json, operation: &str, described: &Json) {
    let responses = described["responses"].as_object().unwrap().iter();
    let body = described.get("requestBody").map(|body| ("body", body));
    let all = responses.map(|(status, response)| (status.as_str(), response));
    for (place, described) in all.chain(body) {
        let contents = described.get("content").and_then(Json::as_object);
        for (kind, content) in contents.into_iter().flatten() {
            let shape = content["schema"]["$ref"].as_str();
            if !kind.ends_with("json") || kind.contains("ndjson") {
                continue;
            }
            let shape = shape.unwrap_or_else(|| panic!("{operation} {place}: {content}"));
            let known = description.pointer(shape.trim_start_matches('#'));
            assert!(known.is_some(), "{operation} {place}: no {shape}");
        }
    }
}

#[test]
fn the_description() {
    let node = Node::with(&[("JIEXI_HTTP_PUBLIC_URL", "https://id.example.cn/")]);
    let description = node.get("/api/openapi.json").json();
    assert!(
        description["openapi"].as_str().unwrap().starts_with("3.1"),
        "{description}"
    );
    assert_eq!(description["servers"][0]["url"], "https://id.example.cn");
    assert_eq!(description["info"]["version"], env!("CARGO_PKG_VERSION"));
    let mut operations = std::collections::HashSet::new();
    for (path, methods) in description["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let id = operation["operationId"].as_str().expect("an id");
            assert!(operations.insert(id), "{id} twice");
            // Every described route is one.
            let at = path.replace("{handle}", "88.118.20/pump");
            let reply = node.ask("https", &at, &["-X", &method.to_uppercase()]);
            let status = reply.status.to_string();
            assert!(
                operation["responses"].get(&status).is_some(),
                "{method} {path}: {status} is not described"
            );
        }
    }
    assert_eq!(operations.len(), 28, "{operations:?}");
    for (path, methods) in description["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            assert_shapes(&description, &format!("{method} {path}"), operation);
        }
    }
    // A job takes what a batch takes, and registrations.
    let job = &description["paths"]["/api/v1/jobs"]["post"];
    let named = |operation: &Json| -> Vec<String> {
        let all = operation["parameters"].as_array().unwrap().iter();
        all.map(|one| one["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let batch = named(&description["paths"]["/api/v1/batch/resolve"]["post"]);
    let own = named(job);
    assert!(batch.iter().all(|name| own.contains(name)), "{own:?}");
    let bodies = job["requestBody"]["content"].as_object().unwrap();
    for kind in [
        "text/csv",
        "application/x-ndjson",
        "text/plain",
        "application/json",
    ] {
        assert!(bodies[kind]["schema"].is_object(), "{bodies:?}");
    }
    let ways = description["paths"]["/api/handles/{handle}"]["put"]["security"].as_array();
    let ways: Vec<&String> = ways
        .unwrap()
        .iter()
        .flat_map(|way| way.as_object().unwrap().keys())
        .collect();
    assert_eq!(ways, ["token", "basic", "session", "certificate"]);
    for way in ways {
        let scheme = &description["components"]["securitySchemes"][way];
        assert!(
            scheme["type"].is_string() && scheme["description"].is_string(),
            "{way}"
        );
    }
    let docs = node.get("/docs");
    assert_eq!(docs.status, 200);
    for (path, _) in description["paths"].as_object().unwrap() {
        assert!(docs.body.contains(path.as_str()), "{path}");
    }
    assert!(
        !docs.body.contains("src=") && !docs.body.contains("http://"),
        "nothing from elsewhere"
    );
}
