//! Snapshots: a sorted, checksummed dump that depends on no engine. It is backup, base for a rebuild, and the way to
//! another engine.
//!
//! Writes go on while a snapshot is taken. The dump is read from sled, which at the beginning holds at least the state at
//! sequence *from* and never runs ahead of what is acknowledged; when the dump is complete everything acknowledged is at
//! *to* or later. The journal entries after *from* up to *to*, the *window*, are copied behind the dump. So a dumped
//! record may be newer than *from*, but then its change is in the window: loading the dump, and the window over it, gives
//! exactly the state at *to*, whose number of records and sum the journal knows. A snapshot is verified like that, by
//! reading it back, before it gets its name.
//!
//! A run (see [`super::run`]) has no place in a window: a snapshot waits until sled has all runs, and is begun again when
//! another one came meanwhile.
//!
//! ```text
//! file:     blocks (see [`super::blocks`]): head, dump …, window …, marks …, end
//! HEAD:     format version (4) = 2, case (1: 0 whole, 1 prefix), epoch (8), from (8)
//! DUMP:     records in the order of spaces and keys
//! WIND:     one journal entry
//! MARK:     where records of the dump are (see [`super::marks`])
//! END:      from (8), position at to: sequence, records, sum (24), records dumped (8), Unix seconds (8),
//!           where the window begins in the file (8), number of its first block (4), the same of the marks (8, 4)
//! ```
//!
//! Version 1 has no marks, and ends before what is said of them.
//!
//! The end is the manifest. Its block has a fixed size, so it is found from the end of the file. A backup has such files,
//! too, some of them without a dump: see [`super::archive`].

use std::collections::HashMap;
use std::fs::{self, File};
use std::hash::BuildHasher;
use std::io::{Read, Seek as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use foldhash::quality::RandomState;
use jiexi_proto::handle::CaseRule;

use super::SnapshotInfo;
use super::blocks::{self, BLOCK_HEAD, BlockReader, BlockWriter, END, Unreadable};
use super::disk::Disk;
use super::error::StoreError;
use super::journal;
use super::journal::entry::{Change, Entry, Position, read_u32, read_u64};
use super::marks::Marks;
use super::metrics::Stopwatch;
use super::record::PackedRef;
use super::run::{self, Run};
use super::shared::Shared;
use super::sled::{Engine, Found};
use super::unread;

/// The version this program writes, and the one before it.
const VERSION: u32 = 2;
const WITHOUT_MARKS: u32 = 1;
/// Bytes of the body of the end, and of that without marks.
const END_BODY: usize = 72;
const END_BODY_WITHOUT_MARKS: usize = 60;
const HEAD: &[u8; 4] = b"HEAD";
pub(crate) const DUMP: &[u8; 4] = b"DUMP";
pub(crate) const WINDOW: &[u8; 4] = b"WIND";
const MARKS: &[u8; 4] = b"MARK";
/// A block of the dump is written when it is this long.
const BLOCK_BYTES: usize = 256 << 10;
/// Blocks that are read ahead of their use.
const AHEAD: usize = 8;
/// Bytes of a short record, for how many there may be in a block.
const RECORD_ABOUT: usize = 256;
/// How many whole snapshots are kept.
const KEPT: usize = 2;
const SUFFIX: &str = "snapshot";
/// Why a snapshot must be begun again: a window has no place for a run.
const INTERRUPTED: &str = "a bulk import came while a snapshot was taken";

/// Why there can be none for a while: a dump is in the order of keys, and sled is what has them in order.
pub(crate) const NO_SLED: &str = "no snapshot now: the state on disk is being made anew";

/// The directory of the snapshots in that of a store.
pub(crate) fn directory(dir: &Path) -> PathBuf {
    dir.join("snapshots")
}

/// The snapshots in the directory, newest first.
pub(crate) fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>, StoreError> {
    let dir = directory(dir);
    let failed = |error| StoreError::io(&dir, "list the directory", error);
    let mut found = Vec::new();
    for item in fs::read_dir(&dir).map_err(failed)? {
        let path = item.map_err(failed)?.path();
        let name = path.file_stem().and_then(|name| name.to_str());
        if path.extension().is_some_and(|suffix| suffix == SUFFIX)
            && let Some(sequence) = name.and_then(|name| name.parse().ok())
        {
            found.push((sequence, path));
        }
    }
    found.sort_by_key(|(sequence, _)| std::cmp::Reverse(*sequence));
    Ok(found)
}

/// The name of the snapshot of a state.
fn name(dir: &Path, sequence: u64) -> PathBuf {
    directory(dir).join(format!("{sequence:020}.{SUFFIX}"))
}

/// What a snapshot says about itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manifest {
    pub(crate) case: CaseRule,
    pub(crate) epoch: u64,
    /// The dump holds at least the state at this sequence.
    pub(crate) from: u64,
    /// The state of dump and window together.
    pub(crate) to: Position,
    pub(crate) dumped: u64,
    pub(crate) created: u64,
    /// Where the window begins in the file, and the number of its first block.
    pub(crate) window: (u64, u32),
    /// Where it ends, as of a file that was read.
    pub(crate) window_end: u64,
    /// The number of the first block behind it, if there are marks.
    pub(crate) marks: Option<u32>,
}

