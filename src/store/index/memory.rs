//! The memory of the index, and the only unsafe code of this crate.
//!
//! ```text
//! hash of space and key ─┬─→ segment ─→ root: where its table is, how many lines that has
//!                        └─→ tag ─→ line of the table: eight slots ─→ block in a region: length, packed record
//! ```
//!
//! * A *slot* is 19 bits of the hash (the tag) and 45 bits of place: the address of a block, divided by 8. A miss touches
//!   one line of slots and no record, but for one tag in some hundreds that is equal by chance.
//! * A *table* is the slots of one segment. It grows by a copy that takes its place, made from tags alone, within some ten
//!   microseconds, and with a new region for tables some hundred. The line of a slot follows from its tag; a full line
//!   spills over into the next one.
//! * A *region* is 2 MiB into which blocks are written one after the other, in huge pages where the system has them. A
//!   record that is replaced or removed leaves a dead block. When too much is dead, [`Writer::clean`] moves the live blocks
//!   out of the region that has most of it, a few with every change, and then frees it. So no change waits for more than
//!   some microseconds of it.
//!
//! # Invariants
//!
//! 1. *One writer.* Tables and regions are changed under the lock of [`Writer`] only; slots and roots are atomic.
//! 2. *Written, then published.* A block or table is complete before the slot or root that leads to it is stored with
//!    `Release`; readers load with `Acquire`. But for the mark of death, an atomic of its own, a block never changes.
//! 3. *Unreachable, then retired, then freed.* A table is retired after its root was changed, and its region, if it has one
//!    with others, is freed with the last of them; a region after every block in it was moved or dead, so that no slot
//!    leads to it. What is retired is freed when [`Domain::horizon`] is past its
//!    number: no reader that could have found a way to it is still looking.
//! 4. *No look without a seat.* Slots, tables and blocks are followed by a [`Visit`], which has entered its seat until it is
//!    dropped, or under the writer's lock. What a visit returns borrows it.
//! 5. *A line without an empty slot never gets one*; hence a search may end at the first line that has one.
//! 6. A place is an address below 2^48 and a multiple of 8 within a region; roots likewise, of a multiple of 64. Both were
//!    exposed when they were made. A tag is never 0, so neither an empty slot nor a grave has one that is searched for.
//! 7. A block lies within its region: its length was checked when it was written.
//! 8. Regions and blocks of a [`Stage`] are its own, and no published slot leads to them, until [`Prepared::publish`].
//!
//! [`Stage`]: bulk::Stage
//! [`Prepared::publish`]: bulk::Prepared::publish
#![expect(
    unsafe_code,
    reason = "records are read in place while others are written: a look-up costs a third of what it did with a map \
              of reference-counted records, and a record a quarter less memory; benches/store.rs measures both"
)]

pub(super) mod bulk;
pub(super) mod table;

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::quality::RandomState;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

use super::epoch::{Domain, Seat};
use table::{LINE, LINES_MAX, Line, Table, Tables, copy_slots, home, insert, lines, search};

/// Segments of handles; with ten million, a table of one has some 4,000 slots.
const HANDLE_SEGMENTS: usize = if cfg!(test) { 16 } else { 4096 };
/// Segments of each other space.
const OTHER_SEGMENTS: usize = 256;
const SPACES: usize = 4;
/// A table grows when more than this many of four slots are taken.
const FULL_QUARTERS: usize = 3;
/// Bits of a place; the rest of a slot is the tag.
const PLACE_BITS: u32 = 45;
const TAG_BITS: u32 = 64 - PLACE_BITS;
/// Bits of an address in a root; the rest is the number of lines.
const ADDRESS_BITS: u32 = 48;
/// A slot in which nothing ever was.
const EMPTY: u64 = 0;
/// A slot of a full line whose record is gone.
const GRAVE: u64 = 1;
/// Bytes of a region: a huge page.
const REGION: usize = 2 << 20;
/// Bytes of a block before its record: its length, and whether it is dead.
const HEADER: usize = 4;
/// Blocks begin at multiples of this.
const ALIGNMENT: usize = 8;
const DEAD: u32 = 1 << 31;
/// Regions are cleaned when this share of what is live, in percent, and this many bytes are dead.
const DEAD_PERCENT: u64 = 12;
const DEAD_BYTES: u64 = if cfg!(test) { 1 << 20 } else { 16 << 20 };
/// Bytes of a region that are looked at for each byte written, while it is cleaned: with a region that is a twelfth dead,
/// cleaning just keeps up at 12.
const CLEAN_FACTOR: usize = 16;
/// Bytes of a record before its key: space and length of the key.
const KEY_START: usize = 3;
/// Tables that are moved in one go.
const TABLES_MOVED: usize = 32;
/// Records whose slots are fetched side by side before they are put.
const BATCH: usize = 32;
/// Keys that are looked up side by side. Of one, two, four, eight and sixteen, two and four cost least.
const GROUP: usize = 4;
/// Stages of a look-up.
const STAGES: usize = 4;
/// Bytes that a processor fetches at once.
const CACHE_LINE: usize = 64;
/// Bytes of a record that are fetched ahead of their use; longer ones are read in a row, which the processor foresees.
const FETCH_AHEAD: usize = 512;

