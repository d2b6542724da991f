//! Parquet, both ways: answers of a batch as a table, and tables of registrations as text.
//!
//! ```text
//! answers (NDJSON) → Table → file: a row for each line, its values a list of structs
//! file → Registrations → NDJSON or CSV, as jobs take it
//! ```
//!
//! A table is written in groups of rows, which is what it keeps in memory. Its end says where everything is, so that a table
//! without one is none: it cannot be gone on with.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use parquet::schema::parser::parse_message_type;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::sink::LINE_ANSWER_MAX;
use crate::batch::rows::{COLUMNS, Form};

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.apache.parquet";
/// Rows of a group, and octets of text from which a group ends earlier.
const GROUP_ROWS: usize = 65_536;
const GROUP_OCTETS: usize = 32 << 20;
/// Octets of text that are made of a table at once; one row may be longer.
const PIECE: usize = 64 << 10;
/// Under which name the summary of the batch is kept in the file.
const SUMMARY: &str = "jiexi.summary";

/// The columns of answers.
const ANSWERS: &str = "
message answers {
  required int64 line (INTEGER(64, false));
  required int32 responseCode;
  optional binary handle (STRING);
  optional binary code (STRING);
  optional binary message (STRING);
  optional int64 renewal (TIMESTAMP(MILLIS, true));
  required group values (LIST) {
    repeated group list {
      required group element {
        required int32 index (INTEGER(32, false));
        required binary type (STRING);
        optional int64 ttl;
        optional int64 expires (TIMESTAMP(MILLIS, true));
        required int64 timestamp (TIMESTAMP(MILLIS, true));
        required binary permissions (STRING);
        required binary encoding (STRING);
        required binary value (STRING);
        optional binary references (STRING);
      }
    }
  }
}";

/// What everybody may read and administrators may do with a value, when an answer does not say otherwise.
const PERMISSIONS: &str = "1110";

/// An answer, or the part of it that makes a row.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    line: u64,
    response_code: i32,
    handle: Option<String>,
    code: Option<String>,
    message: Option<String>,
    renewal: Option<String>,
    /// What is no value is null.
    #[serde(default)]
    values: Vec<Option<Value>>,
}

#[derive(Deserialize)]
struct Value {
    index: u32,
    #[serde(rename = "type")]
    kind: String,
    data: Data,
    ttl: Life,
    timestamp: String,
    permissions: Option<String>,
    references: Option<Json>,
}

#[derive(Deserialize)]
struct Data {
    format: String,
    value: Json,
}

/// Seconds, or a time.
#[derive(Deserialize)]
#[serde(untagged)]
enum Life {
    Seconds(i64),
    Until(String),
}

/// A column that may have gaps.
#[derive(Debug)]
struct Column<T> {
    values: Vec<T>,
    /// Which places have a value.
    levels: Vec<i16>,
}

impl<T> Default for Column<T> {
    fn default() -> Self {
        Self {
            values: Vec::new(),
            levels: Vec::new(),
        }
    }
}

impl<T> Column<T> {
    /// A value, or a gap of this level.
    fn put(&mut self, value: Option<T>, gap: i16) {
        self.levels.push(gap + i16::from(value.is_some()));
        self.values.extend(value);
    }

    fn levels(&self) -> Option<&[i16]> {
        Some(&self.levels)
    }
}

/// Rows that are not written yet, column by column.
#[derive(Debug, Default)]
struct Group {
    octets: usize,
    lines: Vec<i64>,
    response_codes: Vec<i32>,
    handles: Column<ByteArray>,
    codes: Column<ByteArray>,
    messages: Column<ByteArray>,
    renewals: Column<i64>,
    values: Values,
}

/// The values of these rows. Where a row has none, the list is empty.
#[derive(Debug, Default)]
struct Values {
    /// 0 where a row begins.
    repeated: Vec<i16>,
    /// 1 where there is a value, 0 for an empty list.
    there: Vec<i16>,
    indexes: Vec<i32>,
    kinds: Vec<ByteArray>,
    ttls: Column<i64>,
    expires: Column<i64>,
    timestamps: Vec<i64>,
    permissions: Vec<ByteArray>,
    encodings: Vec<ByteArray>,
    texts: Vec<ByteArray>,
    references: Column<ByteArray>,
}

impl Group {
    fn rows(&self) -> usize {
        self.lines.len()
    }

    fn is_full(&self) -> bool {
        self.rows() >= GROUP_ROWS || self.octets >= GROUP_OCTETS
    }

