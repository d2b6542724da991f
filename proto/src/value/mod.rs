//! Values: what a handle stands for (RFC 3651 §3.1), and the data of the types the protocol defines.
//!
//! [`ValueView`] borrows, [`Value`] owns. A type that is not known is octets like any other. Typed
//! data: [`admin`] `HS_ADMIN`, [`list`] `HS_VLIST`, [`site`] `HS_SITE` and its kin, [`key`] keys and
//! key files.

use bytes::Bytes;

use crate::code::Permissions;
use crate::error::{DecodeError, ErrorKind};
use crate::limits::{ARRAY_MAX, HANDLE_MAX, REFERENCES_MAX};
use crate::wire::{Reader, Writer};

pub mod admin;
pub mod key;
pub mod list;
pub mod site;

/// How long a value may be kept in caches.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Ttl {
    /// Seconds from when it was received.
    Relative(i32),
    /// Seconds since 1970.
    Absolute(i32),
}

impl Ttl {
    #[inline]
    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = *reader;
        match reader.u8("TTL type")? {
            0 => reader.i32("TTL").map(Self::Relative),
            1 => reader.i32("TTL").map(Self::Absolute),
            _ => Err(start.error(ErrorKind::Invalid, "TTL type")),
        }
    }

    fn write(self, writer: &mut Writer<'_>) {
        let (kind, seconds) = match self {
            Self::Relative(seconds) => (0, seconds),
            Self::Absolute(seconds) => (1, seconds),
        };
        writer.u8(kind);
        writer.i32(seconds);
    }
}

/// A value as it stands in a message or a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ValueView<'a> {
    /// Its number within the handle.
    pub index: u32,
    /// When it was last changed, in seconds since 1970.
    pub timestamp: u32,
    /// How long it may be cached.
    pub ttl: Ttl,
    /// Who may read and write it.
    pub permissions: Permissions,
    /// Its type.
    pub kind: &'a [u8],
    /// Its data.
    pub data: &'a [u8],
    /// Its references one after the other, without their count; see [`Reference::iter`].
    pub references: &'a [u8],
    /// All of it, as on the wire.
    pub wire: &'a [u8],
}

impl<'a> ValueView<'a> {
    /// Cuts one value off the front of `octets`.
    ///
    /// # Errors
    /// Octets missing, a length above its limit, a TTL type that is not known.
    #[inline]
    pub fn split(octets: &'a [u8]) -> Result<(Self, &'a [u8]), DecodeError> {
        let mut reader = Reader::new(octets);
        let view = Self::read(&mut reader)?;
        Ok((view, reader.take_rest()))
    }

    /// Reads one value.
    ///
    /// # Errors
    /// As [`Self::split`].
    #[inline]
    pub fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let all = *reader;
        let index = reader.u32("index")?;
        let timestamp = reader.u32("timestamp")?;
        let ttl = Ttl::read(reader)?;
        let permissions = Permissions(reader.u8("permissions")?);
        let kind = reader.bytes(ARRAY_MAX, "type")?;
        let data = reader.bytes(ARRAY_MAX, "data")?;
        let count = reader.count(REFERENCES_MAX, Reference::SIZE_MIN, "references")?;
        let mut list = *reader;
        for _ in 0..count {
            reader.bytes(HANDLE_MAX, "reference handle")?;
            reader.u32("reference index")?;
        }
        let references = list.take(list.remaining() - reader.remaining(), "references")?;
        let wire = Reader::new(all.peek()).take(all.remaining() - reader.remaining(), "value")?;
        Ok(Self {
            index,
            timestamp,
            ttl,
            permissions,
            kind,
            data,
            references,
            wire,
        })
    }

    /// What the digest in an `HS_SIGNATURE` covers: the value without its index and timestamp.
    #[inline]
    #[must_use]
    pub fn signed(&self) -> &'a [u8] {
        self.wire.get(8..).unwrap_or_default()
    }
}

/// The type of a value in wire form, without reading the rest; empty when there is none.
#[inline]
#[must_use]
pub fn type_of(wire: &[u8]) -> &[u8] {
    /// Index, timestamp, TTL and permissions.
    const BEFORE: usize = 14;
    let mut reader = Reader::new(wire.get(BEFORE..).unwrap_or_default());
    reader.bytes(ARRAY_MAX, "type").unwrap_or_default()
}

/// A value that owns its parts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Value {
    /// Its number within the handle.
    pub index: u32,
    /// When it was last changed, in seconds since 1970.
    pub timestamp: u32,
    /// How long it may be cached.
    pub ttl: Ttl,
    /// Who may read and write it.
    pub permissions: Permissions,
    /// Its type.
    pub kind: Bytes,
    /// Its data.
    pub data: Bytes,
    /// Other values it belongs with.
    pub references: Vec<Reference>,
}

