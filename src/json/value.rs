//! One handle value as JSON, both ways.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use jiexi_proto::{
    code::Permissions,
    value::{Reference, Ttl, Value},
};
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::{JsonError, data, direct};

/// The time to live of a value that does not say one, in seconds.
pub const TTL_DEFAULT: i32 = 86_400;
/// The permissions of a value that does not say any: admin read, admin write, public read.
pub const PERMISSIONS_DEFAULT: u8 = 0b1110;

/// A value as JSON; `None` when it has no JSON form that would read back as the same bytes.
#[must_use]
pub fn write(value: &Value) -> Option<Json> {
    let mut object = Map::new();
    object.insert("index".into(), value.index.into());
    object.insert("type".into(), std::str::from_utf8(&value.kind).ok()?.into());
    object.insert("data".into(), data::write(&value.kind, &value.data));
    if value.permissions.0 != PERMISSIONS_DEFAULT {
        object.insert(
            "permissions".into(),
            permissions_text(value.permissions.0)?.into(),
        );
    }
    object.insert("ttl".into(), write_ttl(value.ttl)?);
    object.insert(
        "timestamp".into(),
        time_text(u64::from(value.timestamp)).into(),
    );
    if !value.references.is_empty() {
        let references: Option<Vec<Json>> = value.references.iter().map(write_reference).collect();
        object.insert("references".into(), references?.into());
    }
    Some(Json::Object(object))
}

/// Appends a text in quotes.
pub fn text(text: &str, out: &mut Vec<u8>) {
    direct::put_text(text, out);
}

/// A value as JSON. What has no exact form is shown as nearly as JSON can.
#[must_use]
pub fn nearest(exact: &Value) -> Json {
    write(exact).unwrap_or_else(|| {
        let near = Value {
            kind: Bytes::from(String::from_utf8_lossy(&exact.kind).into_owned()),
            permissions: Permissions(exact.permissions.0 & 0x0F),
            ttl: match exact.ttl {
                Ttl::Absolute(end) if end < 0 => Ttl::Absolute(0),
                ttl => ttl,
            },
            references: Vec::new(),
            ..exact.clone()
        };
        write(&near).unwrap_or(Json::Null)
    })
}

/// A reference as JSON, as in lists of values.
pub(super) fn write_reference(reference: &Reference) -> Option<Json> {
    let handle = std::str::from_utf8(&reference.handle).ok()?;
    Some(json!({"handle": handle, "index": reference.index}))
}

/// A value as people may write it.
#[derive(Debug, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a value must be an object with index, type and data"
)]
pub(super) struct Written {
    index: u32,
    #[serde(rename = "type")]
    kind: String,
    data: Json,
    ttl: Option<Json>,
    timestamp: Option<String>,
    permissions: Option<String>,
    #[serde(default)]
    references: Vec<WrittenReference>,
}

/// A reference as people may write it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenReference {
    handle: String,
    index: u32,
}

impl From<WrittenReference> for Reference {
    fn from(written: WrittenReference) -> Self {
        Self {
            handle: Bytes::from(written.handle),
            index: written.index,
        }
    }
}

/// Reads a value; `now` (Unix seconds) is the timestamp of one that does not say its own.
///
/// # Errors
/// Names the field and what is wrong with it.
pub fn read(json: Json, now: u32) -> Result<Value, JsonError> {
    let written: Written =
        serde_json::from_value(json).map_err(|error| JsonError::new("", error))?;
    written.into_value(now)
}

/// A value as a row of a table; what is empty has the usual meaning.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cells<'a> {
    /// Its index.
    pub index: &'a str,
    /// Its type.
    pub kind: &'a str,
    /// Seconds, or a moment.
    pub ttl: &'a str,
    /// Four of 0 and 1.
    pub permissions: &'a str,
    /// A format of [`super::data`]; nothing: text.
    pub encoding: &'a str,
    /// The data in that format; JSON where it is neither text nor octets.
    pub value: &'a str,
}

