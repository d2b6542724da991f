//! Where a follower stands, as text that says nothing to it: epoch of the store, sequence, and changes within a batch.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use xxhash_rust::xxh3::xxh3_64;

use crate::store::Mark;

/// Octets of epoch, sequence and changes; then those of their checksum, so that what is no cursor is told from an old one.
const NUMBERS: usize = 8 + 8 + 4;
const CHECKSUM: usize = 4;
/// Characters of a cursor.
const LENGTH: usize = (NUMBERS + CHECKSUM) / 3 * 4;

/// A place in the changes of one life of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    /// Sequences of two epochs are not compared.
    pub(super) epoch: u64,
    pub(super) mark: Mark,
}

impl Cursor {
    /// Its text.
    pub(super) fn text(self) -> String {
        let mut octets = Vec::with_capacity(NUMBERS + CHECKSUM);
        octets.extend_from_slice(&self.epoch.to_be_bytes());
        octets.extend_from_slice(&self.mark.sequence.to_be_bytes());
        octets.extend_from_slice(&self.mark.changes.to_be_bytes());
        octets.extend_from_slice(&checksum(&octets));
        URL_SAFE_NO_PAD.encode(octets)
    }

    /// Reads what [`Self::text`] wrote.
    pub(super) fn read(text: &str) -> Option<Self> {
        if text.len() != LENGTH {
            return None;
        }
        let octets = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (numbers, sum) = octets.split_at_checked(NUMBERS)?;
        if checksum(numbers) != sum {
            return None;
        }
        let (epoch, rest) = numbers.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        Some(Self {
            epoch: u64::from_be_bytes(*epoch),
            mark: Mark {
                sequence: u64::from_be_bytes(*sequence),
                changes: u32::from_be_bytes(*rest.first_chunk()?),
            },
        })
    }
}

fn checksum(numbers: &[u8]) -> [u8; CHECKSUM] {
    let sum = xxh3_64(numbers).to_be_bytes();
    sum.first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a cursor comes back as it was, and nothing else is one.
    #[test]
    fn texts() {
        let cursor = Cursor {
            epoch: 3,
            mark: Mark {
                sequence: u64::MAX - 1,
                changes: 70_000,
            },
        };
        let text = cursor.text();
        assert_eq!(text.len(), LENGTH);
        assert_eq!(Cursor::read(&text), Some(cursor));
        for place in 0..LENGTH {
            let mut other = text.clone().into_bytes();
            other[place] = if other[place] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(other).unwrap();
            assert_eq!(Cursor::read(&other), None, "{other}");
        }
        for wrong in ["", "0", "latest", &format!("{text}A"), &text[1..]] {
            assert_eq!(Cursor::read(wrong), None, "{wrong}");
        }
    }
}
