//! The mark: a small file that says up to where the journal has been synced, written after each sync and before anybody
//! hears of the batch. It is not synced itself, and needs not be: a crash of the process leaves it, and after a power
//! cut it may be old but never ahead. An entry up to the mark was acknowledged, so when it is missing or damaged it is
//! not a torn tail. A clean close syncs it.
//!
//! ```text
//! at  bytes
//!  0    8    "JXMARK01"
//!  8    8    epoch of the store
//! 16   24    position: sequence, records, sum
//! 40    8    1 after a clean close, else 0
//! 48    8    xxh3-64 of the 48 bytes before
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::entry::{Position, read_u64};
use crate::store::disk::{Disk, DiskFile};
use crate::store::error::StoreError;

const MAGIC: &[u8; 8] = b"JXMARK01";
/// How often a mark is read that is being written.
const BESIDE_MAX: usize = 1_000;

/// What the mark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Up to here the journal was durable.
    pub(crate) position: Position,
    /// Whether the store was closed there.
    pub(crate) clean: bool,
}

/// The mark's file.
pub(crate) fn path(dir: &Path) -> PathBuf {
    super::directory(dir).join("mark")
}

/// Reads the mark beside the process that writes it: what is read may be half of one and half of another.
pub(crate) fn read_beside(dir: &Path, epoch: u64) -> Option<Mark> {
    let read = || parse(&fs::read(path(dir)).ok()?, epoch);
    (0..BESIDE_MAX).find_map(|_| read())
}

/// Reads the mark. A damaged one is reported and ignored: it is only ever further evidence.
pub(crate) fn read(dir: &Path, epoch: u64) -> Option<Mark> {
    let path = path(dir);
    let bytes = fs::read(&path).ok().filter(|bytes| !bytes.is_empty())?;
    let mark = parse(&bytes, epoch);
    if mark.is_none() {
        tracing::warn!(event = "journal.mark_ignored", path = %path.display(), "the journal's mark is damaged or of another epoch; ignored");
    }
    mark
}

fn parse(bytes: &[u8], epoch: u64) -> Option<Mark> {
    let content = bytes.get(..48)?;
    let whole = content.starts_with(MAGIC)
        && read_u64(bytes, 48)? == xxh3_64(content)
        && read_u64(content, 8)? == epoch;
    let mark = Mark {
        position: Position::decode(content, 16)?,
        clean: read_u64(content, 40)? == 1,
    };
    whole.then_some(mark)
}

/// The mark, open for writing.
pub(crate) struct MarkFile(DiskFile);

impl MarkFile {
    pub(crate) fn open(disk: &Disk, dir: &Path) -> Result<Self, StoreError> {
        let path = path(dir);
        if path.exists() {
            return disk.open(&path).map(Self);
        }
        let file = disk.create(&path)?;
        disk.sync_directory(&super::directory(dir))?;
        Ok(Self(file))
    }

    pub(crate) fn write(
        &self,
        epoch: u64,
        position: Position,
        clean: bool,
    ) -> Result<(), StoreError> {
        let mut bytes = Vec::with_capacity(56);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&epoch.to_be_bytes());
        position.encode(&mut bytes);
        bytes.extend_from_slice(&u64::from(clean).to_be_bytes());
        let checksum = xxh3_64(&bytes);
        bytes.extend_from_slice(&checksum.to_be_bytes());
        self.0.write_at(&bytes, 0)
    }

    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        self.0.sync()
    }
}
