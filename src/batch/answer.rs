//! Answers of a batch as text: NDJSON or CSV, in the order of the lines, and a summary at the end.
//!
//! ```text
//! {"line":1,"responseCode":1,"handle":"88.118/a","values":[…]}
//! {"line":2,"responseCode":100,"handle":"88.118/b","code":"handle_not_found"}
//! {"complete":true,"lines":2,"codes":{"success":1,"handle_not_found":1},"epoch":1,"sequence":4711}
//! ```
//!
//! CSV has a row for each value, `line,responseCode,handle,index,type,ttl,timestamp,permissions,encoding,value`; a line that
//! has none has one row, with its code's name as `encoding` and a message as `value`. The summary is the last row, with
//! `summary` for a line and its JSON as `value`.

use std::collections::BTreeMap;

use jiexi_proto::code::ResponseCode;
use jiexi_proto::value::{Ttl, ValueView};

use crate::json::direct::{self, Direct, put_number, put_text};

/// The form of the answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// One JSON object a line
    #[default]
    Ndjson,
    /// Comma-separated values, a row for each value
    Csv,
}

impl Form {
    /// Its media type.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Ndjson => "application/x-ndjson",
            Self::Csv => "text/csv; charset=utf-8; header=present",
        }
    }
}

/// What a CSV answer begins with.
pub const CSV_HEAD: &str =
    "line,responseCode,handle,index,type,ttl,timestamp,permissions,encoding,value\r\n";
/// What a cell begins with that a spreadsheet would compute.
const FORMULAS: &[u8] = b"=+-@\t\r";

/// What is said of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Code {
    /// These values.
    Success,
    /// The handle has none of the values that everybody may read and were asked for.
    ValuesNotFound,
    /// No such handle.
    HandleNotFound,
    /// Another node's prefix.
    NotResponsible,
    /// Not a handle, or a line that cannot be read.
    InvalidHandle,
    /// The token is for other prefixes.
    NotAllowed,
    /// The token's quota is used up.
    Quota,
    /// Not known now.
    Busy,
    /// The stored record is damaged, or another failure.
    Error,
}

impl Code {
    /// All of them, in the order of their numbers here.
    pub const ALL: [Self; 9] = [
        Self::Success,
        Self::ValuesNotFound,
        Self::HandleNotFound,
        Self::NotResponsible,
        Self::InvalidHandle,
        Self::NotAllowed,
        Self::Quota,
        Self::Busy,
        Self::Error,
    ];

    /// The code of the Handle protocol.
    #[must_use]
    pub const fn response(self) -> ResponseCode {
        match self {
            Self::Success => ResponseCode::SUCCESS,
            Self::ValuesNotFound => ResponseCode::VALUES_NOT_FOUND,
            Self::HandleNotFound => ResponseCode::HANDLE_NOT_FOUND,
            Self::NotResponsible => ResponseCode::SERVER_NOT_RESPONSIBLE,
            Self::InvalidHandle => ResponseCode::INVALID_HANDLE,
            Self::NotAllowed => ResponseCode::INSUFFICIENT_PERMISSIONS,
            Self::Quota | Self::Busy => ResponseCode::SERVER_TOO_BUSY,
            Self::Error => ResponseCode::ERROR,
        }
    }

    /// What it is called, as in problems.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::ValuesNotFound => "values_not_found",
            Self::HandleNotFound => "handle_not_found",
            Self::NotResponsible => "not_responsible",
            Self::InvalidHandle => "invalid_handle",
            Self::NotAllowed => "token_not_allowed",
            Self::Quota => "quota_used_up",
            Self::Busy => "busy",
            Self::Error => "server_error",
        }
    }

    /// Whether asking again later may give another answer.
    #[must_use]
    pub const fn is_passing(self) -> bool {
        matches!(self, Self::Quota | Self::Busy | Self::Error)
    }
}

/// Lines answered, by code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(from = "BTreeMap<String, u64>", into = "BTreeMap<String, u64>")]
pub struct Tally([u64; Code::ALL.len()]);

impl From<Tally> for BTreeMap<String, u64> {
    fn from(tally: Tally) -> Self {
        let named = |(name, count): (&'static str, u64)| (name.to_owned(), count);
        tally.counted().map(named).collect()
    }
}

impl From<BTreeMap<String, u64>> for Tally {
    fn from(named: BTreeMap<String, u64>) -> Self {
        let count = |code: Code| named.get(code.name()).copied().unwrap_or(0);
        Self(Code::ALL.map(count))
    }
}

impl Tally {
    /// The names of codes that were said, and how often.
    pub fn counted(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let all = Code::ALL.into_iter();
        all.map(|code| (code.name(), self.of(code)))
            .filter(|(_, count)| *count > 0)
    }

