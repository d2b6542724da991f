//! Goal: JSON loses nothing. Method: values of every known type and random ones, and lines people get wrong.

use bytes::Bytes;
use jiexi_proto::{
    code::Permissions,
    value::{Reference, Ttl, Value},
};
use serde_json::json;

use super::{
    direct::Direct,
    line::{self, Line, Record},
    value,
};

const NOW: u32 = 1_800_000_000;

fn read(text: &str) -> Result<Line, String> {
    line::read(text.as_bytes(), NOW).map_err(|error| error.to_string())
}

fn record(text: &str) -> Record {
    match read(text) {
        Ok(Line::Record(record)) => record,
        other => panic!("{text}: {other:?}"),
    }
}

fn sample(kind: &'static [u8], data: &[u8]) -> Value {
    Value {
        index: 7,
        timestamp: 1_006_359_695,
        ttl: Ttl::Relative(86_400),
        permissions: Permissions(0b1110),
        kind: Bytes::from_static(kind),
        data: Bytes::copy_from_slice(data),
        references: Vec::new(),
    }
}

/// Writes a record, reads it back and compares every byte.
fn round_trip(handle: &[u8], values: &[Value], hex: bool) -> String {
    let wires: Vec<Bytes> = values.iter().map(|value| line::wire(value).wire).collect();
    let slices: Vec<&[u8]> = wires.iter().map(AsRef::as_ref).collect();
    let text = line::write(handle, &slices, hex).to_string();
    let back = record(&text);
    assert_eq!(back.handle, handle, "{text}");
    assert_eq!(
        back.values
            .iter()
            .map(|value| value.wire.clone())
            .collect::<Vec<_>>(),
        wires,
        "{text}"
    );
    text
}

#[test]
fn a_value_has_the_documented_shape() {
    let json = value::write(&sample(b"URL", b"https://example.cn")).expect("has a JSON form");
    assert_eq!(
        json,
        json!({"index": 7, "type": "URL", "data": {"format": "string", "value": "https://example.cn"},
               "ttl": 86400, "timestamp": "2001-11-21T16:21:35Z"})
    );
    let mut full = sample(b"URL", b"x");
    full.ttl = Ttl::Absolute(1_900_000_000);
    full.permissions = Permissions(0b1101);
    full.references = vec![Reference {
        handle: Bytes::from_static(b"0.NA/88.118"),
        index: 300,
    }];
    let json = value::write(&full).expect("has a JSON form");
    assert_eq!(json["ttl"], "2030-03-17T17:46:40Z");
    assert_eq!(json["permissions"], "1101");
    assert_eq!(
        json["references"],
        json!([{"handle": "0.NA/88.118", "index": 300}])
    );
    assert_eq!(value::read(json, NOW).expect("reads"), full);
}

#[test]
fn administrators_are_readable() {
    let data = [
        &[0x07, 0xf3, 0, 0, 0, 11][..],
        b"0.NA/88.118",
        &[0, 0, 1, 44],
    ]
    .concat();
    let json = value::write(&sample(b"HS_ADMIN", &data)).expect("has a JSON form");
    let admin = json!({"handle": "0.NA/88.118", "index": 300, "permissions": "011111110011"});
    assert_eq!(json["data"], json!({"format": "admin", "value": admin}));
    let padded = [data.as_slice(), &[0, 0]].concat();
    let json = value::write(&sample(b"HS_ADMIN", &padded)).expect("has a JSON form");
    assert_eq!(json["data"]["format"], "base64", "padding would be lost");
    let mut wire = Vec::new();
    sample(b"HS_ADMIN", &padded).encode(&mut wire);
    let (view, _) = jiexi_proto::value::ValueView::split(&wire).expect("a value");
    let mut appended = Vec::new();
    assert!(Direct::default().exact(&view, &mut appended).is_some());
    assert_eq!(appended, json.to_string().into_bytes(), "written straight");
}

