//! The materialised state, and the only file that says `sled`. It can always be thrown away: the index is read from it
//! at the start because that is quick, and it gives scans their order.
//!
//! ```text
//! key                                                      value
//! 00 "position"                                            the position that is certainly in here (see [`Engine::checkpoint`])
//! space, key                                               a record, or the head of a chunked one
//! 80|space, length of the key (2), key, generation (8), n (4)  chunk n of the record of that generation
//! ```
//!
//! Records above 32 KiB are chunked: the head is `C0`, generation (8), number of chunks (4). Chunks are written before
//! their head and removed after it was replaced, so a crash leaves orphans at worst.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

use super::change::Space;
use super::disk;
use super::journal::entry::{Position, read_u32, read_u64};
use super::metrics::Stopwatch;
use super::record::{Packed, PackedRef};

/// Larger records are chunked.
const CHUNK_BYTES: usize = 32 << 10;
/// First byte of the head of a chunked record; no record format version.
const CHUNKED: u8 = 0xC0;
/// In the first byte of a key: this is a chunk.
const CHUNK_SPACE: u8 = 0x80;
/// First byte of the keys of records is below this and above 0.
const SPACES: std::ops::Range<u8> = 1..CHUNK_SPACE;
const POSITION_KEY: &[u8] = b"\0position";
/// How often sled writes in the background: a safety net only.
const FLUSH_EVERY_MS: u64 = 200;
/// How long its files may be locked when it is opened.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// Names of its directories: this and a number.
const NAME: &str = "sled-";
/// Suffix of the directories that were given up.
const QUARANTINED: &str = "quarantined";

/// Why sled could not do something, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EngineError {
    pub(crate) message: String,
    /// Whether the cause is a full disk, so that the files themselves need not be bad.
    pub(crate) disk_full: bool,
    /// Whether this user may not use the files, whatever is in them.
    pub(crate) forbidden: bool,
}

impl From<sled::Error> for EngineError {
    fn from(error: sled::Error) -> Self {
        let disk_full = matches!(&error, sled::Error::Io(io) if super::error::is_disk_full(io));
        let forbidden =
            matches!(&error, sled::Error::Io(io) if io.kind() == ErrorKind::PermissionDenied);
        Self {
            message: format!("sled: {error}"),
            disk_full,
            forbidden,
        }
    }
}

impl From<std::io::Error> for EngineError {
    fn from(error: std::io::Error) -> Self {
        Self {
            disk_full: super::error::is_disk_full(&error),
            forbidden: error.kind() == ErrorKind::PermissionDenied,
            message: error.to_string(),
        }
    }
}

impl EngineError {
    pub(crate) fn other(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            disk_full: false,
            forbidden: false,
        }
    }
}

/// An open sled. Whoever lets go of it last does not wait until it is closed, which may hang after errors.
pub(crate) struct Engine {
    db: Db,
    /// sled's own flush does not reach the disk; this does.
    file: File,
    dir: PathBuf,
}

/// The database, which is closed in a thread of its own.
struct Db {
    /// There until the drop.
    open: Option<sled::Db>,
    /// Ends when it is closed, for whoever wants to know.
    closed: Mutex<Option<SyncSender<()>>>,
}

impl Deref for Db {
    type Target = sled::Db;

    fn deref(&self) -> &sled::Db {
        let Some(open) = &self.open else {
            unreachable!("only the drop takes it")
        };
        open
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        let open = self.open.take();
        let closed = self.closed.get_mut().map_or(None, Option::take);
        let closing = move || {
            let dropped = catch_unwind(AssertUnwindSafe(|| drop(open)));
            drop(closed);
            dropped.is_ok()
        };
        let started = thread::Builder::new()
            .name("store-sled-close".into())
            .spawn(closing);
        if let Err(error) = started {
            tracing::warn!(event = "sled.no_thread", %error, "no thread for closing sled; it was closed here");
        }
    }
}

/// What a full reading came upon.
pub(crate) enum Found {
    /// A whole record.
    Record(Packed),
    /// A record that is not what was put.
    Damaged {
        /// Number of the space.
        space: u8,
        /// The key.
        key: Vec<u8>,
    },
}

