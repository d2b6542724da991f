//! The format of a journal segment, byte by byte. Numbers are big-endian.
//!
//! ```text
//! segment:  at  bytes
//!            0    8    "JXJRNL01"
//!            8    8    epoch of the store
//!           16    8    first sequence
//!           24    8    records in the store before it
//!           32    8    sum (exclusive-or of the checksums of all records) before it
//!           40   16    0
//!           56    8    xxh3-64 of the 56 bytes before
//!           64         entries, each at a multiple of 8; zeros after the last one
//!
//! entry:     0    8    "JXENTRY1"          one entry per commit group
//!            8    4    length of the entry, padding included
//!           12    4    length of the body
//!           16    8    first sequence
//!           24    8    last sequence: there is one batch for each
//!           32    8    records in the store after it
//!           40    8    sum after it
//!           48    8    epoch of the store
//!           56    8    xxh3-64 of the body, seeded with the xxh3-64 of the 56 bytes before
//!           64         body, padded with zeros to a multiple of 8
//!
//! batch:     0    4    number of changes
//!            4    4    length of the note n
//!            8    n    note
//!          8+n         changes
//!
//! change:    0    1    1 = put, 2 = delete, 3 = run
//!            1    4    length of what follows
//!            5         put: the packed record; delete: its space (1), length of the key (2), key;
//!                      run: its number (8), records in it (8), bytes of its file (8), checksum of its file (8)
//! ```
//!
//! A run (see [`crate::store::run`]) stands for the puts of all of its records, in the order of its file. It is the only
//! change of its entry.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::store::change::Space;
use crate::store::record::{Packed, PackedRef};

/// Bytes of the head of a segment, and of that of an entry.
pub(crate) const HEAD: usize = 64;
/// Entries begin at multiples of this.
const ALIGNMENT: usize = 8;
const SEGMENT_MAGIC: &[u8; 8] = b"JXJRNL01";
const ENTRY_MAGIC: &[u8; 8] = b"JXENTRY1";
const PUT: u8 = 1;
const DELETE: u8 = 2;
const RUN: u8 = 3;

/// A state of the store: after which batch, and what it must add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The last batch.
    pub sequence: u64,
    /// Records in the store.
    pub count: u64,
    /// Exclusive-or of their checksums.
    pub sum: u64,
}

impl Position {
    /// Takes the exchange of one record into account: the checksum of the old one, and of the new one.
    pub(crate) fn exchange(&mut self, old: Option<u64>, new: Option<u64>) {
        self.sum ^= old.unwrap_or(0) ^ new.unwrap_or(0);
        self.count = self.count + u64::from(new.is_some()) - u64::from(old.is_some());
    }

    /// The position as 24 bytes.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        for number in [self.sequence, self.count, self.sum] {
            out.extend_from_slice(&number.to_be_bytes());
        }
    }

    /// The position that [`Self::encode`] wrote at an offset.
    pub(crate) fn decode(bytes: &[u8], at: usize) -> Option<Self> {
        let number = |field: usize| read_u64(bytes, at + 8 * field);
        Some(Self {
            sequence: number(0)?,
            count: number(1)?,
            sum: number(2)?,
        })
    }
}

/// The head of a segment that begins after `before`.
pub(crate) fn segment_head(epoch: u64, before: Position) -> Vec<u8> {
    let mut head = Vec::with_capacity(HEAD);
    head.extend_from_slice(SEGMENT_MAGIC);
    head.extend_from_slice(&epoch.to_be_bytes());
    Position {
        sequence: before.sequence + 1,
        ..before
    }
    .encode(&mut head);
    head.extend_from_slice(&[0; 16]);
    let checksum = xxh3_64(&head);
    head.extend_from_slice(&checksum.to_be_bytes());
    head
}

