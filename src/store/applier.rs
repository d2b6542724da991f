//! The thread that feeds sled, behind everything else. Nothing that is acknowledged depends on it: when it fails or
//! hangs, the keeper gives up its sled and starts another one, which makes a new sled out of the index.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use super::State;
use super::disk::{parent, sync_tree};
use super::index::Reader;
use super::journal;
use super::journal::entry::Position;
use super::metrics::Stopwatch;
use super::overlay::{FullKey, Work};
use super::record::PackedRef;
use super::run::Run;
use super::shared::Shared;
use super::sled::{self, Engine, EngineError, Found};
use super::snapshot::Tally;

/// Keys applied between two signs of life.
const BATCH: usize = 64;
/// Keys of a run that are applied at once, before the rest has its turn.
const SLICE: usize = 8_192;
/// Keys that are put in order at once when sled is made anew; each such page is one reading of the index.
const PAGE: usize = 500_000;
/// Records read between two signs of life.
const BEAT_EVERY: u64 = 1_024;
/// For tests: how often a stalled applier looks whether it still is.
const STALL_PAUSE: Duration = Duration::from_millis(5);

/// What an applier begins with.
pub(crate) enum Begin {
    /// The sled that the index was loaded from.
    Loaded(Arc<Engine>),
    /// The sled that is there, if it holds what it must.
    Found,
    /// A new one, made of the index.
    Anew,
}

/// Applies what is acknowledged until the store stops or another applier takes the place of this one.
pub(crate) fn run(shared: &Shared, lane: u64, begin: Begin) -> Result<(), EngineError> {
    let engine = match begin {
        Begin::Loaded(engine) => Some(engine),
        Begin::Found => attach(shared, lane)?,
        Begin::Anew => rebuild(shared, lane)?,
    };
    engine.map_or(Ok(()), |engine| feed(shared, lane, &engine))
}

/// Takes the sled that is there into use, when it holds what it must. None when this applier is given up, or the store
/// stops.
fn attach(shared: &Shared, lane: u64) -> Result<Option<Arc<Engine>>, EngineError> {
    let (Some(number), _) = sled::numbers(shared.dir())? else {
        shared.set_state(State::Degraded);
        return rebuild(shared, lane);
    };
    let Some(at) = shared.overlay.collect(lane) else {
        return Ok(None);
    };
    let watch = Stopwatch::start();
    let dir = sled::directory(shared.dir(), number);
    let (cache, patience) = (shared.config.sled_cache_bytes, shared.config.open_patience);
    // Opening has a patience of its own.
    shared.opening.store(true, Ordering::Relaxed);
    let opened = sled::open_guarded(&dir, cache, patience);
    shared.opening.store(false, Ordering::Relaxed);
    let engine = Arc::new(opened?);
    let checked = check(shared, lane, &engine, at);
    let (attached, seconds) = match checked {
        Ok(Some((applied, keys, runs))) => {
            let attached =
                shared
                    .overlay
                    .attach_behind(lane, Arc::clone(&engine), applied, keys, runs);
            (
                Ok(attached.then_some(applied)),
                watch.elapsed().as_secs_f64(),
            )
        }
        unfinished => (unfinished.map(|_| None), 0.0),
    };
    if let Ok(Some(applied)) = attached {
        let sequence = applied.sequence;
        shared.synced_sequence.store(sequence, Ordering::Relaxed);
        tracing::info!(event = "sled.ready", path = %dir.display(), sequence, seconds, "sled: verified and in use");
        return Ok(Some(engine));
    }
    // The next opening of the store must not meet it.
    let _ = sled::close_aside(engine).recv_timeout(shared.config.applier_patience);
    attached.map(|_| None)
}

/// Position, and the keys and runs that a sled lacks.
type Behind = (Position, BTreeMap<FullKey, u32>, Vec<Run>);