impl Engine {
    /// Opens or creates a sled. It may panic or hang on a damaged one: see [`open_guarded`].
    fn open(dir: &Path, cache_bytes: u64) -> Result<Self, EngineError> {
        let config = sled::Config::new()
            .path(dir)
            .mode(sled::Mode::LowSpace)
            .cache_capacity(cache_bytes)
            .flush_every_ms(Some(FLUSH_EVERY_MS))
            .use_compression(false);
        // The files of a process that was just killed may be locked for a moment.
        let waiting = Stopwatch::start();
        let db = loop {
            match config.open() {
                Err(error) if is_locked(&error) && waiting.elapsed() < LOCK_PATIENCE => {
                    thread::sleep(LOCK_PAUSE);
                }
                opened => break opened?,
            }
        };
        let file = File::open(dir.join("db"))?;
        Ok(Self {
            db: Db {
                open: Some(db),
                closed: Mutex::default(),
            },
            file,
            dir: dir.to_path_buf(),
        })
    }

    /// Where its files are.
    pub(crate) fn directory(&self) -> &Path {
        &self.dir
    }

    /// Puts a record.
    pub(crate) fn put(&self, packed: PackedRef<'_>) -> Result<(), EngineError> {
        let (space, key, body) = (packed.space_number(), packed.key(), packed.body());
        let generation = packed.record().generation();
        if body.len() <= CHUNK_BYTES {
            let old = self.db.insert(record_key(space, key), body)?;
            return self.remove_chunks(space, key, old.as_deref(), generation);
        }
        let mut chunks = 0_u32;
        for chunk in body.chunks(CHUNK_BYTES) {
            self.db
                .insert(chunk_key(space, key, generation, chunks), chunk)?;
            chunks += 1;
        }
        let head = [
            &[CHUNKED][..],
            &generation.to_be_bytes(),
            &chunks.to_be_bytes(),
        ]
        .concat();
        let old = self.db.insert(record_key(space, key), head)?;
        self.remove_chunks(space, key, old.as_deref(), generation)
    }

    /// Removes a record.
    pub(crate) fn remove(&self, space: u8, key: &[u8]) -> Result<(), EngineError> {
        let old = self.db.remove(record_key(space, key))?;
        self.remove_chunks(space, key, old.as_deref(), u64::MAX)
    }

    /// Makes everything so far durable, then notes that it holds at least the state at `position`.
    pub(crate) fn checkpoint(&self, epoch: u64, position: Position) -> Result<(), EngineError> {
        self.sync()?;
        let mut value = epoch.to_be_bytes().to_vec();
        position.encode(&mut value);
        let checksum = xxh3_64(&value);
        value.extend_from_slice(&checksum.to_be_bytes());
        self.db.insert(POSITION_KEY, value)?;
        Ok(())
    }

    /// Makes everything so far durable.
    pub(crate) fn sync(&self) -> Result<(), EngineError> {
        self.db.flush()?;
        self.file.sync_data()?;
        Ok(())
    }

    /// What the last checkpoint noted; none when it never was complete, or belongs to another epoch.
    pub(crate) fn position(&self, epoch: u64) -> Result<Option<Position>, EngineError> {
        let Some(value) = self.db.get(POSITION_KEY)? else {
            return Ok(None);
        };
        let whole = value.len() == 40
            && read_u64(&value, 32) == Some(xxh3_64(&value[..32]))
            && read_u64(&value, 0) == Some(epoch);
        Ok(Position::decode(&value, 8).filter(|_| whole))
    }

