//! The index in memory that answers look-ups: every record, found by key without a lock, an allocation or a reference
//! count. One thread at a time changes it: the writer, or before that the loader, and in turn with it whoever looks up what
//! is not here yet, which then is fetched. Any number of [`Session`]s read.
//!
//! * `memory`: slots, records, and the unsafe code that reads them in place.
//! * `epoch`: when memory can be freed.
//! * `sync`: what `epoch` is made of, so that a test can put a model in its place.

mod epoch;
mod memory;
#[cfg(test)]
mod tests;
mod sync {
    pub(super) use std::sync::atomic::{AtomicU64, Ordering, fence};
    pub(super) use std::sync::{Arc, Mutex, PoisonError};
}

use std::collections::BinaryHeap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::change::Space;
use super::record::{PackedRef, Record};
use memory::bulk;
use memory::{Memory, Seated, Visit};

/// Puts records of a space under these keys into the index, as far as they can be had quickly.
pub(crate) type Fetch = dyn Fn(&Index, u8, &[&[u8]]) + Send + Sync;

/// What is known about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup<'s> {
    /// This is its record.
    Found(Record<'s>),
    /// There is no record.
    Absent,
    /// Not known yet: the store is loading. Answer "too busy".
    Loading,
    /// Not known, and it will not be: the store is damaged beyond what it can heal by itself.
    Damaged,
}

/// What a miss means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Miss {
    /// Not known yet.
    Loading = 0,
    /// There is no such record.
    Absent = 1,
    /// The data cannot be loaded.
    Damaged = 2,
    /// Not known yet, nor is what is there: older records are there before newer ones.
    Closed = 3,
}

/// All records.
pub(crate) struct Index {
    memory: Arc<Memory>,
    miss: AtomicU8,
    /// How records can be had that are not here yet.
    fetch: Mutex<Option<Arc<Fetch>>>,
}

impl Index {
    pub(crate) fn new() -> Self {
        Self {
            memory: Arc::new(Memory::new()),
            miss: AtomicU8::new(Miss::Closed as u8),
            fetch: Mutex::default(),
        }
    }

    /// Puts a record in the place of the one under its key; returns the checksum of that one.
    pub(crate) fn put(&self, packed: PackedRef<'_>) -> Option<u64> {
        let mut before = None;
        self.memory.put(packed.bytes(), |old| {
            before = old.map(|old| PackedRef::of_index(old).checksum());
            true
        });
        before
    }

    /// Puts a record unless there is one under its key. Returns whether it was put.
    pub(crate) fn put_if_absent(&self, packed: PackedRef<'_>) -> bool {
        let mut absent = false;
        self.memory.put(packed.bytes(), |old| {
            absent = old.is_none();
            absent
        });
        absent
    }

    /// As [`Self::put_if_absent`], of many records; calls `put` with each that was put.
    pub(crate) fn fill(&self, records: &[PackedRef<'_>], mut put: impl FnMut(PackedRef<'_>)) {
        let records = records.iter().map(|packed| packed.bytes());
        self.memory.put_all(records, |packed, old| {
            if old.is_none() {
                put(PackedRef::of_index(packed));
            }
            old.is_none()
        });
    }

    /// Begins to gather records that are to be put at once.
    pub(crate) fn stage(&self) -> Stage {
        Stage {
            memory: Arc::clone(&self.memory),
            stage: bulk::Stage::default(),
            count: 0,
            sum: 0,
        }
    }

