//! The index in memory that answers look-ups: every record, found by key without a lock, an allocation or a reference
//! count. One thread changes it (the loader, then the writer); any number of [`Session`]s read.
//!
//! The map is papaya's. A later, compact index keeps the interface: [`Reader`], [`Session`], [`Lookup`], and below them
//! [`Index::put`], [`Index::remove`], [`Index::page`].

use std::collections::BinaryHeap;
use std::hash::{Hash, Hasher};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use foldhash::quality::RandomState;
use papaya::{Equivalent, HashMap, LocalGuard};

use super::change::Space;
use super::record::{Packed, Record};

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
}

/// A record in the map; equal to another one when the keys are equal.
struct Slot(Packed);

/// A key to look for.
struct Probe<'a> {
    space: u8,
    key: &'a [u8],
}

impl Hash for Slot {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Probe {
            space: self.0.space_number(),
            key: self.0.key(),
        }
        .hash(state);
    }
}

impl Hash for Probe<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u8(self.space);
        state.write(self.key);
    }
}

impl PartialEq for Slot {
    fn eq(&self, other: &Self) -> bool {
        self.0.space_number() == other.0.space_number() && self.0.key() == other.0.key()
    }
}

impl Eq for Slot {}

impl Equivalent<Slot> for Probe<'_> {
    fn equivalent(&self, slot: &Slot) -> bool {
        self.space == slot.0.space_number() && self.key == slot.0.key()
    }
}

/// All records.
pub(crate) struct Index {
    records: HashMap<Slot, (), RandomState>,
    /// Bytes of the packed records.
    bytes: AtomicU64,
    miss: AtomicU8,
}

impl Index {
    pub(crate) fn new() -> Self {
        Self {
            records: HashMap::builder().hasher(RandomState::default()).build(),
            bytes: AtomicU64::new(0),
            miss: AtomicU8::new(Miss::Loading as u8),
        }
    }

    /// Puts a record in the place of the one under its key; returns the checksum of that one.
    pub(crate) fn put(&self, packed: Packed) -> Option<u64> {
        let guard = self.records.guard();
        let before = self
            .probe(packed.space_number(), packed.key(), &guard)
            .map(figures);
        self.bytes
            .fetch_add(packed.bytes().len() as u64, Ordering::Relaxed);
        self.records.insert(Slot(packed), (), &guard);
        before.map(|(checksum, length)| {
            self.bytes.fetch_sub(length, Ordering::Relaxed);
            checksum
        })
    }

    /// Puts a record unless there is one under its key. Returns whether it was put.
    pub(crate) fn put_if_absent(&self, packed: Packed) -> bool {
        let guard = self.records.guard();
        let length = packed.bytes().len() as u64;
        let put = self.records.try_insert(Slot(packed), (), &guard).is_ok();
        if put {
            self.bytes.fetch_add(length, Ordering::Relaxed);
        }
        put
    }

    /// Removes the record under a key; returns its checksum.
    pub(crate) fn remove(&self, space: u8, key: &[u8]) -> Option<u64> {
        let guard = self.records.guard();
        let (slot, ()) = self.records.remove_entry(&Probe { space, key }, &guard)?;
        let (checksum, length) = figures(&slot.0);
        self.bytes.fetch_sub(length, Ordering::Relaxed);
        Some(checksum)
    }

    /// Calls `read` with the record under a key.
    pub(crate) fn with<T>(
        &self,
        space: u8,
        key: &[u8],
        read: impl FnOnce(&Packed) -> T,
    ) -> Option<T> {
        self.probe(space, key, &self.records.guard()).map(read)
    }

    /// Calls `visit` with every record, in no order. Records that change meanwhile are seen before or after that.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(&Packed)) {
        for (slot, ()) in self.records.pin().iter() {
            visit(&slot.0);
        }
    }

    /// The first `limit` keys of a range (each a space number and a key) that begin with `prefix`, in order. Reads the
    /// whole index.
    pub(crate) fn page(&self, from: Bound<&[u8]>, prefix: &[u8], limit: usize) -> Vec<Vec<u8>> {
        let mut smallest: BinaryHeap<Vec<u8>> = BinaryHeap::new();
        self.for_each(|packed| {
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
        self.records.pin().clear();
        self.bytes.store(0, Ordering::Relaxed);
    }

    /// How many records there are.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// Bytes of keys and records.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Says what a miss means from now on. It may only ever leave `Loading`.
    pub(crate) fn set_miss(&self, miss: Miss) {
        self.miss.store(miss as u8, Ordering::Release);
    }

    /// What a miss means. Must be read before the look-up whose miss it explains.
    pub(crate) fn miss(&self) -> Miss {
        match self.miss.load(Ordering::Acquire) {
            1 => Miss::Absent,
            2 => Miss::Damaged,
            _ => Miss::Loading,
        }
    }

    fn probe<'g>(&self, space: u8, key: &[u8], guard: &'g LocalGuard<'_>) -> Option<&'g Packed> {
        self.records
            .get_key_value(&Probe { space, key }, guard)
            .map(|(slot, ())| &slot.0)
    }
}

/// Checksum and size of a record.
fn figures(packed: &Packed) -> (u64, u64) {
    (packed.checksum(), packed.bytes().len() as u64)
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
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Reader {
    pub(crate) fn new(index: Arc<Index>) -> Self {
        Self { index }
    }

    /// Begins to read. Records found stay as they are until the session is dropped, so keep it for a batch, not for
    /// longer: what is replaced meanwhile cannot be freed.
    #[must_use]
    pub fn session(&self) -> Session<'_> {
        Session {
            index: &self.index,
            guard: self.index.records.guard(),
        }
    }
}

/// A stretch of reading, of one thread.
pub struct Session<'r> {
    index: &'r Index,
    guard: LocalGuard<'r>,
}

impl std::fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl Session<'_> {
    /// Looks up folded handles: `found[i]` becomes what is known about `keys[i]`, for as many as both have.
    pub fn find<'s>(&'s self, keys: &[&[u8]], found: &mut [Lookup<'s>]) {
        for (key, found) in keys.iter().zip(found) {
            *found = self.get(Space::Handle, key);
        }
    }

    /// Looks up one key of any space.
    #[must_use]
    pub fn get<'s>(&'s self, space: Space, key: &[u8]) -> Lookup<'s> {
        // Before the look-up: a miss that was complete then is a miss.
        let miss = self.index.miss();
        match self.index.probe(space.number(), key, &self.guard) {
            Some(packed) => Lookup::Found(packed.record()),
            None => match miss {
                Miss::Absent => Lookup::Absent,
                Miss::Loading => Lookup::Loading,
                Miss::Damaged => Lookup::Damaged,
            },
        }
    }
}
