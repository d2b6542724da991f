//! Start-up: from files to a verified index, by the first way that works.
//!
//! ```text
//! base                              then the journal after it
//! newest snapshot, or nothing       ┐
//! sled, at its last checkpoint      ├→ into the index first, so that nothing stale comes in its place;
//! the other snapshots               ┘  then the base, where the journal left nothing
//! ```
//!
//! The journal is read twice: first to see that it is whole and what it comes to, then from its end to its beginning.
//! So what is in the index is the newest from the first record on, and hits are answered while the rest is read; also those
//! that the run or the snapshot has that is being read just then (see [`super::unread`]). sled comes first when there is
//! no mark: what it says it holds is then the only other evidence of what was acknowledged. Where it was not needed the
//! applier opens it afterwards, and takes it into use if it holds what it must.
//!
//! A store that another process has open is read beside it: without sled, which that one has, up to the mark, and nothing is
//! written. When the files are given to this process, [`catch_up`] applies what came after that, forwards. So does who gave
//! them away and takes them back.
//!
//! What comes out must have the number of records and the sum that the last journal entry says. A base that fails is
//! given up, with a line in the log that says why, and the next one is tried. When none is left the store does not open.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use super::State;
use super::blocks::Unreadable;
use super::change::Space;
use super::disk::Disk;
use super::error::StoreError;
use super::index::Miss;
use super::journal::entry::{Change, Entry, Named, Position};
use super::journal::mark::{self, Mark};
use super::journal::tail::{self, Tail};
use super::journal::{self};
use super::metrics::{Part, Stopwatch};
use super::overlay::FullKey;
use super::record::PackedRef;
use super::run::{self, Run};
use super::shared::{Holder, Shared};
use super::sled::{self, Engine, EngineError, Found};
use super::snapshot::{self, Manifest};
use super::unread::{self, Deleted, Unread};

/// Records that travel together from sled's thread to the loader.
const PAGE: usize = 512;
/// Such pages on their way.
const PAGES: usize = 16;

/// What was loaded.
pub(crate) struct Loaded {
    /// The state in the index.
    pub(crate) position: Position,
    /// The sled it came from, and what that holds at least.
    pub(crate) engine: Option<(Arc<Engine>, Position)>,
    /// Keys that the sled does not have yet.
    pub(crate) pending: BTreeMap<FullKey, u32>,
    /// Runs likewise, oldest first.
    pub(crate) runs: Vec<Run>,
    /// Whether there is damage behind us: a new snapshot must take the place of all older files.
    pub(crate) renew: bool,
    /// Whether the store was healed, as opposed to being new.
    pub(crate) healed: bool,
    /// Whether there is a sled that was not needed, and has not been looked at.
    pub(crate) attach: bool,
    /// What was read of the journal: the rest is to be cut off.
    pub(crate) tail: Tail,
}

impl Loaded {
    /// The state of an index, whose sled is to be looked at.
    pub(crate) fn at(position: Position) -> Self {
        Self {
            position,
            engine: None,
            pending: BTreeMap::new(),
            runs: Vec::new(),
            renew: false,
            healed: false,
            attach: true,
            tail: Tail::default(),
        }
    }
}

/// Where the records before the journal's come from.
enum Base {
    Sled(Arc<Engine>, Position),
    Snapshot(PathBuf, Manifest),
    Empty,
}

/// What is known before anything is read.
struct Evidence {
    mark: Option<Mark>,
    /// What sled said it held.
    sled: Option<Position>,
    /// Whether there is, or was, a sled.
    sled_seen: bool,
    /// Another process writes: what is behind the mark is not looked at.
    beside: bool,
}

impl Evidence {
    /// A position that was certainly acknowledged.
    fn acknowledged(&self) -> Position {
        let mark = self.mark.map(|mark| mark.position);
        [mark, self.sled]
            .into_iter()
            .flatten()
            .max_by_key(|at| at.sequence)
            .unwrap_or_default()
    }

