//! The audit trail: who, from where, what, when, with which result. Chained by hashes, so that
//! nothing can be taken out or changed without [`verify`] seeing it.
//!
//! One JSON object a line. `hash` is the SHA-256 of the line before `,"hash"` was put in; `prev` is
//! the hash of the line before. Files are begun anew when they are large; the chain goes on.
//! Entries are written at once and synced by a thread of its own, at most [`SYNC_DELAY`] later.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// How long an entry may wait for its sync.
pub const SYNC_DELAY: Duration = Duration::from_millis(200);
/// Bytes of a file after which another one is begun.
pub const FILE_BYTES: u64 = 64 << 20;
/// Bytes that may wait for a disk that does not write; then changes are refused.
const WAITING_MAX: usize = 16 << 20;
/// Longest name of a handle that is kept whole.
const NAME_MAX: usize = 4096;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its place in the trail, from 1.
    pub sequence: u64,
    /// When, in seconds since 1970.
    pub time: u64,
    /// Who, as `index:handle`; "-" when nobody was proved.
    pub identity: String,
    /// From which address.
    pub source: String,
    /// What was asked for.
    pub operation: String,
    /// Of which handle.
    pub handle: String,
    /// `committed`, `refused` or `failed`.
    pub result: String,
    /// The response code.
    pub code: u32,
    /// The sequence number of the change in the journal.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub change: Option<u64>,
    /// The hash of the entry before; 64 zeros for the first.
    pub prev: String,
    /// The hash of this entry.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub hash: String,
}

/// An event that is still to get its place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event<'a> {
    /// When, in seconds since 1970.
    pub time: u64,
    /// Who.
    pub identity: Option<&'a super::Identity>,
    /// From where.
    pub source: String,
    /// What.
    pub operation: &'a str,
    /// Of which handle.
    pub handle: &'a [u8],
    /// How it ended.
    pub result: &'a str,
    /// The response code.
    pub code: u32,
    /// The sequence number of the change in the journal.
    pub change: Option<u64>,
}

/// The end of the chain, and the file it goes to.
#[derive(Debug)]
struct Chain {
    directory: PathBuf,
    sequence: u64,
    hash: String,
    /// The file in use with its length, and its number.
    file: Option<(Arc<File>, u64)>,
    number: u64,
    /// Lines that could not be written yet.
    waiting: Vec<u8>,
    /// The disk took nothing the last time.
    failing: bool,
    /// The last entry that is written, and the last that is synced.
    written: u64,
    synced: u64,
    /// The syncing thread waits for something to do; it is not woken otherwise.
    idle: bool,
    closed: bool,
}

#[derive(Debug)]
struct Shared {
    chain: Mutex<Chain>,
    /// There is something to sync, or the trail is closed.
    changed: Condvar,
    /// Something was synced.
    synced: Condvar,
}

/// The trail of a running node.
#[derive(Debug)]
pub struct Audit {
    shared: Arc<Shared>,
    syncer: Mutex<Option<JoinHandle<()>>>,
}

impl Audit {
    /// Opens the trail in a directory, which is made if need be. A line that was cut by a crash is
    /// taken off the end: it was not synced.
    ///
    /// # Errors
    /// The directory cannot be read or written, or its last line does not belong to a trail.
    pub fn open(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let files = files(directory)?;
        let (mut sequence, mut hash) = (0, "0".repeat(64));
        let number = files.last().map_or(1, |(number, _)| *number);
        if let Some((_, path)) = files.last() {
            cut_torn_line(path)?;
        }
        for (_, path) in files.iter().rev() {
            if let Some(last) = last_line(path)? {
                let entry: Entry = serde_json::from_str(&last).map_err(|error| {
                    let text = format!("{}: the last line is no entry: {error}", path.display());
                    io::Error::new(io::ErrorKind::InvalidData, text)
                })?;
                (sequence, hash) = (entry.sequence, entry.hash);
                break;
            }
        }
        let mut chain = Chain {
            directory: directory.to_path_buf(),
            sequence,
            hash,
            file: None,
            number,
            waiting: Vec::new(),
            failing: false,
            written: sequence,
            synced: sequence,
            idle: false,
            closed: false,
        };
        // A directory that cannot be written is found out now.
        chain.open_file()?;
        let shared = Arc::new(Shared {
            chain: Mutex::new(chain),
            changed: Condvar::new(),
            synced: Condvar::new(),
        });
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("audit".into());
        let syncer = thread.spawn(move || of_thread.sync_until_closed())?;
        Ok(Self {
            shared,
            syncer: Mutex::new(Some(syncer)),
        })
    }

