//! Goal: every resolution and change is in the log, by day, with the client's network and no more of its address.

use std::io::Read as _;

use serde_json::Value as Json;

use crate::node::Node;

const BODY: &str = r#"[{"index":1,"type":"N","data":"x"}]"#;

#[test]
fn what_was_asked_is_remembered() {
    let mut node = Node::new();
    for _ in 0..3 {
        node.get("/api/handles/88.118.20/pump");
    }
    node.get("/88.118.20/pump");
    node.get("/api/handles/88.118.20/nope");
    node.admin("/api/handles/88.118.20/new", &["-X", "PUT", "-d", BODY]);
    node.admin("/api/handles?prefix=88.118.20", &[]);
    node.get("/docs");
    node.terminate();
    let directory = node.data().join("history");
    let files: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    assert!(matches!(files.len(), 1 | 2), "one a day: {files:?}");
    let mut text = String::new();
    for file in files {
        let file = std::fs::File::open(file).unwrap();
        flate2::read::MultiGzDecoder::new(file)
            .read_to_string(&mut text)
            .expect("gzip");
    }
    let lines: Vec<Json> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let seen: Vec<[&str; 4]> = lines
        .iter()
        .map(|line| ["op", "handle", "outcome", "via"].map(|name| line[name].as_str().unwrap()))
        .collect();
    let asked = ["resolve", "88.118.20/pump", "success", "http"];
    assert_eq!(
        seen,
        [
            asked,
            asked,
            asked,
            asked,
            ["resolve", "88.118.20/nope", "not_found", "http"],
            ["create", "88.118.20/new", "success", "https"],
            ["list", "88.118.20", "success", "https"]
        ]
    );
    assert!(
        lines
            .iter()
            .all(|line| line["net"] == "127.0.0.0/24"
                && line["time"].as_str().unwrap().ends_with('Z'))
    );
}