/// What was asked for: where it must be.
#[derive(Clone, Copy, Default)]
struct Hashed {
    segment: usize,
    tag: u64,
}

/// See the module.
pub(super) struct Memory {
    hasher: RandomState,
    /// A word for each segment: address of its table, and number of its lines; 0 for no table.
    roots: Box<[AtomicU64]>,
    domain: Domain,
    writer: Mutex<Writer>,
    figures: Figures,
}

/// Sizes, for those who do not write.
#[derive(Default)]
pub(super) struct Figures {
    /// Records.
    pub(super) records: AtomicU64,
    /// Bytes of the packed records.
    pub(super) bytes: AtomicU64,
    /// Bytes of dead blocks.
    pub(super) dead: AtomicU64,
}

impl Figures {
    fn add(of: &AtomicU64, more: usize) {
        of.store(of.load(Ordering::Relaxed) + more as u64, Ordering::Relaxed);
    }

    fn take(of: &AtomicU64, less: usize) {
        let left = of.load(Ordering::Relaxed).saturating_sub(less as u64);
        of.store(left, Ordering::Relaxed);
    }
}

// ------------------------------------------------------------------------------------------------ raw memory

/// A region's memory: 2 MiB at a multiple of 2 MiB, zeros at first.
struct Pages(NonNull<u8>);

// SAFETY: it is plain memory, owned by whoever has this; who reads it is ruled by invariants 2 to 4.
unsafe impl Send for Pages {}
// SAFETY: it is only looked at through what was made of it.
unsafe impl Sync for Pages {}

impl Pages {
    fn new() -> Self {
        let map = |bytes: usize| {
            let bytes = NonZeroUsize::new(bytes).unwrap_or(NonZeroUsize::MIN);
            let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
            // SAFETY: a new private mapping at a place that the system chooses touches no other memory.
            let mapped = unsafe { mmap_anonymous(None, bytes, access, MapFlags::MAP_PRIVATE) };
            let Ok(mapped) = mapped else {
                // As when any other memory of ours cannot be had.
                std::alloc::handle_alloc_error(std::alloc::Layout::new::<[u8; REGION]>())
            };
            mapped.cast::<u8>()
        };
        let unmap = |start: NonNull<u8>, bytes: usize| {
            if bytes > 0 {
                // SAFETY: this part of the mapping was made a moment ago, and nobody else knows of it.
                let unmapped = unsafe { munmap(start.cast(), bytes) };
                debug_assert!(unmapped.is_ok());
            }
        };
        let mut start = map(REGION);
        if !start.addr().get().is_multiple_of(REGION) {
            unmap(start, REGION);
            start = map(2 * REGION);
            let before = start.addr().get().next_multiple_of(REGION) - start.addr().get();
            unmap(start, before);
            // SAFETY: `before` is less than REGION and the mapping has twice that.
            let aligned = unsafe { start.add(before) };
            // SAFETY: as above: it has REGION bytes, and REGION - before behind them.
            unmap(unsafe { aligned.add(REGION) }, REGION - before);
            start = aligned;
        }
        // Without huge pages it is only slower.
        // SAFETY: advice changes nothing that a program can see but its speed.
        let _ = unsafe { madvise(start.cast(), REGION, MmapAdvise::MADV_HUGEPAGE) };
        assert!(
            start.addr().get() >> ADDRESS_BITS == 0,
            "addresses have 48 bits"
        );
        start.as_ptr().expose_provenance();
        Self(start)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: it is ours, mapped with this size; by invariant 3 nobody looks at it any more.
        let unmapped = unsafe { munmap(self.0.cast(), REGION) };
        debug_assert!(unmapped.is_ok());
    }
}

