//! The truth on disk and its image in memory.
//!
//! ```text
//! submit ─→ queue ─→ writer ─→ journal (append, sync) ─→ index ─→ "done"
//!                                                          │  └──→ sessions: find, get
//!                                                          └─→ overlay ─→ applier ─→ sled ─→ scans, snapshots
//! ```
//!
//! Only the journal is in the way of an acknowledgement; sled follows behind and can be thrown away at any time. The index
//! holds every record and answers every look-up. What belongs where, in reading order:
//!
//! * [`change`]: batches, expectations, outcomes. [`Config`], [`StoreError`], [`Stats`].
//! * `record`: the format of a record. `index`: readers and their sessions.
//! * `queue`, `writer`: the way of a change. `journal`: its format, its end, its tail.
//! * `bulk`, `run`: many records as one change, and the file that they are in.
//! * `overlay`, `applier`, `sled`, `scan`: the state behind, and ordered reading.
//! * `blocks`, `snapshot`: dumps; [`archive`]: those of backups. `loader`, `unread`, `marks`: start-up and healing. `keeper`: everything that goes on by itself. `verify`.
//! * `shared`: also who has the files, when they pass from one process to another.
//! * `replica`, `source`: a store that is the copy of another one, and what that one gives it.
//! * `since`, `follow`: what has changed, as a list and one after the other. `times`: the wall clock beside the journal.
//!   `identity`, `role`, `disk`, `metrics`: what the others stand on.
//!
//! The store reads no clock but a stopwatch, knows no protocol and no permissions, folds no keys, and parses no values.

mod applier;
pub mod archive;
mod blocks;
mod bulk;
pub mod change;
mod config;
mod disk;
mod error;
mod follow;
mod identity;
mod index;
mod journal;
mod keeper;
mod loader;
mod marks;
pub mod metrics;
mod overlay;
mod queue;
mod record;
mod replica;
mod role;
mod run;
mod scan;
mod shared;
mod since;
mod sled;
mod snapshot;
mod source;
mod times;
mod unread;
mod verify;
mod writer;

use std::fmt;
use std::fs;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use jiexi_proto::handle::CaseRule;

pub use bulk::{Bulk, Encoder, Slab};
pub use change::{Action, Batch, Change, CommitError, Committed, Draft, DraftValue, Expect, Space};
pub use config::Config;
pub(crate) use disk::free_space;
#[doc(hidden)]
pub use disk::{Event, Faults};
pub use error::StoreError;
pub use follow::{Followed, Mark, Visit};
pub use identity::next_epoch;
pub use index::{Lookup, Reader, Session};
pub use journal::entry::Position;
pub use metrics::StoreMetrics;
pub use record::{Entries, Entry, OwnedRecord, Record};
pub(crate) use record::{record_length, stored_handle};
pub use replica::{ReplicaError, RunWanted};
pub use role::Role;
pub use since::Changed;
pub use source::{Cursor, Reach};

use disk::{Disk, parent};
use identity::Identity;
use index::Miss;
use metrics::Stopwatch;
use queue::{Done, Encoded, Job};
use shared::{Holder, Shared};

/// How long a snapshot that somebody asks for waits for sled to be made anew: as long as commands wait for a store to load.
pub const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(600);

/// What the store is able to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Reading its files. Hits are answered; misses and writes wait.
    Loading,
    /// Everything is read; counts and sums are being compared.
    Verifying,
    /// All is well.
    Ready,
    /// Reads and writes go on from journal and index while the state on disk is being made anew.
    Degraded,
    /// No writes; the reason is for people. When loading failed, misses are answered as damaged.
    ReadOnly(Arc<str>),
}

impl State {
    /// The state in one word.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Verifying => "verifying",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::ReadOnly(_) => "read_only",
        }
    }
}

