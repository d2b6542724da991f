//! Goal: the log of resolutions says which handle was found, by whatever name it was asked for. Method: real sockets; a
//! question without options goes the short way, one that asks for the name of the server the full one.

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;

use crate::node::{Node, config, exchange, long_suffix, question, with_edns};

/// The label of the long handle.
const LONG: &str = "_hpg2h3ivmegfid5otsibstgjlv0qt8fl4";
/// One that is of no handle.
const NOBODY: &str = "_h00000000000000000000000000000000";

/// The same question by either way.
fn both_ways(name: &str) -> [Message; 2] {
    let plain = question(name, RecordType::NAPTR);
    [plain.clone(), with_edns(plain, &[(3, b"")])]
}

#[test]
fn hashed_labels_are_remembered_as_the_handles_they_are_of() {
    let node = Node::start(config());
    let long = format!("{LONG}.88-118-1.id.example.net.");
    for asked in both_ways(&long) {
        assert_eq!(node.ask(&asked).answers.len(), 2);
    }
    // One batch: what came by different ways, and of whom nothing is known, in the order of the questions.
    let mut asked = Vec::new();
    for name in [
        &long,
        "cnc-1.88-118-1.id.example.net.",
        &format!("{NOBODY}.88-118-1.id.example.net."),
        &format!("{LONG}.text.example.net."),
        "none.88-118-1.id.example.net.",
        // No handle can have this name, and nobody's zone this one.
        "_zz.88-118-1.id.example.net.",
        "example.org.",
    ] {
        asked.extend(both_ways(name));
    }
    exchange(&mut node.connect(), &asked);
    let lines = node.remembered();
    let field = |line: &serde_json::Value, name: &str| {
        let text = line[name].as_str().expect("text");
        text.to_owned()
    };
    let seen = |via: &str| -> Vec<(String, String)> {
        let of = lines.iter().filter(|line| line["via"] == via);
        of.map(|line| (field(line, "handle"), field(line, "outcome")))
            .collect()
    };
    let line = |handle: &str, outcome: &str| (handle.to_owned(), outcome.to_owned());
    let found = line(&format!("88.118.1/{}", long_suffix()), "success");
    assert_eq!(seen("dns/udp"), [found.clone(), found.clone()]);
    let expected = [
        found.clone(),
        line("88.118.1/CNC-1", "success"),
        line(&format!("{NOBODY}.88-118-1"), "not_found"),
        found,
        line("88.118.1/NONE", "not_found"),
        line("_zz.88-118-1", "not_found"),
    ];
    let twice = expected
        .iter()
        .flat_map(|line| [line.clone(), line.clone()]);
    assert_eq!(seen("dns/tcp"), twice.collect::<Vec<_>>());
}