    fn add(&mut self, answer: Answer) -> io::Result<()> {
        let text = |text: Option<String>| text.map(|text| ByteArray::from(text.into_bytes()));
        let renewal = answer.renewal.as_deref().map(milliseconds).transpose()?;
        self.lines.push(answer.line.cast_signed());
        self.response_codes.push(answer.response_code);
        self.handles.put(text(answer.handle), 0);
        self.codes.put(text(answer.code), 0);
        self.messages.put(text(answer.message), 0);
        self.renewals.put(renewal, 0);
        let mut any = false;
        for value in answer.values.into_iter().flatten() {
            self.values.add(value, any)?;
            any = true;
        }
        if !any {
            self.values.none();
        }
        Ok(())
    }

    /// Writes the columns in the order of the schema.
    fn write(&self, to: &mut SerializedRowGroupWriter<'_, File>) -> Result<(), ParquetError> {
        put::<Int64Type>(to, &self.lines, (None, None))?;
        put::<Int32Type>(to, &self.response_codes, (None, None))?;
        for column in [&self.handles, &self.codes, &self.messages] {
            put::<ByteArrayType>(to, &column.values, (column.levels(), None))?;
        }
        put::<Int64Type>(to, &self.renewals.values, (self.renewals.levels(), None))?;
        self.values.write(to)
    }
}

impl Values {
    /// A row without any.
    fn none(&mut self) {
        self.repeated.push(0);
        self.there.push(0);
        self.ttls.levels.push(0);
        self.expires.levels.push(0);
        self.references.levels.push(0);
    }

    /// A value; `more`: of the same row as the one before.
    fn add(&mut self, value: Value, more: bool) -> io::Result<()> {
        self.repeated.push(i16::from(more));
        self.there.push(1);
        self.indexes.push(value.index.cast_signed());
        self.kinds.push(value.kind.into_bytes().into());
        let (ttl, until) = match value.ttl {
            Life::Seconds(seconds) => (Some(seconds), None),
            Life::Until(time) => (None, Some(milliseconds(&time)?)),
        };
        self.ttls.put(ttl, 1);
        self.expires.put(until, 1);
        self.timestamps.push(milliseconds(&value.timestamp)?);
        let permissions = value.permissions.as_deref().unwrap_or(PERMISSIONS);
        self.permissions.push(permissions.into());
        self.encodings.push(value.data.format.into_bytes().into());
        let text = match value.data.value {
            Json::String(text) => text,
            other => other.to_string(),
        };
        self.texts.push(text.into_bytes().into());
        let references = value.references.map(|references| references.to_string());
        let references = references.map(|text| ByteArray::from(text.into_bytes()));
        self.references.put(references, 1);
        Ok(())
    }

    fn write(&self, to: &mut SerializedRowGroupWriter<'_, File>) -> Result<(), ParquetError> {
        let repeated = Some(&*self.repeated);
        let all = (Some(&*self.there), repeated);
        put::<Int32Type>(to, &self.indexes, all)?;
        put::<ByteArrayType>(to, &self.kinds, all)?;
        put::<Int64Type>(to, &self.ttls.values, (self.ttls.levels(), repeated))?;
        put::<Int64Type>(to, &self.expires.values, (self.expires.levels(), repeated))?;
        put::<Int64Type>(to, &self.timestamps, all)?;
        for column in [&self.permissions, &self.encodings, &self.texts] {
            put::<ByteArrayType>(to, column, all)?;
        }
        let references = &self.references;
        put::<ByteArrayType>(to, &references.values, (references.levels(), repeated))
    }
}

/// Writes the next column: its values, which places have one, and which places belong to the row before.
fn put<T: DataType>(
    to: &mut SerializedRowGroupWriter<'_, File>,
    values: &[T::T],
    (there, repeated): (Option<&[i16]>, Option<&[i16]>),
) -> Result<(), ParquetError> {
    let column = to.next_column()?;
    let mut column = column.ok_or_else(|| ParquetError::EOF("no such column".to_owned()))?;
    column.typed::<T>().write_batch(values, there, repeated)?;
    column.close()
}

fn milliseconds(time: &str) -> io::Result<i64> {
    let time = humantime::parse_rfc3339(time).map_err(io::Error::other)?;
    let since = time.duration_since(std::time::UNIX_EPOCH);
    let since = since.map_err(io::Error::other)?.as_millis();
    i64::try_from(since).map_err(io::Error::other)
}

/// A table of answers that is being written.
#[derive(Clone)]
pub struct Table(Arc<Mutex<Inner>>);

struct Inner {
    writer: SerializedFileWriter<File>,
    group: Group,
    /// The beginning of a line.
    part: Vec<u8>,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").finish_non_exhaustive()
    }
}