/// Adds up a sled that nobody writes to, with the journal after what it holds at least, which must give the state at
/// `at`. The position of the sled, and the keys that it may lack.
fn check(
    shared: &Shared,
    lane: u64,
    engine: &Engine,
    at: Position,
) -> Result<Option<Behind>, EngineError> {
    let Some(applied) = engine.position(shared.identity.epoch)? else {
        return Err(EngineError::other("sled was never completed"));
    };
    if applied.sequence > at.sequence {
        let (holds, ends) = (applied.sequence, at.sequence);
        let reason = format!(
            "sled holds sequence {holds}, but the journal ends at {ends}: its end was lost"
        );
        shared.set_read_only(reason.clone().into());
        return Err(EngineError::other(reason));
    }
    let mut tally = Tally::default();
    let mut keys = BTreeMap::new();
    let (mut runs, mut last) = (Vec::new(), applied);
    let read = journal::tail::read(
        shared.dir(),
        shared.identity.epoch,
        (applied.sequence, at.sequence),
        |entry| {
            shared.beat();
            runs.extend(tally.entry(entry, last, shared)?);
            let _sound = entry.for_each(|change| {
                if let Some((key, bytes)) = change.place() {
                    keys.insert(FullKey::from(key), bytes as u32);
                }
            });
            last = entry.after;
            Ok(())
        },
    );
    read.map_err(|error| EngineError::other(error.to_string()))?;
    let mut seen = 0_u64;
    engine.for_each(|found| {
        let (hash, checksum) = match found {
            Found::Record(packed) => (
                tally.hash(packed.space_number(), packed.key()),
                Some(packed.checksum()),
            ),
            Found::Damaged { space, key } => (tally.hash(space, &key), None),
        };
        tally.record(hash, checksum);
        seen += 1;
        if seen.is_multiple_of(BEAT_EVERY) {
            shared.beat();
        }
        !seen.is_multiple_of(BEAT_EVERY) || !shared.is_stopping() && shared.overlay.is_current(lane)
    })?;
    if shared.is_stopping() || !shared.overlay.is_current(lane) {
        return Ok(None);
    }
    if tally.damaged > 0 || tally.total(at.sequence) != at {
        return Err(EngineError::other(
            "its records are not those of the journal",
        ));
    }
    Ok(Some((applied, keys, runs)))
}

fn feed(shared: &Shared, lane: u64, engine: &Engine) -> Result<(), EngineError> {
    let mut copier = Copier::new(shared, engine);
    let mut unsynced = 0;
    let mut reached = None;
    let mut since = Stopwatch::start();
    // The last key of a run that is applied already, and whether it is the run's turn.
    let (mut after, mut turn) = (Vec::new(), true);
    loop {
        shared.beat();
        stall(shared);
        match shared
            .overlay
            .take(lane, shared.config.checkpoint_interval, turn)
        {
            Work::Apply(keys, position) => {
                if !apply(shared, lane, &mut copier, &keys)? {
                    return Ok(());
                }
                shared.overlay.finish(lane, position);
                unsynced += keys.len() as u64;
                reached = Some(shared.overlay.applied());
                turn = true;
            }
            Work::Run(run) => {
                let Some(applied) = slice(shared, lane, &mut copier, &run, &mut after)? else {
                    return Ok(());
                };
                unsynced += applied;
                reached = Some(shared.overlay.applied());
                turn = false;
            }
            Work::Idle => {}
            Work::Stale => return Ok(()),
            Work::Stop => {
                checkpoint(shared, lane, engine, reached)?;
                return engine.sync();
            }
        }
        let due = unsynced >= shared.config.checkpoint_changes
            || since.elapsed() >= shared.config.checkpoint_interval;
        if due {
            checkpoint(shared, lane, engine, reached.take())?;
            unsynced = 0;
            since = Stopwatch::start();
        }
    }
}

/// Brings sled's records under these keys to what the index has; false when this applier was given up meanwhile.
fn apply(
    shared: &Shared,
    lane: u64,
    copier: &mut Copier<'_>,
    keys: &[FullKey],
) -> Result<bool, EngineError> {
    for batch in keys.chunks(BATCH) {
        for key in batch {
            copier.apply(key)?;
        }
        stall(shared);
        if !shared.overlay.drained(lane, batch.len()) {
            return Ok(false);
        }
        shared.beat();
    }
    Ok(true)
}

/// Applies the next keys of a run; how many, or none when this applier was given up meanwhile.
fn slice(
    shared: &Shared,
    lane: u64,
    copier: &mut Copier<'_>,
    run: &Arc<Run>,
    after: &mut Vec<u8>,
) -> Result<Option<u64>, EngineError> {
    let keys = run.keys(Bound::Excluded(after), &[], SLICE);
    let keys = keys.map_err(|error| EngineError::other(error.to_string()))?;
    for batch in keys.chunks(BATCH) {
        for key in batch {
            copier.apply(key)?;
        }
        stall(shared);
        if shared.is_stopping() || !shared.overlay.drained_run(lane, batch.len()) {
            break;
        }
        shared.beat();
    }
    if !shared.overlay.is_current(lane) {
        return Ok(None);
    }
    match keys.last() {
        _ if shared.is_stopping() => {}
        Some(last) if keys.len() == SLICE => *after = last.to_vec(),
        _ => {
            after.clear();
            shared.overlay.finish_run(lane, run);
            let sequence = run.after.sequence;
            tracing::info!(
                event = "sled.import_applied",
                sequence,
                records = run.named.records,
                "sled: has all of a bulk import"
            );
        }
    }
    Ok(Some(keys.len() as u64))
}

/// Brings records from the index to sled.
struct Copier<'a> {
    reader: Reader,
    engine: &'a Engine,
    /// The record being applied. sled may hang with it, and a session must not.
    packed: Vec<u8>,
}

