//! The truth on disk and its image in memory.

pub mod change;
mod config;
mod disk;
mod error;
mod index;
pub mod metrics;
mod record;

use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiexi_proto::handle::CaseRule;

pub use change::{Action, Batch, Change, CommitError, Committed, Draft, DraftValue, Expect, Space};
pub use config::Config;
#[doc(hidden)]
pub use disk::Faults;
pub use error::StoreError;
pub use index::{Lookup, Reader, Session};
pub use metrics::StoreMetrics;
pub use record::{Entries, Entry, OwnedRecord, Record};

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

/// Sizes and positions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Times the data were restored from a snapshot, plus one.
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

/// A store. Share it by `Arc`.
#[derive(Debug)]
pub struct Store {}

impl Store {
    /// Creates an empty store: all files synced, then marked as initialised.
    ///
    /// # Errors
    /// When the directory is not empty or cannot be written.
    pub fn create(_config: &Config) -> Result<(), StoreError> {
        todo!()
    }

    /// Opens a store and returns at once; loading goes on in the background (see [`Self::wait_loaded`]).
    ///
    /// # Errors
    /// When another process has it (after 5 s), it is no store, or the case rule differs.
    pub fn open(_config: Config) -> Result<Self, StoreError> {
        todo!()
    }

    /// What the store is able to do.
    #[must_use]
    pub fn state(&self) -> State {
        todo!()
    }

    /// Waits until reads and writes are possible; false when they are not after `patience`, or will not be.
    #[must_use]
    pub fn wait_ready(&self, _patience: Duration) -> bool {
        todo!()
    }

    /// As [`Self::wait_ready`], but says why loading failed.
    ///
    /// # Errors
    /// When the files are damaged beyond what the store heals by itself; the message names file and remedy.
    pub fn wait_loaded(&self, _patience: Duration) -> Result<bool, StoreError> {
        todo!()
    }

    /// The case rule of the store.
    #[must_use]
    pub fn case(&self) -> CaseRule {
        todo!()
    }

    /// What a reading thread needs.
    #[must_use]
    pub fn reader(&self) -> Reader {
        todo!()
    }

    /// A copy of one record.
    ///
    /// # Errors
    /// When the store does not know, because it is loading or could not load.
    pub fn get(&self, _space: Space, _key: &[u8]) -> Result<Option<OwnedRecord>, StoreError> {
        todo!()
    }

    /// Gives a batch to the writer; `done` is called when it is durable and visible, or refused. With a full queue that
    /// is at once, with [`CommitError::Busy`]. `done` runs on the writer's thread and must be quick.
    pub fn submit(
        &self,
        _batch: Batch,
        _done: impl FnOnce(Result<Committed, CommitError>) + Send + 'static,
    ) {
        todo!()
    }

    /// As [`Self::submit`], but waits for room in the queue.
    pub fn submit_wait(
        &self,
        _batch: Batch,
        _done: impl FnOnce(Result<Committed, CommitError>) + Send + 'static,
    ) {
        todo!()
    }

    /// Carries out a batch: durable and visible when it returns. Waits for room in the queue.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub fn commit(&self, _batch: Batch) -> Result<Committed, CommitError> {
        todo!()
    }

    /// Up to `limit` records whose keys begin with `prefix` and come after `from`, in the order of their keys. Every
    /// write acknowledged before the call is seen.
    ///
    /// # Errors
    /// When the store is loading, or could not load.
    pub fn scan(
        &self,
        _space: Space,
        _from: Bound<&[u8]>,
        _prefix: &[u8],
        _limit: usize,
    ) -> Result<Vec<OwnedRecord>, StoreError> {
        todo!()
    }

    /// A number that grows when a change in `space` is published; never for [`Space::Handle`].
    #[must_use]
    pub fn epoch(&self, _space: Space) -> u64 {
        todo!()
    }

    /// Takes a snapshot now.
    ///
    /// # Errors
    /// When it cannot be written, or the state on disk is being made anew.
    pub fn snapshot(&self) -> Result<SnapshotInfo, StoreError> {
        todo!()
    }

    /// Reads and compares everything: index, sled, journal, snapshots.
    ///
    /// # Errors
    /// When the store is loading. What is wrong with the files is in the report.
    pub fn verify(&self) -> Result<Report, StoreError> {
        todo!()
    }

    /// Makes sled's files anew from the index, while reads and writes go on; returns when they are complete.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn rebuild(&self) -> Result<(), StoreError> {
        todo!()
    }

    /// Makes sled's files of a stopped store anew, from the newest snapshot and the journal.
    ///
    /// # Errors
    /// As [`Self::open`] and [`Self::wait_loaded`].
    pub fn rebuild_stopped(_config: &Config) -> Result<(), StoreError> {
        todo!()
    }

    /// Makes a store out of a snapshot, in a directory that is empty or does not exist. Its epoch is one more than that
    /// of the store the snapshot was taken of.
    ///
    /// # Errors
    /// When the snapshot is damaged, has another case rule, or the directory is not empty.
    pub fn restore(_config: &Config, _snapshot: &Path) -> Result<SnapshotInfo, StoreError> {
        todo!()
    }

    /// Sizes and positions.
    #[must_use]
    pub fn stats(&self) -> Stats {
        todo!()
    }

    /// Counters and histograms.
    #[must_use]
    pub fn metrics(&self) -> &StoreMetrics {
        todo!()
    }

    /// Stops taking writes, carries out those that wait, syncs sled, and marks the store as cleanly closed.
    ///
    /// # Errors
    /// When something could not be synced; nothing acknowledged is lost.
    pub fn shutdown(&self) -> Result<(), StoreError> {
        todo!()
    }

    /// [`Self::shutdown`].
    ///
    /// # Errors
    /// As there.
    pub fn close(self) -> Result<(), StoreError> {
        self.shutdown()
    }
}
