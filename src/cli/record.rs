//! A record for people, and as JSON.

use jiexi_proto::value::{Ttl, Value};
use serde_json::{Value as Json, json};

use super::output;
use crate::json::{data, line, value};

/// Longest text of a value in a table; JSON has all of it.
const DATA_SHOWN: usize = 200;

/// A value as JSON; one that has no JSON form is given in wire form.
pub(super) fn json_value(value: &Value) -> Json {
    value::write(value).unwrap_or_else(
        || json!({"index": value.index, "hex": hex::encode(line::wire(value).wire)}),
    )
}

/// The values in columns.
pub(super) fn table(values: &[Value]) -> String {
    let rows: Vec<Vec<String>> = values
        .iter()
        .map(|value| {
            vec![
                value.index.to_string(),
                output::visible(&String::from_utf8_lossy(&value.kind)),
                ttl(value.ttl),
                permissions(value.permissions.0),
                shown(value),
            ]
        })
        .collect();
    output::table(&["INDEX", "TYPE", "TTL", "RIGHTS", "DATA"], &rows)
}

/// A time to live in a column.
fn ttl(ttl: Ttl) -> String {
    match ttl {
        Ttl::Relative(seconds) => seconds.to_string(),
        Ttl::Absolute(seconds) => format!("until {seconds}"),
    }
}

/// Four permissions as letters: admin read and write, public read and write.
fn permissions(bits: u8) -> String {
    [(8, 'r'), (4, 'w'), (2, 'r'), (1, 'w')]
        .iter()
        .map(|(bit, c)| if bits & bit == 0 { '-' } else { *c })
        .collect()
}

/// Data on one line.
fn shown(value: &Value) -> String {
    let described = data::write(&value.kind, &value.data);
    let text = match (
        described.get("format").and_then(Json::as_str),
        described.get("value"),
    ) {
        (Some("string"), Some(Json::String(text))) => output::visible(text),
        (Some("base64"), _) => format!("{} bytes: {}", value.data.len(), hex::encode(&value.data)),
        (_, Some(json)) => json.to_string(),
        _ => String::new(),
    };
    match text.char_indices().nth(DATA_SHOWN) {
        Some((end, _)) => format!(
            "{}… ({} bytes, all of it with -o json)",
            text.get(..end).unwrap_or(&text),
            value.data.len()
        ),
        None => text,
    }
}
