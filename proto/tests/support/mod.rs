//! What the test binaries share: the recorded vectors as octets and JSON.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;

/// The folder of the vectors.
pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

/// Every file of the folder by name, sorted.
pub(crate) fn file_names() -> Vec<String> {
    let entries = std::fs::read_dir(directory()).expect("the vectors are in the repository");
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A file of the folder as JSON.
pub(crate) fn load(name: &str) -> Json {
    let text = std::fs::read_to_string(directory().join(name)).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Hexadecimal as octets.
pub(crate) fn unhex(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2), "{hex} has an odd length");
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

/// A field of an object as text.
pub(crate) fn text<'a>(json: &'a Json, field: &str) -> &'a str {
    json[field]
        .as_str()
        .unwrap_or_else(|| panic!("{field} is not text in {json}"))
}

/// A field of an object as octets.
pub(crate) fn octets(json: &Json, field: &str) -> Vec<u8> {
    unhex(text(json, field))
}

/// The body of the first HTTP message in these octets.
pub(crate) fn http_body(octets: &[u8]) -> Vec<u8> {
    let end = octets
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .unwrap()
        + 4;
    let head = String::from_utf8(octets[..end].to_vec()).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "))
        .unwrap();
    octets[end..end + length.parse::<usize>().unwrap()].to_vec()
}

/// The octets of a recorded message, without HTTP around them.
pub(crate) fn recorded_octets(message: &Json) -> Vec<u8> {
    for field in ["hex", "datagram_hex", "stream_hex"] {
        if message.get(field).is_some() {
            return octets(message, field);
        }
    }
    http_body(&octets(message, "http_hex"))
}
