//! Goal: a token does what it is for and nothing else, and nothing after its end.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value as Json;

use crate::node::{Node, Reply};

const BODY: &str = r#"[{"index":1,"type":"N","data":"x"}]"#;
const SECRET: &str = "/api/handles/88.118.20/secret?publicOnly=false";

/// The id and the text of a new token of the user.
pub(crate) fn create(node: &Node, more: &[&str]) -> (String, String) {
    let fixed = [
        "token",
        "create",
        "--identity",
        "300:88.118.20/USER",
        "-o",
        "json",
        "--config",
        &node.config(),
    ];
    let made: Json = serde_json::from_str(&node.must(&[&fixed[..], more].concat())).expect("JSON");
    (
        made["id"].as_str().unwrap().to_owned(),
        made["token"].as_str().unwrap().to_owned(),
    )
}

fn ask(node: &Node, token: &str, path: &str, more: &[&str]) -> Reply {
    let header = format!("Authorization: Bearer {token}");
    node.ask("https", path, &[&["-H", &header][..], more].concat())
}

#[test]
fn rights_and_prefixes() {
    let node = Node::new();
    let (_, reader) = create(&node, &["--right", "resolve"]);
    let (_, writer) = create(&node, &["--right", "write", "--prefix", "88.118.21"]);
    let (_, master) = create(&node, &["--right", "write,admin,list,resolve"]);
    assert_eq!(ask(&node, &reader, SECRET, &[]).both(), (200, 1));
    assert_eq!(ask(&node, &writer, SECRET, &[]).both(), (403, 401));
    assert_eq!(
        ask(&node, &writer, "/api/handles/88.118.20/pump", &[]).both(),
        (200, 1),
        "what everybody may read"
    );
    let put = |token: &str, handle: &str, body: &str| {
        ask(
            &node,
            token,
            &format!("/api/handles/{handle}"),
            &["-X", "PUT", "-d", body],
        )
        .both()
    };
    assert_eq!(put(&reader, "88.118.21/a", BODY), (403, 401));
    assert_eq!(put(&writer, "88.118.21/a", BODY), (201, 1));
    assert_eq!(put(&writer, "88.118.20/a", BODY), (403, 401));
    let admin = r#"[{"index":100,"type":"HS_ADMIN","data":{"format":"admin","value":{"handle":"a/b","index":1,"permissions":"111111111111"}}}]"#;
    assert_eq!(
        put(&writer, "88.118.21/b", admin),
        (403, 401),
        "who administers is another right"
    );
    assert_eq!(put(&master, "88.118.21/b", admin), (201, 1));
    assert_eq!(
        put(&writer, "88.118.21/b", BODY),
        (403, 401),
        "nor is it to be overwritten"
    );
    let delete = |token: &str, path: &str| {
        let path = format!("/api/handles/{path}");
        ask(&node, token, &path, &["-X", "DELETE"]).both()
    };
    for path in ["88.118.21/b?index=100", "88.118.21/b"] {
        assert_eq!(delete(&writer, path), (403, 401), "nor to go: {path}");
    }
    assert_eq!(delete(&writer, "88.118.21/a"), (200, 1), "without HS_ADMIN");
    assert_eq!(delete(&master, "88.118.21/b"), (200, 1));
    assert_eq!(put(&master, "88.118.21/b", admin), (201, 1));
    assert_eq!(
        ask(&node, &master, "/api/handles?prefix=88.118.21", &[]).both(),
        (200, 1)
    );
    assert_eq!(
        ask(&node, &writer, "/api/handles?prefix=88.118.21", &[]).both(),
        (403, 401)
    );
    let me = ask(&node, &writer, "/api/v1/identity", &[]).json();
    assert_eq!(
        (me["identity"].as_str(), me["method"].as_str()),
        (Some("300:88.118.20/USER"), Some("token"))
    );
    assert_eq!(
        (&me["token"]["rights"], &me["token"]["prefixes"]),
        (
            &serde_json::json!(["write"]),
            &serde_json::json!(["88.118.21"])
        )
    );
    let problem = node.ask("https", "/api/v1/identity", &["-H", "Accept-Language: zh"]);
    assert_eq!(
        (problem.status, problem.header("content-type")),
        (401, Some("application/problem+json"))
    );
    assert_eq!(problem.json()["title"], "需要身份认证");
    assert_eq!(
        node.ask("https", "/api/v1/nothing", &[]).json()["code"],
        "no_such_page"
    );
    // A token is not more than its identity.
    let made = node.must(&[
        "token",
        "create",
        "--identity",
        "300:88.118.20/STRANGER",
        "--right",
        "write,admin,resolve",
        "-o",
        "json",
        "--config",
        &node.config(),
    ]);
    let made: Json = serde_json::from_str(&made).unwrap();
    assert_eq!(
        put(made["token"].as_str().unwrap(), "88.118.21/c", BODY),
        (403, 400)
    );
}