/// The position before the first entry of a segment, when its head is whole and of this epoch.
pub(crate) fn read_segment_head(bytes: &[u8], epoch: u64) -> Option<Position> {
    let head = bytes.get(..HEAD)?;
    let whole = head.starts_with(SEGMENT_MAGIC)
        && read_u64(head, 56)? == xxh3_64(&head[..56])
        && read_u64(head, 8)? == epoch;
    let first = Position::decode(head, 16)?;
    whole.then_some(Position {
        sequence: first.sequence.checked_sub(1)?,
        ..first
    })
}

/// What an entry does to one key.
pub(crate) enum Step<'a> {
    /// The record under its key becomes this.
    Put(&'a Packed),
    /// No record is left.
    Delete {
        /// Number of the space.
        space: u8,
        /// The key.
        key: &'a [u8],
    },
    /// The records of a run.
    Run(Named),
}

/// What the journal says about a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// The sequence that was kept free for it: the generation of its records.
    pub(crate) number: u64,
    /// Records in its file, those included that another one in it replaces.
    pub(crate) records: u64,
    /// Bytes of its file.
    pub(crate) bytes: u64,
    /// Checksum of the checksums of its blocks.
    pub(crate) checksum: u64,
}

impl Named {
    fn encode(self) -> Vec<u8> {
        [self.number, self.records, self.bytes, self.checksum]
            .map(u64::to_be_bytes)
            .concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == 32).then_some(())?;
        Some(Self {
            number: read_u64(bytes, 0)?,
            records: read_u64(bytes, 8)?,
            bytes: read_u64(bytes, 16)?,
            checksum: read_u64(bytes, 24)?,
        })
    }
}

/// An entry being put together.
#[derive(Default)]
pub(crate) struct EntryWriter {
    bytes: Vec<u8>,
}

impl EntryWriter {
    /// Begins a new entry, in the memory of the last one.
    pub(crate) fn begin(&mut self) {
        self.bytes.clear();
        self.bytes.resize(HEAD, 0);
    }

    /// Begins the next batch.
    pub(crate) fn batch(&mut self, changes: usize, note: &[u8]) {
        self.bytes
            .extend_from_slice(&(changes as u32).to_be_bytes());
        self.bytes
            .extend_from_slice(&(note.len() as u32).to_be_bytes());
        self.bytes.extend_from_slice(note);
    }

    /// Adds a change to the batch.
    pub(crate) fn change(&mut self, step: &Step<'_>) {
        match step {
            Step::Put(packed) => self.put(PUT, &[packed.bytes()]),
            Step::Delete { space, key } => {
                self.put(DELETE, &[&[*space], &(key.len() as u16).to_be_bytes(), key]);
            }
            Step::Run(named) => self.put(RUN, &[&named.encode()]),
        }
    }

    /// Adds changes that are encoded already, see [`put_change`].
    pub(crate) fn changes(&mut self, encoded: &[u8]) {
        self.bytes.extend_from_slice(encoded);
    }

    /// Completes the entry.
    pub(crate) fn finish(&mut self, epoch: u64, first: u64, after: Position) {
        let body = self.bytes.len() - HEAD;
        self.bytes
            .resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
        let length = self.bytes.len();
        let mut head = Vec::with_capacity(HEAD);
        head.extend_from_slice(ENTRY_MAGIC);
        head.extend_from_slice(&(length as u32).to_be_bytes());
        head.extend_from_slice(&(body as u32).to_be_bytes());
        head.extend_from_slice(&first.to_be_bytes());
        after.encode(&mut head);
        head.extend_from_slice(&epoch.to_be_bytes());
        let checksum = xxh3_64_with_seed(&self.bytes[HEAD..HEAD + body], xxh3_64(&head));
        head.extend_from_slice(&checksum.to_be_bytes());
        self.bytes[..HEAD].copy_from_slice(&head);
    }

    /// An entry of another journal, as it is.
    pub(crate) fn copy(&mut self, entry: &[u8]) {
        self.bytes.clear();
        self.bytes.extend_from_slice(entry);
    }