    /// Up to which sequence the journal is read.
    fn until(&self) -> u64 {
        match self.beside {
            true => self.acknowledged().sequence,
            false => u64::MAX,
        }
    }
}

/// Fills the index of a store that is being opened.
pub(crate) fn load(shared: &Shared) -> Result<Loaded, StoreError> {
    let watch = Stopwatch::start();
    let beside = shared.holder() == Holder::Beside;
    let mark = match beside {
        true => mark::read_beside(shared.dir(), shared.identity.epoch),
        false => mark::read(shared.dir(), shared.identity.epoch),
    };
    if beside && mark.is_none() {
        return Err(StoreError::Unavailable(
            "the journal has no mark that can be read beside the process that writes it",
        ));
    }
    if let Some(Mark {
        clean: false,
        position,
    }) = mark
        && !beside
    {
        tracing::info!(
            event = "store.replayed",
            sequence = position.sequence,
            "the store was not closed: the journal is replayed"
        );
    }
    let listed = sled::numbers(shared.dir());
    let (_, last) =
        listed.map_err(|error| StoreError::io(shared.dir(), "list the directory", error))?;
    shared.sled_number.store(last, Relaxed);
    let mut evidence = Evidence {
        mark,
        sled: None,
        sled_seen: last > 0,
        beside,
    };
    let mut causes: Vec<StoreError> = Vec::new();
    // With the mark as evidence of what was acknowledged sled is not needed to begin with: opening it alone may take
    // longer than reading a snapshot.
    if evidence.mark.is_some() && evidence.sled_seen {
        let base = other_bases(shared, &evidence, &mut causes)?
            .into_iter()
            .next();
        match base.map(|base| attempt(shared, base, &evidence, &watch)) {
            Some(Ok(loaded)) => {
                return Ok(Loaded {
                    attach: true,
                    ..loaded
                });
            }
            Some(Err(error)) if is_last(&error) => return Err(error),
            Some(Err(error)) => give_up(error, Part::Snapshot, shared, &mut causes),
            None => {}
        }
    }
    let mut engine = None;
    if !beside {
        match open_sled(shared, &mut evidence) {
            Ok(found) => engine = found,
            Err(error) if is_last(&error) => return Err(error),
            Err(error) => give_up(error, Part::Sled, shared, &mut causes),
        }
    }
    if let Some((engine, position)) = engine {
        let base = Base::Sled(Arc::clone(&engine), position);
        match attempt(shared, base, &evidence, &watch) {
            Ok(loaded) => return Ok(loaded),
            Err(error) if is_last(&error) => return Err(error),
            Err(error) => give_up(error, Part::Sled, shared, &mut causes),
        }
        sled::close_aside(engine);
    }
    for base in other_bases(shared, &evidence, &mut causes)? {
        match attempt(shared, base, &evidence, &watch) {
            Ok(loaded) => {
                return Ok(Loaded {
                    healed: !beside && (evidence.sled_seen || !causes.is_empty()),
                    attach: beside,
                    ..loaded
                });
            }
            Err(error) if is_last(&error) => return Err(error),
            Err(error) => give_up(error, Part::Snapshot, shared, &mut causes),
        }
    }
    Err(no_way(shared, causes))
}

/// Whether no other way is to be tried after this error.
fn is_last(error: &StoreError) -> bool {
    matches!(error, StoreError::Closed) || error.is_forbidden()
}

