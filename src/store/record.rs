//! The record format, fixed from the first day, and the views of it.
//!
//! A record is kept, journaled and dumped *packed*, together with its key. Numbers are big-endian.
//!
//! ```text
//! packed:  at   bytes
//!           0    1     space
//!           1    2     length of the key k
//!           3    k     key (folded handle)
//!         3+k          record
//!
//! record:  at   bytes
//!           0    1     format version: 2 with flag bit 1, else 1
//!           1    1     flags: bit 0 = the handle is not here because it equals the key, bit 1 = because it is the key in
//!                      lower case (ASCII)
//!           2    8     generation: the journal sequence of the batch that put the record
//!          10    2     length of the handle h (0 with flag bit 0 or 1)
//!          12    2     number of values n
//!          14  n × 10  table: index (4), offset of the value in the values (4), permissions (1), flags (1: bit 0 = sealed)
//!     14+10n    h      handle, as its owner wrote it
//!   14+10n+h           values in wire form, in stored order, back to back
//!     the end   8      xxh3-64 over everything before it, from the space on
//! ```
//!
//! A value ends where the next one begins, the last one at the checksum. In sled the key is the space followed by the
//! key, and the value is the record; so the checksum also proves that a record belongs to the key it was found under.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::change::{CommitError, Draft, KEY_MAX, RECORD_MAX, Space, VALUES_MAX};

/// The first version, and the one that has [`HANDLE_IS_LOWER`]: programs that do not know the flag take it for damage.
const VERSION: u8 = 1;
const VERSION_LOWER: u8 = 2;
/// Flag: the handle equals the key.
const HANDLE_IS_KEY: u8 = 1;
/// Flag: the handle is the key in lower case.
const HANDLE_IS_LOWER: u8 = 2;
/// Flag of a value: it is sealed.
const SEALED: u8 = 1;
/// Bytes of a packed record before the key.
const PACKED_HEAD: usize = 3;
/// Bytes of a record before the table.
const HEAD: usize = 14;
/// Bytes of one row of the table.
const ROW: usize = 10;
/// Bytes of the checksum.
const CHECKSUM: usize = 8;

/// One value of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The value's index.
    pub index: u32,
    /// The value's permissions, as in the protocol.
    pub permissions: u8,
    /// Whether `wire` is a secret encrypted with the node key.
    pub sealed: bool,
    /// The whole value in wire form.
    pub wire: &'a [u8],
}

/// A record, borrowed from the index or from an [`OwnedRecord`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    key: &'a [u8],
    body: &'a [u8],
}

impl<'a> Record<'a> {
    /// The key of the record.
    #[must_use]
    pub fn key(&self) -> &'a [u8] {
        self.key
    }

    /// The sequence of the batch that put the record.
    #[must_use]
    pub fn generation(&self) -> u64 {
        read_u64(self.body, 2)
    }

    /// The handle as its owner wrote it.
    #[must_use]
    pub fn handle(&self) -> Cow<'a, [u8]> {
        let flags = self.body[1];
        if flags & HANDLE_IS_KEY != 0 {
            return Cow::Borrowed(self.key);
        }
        if flags & HANDLE_IS_LOWER != 0 {
            return Cow::Owned(self.key.to_ascii_lowercase());
        }
        let start = self.table_end();
        Cow::Borrowed(&self.body[start..start + self.handle_len()])
    }

    /// How many values there are.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        usize::from(read_u16(self.body, 12))
    }

    /// Whether there is no value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values, in stored order.
    #[must_use]
    pub fn entries(&self) -> Entries<'a> {
        Entries {
            table: &self.body[HEAD..self.table_end()],
            values: self.wire(),
        }
    }

    /// The permissions of the values, in stored order, and whether each is sealed.
    #[inline]
    pub fn permissions(&self) -> impl Iterator<Item = (u8, bool)> + use<'a> {
        let (rows, _) = self.body[HEAD..self.table_end()].as_chunks::<ROW>();
        rows.iter().map(|row| (row[8], row[9] & SEALED != 0))
    }

    /// All values in wire form, back to back, in stored order.
    #[must_use]
    #[inline]
    pub fn wire(&self) -> &'a [u8] {
        &self.body[self.table_end() + self.handle_len()..self.body.len() - CHECKSUM]
    }

    /// The record with its own memory.
    #[must_use]
    pub fn to_owned(&self) -> OwnedRecord {
        OwnedRecord {
            key: self.key.to_vec(),
            body: Bytes::copy_from_slice(self.body),
        }
    }

    fn handle_len(&self) -> usize {
        usize::from(read_u16(self.body, 10))
    }

    fn table_end(&self) -> usize {
        HEAD + ROW * self.len()
    }
}

impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("handle", &String::from_utf8_lossy(&self.handle()))
            .field("generation", &self.generation())
            .field("values", &self.len())
            .finish()
    }
}

/// The values of a record, in stored order.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    table: &'a [u8],
    values: &'a [u8],
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    #[inline]
    fn next(&mut self) -> Option<Entry<'a>> {
        let (row, rest) = self.table.split_at_checked(ROW)?;
        let start = read_u32(row, 4) as usize;
        let end = if rest.is_empty() {
            self.values.len()
        } else {
            read_u32(rest, 4) as usize
        };
        self.table = rest;
        Some(Entry {
            index: read_u32(row, 0),
            permissions: row[8],
            sealed: row[9] & SEALED != 0,
            wire: &self.values[start..end],
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.table.len() / ROW;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Entries<'_> {}

/// A record with its own memory.
#[derive(Clone, PartialEq, Eq)]
pub struct OwnedRecord {
    /// The key of the record.
    pub key: Vec<u8>,
    body: Bytes,
}

impl OwnedRecord {
    /// A record that is in no store, of generation 0.
    ///
    /// # Errors
    /// The key or the record is longer than a store takes.
    pub fn new(key: &[u8], draft: &Draft) -> Result<Self, CommitError> {
        Ok(Packed::encode(Space::Handle, key, draft)?
            .record()
            .to_owned())
    }

    /// The borrowed view.
    #[must_use]
    pub fn view(&self) -> Record<'_> {
        Record {
            key: &self.key,
            body: &self.body,
        }
    }

    /// The key of the record.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// See [`Record::generation`].
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.view().generation()
    }

    /// See [`Record::handle`].
    #[must_use]
    pub fn handle(&self) -> Cow<'_, [u8]> {
        self.view().handle()
    }

    /// See [`Record::len`].
    #[must_use]
    pub fn len(&self) -> usize {
        self.view().len()
    }

    /// See [`Record::is_empty`].
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.view().is_empty()
    }

    /// See [`Record::entries`].
    #[must_use]
    pub fn entries(&self) -> Entries<'_> {
        self.view().entries()
    }

    /// See [`Record::wire`].
    #[must_use]
    pub fn wire(&self) -> &[u8] {
        self.view().wire()
    }
}

impl fmt::Debug for OwnedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.view().fmt(f)
    }
}

/// A whole record with its key in one block of memory, as the index and the journal hold it.
///
/// Its structure is sound whenever the value exists; its checksum, too, once the writer has called [`Self::seal`].
#[derive(Clone)]
pub(crate) struct Packed(Box<[u8]>);

impl Packed {
    /// Encodes a draft. The generation and the checksum are still missing; see [`Self::seal`].
    pub(crate) fn encode(space: Space, key: &[u8], draft: &Draft) -> Result<Self, CommitError> {
        let mut packed = Vec::new();
        encode_into(&mut packed, space, key, draft)?;
        Ok(Self(packed.into_boxed_slice()))
    }

    /// Gives the record its generation, and with it its checksum.
    pub(crate) fn seal(&mut self, generation: u64) {
        seal(&mut self.0, generation);
    }

    /// Takes a record found under a key, if they are whole and belong together.
    pub(crate) fn from_parts(space: Space, key: &[u8], record: &[u8]) -> Option<Self> {
        let key_len = u16::try_from(key.len()).ok()?;
        let mut packed = Vec::with_capacity(PACKED_HEAD + key.len() + record.len());
        packed.push(space.number());
        packed.extend_from_slice(&key_len.to_be_bytes());
        packed.extend_from_slice(key);
        packed.extend_from_slice(record);
        is_sound(&packed).then(|| Self(packed.into_boxed_slice()))
    }