/// Sizes and positions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Which history of the data it is: see [`Store::data_epoch`].
    pub epoch: u64,
    /// Records of all spaces.
    pub records: u64,
    /// Exclusive-or of the checksums of all records, as of `sequence` or a little later.
    pub sum: u64,
    /// Bytes of keys and records in the index.
    pub index_bytes: u64,
    /// Bytes in the index that belong to no record.
    pub index_dead_bytes: u64,
    /// How much of the index is loaded, 0.0 to 1.0.
    pub loaded_ratio: f64,
    /// Sequence of the newest acknowledged batch.
    pub sequence: u64,
    /// Bytes of all journal segments.
    pub journal_bytes: u64,
    /// Sequence up to which sled was synced.
    pub applied_sequence: u64,
    /// Changes acknowledged and not yet in sled.
    pub lag_changes: u64,
    /// Bytes of sled's file.
    pub store_bytes: u64,
    /// Snapshots, oldest first.
    pub snapshots: Vec<SnapshotInfo>,
    /// Bytes free on the disk of the store.
    pub free_bytes: u64,
    /// With fewer bytes free, writes are refused.
    pub reserve_bytes: u64,
}

/// One snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// The file.
    pub path: PathBuf,
    /// The sequence whose state a restore gives.
    pub sequence: u64,
    /// Records in that state.
    pub records: u64,
    /// Exclusive-or of their checksums.
    pub sum: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Unix seconds when it was taken.
    pub created: u64,
}

/// What [`Store::verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The sequence that was verified.
    pub sequence: u64,
    /// Records in the index.
    pub index_records: u64,
    /// Records of the index whose checksum is wrong.
    pub index_damaged: u64,
    /// Records in sled.
    pub sled_records: u64,
    /// Records of sled whose checksum is wrong.
    pub sled_damaged: u64,
    /// Whether count and sum of sled's records are those of the journal.
    pub sled_agrees: bool,
    /// Journal entries read.
    pub journal_entries: u64,
    /// Snapshots that are whole.
    pub snapshots: Vec<SnapshotInfo>,
    /// What is wrong, one line each, for people.
    pub problems: Vec<String>,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.problems.is_empty()
    }
}

/// A store. Share it by `Arc`. Dropping it closes it.
pub struct Store {
    shared: Arc<Shared>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("dir", &self.shared.dir())
            .field("state", &self.state())
            .finish()
    }
}

/// Opening, and what is done with a stopped store.
impl Store {
    /// Creates an empty store: everything synced, then marked as initialised.
    ///
    /// # Errors
    /// When the directory is not empty or cannot be written.
    pub fn create(config: &Config) -> Result<(), StoreError> {
        let (disk, _lock) = create_tree(config)?;
        Identity {
            case: config.case,
            epoch: 1,
            role: Role::Primary,
        }
        .write(&disk, &config.dir)
    }

    /// The rule by which the store in a directory was created; another one is refused by [`Self::open`]. Nothing is
    /// opened, so that a running node is not disturbed.
    ///
    /// # Errors
    /// It is no store, or the file that says what it is cannot be read.
    pub fn case_in(dir: &Path) -> Result<CaseRule, StoreError> {
        Identity::read(dir).map(|identity| identity.case)
    }

    /// Opens a store and returns at once; loading goes on in the background (see [`Self::wait_loaded`]).
    ///
    /// # Errors
    /// When another process has it (after 5 s), it is no store, or the case rule differs.
    pub fn open(config: Config) -> Result<Self, StoreError> {
        let lock = shared::lock(&config.dir)?;
        Self::begin(config, Some(lock))
    }

    /// Reads a store that another process has open, in the background, without changing anything (see
    /// [`Self::wait_filled`]). It is loaded when that process gives it to this one: [`Self::take_over`].
    ///
    /// # Errors
    /// It is no store, or the case rule differs.
    pub fn open_beside(config: Config) -> Result<Self, StoreError> {
        Self::begin(config, None)
    }

    fn begin(config: Config, lock: Option<fs::File>) -> Result<Self, StoreError> {
        let identity = Identity::read(&config.dir)?;
        if identity.case != config.case {
            return Err(StoreError::CaseMismatch {
                path: identity::path(&config.dir),
                stored: identity.case,
                asked: config.case,
            });
        }
        let shared = Arc::new(Shared::new(config, identity, lock));
        let keeping = Arc::clone(&shared);
        let keeper = std::thread::Builder::new().name("store-keeper".to_owned());
        let keeper = keeper.spawn(move || keeper::run(keeping));
        let keeper =
            keeper.map_err(|error| StoreError::io(shared.dir(), "start a thread", error))?;
        Ok(Self {
            shared,
            keeper: Mutex::new(Some(keeper)),
        })
    }

