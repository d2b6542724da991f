//! Many records at once: they are written into regions of their own by whoever brings them, while the writer goes on; what
//! is left for the writer is a new table for each segment, and then a root.

use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

use super::table::{Line, Table, copy_slots, insert, search};
use super::{
    ADDRESS_BITS, Figures, Memory, Region, Writer, address, is_under, key_of, record, size, slot,
};

/// Slots of a part.
const PART: usize = 1 << 16;

/// Records that are in memory, and to which no slot leads.
#[derive(Default)]
pub(in crate::store::index) struct Stage {
    regions: Vec<Region>,
    parts: Vec<Part>,
    /// Bytes of the packed records, and of their blocks.
    bytes: usize,
    live: usize,
}

/// Slots of staged records, in the order in which they came, each with its segment.
#[derive(Default)]
struct Part {
    segments: Vec<u16>,
    slots: Vec<u64>,
}

impl Stage {
    /// Adds a record; one that came before under the same key is replaced.
    pub(in crate::store::index) fn add(&mut self, packed: &[u8], memory: &Memory) {
        let last = self.regions.last_mut();
        let block = match last.and_then(|region| region.write(packed)) {
            Some(block) => block,
            None => {
                let mut region = Region::new();
                let block = region.write(packed);
                self.regions.push(region);
                // No record is larger than a region; see `Writer::append`.
                block.unwrap_or(1 << ADDRESS_BITS)
            }
        };
        assert!(block >> ADDRESS_BITS == 0, "a record fits into a region");
        let (space, key) = key_of(packed);
        let hashed = memory.hash(space, key);
        if self
            .parts
            .last()
            .is_none_or(|part| part.slots.len() == PART)
        {
            self.parts.push(Part {
                segments: Vec::with_capacity(PART),
                slots: Vec::with_capacity(PART),
            });
        }
        if let Some(part) = self.parts.last_mut() {
            part.segments.push(hashed.segment as u16);
            part.slots.push(slot(hashed.tag, block));
        }
        self.bytes += packed.len();
        self.live += size(packed.len());
    }

    /// The slots of each segment behind one another, and where those of each begin.
    fn by_segment(&mut self, segments: usize) -> (Vec<usize>, Vec<u64>) {
        let mut starts = vec![0; segments + 1];
        for segment in self.parts.iter().flat_map(|part| &part.segments) {
            starts[usize::from(*segment) + 1] += 1;
        }
        for at in 1..starts.len() {
            starts[at] += starts[at - 1];
        }
        let mut next = starts.clone();
        let mut slots = vec![0; starts[segments]];
        for part in std::mem::take(&mut self.parts) {
            for (segment, slot) in part.segments.iter().zip(&part.slots) {
                let at = &mut next[usize::from(*segment)];
                slots[*at] = *slot;
                *at += 1;
            }
        }
        (starts, slots)
    }
}

/// A stage that only needs to be published: until then it may be dropped, and nobody else changes anything.
pub(in crate::store::index) struct Prepared<'m> {
    memory: &'m Memory,
    writer: MutexGuard<'m, Writer>,
    stage: Stage,
    tables: Vec<(usize, Table, u32)>,
    /// Blocks that are then replaced.
    dead: Vec<usize>,
    /// Keys that come with it.
    added: usize,
}

impl Memory {
    /// Makes the tables of the segments that a stage touches anew, with its records in them, and shows each record that
    /// one of them replaces.
    pub(in crate::store::index) fn prepare(
        &self,
        mut stage: Stage,
        mut replaced: impl FnMut(&[u8]),
    ) -> Prepared<'_> {
        let mut writer = self.lock();
        let (starts, slots) = stage.by_segment(self.roots.len());
        let (mut tables, mut dead, mut added) = (Vec::new(), Vec::new(), 0);
        for (segment, range) in starts.windows(2).enumerate() {
            let staged = &slots[range[0]..range[1]];
            if staged.is_empty() {
                continue;
            }
            let live = writer.loads[segment].live as usize;
            let table = writer.maker.make(live + staged.len());
            copy_slots(&writer.tables[segment], &table);
            let before = dead.len();
            for new in staged {
                match find(&table, *new) {
                    Some(old) => {
                        // SAFETY: a block of a live slot, under the lock, or of the stage.
                        replaced(unsafe { record(address(old)) });
                        dead.push(address(old));
                    }
                    None => drop(insert(&table, super::tag(*new), *new)),
                }
            }
            let new = staged.len() - (dead.len() - before);
            added += new;
            tables.push((segment, table, (live + new) as u32));
        }
        Prepared {
            memory: self,
            writer,
            stage,
            tables,
            dead,
            added,
        }
    }
}

/// Puts a slot in the place of that of the same key; the one that was there.
fn find(table: &[Line], new: u64) -> Option<u64> {
    let found = search(table, super::tag(new), |slot| {
        // SAFETY: blocks of live slots, under the lock of who prepares, or of the stage that it owns.
        let (old, new) = unsafe { (record(address(slot)), record(address(new))) };
        let (space, key) = key_of(new);
        is_under(old, space, key)
    });
    // Nobody else has the table yet.
    found.map(|(line, at)| line.0[at].swap(new, Ordering::Relaxed))
}

impl Prepared<'_> {
    /// Lets readers find the records, segment by segment.
    pub(in crate::store::index) fn publish(mut self) {
        let (memory, writer) = (self.memory, &mut *self.writer);
        let replaced = self.tables.len();
        for (segment, table, live) in self.tables {
            writer.replace(segment, table, live, memory);
        }
        writer.gather(replaced / 4, memory);
        writer.live += self.stage.live as u64;
        for region in self.stage.regions {
            writer.regions.insert(region.number(), region);
        }
        Figures::add(&memory.figures.bytes, self.stage.bytes);
        Figures::add(&memory.figures.records, self.added);
        for block in self.dead {
            writer.bury(block, memory);
        }
    }
}