impl Manifest {
    /// The block that a file begins with.
    pub(crate) fn write_head(&self, out: &mut BlockWriter) -> Result<(), StoreError> {
        let mut head = VERSION.to_be_bytes().to_vec();
        head.push(u8::from(self.case == CaseRule::Prefix));
        head.extend_from_slice(&self.epoch.to_be_bytes());
        head.extend_from_slice(&self.from.to_be_bytes());
        out.block(HEAD, &head)
    }

    /// What comes behind the window: the marks of the dump, and the block that the file ends with. Makes it durable.
    pub(crate) fn write_end(&self, mut out: BlockWriter, marks: &Marks) -> Result<(), StoreError> {
        let place = (out.at, out.blocks);
        for piece in marks.pieces() {
            out.block(MARKS, piece)?;
        }
        let mut end = self.from.to_be_bytes().to_vec();
        self.to.encode(&mut end);
        end.extend_from_slice(&self.dumped.to_be_bytes());
        end.extend_from_slice(&self.created.to_be_bytes());
        end.extend_from_slice(&self.window.0.to_be_bytes());
        end.extend_from_slice(&self.window.1.to_be_bytes());
        end.extend_from_slice(&place.0.to_be_bytes());
        end.extend_from_slice(&place.1.to_be_bytes());
        out.block(END, &end)?;
        out.file.sync()
    }
}

// ---------------------------------------------------------------------------------------------------- taking

/// Takes a snapshot of a running store, removes the oldest ones, and prunes the journal behind those kept. With `renew`
/// everything that is older goes.
pub(crate) fn take(shared: &Shared, renew: bool) -> Result<SnapshotInfo, StoreError> {
    let _one_at_a_time = shared
        .snapshots
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let watch = Stopwatch::start();
    let temporary = directory(shared.dir()).join("taking.tmp");
    let written = loop {
        let runs = shared.overlay.runs().0;
        let Some((engine, from)) = shared.wait_sled() else {
            return Err(StoreError::Unavailable(NO_SLED));
        };
        shared.disk.discard(&temporary)?;
        match write(shared, &engine, (from, runs), &temporary) {
            Err(StoreError::Unavailable(INTERRUPTED)) => {
                tracing::info!(
                    event = "snapshot.begun_again",
                    "snapshot: {INTERRUPTED}; it is begun again"
                );
            }
            written => break written,
        }
    };
    let taken = written.and_then(|()| {
        let (manifest, bytes) = verify(&temporary)?;
        let path = name(shared.dir(), manifest.to.sequence);
        shared.disk.rename(&temporary, &path)?;
        shared.disk.sync_directory(&directory(shared.dir()))?;
        Ok((manifest, SnapshotInfo::new(path, &manifest, bytes)))
    });
    let (manifest, info) = match taken {
        Ok(taken) => taken,
        Err(error) => {
            // What is wrong is in the error; the file is of no use.
            drop(shared.disk.discard(&temporary));
            return Err(error);
        }
    };
    let metrics = &shared.metrics;
    metrics
        .snapshot_timestamp
        .store(info.created, Ordering::Relaxed);
    metrics
        .snapshot_sequence
        .store(info.sequence, Ordering::Relaxed);
    metrics.snapshot_bytes.store(info.bytes, Ordering::Relaxed);
    tracing::info!(
        event = "snapshot.taken",
        path = %info.path.display(), sequence = info.sequence, records = info.records, bytes = info.bytes,
        window = manifest.to.sequence - manifest.from, seconds = watch.elapsed().as_secs_f64(), "snapshot taken"
    );
    retire(shared, renew)?;
    Ok(info)
}