    /// The whole packed form.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The borrowed view.
    pub(crate) fn view(&self) -> PackedRef<'_> {
        PackedRef(&self.0)
    }

    /// The number of the record's space.
    pub(crate) fn space_number(&self) -> u8 {
        self.view().space_number()
    }

    /// The record's key.
    pub(crate) fn key(&self) -> &[u8] {
        self.view().key()
    }

    /// The checksum; part of the store's sum.
    pub(crate) fn checksum(&self) -> u64 {
        self.view().checksum()
    }

    /// The view for readers.
    pub(crate) fn record(&self) -> Record<'_> {
        self.view().record()
    }
}

impl Draft {
    /// Checks that the store takes it under this key.
    ///
    /// # Errors
    /// It is larger.
    pub fn check(&self, key: &[u8]) -> Result<(), CommitError> {
        self.packed_length(key).map(drop)
    }

    /// Octets of its packed form behind the key.
    fn packed_length(&self, key: &[u8]) -> Result<usize, CommitError> {
        let (_, handle) = stored_handle(&self.handle, key);
        let octets = self.values.iter().map(|value| value.wire.len()).sum();
        let fits = key.len() <= KEY_MAX && handle.len() <= KEY_MAX;
        let length = record_length(handle, self.values.len(), octets).filter(|_| fits);
        length.ok_or(CommitError::TooLarge)
    }
}

/// The flags that say what a handle has to do with its key, and what is stored of it beside the key.
pub(crate) fn stored_handle<'h>(handle: &'h [u8], key: &[u8]) -> (u8, &'h [u8]) {
    let lower = key.iter().map(u8::to_ascii_lowercase);
    if handle == key {
        (HANDLE_IS_KEY, &[])
    } else if handle.len() == key.len() && handle.iter().copied().eq(lower) {
        (HANDLE_IS_LOWER, &[])
    } else {
        (0, handle)
    }
}

/// Octets of a record behind its key; none when that is more than the store takes. Its values are so many with so many
/// octets as they are stored; `handle` is what is stored of it, see [`stored_handle`].
pub(crate) const fn record_length(handle: &[u8], values: usize, octets: usize) -> Option<usize> {
    let length = HEAD + ROW * values + handle.len() + octets + CHECKSUM;
    match length <= RECORD_MAX && values <= VALUES_MAX {
        true => Some(length),
        false => None,
    }
}

/// Appends a draft in packed form. The generation and the checksum are still missing; see [`seal`]. After an error nothing
/// was appended.
pub(crate) fn encode_into(
    packed: &mut Vec<u8>,
    space: Space,
    key: &[u8],
    draft: &Draft,
) -> Result<(), CommitError> {
    let length = draft.packed_length(key)?;
    let (flags, handle) = stored_handle(&draft.handle, key);
    let version = match flags {
        HANDLE_IS_LOWER => VERSION_LOWER,
        _ => VERSION,
    };
    let count = draft.values.len() as u16;
    packed.reserve(PACKED_HEAD + key.len() + length);
    packed.push(space.number());
    packed.extend_from_slice(&(key.len() as u16).to_be_bytes());
    packed.extend_from_slice(key);
    packed.extend_from_slice(&[version, flags]);
    packed.extend_from_slice(&[0; 8]);
    packed.extend_from_slice(&(handle.len() as u16).to_be_bytes());
    packed.extend_from_slice(&count.to_be_bytes());
    let mut offset = 0_u32;
    for value in &draft.values {
        packed.extend_from_slice(&value.index.to_be_bytes());
        packed.extend_from_slice(&offset.to_be_bytes());
        packed.extend_from_slice(&[value.permissions, u8::from(value.sealed) * SEALED]);
        offset += value.wire.len() as u32;
    }
    packed.extend_from_slice(handle);
    for value in &draft.values {
        packed.extend_from_slice(&value.wire);
    }
    packed.extend_from_slice(&[0; CHECKSUM]);
    Ok(())
}

