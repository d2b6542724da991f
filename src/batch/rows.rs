//! Registrations and the lines they stand on, out of text that is on disk.
//!
//! | form | one registration is |
//! |---|---|
//! | NDJSON | a line, as `jiexi import` takes it: `{"handle":…,"values":[…]}`, or as a batch answers it |
//! | CSV | adjacent rows of one handle, a value each: `handle,index,type,ttl,permissions,encoding,value` |
//!
//! What cannot be read fails alone. The [`Place`] behind each registration is exact: reading goes on from there as if it
//! had never stopped.

use std::io::{self, BufRead};

use csv_core::{ReadRecordResult, Reader as Records};
use jiexi_proto::value::{Ttl, Value};
use memchr::{memchr, memchr_iter};

use super::charset::UNDECODABLE;
use super::{COLUMNS_MAX, input};
use crate::json::line::{self, Plain};
use crate::json::value::{self, Cells};

/// Octets of one registration: the largest record in escaped JSON needs a few times its 256 KiB.
pub const ROW_MAX: usize = 2 << 20;
/// The columns of CSV, in the order they have without a first row that names them.
pub const COLUMNS: [&str; 7] = [
    "handle",
    "index",
    "type",
    "ttl",
    "permissions",
    "encoding",
    "value",
];
/// Columns that may be there and say nothing about a value: those of the answers of a batch.
const IGNORED: [&str; 3] = [LINE, CODE, "timestamp"];
/// The column that says `summary` behind the last answer, and the one that is not 1 where there is no record.
const LINE: &str = "line";
const CODE: &str = "responsecode";
/// Columns that must be there.
const REQUIRED: [usize; 4] = [0, 1, 2, 6];

/// The form of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// One JSON object a line.
    Ndjson,
    /// Comma-separated values.
    Csv,
}

impl Form {
    /// The form of a media type; none when it is not known.
    #[must_use]
    pub fn of_type(kind: &str) -> Option<Self> {
        Some(match kind.trim().to_ascii_lowercase().as_str() {
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Self::Ndjson,
            "text/csv" => Self::Csv,
            _ => return None,
        })
    }

    /// The form of questions that is written the same way.
    #[must_use]
    pub const fn as_questions(self) -> input::Form {
        match self {
            Self::Ndjson => input::Form::Ndjson,
            Self::Csv => input::Form::Csv,
        }
    }

    /// The form of rows that is written as these questions are.
    #[must_use]
    pub const fn of_questions(form: input::Form) -> Option<Self> {
        match form {
            input::Form::Ndjson => Some(Self::Ndjson),
            input::Form::Csv => Some(Self::Csv),
            input::Form::Lines | input::Form::Json => None,
        }
    }

    /// Its media type.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Ndjson => "application/x-ndjson",
            Self::Csv => "text/csv",
        }
    }
}

/// Where a registration begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Place {
    /// Octets before it.
    pub octet: u64,
    /// Its line, from 1.
    pub line: u64,
}

impl Default for Place {
    fn default() -> Self {
        Self { octet: 0, line: 1 }
    }
}

/// One registration, or why it is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its first line.
    pub line: u64,
    /// Its handle, as far as it could be read.
    pub handle: Vec<u8>,
    /// Its values, or what is wrong with it.
    pub values: Result<Vec<Value>, String>,
    /// Where the next one begins.
    pub end: Place,
}

/// Why the text as a whole is refused.
#[derive(Debug)]
pub enum Unreadable {
    /// It cannot be read from the disk.
    Disk(io::Error),
    /// The first row names columns that make no table of values.
    Columns(String),
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

/// Reads registrations one after the other.
#[derive(Debug)]
pub struct Rows<R> {
    input: R,
    at: Place,
    state: State,
}

#[derive(Debug)]
enum State {
    Lines(Vec<u8>),
    Table(Box<Table>),
}

impl<R: BufRead> Rows<R> {
    /// The text from its beginning. Of CSV the first row is read.
    ///
    /// # Errors
    /// See [`Unreadable`].
    pub fn new(form: Form, input: R) -> Result<Self, Unreadable> {
        let mut rows = Self {
            input,
            at: Place::default(),
            state: State::Lines(Vec::new()),
        };
        if form == Form::Csv {
            let mut table = Table::default();
            table.begin(&mut rows.input, &mut rows.at)?;
            rows.state = State::Table(Box::new(table));
        }
        Ok(rows)
    }

