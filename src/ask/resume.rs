//! Going on with a batch that was interrupted: what is kept beside the output, and where the output is whole.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use memchr::memmem;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::sink::{LINE_ANSWER_MAX, number};
use crate::batch::answer::{Code, Form, Tally};

/// Octets that are read at once.
const PIECE: usize = 256 << 10;
/// Nobody but its owner reads what was asked, as nobody else reads the answers.
const MODE: u32 = 0o600;

/// What is kept beside the output while not every line has its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// xxh3-128 of the input, in hexadecimal.
    pub input: String,
    /// What was asked, and of whom: another question is not gone on with.
    pub asked: String,
    /// Whether every line was asked, and some were refused for now.
    #[serde(default)]
    pub ended: bool,
}

/// The name of the state of an output.
#[must_use]
pub fn path(out: &Path) -> PathBuf {
    let mut name = OsString::from(out);
    name.push(".resume");
    PathBuf::from(name)
}

impl State {
    /// Reads the state of an output; none when there is none.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(out: &Path) -> io::Result<Option<Self>> {
        match fs::read(path(out)) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes it: whole, or not at all.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, out: &Path) -> io::Result<()> {
        let (path, mut next) = (path(out), path(out).into_os_string());
        next.push(".tmp");
        // One that a killed run has left may be readable for others.
        let _ = fs::remove_file(&next);
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(MODE)
            .open(&next)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        fs::rename(next, path)
    }
}

/// xxh3-128 of a file, and how many lines it has.
///
/// # Errors
/// It cannot be read.
pub fn fingerprint(path: &Path) -> io::Result<(String, u64)> {
    let (mut file, mut hash, mut lines) = (File::open(path)?, Xxh3::new(), 0);
    let mut piece = vec![0; PIECE];
    loop {
        let count = file.read(&mut piece)?;
        if count == 0 {
            return Ok((format!("{:032x}", hash.digest128()), lines));
        }
        hash.update(&piece[..count]);
        lines += memchr::memchr_iter(b'\n', &piece[..count]).count() as u64;
    }
}

/// The beginning of an output that is gone on with: up to this line every answer is there, in so many octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Whole {
    /// The line.
    pub line: u64,
    /// The octets.
    pub octets: u64,
    /// The lines by their answers.
    pub tally: Tally,
}

impl Whole {
    fn take(&mut self, (line, code): (u64, Code), octets: u64) {
        (self.line, self.octets) = (line, octets);
        self.tally.count(code);
    }
}

/// What of an output is gone on with. It ends before the first line for which a quota was used up, so that it is asked
/// again, with those behind it. Where every line was asked (`ended`), it else ends before the first that was refused for
/// another passing reason; such lines do not hold up a batch for which there is more to ask.
///
/// # Errors
/// The output cannot be read.
pub fn whole(out: &Path, form: Form, ended: bool) -> io::Result<Whole> {
    let mut file = BufReader::with_capacity(PIECE, File::open(out)?);
    let (mut done, mut at, mut row) = (Whole::default(), 0, Vec::new());
    let (mut quota, mut passing) = (None, None);
    // Of CSV the rows of one line belong together: only the next line's first row shows that they are all there.
    let mut current: Option<(u64, Code)> = None;
    loop {
        row.clear();
        if !read_row(&mut file, form, &mut row)? {
            break;
        }
        let begun = at;
        at += row.len() as u64;
        let Some(answer) = answer(&row, form) else {
            if form == Form::Csv && begun == 0 {
                done.octets = at;
                continue;
            }
            break;
        };
        if current.is_some_and(|(line, _)| line == answer.0) {
            continue;
        }
        if let Some(before) = current.take() {
            done.take(before, begun);
        }
        if answer.1 == Code::Quota {
            quota = quota.or(Some(done));
        } else if answer.1.is_passing() {
            passing = passing.or(Some(done));
        }
        match form {
            Form::Ndjson => done.take(answer, at),
            Form::Csv => current = Some(answer),
        }
    }
    let again = if ended { quota.or(passing) } else { quota };
    Ok(again.unwrap_or(done))
}