    /// Calls `visit` with every record, in the order of spaces and keys, until it returns false.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(Found) -> bool) -> Result<(), EngineError> {
        for item in self
            .db
            .range([SPACES.start].as_slice()..[SPACES.end].as_slice())
        {
            let (full_key, value) = item?;
            let found = self.found(full_key[0], &full_key[1..], value)?;
            if found.is_some_and(|found| !visit(found)) {
                break;
            }
        }
        Ok(())
    }

    /// A record whose value was met. Without its chunks it was replaced or removed since, and what is there now counts.
    fn found(
        &self,
        space: u8,
        key: &[u8],
        mut value: sled::IVec,
    ) -> Result<Option<Found>, EngineError> {
        loop {
            if let Some(packed) = self.assemble(space, key, &value)? {
                return Ok(Some(Found::Record(packed)));
            }
            match self.db.get(record_key(space, key))? {
                None => return Ok(None),
                Some(now) if now == value => {
                    return Ok(Some(Found::Damaged {
                        space,
                        key: key.to_vec(),
                    }));
                }
                Some(now) => value = now,
            }
        }
    }

    /// The keys (each with its space in front) from `from` on that begin with `prefix`, in order.
    pub(crate) fn keys(
        &self,
        from: &[u8],
        prefix: &[u8],
    ) -> impl Iterator<Item = Result<Vec<u8>, EngineError>> {
        let prefix = prefix.to_vec();
        let keys = self.db.range(from.to_vec()..).keys();
        keys.map(|key| key.map(|key| key.to_vec()).map_err(EngineError::from))
            .take_while(move |key| key.as_ref().map_or(true, |key| key.starts_with(&prefix)))
    }

    /// Bytes of its files.
    pub(crate) fn bytes(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.len())
    }

    fn assemble(&self, space: u8, key: &[u8], value: &[u8]) -> Result<Option<Packed>, EngineError> {
        let Some(space) = Space::from_number(space) else {
            return Ok(None);
        };
        if value.first() != Some(&CHUNKED) {
            return Ok(Packed::from_parts(space, key, value));
        }
        let Some((generation, chunks)) = read_chunked(value) else {
            return Ok(None);
        };
        let mut body = Vec::new();
        for number in 0..chunks {
            match self
                .db
                .get(chunk_key(space.number(), key, generation, number))?
            {
                Some(chunk) => body.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
        Ok(Packed::from_parts(space, key, &body))
    }

    /// Removes the chunks of a value that was replaced, unless the new one has the same.
    fn remove_chunks(
        &self,
        space: u8,
        key: &[u8],
        old: Option<&[u8]>,
        kept: u64,
    ) -> Result<(), EngineError> {
        let Some((generation, chunks)) = old.and_then(read_chunked) else {
            return Ok(());
        };
        if generation != kept {
            for number in 0..chunks {
                self.db.remove(chunk_key(space, key, generation, number))?;
            }
        }
        Ok(())
    }
}

/// Whether another process, or an instance that is being closed, has the files.
fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(io) if io.to_string().contains("could not acquire lock"))
}

fn record_key(space: u8, key: &[u8]) -> Vec<u8> {
    [&[space], key].concat()
}

fn chunk_key(space: u8, key: &[u8], generation: u64, number: u32) -> Vec<u8> {
    let length = (key.len() as u16).to_be_bytes();
    [
        &[CHUNK_SPACE | space][..],
        &length,
        key,
        &generation.to_be_bytes(),
        &number.to_be_bytes(),
    ]
    .concat()
}

/// Generation and number of chunks, of the head of a chunked record.
fn read_chunked(value: &[u8]) -> Option<(u64, u32)> {
    let is_head = value.len() == 13 && value[0] == CHUNKED;
    is_head.then_some((read_u64(value, 1)?, read_u32(value, 9)?))
}

/// Opens a sled in a thread of its own, so that neither a panic nor a hang in it stops the store.
pub(crate) fn open_guarded(
    dir: &Path,
    cache_bytes: u64,
    patience: Duration,
) -> Result<Engine, EngineError> {
    let (send, receive) = sync_channel(1);
    let path = dir.to_path_buf();
    let opening = move || {
        let opened = catch_unwind(AssertUnwindSafe(|| Engine::open(&path, cache_bytes)));
        let opened =
            opened.unwrap_or_else(|_| Err(EngineError::other("sled panicked when it was opened")));
        // The receiver is gone when this took too long.
        drop(send.send(opened));
    };
    thread::Builder::new()
        .name("store-sled-open".into())
        .spawn(opening)?;
    match receive.recv_timeout(patience) {
        Ok(opened) => opened,
        Err(RecvTimeoutError::Timeout) => Err(EngineError::other(format!(
            "sled did not open within {} s",
            patience.as_secs()
        ))),
        Err(RecvTimeoutError::Disconnected) => Err(EngineError::other("sled's thread died")),
    }
}

/// Lets go of a sled. The channel ends when it is closed, which it is once its last reader has let go of it, too.
pub(crate) fn close_aside(engine: Arc<Engine>) -> Receiver<()> {
    let (send, receive) = sync_channel(1);
    *engine
        .db
        .closed
        .lock()
        .unwrap_or_else(PoisonError::into_inner) = Some(send);
    receive
}