impl Table {
    /// An empty one.
    ///
    /// # Errors
    /// The file takes nothing.
    pub fn new(file: File) -> io::Result<Self> {
        let schema = parse_message_type(ANSWERS).map_err(io::Error::other)?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_created_by(concat!("jiexi version ", env!("CARGO_PKG_VERSION")).to_owned())
            .build();
        let writer = SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties));
        Ok(Self(Arc::new(Mutex::new(Inner {
            writer: writer.map_err(io::Error::other)?,
            group: Group::default(),
            part: Vec::new(),
        }))))
    }

    /// Everything has come: writes the end, with the summary of the batch, and lets the disk have it.
    ///
    /// # Errors
    /// The file takes no more.
    pub fn finish(&self, summary: &Json) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.write_group()?;
        let note = KeyValue::new(SUMMARY.to_owned(), summary.to_string());
        inner.writer.append_key_value_metadata(note);
        inner.writer.finish().map_err(io::Error::other)?;
        inner.writer.inner().sync_all()
    }
}

impl Write for Table {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.take(octets)?;
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Inner {
    fn take(&mut self, octets: &[u8]) -> io::Result<()> {
        for piece in octets.split_inclusive(|octet| *octet == b'\n') {
            if self.part.len() + piece.len() > LINE_ANSWER_MAX {
                return Err(io::Error::other("an answer is longer than any record"));
            }
            if !piece.ends_with(b"\n") {
                self.part.extend_from_slice(piece);
            } else if self.part.is_empty() {
                self.line(piece)?;
            } else {
                let mut line = std::mem::take(&mut self.part);
                line.extend_from_slice(piece);
                self.line(&line)?;
                line.clear();
                self.part = line;
            }
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        self.group.add(serde_json::from_slice(line)?)?;
        self.group.octets += line.len();
        match self.group.is_full() {
            true => self.write_group(),
            false => Ok(()),
        }
    }

    fn write_group(&mut self) -> io::Result<()> {
        let group = std::mem::take(&mut self.group);
        if group.rows() == 0 {
            return Ok(());
        }
        let mut written = || -> Result<(), ParquetError> {
            let mut to = self.writer.next_row_group()?;
            group.write(&mut to)?;
            to.close().map(drop)
        };
        written().map_err(io::Error::other)
    }
}

/// A table of registrations as text: a row for each value, the rows of a handle adjacent (then CSV), or a row for each
/// handle with its values in a list, as answers of a batch have them (then NDJSON).
pub struct Registrations {
    rows: RowIter<'static>,
    form: Form,
    text: Vec<u8>,
    at: usize,
}

impl Registrations {
    /// Opens a table.
    ///
    /// # Errors
    /// It cannot be read, or has other columns.
    pub fn open(path: &Path) -> io::Result<Self> {
        let reader = SerializedFileReader::new(File::open(path)?).map_err(wrong)?;
        let schema = reader.metadata().file_metadata().schema();
        let names: Vec<String> = schema
            .get_fields()
            .iter()
            .map(|field| field.name().to_ascii_lowercase())
            .collect();
        let form = shape(&names).map_err(io::Error::other)?;
        let mut text = Vec::new();
        if form == Form::Csv {
            text.extend_from_slice(COLUMNS.join(",").as_bytes());
            text.push(b'\n');
        }
        Ok(Self {
            rows: RowIter::from_file_into(Box::new(reader)),
            form,
            text,
            at: 0,
        })
    }

    /// The form of the text.
    #[must_use]
    pub const fn form(&self) -> Form {
        self.form
    }

    /// Makes text of some rows; none is left when nothing is added.
    fn fill(&mut self) -> io::Result<()> {
        self.text.clear();
        self.at = 0;
        while self.text.len() < PIECE {
            let Some(row) = self.rows.next() else { break };
            let row = row.map_err(wrong)?;
            match self.form {
                Form::Csv => cells(&row, &mut self.text),
                Form::Ndjson => line(&row, &mut self.text)?,
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Registrations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registrations").finish_non_exhaustive()
    }
}

impl Read for Registrations {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.text.len() {
            self.fill()?;
        }
        let mut left = &self.text[self.at..];
        let count = left.read(buffer)?;
        self.at += count;
        Ok(count)
    }
}

fn wrong(error: ParquetError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// What a table has, by the names of its columns.
fn shape(names: &[String]) -> Result<Form, String> {
    /// Columns of answers that say nothing here.
    const IGNORED: [&str; 6] = [
        "line",
        "responsecode",
        "timestamp",
        "code",
        "message",
        "renewal",
    ];
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    let form = match has("values") {
        true => Form::Ndjson,
        false => Form::Csv,
    };
    let (known, needed): (&[&str], &[&str]) = match form {
        Form::Ndjson => (&["handle", "values"], &["handle"]),
        Form::Csv => (&COLUMNS, &["handle", "index", "type", "value"]),
    };
    if let Some(missing) = needed.iter().find(|name| !has(name)) {
        return Err(format!("the table has no column {missing}"));
    }
    let stranger = names
        .iter()
        .find(|name| !known.contains(&name.as_str()) && !IGNORED.contains(&name.as_str()));
    match stranger {
        Some(name) => Err(format!(
            "the column {name:?} is not known; there may be {}, or handle and values",
            COLUMNS.join(",")
        )),
        None => Ok(form),
    }
}

/// The field of a row with a name, whatever its case; none where it is null.
fn field<'r>(row: &'r Row, wanted: &str) -> Option<&'r Field> {
    let mut columns = row.get_column_iter();
    let found = columns.find(|(name, _)| name.eq_ignore_ascii_case(wanted));
    found
        .map(|(_, field)| field)
        .filter(|field| !matches!(field, Field::Null))
}

/// What a field says; binary data as Base 64, which the flag tells.
fn said(field: Option<&Field>) -> (String, bool) {
    match field {
        None => (String::new(), false),
        Some(Field::Str(text)) => (text.clone(), false),
        Some(Field::Bytes(octets)) => (STANDARD.encode(octets.data()), true),
        // Numbers with gaps are floating-point numbers in many tables.
        Some(Field::Double(number)) => (number_text(*number), false),
        Some(Field::Float(number)) => (number_text((*number).into()), false),
        Some(Field::TimestampMillis(time)) => (time_text(*time, 1), false),
        Some(Field::TimestampMicros(time)) => (time_text(*time, 1_000), false),
        Some(other) => (other.to_string(), false),
    }
}

/// A number; nothing for what is none.
fn number_text(number: f64) -> String {
    match number.is_nan() {
        true => String::new(),
        false => number.to_string(),
    }
}

/// A time as RFC 3339, in full seconds.
fn time_text(time: i64, of_a_millisecond: i64) -> String {
    let seconds = u64::try_from(time / of_a_millisecond / 1_000).unwrap_or(0);
    let time = std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(seconds));
    time.map_or_else(String::new, |time| {
        humantime::format_rfc3339_seconds(time).to_string()
    })
}

/// How data are written, and the data.
fn data(row: &Row) -> (String, String) {
    let (text, binary) = said(field(row, "value"));
    let (encoding, _) = said(field(row, "encoding"));
    match binary && encoding.is_empty() {
        true => ("base64".to_owned(), text),
        false => (encoding, text),
    }
}

/// Appends a row of CSV.
fn cells(row: &Row, out: &mut Vec<u8>) {
    let (encoding, value) = data(row);
    for (place, name) in COLUMNS.into_iter().enumerate() {
        let cell = match name {
            "encoding" => encoding.clone(),
            "value" => value.clone(),
            name => said(field(row, name)).0,
        };
        if place > 0 {
            out.push(b',');
        }
        out.push(b'"');
        out.extend_from_slice(cell.replace('"', "\"\"").as_bytes());
        out.push(b'"');
    }
    out.push(b'\n');
}

/// Appends a handle with its values.
fn line(row: &Row, out: &mut Vec<u8>) -> io::Result<()> {
    let values = match field(row, "values") {
        Some(Field::ListInternal(list)) => list.elements(),
        None => &[],
        Some(_) => return Err(io::Error::other("the column values is no list")),
    };
    let values: io::Result<Vec<Json>> = values
        .iter()
        .map(|value| match value {
            Field::Group(value) => Ok(one_value(value)),
            _ => Err(io::Error::other("the values are no structs")),
        })
        .collect();
    let (handle, _) = said(field(row, "handle"));
    let json = json!({"handle": handle, "values": values?});
    serde_json::to_writer(&mut *out, &json)?;
    out.push(b'\n');
    Ok(())
}

fn one_value(row: &Row) -> Json {
    let (encoding, text) = data(row);
    let value = match encoding.as_str() {
        "" | "string" | "base64" | "hex" => Json::String(text),
        // Lists, sites and keys are JSON; what is not is refused where it is read.
        _ => serde_json::from_str(&text).unwrap_or(Json::String(text)),
    };
    let format = match encoding.is_empty() {
        true => "string",
        false => &encoding,
    };
    let number = |name: &str| -> Json {
        let (text, _) = said(field(row, name));
        text.parse::<i64>().map_or(Json::String(text), Json::from)
    };
    let mut json = json!({
        "index": number("index"),
        "type": said(field(row, "type")).0,
        "data": {"format": format, "value": value},
    });
    for (name, column) in [("ttl", "ttl"), ("ttl", "expires")] {
        if field(row, column).is_some() {
            json[name] = number(column);
        }
    }
    if let Some(permissions) = field(row, "permissions") {
        json["permissions"] = said(Some(permissions)).0.into();
    }
    let references = said(field(row, "references")).0;
    if let Ok(references) = serde_json::from_str::<Json>(&references) {
        json["references"] = references;
    }
    json
}