/// Opens sled if it is there and complete.
fn open_sled(
    shared: &Shared,
    evidence: &mut Evidence,
) -> Result<Option<(Arc<Engine>, Position)>, StoreError> {
    let listed = sled::numbers(shared.dir());
    let (newest, _) =
        listed.map_err(|error| StoreError::io(shared.dir(), "list the directory", error))?;
    let Some(number) = newest else {
        return Ok(None);
    };
    let dir = sled::directory(shared.dir(), number);
    let damaged = |error: EngineError| match error.forbidden {
        true => StoreError::io(&dir, "read", io::ErrorKind::PermissionDenied.into()),
        false => StoreError::damaged(&dir, error.message, "it is made anew"),
    };
    let opened = sled::open_guarded(
        &dir,
        shared.config.sled_cache_bytes,
        shared.config.open_patience,
    );
    let engine = opened.map_err(damaged)?;
    let position = engine.position(shared.identity.epoch).map_err(damaged)?;
    let Some(position) = position else {
        tracing::info!(event = "sled.incomplete", path = %dir.display(), "sled: was never completed; it is made anew");
        sled::close_aside(Arc::new(engine));
        return Ok(None);
    };
    evidence.sled = Some(position);
    tracing::info!(event = "sled.open", path = %dir.display(), sequence = position.sequence, "sled: open");
    Ok(Some((Arc::new(engine), position)))
}

/// The snapshots, newest first, and the empty state, if the journal has everything since.
fn other_bases(
    shared: &Shared,
    evidence: &Evidence,
    causes: &mut Vec<StoreError>,
) -> Result<Vec<Base>, StoreError> {
    let mut bases = Vec::new();
    let snapshots = snapshot::list(shared.dir())?;
    for (_, path) in &snapshots {
        match snapshot::read_manifest(path) {
            Ok(manifest) if manifest.epoch <= shared.identity.epoch => {
                bases.push(Base::Snapshot(path.clone(), manifest));
            }
            Ok(_) => {
                let error = StoreError::damaged(path, "it is of another epoch", "it is not used");
                give_up(error, Part::Snapshot, shared, causes);
            }
            Err(error) if is_last(&error) => return Err(error),
            Err(error) => give_up(error, Part::Snapshot, shared, causes),
        }
    }
    let segments = journal::segments(shared.dir())?;
    let untouched = segments.is_empty() && snapshots.is_empty() && !evidence.sled_seen;
    let nothing_written = evidence
        .mark
        .is_some_and(|mark| mark.position == Position::default());
    let begins = segments.first().is_some_and(|segment| segment.first == 1);
    if shared.identity.epoch == 1
        && (begins || untouched || (segments.is_empty() && nothing_written))
    {
        bases.push(Base::Empty);
    }
    Ok(bases)
}

/// Tries one base.
fn attempt(
    shared: &Shared,
    base: Base,
    evidence: &Evidence,
    watch: &Stopwatch,
) -> Result<Loaded, StoreError> {
    shared.set_state(State::Loading);
    shared.index.set_miss(Miss::Closed);
    shared.index.clear();
    shared.metrics.loaded_records.store(0, Relaxed);
    let mut replay = Replay::new(shared, matches!(base, Base::Sled(..)));
    let begin = match &base {
        Base::Sled(_, position) => *position,
        Base::Snapshot(_, manifest) => manifest.to,
        Base::Empty => Position::default(),
    };
    let (after, mut expected) = (begin.sequence, Some(begin));
    let (tail, places) = survey(shared, begin, evidence.until())?;
    if tail.last > after || tail.position.is_some() {
        expected = tail.position;
    }
    let acknowledged = evidence.acknowledged();
    if tail.last < acknowledged.sequence {
        return Err(lost(shared, &tail, acknowledged));
    }
    let Some(expected) = expected else {
        return Err(StoreError::Unavailable(
            "the journal does not say how many records there are",
        ));
    };
    shared
        .metrics
        .expected_records
        .store(expected.count, Relaxed);
    // From here on what is added is older than what is there, and never in its place.
    shared.index.set_miss(Miss::Loading);
    replay.journal(&places)?;
    drop(places);
    match &base {
        Base::Sled(engine, _) => replay.sled(engine)?,
        Base::Snapshot(path, manifest) => {
            snapshot::read_window_back(path, manifest, |entry| replay.entry(entry, begin))?;
            replay.dump(path, manifest)?;
        }
        Base::Empty => {}
    }
    shared.set_state(State::Verifying);
    verify(
        shared,
        &base,
        &replay,
        Position {
            sequence: tail.last,
            ..expected
        },
    )?;
    let position = Position {
        sequence: tail.last,
        ..expected
    };
    let Replay {
        pending,
        mut runs,
        renew,
        ..
    } = replay;
    runs.reverse();
    report(&base, &tail, position, watch, evidence.beside);
    let engine = match base {
        Base::Sled(engine, applied) => Some((engine, applied)),
        Base::Snapshot(..) | Base::Empty => None,
    };
    // Beside a writer the end is under way.
    let renew = !evidence.beside && (is_broken(&tail) || renew);
    Ok(Loaded {
        position,
        engine,
        pending: pending.unwrap_or_default(),
        runs,
        renew,
        healed: false,
        attach: false,
        tail,
    })
}