impl Value {
    /// The fewest octets a value has.
    pub const SIZE_MIN: usize = 26;

    /// Reads a value that is all of `octets`.
    ///
    /// # Errors
    /// As [`ValueView::split`], and octets left over.
    pub fn decode(octets: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::over(octets);
        let value = Self::read(&mut reader)?;
        reader.finish("value")?;
        Ok(value)
    }

    /// Reads one value.
    ///
    /// # Errors
    /// As [`ValueView::split`].
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let view = ValueView::read(reader)?;
        let mut references = Vec::with_capacity(Reference::iter(view.references).count());
        for (handle, index) in Reference::iter(view.references) {
            references.push(Reference {
                handle: reader.share(handle),
                index,
            });
        }
        Ok(Self {
            index: view.index,
            timestamp: view.timestamp,
            ttl: view.ttl,
            permissions: view.permissions,
            kind: reader.share(view.kind),
            data: reader.share(view.data),
            references,
        })
    }

    /// Appends the value in wire form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.write(&mut Writer::new(out));
    }

    pub(crate) fn write(&self, writer: &mut Writer<'_>) {
        writer.u32(self.index);
        writer.u32(self.timestamp);
        self.ttl.write(writer);
        writer.u8(self.permissions.0);
        writer.bytes(&self.kind);
        writer.bytes(&self.data);
        writer.list(&self.references, |w, reference| reference.write(w));
    }
}

/// A handle and an index: one value of another handle.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Reference {
    /// The handle.
    pub handle: Bytes,
    /// The index; 0 is any.
    pub index: u32,
}

impl Reference {
    /// The fewest octets a reference has.
    pub const SIZE_MIN: usize = 8;

    /// Each reference of [`ValueView::references`]: handle and index.
    #[inline]
    pub fn iter(octets: &[u8]) -> impl Iterator<Item = (&[u8], u32)> {
        let mut reader = Reader::new(octets);
        std::iter::from_fn(move || {
            let handle = reader.bytes(HANDLE_MAX, "reference handle").ok()?;
            Some((handle, reader.u32("reference index").ok()?))
        })
    }

    /// Reads one reference.
    ///
    /// # Errors
    /// Octets missing, a handle above its limit.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let handle = reader.owned(HANDLE_MAX, "reference handle")?;
        Ok(Self {
            handle,
            index: reader.u32("reference index")?,
        })
    }

    pub(crate) fn write(&self, writer: &mut Writer<'_>) {
        writer.bytes(&self.handle);
        writer.u32(self.index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value() -> Value {
        Value {
            index: 11,
            timestamp: 1_700_000_000,
            ttl: Ttl::Absolute(1_900_000_000),
            permissions: Permissions::ADMIN_READ.with(Permissions::PUBLIC_READ),
            kind: Bytes::from_static(b"URL.MIRROR"),
            data: Bytes::from_static(b"https://example.cn"),
            references: vec![Reference {
                handle: Bytes::from_static(b"a/b"),
                index: 300,
            }],
        }
    }

    #[test]
    fn views_and_values_agree() {
        let mut wire = Vec::new();
        value().encode(&mut wire);
        let length = wire.len();
        wire.extend_from_slice(b"next");
        let (view, rest) = ValueView::split(&wire).unwrap();
        assert_eq!(rest, b"next");
        assert_eq!(view.wire, &wire[..length]);
        assert_eq!(view.signed(), &wire[8..length]);
        assert_eq!(
            (view.kind, view.data),
            (&b"URL.MIRROR"[..], &b"https://example.cn"[..])
        );
        assert_eq!(
            Reference::iter(view.references).collect::<Vec<_>>(),
            [(&b"a/b"[..], 300)]
        );
        assert_eq!(type_of(&wire), b"URL.MIRROR");
        wire.truncate(length);
        assert_eq!(Value::decode(&Bytes::from(wire)), Ok(value()));
    }

    #[test]
    fn cut_values_are_errors_and_have_no_type() {
        let mut wire = Vec::new();
        value().encode(&mut wire);
        for length in 0..wire.len() {
            assert!(
                ValueView::split(&wire[..length]).is_err(),
                "cut at {length}"
            );
        }
        assert_eq!(type_of(&wire[..20]), b"");
        assert_eq!(type_of(b""), b"");
    }

    #[test]
    fn a_value_has_at_least_its_fixed_octets() {
        let mut wire = Vec::new();
        Value {
            kind: Bytes::new(),
            data: Bytes::new(),
            references: Vec::new(),
            ..value()
        }
        .encode(&mut wire);
        assert_eq!(wire.len(), Value::SIZE_MIN);
    }
}