/// Gives packed bytes their generation, and with it their checksum.
pub(crate) fn seal(packed: &mut [u8], generation: u64) {
    let at = PackedRef(packed).key_end() + 2;
    packed[at..at + 8].copy_from_slice(&generation.to_be_bytes());
    let end = packed.len() - CHECKSUM;
    let checksum = xxh3_64(&packed[..end]);
    packed[end..].copy_from_slice(&checksum.to_be_bytes());
}

/// A whole record with its key, in somebody else's memory.
#[derive(Clone, Copy)]
pub(crate) struct PackedRef<'a>(&'a [u8]);

impl<'a> PackedRef<'a> {
    /// Takes packed bytes that were read from a file, if they are whole.
    pub(crate) fn from_disk(bytes: &'a [u8]) -> Option<Self> {
        is_sound(bytes).then_some(Self(bytes))
    }

    /// Bytes out of the index, into which only whole records come.
    #[inline]
    pub(crate) fn of_index(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Space number and key: what the order of records is made of.
    pub(crate) fn place(self) -> (u8, &'a [u8]) {
        (self.space_number(), self.key())
    }

    /// The record with its own memory.
    pub(crate) fn to_owned(self) -> Packed {
        Packed(self.0.into())
    }

    /// The whole packed form.
    pub(crate) fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// The number of the record's space.
    pub(crate) fn space_number(self) -> u8 {
        self.0[0]
    }

    /// The record's key.
    pub(crate) fn key(self) -> &'a [u8] {
        &self.0[PACKED_HEAD..self.key_end()]
    }

    /// The record without its key, as sled holds it.
    pub(crate) fn body(self) -> &'a [u8] {
        &self.0[self.key_end()..]
    }

    /// The checksum; part of the store's sum.
    pub(crate) fn checksum(self) -> u64 {
        read_u64(self.0, self.0.len() - CHECKSUM)
    }

    /// Whether the bytes still are what they were when they came.
    pub(crate) fn is_whole(self) -> bool {
        is_sound(self.0)
    }

    /// The view for readers.
    #[inline]
    pub(crate) fn record(self) -> Record<'a> {
        let (head, body) = self.0.split_at(self.key_end());
        Record {
            key: &head[PACKED_HEAD..],
            body,
        }
    }

    fn key_end(self) -> usize {
        PACKED_HEAD + usize::from(read_u16(self.0, 1))
    }
}

/// Whether packed bytes have the right structure and checksum.
fn is_sound(packed: &[u8]) -> bool {
    let checked = || {
        let content = packed.len().checked_sub(CHECKSUM)?;
        Space::from_number(*packed.first()?)?;
        let key_end =
            PACKED_HEAD + usize::from(u16::from_be_bytes(packed.get(1..3)?.try_into().ok()?));
        let body = packed.get(key_end..)?;
        if body.len() < HEAD + CHECKSUM {
            return None;
        }
        let is_lower = body[1] & HANDLE_IS_LOWER != 0;
        if !matches!(
            (body[0], is_lower),
            (VERSION, false) | (VERSION_LOWER, true)
        ) {
            return None;
        }
        let record = Record {
            key: packed.get(PACKED_HEAD..key_end)?,
            body,
        };
        let values_start = record.table_end() + record.handle_len();
        let values = body.len().checked_sub(CHECKSUM + values_start)?;
        let offset = |row: usize| read_u32(body, HEAD + ROW * row + 4) as usize;
        let ordered = (0..record.len()).all(|row| {
            let end = if row + 1 == record.len() {
                values
            } else {
                offset(row + 1)
            };
            offset(row) <= end && end <= values
        });
        (ordered && xxh3_64(&packed[..content]) == read_u64(packed, content)).then_some(())
    };
    checked().is_some()
}

#[inline]
fn read_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array(bytes, at))
}

#[inline]
fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(bytes, at))
}

#[inline]
fn read_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(array(bytes, at))
}

