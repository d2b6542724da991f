//! When which sequence was the newest: marks of the wall clock beside the journal, so that a backup can be restored to a
//! time. They are made by whoever looks after the store, at most one a second and only when there was a change, and are
//! not synced: without them a backup knows its own time only.
//!
//! ```text
//! file:   marks, oldest first
//! mark:    0    8    Unix seconds
//!          8    8    sequence: acknowledged by then
//!         16    8    xxh3-64 of the 16 bytes before, seeded with the epoch of the store
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::disk::{Disk, DiskFile};
use super::error::StoreError;
use super::journal::entry::read_u64;

/// Bytes of a mark.
const MARK: usize = 24;
/// A file that is this long loses its older half: two days of changes in every second.
const FILE_MAX: usize = 4 << 20;

/// A time, and a sequence that was acknowledged by then.
pub(crate) type Mark = (u64, u64);

/// The file of the marks in the directory of a store.
fn path(dir: &Path) -> PathBuf {
    dir.join("times")
}

/// The marks of an epoch, oldest first; what is damaged is left out.
pub(crate) fn read(dir: &Path, epoch: u64) -> Vec<Mark> {
    let bytes = fs::read(path(dir)).unwrap_or_default();
    let marks = bytes.chunks_exact(MARK);
    marks.filter_map(|mark| parse(mark, epoch)).collect()
}

fn parse(mark: &[u8], epoch: u64) -> Option<Mark> {
    let right = read_u64(mark, 16)? == xxh3_64_with_seed(mark.get(..16)?, epoch);
    right.then_some((read_u64(mark, 0)?, read_u64(mark, 8)?))
}

fn encode((time, sequence): Mark, epoch: u64) -> Vec<u8> {
    let mut mark = [time.to_be_bytes(), sequence.to_be_bytes()].concat();
    let checksum = xxh3_64_with_seed(&mark, epoch);
    mark.extend_from_slice(&checksum.to_be_bytes());
    mark
}

/// Who makes the marks.
pub(crate) struct Times {
    disk: Disk,
    dir: PathBuf,
    epoch: u64,
    last: Mark,
    /// The file and its length, once there was something to write.
    file: Option<(DiskFile, usize)>,
    /// Whether the log says that they cannot be written.
    told: bool,
}

impl Times {
    pub(crate) fn new(disk: Disk, dir: &Path, epoch: u64) -> Self {
        Self {
            last: read(dir, epoch).last().copied().unwrap_or_default(),
            disk,
            dir: dir.to_path_buf(),
            epoch,
            file: None,
            told: false,
        }
    }

    /// Notes that `sequence` was acknowledged at `now`, if that is news.
    pub(crate) fn note(&mut self, sequence: u64, now: u64) {
        if sequence == self.last.1 || now == self.last.0 {
            return;
        }
        match self.append((now, sequence)) {
            Ok(()) => {
                self.last = (now, sequence);
                self.told = false;
            }
            Err(error) => {
                self.file = None;
                if !self.told {
                    tracing::warn!(event = "store.times_failed", %error, "times of changes are not noted: backups know their own time only");
                }
                self.told = true;
            }
        }
    }

    fn append(&mut self, mark: Mark) -> Result<(), StoreError> {
        let (file, length) = match self.file.take() {
            Some(found) if found.1 < FILE_MAX => found,
            _ => self.open()?,
        };
        file.write_at(&encode(mark, self.epoch), length as u64)?;
        self.file = Some((file, length + MARK));
        Ok(())
    }

    /// Opens the file, without its older half if it is too long.
    fn open(&self) -> Result<(DiskFile, usize), StoreError> {
        let path = path(&self.dir);
        if !path.exists() {
            return Ok((self.disk.create(&path)?, 0));
        }
        let file = self.disk.open(&path)?;
        let length = usize::try_from(file.length()?).unwrap_or(usize::MAX);
        if length < FILE_MAX {
            return Ok((file, length / MARK * MARK));
        }
        let marks = read(&self.dir, self.epoch);
        let newer = marks.iter().skip(marks.len() / 2);
        let kept: Vec<u8> = newer.flat_map(|mark| encode(*mark, self.epoch)).collect();
        self.disk.replace(&path, &kept)?;
        Ok((self.disk.open(&path)?, kept.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what was noted is read, once for each second with a change, across openings and torn ends, and the file has
    /// an end.
    #[test]
    fn marks() {
        let home = tempfile::tempdir().unwrap();
        let times = || Times::new(Disk::default(), home.path(), 3);
        let mut first = times();
        for (sequence, now) in [(5, 100), (5, 101), (6, 101), (7, 101), (8, 102)] {
            first.note(sequence, now);
        }
        assert_eq!(read(home.path(), 3), [(100, 5), (101, 6), (102, 8)]);
        assert_eq!(read(home.path(), 4), [], "another epoch");
        let mut bytes = fs::read(path(home.path())).unwrap();
        bytes.extend_from_slice(&[1; 10]);
        bytes[30] ^= 1;
        fs::write(path(home.path()), bytes).unwrap();
        let mut second = times();
        second.note(8, 103);
        second.note(9, 103);
        assert_eq!(read(home.path(), 3), [(100, 5), (102, 8), (103, 9)]);
        for now in 104..200_000 {
            second.note(now, now);
        }
        let left = read(home.path(), 3);
        assert_eq!(left.last(), Some(&(199_999, 199_999)));
        assert!(
            left.len() > 50_000 && left.len() <= FILE_MAX / MARK + 1,
            "{}",
            left.len()
        );
    }
}