/// The line that a row is about, and what it says of it.
fn answer(row: &[u8], form: Form) -> Option<(u64, Code)> {
    let (between, quota): (&[u8], &[u8]) = match form {
        Form::Ndjson => (b",\"responseCode\":", b",\"code\":\"quota_used_up\""),
        Form::Csv => (b",", b",quota_used_up,"),
    };
    let line = number(row)?;
    let behind = memmem::find(row, between)? + between.len();
    let response = number(&row[behind..])?;
    let is = |code: &Code| u64::from(code.response().0) == response;
    // One number is for both.
    let code = match Code::ALL.into_iter().find(is) {
        Some(Code::Quota | Code::Busy) if memmem::find(row, quota).is_some() => Code::Quota,
        Some(Code::Quota | Code::Busy) => Code::Busy,
        known => known.unwrap_or(Code::Error),
    };
    Some((line, code))
}

/// Reads a whole row with its end; false when there is none.
fn read_row(file: &mut impl io::BufRead, form: Form, row: &mut Vec<u8>) -> io::Result<bool> {
    loop {
        let before = row.len();
        // A longer row is none that was written here.
        let room = (LINE_ANSWER_MAX - before) as u64;
        let read = file.by_ref().take(room).read_until(b'\n', row)?;
        if read == 0 || row.last() != Some(&b'\n') {
            return Ok(false);
        }
        let quotes = |text: &[u8]| memchr::memchr_iter(b'"', text).count();
        // An end of a line between quotes is text.
        if form == Form::Ndjson || quotes(row).is_multiple_of(2) {
            return Ok(true);
        }
        debug_assert!(row.len() > before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: an output that was cut anywhere is whole up to a line. Method: every length of one.
    #[test]
    fn cut_anywhere() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("out");
        let found = |form, ended| {
            let whole = whole(&out, form, ended).unwrap();
            (whole.line, whole.octets, whole.tally.lines())
        };
        let rows = [(1, 1), (3, 100), (14, 301)]
            .map(|(line, code)| format!("{{\"line\":{line},\"responseCode\":{code}}}\n"));
        let text = rows.concat();
        let (one, two) = (rows[0].len(), rows[0].len() + rows[1].len());
        for length in 0..=text.len() {
            fs::write(&out, &text[..length]).unwrap();
            let expected = match length {
                l if l == text.len() => (14, text.len(), 3),
                l if l >= two => (3, two, 2),
                l if l >= one => (1, one, 1),
                _ => (0, 0, 0),
            };
            let expected = (expected.0, expected.1 as u64, expected.2);
            assert_eq!(found(Form::Ndjson, false), expected, "{length}");
        }
        let (head, one, two) = ("line,x\r\n", "1,1,a\r\n1,1,\"b\n2,1,c\"\r\n", "2,1,d\r\n");
        let text = [head, one, two].concat();
        for length in 0..=text.len() {
            fs::write(&out, &text[..length]).unwrap();
            let expected = match length {
                l if l == text.len() => (1, head.len() + one.len(), 1),
                l if l >= head.len() => (0, head.len(), 0),
                _ => (0, 0, 0),
            };
            let expected = (expected.0, expected.1 as u64, expected.2);
            assert_eq!(found(Form::Csv, false), expected, "{length}");
        }
    }

    /// Goal: what was refused for now is asked again, and costs nothing that need not be. Method: both forms, with a busy
    /// line before those of a quota.
    #[test]
    fn what_was_refused_is_asked_again() {
        use crate::batch::answer::Writer;
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("out");
        for form in [Form::Ndjson, Form::Csv] {
            let mut writer = Writer::new(form, false);
            let said = [
                Code::HandleNotFound,
                Code::Busy,
                Code::NotResponsible,
                Code::Quota,
                Code::HandleNotFound,
                Code::HandleNotFound,
            ];
            for (line, code) in (1..).zip(said) {
                writer.refused(line, "88.1/quota_used_up", code, "x", Some(0));
            }
            let text = String::from_utf8(writer.take()).unwrap();
            let found = |text: &str, ended| {
                fs::write(&out, text).unwrap();
                let whole = whole(&out, form, ended).unwrap();
                (whole.line, whole.tally.of(Code::Busy))
            };
            assert_eq!(found(&text, false), (3, 1), "{form:?}");
            assert_eq!(found(&text, true), (3, 1), "{form:?}");
            let rows = text.split_inclusive('\n');
            let others: String = rows
                .filter(|row| {
                    !row.contains("quota_used_up,x") && !row.contains("\"code\":\"quota_used_up\"")
                })
                .collect();
            assert!(others.len() < text.len());
            let end = if form == Form::Csv { 5 } else { 6 };
            assert_eq!(found(&others, false), (end, 1), "{form:?}");
            assert_eq!(found(&others, true), (1, 0), "{form:?}");
        }
    }
}