/// Applies what another process wrote while it had the files, and looks where the journal ends now.
pub(crate) fn catch_up(shared: &Shared, known: Loaded) -> Result<Loaded, StoreError> {
    let (dir, epoch) = (shared.dir(), shared.identity.epoch);
    shared.read_role()?;
    let mut position = known.position;
    let after = position.sequence;
    let tail = tail::read_placed(dir, epoch, (after, u64::MAX), |entry, path| {
        position = forward(shared, &entry, position, path)?;
        Ok(())
    })?;
    let acknowledged = mark::read(dir, epoch).map(|mark| mark.position);
    if let Some(acknowledged) = acknowledged.filter(|mark| tail.last < mark.sequence) {
        return Err(lost(shared, &tail, acknowledged));
    }
    let listed = sled::numbers(dir);
    let (newest, last) =
        listed.map_err(|error| StoreError::io(dir, "list the directory", error))?;
    shared.sled_number.store(last, Relaxed);
    tracing::info!(
        event = "store.taken",
        from = after,
        sequence = position.sequence,
        records = position.count,
        "store: the files are this process's"
    );
    Ok(Loaded {
        attach: newest.is_some(),
        renew: known.renew || is_broken(&tail),
        tail,
        ..Loaded::at(position)
    })
}

/// Applies an entry that follows on a state; the state after it.
fn forward(
    shared: &Shared,
    entry: &Entry<'_>,
    mut position: Position,
    path: &Path,
) -> Result<Position, StoreError> {
    let mut changes = Vec::new();
    if !entry.for_each(|change| changes.push(change)) {
        return Err(senseless(shared, entry));
    }
    for change in changes {
        match change {
            Change::Put(packed) => {
                let old = shared.index.put(packed);
                position.exchange(old, Some(packed.checksum()));
            }
            Change::Delete { space, key } => {
                let old = shared.index.remove(space, key);
                position.exchange(old, None);
            }
            Change::Run(named) => {
                let (dir, epoch) = (shared.dir(), shared.identity.epoch);
                let run = run::open(dir, epoch, named, (position, entry.after))?;
                let mut stage = shared.index.stage();
                run.for_each(false, |packed| {
                    stage.add(packed);
                    Ok(())
                })?;
                let prepared = shared.index.prepare(stage);
                position.count = position.count.saturating_add_signed(prepared.count);
                position.sum ^= prepared.sum;
                prepared.publish();
            }
        }
    }
    position.sequence = entry.after.sequence;
    shared.bump_epochs([true; Space::ALL.len()]);
    match position == entry.after {
        true => Ok(position),
        false => Err(StoreError::damaged(
            path,
            format!(
                "the state after sequence {} is not the one that it says",
                position.sequence
            ),
            "start the node anew: it reads everything from the beginning",
        )),
    }
}

