//! Lines of record files.

use std::borrow::Cow;

use bytes::Bytes;
use jiexi_proto::{
    handle, limits,
    value::{Reference, Value, ValueView},
};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::error::Category;
use serde_json::{Value as Json, json};

use super::{JsonError, value};

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A handle and its values.
    Record(Record),
    /// A prefix that this node is the home of, as `0.NA/…`.
    Prefix(Vec<u8>),
}

/// A handle as its owner writes it, and its values in wire form, ascending by index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The handle.
    pub handle: Vec<u8>,
    /// The values.
    pub values: Vec<Wire>,
}

/// A value in wire form with what the store wants to know about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wire {
    /// Its index, above 0.
    pub index: u32,
    /// Its permission bits.
    pub permissions: u8,
    /// All of it, as on the wire.
    pub wire: Bytes,
}

/// A line as people may write it.
#[derive(Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "an object with handle and values, or with prefix"
)]
struct Written<'a> {
    /// The code of an answer of the JSON API, so that answers can be used as lines.
    #[serde(rename = "responseCode")]
    response_code: Option<u32>,
    #[serde(borrow)]
    handle: Option<Cow<'a, str>>,
    #[serde(borrow)]
    handle_hex: Option<Cow<'a, str>>,
    #[serde(borrow)]
    prefix: Option<Cow<'a, str>>,
    values: Option<Vec<value::Written>>,
    #[serde(borrow)]
    values_hex: Option<Vec<Cow<'a, str>>>,
}

/// What a line says, with values that are not encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plain {
    /// A handle and its values, ascending by index.
    Record {
        /// The handle.
        handle: Vec<u8>,
        /// The values.
        values: Vec<Value>,
    },
    /// As [`Line::Prefix`].
    Prefix(Vec<u8>),
    /// The answer to a line of a batch that is no record.
    Refused {
        /// The handle that was asked for, as far as there was one.
        handle: Vec<u8>,
        /// What was answered.
        why: String,
    },
    /// The end of the answers of a batch: all of them are there, or why not.
    Summary(Result<(), String>),
}

/// Which line of the answers of a batch this may be.
#[derive(Deserialize)]
struct Marks {
    line: Option<IgnoredAny>,
    complete: Option<IgnoredAny>,
}

/// A line of the answers of a batch.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answered<'a> {
    #[serde(rename = "line")]
    _line: IgnoredAny,
    #[serde(rename = "responseCode")]
    response_code: u32,
    #[serde(borrow, default)]
    handle: Cow<'a, str>,
    values: Option<Vec<value::Written>>,
    #[serde(borrow, default)]
    code: Cow<'a, str>,
    #[serde(rename = "message")]
    _message: Option<IgnoredAny>,
    #[serde(rename = "renewal")]
    _renewal: Option<IgnoredAny>,
}

/// The last line of the answers of a batch. More in it says nothing about the records.
#[derive(Deserialize)]
struct Summary<'a> {
    complete: bool,
    #[serde(borrow)]
    message: Option<Cow<'a, str>>,
}

/// What was parsed of a line.
enum Parsed<'a> {
    Prefix(Vec<u8>),
    Values(Vec<u8>, Vec<value::Written>),
    Hex(Vec<u8>, Vec<Cow<'a, str>>),
}

/// Reads one line; `now` (Unix seconds) is the timestamp of values that do not say their own.
///
/// # Errors
/// Names the field and what is wrong with it.
pub fn read(text: &[u8], now: u32) -> Result<Line, JsonError> {
    let (handle, mut values) = match parse(text)? {
        Parsed::Prefix(prefix) => return Ok(Line::Prefix(prefix)),
        Parsed::Values(handle, values) => (handle, read_values(values, now)?),
        Parsed::Hex(handle, values) => (handle, read_hex(&values)?),
    };
    values.sort_by_key(|value| value.index);
    check_values(
        &handle,
        values.iter().map(|value| (value.index, value.wire.len())),
    )?;
    Ok(Line::Record(Record { handle, values }))
}