/// Reads a value out of cells; `now` (Unix seconds) is its timestamp.
///
/// # Errors
/// Names the column and what is wrong with it.
pub fn from_cells(cells: &Cells<'_>, now: u32) -> Result<Value, JsonError> {
    let index = cells.index.parse().ok().filter(|index| *index > 0);
    let index = index.ok_or_else(|| JsonError::new("index", "is not a number above 0"))?;
    let data = match cells.encoding {
        "" | "string" => Json::from(cells.value),
        format @ ("base64" | "hex") => json!({"format": format, "value": cells.value}),
        format @ ("admin" | "vlist" | "site" | "key") => {
            let value: Json = serde_json::from_str(cells.value)
                .map_err(|error| JsonError::new("value", error))?;
            json!({"format": format, "value": value})
        }
        other => {
            let message = format!(
                "{other:?} is not known: string (or nothing), base64, hex, admin, vlist, site or key"
            );
            return Err(JsonError::new("encoding", message));
        }
    };
    let ttl = match (cells.ttl, cells.ttl.parse::<i64>()) {
        ("", _) => None,
        (_, Ok(seconds)) => Some(Json::from(seconds)),
        (moment, Err(_)) => Some(Json::from(moment)),
    };
    let written = Written {
        index,
        kind: cells.kind.to_owned(),
        data,
        ttl,
        timestamp: None,
        permissions: (!cells.permissions.is_empty()).then(|| cells.permissions.to_owned()),
        references: Vec::new(),
    };
    written.into_value(now)
}

impl Written {
    /// The value meant.
    pub(super) fn into_value(self, now: u32) -> Result<Value, JsonError> {
        if self.kind.is_empty() {
            return Err(JsonError::new("type", "is empty"));
        }
        let data = data::read(&self.data).map_err(|error| error.within("data"))?;
        let timestamp = match &self.timestamp {
            None => now,
            Some(text) => {
                let seconds =
                    parse_time(text).map_err(|message| JsonError::new("timestamp", message))?;
                u32::try_from(seconds)
                    .map_err(|_| JsonError::new("timestamp", "is after the year 2106"))?
            }
        };
        let permissions = self
            .permissions
            .as_deref()
            .map_or(Ok(PERMISSIONS_DEFAULT), parse_permissions);
        Ok(Value {
            index: self.index,
            timestamp,
            ttl: self
                .ttl
                .as_ref()
                .map_or(Ok(Ttl::Relative(TTL_DEFAULT)), read_ttl)?,
            permissions: Permissions(permissions?),
            kind: Bytes::from(self.kind),
            data: Bytes::from(data),
            references: self.references.into_iter().map(Reference::from).collect(),
        })
    }
}

/// A time to live: seconds, or the moment when it ends.
fn write_ttl(ttl: Ttl) -> Option<Json> {
    match ttl {
        Ttl::Relative(seconds) => Some(seconds.into()),
        Ttl::Absolute(seconds) => Some(time_text(u64::try_from(seconds).ok()?).into()),
    }
}

/// Reads seconds or a moment.
fn read_ttl(json: &Json) -> Result<Ttl, JsonError> {
    let wrong = |message: &str| JsonError::new("ttl", message);
    match json {
        Json::Number(number) => {
            let seconds = number
                .as_i64()
                .and_then(|seconds| i32::try_from(seconds).ok());
            seconds
                .map(Ttl::Relative)
                .ok_or_else(|| wrong("is not a whole number of seconds below 2^31"))
        }
        Json::String(text) => {
            let seconds = parse_time(text).map_err(|message| wrong(&message))?;
            i32::try_from(seconds)
                .map(Ttl::Absolute)
                .map_err(|_| wrong("is after January 2038"))
        }
        _ => Err(wrong(
            "must be seconds, or a time such as \"2030-01-31T00:00:00Z\"",
        )),
    }
}

/// Unix seconds as RFC 3339 in UTC.
pub(super) fn time_text(seconds: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}

/// RFC 3339 in UTC as Unix seconds.
fn parse_time(text: &str) -> Result<u64, String> {
    let time: SystemTime = humantime::parse_rfc3339(text)
        .map_err(|_| format!("{text:?} is not a time such as \"2030-01-31T00:00:00Z\""))?;
    Ok(time
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs()))
}

/// Four permissions as a bit string; `None` when other bits are set.
fn permissions_text(permissions: u8) -> Option<String> {
    (permissions < 16).then(|| format!("{permissions:04b}"))
}

/// A bit string of four characters.
fn parse_permissions(text: &str) -> Result<u8, JsonError> {
    let wrong = || {
        JsonError::new(
            "permissions",
            "must be four of 0 and 1: admin read, admin write, public read, public write",
        )
    };
    if text.len() != 4 {
        return Err(wrong());
    }
    u8::from_str_radix(text, 2).map_err(|_| wrong())
}
