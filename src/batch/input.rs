//! Identifiers and the lines they stand on, out of text that arrives in pieces.
//!
//! | form | one identifier is | its line |
//! |---|---|---|
//! | lines | a line, without the space around it | that of the text |
//! | NDJSON | a line: a string, or an object with `handle` | that of the text |
//! | array | an element: a string, or an object with `handle` | its place in the array, from 1 |
//! | CSV | the cell of the column `handle`, or the first when no first row names that | where its row begins |
//!
//! Empty lines are no questions. What cannot be read fails alone; only an array whose frame is broken ends the batch.

use std::borrow::Cow;
use std::ops::Range;

use csv_core::{ReadFieldResult, Reader as Rows};
use jiexi_proto::limits::HANDLE_MAX;
use memchr::{memchr, memchr_iter};
use serde::Deserialize;

use super::charset::UNDECODABLE;
use super::{COLUMNS_MAX, LINE_MAX};

/// What the column with the identifiers is called.
const COLUMN: &str = "handle";

/// The form of the input.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// One identifier a line
    Lines,
    /// One JSON string or object a line
    Ndjson,
    /// One JSON array of strings or objects
    Json,
    /// Comma-separated values
    Csv,
}

impl Form {
    /// The form of a media type; none when it is not known.
    #[must_use]
    pub fn of_type(kind: &str) -> Option<Self> {
        Some(match kind.trim().to_ascii_lowercase().as_str() {
            "text/plain" => Self::Lines,
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Self::Ndjson,
            "application/json" => Self::Json,
            "text/csv" => Self::Csv,
            _ => return None,
        })
    }

    /// Its media type.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Lines => "text/plain",
            Self::Ndjson => "application/x-ndjson",
            Self::Json => "application/json",
            Self::Csv => "text/csv",
        }
    }
}

/// Why a line is no question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Its octets are not of the charset.
    Undecodable,
    /// It is longer than [`LINE_MAX`], or has more columns than [`COLUMNS_MAX`].
    TooLong,
    /// It is not a JSON string and not an object with a text `handle`.
    NotJson,
    /// Its row has no such column, or nothing in it.
    NoHandle,
    /// The identifier is longer than the protocol allows.
    LongHandle,
}

impl Fault {
    /// For people.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::Undecodable => "the line cannot be decoded in its charset",
            Self::TooLong => "the line is longer than 65536 octets, or has more than 1000 columns",
            Self::NotJson => "the line is neither a JSON string nor an object with a handle",
            Self::NoHandle => "there is no handle in the row",
            Self::LongHandle => "the handle is longer than 2048 octets",
        }
    }
}

/// One line that asks, or fails to.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its number, from 1.
    pub line: u64,
    /// Where its identifier stands; empty with a fault.
    text: Range<usize>,
    /// Why it is none.
    pub fault: Option<Fault>,
}

/// Lines that were read and are not answered yet.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    text: String,
    items: Vec<Item>,
}

impl Asked {
    /// The lines, in their order.
    #[must_use]
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// The identifier of a line.
    #[must_use]
    pub fn handle(&self, item: &Item) -> &str {
        self.text.get(item.text.clone()).unwrap_or_default()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.text.clear();
        self.items.clear();
    }

    fn ask(&mut self, line: u64, handle: &str) {
        match handle.len() {
            0 => self.fail(line, Fault::NoHandle),
            length if length > HANDLE_MAX => self.fail(line, Fault::LongHandle),
            length => {
                let start = self.text.len();
                self.text.push_str(handle);
                let text = start..start + length;
                self.items.push(Item {
                    line,
                    text,
                    fault: None,
                });
            }
        }
    }

    fn fail(&mut self, line: u64, fault: Fault) {
        self.items.push(Item {
            line,
            text: 0..0,
            fault: Some(fault),
        });
    }
}

/// Text of one line, element or cell, bounded.
#[derive(Debug, Default)]
struct Kept {
    octets: Vec<u8>,
    over: bool,
}

impl Kept {
    fn add(&mut self, piece: &[u8]) {
        if self.octets.len() + piece.len() > LINE_MAX {
            self.over = true;
        } else {
            self.octets.extend_from_slice(piece);
        }
    }

    fn clear(&mut self) {
        self.octets.clear();
        self.over = false;
    }

    fn is_empty(&self) -> bool {
        self.octets.is_empty() && !self.over
    }
}

/// Reads one input.
#[derive(Debug)]
pub struct Input {
    state: State,
    /// The line, element or row that is being read.
    line: u64,
    kept: Kept,
    broken: Option<&'static str>,
}

#[derive(Debug)]
enum State {
    Lines { json: bool },
    Array(Array),
    Csv(Box<Csv>),
}

impl Input {
    /// An input of a form.
    #[must_use]
    pub fn new(form: Form) -> Self {
        Self {
            state: match form {
                Form::Lines => State::Lines { json: false },
                Form::Ndjson => State::Lines { json: true },
                Form::Json => State::Array(Array::default()),
                Form::Csv => State::Csv(Box::default()),
            },
            line: 1,
            kept: Kept::default(),
            broken: None,
        }
    }

