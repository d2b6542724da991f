//! What has been acknowledged and is not in sled yet, and the way of scans to see both as one.
//!
//! The overlay holds keys only; the records are in the index. The writer adds the keys of each group before it
//! acknowledges; the applier takes all of them at once, in order, and brings sled's records under those keys to what the
//! index has *then*. So sled may be ahead of the position it is said to have, never behind, and a key that changes often
//! is applied once.
//!
//! A bulk import brings no keys but a run, in which they can be read in order. Runs are applied a slice at a time, in turn
//! with the rest, so that nobody waits for the end of one; until then sled holds no more than the state before it.
//!
//! ```text
//! writer ─→ filling ─(all at once)─→ draining ─→ sled
//!              └──────── scan ──────────┴─────────┘
//! ```

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::journal::entry::Position;
use super::run::Run;
use super::sled::Engine;

/// A space number and a key.
pub(crate) type FullKey = Box<[u8]>;

/// How much more may wait while sled is being made anew.
const REBUILD_FACTOR: u64 = 4;

/// How long the applier gathers changes before it takes them up: woken for each, it would take turns
/// on the cores with those who wait for the next.
const GATHER: Duration = Duration::from_millis(10);
/// Changes that are not waited for more of.
const GATHERED: usize = 1_024;

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) changes: u64,
    pub(crate) bytes: u64,
}

#[derive(Default)]
struct Inner {
    /// The state that readers see.
    position: Position,
    /// The state that is in the journal: readers may see parts of it already.
    durable: Position,
    /// Keys with the sizes of their records.
    filling: BTreeMap<FullKey, u32>,
    filling_bytes: u64,
    /// Keys that the applier is at work on, in order; scans see them until all are in sled.
    draining: Arc<[FullKey]>,
    draining_left: u64,
    draining_bytes: u64,
    /// Complete together with the keys above, when there.
    engine: Option<Arc<Engine>>,
    /// What the engine holds at least but for the runs, synced or not.
    applied: Position,
    /// Runs that are not in sled yet, oldest first, and how many records of the first one are.
    runs: VecDeque<Arc<Run>>,
    run_done: u64,
    /// Runs that there were, ever, and the sequence of the last one.
    runs_seen: u64,
    last_run: u64,
    /// Whether keys are collected: not when nothing can take them.
    collecting: bool,
    /// Number of the applier that may take keys; one that was given up has an older one.
    lane: u64,
    stopping: bool,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Overlay {
    inner: Mutex<Inner>,
    changed: Condvar,
}

/// What an applier is to do.
pub(crate) enum Work {
    /// Apply these keys; sled then holds at least this position, but for the runs.
    Apply(Arc<[FullKey]>, Position),
    /// Apply a slice of this run.
    Run(Arc<Run>),
    /// Nothing now.
    Idle,
    /// Everything is applied, and no more will come.
    Stop,
    /// Another applier is in its place.
    Stale,
}

/// What a scan has to merge.
pub(crate) struct View {
    /// None: sled is not complete; read the index.
    pub(crate) engine: Option<Arc<Engine>>,
    /// Keys not yet in sled, in order, up to the limit asked for.
    pub(crate) keys: Vec<FullKey>,
    /// Whether there may be more keys after the last one.
    pub(crate) cut: bool,
    /// Runs not yet in sled, whose keys are not among those.
    pub(crate) runs: Vec<Arc<Run>>,
}

impl Overlay {
    /// Begins with the state that was loaded; `keys` are those that the engine does not have yet.
    pub(crate) fn load(
        &self,
        position: Position,
        attached: Option<(Arc<Engine>, Position)>,
        keys: BTreeMap<FullKey, u32>,
        runs: Vec<Run>,
    ) {
        let mut inner = self.lock();
        (inner.position, inner.durable) = (position, position);
        inner.stopping = false;
        inner.runs_seen = runs.len() as u64;
        inner.last_run = runs.last().map_or(0, |run| run.after.sequence);
        if let Some((engine, applied)) = attached {
            inner.engine = Some(engine);
            inner.applied = applied;
            inner.collecting = true;
            inner.filling_bytes = keys.values().map(|bytes| u64::from(*bytes)).sum();
            inner.filling = keys;
            inner.runs = runs.into_iter().map(Arc::new).collect();
        }
    }

    /// Notes that a group is in the journal; before any of it becomes visible.
    pub(crate) fn synced(&self, position: Position) {
        self.lock().durable = position;
    }

    /// The state that is in the journal. Nothing that sled or the index held before the call is newer.
    pub(crate) fn durable(&self) -> Position {
        self.lock().durable
    }

    /// Adds the keys of a group that has become visible.
    pub(crate) fn publish(&self, keys: Vec<(FullKey, u32)>, position: Position) {
        let mut inner = self.lock();
        inner.position = position;
        if inner.collecting {
            let idle = inner.filling.is_empty();
            for (key, bytes) in keys {
                inner.filling_bytes += u64::from(bytes);
                if let Some(before) = inner.filling.insert(key, bytes) {
                    inner.filling_bytes -= u64::from(before);
                }
            }
            // An applier that gathers looks by itself when there is enough.
            if idle || inner.filling.len() >= GATHERED {
                self.changed.notify_all();
            }
        }
    }