    /// Makes sled's files of a stopped store anew, from the newest snapshot and the journal.
    ///
    /// # Errors
    /// As [`Self::open`] and [`Self::wait_loaded`].
    pub fn rebuild_stopped(config: &Config) -> Result<(), StoreError> {
        let lock = shared::lock(&config.dir)?;
        Identity::read(&config.dir)?;
        let failed = |error| StoreError::io(&config.dir, "put sled aside", error);
        if let (Some(number), _) = sled::numbers(&config.dir).map_err(failed)? {
            sled::quarantine(&sled::directory(&config.dir, number), true).map_err(failed)?;
        }
        drop(lock);
        let store = Self::open(config.clone())?;
        store.wait_loaded(Duration::MAX)?;
        store.wait_rebuilt()?;
        store.shutdown()
    }

    /// Makes a store out of a snapshot, in a directory that is empty or does not exist. Its epoch follows from that of the
    /// store the snapshot was taken of and from `known`, the greatest one that is known beside it; see [`next_epoch`].
    ///
    /// # Errors
    /// When the snapshot is damaged, has another case rule, or the directory is not empty.
    pub fn restore(
        config: &Config,
        snapshot: &Path,
        known: u64,
    ) -> Result<SnapshotInfo, StoreError> {
        let epoch = |of: u64| next_epoch(of.max(known), (config.now)());
        Self::restore_as(config, snapshot, epoch, Role::Primary)
    }

    /// Makes a store out of a snapshot, of an epoch that follows from that of the snapshot.
    fn restore_as(
        config: &Config,
        snapshot: &Path,
        epoch: impl FnOnce(u64) -> u64,
        role: Role,
    ) -> Result<SnapshotInfo, StoreError> {
        let (manifest, bytes, _) = snapshot::verify_records(snapshot)?;
        if manifest.case != config.case {
            return Err(StoreError::CaseMismatch {
                path: snapshot.to_path_buf(),
                stored: manifest.case,
                asked: config.case,
            });
        }
        let (disk, _lock) = create_tree(config)?;
        let path = snapshot::adopt(&disk, &config.dir, snapshot, &manifest)?;
        Identity {
            case: manifest.case,
            epoch: epoch(manifest.epoch),
            role,
        }
        .write(&disk, &config.dir)?;
        Ok(SnapshotInfo::new(path, &manifest, bytes))
    }

    /// Waits until reads and writes are possible; false when they are not after `patience`, or will not be.
    #[must_use]
    pub fn wait_ready(&self, patience: Duration) -> bool {
        self.wait_loaded(patience).unwrap_or(false)
    }

    /// As [`Self::wait_ready`], but says why loading failed.
    ///
    /// # Errors
    /// When the files are damaged beyond what the store heals by itself; the message names file and remedy.
    pub fn wait_loaded(&self, patience: Duration) -> Result<bool, StoreError> {
        let loaded = |state: &State| !matches!(state, State::Loading | State::Verifying);
        self.shared.wait_state(patience, loaded);
        match self.shared.failure() {
            Some(message) => Err(StoreError::Failed(message)),
            None => Ok(matches!(self.state(), State::Ready | State::Degraded)),
        }
    }

    /// Stops taking writes, carries out those that wait, syncs sled, and marks the store as cleanly closed.
    ///
    /// # Errors
    /// When loading had failed.
    pub fn shutdown(&self) -> Result<(), StoreError> {
        self.shared.queue.refuse(CommitError::Closed);
        self.shared.request(|requests| requests.stop = true);
        let keeper = self
            .keeper
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if keeper.is_some_and(|keeper| keeper.join().is_err()) {
            return Err(StoreError::Unavailable(
                "the store's keeper panicked; the log says where",
            ));
        }
        self.shared
            .failure()
            .map_or(Ok(()), |message| Err(StoreError::Failed(message)))
    }

    /// [`Self::shutdown`].
    ///
    /// # Errors
    /// As there.
    pub fn close(self) -> Result<(), StoreError> {
        self.shutdown()
    }
}

/// From one process to another: what was acknowledged by one is found by the other, and only one of them writes.
impl Store {
    /// Waits until the index has what the journal of the other process had when it was read; false when it has not after
    /// `patience`.
    ///
    /// # Errors
    /// As [`Self::wait_loaded`].
    pub fn wait_filled(&self, patience: Duration) -> Result<bool, StoreError> {
        let holder = self.shared.wait_holder(patience, &[Holder::Filled]);
        match self.shared.failure() {
            Some(message) => Err(StoreError::Failed(message)),
            None => Ok(holder == Holder::Filled),
        }
    }