/// As [`read`], for values that are still to be decided about.
///
/// # Errors
/// Names the field and what is wrong with it.
pub fn read_plain(text: &[u8], now: u32) -> Result<Plain, JsonError> {
    let parsed = match parse(text) {
        Ok(parsed) => parsed,
        Err(error) => return answered(text, now).unwrap_or(Err(error)),
    };
    let (handle, mut values) = match parsed {
        Parsed::Prefix(prefix) => return Ok(Plain::Prefix(prefix)),
        Parsed::Values(handle, written) => return plain_record(handle, written, now),
        Parsed::Hex(handle, digits) => {
            let wires = read_hex(&digits)?;
            let values: Result<Vec<Value>, _> =
                wires.iter().map(|wire| Value::decode(&wire.wire)).collect();
            let values = values.map_err(|error| JsonError::new("values_hex", error))?;
            (handle, values)
        }
    };
    values.sort_by_key(|value| value.index);
    check_record(&handle, &values)?;
    Ok(Plain::Record { handle, values })
}

/// A record with values as people may write them.
fn plain_record(
    handle: Vec<u8>,
    written: Vec<value::Written>,
    now: u32,
) -> Result<Plain, JsonError> {
    let one = |(place, written): (usize, value::Written)| {
        let value = written.into_value(now);
        value.map_err(|error| error.within(&format!("values[{place}]")))
    };
    let values: Result<Vec<Value>, _> = written.into_iter().enumerate().map(one).collect();
    let mut values = values?;
    values.sort_by_key(|value| value.index);
    check_record(&handle, &values)?;
    Ok(Plain::Record { handle, values })
}

/// What a line of the answers of a batch says; none when it is no such line.
fn answered(text: &[u8], now: u32) -> Option<Result<Plain, JsonError>> {
    let marks: Marks = serde_json::from_slice(text).ok()?;
    let wrong = |error: &serde_json::Error| JsonError::new("", tidy(error));
    if marks.line.is_some() {
        let answer = serde_json::from_slice(text).map_err(|error| wrong(&error));
        return Some(answer.and_then(|answer| read_answer(answer, now)));
    }
    marks.complete?;
    Some(read_summary(text).map_err(|error| wrong(&error)))
}

fn read_answer(answer: Answered<'_>, now: u32) -> Result<Plain, JsonError> {
    let handle = answer.handle.into_owned().into_bytes();
    match (answer.response_code, answer.values) {
        (1, Some(values)) => {
            check_handle(&handle)?;
            plain_record(handle, values, now)
        }
        (1, None) => Err(JsonError::new("values", "is missing")),
        (code, _) => {
            let why = no_record(&code.to_string(), &answer.code);
            Ok(Plain::Refused { handle, why })
        }
    }
}

fn read_summary(text: &[u8]) -> Result<Plain, serde_json::Error> {
    let summary: Summary<'_> = serde_json::from_slice(text)?;
    let whole = match summary.complete {
        true => Ok(()),
        false => Err(incomplete(summary.message.as_deref().unwrap_or_default())),
    };
    Ok(Plain::Summary(whole))
}

/// What is said of the summary of a batch, as text: all answers are there, or why not; none when it is no summary.
#[must_use]
pub fn summary(text: &[u8]) -> Option<Result<(), String>> {
    match read_summary(text) {
        Ok(Plain::Summary(whole)) => Some(whole),
        _ => None,
    }
}

/// Said of an answer of a batch that is no record.
#[must_use]
pub fn no_record(code: &str, name: &str) -> String {
    format!("the batch has no record here: it was answered {code} ({name})")
}

/// Said of answers that a batch did not bring to their end.
fn incomplete(why: &str) -> String {
    format!("the batch ended before its end, and more records may be missing here: {why}")
}

/// Whether a record of these values, ascending by index, can be stored and answered.
///
/// # Errors
/// Names the field and what is wrong with it.
pub fn check_record(handle: &[u8], values: &[Value]) -> Result<(), JsonError> {
    check_handle(handle)?;
    let length = |value: &Value| {
        let references = value.references.iter();
        let references: usize = references
            .map(|one| Reference::SIZE_MIN + one.handle.len())
            .sum();
        Value::SIZE_MIN + value.kind.len() + value.data.len() + references
    };
    check_values(
        handle,
        values.iter().map(|value| (value.index, length(value))),
    )
}

