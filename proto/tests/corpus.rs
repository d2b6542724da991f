//! Goal: the fuzz targets hold for what is known already, and their seeds are those of the
//! vectors. Method: their functions run over every recorded message and over the committed seeds.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test stops at what it does not expect"
)]

use std::collections::BTreeMap;
use std::path::Path;

use jiexi_proto::{Header, fuzzing};
use serde_json::Value as Json;

#[path = "support/mod.rs"]
mod support;

/// Seeds by target and name.
type Seeds = BTreeMap<(&'static str, String), Vec<u8>>;

/// Larger seeds make the fuzzer slow and teach it nothing.
const SEED_MAX: usize = 2_048;

#[test]
fn every_recorded_message_holds() {
    let mut count = 0;
    for (_, octets) in recorded() {
        fuzzing::message(&octets);
        fuzzing::framing(&octets);
        fuzzing::reassembly(&octets);
        count += 1;
    }
    assert!(count > 600, "only {count} messages");
}

#[test]
fn every_seed_holds_and_is_committed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds");
    let seeds = seeds();
    let mut size = 0;
    for ((target, name), octets) in &seeds {
        match *target {
            "message" => fuzzing::message(octets),
            "framing" => fuzzing::framing(octets),
            _ => fuzzing::reassembly(octets),
        }
        let path = root.join(target).join(name);
        if std::env::var_os("JIEXI_WRITE_SEEDS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, octets).unwrap();
        }
        let committed = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(&committed, octets, "{}", path.display());
        size += octets.len();
    }
    println!("{} seeds, {size} octets", seeds.len());
    assert!(seeds.len() > 100 && size < 1 << 20);
}

/// Every recorded message and piece with its file, decrypted ones as well.
fn recorded() -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for name in support::file_names()
        .into_iter()
        .filter(|name| name.ends_with(".json"))
    {
        let file = support::load(&name);
        for exchange in file["exchanges"].as_array().into_iter().flatten() {
            for message in exchange["messages"].as_array().unwrap() {
                if message.get("stream").is_none() {
                    found.push((name.clone(), support::recorded_octets(message)));
                }
            }
        }
    }
    found
}

/// One message of each operation, code and version; streams and datagrams of whole scenarios; and
/// one value of each type.
fn seeds() -> Seeds {
    let mut seeds = Seeds::new();
    let mut streams: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut datagrams: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for (file, octets) in recorded() {
        if let (Some(head), true) = (octets.get(20..44), octets.len() <= SEED_MAX) {
            let header = Header::decode(head).unwrap();
            let (op, code) = (header.op_code.0, header.response_code.0);
            let name = match op {
                0..=9_999 => format!("op{op}_code{code}_v{}_{}", octets[0], octets[1]),
                _ => "encrypted".to_owned(),
            };
            seeds
                .entry(("message", name))
                .or_insert_with(|| octets.clone());
        }
        let name = file.trim_end_matches(".json").to_owned();
        streams
            .entry(name.clone())
            .or_default()
            .extend_from_slice(&octets);
        let datagram = datagrams.entry(name).or_default();
        datagram.push(1);
        datagram.extend_from_slice(&u16::try_from(octets.len()).unwrap_or(0).to_be_bytes());
        datagram.extend_from_slice(&octets);
    }
    let wanted = |name: &String| name.starts_with("tcp_") || name.starts_with("bad_");
    for (name, octets) in streams.into_iter().filter(|(name, _)| wanted(name)) {
        seeds.insert(("framing", name), octets);
    }
    let wanted = |name: &String| name.starts_with("ref_") || name.starts_with("flow");
    for (name, octets) in datagrams.into_iter().filter(|(name, _)| wanted(name)) {
        seeds.insert(("reassembly", name), octets);
    }
    seeds.extend(data_seeds());
    seeds
}

fn data_seeds() -> Seeds {
    let mut seeds = Seeds::new();
    let mut add = |name: String, entry: &Json, field: &str| {
        seeds.insert(("message", name), support::octets(entry, field));
    };
    for entry in support::load("value_encodings.json").as_array().unwrap() {
        add(
            format!("data_{}", support::text(entry, "name").replace(' ', "_")),
            entry,
            "data_hex",
        );
    }
    for entry in support::load("handle_values.json").as_array().unwrap() {
        add(format!("value_{}", entry["index"]), entry, "hex");
    }
    for entry in support::load("private_key_files.json").as_array().unwrap() {
        add(format!("key_file_{}", entry["enc_type"]), entry, "file_hex");
    }
    seeds
}
