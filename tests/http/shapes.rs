//! Goal: bodies and answers are what the description of the API says. Method: real requests of every kind; as much of
//! JSON Schema as the description uses, in few lines. schemathesis goes further in `tests/http/schemathesis/run.sh`.

use serde_json::{Value as Json, json};

use crate::node::{Node, Reply, USER};
use crate::tokens::create;

/// Whether a value has a shape; else where not.
fn fits(all: &Json, shape: &Json, value: &Json, place: &str) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{place}: {what}: {value}"));
    if let Some(name) = shape["$ref"].as_str() {
        let known = all.pointer(name.trim_start_matches('#'));
        return fits(all, known.expect("a known shape"), value, place);
    }
    for part in shape["allOf"].as_array().into_iter().flatten() {
        fits(all, part, value, place)?;
    }
    if let Some(parts) = shape["anyOf"].as_array() {
        let tried: Vec<_> = parts
            .iter()
            .map(|part| fits(all, part, value, place))
            .collect();
        if tried.iter().all(Result::is_err) {
            return wrong(&format!("none of {tried:?}"));
        }
    }
    let kinds = match &shape["type"] {
        Json::Array(kinds) => kinds.clone(),
        Json::Null => Vec::new(),
        kind => vec![kind.clone()],
    };
    let is = |kind: &Json| match kind.as_str().expect("a type") {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("type {other}"),
    };
    if !kinds.is_empty() && !kinds.iter().any(is) {
        return wrong("another type");
    }
    if shape["enum"]
        .as_array()
        .is_some_and(|known| !known.contains(value))
    {
        return wrong("not listed");
    }
    for (name, fails) in [("minimum", -1), ("maximum", 1)] {
        let bound = shape[name].as_i64().zip(value.as_i64());
        if bound.is_some_and(|(bound, number)| (number - bound).signum() == fails) {
            return wrong(name);
        }
    }
    let missing = |name: &&Json| value.get(name.as_str().unwrap_or_default()).is_none();
    if let (true, Some(name)) = (
        value.is_object(),
        shape["required"]
            .as_array()
            .into_iter()
            .flatten()
            .find(missing),
    ) {
        return wrong(&format!("without {name}"));
    }
    for (name, member) in value.as_object().into_iter().flatten() {
        match shape["properties"].get(name) {
            Some(shape) => fits(all, shape, member, &format!("{place}.{name}"))?,
            None if shape["additionalProperties"] == json!(false) => {
                return wrong(&format!("{name} is not known"));
            }
            None => {}
        }
    }
    for (number, item) in value.as_array().into_iter().flatten().enumerate() {
        fits(all, &shape["items"], item, &format!("{place}[{number}]"))?;
    }
    Ok(())
}

