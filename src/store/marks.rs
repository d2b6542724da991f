//! Marks: where the records of a dump are, so that one can be found without reading those before it.
//!
//! A dump is in the order of spaces and keys. It is cut into *stretches* of records that lie one behind the other; a mark
//! is where a stretch is, and the space and key that it begins with.
//!
//! ```text
//! mark:     at   bytes
//!            0    8    where the stretch begins in the file
//!            8    4    its bytes
//!           12    2    length of space and key k
//!           14    k    space and key
//! ```

use super::blocks::put_length;
use super::change::{KEY_MAX, RECORD_MAX};
use super::journal::entry::{read_u32, read_u64};
use super::record::PackedRef;

/// A stretch that is so long gets no other record: what is read to find one.
const STRETCH_BYTES: usize = 16 << 10;
/// The longest stretch there can be: one with the longest record at its end.
const STRETCH_MAX: usize = STRETCH_BYTES + KEY_MAX + RECORD_MAX + 64;
/// Bytes of a mark before its key.
const HEAD: usize = 14;
/// Marks are written in pieces that are about so long.
const PIECE: usize = 1 << 20;

/// The marks of a dump, in its order.
#[derive(Default)]
pub(crate) struct Marks {
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

impl Marks {
    /// Notes the next record of the dump; its length, which is before it, is at `at` in the file.
    pub(crate) fn note(&mut self, at: u64, packed: PackedRef<'_>) {
        let length = put_length(packed.bytes());
        if let Some(start) = self.starts.last()
            && let Some((begin, octets)) = stretch(&self.bytes[*start..])
            && begin + octets as u64 == at
            && octets < STRETCH_BYTES
        {
            let longer = ((octets + length) as u32).to_be_bytes();
            self.bytes[start + 8..start + 12].copy_from_slice(&longer);
            return;
        }
        self.starts.push(self.bytes.len());
        let key = packed.key();
        self.bytes.extend_from_slice(&at.to_be_bytes());
        self.bytes.extend_from_slice(&(length as u32).to_be_bytes());
        self.bytes
            .extend_from_slice(&(key.len() as u16 + 1).to_be_bytes());
        self.bytes.push(packed.space_number());
        self.bytes.extend_from_slice(key);
    }

    /// Takes a piece of what was written; none when it makes no sense.
    pub(crate) fn read(&mut self, piece: &[u8]) -> Option<()> {
        let mut rest = piece;
        while !rest.is_empty() {
            let (_, octets) = stretch(rest)?;
            let key = key(rest)?;
            if octets > STRETCH_MAX || key.is_empty() {
                return None;
            }
            self.starts
                .push(self.bytes.len() + (piece.len() - rest.len()));
            rest = rest.get(HEAD + key.len()..)?;
        }
        self.bytes.extend_from_slice(piece);
        Some(())
    }

    /// All of it, in pieces.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let mut begin = 0;
        let mut ends = self.starts.iter().copied().skip(1);
        std::iter::from_fn(move || {
            let end = ends.find(|end| end - begin >= PIECE);
            let end = end.unwrap_or(self.bytes.len());
            let piece = &self.bytes[begin..end];
            begin = end;
            (!piece.is_empty()).then_some(piece)
        })
    }

    /// Where the stretch is that has the record under a key, if there is one, and how many bytes it has.
    pub(crate) fn find(&self, space: u8, wanted: &[u8]) -> Option<(u64, usize)> {
        let behind = self.starts.partition_point(|start| {
            let key = key(&self.bytes[*start..]).and_then(<[u8]>::split_first);
            key.is_some_and(|(of, key)| (*of, key) <= (space, wanted))
        });
        let start = self.starts.get(behind.checked_sub(1)?)?;
        stretch(&self.bytes[*start..])
    }
}

impl PartialEq for Marks {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

/// Where the stretch of a mark begins, and its bytes.
fn stretch(mark: &[u8]) -> Option<(u64, usize)> {
    Some((read_u64(mark, 0)?, read_u32(mark, 8)? as usize))
}

/// Space and key of a mark.
fn key(mark: &[u8]) -> Option<&[u8]> {
    let length = mark.get(12..HEAD)?;
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    mark.get(HEAD..HEAD + length)
}
