//! Goal: what a network may have resolved without a proof of who asks is one budget for connections of the Handle protocol,
//! for HTTP and for batches; it slows down and refuses nobody else. Method: a small budget, real clients.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::batch::{PATH, post, token};
use crate::node::{Node, Reply};

/// So many lines, in a file of the node's directory.
fn lines(node: &Node, count: usize) -> String {
    let file = node.path("lines.txt");
    fs::write(&file, "88.118.20/pump\n".repeat(count)).expect("writes");
    file.to_str().expect("text").to_owned()
}

/// A batch by the command, all of whose lines are found.
fn command(node: &Node, server: &str, count: usize) {
    let (input, out) = (lines(node, count), node.path("out.ndjson"));
    let out = out.to_str().expect("text");
    let arguments = ["batch", "resolve", &input, "--server", server, "--out", out];
    let (good, said) = node.run(&arguments);
    assert!(
        good && said.contains(&format!("success {count}")),
        "{server}: {said}"
    );
}

/// A batch without a token.
fn batch(node: &Node, body: &str) -> Reply {
    let arguments = ["-H", "Content-Type: text/plain", "--data-binary", body];
    node.ask("https", PATH, &arguments)
}

#[test]
fn one_budget_for_all() {
    let node = Node::with(&[
        ("JIEXI_ANONYMOUS_RATE", "10"),
        ("JIEXI_ANONYMOUS_BURST", "1000"),
        ("JIEXI_ANONYMOUS_BATCH", "true"),
    ]);
    let (_, token) = token(&node, &[]);
    assert_eq!(node.get("/api/handles/88.118.20/pump").status, 200);
    assert_eq!(batch(&node, "88.118.20/pump\n").status, 200);
    assert_eq!(node.metric("jiexi_batch_lines_total "), 1.0);
    assert_eq!(node.metric("jiexi_jobs{state=\"running\"} "), 0.0);

    // More than the burst over the Handle protocol: it is answered, and the network owes for it.
    let handle = format!("handle://127.0.0.1:{}", node.handle);
    command(&node, &handle, 1_400);

    let refused = node.get("/api/handles/88.118.20/pump");
    assert_eq!(refused.status, 429);
    // The client's doing, and no fault of the node.
    let answered = |outcome: &str| {
        ["tcp", "tls"].map(|transport| {
            let labels =
                format!("outcome=\"{outcome}\",protocol=\"http\",transport=\"{transport}\"");
            node.metric(&format!("jiexi_responses_total{{{labels}}}"))
        })
    };
    assert_eq!(answered("limited").iter().sum::<f64>(), 1.0);
    assert_eq!(answered("busy"), [0.0, 0.0]);
    let wait: u32 = refused
        .header("retry-after")
        .and_then(|wait| wait.parse().ok())
        .expect("a time");
    assert!((1..=41).contains(&wait), "{wait}");

    // Credentials that nobody looks at prove nothing.
    let odd = ["-H", "Authorization: foo"];
    for path in [
        "/88.118.20/pump?noredirect",
        "/hdl/88.118.20/pump",
        "/88.118.20/pump",
    ] {
        assert_eq!(node.ask("https", path, &odd).status, 429, "{path}");
    }
    assert_eq!(node.get("/docs").status, 200, "it resolves nothing");

    // Who proves who asks is not slowed down, and neither is a datagram, whose sender may be forged.
    assert_eq!(
        post(&node, &token, "", b"88.118.20/pump\n", &[]).status,
        200
    );
    let udp = [
        "resolve",
        "88.118.20/pump",
        "--udp",
        "--server",
        &format!("127.0.0.1:{}", node.handle),
    ];
    node.must(&udp);
}

#[test]
fn who_asks_faster_is_slowed_down() {
    let servers: [fn(&Node) -> String; 2] = [
        |node| format!("handle://127.0.0.1:{}", node.handle),
        |node| format!("http://127.0.0.1:{}", node.http),
    ];
    for server in servers {
        let node = Node::with(&[
            ("JIEXI_ANONYMOUS_RATE", "1000"),
            ("JIEXI_ANONYMOUS_BURST", "100"),
            ("JIEXI_ANONYMOUS_BATCH", "true"),
        ]);
        let (server, begun) = (server(&node), Instant::now());
        command(&node, &server, 4_000);
        // One read of a connection, some thousand of them, is answered before it waits.
        let passed = begun.elapsed();
        assert!(
            passed > Duration::from_millis(2_000),
            "{server}: {passed:?}"
        );
    }
}

#[test]
fn a_network_that_owes_much_gets_a_time_for_its_batch() {
    let node = Node::with(&[
        ("JIEXI_ANONYMOUS_RATE", "1"),
        ("JIEXI_ANONYMOUS_BURST", "100"),
        ("JIEXI_ANONYMOUS_BATCH", "true"),
    ]);
    let answer = batch(&node, &"88.118.20/pump\n".repeat(1_000));
    let all: Vec<Json> = answer
        .body
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let (summary, answers) = all.split_last().expect("a summary");
    assert_eq!((answer.status, answers.len()), (200, 1_000));
    assert_eq!(summary["complete"], true, "{summary}");
    let late = answers.last().expect("answers");
    assert_eq!(late["code"], "quota_used_up", "{late}");
    assert!(late["renewal"].is_string(), "{late}");
}

#[test]
fn a_batch_needs_a_token_unless_it_is_said_otherwise() {
    let node = Node::new();
    let refused = batch(&node, "88.118.20/pump\n");
    assert_eq!(
        (refused.status, refused.json()["code"].as_str()),
        (401, Some("authentication_needed"))
    );

    let node = Node::with(&[("JIEXI_ANONYMOUS_BATCH", "true")]);
    let answer = batch(&node, "88.118.20/pump\n88.118.20/secret\n");
    let answers: Vec<Json> = answer
        .body
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(answers[0]["responseCode"], 1);
    assert_eq!(
        answers[1]["responseCode"], 200,
        "restricted values are for nobody: {}",
        answers[1]
    );
    // What takes a right takes a token.
    for query in ["?publicOnly=false", "?recursive=true"] {
        let path = format!("{PATH}{query}");
        let arguments = [
            "-H",
            "Content-Type: text/plain",
            "--data-binary",
            "88.118.20/pump",
        ];
        assert_eq!(node.ask("https", &path, &arguments).status, 401, "{query}");
    }
    // A misspelt parameter is none.
    let reply = node.ask(
        "https",
        &format!("{PATH}?publiconly=true"),
        &["-d", "88.118.20/pump", "-H", "Content-Type: text/plain"],
    );
    assert_eq!(
        (reply.status, reply.json()["field"].as_str()),
        (400, Some("publiconly"))
    );
    // A wrong token is not nobody.
    assert_eq!(
        post(&node, "jx_wrong_wrong", "", b"88.118.20/pump\n", &[]).status,
        401
    );
}
