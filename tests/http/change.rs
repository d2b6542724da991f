//! Goal: PUT, DELETE and lists as the Handle JSON API has them, and idempotency keys that survive a kill.

use serde_json::json;

use crate::node::{Node, PREFIX, USER};

const NEW: &str = "/api/handles/88.118.20/new";

fn put(node: &Node, path: &str, body: &str, more: &[&str]) -> crate::node::Reply {
    node.admin(path, &[&["-X", "PUT", "-d", body][..], more].concat())
}

#[test]
fn create_replace_delete() {
    let node = Node::new();
    let one = r#"{"values":[{"index":1,"type":"URL","data":"http://a.cn"},{"index":2,"type":"N","data":"2"}]}"#;
    assert_eq!(
        put(&node, &format!("{NEW}?overwrite=false"), one, &[]).both(),
        (201, 1)
    );
    assert_eq!(
        put(&node, &format!("{NEW}?overwrite=false"), one, &[]).both(),
        (409, 101)
    );
    assert_eq!(put(&node, NEW, one, &[]).both(), (200, 1));
    let array = r#"[{"index":1,"type":"URL","data":{"format":"string","value":"http://b.cn"}}]"#;
    assert_eq!(
        put(&node, &format!("{NEW}?overwrite=true&index=1"), array, &[]).both(),
        (200, 1)
    );
    let single = r#"{"index":3,"type":"N","data":{"format":"base64","value":"AP8="}}"#;
    assert_eq!(
        put(&node, &format!("{NEW}?index=various"), single, &[]).both(),
        (201, 1)
    );
    assert_eq!(
        put(
            &node,
            &format!("{NEW}?index=various&overwrite=false"),
            single,
            &[]
        )
        .both(),
        (409, 201)
    );
    assert_eq!(
        put(&node, &format!("{NEW}?index=1"), single, &[]).both(),
        (400, 4),
        "3 is not 1"
    );
    assert_eq!(
        put(&node, "/api/handles/88.118.20/none?index=3", single, &[]).both(),
        (404, 100)
    );
    let values = node.get(NEW).json()["values"].clone();
    let seen: Vec<_> = values
        .as_array()
        .unwrap()
        .iter()
        .map(|value| (value["index"].clone(), value["data"]["value"].clone()))
        .collect();
    assert_eq!(
        json!(seen),
        json!([[1, "http://b.cn"], [2, "2"], [3, "AP8="]])
    );
    assert_eq!(
        node.admin(&format!("{NEW}?index=1&index=3"), &["-X", "DELETE"])
            .both(),
        (200, 1)
    );
    assert_eq!(
        node.admin(&format!("{NEW}?index=3"), &["-X", "DELETE"])
            .both(),
        (400, 200)
    );
    assert_eq!(node.admin(NEW, &["-X", "DELETE"]).both(), (200, 1));
    assert_eq!(node.admin(NEW, &["-X", "DELETE"]).both(), (404, 100));
    assert_eq!(node.get(NEW).both(), (404, 100));
}

/// Every form that is written is read: the node's own prefix record makes the way back.
#[test]
fn every_format_both_ways() {
    let node = Node::new();
    for source in ["0.NA/88.118.20", "88.118.20/pump"] {
        let before = node.get(&format!("/api/handles/{source}")).json();
        let file = node.path("body");
        std::fs::write(&file, before.to_string()).unwrap();
        let reply = put(
            &node,
            "/api/handles/88.118.20/copy",
            &format!("@{}", file.display()),
            &[],
        );
        assert!(matches!(reply.status, 200 | 201), "{reply:?}");
        let after = node.get("/api/handles/88.118.20/copy").json();
        let data = |record: &serde_json::Value| -> Vec<serde_json::Value> {
            record["values"]
                .as_array()
                .unwrap()
                .iter()
                .map(|value| value["data"].clone())
                .collect()
        };
        assert_eq!(data(&before), data(&after), "{source}");
    }
}