    /// While this is held nothing is removed that another process may be reading beside this one.
    #[must_use]
    pub fn hold_files(&self) -> Held<'_> {
        let snapshots = self.shared.snapshots.lock();
        Held {
            _snapshots: snapshots.unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Gives the files away: when this returns nothing writes them, and whoever has the lock that is given back may take
    /// them over. Look-ups are answered as before; changes wait until the files are taken back ([`Self::take_over`]), or
    /// refused when the store is closed.
    ///
    /// # Errors
    /// When this process does not have the files, or takes no writes because of an error.
    pub fn give_away(&self) -> Result<fs::File, StoreError> {
        if let Some(reason) = self.shared.read_only() {
            return Err(StoreError::Failed(reason));
        }
        let lock = self.shared.share_lock()?;
        if !self.shared.leave() {
            return Err(StoreError::Unavailable("the store is not open for writing"));
        }
        match self.shared.wait_holder(Duration::MAX, &[Holder::Away]) {
            Holder::Away => self.expect_sound().map(|()| lock),
            _ => Err(StoreError::Closed),
        }
    }

    /// Whether the last batches that were written came to the disk, after the writer has ended; refuses those that wait if
    /// not. With what they left in the journal nobody goes on unasked.
    fn expect_sound(&self) -> Result<(), StoreError> {
        let Some(reason) = self.shared.read_only() else {
            return Ok(());
        };
        let refusal = CommitError::ReadOnly(Arc::clone(&reason));
        self.shared.refuse_waiting(&refusal);
        Err(StoreError::Failed(reason))
    }

    /// Has the files that another process gave away, or those that this one gave and that the other has left: reads what
    /// came meanwhile and takes changes from then on. Without a lock, with the one that is here still.
    ///
    /// # Errors
    /// When they cannot be read, or the store is closed.
    pub fn take_over(&self, lock: Option<fs::File>) -> Result<(), StoreError> {
        self.shared.grant(lock);
        let holder = self.shared.wait_holder(Duration::MAX, &[Holder::Here]);
        match (self.shared.failure(), holder) {
            (Some(message), _) => Err(StoreError::Failed(message)),
            (None, Holder::Here) => Ok(()),
            _ => Err(StoreError::Closed),
        }
    }

    /// Whether another process had the files when this one opened them.
    #[must_use]
    pub fn began_beside(&self) -> bool {
        self.shared.began_beside
    }

    /// Takes no changes any more, and refuses those that wait: another process has the files for good.
    pub fn retire(&self) {
        self.shared.refuse_waiting(&CommitError::Closed);
    }
}

/// See [`Store::hold_files`].
#[derive(Debug)]
pub struct Held<'s> {
    _snapshots: MutexGuard<'s, ()>,
}