/// An entry of a kind that is not known.
fn senseless(shared: &Shared, entry: &Entry<'_>) -> StoreError {
    StoreError::damaged(
        &journal::directory(shared.dir()),
        format!(
            "the entry of sequence {} makes no sense to this program",
            entry.first
        ),
        "use the version that wrote it",
    )
}

/// Where an entry of the journal is, and the state before it.
struct Placed {
    segment: Arc<Path>,
    at: usize,
    before: Position,
}

/// Reads the journal after a position, to see what it comes to and where its entries are.
fn survey(shared: &Shared, begin: Position, until: u64) -> Result<(Tail, Vec<Placed>), StoreError> {
    let mut places: Vec<Placed> = Vec::new();
    let mut before = begin;
    let (dir, epoch) = (shared.dir(), shared.identity.epoch);
    let tail = tail::read_placed(dir, epoch, (begin.sequence, until), |entry, path| {
        if shared.is_stopping() {
            return Err(StoreError::Closed);
        }
        let last = places.last().map(|place| &place.segment);
        let segment = match last.filter(|last| ***last == *path) {
            Some(last) => Arc::clone(last),
            None => Arc::from(path),
        };
        let at = entry.at;
        places.push(Placed {
            segment,
            at,
            before,
        });
        before = entry.after;
        Ok(())
    })?;
    Ok((tail, places))
}

/// Whether the journal has damage that loading could do without, so that older snapshots could not.
fn is_broken(tail: &Tail) -> bool {
    let holes = tail.damage.len() - usize::from(tail.torn).min(tail.damage.len());
    for damage in tail.damage.iter().take(holes) {
        tracing::error!(
            event = "journal.damaged",
            damage,
            "journal: damaged where it is not needed; a new snapshot takes its place"
        );
    }
    let short = tail.end.is_some() && tail.reached < tail.last;
    if short {
        tracing::error!(
            event = "journal.end_missing",
            reaches = tail.reached,
            state = tail.last,
            "journal: its end is missing or damaged, and sled has what was in it; a new snapshot takes its place"
        );
    }
    holes > 0 || short
}

fn report(base: &Base, tail: &Tail, position: Position, watch: &Stopwatch, beside: bool) {
    let base = match base {
        Base::Sled(_, applied) => format!("sled at sequence {}", applied.sequence),
        Base::Snapshot(path, _) => format!("snapshot {}", path.display()),
        Base::Empty => "the beginning of the journal".to_owned(),
    };
    if let (true, Some((path, end))) = (tail.torn && !beside, &tail.end) {
        tracing::warn!(event = "journal.cut", path = %path.display(), byte = end, "journal: an unfinished entry at its end is cut off");
    }
    let seconds = watch.elapsed().as_secs_f64();
    tracing::info!(
        event = "store.loaded",
        from = base,
        sequence = position.sequence,
        records = position.count,
        seconds,
        "store loaded and verified"
    );
}

/// Compares what is in the index with what the journal says.
fn verify(
    shared: &Shared,
    base: &Base,
    replay: &Replay<'_>,
    expected: Position,
) -> Result<(), StoreError> {
    let found = Position {
        sequence: expected.sequence,
        ..replay.position
    };
    if found == expected {
        return Ok(());
    }
    let path = match base {
        Base::Sled(engine, _) => engine.directory().to_path_buf(),
        Base::Snapshot(path, _) => path.clone(),
        Base::Empty => journal::directory(shared.dir()),
    };
    let what = format!(
        "with the journal it gives {} records with sum {:016x}, and there must be {} with sum {:016x}",
        found.count, found.sum, expected.count, expected.sum
    );
    Err(StoreError::damaged(&path, what, "another base is tried"))
}