/// The directory of sled number `number`.
pub(crate) fn directory(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{NAME}{number:06}"))
}

/// The numbers of the newest sled in a store's directory and of the newest one ever there, with those given up. A number
/// is never used again, since a sled that was given up may still write to the paths it knows.
pub(crate) fn numbers(dir: &Path) -> std::io::Result<(Option<u64>, u64)> {
    let (mut newest, mut last) = (None, 0);
    for item in fs::read_dir(dir)? {
        let path = item?.path();
        let name = path.file_stem().and_then(|name| name.to_str());
        let Some(number) = name.and_then(|name| name.strip_prefix(NAME)?.parse().ok()) else {
            continue;
        };
        last = last.max(number);
        if path.extension().is_none() {
            newest = newest.max(Some(number));
        }
    }
    Ok((newest, last))
}

/// Gives up a sled's directory: renames it, or removes it when the disk is full, and removes those given up before.
pub(crate) fn quarantine(dir: &Path, keep: bool) -> std::io::Result<()> {
    let parent = disk::parent(dir);
    for item in fs::read_dir(parent)? {
        let path = item?.path();
        let is_ours = path
            .file_stem()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with(NAME));
        if is_ours && path.extension().is_some_and(|suffix| suffix == QUARANTINED) {
            fs::remove_dir_all(path)?;
        }
    }
    if !dir.exists() {
        return Ok(());
    }
    let aside = dir.with_extension(QUARANTINED);
    fs::rename(dir, &aside)?;
    if !keep {
        fs::remove_dir_all(&aside)?;
    }
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::store::change::{Draft, DraftValue};

    /// Goal: a sled is closed when its last reader has let go of it, not before, and not by that reader: the files can
    /// be opened again afterwards, and the reader does not wait for it.
    #[test]
    fn closed_aside_by_the_last_reader() {
        let home = tempfile::tempdir().unwrap();
        let dir = directory(home.path(), 1);
        let patience = Duration::from_secs(60);
        let engine = Arc::new(open_guarded(&dir, 1 << 20, patience).unwrap());
        let reader = Arc::clone(&engine);
        let closed = close_aside(engine);
        let early = closed.recv_timeout(Duration::from_millis(50));
        assert_eq!(early, Err(RecvTimeoutError::Timeout), "somebody reads");
        drop(reader);
        let late = closed.recv_timeout(patience);
        assert_eq!(late, Err(RecvTimeoutError::Disconnected), "closed");
        assert!(open_guarded(&dir, 1 << 20, patience).is_ok());
    }

    fn record(key: &[u8], generation: u64, size: usize) -> Packed {
        let value = DraftValue {
            index: 1,
            permissions: 14,
            sealed: false,
            wire: Bytes::from(vec![7; size]),
        };
        let draft = Draft {
            handle: Bytes::copy_from_slice(key),
            values: vec![value],
        };
        let mut packed = Packed::encode(Space::Handle, key, &draft).unwrap();
        packed.seal(generation);
        packed
    }

    /// Goal: a record in chunks that is replaced or removed while all are read is no damage: it is met as it is now, or
    /// not at all. Method: the reading itself does it, at the record before.
    #[test]
    fn chunks_that_go_meanwhile() {
        let home = tempfile::tempdir().unwrap();
        let engine = Engine::open(home.path(), 32 << 20).unwrap();
        let large = 2 * CHUNK_BYTES;
        for key in [b"A", b"B", b"C", b"D"] {
            engine.put(record(key, 1, large).view()).unwrap();
        }
        let mut met = Vec::new();
        let read = engine.for_each(|found| {
            met.push(match found {
                Found::Record(packed) => (packed.key().to_vec(), packed.record().generation()),
                Found::Damaged { key, .. } => (key, 0),
            });
            if met.len() == 1 {
                engine.put(record(b"B", 2, large).view()).unwrap();
                engine.put(record(b"C", 3, 10).view()).unwrap();
                engine.remove(Space::Handle.number(), b"D").unwrap();
            }
            true
        });
        read.unwrap();
        let expected = [(b"A", 1), (b"B", 2), (b"C", 3)].map(|(key, at)| (key.to_vec(), at));
        assert_eq!(met, expected);
    }
}
