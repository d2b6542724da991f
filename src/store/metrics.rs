//! Figures of the store as plain atomics, for whoever wants to show them, and the one stopwatch of the store.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Upper bounds of [`Durations`], in nanoseconds; there is one more bucket for what is longer.
pub const DURATION_BOUNDS_NS: [u64; 21] = [
    500,
    1_000,
    2_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    10_000_000_000,
];
/// Upper bounds of [`Sizes`]: powers of two; there is one more bucket for what is larger.
pub const SIZE_BOUNDS: [u64; 11] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

/// How often each bucket was hit (not cumulated), and the sum of all observations.
#[derive(Debug)]
pub struct Histogram<const BOUNDS: usize> {
    bounds: &'static [u64; BOUNDS],
    buckets: [AtomicU64; BOUNDS],
    beyond: AtomicU64,
    sum: AtomicU64,
}

/// A histogram of durations in nanoseconds.
pub type Durations = Histogram<{ DURATION_BOUNDS_NS.len() }>;
/// A histogram of counts.
pub type Sizes = Histogram<{ SIZE_BOUNDS.len() }>;

impl<const BOUNDS: usize> Histogram<BOUNDS> {
    const fn new(bounds: &'static [u64; BOUNDS]) -> Self {
        Self {
            bounds,
            buckets: [const { AtomicU64::new(0) }; BOUNDS],
            beyond: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }

    /// Adds one observation.
    pub fn observe(&self, value: u64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        self.buckets
            .get(at)
            .unwrap_or(&self.beyond)
            .fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    /// Each upper bound with the number of observations in its bucket (not cumulated), in order.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        self.bounds
            .iter()
            .zip(&self.buckets)
            .map(|(bound, count)| (*bound, count.load(Relaxed)))
    }

    /// Observations above the last bound.
    #[must_use]
    pub fn beyond(&self) -> u64 {
        self.beyond.load(Relaxed)
    }

    /// All observations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets().map(|(_, count)| count).sum::<u64>() + self.beyond()
    }

    /// The sum of all observations.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum.load(Relaxed)
    }
}

/// What the changes of a batch came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Result {
    /// Durable and visible.
    Committed,
    /// An expectation did not hold, a limit was exceeded, the queue or the disk was full.
    Refused,
    /// The journal could not be written.
    Failed,
}

/// The parts of the store that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The journal.
    Journal,
    /// sled.
    Sled,
    /// Snapshots.
    Snapshot,
    /// The index.
    Index,
    /// What the scrubber found.
    Scrub,
}

impl Part {
    /// Every part, with its label.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::Journal, "journal"),
        (Self::Sled, "sled"),
        (Self::Snapshot, "snapshot"),
        (Self::Index, "index"),
        (Self::Scrub, "scrub"),
    ];
}

/// Counters and histograms of the store. They are written off the look-up path.
#[derive(Debug)]
pub struct StoreMetrics {
    /// From taking a group out of the queue until it is durable and visible, in nanoseconds.
    pub commit_duration: Durations,
    /// One fdatasync of the journal, in nanoseconds.
    pub sync_duration: Durations,
    /// Changes that shared one sync.
    pub batch_changes: Sizes,
    changes: [AtomicU64; 3],
    errors: [AtomicU64; Part::ALL.len()],
    /// Unix seconds of the newest snapshot; 0 for none.
    pub snapshot_timestamp: AtomicU64,
    /// Sequence of the newest change that is in it.
    pub snapshot_sequence: AtomicU64,
    /// Bytes of the newest snapshot.
    pub snapshot_bytes: AtomicU64,
    /// Records put into the index while loading.
    pub loaded_records: AtomicU64,
    /// Records that loading is expected to find; 0 when not known.
    pub expected_records: AtomicU64,
}

impl Default for StoreMetrics {
    fn default() -> Self {
        Self {
            commit_duration: Histogram::new(&DURATION_BOUNDS_NS),
            sync_duration: Histogram::new(&DURATION_BOUNDS_NS),
            batch_changes: Histogram::new(&SIZE_BOUNDS),
            changes: Default::default(),
            errors: Default::default(),
            snapshot_timestamp: AtomicU64::new(0),
            snapshot_sequence: AtomicU64::new(0),
            snapshot_bytes: AtomicU64::new(0),
            loaded_records: AtomicU64::new(0),
            expected_records: AtomicU64::new(0),
        }
    }
}

impl StoreMetrics {
    /// How many changes came to `result`.
    #[must_use]
    pub fn changes(&self, result: Result) -> u64 {
        self.changes[result as usize].load(Relaxed)
    }

    /// How many errors `part` had.
    #[must_use]
    pub fn errors(&self, part: Part) -> u64 {
        self.errors[part as usize].load(Relaxed)
    }

    pub(crate) fn count_changes(&self, result: Result, changes: usize) {
        self.changes[result as usize].fetch_add(changes as u64, Relaxed);
    }

    pub(crate) fn count_error(&self, part: Part) {
        self.errors[part as usize].fetch_add(1, Relaxed);
    }
}

/// The only use of a clock in the store: how long something took. No decision about data depends on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    pub(crate) fn nanoseconds(&self) -> u64 {
        u64::try_from(self.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: an observation is counted in the first bucket that it does not exceed.
    #[test]
    fn buckets() {
        let metrics = StoreMetrics::default();
        for value in [0, 1, 2, 3, 1024, 1025] {
            metrics.batch_changes.observe(value);
        }
        let counts: Vec<u64> = metrics
            .batch_changes
            .buckets()
            .map(|(_, count)| count)
            .collect();
        assert_eq!(counts, [2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(
            (
                metrics.batch_changes.beyond(),
                metrics.batch_changes.count()
            ),
            (1, 6)
        );
        assert_eq!(metrics.batch_changes.sum(), 2055);
    }
}