    /// Goes on from a place that a row had as its end; `seek` brings the input there.
    ///
    /// # Errors
    /// The input cannot be brought there.
    pub fn go_on(
        &mut self,
        place: Place,
        seek: impl FnOnce(&mut R, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        if place == Place::default() {
            return Ok(());
        }
        seek(&mut self.input, place.octet)?;
        self.at = place;
        if let State::Table(table) = &mut self.state {
            table.held = None;
            table.records = Records::new();
        }
        Ok(())
    }

    /// The next registration; none at the end of the text. Its values get the timestamp `now`.
    ///
    /// # Errors
    /// The input cannot be read.
    pub fn next(&mut self, now: u32) -> io::Result<Option<Row>> {
        match &mut self.state {
            State::Lines(kept) => next_line(&mut self.input, &mut self.at, kept, now),
            State::Table(table) => table.next(&mut self.input, &mut self.at, now),
        }
    }
}

/// Reads a line into `kept`, without what is above [`ROW_MAX`]. None at the end; otherwise whether all of it was kept.
fn read_line(
    input: &mut impl BufRead,
    at: &mut Place,
    kept: &mut Vec<u8>,
) -> io::Result<Option<bool>> {
    kept.clear();
    let (mut whole, mut any) = (true, false);
    loop {
        let piece = match input.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            piece => piece?,
        };
        if piece.is_empty() {
            return Ok(any.then_some(whole));
        }
        any = true;
        let end = memchr(b'\n', piece);
        let text = &piece[..end.unwrap_or(piece.len())];
        match kept.len() + text.len() > ROW_MAX {
            true => whole = false,
            false => kept.extend_from_slice(text),
        }
        let taken = text.len() + usize::from(end.is_some());
        input.consume(taken);
        at.octet += taken as u64;
        if end.is_some() {
            at.line += 1;
            return Ok(Some(whole));
        }
    }
}

fn next_line(
    input: &mut impl BufRead,
    at: &mut Place,
    kept: &mut Vec<u8>,
    now: u32,
) -> io::Result<Option<Row>> {
    loop {
        let line = at.line;
        let Some(whole) = read_line(input, at, kept)? else {
            return Ok(None);
        };
        let text = kept.trim_ascii();
        if whole && text.is_empty() {
            continue;
        }
        let read = match whole {
            true => registration(text, now),
            false => Some((Vec::new(), Err(too_long()))),
        };
        let Some((handle, values)) = read else {
            continue;
        };
        return Ok(Some(Row {
            line,
            handle,
            values,
            end: *at,
        }));
    }
}

/// The handle of a row, as far as it could be read, and its values, or what is wrong with it.
type Content = (Vec<u8>, Result<Vec<Value>, String>);

/// A line of NDJSON; none when it only says that a batch was answered to its end.
fn registration(text: &[u8], now: u32) -> Option<Content> {
    let (handle, values) = match line::read_plain(text, now) {
        Ok(Plain::Record { handle, values }) => (handle, good_ttl(values)),
        Ok(Plain::Refused { handle, why }) => (handle, Err(why)),
        Ok(Plain::Summary(whole)) => (Vec::new(), Err(whole.err()?)),
        Ok(Plain::Prefix(prefix)) => {
            let wrong = "a job registers handles; a prefix is homed by jiexi prefix add";
            (prefix, Err(wrong.to_owned()))
        }
        // The marker first: it is what the decoder leaves, and never part of UTF-8.
        Err(_) if memchr(UNDECODABLE, text).is_some() => (Vec::new(), Err(undecodable())),
        Err(error) => (Vec::new(), Err(error.to_string())),
    };
    Some((handle, values))
}

/// Values that live for a time; others are stored by old software, and are not made anew.
fn good_ttl(values: Vec<Value>) -> Result<Vec<Value>, String> {
    let wrong = |value: &&Value| matches!(value.ttl, Ttl::Relative(seconds) if seconds < 0);
    match values.iter().find(wrong) {
        Some(value) => Err(format!("the ttl of value {} is below 0", value.index)),
        None => Ok(values),
    }
}

fn too_long() -> String {
    format!("the row is longer than {ROW_MAX} octets, or has more than {COLUMNS_MAX} columns")
}

fn undecodable() -> String {
    "the row cannot be decoded in its charset".to_owned()
}

/// One row of CSV: its cells one after the other, and where they end.
#[derive(Debug, Default)]
struct Record {
    octets: Vec<u8>,
    ends: Vec<usize>,
    /// Where it begins.
    begin: Place,
    over: bool,
    /// A quotation mark was never closed: who knows what belonged to it.
    open: bool,
}

impl Record {
    fn cell(&self, column: usize) -> Option<&[u8]> {
        let end = *self.ends.get(column)?;
        let start = match column {
            0 => 0,
            column => *self.ends.get(column - 1)?,
        };
        self.octets.get(start..end)
    }
}

/// A table of values.
#[derive(Debug)]
struct Table {
    records: Records,
    /// Where each of [`COLUMNS`] stands.
    columns: [Option<usize>; COLUMNS.len()],
    /// Where [`LINE`] and [`CODE`] stand, when these are the answers of a batch.
    line: Option<usize>,
    code: Option<usize>,
    /// How many cells a row has.
    cells: usize,
    /// A row that was read and belongs to the next handle.
    held: Option<Record>,
    buffer: Vec<u8>,
    ends: Vec<usize>,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            records: Records::new(),
            columns: std::array::from_fn(Some),
            line: None,
            code: None,
            cells: COLUMNS.len(),
            held: None,
            buffer: vec![0; 64 << 10],
            ends: vec![0; COLUMNS_MAX + 1],
        }
    }
}