    /// Adds a run that has become visible.
    pub(crate) fn publish_run(&self, run: Run) {
        let mut inner = self.lock();
        inner.position = run.after;
        inner.runs_seen += 1;
        inner.last_run = run.after.sequence;
        if inner.collecting {
            inner.runs.push_back(Arc::new(run));
            self.changed.notify_all();
        }
    }

    /// How many runs there were since the store was opened, and whether sled is said to hold all of them.
    pub(crate) fn runs(&self) -> (u64, bool) {
        let inner = self.lock();
        (inner.runs_seen, inner.applied().sequence >= inner.last_run)
    }

    /// Notes that so many records more of the first run are in sled; whether that still matters.
    pub(crate) fn drained_run(&self, lane: u64, records: usize) -> bool {
        let mut inner = self.lock();
        if inner.lane == lane {
            inner.run_done += records as u64;
        }
        inner.lane == lane
    }

    /// Notes that all of a run is in sled.
    pub(crate) fn finish_run(&self, lane: u64, run: &Arc<Run>) {
        let mut inner = self.lock();
        let first = inner.runs.front();
        if inner.lane == lane && first.is_some_and(|first| Arc::ptr_eq(first, run)) {
            inner.runs.pop_front();
            inner.run_done = 0;
            if inner.filling.is_empty() && inner.draining.is_empty() {
                inner.applied = inner.position;
            }
            self.changed.notify_all();
        }
    }

    /// What sled holds at least, synced or not.
    pub(crate) fn applied(&self) -> Position {
        self.lock().applied()
    }