impl<'a> Copier<'a> {
    fn new(shared: &Shared, engine: &'a Engine) -> Self {
        Self {
            reader: Reader::new(Arc::clone(&shared.index)),
            engine,
            packed: Vec::new(),
        }
    }

    /// Brings sled's record under a key to what the index has.
    fn apply(&mut self, full_key: &[u8]) -> Result<(), EngineError> {
        let Some((space, key)) = full_key.split_first() else {
            return Ok(());
        };
        self.packed.clear();
        let (reader, packed) = (&self.reader, &mut self.packed);
        let found = reader.with(*space, key, |found| packed.extend_from_slice(found.bytes()));
        match found {
            Some(()) => self.engine.put(PackedRef::of_index(packed)),
            None => self.engine.remove(*space, key),
        }
    }
}

/// Syncs sled; it then holds at least `reached`.
fn checkpoint(
    shared: &Shared,
    lane: u64,
    engine: &Engine,
    reached: Option<Position>,
) -> Result<(), EngineError> {
    let Some(position) = reached else {
        return Ok(());
    };
    shared.syncing.store(true, Ordering::Relaxed);
    let done = engine.checkpoint(shared.identity.epoch, position);
    shared.syncing.store(false, Ordering::Relaxed);
    done?;
    if shared.overlay.is_current(lane) {
        shared
            .synced_sequence
            .store(position.sequence, Ordering::Relaxed);
        shared.beat();
    }
    Ok(())
}

/// Makes a new sled out of the index, while reads and writes go on. None when this applier is given up.
fn rebuild(shared: &Shared, lane: u64) -> Result<Option<Arc<Engine>>, EngineError> {
    let number = shared.sled_number.fetch_add(1, Ordering::Relaxed) + 1;
    let dir = sled::directory(shared.dir(), number);
    let records = shared.index.len();
    tracing::info!(event = "sled.rebuilding", path = %dir.display(), records, "sled: making the files anew from the index");
    let watch = Stopwatch::start();
    let (cache, patience) = (shared.config.sled_cache_bytes, shared.config.open_patience);
    let engine = Arc::new(sled::open_guarded(&dir, cache, patience)?);
    let filled = fill(shared, lane, &engine);
    let applied = match filled {
        Ok(Some(applied)) if shared.overlay.attach(lane, Arc::clone(&engine), applied) => applied,
        unfinished => {
            // After an error it may hang when it is closed.
            sled::close_aside(engine);
            return unfinished.map(|_| None);
        }
    };
    let seconds = watch.elapsed().as_secs_f64();
    tracing::info!(event = "sled.rebuilt", path = %dir.display(), sequence = applied.sequence, seconds, "sled: complete and in use");
    shared.set_state(State::Ready);
    Ok(Some(engine))
}

/// Copies the index, in order, and syncs the copy; what it holds at least, or none when this applier is given up.
fn fill(shared: &Shared, lane: u64, engine: &Engine) -> Result<Option<Position>, EngineError> {
    let Some(applied) = shared.overlay.collect(lane) else {
        return Ok(None);
    };
    let mut copier = Copier::new(shared, engine);
    let mut after: Vec<u8> = Vec::new();
    loop {
        // Reading the whole index takes a while, and is no reason to give this applier up.
        shared.syncing.store(true, Ordering::Relaxed);
        let page = shared.index.page(Bound::Excluded(&after), &[], PAGE);
        shared.syncing.store(false, Ordering::Relaxed);
        for batch in page.chunks(BATCH) {
            for key in batch {
                copier.apply(key)?;
            }
            stall(shared);
            if !shared.overlay.is_current(lane) {
                return Ok(None);
            }
            shared.beat();
        }
        let Some(last) = page.last().filter(|_| page.len() == PAGE) else {
            break;
        };
        after.clone_from(last);
        if shared.is_stopping() {
            return Ok(None);
        }
        // Of all at the end a slow disk makes more than a sync may take.
        shared.syncing.store(true, Ordering::Relaxed);
        let synced = engine.sync();
        shared.syncing.store(false, Ordering::Relaxed);
        synced?;
        shared.beat();
    }
    checkpoint(shared, lane, engine, Some(applied))?;
    engine.sync()?;
    sync_tree(engine.directory())?;
    sync_tree_entry(shared)?;
    Ok(Some(applied))
}

/// Makes the names of sled's directories durable.
fn sync_tree_entry(shared: &Shared) -> Result<(), EngineError> {
    Ok(std::fs::File::open(parent(&shared.dir().join("sled")))?.sync_all()?)
}

/// For tests: stands still as long as it is told to.
fn stall(shared: &Shared) {
    while shared.disk.stalls_applier() && !shared.is_stopping() {
        thread::sleep(STALL_PAUSE);
    }
}
