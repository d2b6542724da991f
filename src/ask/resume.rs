//! Going on with a batch that was interrupted: what is kept beside the output, and where the output is whole.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::sink::{LINE_ANSWER_MAX, number};
use crate::batch::answer::Form;

/// Octets that are read at once.
const PIECE: usize = 256 << 10;

/// What is kept beside the output while it is not complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// xxh3-128 of the input, in hexadecimal.
    pub input: String,
    /// What was asked, and of whom: another question is not gone on with.
    pub asked: String,
    /// A line up to which everything is answered.
    pub line: u64,
    /// Octets of the output up to there.
    pub octets: u64,
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
        fs::write(&next, serde_json::to_vec(self)?)?;
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

/// Where an output is whole: the last line that is answered entirely, and the octets up to there. What is before
/// `from` (a line, and octets) is known to be.
///
/// # Errors
/// The output cannot be read.
pub fn whole(out: &Path, form: Form, from: (u64, u64)) -> io::Result<(u64, u64)> {
    let mut file = File::open(out)?;
    let start = match form {
        Form::Ndjson if from.1 <= file.metadata()?.len() => from,
        _ => (0, 0),
    };
    file.seek(SeekFrom::Start(start.1))?;
    let mut file = BufReader::with_capacity(PIECE, file);
    // Of CSV the rows of one line belong together: only the next line's first row shows that they are all there.
    let (mut done, mut current, mut at) = (start, None, start.1);
    let mut row = Vec::new();
    loop {
        row.clear();
        if !read_row(&mut file, form, &mut row)? {
            return Ok(done);
        }
        let begun = at;
        at += row.len() as u64;
        match (form, number(&row)) {
            (Form::Ndjson, Some(line)) => done = (line, at),
            (Form::Ndjson, None) => return Ok(done),
            (Form::Csv, None) if begun == 0 => done = (0, at),
            (Form::Csv, None) => return Ok(done),
            (Form::Csv, line) if line == current => {}
            (Form::Csv, line) => {
                if let Some(before) = current {
                    done = (before, begun);
                }
                current = line;
            }
        }
    }
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
        let (a, b, c) = ("{\"line\":1}\n", "{\"line\":3}\n", "{\"line\":14}\n");
        let text = [a, b, c].concat();
        for length in 0..=text.len() {
            fs::write(&out, &text[..length]).unwrap();
            let expected = match length {
                l if l == text.len() => (14, text.len()),
                l if l >= a.len() + b.len() => (3, a.len() + b.len()),
                l if l >= a.len() => (1, a.len()),
                _ => (0, 0),
            };
            let expected = (expected.0, expected.1 as u64);
            assert_eq!(
                whole(&out, Form::Ndjson, (0, 0)).unwrap(),
                expected,
                "{length}"
            );
            assert_eq!(
                whole(&out, Form::Ndjson, (14, 4_000)).unwrap(),
                expected,
                "shorter than it was"
            );
        }
        assert_eq!(
            whole(&out, Form::Ndjson, (1, a.len() as u64)).unwrap(),
            (14, text.len() as u64)
        );
        let (head, one, two) = ("line,x\r\n", "1,a\r\n1,\"b\n2,c\"\r\n", "2,d\r\n");
        let text = [head, one, two].concat();
        for length in 0..=text.len() {
            fs::write(&out, &text[..length]).unwrap();
            let expected = match length {
                l if l == text.len() => (1, head.len() + one.len()),
                l if l >= head.len() => (0, head.len()),
                _ => (0, 0),
            };
            assert_eq!(
                whole(&out, Form::Csv, (0, 0)).unwrap(),
                (expected.0, expected.1 as u64),
                "{length}"
            );
        }
    }
}
