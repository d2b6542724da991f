//! Answers on their way into a file: whole lines only, and the last one held back, because it may be the summary.

use std::io::{self, Write};

use memchr::memrchr;
use serde_json::Value as Json;

use super::AskError;
use crate::batch::answer::Form;

/// Octets of one line of answers: far more than any record makes, which has 256 KiB. A server that sends a longer one is
/// not believed.
pub const LINE_ANSWER_MAX: usize = 16 << 20;

/// Where answers go.
pub struct Sink {
    out: Box<dyn Write + Send>,
    form: Form,
    /// Whether the next line is a head that is there already.
    skip_head: bool,
    held: Vec<u8>,
    line: u64,
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink")
            .field("line", &self.line)
            .finish_non_exhaustive()
    }
}

impl Sink {
    /// Into `out`, which has `octets` octets of answers up to `line`.
    #[must_use]
    pub fn new(out: Box<dyn Write + Send>, form: Form, line: u64, octets: u64) -> Self {
        Self {
            out,
            form,
            skip_head: form == Form::Csv && octets > 0,
            held: Vec::new(),
            line,
        }
    }

    /// The line of the newest answer.
    #[must_use]
    pub const fn line(&self) -> u64 {
        self.line
    }

    /// Takes a piece of the answers.
    ///
    /// # Errors
    /// The output takes no more, or a line does not end.
    pub fn take(&mut self, piece: &[u8]) -> Result<(), AskError> {
        self.pass(piece).map_err(AskError::Output)?;
        match self.held.len() <= LINE_ANSWER_MAX {
            true => Ok(()),
            false => Err(AskError::Connection(
                "an answer is longer than any record".to_owned(),
            )),
        }
    }

    fn pass(&mut self, piece: &[u8]) -> io::Result<()> {
        let Some(end) = memrchr(b'\n', piece) else {
            self.held.extend_from_slice(piece);
            return Ok(());
        };
        if let Some(last) = memrchr(b'\n', &piece[..end]).filter(|_| !self.skip_head) {
            let held = std::mem::take(&mut self.held);
            self.write(&held)?;
            self.write(&piece[..=last])?;
            self.held.extend_from_slice(&piece[last + 1..]);
        } else {
            self.held.extend_from_slice(piece);
            self.settle()?;
        }
        if let Some(line) = number(&self.held) {
            self.line = line;
        }
        Ok(())
    }

    /// Writes all but the last whole line and what follows it.
    fn settle(&mut self) -> io::Result<()> {
        let mut held = std::mem::take(&mut self.held);
        if self.skip_head
            && let Some(end) = memchr::memchr(b'\n', &held)
        {
            held.drain(..=end);
            self.skip_head = false;
        }
        let end = memrchr(b'\n', &held).unwrap_or(0);
        let last = memrchr(b'\n', &held[..end]).map_or(0, |last| last + 1);
        self.write(&held[..last])?;
        held.drain(..last);
        self.held = held;
        Ok(())
    }

    fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        self.out.write_all(octets)
    }

    /// Everything has come: the summary, if there is one. Without it the whole lines are written, and nothing else.
    ///
    /// # Errors
    /// The output takes no more.
    pub fn finish(&mut self) -> io::Result<Option<Json>> {
        let held = std::mem::take(&mut self.held);
        let summary = summary(&held, self.form);
        if summary.is_none() {
            let whole = memrchr(b'\n', &held).map_or(0, |end| end + 1);
            self.write(&held[..whole])?;
        }
        self.out.flush()?;
        Ok(summary)
    }
}

/// The number of the line that an answer is about.
#[must_use]
pub fn number(answer: &[u8]) -> Option<u64> {
    let digits = answer.strip_prefix(b"{\"line\":").unwrap_or(answer);
    let end = digits.iter().position(|octet| !octet.is_ascii_digit())?;
    std::str::from_utf8(digits.get(..end)?).ok()?.parse().ok()
}

/// Reads the last line.
fn summary(line: &[u8], form: Form) -> Option<Json> {
    let text = line.strip_suffix(b"\n")?.trim_ascii_end();
    let json: Json = match form {
        Form::Ndjson => serde_json::from_slice(text).ok()?,
        Form::Csv => {
            let cell = text
                .strip_prefix(b"summary,,,,,,,,json,\"")?
                .strip_suffix(b"\"")?;
            let text = std::str::from_utf8(cell).ok()?.replace("\"\"", "\"");
            serde_json::from_str(&text).ok()?
        }
    };
    json.get("complete").is_some().then_some(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(octets)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn through(text: &[u8], step: usize, form: Form, before: u64) -> (String, Option<Json>) {
        let out = Shared::default();
        let mut sink = Sink::new(Box::new(out.clone()), form, 0, before);
        for piece in text.chunks(step) {
            sink.take(piece).unwrap();
        }
        let summary = sink.finish().unwrap();
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        (text, summary)
    }

    /// Goal: however the answers are cut, the file has whole lines and no summary, and no second head.
    #[test]
    fn whole_lines() {
        let records = "{\"line\":1,\"x\":1}\n{\"line\":22,\"x\":1}\n";
        let rows = "1,1,a\r\n2,1,\"b\n\"\r\n";
        let end = "summary,,,,,,,,json,\"{\"\"complete\"\":true}\"\r\n";
        for step in [1, 2, 5, 20, 1_000] {
            let whole = format!("{records}{{\"complete\":true}}\n");
            let (text, summary) = through(whole.as_bytes(), step, Form::Ndjson, 0);
            assert_eq!((text.as_str(), summary.is_some()), (records, true));
            let cut = format!("{records}{{\"line\":3");
            let (text, summary) = through(cut.as_bytes(), step, Form::Ndjson, 0);
            assert_eq!((text.as_str(), summary), (records, None));
            let head = "line,x\r\n";
            let (text, summary) =
                through(format!("{head}{rows}{end}").as_bytes(), step, Form::Csv, 0);
            assert_eq!((text, summary.is_some()), (format!("{head}{rows}"), true));
            let (text, summary) =
                through(format!("{head}{rows}{end}").as_bytes(), step, Form::Csv, 9);
            assert_eq!((text.as_str(), summary.is_some()), (rows, true));
        }
    }
}