    /// Whether there is room for more: a change that could not be audited must not be made.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let chain = self.shared.lock();
        chain.waiting.len() < WAITING_MAX && !chain.closed
    }

    /// Adds an event. When this returns it is with the operating system, and survives the process.
    pub fn record(&self, event: &Event<'_>) {
        let mut chain = self.shared.lock();
        let mut entry = Entry {
            sequence: chain.sequence + 1,
            time: event.time,
            identity: event
                .identity
                .map_or_else(|| "-".to_owned(), ToString::to_string),
            source: event.source.clone(),
            operation: event.operation.to_owned(),
            handle: String::from_utf8_lossy(event.handle.get(..NAME_MAX).unwrap_or(event.handle))
                .into_owned(),
            result: event.result.to_owned(),
            code: event.code,
            change: event.change,
            prev: chain.hash.clone(),
            hash: String::new(),
        };
        let Ok(text) = serde_json::to_string(&entry) else {
            return;
        };
        entry.hash = hex::encode(Sha256::digest(&text));
        let body = text.strip_suffix('}').unwrap_or(&text);
        let line = format!("{body},\"hash\":\"{}\"}}\n", entry.hash);
        chain.sequence = entry.sequence;
        chain.hash = entry.hash;
        chain.waiting.extend_from_slice(line.as_bytes());
        chain.write();
        let idle = chain.idle;
        drop(chain);
        if idle {
            self.shared.changed.notify_all();
        }
    }

    /// Waits until everything recorded so far is synced, or a while has passed; says which.
    #[must_use]
    pub fn flush(&self, patience: Duration) -> bool {
        let chain = self.shared.lock();
        let wanted = chain.sequence;
        let waiting = |chain: &mut Chain| chain.synced < wanted;
        let waited = self
            .shared
            .synced
            .wait_timeout_while(chain, patience, waiting);
        waited.is_ok_and(|(chain, _)| chain.synced >= wanted)
    }

    /// Syncs what was written and ends.
    pub fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
        let syncer = self
            .syncer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(syncer) = syncer {
            let _ = syncer.join();
        }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.close();
    }
}

