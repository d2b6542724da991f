//! Goal: `decode` shows every recorded message with the fields of its recording, and refuses malformed ones.

use std::fs;

use serde_json::Value as Json;

use crate::support::{directory, run, run_with, vectors};

/// Fields of a recording that an answer of `decode` must repeat.
const COMPARED: [&str; 2] = ["envelope", "header"];

#[test]
fn recorded_messages_have_their_recorded_fields() {
    let directory = directory();
    let mut compared = 0;
    for name in [
        "res_by_type",
        "res_all_udp",
        "siteinfo_udp",
        "res_not_found",
        "create_seckey",
        "ref_88-118-9_x",
    ] {
        let text = fs::read_to_string(vectors().join(format!("{name}.json"))).expect("vector");
        let vector: Json = serde_json::from_str(&text).expect("JSON");
        for message in vector["exchanges"]
            .as_array()
            .expect("exchanges")
            .iter()
            .flat_map(|exchange| exchange["messages"].as_array().expect("messages"))
        {
            // Pieces of a message in several datagrams are not messages.
            let Some(hex) = message["datagram_hex"]
                .as_str()
                .filter(|_| !message["header"].is_null())
            else {
                continue;
            };
            let run = run(directory.path(), &["decode", hex]);
            if run.code != 0 {
                assert!(hex.len() >= 2 * 512, "{name}: {}", run.stderr);
                continue;
            }
            let decoded = run.json();
            for field in COMPARED {
                assert_eq!(decoded[field], message[field], "{name}: {field}");
            }
            compared += 1;
        }
    }
    assert!(compared >= 10, "{compared}");
}

#[test]
fn standard_input_and_readable_hexadecimal_are_taken() {
    let directory = directory();
    let text = fs::read_to_string(vectors().join("res_by_type.json")).expect("vector");
    let vector: Json = serde_json::from_str(&text).expect("JSON");
    let hex = vector["exchanges"][0]["messages"][0]["datagram_hex"]
        .as_str()
        .expect("hex");
    let (first, rest) = hex.split_at(40);
    let input = format!("0x{first}\n  {}\n", rest.to_uppercase());
    let decoded = run_with(directory.path(), &["decode", "-"], input.as_bytes())
        .expect(0)
        .json();
    assert_eq!(decoded["body"]["handle"], "88.118.8/test1");
    assert_eq!(decoded["body"]["types"], serde_json::json!(["URL"]));
}

#[test]
fn malformed_messages_fail_with_a_message() {
    let directory = directory();
    let text = fs::read_to_string(vectors().join("res_by_type.json")).expect("vector");
    let vector: Json = serde_json::from_str(&text).expect("JSON");
    let hex = vector["exchanges"][0]["messages"][0]["datagram_hex"]
        .as_str()
        .expect("hex");
    for bad in [
        "",
        "00",
        "zz",
        "020b02",
        &hex[..hex.len() - 2],
        &hex[..60],
        &format!("{hex}00"),
    ] {
        let run = run(directory.path(), &["decode", bad]).expect(1);
        assert!(
            run.stderr.starts_with("jiexi: ") && run.stderr.lines().count() == 1,
            "{bad}: {}",
            run.stderr
        );
        assert!(run.stdout.is_empty());
    }
}
