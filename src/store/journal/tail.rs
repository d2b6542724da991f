//! Reading the journal back: the entries after a sequence, in an unbroken row, and what was found in their place.

use std::fs;
use std::path::{Path, PathBuf};

use super::entry::{Entry, HEAD, Piece, Position, for_each_piece, read_segment_head};
use super::{Segment, directory, segments};
use crate::store::disk::Disk;
use crate::store::error::StoreError;

/// What reading the journal came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tail {
    /// The last sequence of the unbroken row; the one it was to begin after when there is nothing.
    pub(crate) last: u64,
    /// The state at `last`, when an entry or the head of a segment says it.
    pub(crate) position: Option<Position>,
    /// The highest sequence that the segments read have, or connect to.
    pub(crate) reached: u64,
    /// Damaged places that are not needed, because they lie before the beginning of the row.
    pub(crate) damage: Vec<String>,
    /// The last segment, and where its last entry ends.
    pub(crate) end: Option<(PathBuf, u64)>,
    /// Whether there is something behind that end which is no entry.
    pub(crate) torn: bool,
}

/// As [`read_placed`], without the paths.
pub(crate) fn read(
    dir: &Path,
    epoch: u64,
    (after, until): (u64, u64),
    mut visit: impl FnMut(Entry<'_>) -> Result<(), StoreError>,
) -> Result<Tail, StoreError> {
    read_placed(dir, epoch, (after, until), |entry, _| visit(entry))
}

/// Reads the entries after `after`, calling `visit` with each, and the path of its segment, in order. An entry that
/// begins before and ends after it is visited, too: applying a batch again changes nothing.
///
/// Beside a writer `until` is durable, and what comes after it is not looked at: of that a later entry may be there before
/// an earlier one is whole, because a file is read piece by piece. Without one it is [`u64::MAX`].
///
/// # Errors
/// When the row is broken: an entry is missing or damaged and there are entries after it.
pub(crate) fn read_placed(
    dir: &Path,
    epoch: u64,
    (after, until): (u64, u64),
    mut visit: impl FnMut(Entry<'_>, &Path) -> Result<(), StoreError>,
) -> Result<Tail, StoreError> {
    let mut tail = Tail {
        last: after,
        ..Tail::default()
    };
    let mut segments = segments(dir)?;
    segments.retain(|segment| segment.first <= until.max(after.saturating_add(1)));
    let begin = segments
        .iter()
        .rposition(|segment| segment.first <= after + 1);
    if begin.is_none()
        && let Some(oldest) = segments.first()
    {
        return Err(missing(&oldest.path, after + 1, oldest.first));
    }
    for segment in &segments[begin.unwrap_or(0)..] {
        tail.read_segment(segment, epoch, until, &mut visit)?;
    }
    Ok(tail)
}

impl Tail {
    fn read_segment(
        &mut self,
        segment: &Segment,
        epoch: u64,
        until: u64,
        visit: &mut impl FnMut(Entry<'_>, &Path) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        if segment.first > self.last + 1 {
            return Err(missing(&segment.path, self.last + 1, segment.first));
        }
        let bytes = fs::read(&segment.path)
            .map_err(|error| StoreError::io(&segment.path, "read", error))?;
        match read_segment_head(&bytes, epoch) {
            Some(before) => {
                self.reached = self.reached.max(before.sequence);
                if before.sequence == self.last {
                    self.position = Some(before);
                }
            }
            None => self
                .damage
                .push(format!("{}: its head is damaged", segment.path.display())),
        }
        let mut outcome = Ok(());
        self.torn = false;
        let end = for_each_piece(&bytes, epoch, |piece| {
            if outcome.is_ok() {
                outcome = self.read_piece(piece, &segment.path, until, visit);
            }
        });
        self.end = Some((segment.path.clone(), end as u64));
        outcome
    }

    fn read_piece(
        &mut self,
        piece: Piece<'_>,
        path: &Path,
        until: u64,
        visit: &mut impl FnMut(Entry<'_>, &Path) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let entry = match piece {
            Piece::Entry(entry) if entry.first > until => return Ok(()),
            Piece::Entry(entry) => entry,
            Piece::Hole { at } => {
                self.damage
                    .push(format!("{}: no entry at byte {at}", path.display()));
                return Ok(());
            }
            Piece::Torn { at } => {
                // Whether that is a tail, the evidence decides; whether it is missed, the next segment.
                self.damage
                    .push(format!("{}: no entry from byte {at} on", path.display()));
                self.torn = true;
                return Ok(());
            }
        };
        self.reached = self.reached.max(entry.after.sequence);
        if entry.first > self.last + 1 {
            return Err(missing(path, self.last + 1, entry.first));
        }
        if entry.after.sequence >= self.last {
            self.position = Some(entry.after);
        }
        if entry.after.sequence > self.last {
            self.last = entry.after.sequence;
            visit(entry, path)?;
        }
        Ok(())
    }
}

fn missing(path: &Path, wanted: u64, found: u64) -> StoreError {
    StoreError::damaged(
        path,
        format!("the journal has no sound entry for sequence {wanted}, but has {found}"),
        "restore the newest good snapshot with `jiexi store restore` into a new directory, or put back the missing file",
    )
}

/// Cuts the last segment behind its last entry and makes what is left durable; removes it when nothing is left.
pub(crate) fn cut(disk: &Disk, dir: &Path, tail: &Tail) -> Result<(), StoreError> {
    let Some((path, end)) = &tail.end else {
        return Ok(());
    };
    if *end <= HEAD as u64 {
        disk.remove(path)?;
        return disk.sync_directory(&directory(dir));
    }
    let file = disk.open(path)?;
    if file.length()? > *end {
        file.truncate(*end)?;
    }
    file.sync()
}

/// The whole bytes of the entries after `after` up to `until`, for copying them. All of them must be durable.
pub(crate) fn copy(
    dir: &Path,
    epoch: u64,
    (after, until): (u64, u64),
    mut take: impl FnMut(&[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    if until <= after {
        return Ok(());
    }
    let tail = read(dir, epoch, (after, until), |entry| take(entry.bytes))?;
    if tail.last < until {
        return Err(missing(&directory(dir), tail.last + 1, until));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::SUFFIX;
    use super::super::entry::{segment_head, tests::entry};
    use super::*;

    /// Goal: who reads beside the writer is not disturbed by an entry that came while the file was being read, before the
    /// one in front of it was seen whole; a hole in what is durable is an error.
    #[test]
    fn what_comes_meanwhile_is_not_looked_at() {
        let home = tempfile::tempdir().expect("a directory");
        segment_with(home.path(), &[entry(1, 1), vec![0; 512], entry(3, 3)]);
        let read_until = |until| {
            let mut seen = Vec::new();
            let outcome = read(home.path(), 7, (0, until), |entry| {
                seen.push(entry.after.sequence);
                Ok(())
            });
            (outcome.map(|tail| tail.last).ok(), seen)
        };
        assert_eq!(read_until(1), (Some(1), vec![1]));
        assert_eq!(read_until(3), (None, vec![1]));
    }

    fn segment_with(home: &Path, entries: &[Vec<u8>]) {
        let dir = directory(home);
        fs::create_dir(&dir).expect("a directory");
        let mut bytes = segment_head(7, Position::default());
        entries.iter().for_each(|entry| bytes.extend(entry));
        fs::write(dir.join(format!("{:020}.{SUFFIX}", 1)), bytes).expect("written");
    }
}
