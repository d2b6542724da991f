//! Files of checksummed blocks: snapshots and runs are made of them.
//!
//! ```text
//! block:    at  bytes
//!            0    4    kind
//!            4    4    length of the body n
//!            8    8    xxh3-64 of the body, seeded with the xxh3-64 of the 8 bytes before and the block's number (4;
//!                      FFFFFFFF for a block of kind "END ")
//!           16    n    body
//!
//! records:  packed records, each with its length (4) before it
//! ```

use std::cmp::Ordering;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::disk::DiskFile;
use super::error::StoreError;
use super::journal::entry::{read_u32, read_u64};
use super::record::{Packed, PackedRef};

/// Bytes of a block before its body.
pub(crate) const BLOCK_HEAD: usize = 16;
/// The kind of a last block that is found from the end of the file.
pub(crate) const END: &[u8; 4] = b"END ";
/// The longest block that is read: an entry of the largest batch.
const BLOCK_MAX: usize = 128 << 20;

/// Appends a record to the body of a block.
pub(crate) fn put_record(body: &mut Vec<u8>, packed: &[u8]) {
    body.extend_from_slice(&(packed.len() as u32).to_be_bytes());
    body.extend_from_slice(packed);
}

/// Bytes that a record takes there.
pub(crate) fn put_length(packed: &[u8]) -> usize {
    size_of::<u32>() + packed.len()
}

/// The records of a body; none in the place of what is no whole record, which ends it.
pub(crate) fn records(body: &[u8]) -> impl Iterator<Item = Option<PackedRef<'_>>> {
    raw_records(body).map(|packed| packed.and_then(PackedRef::from_disk))
}

/// As [`records`], of a body that was checked: without another look at the checksums of the records.
pub(crate) fn raw_records(body: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    let mut rest = body;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let length = read_u32(rest, 0).map_or(usize::MAX, |length| length as usize);
        let parts = rest.get(4..).and_then(|rest| rest.split_at_checked(length));
        rest = parts.map_or(&[], |(_, rest)| rest);
        Some(parts.map(|(packed, _)| packed))
    })
}

/// A file of blocks being written.
pub(crate) struct BlockWriter {
    pub(crate) file: DiskFile,
    pub(crate) at: u64,
    pub(crate) blocks: u32,
    /// Checksum of the checksums so far.
    pub(crate) checksum: u64,
}

impl BlockWriter {
    pub(crate) fn new(file: DiskFile) -> Self {
        Self {
            file,
            at: 0,
            blocks: 0,
            checksum: 0,
        }
    }

    pub(crate) fn block(&mut self, kind: &[u8; 4], body: &[u8]) -> Result<(), StoreError> {
        let mut head = Vec::with_capacity(BLOCK_HEAD);
        head.extend_from_slice(kind);
        head.extend_from_slice(&(body.len() as u32).to_be_bytes());
        let checksum = block_checksum(&head, self.blocks, body);
        head.extend_from_slice(&checksum.to_be_bytes());
        self.file.write_at(&head, self.at)?;
        self.file.write_at(body, self.at + BLOCK_HEAD as u64)?;
        self.at += (BLOCK_HEAD + body.len()) as u64;
        self.blocks += 1;
        self.checksum = chain(self.checksum, checksum);
        Ok(())
    }
}

fn block_checksum(start: &[u8], number: u32, body: &[u8]) -> u64 {
    // The end must be readable without the blocks before it.
    let number = if start.starts_with(END) {
        u32::MAX
    } else {
        number
    };
    let seed = xxh3_64(&[start, &number.to_be_bytes()].concat());
    xxh3_64_with_seed(body, seed)
}

/// The checksum of one checksum more.
pub(crate) fn chain(before: u64, checksum: u64) -> u64 {
    xxh3_64_with_seed(&checksum.to_be_bytes(), before)
}

/// A block that was read: its checksum is right.
pub(crate) struct Block {
    pub(crate) kind: [u8; 4],
    pub(crate) body: Vec<u8>,
    pub(crate) checksum: u64,
}

/// Reads the body of block `number` at `at`; none when it is damaged, or not there.
pub(crate) fn read_at(file: &File, at: u64, number: u32) -> std::io::Result<Option<Vec<u8>>> {
    Ok(read_with_checksum(file, at, number)?.map(|(body, _)| body))
}

