//! Tables: the slots of one segment, in lines of eight. Readers come to a table by its root; the writer owns it.
//!
//! A large table lies with others in a region of its own kind, in huge pages: its line is the first memory that a look-up
//! touches, and finding a page of 4 KiB that nobody used for a while costs as much as the line. A small one would hold a
//! region that all others have left, and is cheap to find.

use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::{ADDRESS_BITS, ALIGNMENT, EMPTY, GRAVE, Pages, REGION, TAG_BITS, address, tag};

/// Slots of a line: what fits into a cache line.
pub(super) const LINE: usize = 8;
/// Lines of a table at most: what a root has room for.
pub(super) const LINES_MAX: usize = u16::MAX as usize;
/// A table has so many slots in five for three records when it is made.
const ROOM_FIFTHS: usize = 5;
/// Tables of fewer lines have memory of their own, and so have those that need more than half of a region.
const SHARED_FROM: usize = if cfg!(test) { 2 } else { 16 };
const SHARED_TO: usize = REGION_LINES / 2;
/// Lines of a region.
pub(in crate::store::index) const REGION_LINES: usize = REGION / size_of::<Line>();

/// Eight slots.
#[repr(align(64))]
#[derive(Default)]
pub(super) struct Line(pub(super) [AtomicU64; LINE]);

impl Line {
    /// The first slot with this tag, and whether the line has a slot in which nothing ever was. Every slot is looked at, and
    /// no branch depends on where it is: that could not be foreseen.
    #[inline]
    pub(super) fn first(&self, tag: u64) -> (Option<u64>, bool) {
        let slots = self.0.each_ref().map(|slot| slot.load(Ordering::Acquire));
        let (mut fits, mut ends) = (0_u32, false);
        for (at, slot) in slots.iter().enumerate() {
            fits |= u32::from(self::tag(*slot) == tag) << at;
            ends |= *slot == EMPTY;
        }
        (slots.get(fits.trailing_zeros() as usize).copied(), ends)
    }
}

/// A region of tables.
struct Shared {
    pages: Pages,
    /// Lines of tables that are not dropped.
    live: AtomicUsize,
}

/// A table, owned: it is freed when this is dropped, its region with the last table in it.
pub(super) struct Table {
    first: NonNull<Line>,
    count: usize,
    /// The region it lies in; none for memory of its own.
    region: Option<Arc<Shared>>,
}

// SAFETY: it is owned memory of atomics, which any thread may use and free.
unsafe impl Send for Table {}

impl Default for Table {
    fn default() -> Self {
        Self {
            first: NonNull::dangling(),
            count: 0,
            region: None,
        }
    }
}

impl Deref for Table {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        // SAFETY: so many lines are there, until this is dropped.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        if cfg!(test) {
            // Who still looks here misses something, which no sanitizer sees in memory that others use.
            let slots = self.iter().flat_map(|line| &line.0);
            slots.for_each(|slot| slot.store(EMPTY, Ordering::Relaxed));
        }
        if let Some(region) = &self.region {
            region.live.fetch_sub(self.count, Ordering::Relaxed);
        } else if self.count > 0 {
            let all = ptr::slice_from_raw_parts_mut(self.first.as_ptr(), self.count);
            // SAFETY: it was made of a box of so many lines, see `Tables::make`; by invariant 3 nobody looks at it any more.
            drop(unsafe { Box::from_raw(all) });
        }
    }
}

impl Table {
    /// What readers come to it by; 0 for no lines.
    pub(super) fn root(&self) -> u64 {
        if self.count == 0 {
            return 0;
        }
        let address = self.first.as_ptr().expose_provenance() as u64;
        assert!(address >> ADDRESS_BITS == 0, "addresses have 48 bits");
        address | (self.count as u64) << ADDRESS_BITS
    }

    /// Which region it lies in.
    #[cfg(test)]
    pub(super) fn region(&self) -> Option<usize> {
        self.region
            .as_ref()
            .map(|region| region.pages.0.addr().get())
    }