fn parse(text: &[u8]) -> Result<Parsed<'_>, JsonError> {
    let written: Written<'_> =
        serde_json::from_slice(text).map_err(|error| JsonError::new("", tidy(&error)))?;
    if let Some(prefix) = &written.prefix {
        if written.handle.is_some() || written.values.is_some() || written.values_hex.is_some() {
            return Err(JsonError::new(
                "prefix",
                "a line is either a prefix or a handle with its values",
            ));
        }
        return parse_prefix(prefix).map(Parsed::Prefix);
    }
    if written.response_code.is_some_and(|code| code != 1) {
        return Err(JsonError::new(
            "responseCode",
            "is not 1: this is an error, not a record",
        ));
    }
    let handle = match (written.handle, written.handle_hex) {
        (Some(handle), None) => handle.into_owned().into_bytes(),
        (None, Some(digits)) => {
            hex::decode(digits.as_bytes()).map_err(|error| JsonError::new("handle_hex", error))?
        }
        _ => return Err(JsonError::new("handle", "is missing")),
    };
    check_handle(&handle)?;
    match (written.values, written.values_hex) {
        (Some(values), None) => Ok(Parsed::Values(handle, values)),
        (None, Some(values)) => Ok(Parsed::Hex(handle, values)),
        (Some(_), Some(_)) => Err(JsonError::new(
            "values_hex",
            "give either values or values_hex",
        )),
        (None, None) => Err(JsonError::new("values", "is missing")),
    }
}

/// The message of the JSON parser; a line has no lines, so only its column is of use.
fn tidy(error: &serde_json::Error) -> String {
    let found = error.to_string().replace("line 1 column", "column");
    match error.classify() {
        Category::Data => found,
        Category::Syntax | Category::Eof | Category::Io => {
            format!(
                "is not JSON ({found}); a record is one object such as {{\"handle\": \"88.118/A\", \"values\": […]}}"
            )
        }
    }
}

/// Reads a prefix, with or without `0.NA/`; gives `0.NA/…`.
///
/// # Errors
/// It is not a prefix.
pub fn parse_prefix(prefix: &str) -> Result<Vec<u8>, JsonError> {
    let bare = match prefix.as_bytes() {
        [b'0', b'.', b'N' | b'n', b'A' | b'a', b'/', ..] => &prefix[5..],
        _ => prefix,
    };
    let good = !bare.contains('/') && bare.split('.').all(|segment| !segment.is_empty());
    if !good || bare.chars().any(char::is_control) || bare.len() > limits::HANDLE_MAX - 5 {
        return Err(JsonError::new(
            "prefix",
            format!("{prefix:?} is not a prefix such as \"88.118\""),
        ));
    }
    Ok(format!("0.NA/{bare}").into_bytes())
}

/// The prefix that a prefix handle stands for: without `0.NA/`.
#[must_use]
pub fn bare_prefix(prefix_handle: &[u8]) -> String {
    let bare = prefix_handle.get(handle::PREFIX_SPACE.len()..);
    String::from_utf8_lossy(bare.unwrap_or_default()).into_owned()
}

/// A handle that can be stored: a prefix, a slash, and no more than the protocol can carry.
fn check_handle(handle: &[u8]) -> Result<(), JsonError> {
    if handle.len() > limits::HANDLE_MAX {
        return Err(JsonError::new(
            "handle",
            format!("is longer than {} bytes", limits::HANDLE_MAX),
        ));
    }
    match handle.iter().position(|byte| *byte == b'/') {
        None | Some(0) => Err(JsonError::new(
            "handle",
            "is not a prefix, a slash and a local name",
        )),
        Some(_) => Ok(()),
    }
}

/// Values written out.
fn read_values(values: Vec<value::Written>, now: u32) -> Result<Vec<Wire>, JsonError> {
    let one = |(place, written): (usize, value::Written)| {
        let value = written
            .into_value(now)
            .map_err(|error| error.within(&format!("values[{place}]")))?;
        Ok(wire(&value))
    };
    values.into_iter().enumerate().map(one).collect()
}

