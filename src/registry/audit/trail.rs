//! The files of a trail: read, and verified.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::Entry;
use super::head::{self, Head, HeadKey, Sealed};
use crate::registry::keys::NodeKey;

/// The files of a trail with their numbers, in order.
pub(super) fn files(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let number = name
            .strip_prefix("audit-")
            .and_then(|rest| rest.strip_suffix(".jsonl"));
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            files.push((number, path));
        }
    }
    files.sort();
    Ok(files)
}

pub(super) fn cut_torn_line(path: &Path) -> io::Result<()> {
    let octets = fs::read(path)?;
    let whole = octets
        .iter()
        .rposition(|octet| *octet == b'\n')
        .map_or(0, |place| place + 1);
    if whole < octets.len() {
        tracing::warn!(event = "audit.cut", path = %path.display(), "the last line of the audit trail was cut by a crash and is taken off");
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(whole as u64)?;
        file.sync_all()?;
    }
    Ok(())
}

pub(super) fn last_line(path: &Path) -> io::Result<Option<String>> {
    let text = fs::read_to_string(path)?;
    Ok(text.lines().next_back().map(ToOwned::to_owned))
}

/// Which entries are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this handle, in any case.
    pub handle: Option<String>,
    /// By this identity.
    pub identity: Option<String>,
    /// Not before this second.
    pub since: Option<u64>,
}

impl Filter {
    /// Whether an entry is wanted.
    #[must_use]
    pub fn picks(&self, entry: &Entry) -> bool {
        let same = |wanted: &Option<String>, is: &str| {
            wanted
                .as_ref()
                .is_none_or(|wanted| wanted.eq_ignore_ascii_case(is))
        };
        same(&self.handle, &entry.handle)
            && same(&self.identity, &entry.identity)
            && self.since.is_none_or(|since| entry.time >= since)
    }
}

/// Calls `each` with every wanted entry, in order.
///
/// # Errors
/// A file cannot be read or has a line that is no entry.
pub fn read(directory: &Path, filter: &Filter, mut each: impl FnMut(&Entry)) -> io::Result<()> {
    lines(directory, |place, line| {
        let entry: Entry = serde_json::from_str(line).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{place}: {error}"))
        })?;
        if filter.picks(&entry) {
            each(&entry);
        }
        Ok(())
    })
}

/// How much of a trail was looked through.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tail {
    /// Entries seen.
    pub(super) entries: u64,
    /// There are entries before them.
    pub(super) cut: bool,
}

/// Calls `each` with every entry in about the last `bytes` of a trail.
pub(super) fn tail(directory: &Path, bytes: u64, mut each: impl FnMut(Entry)) -> io::Result<Tail> {
    let (mut tail, mut left) = (Tail::default(), bytes);
    for (_, path) in files(directory)?.into_iter().rev() {
        if left == 0 {
            tail.cut = true;
            break;
        }
        let mut file = File::open(&path)?;
        let length = file.metadata()?.len();
        let from = length.saturating_sub(left);
        file.seek(SeekFrom::Start(from))?;
        tail.cut = from > 0;
        left -= length.min(left);
        for line in BufReader::new(file).split(b'\n') {
            // The first one may be cut; one that was damaged is for `verify` to find.
            if let Ok(entry) = serde_json::from_slice(&line?) {
                tail.entries += 1;
                each(entry);
            }
        }
    }
    Ok(tail)
}

/// An entry that somebody has noted elsewhere: its number and its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its number.
    pub sequence: u64,
    /// Its hash.
    pub hash: String,
}

/// What [`verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Entries read.
    pub entries: u64,
    /// The number of the last one.
    pub sequence: u64,
    /// How many of them were completed from the journal after a crash.
    pub recovered: u64,
    /// The hash of the last one; kept elsewhere it shows later that nothing before was changed.
    pub hash: String,
    /// What is wrong, one line each, with file and line.
    pub problems: Vec<String>,
}