/// Removes the snapshots that are no longer kept, and the journal that only they needed.
fn retire(shared: &Shared, renew: bool) -> Result<(), StoreError> {
    let all = list(shared.dir())?;
    let kept = if renew { 1 } else { KEPT };
    for (_, path) in all.iter().skip(kept) {
        shared.disk.remove(path)?;
        tracing::info!(event = "snapshot.removed", path = %path.display(), "snapshot removed: newer ones are kept");
    }
    if all.len() > kept {
        shared.disk.sync_directory(&directory(shared.dir()))?;
    }
    if all.len() < kept {
        // Until there are two, the journal from the beginning stands for the older one.
        return Ok(());
    }
    let Some((_, oldest)) = all.get(kept - 1) else {
        return Ok(());
    };
    // Not behind what sled would begin with after a crash, either.
    let from = read_manifest(oldest)?
        .from
        .min(shared.synced_sequence.load(Ordering::Relaxed));
    let removed = journal::prune(&shared.disk, shared.dir(), from)?;
    if removed > 0 {
        tracing::info!(
            event = "journal.pruned",
            segments = removed,
            behind = from,
            "journal pruned"
        );
    }
    run::prune(&shared.disk, shared.dir(), from)
}

/// Writes a snapshot of a sled that holds at least the state at `from`, when there had been so many runs.
fn write(
    shared: &Shared,
    engine: &Engine,
    (from, runs): (Position, u64),
    path: &Path,
) -> Result<(), StoreError> {
    let mut out = BlockWriter::new(shared.disk.create(path)?);
    let mut manifest = Manifest {
        case: shared.identity.case,
        epoch: shared.identity.epoch,
        from: from.sequence,
        to: from,
        dumped: 0,
        created: 0,
        window: (0, 0),
        window_end: 0,
        marks: None,
    };
    let mut marks = Marks::default();
    manifest.write_head(&mut out)?;
    manifest.dumped = write_dump(shared, engine, &mut out, &mut marks)?;
    manifest.window = (out.at, out.blocks);
    manifest.to = shared.overlay.durable();
    journal::tail::copy(
        shared.dir(),
        shared.identity.epoch,
        (from.sequence, manifest.to.sequence),
        |entry| out.block(WINDOW, entry),
    )?;
    if shared.overlay.runs().0 != runs {
        return Err(StoreError::Unavailable(INTERRUPTED));
    }
    manifest.created = (shared.config.now)();
    manifest.write_end(out, &marks)
}