impl Table {
    /// Reads the first row: names of columns, or already values.
    fn begin(&mut self, input: &mut impl BufRead, at: &mut Place) -> Result<(), Unreadable> {
        let Some(first) = self.record(input, at)? else {
            return Ok(());
        };
        let named = |cell: &[u8]| String::from_utf8_lossy(cell.trim_ascii()).to_ascii_lowercase();
        let names: Vec<String> = (0..first.ends.len())
            .filter_map(|column| first.cell(column).map(named))
            .collect();
        if first.over || !names.iter().any(|name| name == COLUMNS[0]) {
            self.held = Some(first);
            return Ok(());
        }
        let known =
            |name: &String| COLUMNS.contains(&name.as_str()) || IGNORED.contains(&name.as_str());
        if let Some(stranger) = names.iter().find(|name| !known(name)) {
            let expected = COLUMNS.join(",");
            return Err(Unreadable::Columns(format!(
                "the column {stranger:?} is not known; there may be {expected}"
            )));
        }
        self.cells = names.len();
        let place = |column: &str| names.iter().position(|name| name == column);
        (self.line, self.code) = (place(LINE), place(CODE));
        for (place, name) in COLUMNS.iter().enumerate() {
            let mut found = names.iter().enumerate().filter(|(_, known)| known == name);
            self.columns[place] = found.next().map(|(column, _)| column);
            if found.next().is_some() {
                return Err(Unreadable::Columns(format!(
                    "the column {name} is there twice"
                )));
            }
        }
        match REQUIRED
            .iter()
            .find(|place| self.columns[**place].is_none())
        {
            Some(place) => {
                let name = COLUMNS[*place];
                Err(Unreadable::Columns(format!("the column {name} is missing")))
            }
            None => Ok(()),
        }
    }