impl Chain {
    fn open_file(&mut self) -> io::Result<()> {
        let path = self
            .directory
            .join(format!("audit-{:08}.jsonl", self.number));
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)?;
        let length = file.metadata()?.len();
        File::open(&self.directory)?.sync_all()?;
        self.file = Some((Arc::new(file), length));
        Ok(())
    }

    /// Writes what waits. What a failed attempt left is cut off before the next.
    fn write(&mut self) {
        match self.try_write() {
            Ok(()) => {
                self.written = self.sequence;
                self.waiting.clear();
                self.failing = false;
            }
            Err(error) => {
                if !self.failing {
                    tracing::error!(%error, directory = %self.directory.display(),
                        "the audit trail cannot be written; when too much waits for it, changes are refused");
                }
                self.failing = true;
            }
        }
    }

    fn try_write(&mut self) -> io::Result<()> {
        if self
            .file
            .as_ref()
            .is_some_and(|(_, length)| *length >= FILE_BYTES)
        {
            // Nothing of a file may be lost when the next one is there.
            if let Some((file, _)) = self.file.take() {
                file.sync_data()?;
            }
            self.number += 1;
        }
        if self.file.is_none() {
            self.open_file()?;
        }
        let Some((file, length)) = &mut self.file else {
            return Ok(());
        };
        match (&**file).write_all(&self.waiting) {
            Ok(()) => {
                *length += self.waiting.len() as u64;
                Ok(())
            }
            Err(error) => {
                let _ = file.set_len(*length);
                Err(error)
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Chain> {
        self.chain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: one sync for all that comes within the delay.
    fn sync_until_closed(&self) {
        let mut chain = self.lock();
        loop {
            if chain.failing {
                chain.write();
            }
            if chain.synced < chain.written
                && let Some((file, _)) = &chain.file
            {
                let (file, written) = (Arc::clone(file), chain.written);
                drop(chain);
                let synced = file.sync_data();
                chain = self.lock();
                match synced {
                    Ok(()) => chain.synced = written,
                    Err(error) => tracing::error!(%error, "the audit trail cannot be synced"),
                }
                self.synced.notify_all();
            } else if chain.closed {
                return;
            }
            if chain.closed {
                if chain.failing || chain.synced >= chain.written {
                    return;
                }
                continue;
            }
            let idle = |chain: &mut Chain| {
                !chain.closed && chain.synced >= chain.written && !chain.failing
            };
            chain.idle = true;
            chain = self
                .changed
                .wait_while(chain, idle)
                .unwrap_or_else(PoisonError::into_inner);
            chain.idle = false;
            let delay = |chain: &mut Chain| !chain.closed;
            let waited = self.changed.wait_timeout_while(chain, SYNC_DELAY, delay);
            chain = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The files of a trail with their numbers, in order.
fn files(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
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

fn cut_torn_line(path: &Path) -> io::Result<()> {
    let octets = fs::read(path)?;
    let whole = octets
        .iter()
        .rposition(|octet| *octet == b'\n')
        .map_or(0, |place| place + 1);
    if whole < octets.len() {
        tracing::warn!(path = %path.display(), "the last line of the audit trail was cut by a crash and is taken off");
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(whole as u64)?;
        file.sync_all()?;
    }
    Ok(())
}

fn last_line(path: &Path) -> io::Result<Option<String>> {
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

/// What [`verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Entries read.
    pub entries: u64,
    /// The hash of the last one; keep it elsewhere to see later whether the end was cut off.
    pub hash: String,
    /// What is wrong, one line each, with file and line.
    pub problems: Vec<String>,
}

/// Checks the chain from the first file there is to the last.
///
/// # Errors
/// A file cannot be read.
pub fn verify(directory: &Path) -> io::Result<Report> {
    let mut report = Report::default();
    let mut last: Option<Entry> = None;
    lines(directory, |place, line| {
        report.entries += 1;
        let Ok(entry) = serde_json::from_str::<Entry>(line) else {
            report.problems.push(format!("{place}: not an entry"));
            return Ok(());
        };
        let suffix = format!(",\"hash\":\"{}\"}}", entry.hash);
        let hashed = line
            .strip_suffix(&suffix)
            .map(|text| hex::encode(Sha256::digest(format!("{text}}}"))));
        if hashed.as_deref() != Some(entry.hash.as_str()) {
            report
                .problems
                .push(format!("{place}: the entry was changed"));
        }
        match &last {
            Some(before) if before.hash != entry.prev || before.sequence + 1 != entry.sequence => {
                report.problems.push(format!(
                    "{place}: does not follow entry {}",
                    before.sequence
                ));
            }
            None if entry.sequence == 1 && entry.prev != "0".repeat(64) => {
                report
                    .problems
                    .push(format!("{place}: the first entry follows another"));
            }
            _ => {}
        }
        report.hash.clone_from(&entry.hash);
        last = Some(entry);
        Ok(())
    })?;
    Ok(report)
}

fn lines(directory: &Path, mut each: impl FnMut(&str, &str) -> io::Result<()>) -> io::Result<()> {
    for (_, path) in files(directory)? {
        let reader = BufReader::new(File::open(&path)?);
        for (number, line) in reader.lines().enumerate() {
            let place = format!("{}:{}", path.display(), number + 1);
            each(&place, &line?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(handle: &[u8]) -> Event<'_> {
        Event {
            time: 1_800_000_000,
            source: "192.0.2.1".into(),
            operation: "create",
            handle,
            result: "committed",
            code: 1,
            ..Event::default()
        }
    }

    fn trail(directory: &Path, handles: &[&[u8]]) {
        let audit = Audit::open(directory).unwrap();
        handles
            .iter()
            .for_each(|handle| audit.record(&event(handle)));
        assert!(audit.flush(Duration::from_secs(10)));
    }

    #[test]
    fn the_chain_goes_on_after_a_restart_and_a_torn_line() {
        let directory = tempfile::tempdir().unwrap();
        trail(directory.path(), &[b"1/A", b"1/B"]);
        let path = files(directory.path()).unwrap().remove(0).1;
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"sequence\":3,\"ti").unwrap();
        trail(directory.path(), &[b"1/C \"quoted\" \xff"]);
        let report = verify(directory.path()).unwrap();
        assert_eq!((report.entries, report.problems.as_slice()), (3, &[][..]));
        let mut found = Vec::new();
        let filter = Filter {
            handle: Some("1/b".into()),
            ..Filter::default()
        };
        read(directory.path(), &filter, |entry| {
            found.push(entry.sequence)
        })
        .unwrap();
        assert_eq!(found, [2]);
    }

    #[test]
    fn changes_and_omissions_are_seen() {
        let directory = tempfile::tempdir().unwrap();
        trail(directory.path(), &[b"1/A", b"1/B", b"1/C"]);
        let path = files(directory.path()).unwrap().remove(0).1;
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("1/B", "1/X")).unwrap();
        assert_eq!(verify(directory.path()).unwrap().problems.len(), 1);
        let without: Vec<&str> = text.lines().filter(|line| !line.contains("1/B")).collect();
        fs::write(&path, without.join("\n") + "\n").unwrap();
        assert_eq!(verify(directory.path()).unwrap().problems.len(), 1);
    }
}