    /// How often a code was said.
    #[must_use]
    pub const fn of(&self, code: Code) -> u64 {
        self.0[code as usize]
    }

    /// A code was said.
    pub const fn count(&mut self, code: Code) {
        self.0[code as usize] += 1;
    }

    /// Both together.
    #[must_use]
    pub fn plus(mut self, other: &Self) -> Self {
        for (all, more) in self.0.iter_mut().zip(other.0) {
            *all = all.saturating_add(more);
        }
        self
    }

    /// Lines for which asking again later may give another answer.
    #[must_use]
    pub fn passing(&self) -> u64 {
        let passing = Code::ALL.into_iter().filter(|code| code.is_passing());
        passing.map(|code| self.of(code)).sum()
    }

    /// Lines in all.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// How a batch ended.
#[derive(Clone, Copy, Debug)]
pub struct Summary<'a> {
    /// Every change up to this sequence of this epoch of the store is in the answers; none when that is not known.
    pub position: Option<(u64, u64)>,
    /// A stable name and a reason, when lines were left out.
    pub failure: Option<(&'a str, &'a str)>,
}

/// Writes answers one after the other.
#[derive(Debug)]
pub struct Writer {
    form: Form,
    raw: bool,
    json: Direct,
    out: Vec<u8>,
    tally: Tally,
}

impl Writer {
    /// A writer; `raw` leaves cells of CSV as they are also where a spreadsheet would compute them.
    #[must_use]
    pub fn new(form: Form, raw: bool) -> Self {
        let mut out = Vec::new();
        if form == Form::Csv {
            out.extend_from_slice(CSV_HEAD.as_bytes());
        }
        Self {
            form,
            raw,
            json: Direct::default(),
            out,
            tally: Tally::default(),
        }
    }

    /// A writer that goes on behind answers that were counted so.
    #[must_use]
    pub fn going_on(form: Form, raw: bool, tally: Tally) -> Self {
        Self {
            out: Vec::new(),
            tally,
            ..Self::new(form, raw)
        }
    }

    /// Octets that wait to be taken.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// What was written since the last time.
    #[must_use]
    pub fn take(&mut self) -> Vec<u8> {
        let room = self.out.len() + self.out.len() / 8;
        std::mem::replace(&mut self.out, Vec::with_capacity(room))
    }

    /// What was counted.
    #[must_use]
    pub const fn tally(&self) -> &Tally {
        &self.tally
    }

    /// A record: its values in wire form.
    pub fn found<'v>(&mut self, line: u64, handle: &str, values: impl Iterator<Item = &'v [u8]>) {
        self.tally.count(Code::Success);
        if self.form == Form::Csv {
            return self.rows(line, handle, values);
        }
        self.head(line, Code::Success);
        self.out.extend_from_slice(b",\"handle\":");
        put_text(handle, &mut self.out);
        self.out.extend_from_slice(b",\"values\":[");
        let mut between: &[u8] = b"";
        for wire in values {
            self.out.extend_from_slice(between);
            self.json.value(wire, &mut self.out);
            between = b",";
        }
        self.out.extend_from_slice(b"]}\n");
    }

    /// A line that gives no record. `renewal`: Unix seconds when asking again makes sense.
    pub fn refused(
        &mut self,
        line: u64,
        handle: &str,
        code: Code,
        message: &str,
        renewal: Option<u32>,
    ) {
        self.tally.count(code);
        if self.form == Form::Csv {
            return self.refused_row(line, handle, code, message, renewal);
        }
        self.head(line, code);
        if !handle.is_empty() {
            self.out.extend_from_slice(b",\"handle\":");
            put_text(handle, &mut self.out);
        }
        if code == Code::ValuesNotFound {
            self.out.extend_from_slice(b",\"values\":[]");
        }
        self.out.extend_from_slice(b",\"code\":");
        put_text(code.name(), &mut self.out);
        if !message.is_empty() {
            self.out.extend_from_slice(b",\"message\":");
            put_text(message, &mut self.out);
        }
        if let Some(renewal) = renewal {
            self.out.extend_from_slice(b",\"renewal\":\"");
            self.json.time(renewal, &mut self.out);
            self.out.push(b'"');
        }
        self.out.extend_from_slice(b"}\n");
    }