/// The octets at `at`, with one look at the length for all of them.
#[inline]
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let octets = &bytes[at..at + N];
    std::array::from_fn(|octet| octets[octet])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::change::DraftValue;

    fn draft(handle: &'static [u8], values: &[&'static [u8]]) -> Draft {
        let value = |(at, wire): (usize, &&'static [u8])| DraftValue {
            index: at as u32 * 100,
            permissions: 0b1110,
            sealed: at == 1,
            wire: Bytes::from_static(wire),
        };
        Draft {
            handle: Bytes::from_static(handle),
            values: values.iter().enumerate().map(value).collect(),
        }
    }

    /// Goal: what is put in comes out, with and without a handle of its own, with empty values among others.
    #[test]
    fn round_trip() {
        let mut lengths = Vec::new();
        for handle in [&b"88.118/aBc"[..], b"88.118/abc", b"88.118/ABC"] {
            let draft = draft(handle, &[b"one", b"", b"three"]);
            let mut packed = Packed::encode(Space::Handle, b"88.118/ABC", &draft).unwrap();
            packed.seal(77);
            let record = packed.record();
            assert_eq!(
                (record.key(), &*record.handle()),
                (&b"88.118/ABC"[..], handle)
            );
            lengths.push(packed.bytes().len() + handle.len());
            assert_eq!((record.generation(), record.len()), (77, 3));
            assert_eq!(record.wire(), b"onethree");
            let entries: Vec<_> = record.entries().collect();
            assert_eq!(
                entries[1],
                Entry {
                    index: 100,
                    permissions: 14,
                    sealed: true,
                    wire: b""
                }
            );
            assert_eq!((entries[2].wire, entries[2].sealed), (&b"three"[..], false));
            assert_eq!(
                Packed::from_parts(Space::Handle, b"88.118/ABC", packed.view().body())
                    .unwrap()
                    .bytes(),
                packed.bytes()
            );
        }
        // What follows from the key takes no place.
        assert_eq!(lengths[1], lengths[2]);
        assert_eq!(lengths[0], lengths[1] + b"88.118/aBc".len());
    }

    /// Goal: no damaged, cut or misplaced record is taken. Method: every bit, every length, another key, another space.
    #[test]
    fn damage_is_seen() {
        let mut packed =
            Packed::encode(Space::Handle, b"A/1", &draft(b"a/1", &[b"value", b"x"])).unwrap();
        packed.seal(5);
        let good = packed.bytes();
        assert!(PackedRef::from_disk(good).is_some());
        for bit in 0..good.len() * 8 {
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(PackedRef::from_disk(&bad).is_none(), "bit {bit}");
        }
        for length in 0..good.len() {
            assert!(
                PackedRef::from_disk(&good[..length]).is_none(),
                "length {length}"
            );
        }
        assert!(Packed::from_parts(Space::Handle, b"A/2", packed.view().body()).is_none());
        assert!(Packed::from_parts(Space::Prefix, b"A/1", packed.view().body()).is_none());
    }

    /// Goal: the formats do not change. Method: a record of each as bytes.
    #[test]
    fn fixed_format() {
        let own: &[u8] =
            b"\x02\0\x02KL\x01\0\0\0\0\0\0\0\x01\x02\0\x02\0\x01\0\0\0\0\0\0\0\0\x0e\0kLv";
        let lower: &[u8] =
            b"\x02\0\x02KL\x02\x02\0\0\0\0\0\0\x01\x02\0\0\0\x01\0\0\0\0\0\0\0\0\x0e\0v";
        for (handle, expected) in [(&b"kL"[..], own), (b"kl", lower)] {
            let draft = draft(handle, &[b"v"]);
            let mut packed = Packed::encode(Space::Prefix, b"KL", &draft).unwrap();
            packed.seal(0x0102);
            assert_eq!(&packed.bytes()[..packed.bytes().len() - 8], expected);
            assert_eq!(packed.checksum(), xxh3_64(expected));
        }
    }

    /// Goal: a record of the first version whose handle is the key in lower case is read as before. Method: as it was written.
    #[test]
    fn lower_case_of_the_first_version() {
        let mut packed =
            b"\x02\0\x01K\x01\0\0\0\0\0\0\0\x01\x02\0\x01\0\x01\0\0\0\0\0\0\0\0\x0e\0kv".to_vec();
        let checksum = xxh3_64(&packed);
        packed.extend_from_slice(&checksum.to_be_bytes());
        let record = PackedRef::from_disk(&packed).unwrap().record();
        assert_eq!((&*record.handle(), record.wire()), (&b"k"[..], &b"v"[..]));
    }
}