    /// Reads a row; none at the end.
    fn record(&mut self, input: &mut impl BufRead, at: &mut Place) -> io::Result<Option<Record>> {
        if !skip_line_ends(input, at)? {
            return Ok(None);
        }
        let mut record = Record {
            begin: *at,
            ..Record::default()
        };
        loop {
            let piece = match input.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                piece => piece?,
            };
            let room = match record.over {
                // What is too long is read and thrown away.
                true => 0,
                false => record.ends.len(),
            };
            // The end of the input ends a row, but not between quotation marks, where it would be part of the cell.
            let last = piece.is_empty() && !record.open;
            let piece: &[u8] = if last { b"\n" } else { piece };
            let (result, taken, written, ended) =
                self.records
                    .read_record(piece, &mut self.buffer, &mut self.ends[room..]);
            if last {
                record.open = !matches!(result, ReadRecordResult::Record);
            } else {
                at.octet += taken as u64;
                at.line += memchr_iter(b'\n', &piece[..taken]).count() as u64;
                input.consume(taken);
            }
            if !record.over {
                record.ends.extend(&self.ends[room..room + ended]);
                record.octets.extend_from_slice(&self.buffer[..written]);
                record.over = record.octets.len() > ROW_MAX || record.ends.len() > COLUMNS_MAX;
            }
            match result {
                ReadRecordResult::Record => return Ok(Some(record)),
                ReadRecordResult::End => return Ok(None),
                ReadRecordResult::OutputEndsFull => record.over = true,
                ReadRecordResult::InputEmpty | ReadRecordResult::OutputFull => {}
            }
        }
    }

    /// The adjacent rows of one handle.
    fn next(
        &mut self,
        input: &mut impl BufRead,
        at: &mut Place,
        now: u32,
    ) -> io::Result<Option<Row>> {
        let first = loop {
            let first = match self.held.take() {
                Some(held) => held,
                None => match self.record(input, at)? {
                    Some(first) => first,
                    None => return Ok(None),
                },
            };
            match self.summary(&first) {
                None => break first,
                Some(Ok(())) => {}
                Some(Err(wrong)) => {
                    return Ok(Some(Row {
                        line: first.begin.line,
                        handle: Vec::new(),
                        values: Err(wrong),
                        end: *at,
                    }));
                }
            }
        };
        let line = first.begin.line;
        let (handle, value) = self.read(&first, now);
        let mut row = Row {
            line,
            values: value.map(|value| vec![value]),
            end: *at,
            handle,
        };
        if row.handle.is_empty() {
            return Ok(Some(row));
        }
        let mut octets = first.octets.len();
        while let Some(more) = self.record(input, at)? {
            if self.cell(&more, 0) != Some(&row.handle) {
                row.end = more.begin;
                self.held = Some(more);
                break;
            }
            row.end = *at;
            octets = octets.saturating_add(more.octets.len());
            let (_, value) = self.read(&more, now);
            let value = value.map_err(|wrong| format!("line {}: {wrong}", more.begin.line));
            match (&mut row.values, value) {
                (Ok(_), _) if octets > ROW_MAX => row.values = Err(too_long()),
                (Ok(values), Ok(value)) => values.push(value),
                (Ok(_), Err(wrong)) => row.values = Err(wrong),
                (Err(_), _) => {}
            }
        }
        row.values = row.values.and_then(|mut values| {
            values.sort_by_key(|value| value.index);
            let checked = line::check_record(&row.handle, &values);
            checked.map_err(|wrong| wrong.to_string())?;
            good_ttl(values)
        });
        Ok(Some(row))
    }

    /// What the last row of the answers of a batch says; none when this is none.
    fn summary(&self, record: &Record) -> Option<Result<(), String>> {
        let is_one = record.cell(self.line?) == Some(&b"summary"[..]) && !record.over;
        let handle = self.cell(record, 0).unwrap_or_default();
        let text = self
            .cell(record, 6)
            .filter(|_| is_one && handle.is_empty())?;
        line::summary(text)
    }

    fn cell<'r>(&self, record: &'r Record, place: usize) -> Option<&'r [u8]> {
        let column = self.columns[place]?;
        if record.over {
            return None;
        }
        let cell = record.cell(column)?;
        match place {
            // Space at its ends belongs to the value.
            6 => Some(cell),
            _ => Some(cell.trim_ascii()),
        }
    }

    /// Handle and value of a row; without a handle it belongs to no other.
    fn read(&self, record: &Record, now: u32) -> (Vec<u8>, Result<Value, String>) {
        if record.over {
            return (Vec::new(), Err(too_long()));
        }
        if record.open {
            let wrong = "a quoted cell does not end: the input was cut, or there is a quotation mark too many";
            return (Vec::new(), Err(wrong.to_owned()));
        }
        if memchr(UNDECODABLE, &record.octets).is_some()
            || std::str::from_utf8(&record.octets).is_err()
        {
            return (Vec::new(), Err(undecodable()));
        }
        let cell = |place| self.cell(record, place).unwrap_or_default();
        let handle = cell(0).to_vec();
        let code = self.code.and_then(|column| record.cell(column));
        let code = code.map(<[u8]>::trim_ascii).unwrap_or_default();
        if !matches!(code, b"" | b"1") {
            let text = |octets| String::from_utf8_lossy(octets).into_owned();
            return (handle, Err(line::no_record(&text(code), &text(cell(5)))));
        }
        if handle.is_empty() {
            return (handle, Err("there is no handle in the row".to_owned()));
        }
        let count = record.ends.len();
        let surplus = |column| record.cell(column).is_some_and(|cell| !cell.is_empty());
        if count < self.cells || (self.cells..count).any(surplus) {
            let wrong = format!("the row has {count} cells instead of {}", self.cells);
            return (handle, Err(wrong));
        }
        let text = |place| std::str::from_utf8(cell(place)).unwrap_or_default();
        let cells = Cells {
            index: text(1),
            kind: text(2),
            ttl: text(3),
            permissions: text(4),
            encoding: text(5),
            value: text(6),
        };
        let value = value::from_cells(&cells, now).map_err(|error| error.to_string());
        (handle, value)
    }
}

/// Takes ends of lines, so that the beginning of a row is known; whether anything follows.
fn skip_line_ends(input: &mut impl BufRead, at: &mut Place) -> io::Result<bool> {
    loop {
        let piece = match input.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            piece => piece?,
        };
        if piece.is_empty() {
            return Ok(false);
        }
        let first = piece
            .iter()
            .position(|octet| !matches!(octet, b'\r' | b'\n'));
        let empty = first.unwrap_or(piece.len());
        at.line += memchr_iter(b'\n', &piece[..empty]).count() as u64;
        at.octet += empty as u64;
        input.consume(empty);
        if first.is_some() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests;