/// As [`read_at`], with the block's checksum.
pub(crate) fn read_with_checksum(
    file: &File,
    at: u64,
    number: u32,
) -> std::io::Result<Option<(Vec<u8>, u64)>> {
    let mut head = [0; BLOCK_HEAD];
    file.read_exact_at(&mut head, at)?;
    let length = read_u32(&head, 4).unwrap_or(u32::MAX) as usize;
    // Of a damaged length nothing is believed that the file does not have.
    let there = file.metadata()?.len().saturating_sub(at);
    if length > BLOCK_MAX || length as u64 > there {
        return Ok(None);
    }
    let mut body = vec![0; length];
    file.read_exact_at(&mut body, at + BLOCK_HEAD as u64)?;
    let checksum = block_checksum(&head[..8], number, &body);
    let right = read_u64(&head, 8) == Some(checksum);
    Ok(right.then_some((body, checksum)))
}

/// What cannot be read says nothing about a record: neither what it is, nor that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

/// The record under a key among those of a body, or of a part of one, that are in the order of keys; none when there is
/// none.
pub(crate) fn find(body: &[u8], space: u8, key: &[u8]) -> Result<Option<Packed>, Unreadable> {
    for packed in records(body) {
        let packed = packed.ok_or(Unreadable)?;
        match packed.place().cmp(&(space, key)) {
            Ordering::Less => {}
            Ordering::Equal => return Ok(Some(packed.to_owned())),
            Ordering::Greater => break,
        }
    }
    Ok(None)
}

/// A file of blocks being read, from its beginning on.
pub(crate) struct BlockReader {
    file: BufReader<File>,
    path: PathBuf,
    pub(crate) at: u64,
    pub(crate) length: u64,
    pub(crate) blocks: u32,
    /// Checksum of the checksums so far.
    pub(crate) checksum: u64,
    /// What to do about damage.
    remedy: &'static str,
}

impl BlockReader {
    pub(crate) fn open(path: &Path, remedy: &'static str) -> Result<Self, StoreError> {
        let file =
            File::open(path).map_err(|error| StoreError::io(path, "open the file", error))?;
        Self::of(file, path, remedy)
    }

    /// Reads an open file, which is called `path`, from where it stands; its beginning, that is.
    pub(crate) fn of(file: File, path: &Path, remedy: &'static str) -> Result<Self, StoreError> {
        let length = file
            .metadata()
            .map_err(|error| StoreError::io(path, "read the size", error))?
            .len();
        let file = BufReader::with_capacity(1 << 20, file);
        Ok(Self {
            file,
            path: path.to_path_buf(),
            at: 0,
            length,
            blocks: 0,
            checksum: 0,
            remedy,
        })
    }

    /// What it is called.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn seek(&mut self, at: u64, number: u32) -> Result<(), StoreError> {
        self.file
            .seek(SeekFrom::Start(at))
            .map_err(|error| StoreError::io(&self.path, "read", error))?;
        self.at = at;
        self.blocks = number;
        Ok(())
    }

    pub(crate) fn block(&mut self) -> Result<Block, StoreError> {
        let mut head = [0; BLOCK_HEAD];
        self.read(&mut head)?;
        let length = read_u32(&head, 4).unwrap_or(u32::MAX) as usize;
        if length > BLOCK_MAX || length as u64 > self.length - self.at {
            return Err(self.damaged("it is cut off, or the length of a block is damaged"));
        }
        let mut body = vec![0; length];
        self.read(&mut body)?;
        let checksum = block_checksum(&head[..8], self.blocks, &body);
        if read_u64(&head, 8) != Some(checksum) {
            return Err(self.damaged("a block has a wrong checksum"));
        }
        self.blocks += 1;
        self.checksum = chain(self.checksum, checksum);
        Ok(Block {
            kind: [head[0], head[1], head[2], head[3]],
            body,
            checksum,
        })
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), StoreError> {
        if bytes.len() as u64 > self.length.saturating_sub(self.at) {
            return Err(self.damaged("it is cut off"));
        }
        self.file
            .read_exact(bytes)
            .map_err(|error| StoreError::io(&self.path, "read", error))?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    pub(crate) fn damaged(&self, what: &str) -> StoreError {
        StoreError::damaged(
            &self.path,
            format!("{what} (before byte {})", self.at),
            self.remedy,
        )
    }
}
