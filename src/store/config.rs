//! The settings of a store, each with its default and the reason for it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiexi_proto::handle::CaseRule;

use super::disk::Faults;

/// The settings of a store.
#[derive(Clone, Debug)]
pub struct Config {
    /// The directory of the store.
    pub dir: PathBuf,
    /// How handles fold. Chosen when the store is created; opening with another rule is refused.
    pub case: CaseRule,
    /// The time, in Unix seconds, for the manifests of snapshots and the times of changes. The store itself reads no wall
    /// clock.
    pub now: fn() -> u64,
    /// Bytes of a journal segment. 64 MiB: rarely a new file, quickly pruned.
    pub segment_bytes: u64,
    /// Batches that may wait for the writer. Beyond it `submit` answers `Busy` and `commit` waits.
    pub queue_batches: usize,
    /// Bytes that may wait for the writer, likewise.
    pub queue_bytes: usize,
    /// Bytes of batches that share one sync: large enough to pay for it, small enough to bound its latency.
    pub group_bytes: usize,
    /// Bytes of records that a bulk import sorts at once; it holds about three times that in memory.
    pub import_stripe_bytes: usize,
    /// Changes that may be acknowledged and not yet in sled; then writers wait. It bounds replay after a crash. Many, because
    /// sled takes them in order: a job of a million rows ran 1.2 to 1.9 times as fast with five times as many.
    pub lag_changes: u64,
    /// Bytes of such changes, likewise.
    pub lag_bytes: u64,
    /// Changes after which sled is synced.
    pub checkpoint_changes: u64,
    /// Longest time that applied changes wait for that.
    pub checkpoint_interval: Duration,
    /// How long sled may make no progress, or take to open, before it is given up and made anew.
    pub applier_patience: Duration,
    /// How long sled may take to open: a large one with a cold cache was seen to need 13 s.
    pub open_patience: Duration,
    /// Bytes of sled's page cache. Look-ups do not use it, so it stays small.
    pub sled_cache_bytes: u64,
    /// A snapshot is taken when the journal has grown by this much …
    pub snapshot_journal_bytes: u64,
    /// … and by this share of the live data, in percent.
    pub snapshot_live_percent: u64,
    /// Writes are refused when less than this is free on the disk, in bytes …
    pub guard_free_bytes: u64,
    /// … or less than this share of the disk, in percent.
    pub guard_free_percent: u64,
    /// How often the disk guard, the watchdog and the snapshot rule look.
    pub housekeeping_interval: Duration,
    /// How often everything on disk is read and verified; zero for never.
    pub scrub_interval: Duration,
    /// Another key under which a handle is to be found, given its own: kept in [`Space::System`] and with
    /// the handle, and refused when it belongs to another handle already.
    ///
    /// [`Space::System`]: super::Space::System
    pub other_key: fn(&[u8], CaseRule) -> Option<Vec<u8>>,
    /// Hooks for tests.
    #[doc(hidden)]
    pub faults: Option<Arc<Faults>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("data/store"),
            case: CaseRule::Whole,
            now: || 0,
            segment_bytes: 64 << 20,
            queue_batches: 4096,
            queue_bytes: 128 << 20,
            group_bytes: 4 << 20,
            import_stripe_bytes: 64 << 20,
            lag_changes: 500_000,
            lag_bytes: 256 << 20,
            checkpoint_changes: 50_000,
            checkpoint_interval: Duration::from_secs(1),
            applier_patience: Duration::from_secs(10),
            open_patience: Duration::from_secs(120),
            sled_cache_bytes: 256 << 20,
            snapshot_journal_bytes: 1 << 30,
            snapshot_live_percent: 25,
            guard_free_bytes: 256 << 20,
            guard_free_percent: 2,
            housekeeping_interval: Duration::from_millis(250),
            scrub_interval: Duration::from_secs(24 * 3600),
            other_key: |_, _| None,
            faults: None,
        }
    }
}

impl Config {
    /// With fewer bytes free of `total`, writes are refused.
    #[must_use]
    pub fn reserve_bytes(&self, total: u64) -> u64 {
        self.guard_free_bytes
            .max(total / 100 * self.guard_free_percent)
    }
}