/// The address of the block that a slot leads to.
#[inline]
fn address(slot: u64) -> usize {
    ((slot & ((1 << PLACE_BITS) - 1)) << 3) as usize
}

/// The slot of a block.
#[inline]
fn slot(tag: u64, address: usize) -> u64 {
    debug_assert!(address.is_multiple_of(ALIGNMENT) && address >> ADDRESS_BITS == 0);
    tag << PLACE_BITS | (address as u64) >> 3
}

/// The tag of a slot.
#[inline]
fn tag(slot: u64) -> u64 {
    slot >> PLACE_BITS
}

/// The header of a block.
///
/// # Safety
/// As for [`record`].
#[inline]
unsafe fn header<'a>(address: usize) -> &'a AtomicU32 {
    // SAFETY: invariants 2, 6 and 7: a written, aligned header is there; it is only ever used as an atomic.
    unsafe { AtomicU32::from_ptr(ptr::with_exposed_provenance_mut(address)) }
}

/// The packed record in a block.
///
/// # Safety
/// `address` is that of a block, from a slot or a walk through a region, within the visit, or under the lock, for which the
/// result is used.
#[inline]
unsafe fn record<'a>(address: usize) -> &'a [u8] {
    // SAFETY: says the caller.
    let length = unsafe { header(address) }.load(Ordering::Relaxed) & !DEAD;
    let first = ptr::with_exposed_provenance::<u8>(address + HEADER);
    // SAFETY: invariants 2 and 7: so many bytes were written there before the slot was, and do not change.
    unsafe { std::slice::from_raw_parts(first, length as usize) }
}

/// Tells the processor that the bytes at `address` are about to be read. Elsewhere than on x86-64 it is left to itself.
#[inline]
fn fetch(address: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let place = ptr::without_provenance::<i8>(address);
        // SAFETY: a prefetch reads nothing, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(place) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Whether a packed record is that under a key.
#[inline]
fn is_under(packed: &[u8], space: u8, key: &[u8]) -> bool {
    key_of(packed) == (space, key)
}

/// Space and key of a packed record.
#[inline]
fn key_of(packed: &[u8]) -> (u8, &[u8]) {
    let length = usize::from(u16::from_be_bytes([packed[1], packed[2]]));
    (packed[0], &packed[KEY_START..KEY_START + length])
}

/// The segments of a space.
fn segments(space: u8) -> Range<usize> {
    match usize::from(space) {
        ..=1 => 0..HANDLE_SEGMENTS,
        other => {
            let begin = HANDLE_SEGMENTS + (other.min(SPACES) - 2) * OTHER_SEGMENTS;
            begin..begin + OTHER_SEGMENTS
        }
    }
}

// ------------------------------------------------------------------------------------------------ reading

/// A reading thread's seat. It may be sent to another thread, not shared.
pub(super) struct Seated {
    memory: Arc<Memory>,
    seat: Arc<Seat>,
    /// Visits that are going on.
    visits: Cell<usize>,
}

impl Seated {
    pub(super) fn new(memory: Arc<Memory>) -> Self {
        let seat = memory.domain.join();
        Self {
            memory,
            seat,
            visits: Cell::new(0),
        }
    }

    /// Begins to look.
    #[inline]
    pub(super) fn visit(&self) -> Visit<'_> {
        if self.visits.replace(self.visits.get() + 1) == 0 {
            self.memory.domain.enter(&self.seat);
        }
        Visit { seated: self }
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        self.memory.domain.part(&self.seat);
    }
}

/// A stretch of looking: what it finds stays as it is until it is dropped.
pub(super) struct Visit<'m> {
    seated: &'m Seated,
}

impl Drop for Visit<'_> {
    #[inline]
    fn drop(&mut self) {
        let visits = self.seated.visits.get() - 1;
        self.seated.visits.set(visits);
        if visits == 0 {
            self.seated.memory.domain.leave(&self.seated.seat);
        }
    }
}

/// A key on its way through the stages of [`Visit::find`].
#[derive(Clone, Copy, Default)]
struct Sought<'v> {
    hashed: Hashed,
    table: &'v [Line],
    /// The first slot with its tag.
    slot: u64,
    /// The record in that slot.
    packed: Option<&'v [u8]>,
}