#[test]
fn bodies_that_are_wrong_name_the_field() {
    let node = Node::new();
    for (body, code, field) in [
        ("{", 4, ""),
        ("[]", 202, "values"),
        ("7", 202, ""),
        (r#"{"values":7}"#, 202, "values"),
        (
            r#"[{"index":1,"type":"N","data":5}]"#,
            202,
            "values[0].data",
        ),
        (
            r#"[{"index":1,"type":"N","data":"x"},{"index":1,"type":"N"}]"#,
            202,
            "values[1]",
        ),
        (
            r#"[{"index":1,"type":"N","data":{"format":"hex","value":"zz"}}]"#,
            202,
            "values[0].data.value",
        ),
        (r#"[{"index":0,"type":"N","data":"x"}]"#, 202, ""),
    ] {
        let reply = put(&node, NEW, body, &[]);
        assert_eq!(reply.both(), (400, code), "{body}: {reply:?}");
        if !field.is_empty() {
            assert_eq!(reply.json()["field"], field, "{body}");
        }
    }
    let twice = r#"[{"index":1,"type":"N","data":"x"},{"index":1,"type":"N","data":"y"}]"#;
    assert_eq!(put(&node, NEW, twice, &[]).both(), (409, 201));
    assert_eq!(
        put(&node, "/api/handles/10.9999/x", twice, &[]).both(),
        (400, 301)
    );
}

#[test]
fn idempotency_keys() {
    let mut node = Node::new();
    let (body, other) = (
        r#"[{"index":1,"type":"N","data":"1"}]"#,
        r#"[{"index":1,"type":"N","data":"2"}]"#,
    );
    let key = ["-H", "Idempotency-Key: one"];
    let path = format!("{NEW}?overwrite=false");
    assert_eq!(put(&node, &path, body, &key).both(), (201, 1));
    node.kill();
    node.start();
    let again = put(&node, &path, body, &key);
    assert_eq!(
        (again.both(), again.header("idempotency-replayed")),
        ((201, 1), Some("true")),
        "{again:?}"
    );
    assert_eq!(put(&node, &path, other, &key).status, 422);
    assert_eq!(
        put(&node, &path, body, &[]).both(),
        (409, 101),
        "without the key it is another request"
    );
    assert_eq!(
        put(&node, &path, body, &["-H", "Idempotency-Key: two"]).both(),
        (409, 101)
    );
    // Another path, method or principal: another scope.
    assert_eq!(
        put(&node, "/api/handles/88.118.20/new2", body, &key).both(),
        (201, 1)
    );
    assert_eq!(
        node.admin(NEW, &["-X", "DELETE", "-H", "Idempotency-Key: one"])
            .both(),
        (200, 1)
    );
    // Another spelling of the path is the same path, and another query is another content.
    let spelled = "/api/handles/88.118.20%2fnew%32";
    let again = put(&node, spelled, body, &key);
    assert_eq!(
        (again.both(), again.header("idempotency-replayed")),
        ((201, 1), Some("true")),
        "{again:?}"
    );
    let queries = ["?overwrite=true", "?index=1", "?index=various", "?other=1"];
    for query in queries {
        let path = format!("/api/handles/88.118.20/new2{query}");
        let reply = put(&node, &path, body, &key);
        let problem = reply.json();
        assert_eq!(
            (reply.status, &problem["code"], &problem["field"]),
            (
                422,
                &json!("idempotency_key_reused"),
                &json!("Idempotency-Key")
            ),
            "{query}: {reply:?}"
        );
    }
    let two = r#"[{"index":1,"type":"N","data":"1"},{"index":2,"type":"N","data":"2"}]"#;
    assert_eq!(
        put(&node, "/api/handles/88.118.20/new3", two, &[]).status,
        201
    );
    let removed = |query: &str| {
        let path = format!("/api/handles/88.118.20/new3{query}");
        let remove = ["-X", "DELETE", "-H", "Idempotency-Key: three"];
        node.admin(&path, &remove).status
    };
    assert_eq!(removed("?index=1"), 200);
    assert_eq!([removed("?index=2"), removed("")], [422, 422]);
    assert_eq!(removed("?index=%31"), 200, "the same parameters");
    let left = node.get("/api/handles/88.118.20/new3").json()["values"].clone();
    assert_eq!(
        (left.as_array().unwrap().len(), &left[0]["index"]),
        (1, &json!(2))
    );
    let stranger = [
        "-u",
        "300%3A88.118.20%2FSTRANGER:fremd",
        "-X",
        "PUT",
        "-d",
        body,
        "-H",
        "Idempotency-Key: one",
    ];
    let reply = node.ask("https", "/api/handles/88.118.20/new2", &stranger);
    assert_eq!(reply.status, 403, "never somebody else's answer: {reply:?}");
    for wrong in [
        "Idempotency-Key: a b",
        &format!("Idempotency-Key: {}", "k".repeat(256)),
    ] {
        assert_eq!(
            put(&node, NEW, body, &["-H", wrong]).both(),
            (400, 4),
            "{wrong}"
        );
    }
    // The same key at the same moment: one does it, the others hear of it or get its answer.
    let url = format!("https://127.0.0.1:{}/api/handles/88.118.20/race", node.http);
    let race = |_| {
        let mut curl = std::process::Command::new("curl");
        curl.args([
            "-sk",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "-u",
            USER,
            "-X",
            "PUT",
            "-d",
            body,
        ]);
        curl.args(["-H", "Idempotency-Key: race", &url])
            .stdout(std::process::Stdio::piped());
        curl.spawn().expect("curl")
    };
    let running: Vec<_> = (0..8).map(race).collect();
    for child in running {
        let status = child.wait_with_output().expect("ends").stdout;
        let status = String::from_utf8(status).unwrap();
        assert!(status == "201" || status == "409", "{status}");
    }
    assert_eq!(
        put(
            &node,
            "/api/handles/88.118.20/race",
            body,
            &["-H", "Idempotency-Key: race"]
        )
        .status,
        201
    );
}

#[test]
fn lists() {
    let node = Node::new();
    let lines: Vec<String> = (0..250)
        .map(|n| json!({"handle": format!("88.118.21/item.{n:04}"), "values": [{"index": 1, "type": "N", "data": "x"}]}).to_string())
        .collect();
    node.import(&lines.join("\n"));
    let page = |query: &str| {
        node.admin(&format!("/api/handles?prefix=88.118.21{query}"), &[])
            .json()
    };
    let first = page("");
    assert_eq!(
        (first["handles"][0].as_str(), first["next"].as_str()),
        (Some("88.118.21/item.0000"), Some("88.118.21/item.0099"))
    );
    assert_eq!(page("&page=2")["handles"].as_array().unwrap().len(), 50);
    assert_eq!(page("&page=2")["totalCount"], 250);
    assert_eq!(page("&page=3")["handles"].as_array().unwrap().len(), 0);
    assert_eq!(
        page("&pageSize=3&after=88.118.21/item.0099")["handles"][0],
        "88.118.21/item.0100"
    );
    let stranger = ["-u", "300%3A88.118.20%2FSTRANGER:fremd"];
    assert_eq!(
        node.ask("https", "/api/handles?prefix=88.118.21", &stranger)
            .both(),
        (403, 400)
    );
    assert_eq!(
        node.ask("https", "/api/handles?prefix=88.118.21", &[])
            .both(),
        (401, 402)
    );
    assert_eq!(
        node.admin("/api/handles?prefix=10.9999", &[]).both(),
        (400, 301)
    );
    assert_eq!(node.admin("/api/handles", &[]).both(), (400, 4));
    let audited = node.must(&["audit", "--config", &node.config()]);
    assert!(
        audited.contains("300:88.118.20/STRANGER") && audited.contains("list"),
        "{audited}"
    );
    let url = format!(
        "https://127.0.0.1:{}/api/handles?prefix={PREFIX}&x=[1-60]",
        node.http
    );
    let flood = crate::node::curl(&["-u", USER, &url, "-o", "/dev/null"]);
    assert!(
        flood.headers.contains(" 429"),
        "lists are rate-limited: {}",
        flood.headers
    );
}