/// Values in wire form.
fn read_hex(values: &[Cow<'_, str>]) -> Result<Vec<Wire>, JsonError> {
    let one = |(place, digits): (usize, &Cow<'_, str>)| {
        let wrong = |message: String| JsonError::new(format!("values_hex[{place}]"), message);
        let wire =
            Bytes::from(hex::decode(digits.as_bytes()).map_err(|error| wrong(error.to_string()))?);
        let (view, rest) = ValueView::split(&wire).map_err(|error| wrong(error.to_string()))?;
        if !rest.is_empty() {
            return Err(wrong(format!("{} bytes follow the value", rest.len())));
        }
        let (index, permissions) = (view.index, view.permissions.0);
        Ok(Wire {
            index,
            permissions,
            wire,
        })
    };
    values.iter().enumerate().map(one).collect()
}

/// A value in wire form.
#[must_use]
pub fn wire(value: &Value) -> Wire {
    let mut wire = Vec::with_capacity(64 + value.data.len());
    value.encode(&mut wire);
    Wire {
        index: value.index,
        permissions: value.permissions.0,
        wire: wire.into(),
    }
}

/// Rules over all values of a handle, each given by its index and length in wire form, ascending: indexes are above 0 and
/// unique, and one answer can carry them all.
fn check_values(
    handle: &[u8],
    values: impl Iterator<Item = (u32, usize)>,
) -> Result<(), JsonError> {
    let (mut count, mut before) = (0, None);
    let mut size = ANSWER_OVERHEAD + handle.len();
    for (index, length) in values {
        if index == 0 {
            return Err(JsonError::new(
                "values",
                "index 0 is reserved; count from 1",
            ));
        }
        if before.replace(index) == Some(index) {
            return Err(JsonError::new(
                "values",
                format!("index {index} is there twice"),
            ));
        }
        count += 1;
        size += length;
    }
    if count > limits::VALUES_MAX {
        return Err(JsonError::new(
            "values",
            format!("are more than {}", limits::VALUES_MAX),
        ));
    }
    if size > limits::MESSAGE_MAX {
        let message = format!(
            "{size} bytes would not fit into one message of {}",
            limits::MESSAGE_MAX
        );
        return Err(JsonError::new("values", message));
    }
    Ok(())
}

/// What an answer needs besides handle and values: header, request digest, two lengths, a certified answer's credential.
const ANSWER_OVERHEAD: usize = limits::HEADER_SIZE + 33 + 8 + 512;

/// The line of a record. `hex` asks for values in wire form; without it they are used only where JSON would lose
/// something.
#[must_use]
pub fn write(handle_written: &[u8], values: &[&[u8]], hex: bool) -> Json {
    let readable = || {
        let handle = std::str::from_utf8(handle_written).ok()?;
        let values: Option<Vec<Json>> = values.iter().map(|wire| readable_value(wire)).collect();
        Some(json!({"handle": handle, "values": values?}))
    };
    if let Some(line) = (!hex).then(readable).flatten() {
        return line;
    }
    let values: Vec<String> = values.iter().map(hex::encode).collect();
    match std::str::from_utf8(handle_written) {
        Ok(handle) => json!({"handle": handle, "values_hex": values}),
        Err(_) => json!({"handle_hex": hex::encode(handle_written), "values_hex": values}),
    }
}

/// A value in wire form as JSON, if that loses nothing.
fn readable_value(wire: &[u8]) -> Option<Json> {
    value::write(&Value::decode(&Bytes::copy_from_slice(wire)).ok()?)
}

/// The line of a homed prefix, given as `0.NA/…`.
#[must_use]
pub fn write_prefix(prefix_handle: &[u8]) -> Json {
    let text = String::from_utf8_lossy(prefix_handle);
    let bare = if handle::is_prefix_handle(prefix_handle) {
        text.get(5..).unwrap_or_default()
    } else {
        &text
    };
    json!({"prefix": bare})
}