#[test]
fn only_in_the_header_and_only_the_right_one() {
    let node = Node::new();
    let (id, token) = create(&node, &["--right", "resolve"]);
    assert_eq!(token.len(), "jx_".len() + 12 + 1 + 64);
    assert_eq!(
        node.ask(
            "https",
            &format!("{SECRET}&token={token}&access_token={token}"),
            &[]
        )
        .both(),
        (401, 402)
    );
    let header = format!("Authorization: Bearer {token}");
    assert_eq!(
        node.ask("http", SECRET, &["-H", &header]).both(),
        (403, 402),
        "not over plain HTTP"
    );
    let mut wrong = token.clone();
    wrong.pop();
    let last = if token.ends_with('0') { '1' } else { '0' };
    for wrong in [
        format!("{wrong}{last}"),
        wrong.clone(),
        format!("{token}0"),
        format!("jx_{id}_"),
        "x".into(),
    ] {
        let reply = ask(&node, &wrong, SECRET, &[]);
        assert_eq!(
            (reply.status, reply.json()["code"].clone()),
            (401, "token_not_valid".into()),
            "{wrong}"
        );
    }
    // Neither log, audit trail, list nor store has it.
    let secret = token.rsplit('_').next().unwrap().to_owned();
    let listed = node.must(&["token", "list", "--config", &node.config()]);
    assert!(listed.contains(&id) && !listed.contains(&secret));
    assert!(!node.log().contains(&secret));
    let found = std::process::Command::new("grep")
        .args(["-rqa", &secret])
        .arg(node.data())
        .status()
        .expect("grep");
    assert_eq!(found.code(), Some(1), "the secret is on the disk");
}