/// Checks the chain from the first file there is to the last, against the head that the node with
/// this key has sealed, and against entries that are known from elsewhere. The trail may begin
/// after a known entry: what came before has been put away.
///
/// # Errors
/// A file cannot be read.
pub fn verify(directory: &Path, key: &NodeKey, known: &[Known]) -> io::Result<Report> {
    // Before the trail: a node at work goes on writing.
    let sealed = head::read(directory, &HeadKey::of(key))?;
    let mut verifier = Verifier {
        report: Report::default(),
        last: None,
        known: known.to_vec(),
    };
    match sealed {
        Sealed::Missing => verifier.problem("the head is missing: the end may have been cut off"),
        Sealed::Wrong => verifier.problem("the head was not made by this node"),
        Sealed::Right(Head { sequence: 0, .. }) => {}
        Sealed::Right(Head { sequence, hash }) => verifier.known.push(Known { sequence, hash }),
    }
    lines(directory, |place, line| {
        verifier.line(place, line);
        Ok(())
    })?;
    Ok(verifier.end())
}

/// A check under way.
struct Verifier {
    report: Report,
    last: Option<Entry>,
    /// Entries that are still to come.
    known: Vec<Known>,
}

impl Verifier {
    fn problem(&mut self, problem: impl Into<String>) {
        self.report.problems.push(problem.into());
    }

    fn line(&mut self, place: &str, line: &str) {
        self.report.entries += 1;
        let Ok(entry) = serde_json::from_str::<Entry>(line) else {
            return self.problem(format!("{place}: not an entry"));
        };
        if hash_of(line, &entry.hash).as_deref() != Some(entry.hash.as_str()) {
            self.problem(format!("{place}: the entry was changed"));
        }
        match &self.last {
            Some(before) => {
                if before.hash != entry.prev || before.sequence + 1 != entry.sequence {
                    self.problem(format!(
                        "{place}: does not follow entry {}",
                        before.sequence
                    ));
                }
            }
            None => self.begin(place, &entry),
        }
        self.meet(place, entry.sequence, &entry.hash);
        self.report.recovered += u64::from(entry.recovered);
        self.report.sequence = entry.sequence;
        self.report.hash.clone_from(&entry.hash);
        self.last = Some(entry);
    }

    /// The first entry follows nothing, or one that is known.
    fn begin(&mut self, place: &str, first: &Entry) {
        let before = first.sequence.saturating_sub(1);
        if before == 0 && first.prev == Head::default().hash {
            return;
        }
        let known = self.known.iter().any(|known| known.sequence == before);
        self.meet(place, before, &first.prev);
        if !known {
            self.problem(format!(
                "{place}: the trail begins with entry {}: what came before is missing",
                first.sequence
            ));
        }
    }

    /// Compares an entry with what is known of it.
    fn meet(&mut self, place: &str, sequence: u64, hash: &str) {
        let (met, rest) = std::mem::take(&mut self.known)
            .into_iter()
            .partition(|known| known.sequence == sequence);
        self.known = rest;
        for known in met {
            if known.hash != hash {
                self.problem(format!("{place}: entry {sequence} was another one once"));
            }
        }
    }

    fn end(mut self) -> Report {
        let last = self.report.sequence;
        for known in std::mem::take(&mut self.known) {
            self.problem(match known.sequence > last {
                true => format!(
                    "the end is missing: the last entry is {last}, but there was one {}",
                    known.sequence
                ),
                false => format!("entry {} is missing", known.sequence),
            });
        }
        self.report
    }
}

/// The hash that the line of an entry must have.
fn hash_of(line: &str, given: &str) -> Option<String> {
    let text = line.strip_suffix(&format!(",\"hash\":\"{given}\"}}"))?;
    Some(hex::encode(Sha256::digest(format!("{text}}}"))))
}

/// Calls `each` with place and text of every line. What has no end yet is being written.
fn lines(directory: &Path, mut each: impl FnMut(&str, &str) -> io::Result<()>) -> io::Result<()> {
    for (_, path) in files(directory)? {
        let mut reader = BufReader::new(File::open(&path)?);
        let mut line = Vec::new();
        for number in 1_u64.. {
            line.clear();
            reader.read_until(b'\n', &mut line)?;
            let Some(text) = line.strip_suffix(b"\n") else {
                break;
            };
            let place = format!("{}:{number}", path.display());
            each(&place, &String::from_utf8_lossy(text))?;
        }
    }
    Ok(())
}