    /// Gets everything ready for putting what was gathered. Until what comes out is published or dropped, nothing else can
    /// be changed.
    pub(crate) fn prepare(&self, stage: Stage) -> Prepared<'_> {
        let (mut count, mut sum) = (stage.count, stage.sum);
        let tables = self.memory.prepare(stage.stage, |old| {
            count -= 1;
            sum ^= PackedRef::of_index(old).checksum();
        });
        Prepared { tables, count, sum }
    }

    /// Removes the record under a key; returns its checksum.
    pub(crate) fn remove(&self, space: u8, key: &[u8]) -> Option<u64> {
        let mut before = None;
        self.memory.remove(space, key, |old| {
            before = Some(PackedRef::of_index(old).checksum());
        });
        before
    }

    /// Calls `read` with the record under a key. Who reads often keeps a [`Reader`].
    pub(crate) fn with<T>(
        &self,
        space: u8,
        key: &[u8],
        read: impl FnOnce(PackedRef<'_>) -> T,
    ) -> Option<T> {
        let seated = Seated::new(Arc::clone(&self.memory));
        let visit = seated.visit();
        visit
            .get(space, key)
            .map(|packed| read(PackedRef::of_index(packed)))
    }

    /// Calls `visit` with every record, in no order. Records that change meanwhile are seen before or after that.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(PackedRef<'_>)) {
        self.memory
            .for_each(None, |packed| visit(PackedRef::of_index(packed)));
    }

    /// The first `limit` keys of a range (each a space number and a key) that begin with `prefix`, in order. Reads the
    /// whole index, or with a prefix the whole space.
    pub(crate) fn page(&self, from: Bound<&[u8]>, prefix: &[u8], limit: usize) -> Vec<Vec<u8>> {
        let mut smallest: BinaryHeap<Vec<u8>> = BinaryHeap::new();
        self.memory.for_each(prefix.first().copied(), |packed| {
            let packed = PackedRef::of_index(packed);
            let key = Place {
                space: packed.space_number(),
                key: packed.key(),
            };
            let within = match from {
                Bound::Included(from) => key.compare(from).is_ge(),
                Bound::Excluded(from) => key.compare(from).is_gt(),
                Bound::Unbounded => true,
            };
            if !within || !key.starts_with(prefix) {
                return;
            }
            if smallest.len() == limit {
                if smallest
                    .peek()
                    .is_none_or(|largest| key.compare(largest).is_ge())
                {
                    return;
                }
                smallest.pop();
            }
            smallest.push([&[key.space], key.key].concat());
        });
        smallest.into_sorted_vec()
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        self.memory.clear();
    }

    /// Frees what no reader can see any more, and gives a little of what is dead back; now and then, when nothing is
    /// written.
    pub(crate) fn tend(&self) {
        self.memory.tend();
    }

    /// How many records there are.
    pub(crate) fn len(&self) -> usize {
        self.memory.figures().records.load(Ordering::Relaxed) as usize
    }

    /// Bytes of keys and records.
    pub(crate) fn bytes(&self) -> u64 {
        self.memory.figures().bytes.load(Ordering::Relaxed)
    }

    /// Bytes of records that were replaced or removed and whose memory is not free yet.
    pub(crate) fn dead_bytes(&self) -> u64 {
        self.memory.figures().dead.load(Ordering::Relaxed)
    }

    /// Says what a miss means from now on. It never leaves `Absent` and `Damaged`.
    pub(crate) fn set_miss(&self, miss: Miss) {
        self.miss.store(miss as u8, Ordering::Release);
    }

    /// Says how records can be had that are not here yet, while a miss means that it is not known yet.
    pub(crate) fn set_fetch(&self, fetch: Option<Arc<Fetch>>) {
        *self.fetch.lock().unwrap_or_else(PoisonError::into_inner) = fetch;
    }

    /// Fetches records that are not here yet.
    fn fetch(&self, space: u8, keys: &[&[u8]]) {
        // Not held while it is read: the loader waits for it at the end.
        let fetch = {
            let fetch = self.fetch.lock().unwrap_or_else(PoisonError::into_inner);
            fetch.clone()
        };
        if let Some(fetch) = fetch {
            fetch(self, space, keys);
        }
    }

    /// What a miss means. Must be read before the look-up whose miss it explains.
    #[inline]
    pub(crate) fn miss(&self) -> Miss {
        match self.miss.load(Ordering::Acquire) {
            1 => Miss::Absent,
            2 => Miss::Damaged,
            3 => Miss::Closed,
            _ => Miss::Loading,
        }
    }
}

/// Records that are in memory already, and that nobody finds.
pub(crate) struct Stage {
    memory: Arc<Memory>,
    stage: bulk::Stage,
    count: i64,
    sum: u64,
}

impl Stage {
    /// Adds a record; it replaces one that was added before under its key.
    pub(crate) fn add(&mut self, packed: PackedRef<'_>) {
        self.stage.add(packed.bytes(), &self.memory);
        self.count += 1;
        self.sum ^= packed.checksum();
    }
}

/// Records that only need to be published, and what the index adds up to then.
pub(crate) struct Prepared<'i> {
    tables: bulk::Prepared<'i>,
    /// How many records there are more.
    pub(crate) count: i64,
    /// Exclusive-or of the checksums of those that come and those that they replace.
    pub(crate) sum: u64,
}

impl Prepared<'_> {
    /// Lets readers find the records.
    pub(crate) fn publish(self) {
        self.tables.publish();
    }
}

/// A key and its space, which elsewhere are put together.
struct Place<'a> {
    space: u8,
    key: &'a [u8],
}