impl Sought<'_> {
    /// Finds the slot, whose line should be there, and has the beginning of its record fetched.
    #[inline]
    fn choose(&mut self) {
        let Some(line) = self.table.get(home(self.hashed.tag, self.table.len())) else {
            return;
        };
        let found = match line.first(self.hashed.tag) {
            (Some(slot), _) => slot,
            (None, true) => return,
            (None, false) => self.spilled(),
        };
        self.slot = found;
        fetch(address(found));
        fetch(address(found) + CACHE_LINE);
    }

    /// The first slot with its tag, wherever it is.
    #[inline(never)]
    fn spilled(&self) -> u64 {
        let mut found = EMPTY;
        // As it was seen: it may be a grave a moment later.
        search(self.table, self.hashed.tag, |slot| {
            found = slot;
            true
        });
        found
    }

    /// Finds out how long the record is, whose beginning should be there, and has the rest of it fetched.
    #[inline]
    fn fetch_rest(&mut self) {
        if self.slot == EMPTY {
            return;
        }
        // SAFETY: the slot is from a table of the visit that this borrows.
        let packed = unsafe { record(address(self.slot)) };
        let end = packed.len().min(FETCH_AHEAD) + HEADER;
        for ahead in (2 * CACHE_LINE..end).step_by(CACHE_LINE) {
            fetch(address(self.slot) + ahead);
        }
        self.packed = Some(packed);
    }
}

impl Visit<'_> {
    /// The packed record under a key.
    #[inline]
    pub(super) fn get<'v>(&'v self, space: u8, key: &[u8]) -> Option<&'v [u8]> {
        let memory = &*self.seated.memory;
        self.look(memory.hash(space, key), space, key)
    }

    #[inline]
    fn look<'v>(&'v self, hashed: Hashed, space: u8, key: &[u8]) -> Option<&'v [u8]> {
        let root = self.seated.memory.roots[hashed.segment].load(Ordering::Acquire);
        // SAFETY: loaded within this visit, and what follows from it borrows the visit.
        let table: &'v [Line] = unsafe { lines(root) };
        let mut found = None;
        search(table, hashed.tag, |slot| {
            // SAFETY: the slot is from the table of this visit.
            let packed: &'v [u8] = unsafe { record(address(slot)) };
            let is_it = is_under(packed, space, key);
            found = is_it.then_some(packed);
            is_it
        });
        found
    }

    /// Looks up many keys and calls `found` for each, in order. While one is being worked on, the memory of those behind it
    /// is on its way: that of a [`GROUP`] is asked for in one go, its lines of slots, a group later the beginnings of its
    /// records, then the rest of them.
    #[inline]
    pub(super) fn find<'v>(
        &'v self,
        space: u8,
        keys: &[&[u8]],
        mut found: impl FnMut(usize, Option<&'v [u8]>),
    ) {
        let mut under_way = [[Sought::default(); GROUP]; STAGES];
        let groups = keys.len().div_ceil(GROUP);
        for step in 0..groups + STAGES - 1 {
            // Of the group that is so many stages behind: its first place, its keys, and what is known of them where.
            let behind = |stages: usize| {
                let group = step.checked_sub(stages).unwrap_or(groups);
                let first = keys.len().min(group * GROUP);
                let end = keys.len().min(first + GROUP);
                (first, &keys[first..end], group % STAGES)
            };
            let (_, keys, at) = behind(0);
            for (sought, key) in under_way[at].iter_mut().zip(keys) {
                *sought = self.seek(space, key);
            }
            let (_, keys, at) = behind(1);
            for sought in &mut under_way[at][..keys.len()] {
                sought.choose();
            }
            let (_, keys, at) = behind(2);
            for sought in &mut under_way[at][..keys.len()] {
                sought.fetch_rest();
            }
            let (first, keys, at) = behind(3);
            for (place, (sought, key)) in under_way[at].iter().zip(keys).enumerate() {
                found(first + place, self.compare(sought, space, key));
            }
        }
    }

    /// Begins the search for a key.
    #[inline]
    fn seek<'v>(&'v self, space: u8, key: &[u8]) -> Sought<'v> {
        let memory = &*self.seated.memory;
        let hashed = memory.hash(space, key);
        let root = memory.roots[hashed.segment].load(Ordering::Acquire);
        // SAFETY: loaded within this visit, and what follows from it borrows the visit.
        let table: &'v [Line] = unsafe { lines(root) };
        if let Some(line) = table.get(home(hashed.tag, table.len())) {
            fetch(ptr::from_ref(line).addr());
        }
        Sought {
            hashed,
            table,
            packed: None,
            slot: EMPTY,
        }
    }

    /// Ends it: the record, if it is that under the key.
    #[inline]
    fn compare<'v>(&'v self, sought: &Sought<'v>, space: u8, key: &[u8]) -> Option<&'v [u8]> {
        let packed = sought.packed?;
        if is_under(packed, space, key) {
            return Some(packed);
        }
        // Another record with the same tag.
        self.look(sought.hashed, space, key)
    }

    /// Calls `visit` with every record of a segment. Records that change meanwhile are seen before or after that.
    fn segment<'v>(&'v self, segment: usize, visit: &mut impl FnMut(&'v [u8])) {
        let root = self.seated.memory.roots[segment].load(Ordering::Acquire);
        // SAFETY: loaded within this visit, and what follows from it borrows the visit.
        let table: &'v [Line] = unsafe { lines(root) };
        for slot in table.iter().flat_map(|line| &line.0) {
            let slot = slot.load(Ordering::Acquire);
            if address(slot) > ALIGNMENT {
                // SAFETY: the slot is from a table of this visit.
                visit(unsafe { record(address(slot)) });
            }
        }
    }
}