    /// The entry, once it is complete.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn put(&mut self, kind: u8, parts: &[&[u8]]) {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        self.bytes.push(kind);
        self.bytes.extend_from_slice(&(length as u32).to_be_bytes());
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
    }
}

/// Appends the put of a record, as it is in a batch.
pub(crate) fn put_change(out: &mut Vec<u8>, packed: PackedRef<'_>) {
    out.push(PUT);
    out.extend_from_slice(&(packed.bytes().len() as u32).to_be_bytes());
    out.extend_from_slice(packed.bytes());
}

/// How long the entry is that bytes begin with, if they do.
pub(crate) fn entry_length(bytes: &[u8]) -> Option<usize> {
    let begins = bytes.starts_with(ENTRY_MAGIC);
    begins
        .then(|| read_u32(bytes, 8))?
        .map(|length| length as usize)
}

/// The length of an entry and its last sequence, as its head says; none when this is no head. Whether it is right, the
/// checksum says, which is that of the whole entry.
pub(crate) fn head_says(head: &[u8]) -> Option<(u64, u64)> {
    let length = u64::from(read_u32(head, 8)?);
    let good = head.starts_with(ENTRY_MAGIC) && length >= HEAD as u64;
    good.then_some((length, read_u64(head, 24)?))
}

/// An entry whose checksum is right.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'a> {
    /// The sequence of its first batch.
    pub(crate) first: u64,
    /// The state after it.
    pub(crate) after: Position,
    /// All of its bytes.
    pub(crate) bytes: &'a [u8],
    /// Where it is in its segment.
    pub(crate) at: usize,
    body: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Reads the entry at the beginning of `bytes`.
    pub(crate) fn read(bytes: &'a [u8], epoch: u64) -> Option<Self> {
        let head = bytes.get(..HEAD)?;
        if !head.starts_with(ENTRY_MAGIC) || read_u64(head, 48)? != epoch {
            return None;
        }
        let (length, body) = (read_u32(head, 8)? as usize, read_u32(head, 12)? as usize);
        let entry = bytes.get(..length)?;
        let body = entry.get(HEAD..)?.get(..body)?;
        let whole = length.is_multiple_of(ALIGNMENT)
            && xxh3_64_with_seed(body, xxh3_64(&head[..56])) == read_u64(head, 56)?;
        let (first, after) = (read_u64(head, 16)?, Position::decode(head, 24)?);
        (whole && first <= after.sequence).then_some(Self {
            first,
            after,
            bytes: entry,
            at: 0,
            body,
        })
    }

    /// Calls `visit` with every change, in order. False when the body is not what the format says: a program's mistake,
    /// since the checksum was right.
    #[must_use]
    pub(crate) fn for_each(&self, mut visit: impl FnMut(Change<'a>)) -> bool {
        self.for_each_numbered(|_, change| visit(change))
    }

    /// As [`Self::for_each`], with the sequence of each change.
    #[must_use]
    pub(crate) fn for_each_numbered(&self, mut visit: impl FnMut(u64, Change<'a>)) -> bool {
        let mut rest = self.body;
        for sequence in self.first..=self.after.sequence {
            if read_batch(&mut rest, &mut |change| visit(sequence, change)).is_none() {
                return false;
            }
        }
        rest.is_empty()
    }

    /// Calls `visit` with the note of each batch and its sequence. False as [`Self::for_each`].
    #[must_use]
    pub(crate) fn for_each_note(&self, mut visit: impl FnMut(u64, &'a [u8])) -> bool {
        let mut rest = self.body;
        for sequence in self.first..=self.after.sequence {
            let note = rest.get(4..).and_then(|length| {
                let length = read_u32(length, 0)? as usize;
                rest.get(8..)?.get(..length)
            });
            let whole = read_batch(&mut rest, &mut |_| {});
            let (Some(note), Some(())) = (note, whole) else {
                return false;
            };
            visit(sequence, note);
        }
        rest.is_empty()
    }

    /// The bytes of an entry with the batches up to that of `after` only; none when it does not have that.
    pub(crate) fn cut(&self, epoch: u64, after: Position) -> Option<Vec<u8>> {
        let mut rest = self.body;
        if after.sequence < self.first || after.sequence > self.after.sequence {
            return None;
        }
        for _ in self.first..=after.sequence {
            read_batch(&mut rest, &mut |_| {})?;
        }
        let mut writer = EntryWriter::default();
        writer.begin();
        writer.changes(self.body.get(..self.body.len() - rest.len())?);
        writer.finish(epoch, self.first, after);
        Some(writer.bytes)
    }

    /// The run that the entry names, if it does.
    pub(crate) fn run(&self) -> Option<Named> {
        let note = read_u32(self.body, 4)? as usize;
        let change = self.body.get(8..)?.get(note..)?;
        (*change.first()? == RUN).then_some(())?;
        Named::decode(change.get(5..)?)
    }
}

impl Change<'_> {
    /// The key with its space before it, and the bytes of the record, or those of the key if none is left. None for a run.
    pub(crate) fn place(&self) -> Option<(Vec<u8>, usize)> {
        match self {
            Self::Put(packed) => Some((
                [&[packed.space_number()], packed.key()].concat(),
                packed.bytes().len(),
            )),
            Self::Delete { space, key } => Some(([&[*space], *key].concat(), key.len())),
            Self::Run(_) => None,
        }
    }
}

/// A change as it was read.
#[derive(Clone, Copy)]
pub(crate) enum Change<'a> {
    /// The record under its key becomes this.
    Put(PackedRef<'a>),
    /// No record is left.
    Delete {
        /// Number of the space.
        space: u8,
        /// The key.
        key: &'a [u8],
    },
    /// The records of a run are put.
    Run(Named),
}

fn read_batch<'a>(rest: &mut &'a [u8], visit: &mut impl FnMut(Change<'a>)) -> Option<()> {
    let changes = read_u32(rest, 0)?;
    let note = read_u32(rest, 4)? as usize;
    *rest = rest.get(8..)?.get(note..)?;
    for _ in 0..changes {
        let kind = *rest.first()?;
        let length = read_u32(rest, 1)? as usize;
        let (content, after) = rest.get(5..)?.split_at_checked(length)?;
        *rest = after;
        visit(match kind {
            PUT => Change::Put(PackedRef::from_disk(content)?),
            DELETE => {
                let (space, key) = (*content.first()?, content.get(3..)?);
                Space::from_number(space)?;
                Change::Delete { space, key }
            }
            RUN => Change::Run(Named::decode(content)?),
            _ => return None,
        });
    }
    Some(())
}

/// A stretch of a segment.
pub(crate) enum Piece<'a> {
    /// An entry.
    Entry(Entry<'a>),
    /// Bytes that are no entry, from one offset to the next; there is an entry after them.
    Hole {
        /// Where they begin.
        at: usize,
    },
    /// Bytes that are no entry and not zero, and no entry after them.
    Torn {
        /// Where they begin.
        at: usize,
    },
}

/// Goes through the bytes of a segment; the second part is where the last entry ends.
pub(crate) fn for_each_piece(bytes: &[u8], epoch: u64, mut visit: impl FnMut(Piece<'_>)) -> usize {
    let mut at = HEAD.min(bytes.len());
    loop {
        let rest = &bytes[at..];
        if let Some(entry) = Entry::read(rest, epoch) {
            visit(Piece::Entry(Entry { at, ..entry }));
            at += entry.bytes.len();
        } else if rest.iter().all(|byte| *byte == 0) {
            return at;
        } else if let Some(skipped) = next_entry(rest, epoch) {
            visit(Piece::Hole { at });
            at += skipped;
        } else {
            visit(Piece::Torn { at });
            return at;
        }
    }
}

/// How far away the next entry is.
fn next_entry(bytes: &[u8], epoch: u64) -> Option<usize> {
    (ALIGNMENT..bytes.len()).step_by(ALIGNMENT).find(|at| {
        bytes[*at..].starts_with(ENTRY_MAGIC) && Entry::read(&bytes[*at..], epoch).is_some()
    })
}

pub(crate) fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

pub(crate) fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn entry(first: u64, last: u64) -> Vec<u8> {
        let mut writer = EntryWriter::default();
        writer.begin();
        for _ in first..=last {
            writer.batch(1, b"note");
            writer.change(&Step::Delete {
                space: 1,
                key: b"A/1",
            });
        }
        writer.finish(
            7,
            first,
            Position {
                sequence: last,
                count: 3,
                sum: 9,
            },
        );
        writer.bytes().to_vec()
    }

    fn pieces(bytes: &[u8]) -> (String, usize) {
        let mut found = String::new();
        let end = for_each_piece(bytes, 7, |piece| {
            found.push(match piece {
                Piece::Entry(_) => 'e',
                Piece::Hole { .. } => 'h',
                Piece::Torn { .. } => 't',
            });
        });
        (found, end)
    }

    /// Goal: whole entries, torn tails and holes are told apart, for every flipped byte of a segment of three entries.
    #[test]
    fn pieces_of_a_segment() {
        let mut bytes = segment_head(7, Position::default());
        let starts: Vec<usize> = [(1, 1), (2, 4), (5, 5)]
            .map(|(first, last)| {
                let at = bytes.len();
                bytes.extend(entry(first, last));
                at
            })
            .to_vec();
        let end = bytes.len();
        assert_eq!(pieces(&bytes), ("eee".into(), end));
        bytes.resize(end + 500, 0);
        assert_eq!(pieces(&bytes), ("eee".into(), end));
        for at in HEAD..end {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            let expected = match starts.iter().rposition(|start| *start <= at) {
                Some(2) => ("eet".to_string(), starts[2]),
                Some(1) => ("ehe".to_string(), end),
                _ => ("hee".to_string(), end),
            };
            // A flipped bit in the padding changes nothing.
            let found = pieces(&bad);
            assert!(
                found == expected || found.0 == "eee",
                "byte {at}: {found:?}"
            );
        }
        for length in starts[2] + 1..end {
            assert_eq!(pieces(&bytes[..length]).0, "eet", "cut at {length}");
        }
    }

    /// Goal: what was written is read, batch by batch.
    #[test]
    fn round_trip() {
        let bytes = entry(10, 12);
        let entry = Entry::read(&bytes, 7).unwrap();
        assert_eq!((entry.first, entry.after.sequence), (10, 12));
        let mut deletes = 0;
        assert!(entry.for_each(|change| {
            deletes +=
                u32::from(matches!(change, Change::Delete { space: 1, key } if key == b"A/1"));
        }));
        assert_eq!(deletes, 3);
        let mut notes = Vec::new();
        assert!(entry.for_each_note(|sequence, note| notes.push((sequence, note))));
        assert_eq!(notes, [10, 11, 12].map(|sequence| (sequence, &b"note"[..])));
        assert!(Entry::read(&bytes, 8).is_none(), "another epoch");
    }

    /// Goal: an entry is cut behind any of its batches, and nowhere else.
    #[test]
    fn cut_behind_a_batch() {
        let bytes = entry(10, 12);
        let whole = Entry::read(&bytes, 7).unwrap();
        let at = |sequence| Position {
            sequence,
            ..whole.after
        };
        for sequence in 10..=12 {
            let cut = whole.cut(7, at(sequence)).unwrap();
            let read = Entry::read(&cut, 7).unwrap();
            let mut seen = Vec::new();
            assert!(read.for_each_numbered(|number, _| seen.push(number)));
            assert_eq!(seen, (10..=sequence).collect::<Vec<_>>());
            assert_eq!((read.first, read.after), (10, at(sequence)));
        }
        assert_eq!(whole.cut(7, whole.after).unwrap(), bytes);
        assert!(whole.cut(7, at(9)).is_none() && whole.cut(7, at(13)).is_none());
    }
}