/// Reading.
impl Store {
    /// What a reading thread needs.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.shared.index))
    }

    /// A copy of one record.
    ///
    /// # Errors
    /// When the store does not know, because it is loading or could not load.
    pub fn get(&self, space: Space, key: &[u8]) -> Result<Option<OwnedRecord>, StoreError> {
        match self.reader().session().get(space, key) {
            Lookup::Found(record) => Ok(Some(record.to_owned())),
            Lookup::Absent => Ok(None),
            Lookup::Loading => Err(StoreError::Loading),
            Lookup::Damaged => Err(self
                .shared
                .failure()
                .map_or(StoreError::Loading, StoreError::Failed)),
        }
    }

    /// Up to `limit` records whose keys begin with `prefix` and come after `from`, in the order of their keys. Every
    /// write acknowledged before the call is seen.
    ///
    /// # Errors
    /// When the store is loading, or could not load.
    pub fn scan(
        &self,
        space: Space,
        from: Bound<&[u8]>,
        prefix: &[u8],
        limit: usize,
    ) -> Result<Vec<OwnedRecord>, StoreError> {
        scan::scan(&self.shared, space, from, prefix, limit)
    }

    /// The last change of each key after sequence `after`, in order; none when the journal does not reach back that far,
    /// there was a bulk import since, or `after` is still to come. Every write acknowledged before the call is seen. Reads the journal from the disk.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn changes_since(&self, after: u64) -> Result<Option<Vec<Changed>>, StoreError> {
        since::changes(&self.shared, after, self.sequence())
    }

    /// Shows the changes behind `from` to `visit`, in their order and each once, until it wants no more, about `octets` of
    /// the journal have been read, or none is left; says the place behind the last. None when the journal does not say
    /// what followed: it does not reach back that far, there was a bulk import, or `from` is still to come. Every write
    /// acknowledged before the call is seen. Reads the journal from the disk.
    ///
    /// # Errors
    /// When the store is loading, or the journal cannot be read.
    pub fn follow(
        &self,
        from: Mark,
        octets: u64,
        visit: &mut Visit<'_>,
    ) -> Result<Option<Mark>, StoreError> {
        match self.shared.index.miss() {
            Miss::Absent => follow::follow(&self.shared, from, octets, visit),
            _ => Err(StoreError::Loading),
        }
    }

    /// The notes of the batches after sequence `after`, each with its sequence, in order and as far back as the journal
    /// reaches. Every write acknowledged before the call is seen. Reads the journal from the disk.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn notes_since(&self, after: u64) -> Result<Vec<(u64, Bytes)>, StoreError> {
        since::notes(&self.shared, after, self.sequence())
    }

    /// A number that grows when a change in `space` is published; never for [`Space::Handle`].
    #[must_use]
    pub fn epoch(&self, space: Space) -> u64 {
        self.shared.epoch(space)
    }

    /// Sequence of the newest acknowledged batch.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.shared.overlay.position().sequence
    }

    /// Which history of the data this is: 1, and after a restore or a promotion what [`next_epoch`] gave. Sequences of two
    /// epochs are not compared.
    #[must_use]
    pub fn data_epoch(&self) -> u64 {
        self.shared.identity.epoch
    }

    /// What the store is able to do.
    #[must_use]
    pub fn state(&self) -> State {
        self.shared.state()
    }

    /// The case rule of the store.
    #[must_use]
    pub fn case(&self) -> CaseRule {
        self.shared.identity.case
    }

    /// Sizes and positions.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let shared = &self.shared;
        let position = shared.overlay.position();
        let (loaded, expected) = (
            shared.metrics.loaded_records.load(Relaxed),
            shared.metrics.expected_records.load(Relaxed),
        );
        let complete = self.is_complete();
        let segments = journal::segments(shared.dir()).unwrap_or_default();
        let snapshots = snapshot::list(shared.dir())
            .unwrap_or_default()
            .into_iter()
            .rev();
        Stats {
            epoch: shared.identity.epoch,
            records: shared.index.len() as u64,
            sum: position.sum,
            index_bytes: shared.index.bytes(),
            index_dead_bytes: shared.index.dead_bytes(),
            loaded_ratio: if complete {
                1.0
            } else {
                loaded as f64 / expected.max(loaded).max(1) as f64
            },
            sequence: position.sequence,
            journal_bytes: segments.iter().map(|segment| segment.bytes).sum(),
            applied_sequence: shared.synced_sequence.load(Relaxed),
            lag_changes: shared.overlay.lag().0,
            store_bytes: shared
                .overlay
                .wait_engine(Duration::ZERO)
                .map_or(0, |(engine, _)| engine.bytes()),
            snapshots: snapshots
                .filter_map(|(_, path)| snapshot_info(path))
                .collect(),
            free_bytes: shared.free_bytes.load(Relaxed),
            reserve_bytes: shared.reserve_bytes.load(Relaxed),
        }
    }

    /// Whether every record is there to be looked up; changes are another matter.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.shared.index.miss() == Miss::Absent
    }

    /// Bytes free and bytes kept free, while changes are refused because the disk is nearly full.
    #[must_use]
    pub fn no_room(&self) -> Option<(u64, u64)> {
        let shared = &self.shared;
        (shared.disk_is_low()).then(|| {
            let [free, reserve] = [&shared.free_bytes, &shared.reserve_bytes];
            (free.load(Relaxed), reserve.load(Relaxed))
        })
    }

    /// Counters and histograms.
    #[must_use]
    pub fn metrics(&self) -> &StoreMetrics {
        &self.shared.metrics
    }
}