// ------------------------------------------------------------------------------------------------ the whole

impl Memory {
    pub(super) fn new() -> Self {
        let count = HANDLE_SEGMENTS + (SPACES - 1) * OTHER_SEGMENTS;
        Self {
            hasher: RandomState::default(),
            roots: (0..count).map(|_| AtomicU64::new(0)).collect(),
            domain: Domain::new(),
            writer: Mutex::new(Writer::new(count)),
            figures: Figures::default(),
        }
    }

    pub(super) fn figures(&self) -> &Figures {
        &self.figures
    }

    #[inline]
    fn hash(&self, space: u8, key: &[u8]) -> Hashed {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u8(space);
        hasher.write(key);
        let hash = hasher.finish();
        let segments = segments(space);
        let within = ((hash >> 32) as usize * segments.len()) >> 32;
        Hashed {
            segment: segments.start + within,
            // None of EMPTY and GRAVE.
            tag: (hash & ((1 << TAG_BITS) - 1)).max(1),
        }
    }

    /// Calls `visit` with every record, or with those of one space, in no order.
    pub(super) fn for_each(self: &Arc<Self>, space: Option<u8>, mut visit: impl FnMut(&[u8])) {
        let seated = Seated::new(Arc::clone(self));
        let all = 0..self.roots.len();
        for segment in space.map_or(all, segments) {
            // A visit for each, so that nothing is held back for long.
            seated.visit().segment(segment, &mut |packed| visit(packed));
        }
    }

    /// Shows `decide` the record that is under the key of `packed`, and puts `packed` in its place if that says so.
    pub(super) fn put(&self, packed: &[u8], decide: impl FnOnce(Option<&[u8]>) -> bool) {
        let (space, key) = key_of(packed);
        self.put_at(self.hash(space, key), &mut self.lock(), packed, decide);
    }

    /// As [`Self::put`], of many records, the memory of whose slots is fetched at the same time; `decide` is shown each
    /// with what is under its key.
    pub(super) fn put_all<'p>(
        &self,
        mut records: impl Iterator<Item = &'p [u8]> + Clone,
        mut decide: impl FnMut(&'p [u8], Option<&[u8]>) -> bool,
    ) {
        loop {
            let (mut hashes, mut count) = ([Hashed::default(); BATCH], 0);
            let mut writer = self.lock();
            for (packed, hashed) in records.clone().zip(&mut hashes) {
                let (space, key) = key_of(packed);
                *hashed = self.hash(space, key);
                let table = &writer.tables[hashed.segment];
                if let Some(line) = table.get(home(hashed.tag, table.len())) {
                    fetch(ptr::from_ref(line).addr());
                }
                count += 1;
            }
            for (packed, hashed) in records.by_ref().take(count).zip(hashes) {
                self.put_at(hashed, &mut writer, packed, |old| decide(packed, old));
            }
            if count < BATCH {
                return;
            }
        }
    }