#[test]
fn ends() {
    let mut node = Node::new();
    let (_, short) = create(&node, &["--right", "resolve", "--expires", "1s"]);
    std::thread::sleep(std::time::Duration::from_millis(2_100));
    assert_eq!(ask(&node, &short, SECRET, &[]).status, 401);
    let (_, few) = create(&node, &["--right", "resolve", "--quota", "2"]);
    let statuses: Vec<u16> = (0..3)
        .map(|_| ask(&node, &few, SECRET, &[]).status)
        .collect();
    assert_eq!(statuses, [200, 200, 429]);
    let (id, first) = create(&node, &["--right", "resolve"]);
    let rotated = node.must(&[
        "token",
        "rotate",
        &id,
        "--overlap",
        "1h",
        "-o",
        "json",
        "--config",
        &node.config(),
    ]);
    let second = serde_json::from_str::<Json>(&rotated).unwrap()["token"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        [&first, &second].map(|token| ask(&node, token, SECRET, &[]).status),
        [200, 200]
    );
    node.must(&[
        "token",
        "rotate",
        &id,
        "--overlap",
        "0s",
        "--config",
        &node.config(),
    ]);
    assert_eq!(
        [&first, &second].map(|token| ask(&node, token, SECRET, &[]).status),
        [401, 401]
    );
    // The file is for its owner, and the token is good after a kill.
    let file = node.path("token");
    create(
        &node,
        &["--right", "resolve", "--token-file", file.to_str().unwrap()],
    );
    assert_eq!(
        std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let kept = std::fs::read_to_string(&file).unwrap().trim().to_owned();
    node.kill();
    node.start();
    assert_eq!(ask(&node, &kept, SECRET, &[]).both(), (200, 1));
    let kept_id = kept.split('_').nth(1).unwrap();
    node.must(&["token", "revoke", kept_id, "--config", &node.config()]);
    assert_eq!(ask(&node, &kept, SECRET, &[]).status, 401);
    let (good, text) = node.run(&[
        "token",
        "revoke",
        "0123456789ab",
        "--config",
        &node.config(),
    ]);
    assert!(!good && text.contains("there is no token"), "{text}");
    // On a stopped node, too.
    node.kill();
    let (_, stopped) = create(&node, &["--right", "resolve"]);
    node.start();
    assert_eq!(ask(&node, &stopped, SECRET, &[]).both(), (200, 1));
}

/// What a token has left, as the headers of an answer say it, and when it has more.
fn left(reply: &Reply) -> Option<(u64, u64)> {
    let text = reply.header("ratelimit")?;
    let text = text.strip_prefix("\"day\";r=").expect(text);
    let (left, wait) = text.split_once(";t=").expect(text);
    Some((left.parse().expect(text), wait.parse().expect(text)))
}

/// Goal: a token with a quota hears in every answer what is left of it, whatever it asks; any other hears nothing.
#[test]
fn every_answer_says_what_is_left() {
    let node = Node::new();
    let rights = "resolve,list,changes,write";
    let (_, few) = create(&node, &["--right", rights, "--quota", "6"]);
    let (_, any) = create(&node, &["--right", rights]);
    let body = ["-X", "PUT", "-d", BODY];
    for (path, more, status, rest) in [
        (SECRET, &[][..], 200, 5),
        ("/api/handles/88.118.20/pump", &["--compressed"][..], 200, 4),
        ("/api/handles/88.118.20/none", &[], 404, 3),
        ("/api/handles/88.118.20/new", &body, 201, 2),
        ("/api/v1/handles?prefix=88.118.20", &[], 200, 1),
        // These cost nothing.
        ("/api/v1/changes", &[], 200, 1),
        ("/api/v1/changes?after=x", &[], 400, 1),
        ("/api/v1/jobs", &[], 200, 1),
        ("/api/v1/quota", &[], 200, 1),
        ("/api/handles?prefix=10.1", &[], 400, 0),
        (SECRET, &[], 429, 0),
        ("/api/v1/handles?prefix=88.118.20", &[], 429, 0),
        ("/api/v1/quota", &[], 200, 0),
    ] {
        let reply = ask(&node, &few, path, more);
        assert_eq!(reply.status, status, "{path}: {reply:?}");
        assert_eq!(
            (reply.header("ratelimit-policy"), left(&reply).unwrap().0),
            (Some("\"day\";q=6;w=86400"), rest),
            "{path}: {reply:?}"
        );
        if status == 429 {
            let wait = left(&reply).unwrap().1.to_string();
            assert_eq!(reply.header("retry-after"), Some(&*wait), "{path}");
        }
    }
    for reply in [
        ask(&node, &any, SECRET, &[]),
        ask(&node, &any, "/api/v1/quota", &[]),
        ask(&node, &few[..few.len() - 1], SECRET, &[]),
        node.get("/api/handles/88.118.20/pump"),
        node.admin(SECRET, &[]),
    ] {
        assert_eq!(left(&reply), None, "{reply:?}");
    }
    let all = node.get("/api/openapi.json").json();
    for (path, status) in [
        ("/api/handles/{handle}", "200"),
        ("/api/handles/{handle}", "429"),
        ("/api/v1/handles", "200"),
        ("/api/v1/changes", "200"),
        ("/api/v1/batch/resolve", "429"),
    ] {
        let operations = all["paths"][path].as_object().unwrap();
        let operation = operations.get("get").or_else(|| operations.get("post"));
        let headers = &operation.unwrap()["responses"][status]["headers"];
        let expected = [
            ("RateLimit", true),
            ("RateLimit-Policy", true),
            ("Retry-After", status == "429"),
        ];
        for (name, is_there) in expected {
            let place = headers[name]["$ref"].as_str();
            let known = place.and_then(|place| all.pointer(place.trim_start_matches('#')));
            assert_eq!(known.is_some(), is_there, "{path} {status} {name}");
        }
    }
}

/// Goal: a kill gives nothing back of what was asked one by one, and costs at most a hundredth of the quota.
#[test]
fn a_kill_gives_nothing_back() {
    let mut node = Node::new();
    let (_, some) = create(&node, &["--right", "resolve", "--quota", "500"]);
    let (_, two) = create(&node, &["--right", "resolve", "--quota", "2"]);
    let used = |node: &Node, token: &str| {
        let told = ask(node, token, "/api/v1/quota", &[]).json();
        told["used"].as_u64().unwrap()
    };
    for _ in 0..37 {
        assert_eq!(ask(&node, &some, SECRET, &[]).status, 200);
    }
    assert_eq!(ask(&node, &two, SECRET, &[]).status, 200);
    assert_eq!((used(&node, &some), used(&node, &two)), (37, 1));
    node.kill();
    node.start();
    let after = used(&node, &some);
    assert!((37..=42).contains(&after), "{after}");
    assert_eq!(used(&node, &two), 1, "of so few none is kept ahead");
    assert_eq!(
        [(); 2].map(|()| ask(&node, &two, SECRET, &[]).status),
        [200, 429]
    );
    // A node that ends as it should gives back what was not used.
    assert_eq!(ask(&node, &some, SECRET, &[]).status, 200);
    node.terminate();
    node.start();
    assert_eq!(used(&node, &some), after + 1);
}