/// Changing.
impl Store {
    /// Gives a batch to the writer; `done` is called when it is durable and visible, or refused. With a full queue that
    /// is at once, with [`CommitError::Busy`]. `done` runs on the writer's thread and must be quick. While the store is
    /// loading, batches wait in the queue.
    pub fn submit(
        &self,
        batch: Batch,
        done: impl FnOnce(Result<Committed, CommitError>) + Send + 'static,
    ) {
        self.enqueue(batch, Box::new(done), false);
    }

    /// As [`Self::submit`], but while nothing else is written the batch is durable, and `done` was called, when this
    /// returns: a thread that may wait for the disk saves waking two others.
    pub fn submit_here(
        &self,
        mut batch: Batch,
        done: impl FnOnce(Result<Committed, CommitError>) + Send + 'static,
    ) {
        self.add_other_keys(&mut batch);
        match Job::new(batch, Box::new(done)) {
            Ok(job) => {
                if let Err(job) = writer::write_here(&self.shared, job) {
                    self.push(Ok(job), false);
                }
            }
            refused => self.push(refused, false),
        }
    }

    /// Asks for a batch while nobody else writes, and writes it on this thread: what `decide` reads is still so when
    /// its batch is carried out. For a change that keeps losing to others.
    pub fn submit_decided<D: FnOnce(Result<Committed, CommitError>) + Send + 'static>(
        &self,
        decide: impl FnOnce() -> Option<(Batch, D)>,
    ) {
        let encoded = || {
            let (mut batch, done) = decide()?;
            self.add_other_keys(&mut batch);
            Some(Job::new(batch, Box::new(done)))
        };
        if let Some(unwritten) = writer::write_decided(&self.shared, encoded) {
            self.push(unwritten, true);
        }
    }

    /// As [`Self::submit`], but waits for room in the queue.
    pub fn submit_wait(
        &self,
        batch: Batch,
        done: impl FnOnce(Result<Committed, CommitError>) + Send + 'static,
    ) {
        self.enqueue(batch, Box::new(done), true);
    }

    /// Carries out a batch: durable and visible when it returns. Waits for room in the queue.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        let (send, receive) = sync_channel(1);
        // The receiver is there until this returns.
        self.submit_wait(batch, move |outcome| drop(send.send(outcome)));
        receive.recv().unwrap_or(Err(CommitError::Closed))
    }

    /// Begins a bulk import, which becomes visible at once when it is committed. A sequence is kept free for it.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub fn bulk(&self) -> Result<Bulk, CommitError> {
        let reserved = self.commit(Batch::default())?;
        Bulk::begin(Arc::clone(&self.shared), reserved)
    }

    fn enqueue(&self, mut batch: Batch, done: Done, wait: bool) {
        self.add_other_keys(&mut batch);
        self.push(Job::new(batch, done), wait);
    }

    fn push(&self, job: Encoded, wait: bool) {
        let refused = job.and_then(|job| self.shared.queue.push(job, wait));
        if let Err((error, job)) = refused {
            let changes = job.changes.len();
            self.shared.tell(job, Err(error), changes);
        }
    }
}

impl Store {
    /// Adds what happens under the other keys of handles.
    fn add_other_keys(&self, batch: &mut Batch) {
        let config = &self.shared.config;
        let other = |change: &Change| {
            let key = (config.other_key)(&change.key, config.case)?;
            let (expect, action) = match change.action {
                Action::Delete => (Expect::Any, Action::Delete),
                Action::Put(_) => {
                    let handle = Bytes::copy_from_slice(&change.key);
                    (
                        Expect::Unclaimed,
                        Action::Put(Draft {
                            handle,
                            values: Vec::new(),
                        }),
                    )
                }
            };
            Some(Change {
                space: Space::System,
                key,
                expect,
                action,
            })
        };
        let handles = batch
            .changes
            .iter()
            .filter(|change| change.space == Space::Handle);
        let others: Vec<Change> = handles.filter_map(other).collect();
        batch.changes.extend(others);
    }
}

/// Looking after it.
impl Store {
    /// Takes a snapshot now. While the state on disk is being made anew it waits for that, at most [`SNAPSHOT_PATIENCE`].
    ///
    /// # Errors
    /// When it cannot be written, or the state on disk is being made anew for longer than that.
    pub fn snapshot(&self) -> Result<SnapshotInfo, StoreError> {
        self.wait_known()?;
        self.shared.snapshot_outcome(self.take_snapshot())
    }