fn write_dump(
    shared: &Shared,
    engine: &Engine,
    out: &mut BlockWriter,
    marks: &mut Marks,
) -> Result<u64, StoreError> {
    let mut block = Vec::with_capacity(BLOCK_BYTES * 2);
    let mut dumped = 0;
    let mut outcome = Ok(());
    let read = engine.for_each(|found| {
        let packed = match found {
            Found::Record(packed) => packed,
            Found::Damaged { key, .. } => {
                outcome = Err(damaged_in_sled(engine, &key));
                return false;
            }
        };
        dumped += 1;
        marks.note(out.at + (BLOCK_HEAD + block.len()) as u64, packed.view());
        blocks::put_record(&mut block, packed.bytes());
        if block.len() >= BLOCK_BYTES {
            outcome = out.block(DUMP, &block);
            block.clear();
            shared.stall(Disk::stalls_snapshot);
        }
        outcome.is_ok() && !shared.is_stopping()
    });
    read.map_err(|error| StoreError::damaged(engine.directory(), error.message, REBUILDS))?;
    outcome?;
    if shared.is_stopping() {
        return Err(StoreError::Closed);
    }
    if !block.is_empty() {
        out.block(DUMP, &block)?;
    }
    Ok(dumped)
}

/// What happens to a damaged sled.
const REBUILDS: &str = "it is being made anew from the index";

fn damaged_in_sled(engine: &Engine, key: &[u8]) -> StoreError {
    let key = String::from_utf8_lossy(key);
    StoreError::damaged(
        engine.directory(),
        format!("the record of {key} has a wrong checksum"),
        REBUILDS,
    )
}

impl SnapshotInfo {
    pub(crate) fn new(path: PathBuf, manifest: &Manifest, bytes: u64) -> Self {
        Self {
            path,
            sequence: manifest.to.sequence,
            records: manifest.to.count,
            sum: manifest.to.sum,
            bytes,
            created: manifest.created,
        }
    }
}

// ---------------------------------------------------------------------------------------------------- reading

/// Reads what a snapshot says about itself.
pub(crate) fn read_manifest(path: &Path) -> Result<Manifest, StoreError> {
    manifest_of(BlockReader::open(path, REMEDY)?)
}

/// As [`read_manifest`], of an open file, which is called `path` and stands at its beginning, before and after.
pub(crate) fn read_open_manifest(mut file: &File, path: &Path) -> Result<Manifest, StoreError> {
    let io = |error| StoreError::io(path, "read", error);
    let reader = BlockReader::of(file.try_clone().map_err(io)?, path, REMEDY)?;
    let manifest = manifest_of(reader)?;
    // Both have one place in it.
    file.rewind().map_err(io)?;
    Ok(manifest)
}

fn manifest_of(mut reader: BlockReader) -> Result<Manifest, StoreError> {
    let head = reader.block()?;
    let parsed = (head.kind == *HEAD)
        .then(|| parse_head(&head.body))
        .flatten();
    let Some((version, case, epoch, from)) = parsed else {
        return Err(reader.damaged("it has no sound head"));
    };
    let end = match version {
        VERSION => END_BODY,
        WITHOUT_MARKS => END_BODY_WITHOUT_MARKS,
        found => {
            let path = reader.path().to_path_buf();
            return Err(StoreError::Version { path, found });
        }
    };
    let Some(start) = reader.length.checked_sub((BLOCK_HEAD + end) as u64) else {
        return Err(reader.damaged("it is cut off"));
    };
    reader.seek(start, 0)?;
    let end = reader
        .block()
        .map_err(|_| reader.damaged("it is cut off, or its end is damaged"))?;
    let manifest = (end.kind == *END)
        .then(|| parse_end(&end.body, (case, epoch), (version, start)))
        .flatten();
    let manifest = manifest.filter(|manifest| manifest.from == from);
    manifest.ok_or_else(|| reader.damaged("its end is damaged"))
}

fn parse_head(body: &[u8]) -> Option<(u32, CaseRule, u64, u64)> {
    let case = match body.get(4)? {
        0 => CaseRule::Whole,
        1 => CaseRule::Prefix,
        _ => return None,
    };
    Some((
        read_u32(body, 0)?,
        case,
        read_u64(body, 5)?,
        read_u64(body, 13)?,
    ))
}