    /// Takes a piece of text; what is complete is added to `asked`.
    pub fn push(&mut self, text: &[u8], asked: &mut Asked) {
        if self.broken.is_some() {
            return;
        }
        match &mut self.state {
            State::Lines { json } => {
                let json = *json;
                self.lines(text, json, asked);
            }
            State::Array(array) => {
                self.broken = array
                    .push(text, &mut self.kept, &mut self.line, asked)
                    .err();
            }
            State::Csv(csv) => csv.push(text, &mut self.line, asked),
        }
    }

    /// The text has ended: what is left is a line, too.
    ///
    /// # Errors
    /// Why the input as a whole could not be read to its end.
    pub fn finish(&mut self, asked: &mut Asked) -> Result<(), &'static str> {
        match &mut self.state {
            State::Lines { json } => {
                let json = *json;
                self.end_of_line(json, asked);
            }
            State::Array(array) if self.broken.is_none() && !array.is_complete() => {
                self.broken = Some("the JSON array does not end");
            }
            State::Array(_) => {}
            State::Csv(csv) => {
                if !csv.finish(&mut self.line, asked) {
                    self.broken = Some("a quoted cell does not end");
                }
            }
        }
        self.broken.map_or(Ok(()), Err)
    }

    /// Why nothing more is read.
    #[must_use]
    pub const fn broken(&self) -> Option<&'static str> {
        self.broken
    }

    fn lines(&mut self, text: &[u8], json: bool, asked: &mut Asked) {
        let mut start = 0;
        for end in memchr_iter(b'\n', text) {
            let piece = &text[start..end];
            start = end + 1;
            if self.kept.is_empty() && piece.len() <= LINE_MAX {
                one_line(piece, json, self.line, asked);
                self.line += 1;
            } else {
                self.kept.add(piece);
                self.end_of_line(json, asked);
            }
        }
        self.kept.add(&text[start..]);
    }

    fn end_of_line(&mut self, json: bool, asked: &mut Asked) {
        match self.kept.over {
            true => asked.fail(self.line, Fault::TooLong),
            false => one_line(&self.kept.octets, json, self.line, asked),
        }
        self.kept.clear();
        self.line += 1;
    }
}

/// Reads a line that is complete.
fn one_line(line: &[u8], json: bool, number: u64, asked: &mut Asked) {
    let line = line.trim_ascii();
    if line.is_empty() {
        return;
    }
    if json {
        return element(line, number, asked);
    }
    match text(line) {
        Ok(handle) => asked.ask(number, handle),
        Err(fault) => asked.fail(number, fault),
    }
}

fn text(octets: &[u8]) -> Result<&str, Fault> {
    // The marker first: it is what the decoder leaves, and the only thing that is not UTF-8.
    match memchr(UNDECODABLE, octets) {
        Some(_) => Err(Fault::Undecodable),
        None => std::str::from_utf8(octets).map_err(|_| Fault::Undecodable),
    }
}

/// An object that asks; other members are left alone.
#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    handle: Cow<'a, str>,
}

/// A string that asks.
#[derive(Deserialize)]
struct Bare<'a>(#[serde(borrow)] Cow<'a, str>);

/// Reads a JSON string or object.
fn element(json: &[u8], number: u64, asked: &mut Asked) {
    let handle = text(json).and_then(|json| {
        let named = match json.as_bytes().first() {
            Some(b'"') => serde_json::from_str(json).map(|Bare(handle)| handle),
            _ => serde_json::from_str(json).map(|Named { handle }| handle),
        };
        named.map_err(|_| Fault::NotJson)
    });
    match handle {
        Ok(handle) => asked.ask(number, &handle),
        Err(fault) => asked.fail(number, fault),
    }
}

/// Where in a JSON array the text stands.
#[derive(Debug, Default)]
struct Array {
    place: Place,
    depth: u32,
    in_string: bool,
    escaped: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Before,
    First,
    Element,
    Inside,
    Behind,
    End,
}

impl Array {
    fn is_complete(&self) -> bool {
        self.place == Place::End
    }

