//! Goal: handles at home elsewhere in batches, for those who may have them asked, and only so many. Method: two nodes over
//! loopback, one of them the home of another prefix.

use serde_json::Value as Json;

use crate::batch::{post, token};
use crate::jobs::{PATH, ask, is_over, until};
use crate::node::Node;

pub(crate) const HOME: &str = r#"{"prefix":"10.7"}
{"handle":"10.7/Pump","values":[{"index":1,"type":"URL","data":"https://example.cn/far"},{"index":2,"type":"NOTE","data":"near"},{"index":3,"type":"NOTE","data":"closed","permissions":"1100"}]}
"#;

/// A node that asks another one at this port of the Handle protocol.
pub(crate) fn recursive(port: u16, more: &[(&str, &str)]) -> Node {
    let upstream = format!("127.0.0.1:{port}");
    let fixed = [
        ("JIEXI_RECURSION_ALLOW_RECURSION", "true"),
        ("JIEXI_RECURSION_UPSTREAM", &*upstream),
        ("JIEXI_RECURSION_OUTBOUND_ALLOW", "127.0.0.0/8"),
        ("JIEXI_RECURSION_DEADLINE", "1s"),
    ];
    Node::with(&[&fixed[..], more].concat())
}

fn answers(text: &str) -> (Vec<Json>, Json) {
    let mut all: Vec<Json> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let summary = all.pop().unwrap();
    (all, summary)
}

fn codes(answers: &[Json]) -> Vec<i64> {
    let code = |answer: &Json| answer["responseCode"].as_i64().unwrap();
    answers.iter().map(code).collect()
}

#[test]
fn who_may_has_other_nodes_asked_so_often() {
    let home = Node::new();
    home.import(HOME);
    let node = recursive(home.handle, &[("JIEXI_BATCH_RECURSIVE_MAX", "4")]);
    let (_, may) = token(&node, &["--right", "batch,recursive"]);
    let (_, may_not) = token(&node, &[]);
    let (_, narrow) = token(
        &node,
        &["--right", "batch,recursive", "--prefix", "88.118.20"],
    );
    let lines =
        b"88.118.20/pump\n10.7/Pump\n10.7/none\n\n10.7/Pump\n10.8/x\n10.7/beyond\n88.118.20/none\n";
    let refused = post(&node, &may_not, "?recursive=true", lines, &[]);
    assert_eq!(
        (refused.status, refused.json()["code"].as_str()),
        (403, Some("token_not_allowed"))
    );
    let (local, _) = answers(&post(&node, &may, "", lines, &[]).body);
    assert_eq!(codes(&local), [1, 301, 301, 301, 301, 301, 100]);
    assert_eq!(node.metric("jiexi_forward_fetches_total"), 0.0);
    let (found, summary) = answers(&post(&node, &may, "?recursive=true", lines, &[]).body);
    assert_eq!(codes(&found), [1, 1, 100, 1, 301, 301, 100]);
    assert_eq!(
        (&summary["complete"], &summary["lines"]),
        (&true.into(), &7.into())
    );
    assert_eq!(found[1]["handle"], "10.7/Pump");
    let far: Vec<&str> = found[1]["values"]
        .as_array()
        .unwrap()
        .iter()
        .map(|value| value["data"]["value"].as_str().unwrap())
        .collect();
    assert_eq!(
        far,
        ["https://example.cn/far", "near"],
        "what is restricted stays"
    );
    assert_eq!(found[1]["values"], found[3]["values"]);
    let last = found[5]["message"].as_str().unwrap();
    assert!(last.contains("recursive_max"), "{last}");
    assert_eq!(node.metric("jiexi_forward_fetches_total"), 3.0, "each once");
    let query = "?recursive=true&type=URL";
    let (urls, _) = answers(&post(&node, &may, query, b"10.7/Pump", &[]).body);
    assert_eq!(urls[0]["values"].as_array().unwrap().len(), 1);
    let (narrowed, _) = answers(&post(&node, &narrow, "?recursive=1", lines, &[]).body);
    assert_eq!(narrowed[1]["code"], "token_not_allowed");
    // As a job it is the same.
    let file = node.path("asked");
    std::fs::write(&file, lines).unwrap();
    let data = format!("@{}", file.display());
    let more = ["--data-binary", &data, "-H", "Content-Type: text/plain"];
    let place = format!("{PATH}?kind=resolve&recursive=true");
    let refused = ask(&node, &may_not, &place, &more);
    assert_eq!(refused.json()["code"], "token_not_allowed");
    let made = ask(&node, &may, &place, &more);
    let path = made.header("location").unwrap().to_owned();
    until(&node, &may, &path, is_over);
    let text = ask(&node, &may, &format!("{path}/results"), &[]).body;
    assert_eq!(answers(&text).0, found);
}

/// Goal: a home that does not answer costs its own lines, not those beside them.
#[test]
fn a_dead_home_fails_its_lines() {
    let mut home = Node::new();
    home.kill();
    let node = recursive(home.handle, &[]);
    let (_, token) = token(&node, &["--right", "batch,recursive"]);
    let foreign = |number: usize| format!("10.{number}/x\n");
    let lines = (1..100).map(foreign).collect::<String>() + "88.118.20/pump\n";
    let (found, summary) =
        answers(&post(&node, &token, "?recursive=true", lines.as_bytes(), &[]).body);
    assert_eq!(
        (found.len(), &summary["complete"]),
        (100, &true.into()),
        "{summary}"
    );
    let name = |answer: &Json| answer["code"].as_str().unwrap_or_default().to_owned();
    for answer in &found[..99] {
        assert!(
            matches!(&*name(answer), "busy" | "server_error"),
            "{answer}"
        );
    }
    assert_eq!(found[99]["responseCode"], 1);
}