    /// Waits until fewer changes wait than the limits say.
    pub(crate) fn wait_room(&self, limits: Limits) {
        drop(
            self.changed
                .wait_while(self.lock(), |inner| inner.is_full(limits))
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// Whether fewer changes wait than the limits say.
    pub(crate) fn has_room(&self, limits: Limits) -> bool {
        !self.lock().is_full(limits)
    }

    /// What the applier `lane` is to do, waiting up to `patience` for something. With `run` a run comes before the rest.
    pub(crate) fn take(&self, lane: u64, patience: Duration, run: bool) -> Work {
        let nothing = |inner: &mut Inner| {
            let idle = inner.filling.is_empty() && inner.runs.is_empty();
            inner.lane == lane && idle && !inner.stopping
        };
        let waited = self
            .changed
            .wait_timeout_while(self.lock(), patience, nothing);
        let (inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let few = |inner: &mut Inner| {
            let gathered = inner.filling.len();
            let few = (1..GATHERED).contains(&gathered) && inner.runs.is_empty();
            inner.lane == lane && few && !inner.stopping
        };
        let waited = self.changed.wait_timeout_while(inner, GATHER, few);
        let (mut inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if inner.lane != lane {
            return Work::Stale;
        }
        // What is left of a run when the store stops is read again when it is opened.
        let next = inner.runs.front().filter(|_| !inner.stopping);
        if let Some(next) = next.filter(|_| run || inner.filling.is_empty()) {
            return Work::Run(Arc::clone(next));
        }
        if inner.filling.is_empty() {
            return if inner.stopping {
                Work::Stop
            } else {
                Work::Idle
            };
        }
        let filling = std::mem::take(&mut inner.filling);
        inner.draining = filling.into_keys().collect();
        inner.draining_left = inner.draining.len() as u64;
        inner.draining_bytes = std::mem::take(&mut inner.filling_bytes);
        Work::Apply(Arc::clone(&inner.draining), inner.position)
    }

    /// Notes that `keys` more of those taken are in sled; whether that still matters.
    pub(crate) fn drained(&self, lane: u64, keys: usize) -> bool {
        let mut inner = self.lock();
        if inner.lane == lane {
            inner.draining_left = inner.draining_left.saturating_sub(keys as u64);
            self.changed.notify_all();
        }
        inner.lane == lane
    }

    /// Whether this applier has not been given up.
    pub(crate) fn is_current(&self, lane: u64) -> bool {
        self.lock().lane == lane
    }

    /// Notes that all keys taken are in sled, which now holds at least `position`, but for the runs.
    pub(crate) fn finish(&self, lane: u64, position: Position) {
        let mut inner = self.lock();
        if inner.lane == lane {
            inner.draining = Arc::default();
            (inner.draining_left, inner.draining_bytes) = (0, 0);
            inner.applied = position;
            self.changed.notify_all();
        }
    }

    /// Forgets sled and what waits for it; the number of the next applier.
    pub(crate) fn detach(&self) -> (u64, Option<Arc<Engine>>) {
        let mut inner = self.lock();
        inner.lane += 1;
        inner.collecting = false;
        inner.filling.clear();
        inner.runs.clear();
        inner.run_done = 0;
        inner.draining = Arc::default();
        (
            inner.filling_bytes,
            inner.draining_left,
            inner.draining_bytes,
        ) = (0, 0, 0);
        self.changed.notify_all();
        (inner.lane, inner.engine.take())
    }

    /// Begins to collect keys for a sled that is made anew from the index; everything up to the position returned is in
    /// the index already.
    pub(crate) fn collect(&self, lane: u64) -> Option<Position> {
        let mut inner = self.lock();
        if inner.lane != lane {
            return None;
        }
        inner.collecting = true;
        Some(inner.position)
    }

    /// Takes a sled into use that holds at least `applied`; what came later has been collected.
    pub(crate) fn attach(&self, lane: u64, engine: Arc<Engine>, applied: Position) -> bool {
        let mut inner = self.lock();
        if inner.lane == lane {
            inner.engine = Some(engine);
            inner.applied = applied;
            self.changed.notify_all();
        }
        inner.lane == lane
    }

    /// As [`Self::attach`], for a sled that lacks these keys and runs besides those that have been collected.
    pub(crate) fn attach_behind(
        &self,
        lane: u64,
        engine: Arc<Engine>,
        applied: Position,
        keys: BTreeMap<FullKey, u32>,
        runs: Vec<Run>,
    ) -> bool {
        let mut inner = self.lock();
        if inner.lane == lane {
            inner.last_run = inner
                .last_run
                .max(runs.last().map_or(0, |run| run.after.sequence));
            for run in runs.into_iter().rev() {
                inner.runs.push_front(Arc::new(run));
            }
            for (key, bytes) in keys {
                if let Entry::Vacant(vacant) = inner.filling.entry(key) {
                    vacant.insert(bytes);
                    inner.filling_bytes += u64::from(bytes);
                }
            }
        }
        drop(inner);
        self.attach(lane, engine, applied)
    }

    /// Waits for a complete sled, with the position it holds at least.
    pub(crate) fn wait_engine(&self, patience: Duration) -> Option<(Arc<Engine>, Position)> {
        let missing = |inner: &mut Inner| inner.engine.is_none() && !inner.stopping;
        let waited = self
            .changed
            .wait_timeout_while(self.lock(), patience, missing);
        let (inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        Some((Arc::clone(inner.engine.as_ref()?), inner.applied()))
    }

    /// Lets the applier end when everything is applied.
    pub(crate) fn stop(&self) {
        self.lock().stopping = true;
        self.changed.notify_all();
    }

    /// Up to `limit` keys of a range that are not in sled yet, and the sled to merge them with.
    pub(crate) fn view(&self, from: Bound<&[u8]>, prefix: &[u8], limit: usize) -> View {
        let inner = self.lock();
        let Some(engine) = &inner.engine else {
            return View {
                engine: None,
                keys: Vec::new(),
                cut: false,
                runs: Vec::new(),
            };
        };
        let within = |key: &&FullKey| key.starts_with(prefix);
        let filling = inner
            .filling
            .range::<[u8], _>((from, Bound::Unbounded))
            .map(|(key, _)| key);
        let mut keys: Vec<FullKey> = filling.take_while(within).take(limit).cloned().collect();
        let begin = inner.draining.partition_point(|key| match from {
            Bound::Included(from) => &**key < from,
            Bound::Excluded(from) => &**key <= from,
            Bound::Unbounded => false,
        });
        keys.extend(
            inner.draining[begin..]
                .iter()
                .take_while(within)
                .take(limit)
                .cloned(),
        );
        keys.sort_unstable();
        keys.dedup();
        let cut = keys.len() >= limit;
        keys.truncate(limit);
        View {
            engine: Some(Arc::clone(engine)),
            keys,
            cut,
            runs: inner.runs.iter().cloned().collect(),
        }
    }

    /// The state that readers see.
    pub(crate) fn position(&self) -> Position {
        self.lock().position
    }

    /// Changes that wait, and their bytes.
    pub(crate) fn lag(&self) -> (u64, u64) {
        let inner = self.lock();
        let (changes, bytes) = inner.lag();
        let records: u64 = inner.runs.iter().map(|run| run.named.records).sum();
        let all: u64 = inner.runs.iter().map(|run| run.named.bytes).sum();
        let left = records.saturating_sub(inner.run_done);
        (changes + left, bytes + all / records.max(1) * left)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn is_full(&self, limits: Limits) -> bool {
        let factor = if self.engine.is_some() {
            1
        } else {
            REBUILD_FACTOR
        };
        let (changes, bytes) = self.lag();
        self.collecting && (changes >= limits.changes * factor || bytes >= limits.bytes * factor)
    }

    /// What sled holds at least: nothing of what came after the first run that it lacks counts.
    fn applied(&self) -> Position {
        let before = self.runs.front().map(|run| run.before);
        before
            .filter(|before| before.sequence < self.applied.sequence)
            .unwrap_or(self.applied)
    }

    /// Changes that writers wait for. Runs do not count: they are in files, and as large as they are.
    fn lag(&self) -> (u64, u64) {
        let total = (self.draining.len() as u64).max(1);
        let draining_bytes = self.draining_bytes * self.draining_left / total;
        (
            self.filling.len() as u64 + self.draining_left,
            self.filling_bytes + draining_bytes,
        )
    }
}