    fn push(
        &mut self,
        text: &[u8],
        kept: &mut Kept,
        line: &mut u64,
        asked: &mut Asked,
    ) -> Result<(), &'static str> {
        let mut at = 0;
        while let Some(&octet) = text.get(at) {
            if self.place == Place::Inside {
                let end = at + self.inside(&text[at..]);
                kept.add(&text[at..end]);
                at = end;
                if at < text.len() {
                    close(kept, line, asked);
                    self.place = Place::Behind;
                }
                continue;
            }
            at += 1;
            self.place = match (self.place, octet) {
                (place, b' ' | b'\t' | b'\n' | b'\r') => place,
                (Place::Before, b'[') => Place::First,
                (Place::Before, _) => return Err("the body does not begin as a JSON array"),
                (Place::First | Place::Behind, b']') => Place::End,
                (Place::Behind, b',') => Place::Element,
                (Place::First | Place::Element, octet)
                    if !matches!(octet, b',' | b']' | b'}' | b':') =>
                {
                    at -= 1;
                    (self.depth, self.in_string, self.escaped) = (0, false, false);
                    Place::Inside
                }
                (Place::End, _) => return Err("something follows the JSON array"),
                _ => return Err("the JSON array is not well-formed"),
            };
        }
        Ok(())
    }

    /// How many octets belong to the element that is being read.
    fn inside(&mut self, text: &[u8]) -> usize {
        for (at, &octet) in text.iter().enumerate() {
            if self.in_string {
                match octet {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match octet {
                b'"' => self.in_string = true,
                b'[' | b'{' => self.depth = self.depth.saturating_add(1),
                b']' | b',' if self.depth == 0 => return at,
                b']' | b'}' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
        text.len()
    }
}

/// Reads an element that is complete.
fn close(kept: &mut Kept, line: &mut u64, asked: &mut Asked) {
    match kept.over {
        true => asked.fail(*line, Fault::TooLong),
        false => element(kept.octets.trim_ascii(), *line, asked),
    }
    kept.clear();
    *line += 1;
}

/// Rows of CSV.
#[derive(Debug)]
struct Csv {
    rows: Rows,
    buffer: Vec<u8>,
    /// Which column is wanted, from 0; none before the first row is known.
    column: Option<usize>,
    /// The column of the first row that is called so.
    named: Option<usize>,
    /// The cell that is being read, and the wanted one of its row.
    cell: Kept,
    wanted: Kept,
    there: bool,
    place: usize,
    /// Where the row began, and whether it has.
    begun: Option<u64>,
}

impl Default for Csv {
    fn default() -> Self {
        Self {
            rows: Rows::new(),
            buffer: vec![0; 4_096],
            column: None,
            named: None,
            cell: Kept::default(),
            wanted: Kept::default(),
            there: false,
            place: 0,
            begun: None,
        }
    }
}

impl Csv {
    fn push(&mut self, mut text: &[u8], line: &mut u64, asked: &mut Asked) {
        while !text.is_empty() {
            if self.begun.is_none() {
                // Empty lines are skipped here, so that the beginning of a row is known.
                let first = text
                    .iter()
                    .position(|octet| !matches!(octet, b'\r' | b'\n'));
                let (empty, rest) = text.split_at(first.unwrap_or(text.len()));
                *line += memchr_iter(b'\n', empty).count() as u64;
                text = rest;
                if text.is_empty() {
                    return;
                }
                self.begun = Some(*line);
            }
            let read = self.step(text, asked);
            *line += memchr_iter(b'\n', &text[..read]).count() as u64;
            text = &text[read..];
        }
    }

    /// False when the text ends between quotation marks.
    fn finish(&mut self, line: &mut u64, asked: &mut Asked) -> bool {
        // An end of line ends the last row, unless it is part of a cell.
        if self.begun.is_some() {
            self.step(b"\n", asked);
        }
        let whole = self.begun.is_none();
        // An empty piece says that nothing follows; a cell or a row may come of it, more than once.
        while self.begun.is_some() {
            self.step(b"", asked);
        }
        *line += 1;
        whole
    }

    /// Reads at most one cell; returns how many octets it took.
    fn step(&mut self, text: &[u8], asked: &mut Asked) -> usize {
        let (result, read, written) = self.rows.read_field(text, &mut self.buffer);
        let column = self.column.unwrap_or(0);
        if self.column.is_none() || self.place == column {
            self.cell.add(&self.buffer[..written]);
        }
        match result {
            ReadFieldResult::InputEmpty | ReadFieldResult::OutputFull => {}
            ReadFieldResult::Field { record_end } => {
                self.end_of_cell(column);
                if record_end {
                    self.end_of_row(asked);
                }
            }
            ReadFieldResult::End => self.begun = None,
        }
        read
    }

    fn end_of_cell(&mut self, column: usize) {
        let header = self.column.is_none() && self.named.is_none();
        if header
            && self
                .cell
                .octets
                .trim_ascii()
                .eq_ignore_ascii_case(COLUMN.as_bytes())
        {
            self.named = Some(self.place);
        }
        if self.place == column {
            std::mem::swap(&mut self.cell, &mut self.wanted);
            self.there = true;
        }
        self.cell.clear();
        self.place += 1;
    }

    fn end_of_row(&mut self, asked: &mut Asked) {
        let line = self.begun.take().unwrap_or_default();
        let header = self.column.is_none() && self.named.is_some();
        let named = self.named.unwrap_or(0);
        self.column.get_or_insert(named);
        if header {
        } else if self.place > COLUMNS_MAX || self.wanted.over {
            asked.fail(line, Fault::TooLong);
        } else if !self.there {
            asked.fail(line, Fault::NoHandle);
        } else {
            match text(self.wanted.octets.trim_ascii()) {
                Ok(handle) => asked.ask(line, handle),
                Err(fault) => asked.fail(line, fault),
            }
        }
        self.wanted.clear();
        (self.there, self.place) = (false, 0);
    }
}

#[cfg(test)]
mod tests;