/// The answer's shape is that of its status and media type in the description.
pub(crate) fn check(all: &Json, method: &str, route: &str, reply: &Reply) {
    let operation = &all["paths"][route][method.to_lowercase()];
    let kind = reply.header("content-type").expect("a type");
    let shape = &operation["responses"][reply.status.to_string()]["content"][kind]["schema"];
    assert!(shape.is_object(), "{method} {route}: {reply:?}");
    let place = format!("{method} {route} {}", reply.status);
    fits(all, shape, &reply.json(), &place).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn answers() {
    let node = Node::new();
    let all = node.get("/api/openapi.json").json();
    let handle = "/api/handles/{handle}";
    let refused = [
        "/api/handles/88.118.20/nope",
        "/api/handles/10.9999/x",
        "/api/handles/88.118.20/pump?index=0",
    ];
    let read = [
        "/api/handles/88.118.20/pump",
        "/api/handles/0.NA/88.118.20",
        "/api/handles/88.118.20/pump?type=NONE",
        "/api/handles/88.118.20/secret?publicOnly=false",
    ];
    for path in read.into_iter().chain(refused) {
        check(&all, "GET", handle, &node.admin(path, &[]));
        check(&all, "GET", handle, &node.ask("https", path, &[]));
    }
    let new = "/api/handles/88.118.20/new";
    for body in [
        r#"{"index":1,"type":"N","data":"x"}"#,
        r#"[{"index":1,"type":"N","data":"x"}]"#,
        "{",
        "[]",
    ] {
        check(
            &all,
            "PUT",
            handle,
            &node.admin(new, &["-X", "PUT", "-d", body]),
        );
    }
    for query in ["?index=9", "", ""] {
        let path = format!("{new}{query}");
        check(
            &all,
            "DELETE",
            handle,
            &node.admin(&path, &["-X", "DELETE"]),
        );
    }
    for query in ["?prefix=88.118.20", "?prefix=88.118.20&pageSize=1", ""] {
        let path = format!("/api/handles{query}");
        check(&all, "GET", "/api/handles", &node.admin(&path, &[]));
    }
    for query in ["?prefix=88.118.20", "?prefix=88.118.20&limit=1", ""] {
        let path = format!("/api/v1/handles{query}");
        check(&all, "GET", "/api/v1/handles", &node.admin(&path, &[]));
    }
    let opened = node.ask("https", "/api/sessions", &["-X", "POST"]);
    check(&all, "POST", "/api/sessions", &opened);
    let this = format!(
        "Authorization: Handle sessionId={}",
        opened.json()["sessionId"]
    );
    for method in ["GET", "POST", "PUT", "DELETE", "GET"] {
        let route = "/api/sessions/this";
        let reply = node.ask("https", route, &["-X", method, "-H", &this]);
        check(&all, method, route, &reply);
    }
    let token = format!(
        "Authorization: Bearer {}",
        create(&node, &["--right", "batch", "--quota", "9"]).1
    );
    for route in ["/api/v1/identity", "/api/v1/quota"] {
        for credentials in [["-H", &token], ["-u", USER], ["-H", "X-Nothing: x"]] {
            check(&all, "GET", route, &node.ask("https", route, &credentials));
        }
    }
}

/// What the description takes for a body the node takes, and the other way round.
#[test]
fn bodies() {
    let node = Node::new();
    let all = node.get("/api/openapi.json").json();
    let shape = &all["components"]["schemas"]["RecordBody"];
    let value = |data: Json| json!({"index": 1, "type": "N", "data": data});
    let with = |name: &str, member: Json| {
        let mut value = value(json!("x"));
        value[name] = member;
        value
    };
    let formatted =
        |format: &str, content: Json| value(json!({"format": format, "value": content}));
    let reference = json!({"handle": "88.118.20/USER", "index": 300});
    let admin = |permissions| json!({"handle": "a/b", "index": 300, "permissions": permissions});
    let site = node.get("/api/handles/0.NA/88.118.20").json();
    for (body, good) in [
        (value(json!("x")), true),
        (json!([value(json!("x"))]), true),
        (
            json!({"values": [value(json!("x"))], "handle": "another"}),
            true,
        ),
        (site, true),
        (formatted("string", json!("x")), true),
        (formatted("base64", json!("AP8=")), true),
        (formatted("hex", json!("00ff")), true),
        (formatted("admin", admin("111111111111")), true),
        (formatted("vlist", json!([reference])), true),
        (with("references", json!([reference])), true),
        (with("ttl", json!(60)), true),
        (with("ttl", json!("2030-01-31T00:00:00Z")), true),
        (with("timestamp", json!("2020-01-31T00:00:00Z")), true),
        (with("permissions", json!("1110")), true),
        (value(json!(7)), false),
        (value(json!({"format": "string"})), false),
        (formatted("string", json!(7)), false),
        (formatted("text", json!("x")), false),
        (
            formatted("admin", json!({"handle": "a/b", "index": 300})),
            false,
        ),
        (formatted("vlist", json!({"handle": "a/b"})), false),
        (with("ttl", json!(true)), false),
        (with("timestamp", json!(7)), false),
        (with("references", json!([{"handle": "a/b"}])), false),
        (with("index", json!(0)), false),
        (with("anything", json!("x")), false),
        (json!("x"), false),
        (json!({"values": "x"}), false),
    ] {
        let described = fits(&all, shape, &body, "body");
        assert_eq!(described.is_ok(), good, "{body}: {described:?}");
        let text = body.to_string();
        let reply = node.admin("/api/handles/88.118.20/body", &["-X", "PUT", "-d", &text]);
        assert_eq!(reply.status < 300, good, "{body}: {reply:?}");
    }
}

/// Goal: a batch may be asked for without a body: then it has no lines. The description says the same.
#[test]
fn a_batch_without_a_body() {
    let node = Node::new();
    let all = node.get("/api/openapi.json").json();
    let body = &all["paths"]["/api/v1/batch/resolve"]["post"]["requestBody"];
    assert_eq!(body["required"], json!(false), "{body}");
    assert!(body["content"]["text/plain"].is_object(), "{body}");
    let put = &all["paths"]["/api/handles/{handle}"]["put"]["requestBody"];
    assert_eq!(put["required"], json!(true), "others need theirs");
    let token = create(&node, &["--right", "batch"]).1;
    let token = format!("Authorization: Bearer {token}");
    let asked = ["-X", "POST", "-H", &token];
    let reply = node.ask("https", "/api/v1/batch/resolve", &asked);
    let summary = reply.json();
    assert_eq!(
        (reply.status, &summary["complete"], &summary["lines"]),
        (200, &json!(true), &json!(0))
    );
    let change = ["-X", "PUT", "-u", USER];
    assert_eq!(
        node.ask("https", "/api/handles/88.118.20/none", &change)
            .status,
        400
    );
}