    /// As [`Self::put`], of a record whose key has this hash.
    fn put_at(
        &self,
        hashed: Hashed,
        writer: &mut Writer,
        packed: &[u8],
        decide: impl FnOnce(Option<&[u8]>) -> bool,
    ) {
        let (space, key) = key_of(packed);
        let mut root = self.roots[hashed.segment].load(Ordering::Relaxed);
        // SAFETY: loaded under the lock.
        let mut table = unsafe { lines(root) };
        // SAFETY: the slots are from a table under the lock.
        let found = search(table, hashed.tag, |slot| {
            is_under(unsafe { record(address(slot)) }, space, key)
        });
        if let Some((line, at)) = found {
            let old = address(line.0[at].load(Ordering::Relaxed));
            // SAFETY: as above.
            if decide(Some(unsafe { record(old) })) {
                let new = writer.append(packed, self);
                line.0[at].store(slot(hashed.tag, new), Ordering::Release);
                writer.bury(old, self);
            }
        } else if decide(None) {
            let new = writer.append(packed, self);
            if writer.is_full(hashed.segment, table.len()) {
                root = writer.grow(hashed.segment, self);
                // SAFETY: the root that has just been stored, under the lock.
                table = unsafe { lines(root) };
            }
            let load = &mut writer.loads[hashed.segment];
            load.taken += u32::from(insert(table, hashed.tag, slot(hashed.tag, new)));
            load.live += 1;
            Figures::add(&self.figures.records, 1);
        } else {
            return;
        }
        writer.clean(packed.len() * CLEAN_FACTOR, self);
        writer.now_and_then(self);
    }

    /// Removes the record under a key, after showing it to `seen`; whether there was one.
    pub(super) fn remove(&self, space: u8, key: &[u8], seen: impl FnOnce(&[u8])) -> bool {
        let hashed = self.hash(space, key);
        let mut writer = self.lock();
        let root = self.roots[hashed.segment].load(Ordering::Relaxed);
        // SAFETY: loaded under the lock.
        let table = unsafe { lines(root) };
        // SAFETY: the slots are from a table under the lock.
        let found = search(table, hashed.tag, |slot| {
            is_under(unsafe { record(address(slot)) }, space, key)
        });
        let Some((line, at)) = found else {
            return false;
        };
        let old = address(line.0[at].load(Ordering::Relaxed));
        // SAFETY: as above.
        let packed = unsafe { record(old) };
        seen(packed);
        let mut others = line.0.iter().map(|slot| slot.load(Ordering::Relaxed));
        let (left, freed) = if others.any(|slot| slot == EMPTY) {
            (EMPTY, 1)
        } else {
            // Invariant 5: other records may have spilled over this line.
            (GRAVE, 0)
        };
        line.0[at].store(left, Ordering::Release);
        let load = &mut writer.loads[hashed.segment];
        load.taken -= freed;
        load.live -= 1;
        Figures::take(&self.figures.records, 1);
        let length = packed.len();
        writer.bury(old, self);
        writer.clean(length * CLEAN_FACTOR, self);
        writer.now_and_then(self);
        true
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        let mut guard = self.lock();
        let writer = &mut *guard;
        writer.loads.fill(Load::default());
        for (root, table) in self.roots.iter().zip(&mut writer.tables) {
            root.store(0, Ordering::Release);
            let table = std::mem::take(table);
            if !table.is_empty() {
                writer.limbo.push_back((0, Garbage::Table(table)));
            }
        }
        let regions = std::mem::take(&mut writer.regions);
        (writer.head, writer.cleaning, writer.live, writer.dead) = (None, None, 0, 0);
        writer.limbo.extend(
            regions
                .into_values()
                .map(|region| (0, Garbage::Region(region))),
        );
        let number = self.domain.retire();
        for (at, _) in &mut writer.limbo {
            // What was retired before goes with it; that is later than it could.
            *at = number;
        }
        for figure in [
            &self.figures.records,
            &self.figures.bytes,
            &self.figures.dead,
        ] {
            figure.store(0, Ordering::Relaxed);
        }
        writer.reclaim(self);
    }

    /// Frees what nobody sees any more, and cleans a little: for when nothing is written.
    pub(super) fn tend(&self) {
        // While many records are being put there is something to do, and somebody does it.
        let Ok(mut writer) = self.writer.try_lock() else {
            return;
        };
        writer.clean(REGION / 8, self);
        writer.gather(TABLES_MOVED, self);
        writer.reclaim(self);
    }