    /// Takes one, when sled is there again if it is being made anew.
    fn take_snapshot(&self) -> Result<SnapshotInfo, StoreError> {
        let watch = Stopwatch::start();
        let mut said = false;
        loop {
            let taken = snapshot::take(&self.shared, false);
            let waits = matches!(taken, Err(StoreError::Unavailable(snapshot::NO_SLED)))
                && matches!(self.state(), State::Degraded | State::Ready)
                && !self.shared.is_stopping();
            if !waits {
                return taken;
            }
            if watch.elapsed() >= SNAPSHOT_PATIENCE {
                return Err(StoreError::Unavailable(
                    "no snapshot: the state on disk is still being made anew after 10 minutes; the log says how that goes; try \
                     again when it is done",
                ));
            }
            if !std::mem::replace(&mut said, true) {
                tracing::info!(
                    event = "snapshot.waits",
                    "snapshot: it waits for the state on disk, which is being made anew"
                );
            }
            drop(self.shared.overlay.wait_engine(Duration::from_secs(1)));
        }
    }

    /// Reads and compares everything: index, sled, journal, snapshots. Damage on the disk is healed by itself afterwards.
    ///
    /// # Errors
    /// When the store is loading. What is wrong with the files is in the report.
    pub fn verify(&self) -> Result<Report, StoreError> {
        verify::verify(&self.shared)
    }

    /// Makes sled's files anew from the index, while reads and writes go on; returns when they are complete.
    ///
    /// # Errors
    /// When the store is closed meanwhile.
    pub fn rebuild(&self) -> Result<(), StoreError> {
        self.wait_known()?;
        let before = self.shared.sled_number.load(Relaxed);
        self.shared.request(|requests| requests.anew = true);
        let begun = |_: &State| self.shared.sled_number.load(Relaxed) > before;
        while !self
            .shared
            .wait_state(self.shared.config.housekeeping_interval, begun)
        {
            if self.shared.is_stopping() {
                return Err(StoreError::Closed);
            }
        }
        self.wait_rebuilt()
    }

    /// Waits for a complete sled.
    fn wait_rebuilt(&self) -> Result<(), StoreError> {
        while self
            .shared
            .overlay
            .wait_engine(Duration::from_secs(1))
            .is_none()
        {
            if self.shared.is_stopping() {
                return Err(StoreError::Closed);
            }
        }
        Ok(())
    }

    /// Fails unless the store is loaded.
    fn wait_known(&self) -> Result<(), StoreError> {
        match (self.shared.index.miss(), self.shared.failure()) {
            (_, Some(message)) => Err(StoreError::Failed(message)),
            (Miss::Absent, None) => Ok(()),
            (Miss::Closed | Miss::Loading | Miss::Damaged, None) => Err(StoreError::Loading),
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // What could not be closed is in the log, and in the journal.
        drop(self.shutdown());
    }
}

/// The directories of a new store, locked.
fn create_tree(config: &Config) -> Result<(Disk, fs::File), StoreError> {
    let dir = &config.dir;
    let failed = |error| StoreError::io(dir, "create the directory", error);
    fs::create_dir_all(dir).map_err(failed)?;
    if fs::read_dir(dir).map_err(failed)?.next().is_some() {
        return Err(StoreError::NotEmpty { path: dir.clone() });
    }
    let lock = shared::lock(dir)?;
    let disk = Disk::new(config.faults.clone());
    for part in [journal::directory(dir), snapshot::directory(dir)] {
        fs::create_dir(&part).map_err(failed)?;
        disk.sync_directory(&part)?;
    }
    disk.sync_directory(dir)?;
    disk.sync_directory(parent(dir))?;
    Ok((disk, lock))
}

/// Makes the name of something durable.
///
/// # Errors
/// The directory that it is in cannot be synced.
pub fn sync_parent(path: &Path) -> Result<(), StoreError> {
    Disk::default().sync_directory(parent(path))
}

fn snapshot_info(path: PathBuf) -> Option<SnapshotInfo> {
    let manifest = snapshot::read_manifest(&path).ok()?;
    let bytes = path.metadata().ok()?.len();
    Some(SnapshotInfo::new(path, &manifest, bytes))
}