#[test]
fn every_recorded_value_survives() {
    let vectors = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/proto/tests/vectors/value_encodings.json"
    );
    let text = std::fs::read_to_string(vectors).expect("vectors");
    let vectors: Vec<serde_json::Value> = serde_json::from_str(&text).expect("JSON");
    let mut formats = std::collections::BTreeSet::new();
    for vector in &vectors {
        let kind = vector["type"]
            .as_str()
            .expect("type")
            .to_owned()
            .leak()
            .as_bytes();
        let data = hex::decode(vector["data_hex"].as_str().expect("data")).expect("hex");
        let value = sample(kind, &data);
        round_trip(b"88.118/x", std::slice::from_ref(&value), true);
        round_trip(b"88.118/x", std::slice::from_ref(&value), false);
        let json = value::write(&value).expect("has a JSON form");
        let mut wire = Vec::new();
        value.encode(&mut wire);
        let (view, _) = jiexi_proto::value::ValueView::split(&wire).expect("a value");
        let mut appended = Vec::new();
        assert!(Direct::default().exact(&view, &mut appended).is_some());
        assert_eq!(appended, json.to_string().into_bytes(), "written straight");
        formats.insert(json["data"]["format"].as_str().expect("format").to_owned());
    }
    assert!(vectors.len() > 20, "{}", vectors.len());
    for format in ["admin", "vlist", "site", "key", "string"] {
        assert!(
            formats.contains(format),
            "{format} is missing in {formats:?}"
        );
    }
}

#[test]
fn every_record_of_the_fixture_survives_both_ways() {
    let fixture = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/proto/tests/vectors/fixture.ndjson"
    );
    let text = std::fs::read_to_string(fixture).expect("fixture");
    for line in text.lines() {
        let first = record(line);
        let wires: Vec<&[u8]> = first
            .values
            .iter()
            .map(|value| value.wire.as_ref())
            .collect();
        for hex in [false, true] {
            assert_eq!(
                record(&line::write(&first.handle, &wires, hex).to_string()),
                first
            );
        }
    }
}

#[test]
fn random_values_survive() {
    let seed: u64 = u64::from(getrandom::u32().expect("randomness"));
    println!("seed {seed}");
    let mut state = seed | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let kinds: [&'static [u8]; 8] = [
        b"URL",
        b"HS_ADMIN",
        b"HS_VLIST",
        b"HS_SITE",
        b"HS_SITE.6",
        b"HS_PUBKEY",
        b"\xff\xfe",
        "类型".as_bytes(),
    ];
    for _ in 0..2_000 {
        let kind = kinds[usize::try_from(next()).expect("64 bits") % kinds.len()];
        let length = next() % 40;
        let ascii = next() % 2 == 0;
        let data: Vec<u8> = (0..length)
            .map(|_| next().to_le_bytes()[0])
            .map(|byte| if ascii { byte & 0x7f } else { byte })
            .collect();
        let mut value = sample(kind, &data);
        value.timestamp = next().to_le_bytes()[0].into();
        value.permissions = Permissions(next().to_le_bytes()[0] & 0x1f);
        value.ttl = match next() % 4 {
            0 => Ttl::Absolute(-1),
            1 => Ttl::Absolute(i32::MAX),
            2 => Ttl::Relative(-5),
            _ => Ttl::Relative(0),
        };
        let handle: &[u8] = if next() % 8 == 0 {
            b"88.118/\xff"
        } else {
            "88.118/工业".as_bytes()
        };
        round_trip(handle, &[value], next() % 5 == 0);
    }
}

#[test]
fn what_is_left_out_has_its_usual_meaning() {
    let record = record(
        r#"{"handle":"88.118/a","values":[{"index":2,"type":"URL","data":"x"},{"index":1,"type":"T","data":"y"}]}"#,
    );
    assert_eq!(
        record
            .values
            .iter()
            .map(|value| value.index)
            .collect::<Vec<_>>(),
        [1, 2],
        "ascending"
    );
    let value = Value::decode(&record.values[1].wire).expect("decodes");
    assert_eq!(
        (value.timestamp, value.ttl, value.permissions.0),
        (NOW, Ttl::Relative(86_400), 0b1110)
    );
    assert!(value.references.is_empty());
}

