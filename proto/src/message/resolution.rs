//! Resolution (op 1): the question for values of a handle.
//!
//! RFC 3652 §3.1; the answer is a [`super::values::HandleValues`]. The id-pointer SDK appends one more length-prefixed field to its requests; it is
//! the `trailer` here, kept apart from "no trailer".

use bytes::Bytes;

use crate::error::DecodeError;
use crate::limits::{ARRAY_MAX, FILTERS_MAX, HANDLE_MAX};
use crate::wire::{Reader, Writer};

/// A resolution request as a view of the receive buffer: checked as a whole, nothing copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResolutionView<'a> {
    /// The handle as it was asked.
    pub handle: &'a [u8],
    /// Wanted indexes.
    pub indexes: IndexList<'a>,
    /// Wanted types. Without indexes and types everything is wanted, else whatever matches any.
    pub types: TypeList<'a>,
    /// The additional field of the id-pointer SDK.
    pub trailer: Option<&'a [u8]>,
}

impl<'a> ResolutionView<'a> {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// Octets missing or left over, a length or count above its limit. UTF-8 is not asked for.
    // Always: see `Reader::bytes`.
    #[inline(always)]
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let handle = reader.bytes(HANDLE_MAX, "handle")?;
        let count = reader.count(FILTERS_MAX, 4, "indexes")?;
        let indexes = IndexList(reader.take(count * 4, "indexes")?);
        let types = TypeList::read(&mut reader)?;
        let trailer = match reader.is_empty() {
            true => None,
            false => Some(reader.bytes(ARRAY_MAX, "trailer")?),
        };
        reader.finish("trailer")?;
        Ok(Self {
            handle,
            indexes,
            types,
            trailer,
        })
    }
}

/// Wanted indexes, as they stand in the request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IndexList<'a>(&'a [u8]);

impl<'a> IndexList<'a> {
    /// Whether no index is wanted.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len() / 4
    }

    /// Each of them.
    #[inline]
    pub fn iter(self) -> impl Iterator<Item = u32> + 'a {
        let mut reader = Reader::new(self.0);
        std::iter::from_fn(move || reader.u32("index").ok())
    }
}

/// Wanted types, as they stand in the request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TypeList<'a> {
    count: usize,
    /// The types with their lengths, checked.
    octets: &'a [u8],
}

impl<'a> TypeList<'a> {
    #[inline(always)]
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let count = reader.count(FILTERS_MAX, 4, "types")?;
        let all = reader.peek();
        for _ in 0..count {
            reader.bytes(ARRAY_MAX, "type")?;
        }
        let used = all.len() - reader.remaining();
        Ok(Self {
            count,
            octets: Reader::new(all).take(used, "types")?,
        })
    }

    /// Whether no type is wanted.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many there are.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Each of them.
    #[inline]
    pub fn iter(self) -> impl Iterator<Item = &'a [u8]> + 'a {
        let mut reader = Reader::new(self.octets);
        std::iter::from_fn(move || reader.bytes(ARRAY_MAX, "type").ok())
    }
}

/// A resolution request that owns its parts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Resolution {
    /// The handle as it is asked.
    pub handle: Bytes,
    /// Wanted indexes.
    pub indexes: Vec<u32>,
    /// Wanted types.
    pub types: Vec<Bytes>,
    /// The additional field of the id-pointer SDK.
    pub trailer: Option<Bytes>,
}

impl Resolution {
    /// Reads the body of a request; see [`ResolutionView::decode`].
    ///
    /// # Errors
    /// As the view.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let view = ResolutionView::decode(reader.peek())?;
        let mut indexes = Vec::with_capacity(view.indexes.len());
        indexes.extend(view.indexes.iter());
        let mut types = Vec::with_capacity(view.types.len());
        types.extend(view.types.iter().map(|name| reader.share(name)));
        let trailer = view.trailer.map(|octets| reader.share(octets));
        let owned = Self {
            handle: reader.share(view.handle),
            indexes,
            types,
            trailer,
        };
        reader.take_rest();
        Ok(owned)
    }

    /// Appends the body of a request.
    pub fn encode(&self, writer: &mut Writer<'_>) {
        writer.bytes(&self.handle);
        writer.list(&self.indexes, |w, index| w.u32(*index));
        writer.list(&self.types, |w, name| w.bytes(name));
        if let Some(trailer) = &self.trailer {
            writer.bytes(trailer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn body(trailer: Option<&'static [u8]>) -> (Resolution, Vec<u8>) {
        let request = Resolution {
            handle: Bytes::from_static(b"88.118/x"),
            indexes: vec![1, 300],
            types: vec![Bytes::from_static(b"URL"), Bytes::from_static(b"")],
            trailer: trailer.map(Bytes::from_static),
        };
        let mut out = Vec::new();
        request.encode(&mut Writer::new(&mut out));
        (request, out)
    }

    #[test]
    fn the_view_shows_what_was_asked() {
        for trailer in [None, Some(&b""[..]), Some(&b"jwt"[..])] {
            let (request, out) = body(trailer);
            let view = ResolutionView::decode(&out).unwrap();
            assert_eq!(view.handle, b"88.118/x");
            assert_eq!(view.indexes.iter().collect::<Vec<_>>(), [1, 300]);
            assert_eq!(view.indexes.len(), 2);
            assert_eq!(view.types.iter().collect::<Vec<_>>(), [&b"URL"[..], b""]);
            assert_eq!((view.types.len(), view.types.is_empty()), (2, false));
            assert_eq!(view.trailer, trailer);
            assert_eq!(Resolution::decode(&mut Reader::new(&out)), Ok(request));
        }
    }

    #[test]
    fn a_body_is_checked_to_its_end() {
        let (_, out) = body(Some(b"jwt"));
        let without_trailer = body(None).1.len();
        for length in 0..out.len() {
            let cut = ResolutionView::decode(&out[..length]);
            assert_eq!(cut.is_ok(), length == without_trailer, "cut at {length}");
        }
        let longer = [&out[..], b"x"].concat();
        let error = ResolutionView::decode(&longer).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Trailing);
    }

    #[test]
    fn limits_hold() {
        let mut out = Vec::new();
        Writer::new(&mut out).bytes(&[b'x'; HANDLE_MAX + 1]);
        let error = ResolutionView::decode(&out).unwrap_err();
        assert_eq!(
            error,
            DecodeError::new(ErrorKind::TooLarge(HANDLE_MAX), "handle", 0)
        );
    }
}