fn parse_end(
    body: &[u8],
    (case, epoch): (CaseRule, u64),
    (version, start): (u32, u64),
) -> Option<Manifest> {
    let (window_end, marks) = match version {
        WITHOUT_MARKS => (start, None),
        _ => (read_u64(body, 60)?, Some(read_u32(body, 68)?)),
    };
    Some(Manifest {
        case,
        epoch,
        from: read_u64(body, 0)?,
        to: Position::decode(body, 8)?,
        dumped: read_u64(body, 32)?,
        created: read_u64(body, 40)?,
        window: (read_u64(body, 48)?, read_u32(body, 56)?),
        window_end,
        marks,
    })
}

/// Reads where records of the dump are; none of it in a file without marks.
fn read_marks(path: &Path, manifest: &Manifest) -> Result<Marks, StoreError> {
    let mut marks = Marks::default();
    let Some(number) = manifest.marks else {
        return Ok(marks);
    };
    let mut reader = BlockReader::open(path, REMEDY)?;
    reader.seek(manifest.window_end, number)?;
    loop {
        let block = reader.block()?;
        if block.kind == *END {
            return Ok(marks);
        }
        let read = (block.kind == *MARKS).then(|| marks.read(&block.body));
        if read.flatten().is_none() {
            return Err(reader.damaged("a block of its marks is damaged"));
        }
    }
}