    /// Whether it holds a region that most others have left.
    pub(super) fn is_lonely(&self, tables: &Tables) -> bool {
        self.region.as_ref().is_some_and(|region| {
            let filled = tables.filled.as_ref();
            let is_filled = filled.is_some_and(|(filled, _)| Arc::ptr_eq(filled, region));
            !is_filled && region.live.load(Ordering::Relaxed) < REGION_LINES / 2
        })
    }
}

/// Where tables are made.
#[derive(Default)]
pub(super) struct Tables {
    /// The region that is being filled, and how many of its lines are taken.
    filled: Option<(Arc<Shared>, usize)>,
}

impl Tables {
    /// An empty table with room for so many records.
    pub(super) fn make(&mut self, records: usize) -> Table {
        let count = (records * ROOM_FIFTHS / 3 / LINE + 1).min(LINES_MAX);
        if !(SHARED_FROM..=SHARED_TO).contains(&count) {
            let lines: Box<[Line]> = (0..count).map(|_| Line::default()).collect();
            let first = NonNull::from(Box::leak(lines)).cast();
            return Table {
                first,
                count,
                region: None,
            };
        }
        let (region, taken) = match self.filled.take() {
            Some((region, taken)) if taken + count <= REGION_LINES => (region, taken),
            _ => {
                let (pages, live) = (Pages::new(), AtomicUsize::new(0));
                (Arc::new(Shared { pages, live }), 0)
            }
        };
        region.live.fetch_add(count, Ordering::Relaxed);
        // SAFETY: there are so many lines left in the region. They are zeros, which is what empty slots are.
        let first = unsafe { region.pages.0.cast::<Line>().add(taken) };
        self.filled = Some((Arc::clone(&region), taken + count));
        Table {
            first,
            count,
            region: Some(region),
        }
    }
}

/// The lines of a table, none for a segment without records.
///
/// # Safety
/// `root` was loaded from a root within the visit, or under the lock, for which the result is used (invariants 3 and 4).
#[inline]
pub(super) unsafe fn lines<'a>(root: u64) -> &'a [Line] {
    let address = (root & ((1 << ADDRESS_BITS) - 1)) as usize;
    if address == 0 {
        return &[];
    }
    let count = (root >> ADDRESS_BITS) as usize;
    // SAFETY: invariant 6: a root is made of a table's exposed address and its length; it was not freed, says the caller.
    unsafe { std::slice::from_raw_parts(ptr::with_exposed_provenance(address), count) }
}

/// Where the search for a tag begins.
#[inline]
pub(super) fn home(tag: u64, lines: usize) -> usize {
    (tag as usize * lines) >> TAG_BITS
}

/// The lines of a table in the order in which a tag is searched for.
#[inline]
fn way(table: &[Line], tag: u64) -> impl Iterator<Item = &Line> {
    let (before, from) = table.split_at(home(tag, table.len()));
    from.iter().chain(before)
}

/// The first slot with this tag that `is_it`.
#[inline]
pub(super) fn search(
    table: &[Line],
    tag: u64,
    mut is_it: impl FnMut(u64) -> bool,
) -> Option<(&Line, usize)> {
    for line in way(table, tag) {
        let mut ends = false;
        for (at, slot) in line.0.iter().enumerate() {
            let slot = slot.load(Ordering::Acquire);
            if self::tag(slot) == tag && is_it(slot) {
                return Some((line, at));
            }
            ends |= slot == EMPTY;
        }
        if ends {
            break;
        }
    }
    None
}

/// Puts a slot where there is room; whether it took an empty one.
pub(super) fn insert(table: &[Line], tag: u64, new: u64) -> bool {
    for line in way(table, tag) {
        for slot in &line.0 {
            let old = slot.load(Ordering::Relaxed);
            if old == EMPTY || old == GRAVE {
                slot.store(new, Ordering::Release);
                return old == EMPTY;
            }
        }
    }
    panic!("a table has room before something is put into it");
}

/// Copies what is in a table to one that nobody else has yet.
pub(super) fn copy_slots(from: &[Line], to: &[Line]) {
    for old in from.iter().flat_map(|line| &line.0) {
        let old = old.load(Ordering::Relaxed);
        if address(old) > ALIGNMENT {
            insert(to, tag(old), old);
        }
    }
}