    /// Regions in which tables are, and how many tables' worth of lines.
    #[cfg(test)]
    pub(super) fn table_regions(&self) -> (usize, usize) {
        let writer = self.lock();
        let regions = writer.tables.iter().filter_map(Table::region);
        let regions: std::collections::HashSet<_> = regions.collect();
        let lines = writer.tables.iter().map(|table| table.len()).sum();
        (regions.len(), lines)
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// ------------------------------------------------------------------------------------------------ writing

/// What only the writer needs to know.
struct Writer {
    /// Of each segment.
    loads: Box<[Load]>,
    tables: Box<[Table]>,
    /// Where they are made.
    maker: Tables,
    /// By address, divided by their size.
    regions: HashMap<usize, Region, RandomState>,
    /// The region that is being filled.
    head: Option<usize>,
    /// Bytes of live and of dead blocks.
    live: u64,
    dead: u64,
    /// The region that is being cleaned, and where the next block to look at is.
    cleaning: Option<(usize, usize)>,
    /// What was retired, in the order of its numbers.
    limbo: VecDeque<(u64, Garbage)>,
    /// Changes since the limbo was looked at.
    changes: u32,
}

/// How full a table is.
#[derive(Clone, Copy, Default)]
struct Load {
    /// Slots that are not empty.
    taken: u32,
    /// Slots with a record.
    live: u32,
}

/// A region, and how it is used.
struct Region {
    pages: Pages,
    /// Bytes of its blocks, from its beginning on.
    used: usize,
    /// Those of dead ones.
    dead: usize,
}

impl Region {
    fn new() -> Self {
        Self {
            pages: Pages::new(),
            used: 0,
            dead: 0,
        }
    }

    /// Its name among the regions.
    fn number(&self) -> usize {
        self.pages.0.addr().get() / REGION
    }

    /// Writes a block; where it is, if there was room.
    fn write(&mut self, packed: &[u8]) -> Option<usize> {
        let size = size(packed.len());
        if self.used + size > REGION {
            return None;
        }
        // SAFETY: there are so many bytes left in the region. Nobody reads them before a slot leads there.
        let block = unsafe { self.pages.0.add(self.used) };
        self.used += size;
        // SAFETY: as above; the header is aligned because sizes and regions are, and the record follows it.
        unsafe {
            block.cast::<u32>().write(packed.len() as u32);
            let record = block.add(HEADER).as_ptr();
            ptr::copy_nonoverlapping(packed.as_ptr(), record, packed.len());
        }
        Some(block.addr().get())
    }
}

/// What is freed when nobody looks at it any more.
#[expect(dead_code, reason = "dropping it is what it is for")]
enum Garbage {
    Table(Table),
    Region(Region),
}

/// Changes between two looks at what can be freed.
const RECLAIM_EVERY: u32 = 64;

impl Writer {
    fn new(segments: usize) -> Self {
        Self {
            loads: vec![Load::default(); segments].into(),
            tables: (0..segments).map(|_| Table::default()).collect(),
            maker: Tables::default(),
            regions: HashMap::default(),
            head: None,
            live: 0,
            dead: 0,
            cleaning: None,
            limbo: VecDeque::new(),
            changes: 0,
        }
    }

    /// Writes a block; where it is.
    fn append(&mut self, packed: &[u8], memory: &Memory) -> usize {
        let size = size(packed.len());
        assert!(size <= REGION, "a record fits into a region");
        let head = self.head.and_then(|head| self.regions.get_mut(&head));
        let block = head
            .and_then(|region| region.write(packed))
            .unwrap_or_else(|| {
                let region = Region::new();
                let number = region.number();
                self.head = Some(number);
                let region = self.regions.entry(number).or_insert(region);
                region.write(packed).unwrap_or_default()
            });
        self.live += size as u64;
        Figures::add(&memory.figures.bytes, packed.len());
        block
    }

    /// Notes that no slot leads to a block any more.
    fn bury(&mut self, block: usize, memory: &Memory) {
        // SAFETY: a block's address, under the lock; its region is not retired, since this block was not dead.
        let length = unsafe { header(block) }.fetch_or(DEAD, Ordering::Relaxed) as usize;
        if let Some(region) = self.regions.get_mut(&(block / REGION)) {
            region.dead += size(length);
        }
        self.live -= size(length) as u64;
        self.dead += size(length) as u64;
        Figures::take(&memory.figures.bytes, length);
        memory.figures.dead.store(self.dead, Ordering::Relaxed);
    }

    fn is_full(&self, segment: usize, lines: usize) -> bool {
        let slots = lines * LINE;
        let taken = self.loads[segment].taken as usize + 1;
        taken * 4 > slots * FULL_QUARTERS && (lines < LINES_MAX || taken >= slots)
    }

    /// Puts a larger table in the place of a full one, or one without graves; its root.
    fn grow(&mut self, segment: usize, memory: &Memory) -> u64 {
        let live = self.loads[segment].live;
        let table = self.maker.make(live as usize + 1);
        copy_slots(&self.tables[segment], &table);
        self.replace(segment, table, live, memory)
    }

    /// Puts a table in the place of another, which nobody finds any more; its root.
    fn replace(&mut self, segment: usize, table: Table, live: u32, memory: &Memory) -> u64 {
        self.loads[segment] = Load { taken: live, live };
        let root = table.root();
        memory.roots[segment].store(root, Ordering::Release);
        let old = std::mem::replace(&mut self.tables[segment], table);
        if !old.is_empty() {
            self.retire(Garbage::Table(old), memory);
        }
        root
    }

    /// Moves up to so many tables out of regions that most others have left: who brings a few records at a time replaces
    /// some tables of each region, and would leave one or two in every one of them.
    fn gather(&mut self, most: usize, memory: &Memory) {
        let lonely =
            |(segment, table): (usize, &Table)| table.is_lonely(&self.maker).then_some(segment);
        let tables = self.tables.iter().enumerate();
        let lonely: Vec<usize> = tables.filter_map(lonely).take(most).collect();
        for segment in lonely {
            self.grow(segment, memory);
        }
    }

    /// Looks at up to `bytes` of blocks of the region that has most dead ones, if too many are dead, and moves the live.
    fn clean(&mut self, bytes: usize, memory: &Memory) {
        let mut left = bytes;
        while left > 0 {
            if self.cleaning.is_none() {
                if self.dead < DEAD_BYTES || self.dead < self.live / 100 * DEAD_PERCENT {
                    return;
                }
                self.cleaning = self.worst().map(|region| (region, region * REGION));
            }
            let Some((number, mut block)) = self.cleaning else {
                return;
            };
            let end = self.regions.get(&number).map_or(0, |region| region.used) + number * REGION;
            while block < end && left > 0 {
                // SAFETY: blocks lie one behind the other up to `used`, and the region is not retired.
                let length = unsafe { header(block) }.load(Ordering::Relaxed);
                if length & DEAD == 0 {
                    self.rescue(block, memory);
                }
                let size = size((length & !DEAD) as usize);
                block += size;
                left = left.saturating_sub(size);
            }
            self.cleaning = Some((number, block));
            if block >= end {
                self.cleaning = None;
                if let Some(region) = self.regions.remove(&number) {
                    self.dead -= region.dead as u64;
                    memory.figures.dead.store(self.dead, Ordering::Relaxed);
                    self.retire(Garbage::Region(region), memory);
                }
            }
        }
    }

    /// The region with most dead bytes, but for that which is being filled.
    fn worst(&self) -> Option<usize> {
        let sealed = self
            .regions
            .iter()
            .filter(|(number, _)| Some(**number) != self.head);
        let worst = sealed.max_by_key(|(_, region)| region.dead)?;
        (worst.1.dead > 0).then_some(*worst.0)
    }

    /// Moves a live block to the region that is being filled.
    fn rescue(&mut self, block: usize, memory: &Memory) {
        // SAFETY: a block of a region that is not retired, under the lock.
        let packed = unsafe { record(block) };
        let (space, key) = key_of(packed);
        let hashed = memory.hash(space, key);
        let root = memory.roots[hashed.segment].load(Ordering::Relaxed);
        // SAFETY: loaded under the lock.
        let table = unsafe { lines(root) };
        let found = search(table, hashed.tag, |slot| address(slot) == block);
        debug_assert!(found.is_some(), "a block that is not dead has a slot");
        if let Some((line, at)) = found {
            let new = self.append(packed, memory);
            line.0[at].store(slot(hashed.tag, new), Ordering::Release);
            self.bury(block, memory);
        }
    }

    fn retire(&mut self, garbage: Garbage, memory: &Memory) {
        self.limbo.push_back((memory.domain.retire(), garbage));
        self.reclaim(memory);
    }

    fn now_and_then(&mut self, memory: &Memory) {
        self.changes += 1;
        if self.changes >= RECLAIM_EVERY && !self.limbo.is_empty() {
            self.reclaim(memory);
        }
    }

    /// Frees what nobody can see any more.
    fn reclaim(&mut self, memory: &Memory) {
        self.changes = 0;
        let horizon = memory.domain.horizon();
        while self
            .limbo
            .front()
            .is_some_and(|(number, _)| *number < horizon)
        {
            self.limbo.pop_front();
        }
    }
}

/// Bytes of a block with a record of `length`.
fn size(length: usize) -> usize {
    (HEADER + length).next_multiple_of(ALIGNMENT)
}