/// The end of the journal is missing, although it was acknowledged.
fn lost(shared: &Shared, tail: &Tail, acknowledged: Position) -> StoreError {
    let journal = journal::directory(shared.dir());
    let path = tail.end.as_ref().map_or(journal, |(path, _)| path.clone());
    StoreError::damaged(
        &path,
        format!(
            "the journal ends at sequence {}, but sequence {} was acknowledged: its end is damaged or missing",
            tail.last, acknowledged.sequence
        ),
        format!(
            "put the file back from a backup; or restore the newest snapshot with `jiexi store restore`; or, to go on \
             without the last {} changes, remove {}",
            acknowledged.sequence - tail.last,
            mark::path(shared.dir()).display()
        ),
    )
}

/// Notes why a base does not do. Without the journal that is no fault of sled, but sled is made anew all the same.
fn give_up(error: StoreError, part: Part, shared: &Shared, causes: &mut Vec<StoreError>) {
    shared.metrics.count_error(part);
    tracing::error!(event = "store.load_failed", %error, "loading: this way fails, the next one is tried");
    causes.push(error);
}

/// The error when nothing is left.
fn no_way(shared: &Shared, causes: Vec<StoreError>) -> StoreError {
    let mut causes = causes.into_iter();
    match (causes.next(), causes.next()) {
        (Some(only), None) => only,
        (Some(first), Some(second)) => {
            let all: Vec<String> = [first, second]
                .into_iter()
                .chain(causes)
                .map(|cause| cause.to_string())
                .collect();
            StoreError::damaged(
                shared.dir(),
                format!("no way to load the store is left: {}", all.join(" | ")),
                "put the damaged files back from a backup, or restore a snapshot with `jiexi store restore`",
            )
        }
        (None, _) => StoreError::damaged(
            shared.dir(),
            "there is no journal from the beginning, no snapshot, and no sled",
            "put the missing files back from a backup, or restore a snapshot with `jiexi store restore`",
        ),
    }
}

/// The index being filled, from the newest to the oldest.
struct Replay<'a> {
    shared: &'a Shared,
    /// What the index adds up to.
    position: Position,
    /// Keys that the journal leaves without a record: the base may still have one.
    deleted: Arc<Deleted>,
    /// Keys that the journal touches, with the sizes of their records, if they are wanted.
    pending: Option<BTreeMap<FullKey, u32>>,
    /// Runs that the journal names, newest first.
    runs: Vec<Run>,
    /// Since when it is filled.
    watch: Stopwatch,
    /// Whether something is damaged that loading could do without.
    renew: bool,
}

impl<'a> Replay<'a> {
    fn new(shared: &'a Shared, collect: bool) -> Self {
        let pending = collect.then(BTreeMap::new);
        Self {
            shared,
            position: Position::default(),
            deleted: Arc::default(),
            pending,
            runs: Vec::new(),
            watch: Stopwatch::start(),
            renew: false,
        }
    }

    /// Applies what the journal has, its last entry first.
    fn journal(&mut self, places: &[Placed]) -> Result<(), StoreError> {
        for segment in places.chunk_by(|a, b| a.segment == b.segment).rev() {
            let Some(Placed { segment: path, .. }) = segment.first() else {
                continue;
            };
            let bytes = fs::read(path).map_err(|error| StoreError::io(path, "read", error))?;
            for place in segment.iter().rev() {
                let found = bytes.get(place.at..);
                let entry = found.and_then(|found| Entry::read(found, self.shared.identity.epoch));
                let entry = entry.ok_or_else(|| {
                    let what = format!("the entry at byte {} changed while it was read", place.at);
                    StoreError::damaged(path, what, "check the disk, and start again")
                })?;
                self.entry(entry, place.before)?;
            }
        }
        Ok(())
    }

