//! The journal: what has been acknowledged, in order. Each commit group is one checksummed entry, appended to a
//! preallocated segment and synced before anybody hears of it.
//!
//! * [`entry`]: the format.
//! * [`Journal`]: the writer's end.
//! * [`tail`]: reading it back, and telling a torn tail from damage.
//! * [`mark`]: what proves that the last entry was acknowledged.
//!
//! A segment is written during one opening of the store only. Opening cuts the last one behind its last entry; the first
//! write then begins a new one.

pub(crate) mod entry;
pub(crate) mod mark;
pub(crate) mod tail;

use std::fs;
use std::path::{Path, PathBuf};

use super::disk::{Disk, DiskFile};
use super::error::StoreError;
use entry::{HEAD, Position, segment_head};
use mark::MarkFile;

/// Suffix of the names of segments, which are their first sequences in 20 digits.
const SUFFIX: &str = "journal";

/// The directory of the journal in that of a store.
pub(crate) fn directory(dir: &Path) -> PathBuf {
    dir.join("journal")
}

/// A segment in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// The sequence that its first entry has, or would have.
    pub(crate) first: u64,
    pub(crate) path: PathBuf,
    /// Bytes of the file.
    pub(crate) bytes: u64,
}

/// The segment that begins with a sequence.
pub(crate) fn segment_path(dir: &Path, first: u64) -> PathBuf {
    directory(dir).join(format!("{first:020}.{SUFFIX}"))
}

/// The segments in the directory, in order.
pub(crate) fn segments(dir: &Path) -> Result<Vec<Segment>, StoreError> {
    let dir = directory(dir);
    let failed = |error| StoreError::io(&dir, "list the directory", error);
    let mut found = Vec::new();
    for item in fs::read_dir(&dir).map_err(failed)? {
        let path = item.map_err(failed)?.path();
        let name = path.file_stem().and_then(|name| name.to_str());
        if path.extension().is_some_and(|suffix| suffix == SUFFIX)
            && let Some(first @ 1..) = name.and_then(|name| name.parse().ok())
            // A segment that was pruned meanwhile is none.
            && let Ok(metadata) = path.metadata()
        {
            found.push(Segment {
                first,
                path,
                bytes: metadata.len(),
            });
        }
    }
    found.sort_by_key(|segment| segment.first);
    Ok(found)
}

/// Removes the segments of which every entry is at or before `sequence`, oldest first, but never the last one.
pub(crate) fn prune(disk: &Disk, dir: &Path, sequence: u64) -> Result<usize, StoreError> {
    let segments = segments(dir)?;
    let mut removed = 0;
    for pair in segments.windows(2) {
        if pair[1].first > sequence.saturating_add(1) {
            break;
        }
        disk.remove(&pair[0].path)?;
        removed += 1;
    }
    if removed > 0 {
        disk.sync_directory(&directory(dir))?;
    }
    Ok(removed)
}

/// The writer's end of the journal.
pub(crate) struct Journal {
    disk: Disk,
    dir: PathBuf,
    segment_bytes: u64,
    epoch: u64,
    active: Option<Active>,
    mark: MarkFile,
}

/// The segment being written.
struct Active {
    file: DiskFile,
    /// Where the next entry goes.
    at: u64,
    /// Bytes reserved.
    length: u64,
}

impl Journal {
    /// The end of a journal whose tail has been read and cut.
    pub(crate) fn new(
        disk: Disk,
        dir: &Path,
        segment_bytes: u64,
        epoch: u64,
    ) -> Result<Self, StoreError> {
        let mark = MarkFile::open(&disk, dir)?;
        Ok(Self {
            disk,
            dir: dir.to_path_buf(),
            segment_bytes,
            epoch,
            active: None,
            mark,
        })
    }

    /// Makes sure that an entry of `length` bytes fits, with a new segment if need be. When this fails nothing has been
    /// written, and it may be tried again.
    pub(crate) fn reserve(&mut self, before: Position, length: usize) -> Result<(), StoreError> {
        let length = length as u64;
        if self
            .active
            .as_ref()
            .is_some_and(|active| active.at + length <= active.length)
        {
            return Ok(());
        }
        let wanted = self.segment_bytes.max(HEAD as u64 + length);
        let active = self.new_segment(before, wanted)?;
        if let Some(full) = self.active.replace(active) {
            full.file.truncate(full.at)?;
        }
        Ok(())
    }

    /// Writes an entry into the space reserved for it. After an error nothing more may be written.
    pub(crate) fn append(&mut self, entry: &[u8]) -> Result<(), StoreError> {
        let Some(active) = &mut self.active else {
            return Err(StoreError::Unavailable("no segment is reserved"));
        };
        active.file.write_at(entry, active.at)?;
        active.at += entry.len() as u64;
        Ok(())
    }

    /// Makes what was appended durable. After an error it is unknown whether it is, and nothing more may be written.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        self.active
            .as_ref()
            .map_or(Ok(()), |active| active.file.sync())
    }

    /// Notes up to where the journal is durable; not durable itself, see [`mark`].
    pub(crate) fn mark(&self, position: Position) -> Result<(), StoreError> {
        self.mark.write(self.epoch, position, false)
    }

    /// Makes the mark durable.
    pub(crate) fn sync_mark(&self) -> Result<(), StoreError> {
        self.mark.sync()
    }

    /// Ends the segment and notes, durably, that this is the end of the journal.
    pub(crate) fn close(&mut self, position: Position) -> Result<(), StoreError> {
        if let Some(active) = self.active.take() {
            active.file.truncate(active.at)?;
            active.file.sync()?;
        }
        self.mark.write(self.epoch, position, true)?;
        self.mark.sync()
    }

    fn new_segment(&self, before: Position, length: u64) -> Result<Active, StoreError> {
        let directory = directory(&self.dir);
        let path = segment_path(&self.dir, before.sequence + 1);
        let file = self.disk.create(&path)?;
        let prepared = file
            .allocate(length)
            .and_then(|()| file.write_at(&segment_head(self.epoch, before), 0))
            .and_then(|()| file.sync())
            .and_then(|()| self.disk.sync_directory(&directory));
        if let Err(error) = prepared {
            // Nothing was acknowledged in it, and the next attempt needs the name.
            self.disk.remove(&path)?;
            return Err(error);
        }
        Ok(Active {
            file,
            at: HEAD as u64,
            length,
        })
    }
}