    /// The end: what was counted, and whether it is all.
    pub fn summary(&mut self, summary: &Summary<'_>) {
        let counted = self.tally.counted();
        let codes = counted.map(|(name, count)| (name.to_owned(), count.into()));
        let mut json = serde_json::json!({
            "complete": summary.failure.is_none(),
            "lines": self.tally.lines(),
            "codes": serde_json::Map::from_iter(codes),
        });
        if let Some((epoch, sequence)) = summary.position {
            json["epoch"] = epoch.into();
            json["sequence"] = sequence.into();
        }
        if let Some((code, message)) = summary.failure {
            json["code"] = code.into();
            json["message"] = message.into();
        }
        match self.form {
            Form::Ndjson => {
                direct::put_json(&json, &mut self.out);
                self.out.push(b'\n');
            }
            Form::Csv => {
                self.out.extend_from_slice(b"summary,,,,,,,,json,");
                put_cell(json.to_string().as_bytes(), true, &mut self.out);
                self.out.extend_from_slice(b"\r\n");
            }
        }
    }

    fn head(&mut self, line: u64, code: Code) {
        self.out.extend_from_slice(b"{\"line\":");
        put_number(line, &mut self.out);
        self.out.extend_from_slice(b",\"responseCode\":");
        put_number(code.response().0.into(), &mut self.out);
    }

    fn row_head(&mut self, line: u64, code: Code, handle: &str) {
        put_number(line, &mut self.out);
        self.out.push(b',');
        put_number(code.response().0.into(), &mut self.out);
        self.out.push(b',');
        put_cell(handle.as_bytes(), self.raw, &mut self.out);
        self.out.push(b',');
    }

    /// A row for each value; one that says so where there is none, so that every line has its answer.
    fn rows<'v>(&mut self, line: u64, handle: &str, values: impl Iterator<Item = &'v [u8]>) {
        let views = values.filter_map(|wire| ValueView::split(wire).ok());
        let mut none = true;
        for (view, _) in views {
            self.row(line, handle, &view);
            none = false;
        }
        if none {
            self.refused_row(line, handle, Code::Success, "no values", None);
        }
    }

    /// A value as a row.
    fn row(&mut self, line: u64, handle: &str, view: &ValueView<'_>) {
        self.row_head(line, Code::Success, handle);
        put_number(view.index.into(), &mut self.out);
        self.out.push(b',');
        put_cell(
            String::from_utf8_lossy(view.kind).as_bytes(),
            self.raw,
            &mut self.out,
        );
        self.out.push(b',');
        match view.ttl {
            Ttl::Relative(seconds) => self.out.extend_from_slice(seconds.to_string().as_bytes()),
            Ttl::Absolute(seconds) => self
                .json
                .time(u32::try_from(seconds).unwrap_or(0), &mut self.out),
        }
        self.out.push(b',');
        self.json.time(view.timestamp, &mut self.out);
        self.out.push(b',');
        let four = view.permissions.0 & 0x0F;
        let _ = self.json.permissions(four, &mut self.out);
        self.out.push(b',');
        self.value(view);
        self.out.extend_from_slice(b"\r\n");
    }

    /// Encoding and value.
    fn value(&mut self, view: &ValueView<'_>) {
        if direct::is_special(view.kind) {
            let json =
                crate::json::data::write(view.kind, &bytes::Bytes::copy_from_slice(view.data));
            let format = json["format"].as_str().unwrap_or_default();
            self.out.extend_from_slice(format.as_bytes());
            self.out.push(b',');
            let value = &json["value"];
            let text = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            put_cell(text.as_bytes(), self.raw, &mut self.out);
        } else if direct::readable(view.data).is_some() {
            self.out.extend_from_slice(b"string,");
            put_cell(view.data, self.raw, &mut self.out);
        } else {
            self.out.extend_from_slice(b"base64,");
            let mut text = Vec::new();
            direct::put_base64(view.data, &mut text);
            put_cell(&text, self.raw, &mut self.out);
        }
    }

    fn refused_row(
        &mut self,
        line: u64,
        handle: &str,
        code: Code,
        message: &str,
        renewal: Option<u32>,
    ) {
        self.row_head(line, code, handle);
        self.out.extend_from_slice(b",,,");
        if let Some(renewal) = renewal {
            self.json.time(renewal, &mut self.out);
        }
        self.out.extend_from_slice(b",,");
        self.out.extend_from_slice(code.name().as_bytes());
        self.out.push(b',');
        put_cell(message.as_bytes(), self.raw, &mut self.out);
        self.out.extend_from_slice(b"\r\n");
    }
}