#[test]
fn prefixes_are_lines_too() {
    for text in [
        r#"{"prefix":"88.118.8"}"#,
        r#"{"prefix":"0.NA/88.118.8"}"#,
        r#"{"prefix":"0.na/88.118.8"}"#,
    ] {
        assert_eq!(read(text), Ok(Line::Prefix(b"0.NA/88.118.8".to_vec())));
    }
    assert_eq!(
        line::write_prefix(b"0.NA/88.118.8").to_string(),
        r#"{"prefix":"88.118.8"}"#
    );
}

#[test]
fn bad_lines_name_the_field() {
    let value = |fields: &str| {
        format!(r#"{{"handle":"88.118/a","values":[{{"index":1,"type":"URL",{fields}}}]}}"#)
    };
    for (text, expected) in [
        (String::from("{"), "is not JSON (EOF while parsing an object at column 1); a record is one object such as"),
        ("not JSON".into(), "is not JSON (expected ident at column 2); a record is one object such as"),
        ("[]".into(), "invalid length 0, expected an object with handle and values, or with prefix"),
        (r#"{"handel":"a/b","values":[]}"#.into(), "unknown field `handel`"),
        (r#"{"values":[]}"#.into(), "handle: is missing"),
        (r#"{"handle":"88.118/a"}"#.into(), "values: is missing"),
        (r#"{"handle":"88.118","values":[]}"#.into(), "handle: is not a prefix, a slash and a local name"),
        (r#"{"handle":"/a","values":[]}"#.into(), "handle: is not a prefix, a slash and a local name"),
        (r#"{"prefix":"88..118"}"#.into(), "prefix: \"88..118\" is not a prefix such as \"88.118\""),
        (r#"{"prefix":"88/118"}"#.into(), "prefix: \"88/118\" is not a prefix such as \"88.118\""),
        (r#"{"responseCode":100,"handle":"88.118/a"}"#.into(), "responseCode: is not 1: this is an error, not a record"),
        (r#"{"handle":"88.118/a","values_hex":["zz"]}"#.into(), "values_hex[0]: Invalid character 'z' at position 0"),
        (r#"{"handle":"88.118/a","values_hex":["0000"]}"#.into(), "values_hex[0]: "),
        (value(r#""data":5"#), "values[0].data: must be a string, or an object with format and value"),
        (value(r#""data":{"format":"xml","value":""}"#), "values[0].data.format: \"xml\" is not one of string"),
        (value(r#""data":{"format":"hex","value":"abc"}"#), "values[0].data.value: Odd number of digits"),
        (value(r#""data":"x","ttl":"soon""#), "values[0].ttl: \"soon\" is not a time"),
        (value(r#""data":"x","timestamp":"2001-13-01T00:00:00Z""#), "values[0].timestamp: "),
        (value(r#""data":"x","permissions":"11""#), "values[0].permissions: must be four of 0 and 1"),
        (
            r#"{"handle":"88.118/a","values":[{"index":0,"type":"URL","data":"x"}]}"#.into(),
            "values: index 0 is reserved; count from 1",
        ),
        (
            r#"{"handle":"88.118/a","values":[{"index":1,"type":"A","data":"x"},{"index":1,"type":"B","data":"x"}]}"#.into(),
            "values: index 1 is there twice",
        ),
    ] {
        let error = read(&text).expect_err(&text);
        assert!(error.starts_with(expected), "{text}: {error}");
    }
}

#[test]
fn records_that_no_message_could_carry_are_refused() {
    let text = json!({"handle": "88.118/a", "values": [{"index": 1, "type": "BLOB", "data": "x".repeat(262_144)}]});
    let error = read(&text.to_string()).expect_err("refused");
    assert!(error.contains("would not fit into one message"), "{error}");
}
