//! Goal: whoever asks in Chinese is told in Chinese why not, and whoever does not in English; codes stay what they are.

use crate::node::{Node, Reply, USER};
use crate::tokens::create;

const HANDLE: &str = "/api/handles/88.118.20/new";
const SECRET: &str = "/api/handles/88.118.20/secret?publicOnly=false";
const BODY: &str = r#"[{"index":1,"type":"N","data":"1"}]"#;
const OTHER: &str = r#"[{"index":1,"type":"N","data":"2"}]"#;

/// A request that is refused: scheme, path, arguments of curl; its code, and what is said.
type Refused<'a> = (&'a str, &'a str, &'a [&'a str], &'a str, [&'a str; 2]);

fn put(body: &str) -> [&str; 6] {
    ["-u", USER, "-X", "PUT", "--data-binary", body]
}

fn by<'a>(token: &'a str, body: &'a str) -> [&'a str; 6] {
    ["-H", token, "-X", "PUT", "-d", body]
}

fn check(reply: &Reply, code: &str, said: &str) {
    let problem = reply.json();
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert_eq!(problem["code"], code, "{reply:?}");
    assert!(detail.starts_with(said), "{detail:?}, not {said:?}");
    if let Some(message) = problem.get("message") {
        assert_eq!(message, detail, "the same twice");
    }
}

#[test]
fn refusals() {
    let node = Node::new();
    let bearer = |more: &[&str]| format!("Authorization: Bearer {}", create(&node, more).1);
    let reader = bearer(&["--right", "resolve"]);
    let elsewhere = bearer(&["--right", "write", "--prefix", "88.118.21"]);
    let spent = bearer(&["--right", "resolve", "--quota", "1"]);
    let ask = ["-H", &spent];
    assert_eq!(node.ask("https", SECRET, &ask).status, 200);
    let key = ["-u", USER, "-X", "PUT", "-H", "Idempotency-Key: one"];
    let first = node.ask("https", HANDLE, &[&key[..], &["-d", BODY]].concat());
    assert_eq!(first.status, 201);
    let big = node.path("big");
    std::fs::write(&big, "x".repeat(2 << 20)).expect("writes");
    let big = format!("@{}", big.display());
    let reused = [&key[..], &["-d", OTHER]].concat();
    let cases: &[Refused<'_>] = &[
        (
            "http",
            "/api/handles/10.9999/x",
            &[],
            "not_responsible",
            ["该前缀不归属本节点", "this prefix is not homed here"],
        ),
        (
            "http",
            "/api/handles/",
            &[],
            "invalid_handle",
            ["路径中没有标识", "the path names no handle"],
        ),
        (
            "http",
            "/api/handles/88.118.20/pump?index=0",
            &[],
            "invalid_request",
            [
                "必须是 1 到 2147483647 之间的整数",
                "must be a number from 1 to 2147483647",
            ],
        ),
        (
            "http",
            SECRET,
            &["-u", USER],
            "plain_http",
            [
                "凭据只能通过 HTTPS 提交",
                "credentials are taken over HTTPS only",
            ],
        ),
        (
            "https",
            SECRET,
            &["-u", "nonsense:geheim"],
            "authentication_failed",
            [
                "用户名必须是经百分号编码的 index%3Ahandle",
                "the user must be index%3Ahandle",
            ],
        ),
        (
            "https",
            "/api/v1/identity",
            &["-H", "Authorization: Bearer x"],
            "token_not_valid",
            ["令牌不存在或已失效", "no such token, or it has ended"],
        ),
        (
            "https",
            HANDLE,
            &by(&reader, BODY),
            "token_not_allowed",
            ["该令牌没有 write 权限", "the token has not the right write"],
        ),
        (
            "https",
            HANDLE,
            &by(&elsewhere, BODY),
            "token_not_allowed",
            ["该令牌用于其他前缀", "the token is for other prefixes"],
        ),
        (
            "https",
            SECRET,
            &ask,
            "quota_used_up",
            [
                "该令牌今日可用的标识数已用完",
                "the identifiers that the token has for today are used up",
            ],
        ),
        (
            "https",
            HANDLE,
            &put("{"),
            "invalid_request",
            ["请求体不是 JSON：EOF", "the body is not JSON: EOF"],
        ),
        (
            "https",
            HANDLE,
            &put("[]"),
            "invalid_value",
            ["没有任何值", "there is no value"],
        ),
        (
            "https",
            HANDLE,
            &put(&big),
            "body_too_large",
            [
                "请求体超过此处允许的长度",
                "the body is longer than is accepted here",
            ],
        ),
        (
            "https",
            HANDLE,
            &reused,
            "idempotency_key_reused",
            [
                "该键此前已用于其他内容",
                "this key came before with another content",
            ],
        ),
    ];
    for (scheme, path, arguments, code, [chinese, english]) in cases {
        let in_chinese = ["-H", "Accept-Language: zh-CN,zh;q=0.9"];
        let reply = node.ask(scheme, path, &[*arguments, &in_chinese[..]].concat());
        check(&reply, code, chinese);
        check(&node.ask(scheme, path, arguments), code, english);
    }
    // The page of an error is the same table's.
    let in_chinese = ["-H", "Accept-Language: zh"];
    let page = node.ask("http", "/10.9999/x", &in_chinese).body;
    assert!(
        page.contains("该前缀不归属本节点") && !page.contains("not homed"),
        "{page}"
    );
    assert!(
        node.get("/10.9999/x")
            .body
            .contains("this prefix is not homed here")
    );
}
