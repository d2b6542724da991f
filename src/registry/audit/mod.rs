//! The audit trail: who, from where, what, when, with which result. Chained by hashes, so that
//! nothing can be taken out or changed without [`verify`] seeing it.
//!
//! * This module: the trail of a running node, [`Audit`].
//! * `trail`: its files, read and verified.
//! * `head`: the last synced entry, sealed with the node's key, so that a trail that was cut off or
//!   written anew is seen as well.
//! * `witness`: what the journal says beside each change, from which the trail is completed after a crash.
//!
//! One JSON object a line. `hash` is the SHA-256 of the line before `,"hash"` was put in; `prev` is
//! the hash of the line before. Files are begun anew when they are large; the chain goes on.
//! Entries are written at once and synced by a thread of its own, at most [`SYNC_DELAY`] later.

mod head;
mod trail;
mod witness;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use self::head::{Head, HeadFile, HeadKey, Sealed};
use self::trail::{cut_torn_line, files, last_line};
use self::witness::{Recent, Witness};
use super::keys::NodeKey;

pub use self::trail::{Filter, Known, Report, read, verify};

/// How long an entry may wait for its sync.
pub const SYNC_DELAY: Duration = Duration::from_millis(200);
/// Bytes of a file after which another one is begun.
pub const FILE_BYTES: u64 = 64 << 20;
/// Bytes that may wait for a disk that does not write; then changes are refused.
const WAITING_MAX: usize = 16 << 20;
/// Entries that are kept while another process has the trail; more are lost, and counted.
const ASIDE_MAX: usize = 10_000;
/// Longest name of a handle that is kept whole, octets: that of the protocol.
const NAME_MAX: usize = jiexi_proto::limits::HANDLE_MAX + 8;

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
    /// It was written after a crash, from what the journal says beside the change: nobody was told its result.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub recovered: bool,
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
    /// The last sync failed; that has been told.
    unsynced: bool,
    /// The last entry that is written, and the last that is synced.
    written: u64,
    written_hash: String,
    synced: u64,
    /// The syncing thread waits for something to do; it is not woken otherwise.
    idle: bool,
    closed: bool,
    /// While another process has the trail: entries that wait until it is taken back, and how many more there were.
    aside: Option<(Vec<Entry>, u64)>,
    /// It could not be taken back.
    lost: bool,
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
    directory: PathBuf,
    key: HeadKey,
    /// Tells this run of the node from those before.
    run: String,
    syncer: Mutex<Option<JoinHandle<()>>>,
}