/// Appends a cell (RFC 4180); unless `raw`, a spreadsheet shows it and computes nothing.
fn put_cell(cell: &[u8], raw: bool, out: &mut Vec<u8>) {
    let guarded = !raw && cell.first().is_some_and(|first| FORMULAS.contains(first));
    let special = |octet: &u8| matches!(octet, b',' | b'"' | b'\r' | b'\n');
    let quoted =
        cell.iter().any(special) || cell.first() == Some(&b' ') || cell.last() == Some(&b' ');
    if quoted {
        out.push(b'"');
    }
    if guarded {
        out.push(b'\'');
    }
    match quoted {
        false => out.extend_from_slice(cell),
        true => {
            for octet in cell {
                out.extend_from_slice(if *octet == b'"' {
                    b"\"\""
                } else {
                    std::slice::from_ref(octet)
                });
            }
            out.push(b'"');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiexi_proto::code::Permissions;
    use jiexi_proto::value::Value;

    fn wire(index: u32, kind: &str, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Value {
            index,
            timestamp: 1_700_000_000,
            ttl: Ttl::Relative(86_400),
            permissions: Permissions(0b1110),
            kind: kind.to_owned().into(),
            data: bytes::Bytes::copy_from_slice(data),
            references: Vec::new(),
        }
        .encode(&mut out);
        out
    }

    fn written(form: Form, raw: bool) -> String {
        let mut writer = Writer::new(form, raw);
        let values = [
            wire(1, "URL", b"=1+1"),
            wire(2, "B", b"\xff"),
            wire(3, "T", b"a,\"b\"\n"),
        ];
        writer.found(1, "88.118/a", values.iter().map(Vec::as_slice));
        writer.refused(2, "@b", Code::HandleNotFound, "", None);
        writer.refused(3, "", Code::InvalidHandle, "no text", None);
        writer.refused(4, "88.118/c", Code::Quota, "", Some(86_400));
        writer.refused(5, "88.118/d", Code::ValuesNotFound, "", None);
        assert_eq!(
            (writer.tally().lines(), writer.tally().of(Code::Quota)),
            (5, 1)
        );
        let position = Some((1, 9));
        writer.summary(&Summary {
            position,
            failure: None,
        });
        writer.summary(&Summary {
            position: None,
            failure: Some(("x", "why")),
        });
        String::from_utf8(writer.take()).unwrap()
    }

    /// Goal: the form that the documentation shows, to the octet.
    #[test]
    fn ndjson() {
        let value = |index: u32, kind: &str, data: &str| {
            format!(
                r#"{{"index":{index},"type":"{kind}","data":{data},"ttl":86400,"timestamp":"2023-11-14T22:13:20Z"}}"#
            )
        };
        let values = [
            value(1, "URL", r#"{"format":"string","value":"=1+1"}"#),
            value(2, "B", r#"{"format":"base64","value":"/w=="}"#),
            value(3, "T", r#"{"format":"string","value":"a,\"b\"\n"}"#),
        ];
        let codes = r#"{"success":1,"values_not_found":1,"handle_not_found":1,"invalid_handle":1,"quota_used_up":1}"#;
        let expected = [
            format!(r#"{{"line":1,"responseCode":1,"handle":"88.118/a","values":[{}]}}"#, values.join(",")),
            r#"{"line":2,"responseCode":100,"handle":"@b","code":"handle_not_found"}"#.into(),
            r#"{"line":3,"responseCode":102,"code":"invalid_handle","message":"no text"}"#.into(),
            r#"{"line":4,"responseCode":3,"handle":"88.118/c","code":"quota_used_up","renewal":"1970-01-02T00:00:00Z"}"#.into(),
            r#"{"line":5,"responseCode":200,"handle":"88.118/d","values":[],"code":"values_not_found"}"#.into(),
            format!(r#"{{"complete":true,"lines":5,"codes":{codes},"epoch":1,"sequence":9}}"#),
            format!(r#"{{"complete":false,"lines":5,"codes":{codes},"code":"x","message":"why"}}"#),
        ];
        assert_eq!(
            written(Form::Ndjson, false).lines().collect::<Vec<_>>(),
            expected
        );
    }

    /// Goal: quoted where needed; guarded against spreadsheets, and exact when asked for.
    #[test]
    fn csv() {
        let rows = |url: &str, handle: &str| {
            format!(
                "{CSV_HEAD}1,1,88.118/a,1,URL,86400,2023-11-14T22:13:20Z,1110,string,{url}\r\n\
                 1,1,88.118/a,2,B,86400,2023-11-14T22:13:20Z,1110,base64,/w==\r\n\
                 1,1,88.118/a,3,T,86400,2023-11-14T22:13:20Z,1110,string,\"a,\"\"b\"\"\n\"\r\n\
                 2,100,{handle},,,,,,handle_not_found,\r\n\
                 3,102,,,,,,,invalid_handle,no text\r\n\
                 4,3,88.118/c,,,,1970-01-02T00:00:00Z,,quota_used_up,\r\n\
                 5,200,88.118/d,,,,,,values_not_found,\r\n\
                 summary,,,,,,,,json,\"{{"
            )
        };
        assert!(
            written(Form::Csv, false).starts_with(&rows("'=1+1", "'@b")),
            "{}",
            written(Form::Csv, false)
        );
        assert!(written(Form::Csv, true).starts_with(&rows("=1+1", "@b")));
    }
}
