//! What a copy elsewhere is made of: the entries of the journal behind a position, read beside the writer, and the files
//! of snapshots and runs.
//!
//! A [`Cursor`] knows where in the files its position is, so that a reader who comes back again and again reads only what
//! is new. Only what is durable, and acknowledged, is read.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::error::StoreError;
use super::journal::entry::{
    Entry, HEAD, Piece, Position, entry_length, for_each_piece, read_segment_head,
};
use super::journal::{self, segment_path};
use super::{SnapshotInfo, Store, run};

/// A place in the journal: behind a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// What is before it.
    pub position: Position,
    /// The first sequence of its segment; 0 when that is not known.
    segment: u64,
    /// Where in the segment.
    at: u64,
}

/// Whether the journal has what comes behind a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It does.
    From(Cursor),
    /// It no longer reaches back that far.
    TooShort,
    /// It does not continue this position: it is that of another store, or of another history.
    Diverged,
}

impl Store {
    /// Finds a position in the journal.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn reach(&self, position: Position) -> Result<Reach, StoreError> {
        let newest = self.position();
        if position.sequence >= newest.sequence {
            // Where its file goes on is found out when there is something.
            return Ok(match position == newest {
                true => Reach::From(Cursor {
                    position,
                    segment: 0,
                    at: 0,
                }),
                false => Reach::Diverged,
            });
        }
        let shared = &self.shared;
        gone(find(shared.dir(), shared.identity.epoch, position))
            .map(|found| found.unwrap_or(Reach::TooShort))
    }

    /// The entries behind a cursor, which goes on: about `limit` bytes, but one entry at least if there is one; an entry
    /// that names a run is the last one. None when the journal does not reach back to the cursor any more.
    ///
    /// # Errors
    /// When the journal is damaged or cannot be read.
    pub fn entries(
        &self,
        cursor: &mut Cursor,
        limit: usize,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let durable = self.position().sequence;
        let mut entries = Vec::new();
        while cursor.position.sequence < durable && entries.len() < limit {
            let read = self.read_on(cursor, durable, limit - entries.len(), &mut entries);
            match gone(read)? {
                None => return Ok(None),
                Some(Read::Run) => break,
                Some(Read::Entries) => {}
                Some(Read::Nothing) => match self.go_on(cursor)? {
                    Some(place) => (cursor.segment, cursor.at) = place,
                    None => return Ok(None),
                },
            }
        }
        Ok(Some(entries))
    }

    /// The file of the run that the entry with this sequence names, while it is kept.
    #[must_use]
    pub fn run_file(&self, sequence: u64) -> Option<PathBuf> {
        let path = run::named_path(self.shared.dir(), sequence);
        path.is_file().then_some(path)
    }

    /// The newest snapshot that is at `sequence` or later, taken now if there is none.
    ///
    /// # Errors
    /// As [`Store::snapshot`].
    pub fn snapshot_from(&self, sequence: u64) -> Result<SnapshotInfo, StoreError> {
        let newest = self.stats().snapshots.pop();
        match newest.filter(|newest| newest.sequence >= sequence) {
            Some(newest) => Ok(newest),
            None => self.snapshot(),
        }
    }

    /// Reads whole entries from the cursor's segment.
    fn read_on(
        &self,
        cursor: &mut Cursor,
        durable: u64,
        limit: usize,
        out: &mut Vec<u8>,
    ) -> Result<Read, StoreError> {
        if cursor.segment == 0 {
            return Ok(Read::Nothing);
        }
        let (dir, epoch) = (self.shared.dir(), self.shared.identity.epoch);
        let path = segment_path(dir, cursor.segment);
        let failed = |error| StoreError::io(&path, "read", error);
        let file = File::open(&path).map_err(failed)?;
        let mut bytes = read_at(&file, cursor.at, limit.max(HEAD)).map_err(failed)?;
        if let Some(length) = entry_length(&bytes).filter(|length| *length > bytes.len()) {
            bytes = read_at(&file, cursor.at, length).map_err(failed)?;
        }
        let (mut rest, mut read) = (&bytes[..], Read::Nothing);
        while let Some(entry) = Entry::read(rest, epoch).filter(|entry| {
            entry.first == cursor.position.sequence + 1 && entry.after.sequence <= durable
        }) {
            out.extend_from_slice(entry.bytes);
            cursor.position = entry.after;
            cursor.at += entry.bytes.len() as u64;
            rest = &rest[entry.bytes.len()..];
            read = Read::Entries;
            if entry.run().is_some() {
                return Ok(Read::Run);
            }
        }
        Ok(read)
    }

    /// The segment in which it goes on behind the end of the cursor's, and where; none when it is pruned.
    fn go_on(&self, cursor: &Cursor) -> Result<Option<(u64, u64)>, StoreError> {
        let (dir, next) = (self.shared.dir(), cursor.position.sequence + 1);
        if cursor.segment == 0 {
            return Ok(match self.reach(cursor.position)? {
                Reach::From(found) => Some((found.segment, found.at)),
                Reach::TooShort | Reach::Diverged => None,
            });
        }
        if cursor.segment == next || !segment_path(dir, next).exists() {
            return Err(StoreError::damaged(
                &segment_path(dir, cursor.segment),
                format!(
                    "the journal has no sound entry for sequence {next}, which was acknowledged"
                ),
                "see the log of the node; `jiexi store verify` says what is damaged",
            ));
        }
        Ok(Some((next, HEAD as u64)))
    }
}

/// What was read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Read {
    Nothing,
    Entries,
    Run,
}

fn find(dir: &Path, epoch: u64, start: Position) -> Result<Reach, StoreError> {
    let segments = journal::segments(dir)?;
    let next = start.sequence + 1;
    let Some(segment) = segments.iter().rfind(|segment| segment.first <= next) else {
        return Ok(Reach::TooShort);
    };
    let bytes =
        fs::read(&segment.path).map_err(|error| StoreError::io(&segment.path, "read", error))?;
    let place = |at: usize| {
        Reach::From(Cursor {
            position: start,
            segment: segment.first,
            at: at as u64,
        })
    };
    let mut found = match read_segment_head(&bytes, epoch) {
        Some(before) if before == start => place(HEAD),
        _ => Reach::Diverged,
    };
    for_each_piece(&bytes, epoch, |piece| {
        if let Piece::Entry(entry) = piece
            && entry.after == start
        {
            found = place(entry.at + entry.bytes.len());
        }
    });
    Ok(found)
}

/// None when the file has been pruned meanwhile.
fn gone<T>(outcome: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match outcome {
        Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        outcome => outcome.map(Some),
    }
}

/// Up to so many bytes of a file.
fn read_at(file: &File, at: u64, length: usize) -> io::Result<Vec<u8>> {
    let left = file.metadata()?.len().saturating_sub(at);
    let length = length.min(usize::try_from(left).unwrap_or(usize::MAX));
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match file.read_at(&mut bytes[filled..], at + filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}