impl Place<'_> {
    fn compare(&self, with: &[u8]) -> std::cmp::Ordering {
        match with.split_first() {
            None => std::cmp::Ordering::Greater,
            Some((space, key)) => self.space.cmp(space).then_with(|| self.key.cmp(key)),
        }
    }

    fn starts_with(&self, prefix: &[u8]) -> bool {
        prefix
            .split_first()
            .is_none_or(|(space, key)| self.space == *space && self.key.starts_with(key))
    }
}

/// What a reading thread holds: it makes sessions.
pub struct Reader {
    index: Arc<Index>,
    seated: Seated,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Reader {
    pub(crate) fn new(index: Arc<Index>) -> Self {
        let seated = Seated::new(Arc::clone(&index.memory));
        Self { index, seated }
    }

    /// Begins to read. Records found stay as they are until the session is dropped, so keep it for a batch, not for
    /// longer: what is replaced meanwhile cannot be freed.
    #[must_use]
    #[inline]
    pub fn session(&self) -> Session<'_> {
        Session {
            index: &self.index,
            visit: self.seated.visit(),
        }
    }

    /// Calls `read` with the record under a key.
    pub(crate) fn with<T>(
        &self,
        space: u8,
        key: &[u8],
        read: impl FnOnce(PackedRef<'_>) -> T,
    ) -> Option<T> {
        let visit = self.seated.visit();
        visit
            .get(space, key)
            .map(|packed| read(PackedRef::of_index(packed)))
    }
}

/// A stretch of reading, of one thread.
pub struct Session<'r> {
    index: &'r Index,
    visit: Visit<'r>,
}

impl std::fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl Session<'_> {
    /// Looks up folded handles and calls `found` with what is known about each, in order. While that works on one, the
    /// memory of those behind it is fetched, so a batch costs far less than as many single look-ups.
    #[inline]
    pub fn each<'s>(&'s self, keys: &[&[u8]], mut found: impl FnMut(usize, Lookup<'s>)) {
        // Before the look-ups: a miss that was complete then is a miss.
        let missed = match self.missed() {
            None => return (0..keys.len()).for_each(|at| found(at, Lookup::Loading)),
            Some(Lookup::Loading) => return self.each_while_loading(keys, &mut found),
            Some(missed) => missed,
        };
        self.visit.find(Space::Handle.number(), keys, |at, packed| {
            found(at, packed.map_or(missed, known));
        });
    }

    /// As [`Self::each`]: `found[i]` becomes what is known about `keys[i]`, for as many as both have.
    #[inline]
    pub fn find<'s>(&'s self, keys: &[&[u8]], found: &mut [Lookup<'s>]) {
        let keys = &keys[..keys.len().min(found.len())];
        self.each(keys, |at, known| found[at] = known);
    }

    /// What is not known yet is fetched, all of it at once.
    #[cold]
    fn each_while_loading<'s>(&'s self, keys: &[&[u8]], found: &mut dyn FnMut(usize, Lookup<'s>)) {
        let space = Space::Handle.number();
        let mut all = vec![Lookup::Loading; keys.len()];
        self.visit.find(space, keys, |at, packed| {
            all[at] = packed.map_or(Lookup::Loading, known);
        });
        let unknown: Vec<usize> = (0..keys.len())
            .filter(|at| matches!(all[*at], Lookup::Loading))
            .collect();
        let wanted: Vec<&[u8]> = unknown.iter().map(|at| keys[*at]).collect();
        self.index.fetch(space, &wanted);
        for at in unknown {
            all[at] = self
                .visit
                .get(space, keys[at])
                .map_or(Lookup::Loading, known);
        }
        for (at, known) in all.into_iter().enumerate() {
            found(at, known);
        }
    }

    /// Looks up one key of any space.
    #[must_use]
    #[inline]
    pub fn get<'s>(&'s self, space: Space, key: &[u8]) -> Lookup<'s> {
        let Some(missed) = self.missed() else {
            return Lookup::Loading;
        };
        let get = || self.visit.get(space.number(), key);
        match get() {
            None if matches!(missed, Lookup::Loading) => {
                self.index.fetch(space.number(), &[key]);
                get().map_or(missed, known)
            }
            packed => packed.map_or(missed, known),
        }
    }

    /// What a miss means; none when not even a hit means anything.
    fn missed(&self) -> Option<Lookup<'static>> {
        match self.index.miss() {
            Miss::Absent => Some(Lookup::Absent),
            Miss::Loading => Some(Lookup::Loading),
            Miss::Damaged => Some(Lookup::Damaged),
            Miss::Closed => None,
        }
    }
}

#[inline]
fn known(packed: &[u8]) -> Lookup<'_> {
    Lookup::Found(PackedRef::of_index(packed).record())
}