impl Audit {
    /// Opens the trail in a directory, which is made if need be. A line that was cut by a crash is
    /// taken off the end: it was not synced. When entries are missing that were synced, that is
    /// written down with the time `now`, in seconds since 1970.
    ///
    /// # Errors
    /// The directory cannot be read or written, or its last line does not belong to a trail.
    pub fn open(directory: &Path, key: &NodeKey, now: u64) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let key = HeadKey::of(key);
        let (chain, problem) = Chain::open(directory, &key)?;
        let audit = Self {
            run: format!("{now}-{}-{}", std::process::id(), chain.sequence),
            shared: Arc::new(Shared {
                chain: Mutex::new(chain),
                changed: Condvar::new(),
                synced: Condvar::new(),
            }),
            directory: directory.to_path_buf(),
            key,
            syncer: Mutex::default(),
        };
        audit.start()?;
        if let Some(problem) = problem {
            tracing::error!(event = "audit.problem", directory = %directory.display(), "{problem}: see jiexi audit verify");
            audit.record(&Event {
                time: now,
                source: "-".into(),
                operation: problem,
                result: "failed",
                ..Event::default()
            });
        }
        Ok(audit)
    }

    /// Begins to sync a chain that was opened.
    fn start(&self) -> io::Result<()> {
        let head = HeadFile::open(&self.directory, &self.key)?;
        head.write(&self.shared.lock().end())?;
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name("audit".into());
        let syncer = thread.spawn(move || shared.sync_until_closed(&head))?;
        *self.syncer.lock().unwrap_or_else(PoisonError::into_inner) = Some(syncer);
        Ok(())
    }

    /// Lets another process have the trail: everything recorded is synced, and what comes waits.
    pub fn give_away(&self) {
        self.shared.lock().aside.get_or_insert_default();
        self.close();
    }

    /// Goes on behind what the other process has written, with what waited.
    ///
    /// # Errors
    /// As [`Self::open`]. Then it is not ready, and what waited still does.
    pub fn take_back(&self) -> io::Result<()> {
        let opened = self.open_again();
        let (entries, lost) = opened.inspect_err(|_| self.shared.lock().lost = true)?;
        self.append(entries.into_iter());
        if lost > 0 {
            tracing::error!(
                event = "audit.lost",
                lost,
                "refused requests are not in the audit trail: there were too many while another process had it"
            );
        }
        Ok(())
    }

    /// Opens the trail again, and begins to sync it; what waited.
    fn open_again(&self) -> io::Result<(Vec<Entry>, u64)> {
        let (opened, problem) = Chain::open(&self.directory, &self.key)?;
        if let Some(problem) = problem {
            tracing::error!(event = "audit.problem", directory = %self.directory.display(), "{problem}: see jiexi audit verify");
        }
        let aside = std::mem::replace(&mut *self.shared.lock(), opened).aside;
        let aside = aside.unwrap_or_default();
        match self.start() {
            Ok(()) => Ok(aside),
            Err(error) => {
                let mut chain = self.shared.lock();
                (chain.closed, chain.aside) = (true, Some(aside));
                Err(error)
            }
        }
    }

    /// Entries that another process which has the trail now does not know of.
    #[must_use]
    pub fn left(&self) -> u64 {
        let chain = self.shared.lock();
        let aside = chain.aside.as_ref();
        aside.map_or(0, |(kept, more)| kept.len() as u64 + more)
    }

    /// Whether there is room for more: a change that could not be audited must not be made.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let chain = self.shared.lock();
        // While another process has it, changes wait for the store.
        let given = chain.aside.is_some() && !chain.lost;
        chain.waiting.len() < WAITING_MAX && (!chain.closed || given)
    }

    /// Adds an event. When this returns it is with the operating system, and survives the process.
    pub fn record(&self, event: &Event<'_>) {
        self.record_all(std::iter::once(event.clone()));
    }

    /// As [`Self::record`], for many events that belong together: they are written at once.
    pub fn record_all<'e>(&self, events: impl Iterator<Item = Event<'e>>) {
        self.append(events.map(|event| Entry {
            sequence: 0,
            time: event.time,
            identity: named(event.identity),
            source: event.source.clone(),
            operation: event.operation.to_owned(),
            handle: shown(event.handle),
            result: event.result.to_owned(),
            code: event.code,
            change: event.change,
            recovered: false,
            prev: String::new(),
            hash: String::new(),
        }));
    }

    /// What the journal is to say beside the changes of `events`, which happen together.
    #[must_use]
    pub fn witness(&self, events: &[Event<'_>]) -> Bytes {
        let Some(first) = events.first() else {
            return Bytes::new();
        };
        let told = |event: &Event<'_>| (event.operation.to_owned(), shown(event.handle));
        let witness = Witness {
            run: self.run.clone(),
            time: first.time,
            identity: named(first.identity),
            source: first.source.clone(),
            changes: events.iter().map(told).collect(),
        };
        serde_json::to_vec(&witness).map_or_else(|_| Bytes::new(), Bytes::from)
    }

    /// After which sequence of a journal that ends at `end` the trail may lack changes, and what it knows after that;
    /// none when its entries have been put away.
    fn recent(&self, end: u64) -> io::Result<Option<(u64, Recent)>> {
        let mut recent = Recent::default();
        let tail = trail::tail(&self.directory, witness::TAIL_BYTES, |entry| {
            recent.add(entry);
        })?;
        let begun = self.shared.lock().sequence > 0;
        let put_away = begun && tail.entries == 0;
        Ok((!put_away).then(|| (recent.begin(end, tail.cut), recent)))
    }

    /// Writes down the changes of runs before this one that are in the journal and not in the trail: the process ended
    /// between the two. `notes` gives the notes of the batches after a sequence, `end` is the last one. Returns how many.
    ///
    /// # Errors
    /// The trail or the journal cannot be read.
    pub fn complete<E>(
        &self,
        end: u64,
        notes: impl FnOnce(u64) -> Result<Vec<(u64, Bytes)>, E>,
        unread: impl FnOnce(io::Error) -> E,
    ) -> Result<u64, E> {
        let Some((after, recent)) = self.recent(end).map_err(unread)? else {
            return Ok(0);
        };
        let mut completed = 0;
        for (change, note) in notes(after)? {
            let Ok(witness) = serde_json::from_slice::<Witness>(&note) else {
                continue;
            };
            if witness.run == self.run {
                continue;
            }
            for (operation, handle) in witness.changes {
                if recent.knows(change, &operation, &handle) {
                    continue;
                }
                completed += 1;
                self.append(std::iter::once(Entry {
                    sequence: 0,
                    time: witness.time,
                    identity: witness.identity.clone(),
                    source: witness.source.clone(),
                    operation,
                    handle,
                    result: "committed".to_owned(),
                    code: jiexi_proto::code::ResponseCode::SUCCESS.0,
                    change: Some(change),
                    recovered: true,
                    prev: String::new(),
                    hash: String::new(),
                }));
            }
        }
        Ok(completed)
    }

    /// Gives entries their places, and writes them.
    fn append(&self, entries: impl Iterator<Item = Entry>) {
        let mut chain = self.shared.lock();
        if let Some((kept, more)) = &mut chain.aside {
            for entry in entries {
                match kept.len() < ASIDE_MAX {
                    true => kept.push(entry),
                    false => *more += 1,
                }
            }
            return;
        }
        for entry in entries {
            chain.add(entry);
        }
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

    /// Syncs what was written and ends. Whether everything that was recorded is on the disk.
    pub fn close(&self) -> bool {
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
        let chain = self.shared.lock();
        chain.synced >= chain.sequence
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.close();
    }
}

impl Chain {
    /// The end of the trail in a directory, and what is wrong with it.
    fn open(directory: &Path, key: &HeadKey) -> io::Result<(Self, Option<&'static str>)> {
        let files = files(directory)?;
        let number = files.last().map_or(1, |(number, _)| *number);
        if let Some((_, path)) = files.last() {
            cut_torn_line(path)?;
        }
        let last = last_entry(&files)?;
        let begun = last.sequence > 0;
        let (end, problem) = match head::read(directory, key)? {
            Sealed::Missing if begun => (last, Some("the head of the audit trail is missing")),
            Sealed::Missing => (last, None),
            Sealed::Wrong => (
                last,
                Some("the head of the audit trail was not made by this node"),
            ),
            Sealed::Right(head) if head.sequence > last.sequence => {
                (head, Some("entries of the audit trail are missing"))
            }
            Sealed::Right(_) => (last, None),
        };
        let Head { sequence, hash } = end;
        let mut chain = Self {
            directory: directory.to_path_buf(),
            sequence,
            written_hash: hash.clone(),
            hash,
            file: None,
            number,
            waiting: Vec::new(),
            failing: false,
            unsynced: false,
            written: sequence,
            synced: sequence,
            idle: false,
            closed: false,
            aside: None,
            lost: false,
        };
        // A directory that cannot be written is found out now.
        chain.open_file()?;
        Ok((chain, problem))
    }

    /// The last entry that is written: while nothing waits it is the last of all.
    fn end(&self) -> Head {
        Head {
            sequence: self.written,
            hash: self.written_hash.clone(),
        }
    }

    /// Gives an entry its place and its hash.
    fn add(&mut self, mut entry: Entry) {
        entry.sequence = self.sequence + 1;
        entry.prev.clone_from(&self.hash);
        let Ok(text) = serde_json::to_string(&entry) else {
            return;
        };
        entry.hash = hex::encode(Sha256::digest(&text));
        let body = text.strip_suffix('}').unwrap_or(&text);
        let line = format!("{body},\"hash\":\"{}\"}}\n", entry.hash);
        self.sequence = entry.sequence;
        self.hash = entry.hash;
        self.waiting.extend_from_slice(line.as_bytes());
    }

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
                self.written_hash.clone_from(&self.hash);
                self.waiting.clear();
                self.failing = false;
            }
            Err(error) => {
                if !self.failing {
                    tracing::error!(event = "audit.failed", %error, directory = %self.directory.display(),
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
    fn sync_until_closed(&self, head: &HeadFile) {
        let mut chain = self.lock();
        loop {
            if chain.failing {
                chain.write();
            }
            if chain.synced < chain.written
                && let Some((file, _)) = &chain.file
            {
                let (file, end) = (Arc::clone(file), chain.end());
                drop(chain);
                // The head names only what is on the disk, so that it is never ahead of the trail.
                let synced = file.sync_data().and_then(|()| head.write(&end));
                chain = self.lock();
                let failed = synced.is_err();
                match synced {
                    Ok(()) => chain.synced = end.sequence,
                    // It is tried on, several times a second.
                    Err(error) if !chain.unsynced => {
                        tracing::error!(event = "audit.sync_failed", %error, "the audit trail cannot be synced");
                    }
                    Err(_) => {}
                }
                chain.unsynced = failed;
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

/// An identity as the trail names it.
fn named(identity: Option<&super::Identity>) -> String {
    identity.map_or_else(
        || "-".to_owned(),
        |identity| format!("{}:{}", identity.index, shown(&identity.handle)),
    )
}

/// A name as text, cut when it is longer than any can be.
fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name.get(..NAME_MAX).unwrap_or(name)).into_owned()
}

/// The last entry of a trail; that before the first when it has none.
fn last_entry(files: &[(u64, PathBuf)]) -> io::Result<Head> {
    for (_, path) in files.iter().rev() {
        if let Some(last) = last_line(path)? {
            let entry: Entry = serde_json::from_str(&last).map_err(|error| {
                let text = format!("{}: the last line is no entry: {error}", path.display());
                io::Error::new(io::ErrorKind::InvalidData, text)
            })?;
            return Ok(Head {
                sequence: entry.sequence,
                hash: entry.hash,
            });
        }
    }
    Ok(Head::default())
}

#[cfg(test)]
mod tests;