    /// Applies an entry of the journal, which comes after `before`: its last change first.
    fn entry(&mut self, entry: Entry<'_>, before: Position) -> Result<(), StoreError> {
        if self.shared.is_stopping() {
            return Err(StoreError::Closed);
        }
        let mut changes = Vec::new();
        if !entry.for_each(|change| changes.push(change)) {
            return Err(senseless(self.shared, &entry));
        }
        for change in changes.into_iter().rev() {
            if let Some(pending) = &mut self.pending
                && let Some((key, bytes)) = change.place()
            {
                pending.insert(key.into(), bytes as u32);
            }
            match change {
                Change::Put(packed) => self.add(packed),
                Change::Delete { space, key } => {
                    if self.shared.index.with(space, key, |_| ()).is_none() {
                        Arc::make_mut(&mut self.deleted).insert([&[space], key].concat());
                    }
                }
                Change::Run(named) => self.run(named, (before, entry.after))?,
            }
        }
        Ok(())
    }

    /// Adds the records of a run.
    fn run(&mut self, named: Named, positions: (Position, Position)) -> Result<(), StoreError> {
        let (dir, epoch) = (self.shared.dir(), self.shared.identity.epoch);
        let unchecked = run::open_unchecked(dir, epoch, named, positions)?;
        let mut checked = None;
        self.beside_fetching(unchecked.finder()?, |replay| {
            checked = Some(unchecked.check(|records| replay.fill(records))?);
            Ok(())
        })?;
        self.runs.extend(checked);
        Ok(())
    }

    /// Adds a record, unless what is newer says otherwise.
    fn add(&mut self, packed: PackedRef<'_>) {
        if self.is_deleted(packed) {
            return;
        }
        let checksum = packed.checksum();
        if self.shared.index.put_if_absent(packed) {
            self.position.exchange(None, Some(checksum));
        }
    }