/// Calls `visit` with every entry of the window, the last one first.
pub(crate) fn read_window_back(
    path: &Path,
    manifest: &Manifest,
    mut visit: impl FnMut(Entry<'_>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut places = Vec::new();
    read_window(path, manifest, |entry, place| {
        places.push((place, entry.bytes.len()));
        Ok(())
    })?;
    let failed = |error| StoreError::io(path, "read", error);
    let file = File::open(path).map_err(failed)?;
    for ((at, number), length) in places.into_iter().rev() {
        let body = blocks::read_at(&file, at, number).map_err(failed)?;
        let entry = body
            .as_deref()
            .and_then(|body| Entry::read(body, manifest.epoch));
        match entry.filter(|entry| entry.bytes.len() == length) {
            Some(entry) => visit(entry)?,
            None => {
                return Err(StoreError::damaged(
                    path,
                    "an entry of its window changed",
                    REMEDY,
                ));
            }
        }
    }
    Ok(())
}

/// Calls `visit` with every entry of the window, in order, with the place and the number of its block.
pub(crate) fn read_window(
    path: &Path,
    manifest: &Manifest,
    mut visit: impl FnMut(Entry<'_>, (u64, u32)) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut reader = BlockReader::open(path, REMEDY)?;
    reader.seek(manifest.window.0, manifest.window.1)?;
    let mut last = manifest.from;
    while reader.at < manifest.window_end {
        let place = (reader.at, reader.blocks);
        let block = reader.block()?;
        let entry = (block.kind == *WINDOW)
            .then(|| Entry::read(&block.body, manifest.epoch))
            .flatten();
        let Some(entry) = entry.filter(|entry| entry.first <= last + 1) else {
            return Err(reader.damaged("an entry of its window is missing or damaged"));
        };
        last = entry.after.sequence;
        visit(entry, place)?;
    }
    if last == manifest.to.sequence {
        Ok(())
    } else {
        Err(reader.damaged("its window is not complete"))
    }
}

/// What reads single records of a dump, by its marks.
pub(crate) fn finder(path: &Path, manifest: &Manifest) -> Result<Box<unread::Read>, StoreError> {
    let marks = read_marks(path, manifest)?;
    let file = File::open(path).map_err(|error| StoreError::io(path, "open the file", error))?;
    Ok(Box::new(move |space, key, _| {
        let Some((at, octets)) = marks.find(space, key) else {
            return Ok(None);
        };
        let mut stretch = vec![0; octets];
        let read = file.read_exact_at(&mut stretch, at);
        read.map_err(|_| Unreadable)?;
        blocks::find(&stretch, space, key)
    }))
}

/// Calls `visit` with the records of the dump, block by block, in the order of spaces and keys, and with where they begin
/// in the file. The next blocks are read meanwhile.
pub(crate) fn read_dump(
    path: &Path,
    manifest: &Manifest,
    mut visit: impl FnMut(&[PackedRef<'_>], u64) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut reader = BlockReader::open(path, REMEDY)?;
    reader.block()?;
    let damaged = |what: &str| StoreError::damaged(path, what, REMEDY);
    let (send, blocks) = sync_channel(AHEAD);
    thread::scope(|scope| {
        let reading = scope.spawn(move || read_blocks(&mut reader, manifest.window.0, &send));
        let mut dumped = 0;
        let mut last: (u8, Vec<u8>) = (0, Vec::new());
        for (at, body) in blocks {
            let mut records: Vec<PackedRef<'_>> = Vec::with_capacity(body.len() / RECORD_ABOUT);
            for packed in blocks::records(&body) {
                let packed =
                    packed.ok_or_else(|| damaged("a record of its dump has a wrong checksum"))?;
                let before = match records.last() {
                    Some(before) => before.place(),
                    None => (last.0, &*last.1),
                };
                if dumped > 0 && packed.place() <= before {
                    return Err(damaged("its dump is not in order"));
                }
                dumped += 1;
                records.push(packed);
            }
            visit(&records, at)?;
            if let Some(packed) = records.last() {
                last = (packed.space_number(), packed.key().to_vec());
            }
        }
        let read = reading.join();
        let number = read.unwrap_or_else(|_| Err(damaged("reading it panicked")))?;
        match dumped == manifest.dumped && number == manifest.window.1 {
            true => Ok(()),
            false => Err(damaged("its dump is not complete")),
        }
    })
}

/// Reads the blocks of a dump up to where its window begins, until nobody wants them; how many blocks come before that.
fn read_blocks(
    reader: &mut BlockReader,
    end: u64,
    send: &SyncSender<(u64, Vec<u8>)>,
) -> Result<u32, StoreError> {
    while reader.at < end {
        let at = reader.at + BLOCK_HEAD as u64;
        let block = reader.block()?;
        if block.kind != *DUMP {
            return Err(reader.damaged("a block of its dump is damaged"));
        }
        if send.send((at, block.body)).is_err() {
            break;
        }
    }
    Ok(reader.blocks)
}

/// Reads all of a snapshot and adds it up.
pub(crate) fn verify(path: &Path) -> Result<(Manifest, u64), StoreError> {
    let (manifest, bytes, marks) = verify_records(path)?;
    let written = read_marks(path, &manifest).ok();
    if manifest.marks.is_some() && written.as_ref() != Some(&marks) {
        return Err(StoreError::damaged(
            path,
            "its marks, by which single records are found, are damaged; its records are not",
            "a node that starts with it takes another one by itself",
        ));
    }
    Ok((manifest, bytes))
}

/// As [`verify`], but what its marks say does not matter; what they must say.
pub(crate) fn verify_records(path: &Path) -> Result<(Manifest, u64, Marks), StoreError> {
    let manifest = read_manifest(path)?;
    let mut tally = Tally::default();
    read_window(path, &manifest, |entry, _| tally.window(entry, path))?;
    let mut marks = Marks::default();
    read_dump(path, &manifest, |records, mut at| {
        for packed in records {
            tally.dumped(*packed);
            marks.note(at, *packed);
            at += blocks::put_length(packed.bytes()) as u64;
        }
        Ok(())
    })?;
    let found = tally.total(manifest.to.sequence);
    if found != manifest.to {
        let what = format!(
            "its {} records with sum {:016x} are not the {} with sum {:016x} of the journal",
            found.count, found.sum, manifest.to.count, manifest.to.sum
        );
        return Err(StoreError::damaged(path, what, REMEDY));
    }
    let bytes = fs::metadata(path)
        .map_err(|error| StoreError::io(path, "read the size", error))?
        .len();
    Ok((manifest, bytes, marks))
}

/// What the records of a dump, and a window over them, add up to. Keys are held as keyed hashes.
#[derive(Default)]
pub(crate) struct Tally {
    hasher: RandomState,
    /// What the window leaves under its keys.
    window: HashMap<u64, Option<u64>, RandomState>,
    position: Position,
    /// Damaged records, but for those under keys of the window.
    pub(crate) damaged: u64,
}

impl Tally {
    /// How the tally remembers a key.
    pub(crate) fn hash(&self, space: u8, key: &[u8]) -> u64 {
        self.hasher.hash_one((space, key))
    }

    /// Adds an entry of the window, which names no run; before the dump.
    pub(crate) fn window(&mut self, entry: Entry<'_>, path: &Path) -> Result<(), StoreError> {
        let mut known = true;
        let sound = entry.for_each(|change| match change {
            Change::Put(packed) => self.put(packed),
            Change::Delete { space, key } => {
                self.window.insert(self.hash(space, key), None);
            }
            Change::Run(_) => known = false,
        });
        if sound && known {
            Ok(())
        } else {
            Err(StoreError::damaged(path, "an entry makes no sense", REMEDY))
        }
    }

    /// Adds a record of a run; likewise.
    pub(crate) fn put(&mut self, packed: PackedRef<'_>) {
        let hash = self.hash(packed.space_number(), packed.key());
        self.window.insert(hash, Some(packed.checksum()));
    }

    /// Adds an entry of the journal, which may name a run; the run, which `last` comes before.
    pub(crate) fn entry(
        &mut self,
        entry: Entry<'_>,
        last: Position,
        shared: &Shared,
    ) -> Result<Option<Run>, StoreError> {
        let Some(named) = entry.run() else {
            self.window(entry, &journal::directory(shared.dir()))?;
            return Ok(None);
        };
        let positions = (last, entry.after);
        let run = run::open(shared.dir(), shared.identity.epoch, named, positions)?;
        run.for_each(false, |packed| {
            self.put(packed);
            Ok(())
        })?;
        Ok(Some(run))
    }

    /// Adds a sound record of the dump.
    pub(crate) fn dumped(&mut self, packed: PackedRef<'_>) {
        let hash = self.hash(packed.space_number(), packed.key());
        self.record(hash, Some(packed.checksum()));
    }

    /// Adds a record of the dump: its checksum, or none when it is damaged.
    pub(crate) fn record(&mut self, hash: u64, checksum: Option<u64>) {
        if self.window.contains_key(&hash) {
            return;
        }
        match checksum {
            Some(checksum) => self.position.exchange(None, Some(checksum)),
            None => self.damaged += 1,
        }
    }

    /// The sum of all, after `sequence`.
    pub(crate) fn total(&self, sequence: u64) -> Position {
        let mut total = Position {
            sequence,
            ..self.position
        };
        for checksum in self.window.values() {
            total.exchange(None, *checksum);
        }
        total
    }
}

/// What to do about a damaged snapshot.
const REMEDY: &str =
    "use another snapshot; a running node takes a new one with `jiexi store snapshot`";

/// Puts a copy of a snapshot, already verified, among those of a store.
pub(crate) fn adopt(
    disk: &Disk,
    dir: &Path,
    source: &Path,
    manifest: &Manifest,
) -> Result<PathBuf, StoreError> {
    let mut reader =
        File::open(source).map_err(|error| StoreError::io(source, "open the file", error))?;
    let temporary = directory(dir).join("taking.tmp");
    disk.discard(&temporary)?;
    let file = disk.create(&temporary)?;
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        let read = reader
            .read(&mut buffer)
            .map_err(|error| StoreError::io(source, "read", error))?;
        if read == 0 {
            break;
        }
        file.write_at(&buffer[..read], at)?;
        at += read as u64;
    }
    file.sync()?;
    verify_records(&temporary)?;
    settle(disk, dir, &temporary, manifest)
}

/// Gives a verified snapshot its name among those of a store.
pub(crate) fn settle(
    disk: &Disk,
    dir: &Path,
    temporary: &Path,
    manifest: &Manifest,
) -> Result<PathBuf, StoreError> {
    let path = name(dir, manifest.to.sequence);
    disk.rename(temporary, &path)?;
    disk.sync_directory(&directory(dir))?;
    Ok(path)
}