    /// Adds records of a dump or a run, none of which has the key of another one.
    fn fill(&mut self, records: &[PackedRef<'_>]) -> Result<(), StoreError> {
        let kept: Vec<PackedRef<'_>>;
        let records = match self.deleted.is_empty() {
            true => records,
            false => {
                let all = records.iter().copied();
                kept = all.filter(|packed| !self.is_deleted(*packed)).collect();
                &kept
            }
        };
        let position = &mut self.position;
        self.shared.index.fill(records, |packed| {
            position.exchange(None, Some(packed.checksum()));
        });
        self.count(records.len() as u64)
    }

    /// Whether there is nothing under its key since.
    fn is_deleted(&self, packed: PackedRef<'_>) -> bool {
        let key = || [&[packed.space_number()], packed.key()].concat();
        !self.deleted.is_empty() && self.deleted.contains(&key())
    }

    /// Adds a record of sled.
    fn base(&mut self, packed: PackedRef<'_>) -> Result<(), StoreError> {
        self.add(packed);
        self.count(1)
    }

    /// Adds the records of a snapshot's dump, behind all that is newer. Those that are asked for meanwhile come first.
    fn dump(&mut self, path: &Path, manifest: &Manifest) -> Result<(), StoreError> {
        let finder = snapshot::finder(path, manifest).unwrap_or_else(|error| {
            tracing::error!(event = "snapshot.marks_damaged", %error, "loading: records are only answered when they are read; a new snapshot \
                 takes the place of this one");
            self.renew = true;
            Box::new(|_, _, _| Err(Unreadable))
        });
        self.beside_fetching(finder, |replay| {
            snapshot::read_dump(path, manifest, |records, _| replay.fill(records))
        })
    }

    /// Reads a file, while what is asked for is fetched from it.
    fn beside_fetching(
        &mut self,
        finder: Box<unread::Read>,
        read: impl FnOnce(&mut Self) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let unread = Arc::new(Unread::new(finder, Arc::clone(&self.deleted)));
        let fetching = Arc::clone(&unread);
        self.shared
            .index
            .set_fetch(Some(Arc::new(move |index, space, keys| {
                fetching.fetch(index, space, keys);
            })));
        let shared = self.shared;
        let (read, fetched) = thread::scope(|scope| {
            let _ending = unread.ending();
            let patient = thread::Builder::new().name("store-fetcher".to_owned());
            let patient = patient.spawn_scoped(scope, || unread.go_after(&shared.index));
            if let Err(error) = &patient {
                tracing::warn!(event = "store.no_thread", %error, "loading: what takes long to find is only answered when it is read");
            }
            shared.stall(Disk::stalls_loader);
            let read = read(self);
            shared.index.set_fetch(None);
            let fetched = unread.close();
            // A panic there is no reason to give the file up.
            drop(patient.map(thread::ScopedJoinHandle::join));
            (read, fetched)
        });
        self.position.count += fetched.count;
        self.position.sum ^= fetched.sum;
        read
    }

    /// Notes that there are so many records more, and lets people know now and then.
    fn count(&self, more: u64) -> Result<(), StoreError> {
        let before = self.shared.metrics.loaded_records.fetch_add(more, Relaxed);
        let loaded = before + more;
        let passed = |every: u64| before / every < loaded / every;
        if passed(4096) && self.shared.is_stopping() {
            return Err(StoreError::Closed);
        }
        if passed(1_000_000) {
            let expected = self.shared.metrics.expected_records.load(Relaxed);
            let left = expected.saturating_sub(loaded) as f64 / loaded as f64;
            let seconds_left = (self.watch.elapsed().as_secs_f64() * left).ceil();
            tracing::info!(
                event = "store.loading",
                records = loaded,
                of = expected,
                seconds_left,
                "loading"
            );
        }
        Ok(())
    }

    /// Whether the journal says what is under a key.
    fn knows(&self, space: u8, key: &[u8]) -> bool {
        self.deleted.contains(&[&[space], key].concat())
            || self.shared.index.with(space, key, |_| ()).is_some()
    }

    /// Adds all records of sled.
    fn sled(&mut self, engine: &Arc<Engine>) -> Result<(), StoreError> {
        let damaged =
            |what: String| StoreError::damaged(engine.directory(), what, "it is made anew");
        let pages = read_aside(Arc::clone(engine)).map_err(|error| damaged(error.message))?;
        loop {
            let page = pages.recv_timeout(self.shared.config.open_patience);
            let page =
                page.map_err(|_| damaged("sled panicked or hung while it was read".to_owned()))?;
            let Some(page) = page.map_err(|error| damaged(error.message))? else {
                return Ok(());
            };
            for found in page {
                match found {
                    Found::Record(packed) => self.base(packed.view())?,
                    Found::Damaged { space, key } if self.knows(space, &key) => {}
                    Found::Damaged { key, .. } => {
                        let key = String::from_utf8_lossy(&key).into_owned();
                        return Err(damaged(format!("the record of {key} has a wrong checksum")));
                    }
                }
            }
        }
    }
}

/// A page of records; none at the end.
type Page = Result<Option<Vec<Found>>, EngineError>;

/// Reads sled in a thread of its own, which may panic or hang, and which checks the checksums.
fn read_aside(engine: Arc<Engine>) -> Result<Receiver<Page>, EngineError> {
    let (send, receive) = sync_channel(PAGES);
    let reading = move || {
        let read = catch_unwind(AssertUnwindSafe(|| {
            let mut page = Vec::with_capacity(PAGE);
            let read = engine.for_each(|found| {
                page.push(found);
                page.len() < PAGE || send.send(Ok(Some(std::mem::take(&mut page)))).is_ok()
            });
            drop(engine);
            read.map(|()| page)
        }));
        // Nobody listens any more when the loader has given up.
        drop(match read {
            Ok(Ok(rest)) => send.send(Ok(Some(rest))).and_then(|()| send.send(Ok(None))),
            Ok(Err(error)) => send.send(Err(error)),
            Err(_) => send.send(Err(EngineError::other("sled panicked while it was read"))),
        });
    };
    thread::Builder::new()
        .name("store-sled-read".into())
        .spawn(reading)?;
    Ok(receive)
}
