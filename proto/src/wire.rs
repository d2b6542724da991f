//! Octets in and out: the only place that touches offsets. Everything is big-endian.
//!
//! The protocol has four shapes: integers, fixed runs of octets, runs with an `i4` length in front,
//! and lists with an `i4` count in front (RFC 3652 §2.2; nothing is padded or aligned).

use bytes::Bytes;

use crate::error::{DecodeError, ErrorKind};

/// Reads octets from front to back; every read says which field it is for.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    /// What has not been read yet.
    rest: &'a [u8],
    /// The offset at which `rest` ends.
    end: usize,
    /// The buffer that `rest` is part of, when owned slices of it are wanted.
    owner: Option<&'a Bytes>,
}

type Result<T> = std::result::Result<T, DecodeError>;

impl<'a> Reader<'a> {
    /// Reads borrowed octets.
    #[inline]
    #[must_use]
    pub const fn new(octets: &'a [u8]) -> Self {
        Self {
            rest: octets,
            end: octets.len(),
            owner: None,
        }
    }

    /// Reads a shared buffer: [`Self::owned`] hands out slices of it instead of copies.
    #[inline]
    #[must_use]
    pub fn over(octets: &'a Bytes) -> Self {
        Self {
            rest: octets,
            end: octets.len(),
            owner: Some(octets),
        }
    }

    /// Reads a part of a shared buffer, counting offsets from the start of the part. It has to be
    /// a slice of that buffer.
    #[inline]
    #[must_use]
    pub(crate) const fn within(owner: &'a Bytes, part: &'a [u8]) -> Self {
        Self {
            rest: part,
            end: part.len(),
            owner: Some(owner),
        }
    }

    /// The offset of the next octet.
    #[inline]
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.end - self.rest.len()
    }

    /// How many octets are left.
    #[inline]
    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Whether nothing is left.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The octets that are left, without taking them.
    #[inline]
    #[must_use]
    pub const fn peek(&self) -> &'a [u8] {
        self.rest
    }

    /// An error about `field`, which begins here.
    #[cold]
    #[must_use]
    pub const fn error(&self, kind: ErrorKind, field: &'static str) -> DecodeError {
        DecodeError::new(kind, field, self.offset())
    }

    /// Takes `count` octets.
    #[inline]
    pub fn take(&mut self, count: usize, field: &'static str) -> Result<&'a [u8]> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            return Err(self.error(ErrorKind::Short, field));
        };
        self.rest = rest;
        Ok(taken)
    }

    /// Takes an array.
    #[inline]
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N]> {
        let Some((taken, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(self.error(ErrorKind::Short, field));
        };
        self.rest = rest;
        Ok(*taken)
    }

    /// Takes everything that is left.
    #[inline]
    pub fn take_rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Takes `u1`.
    #[inline]
    pub fn u8(&mut self, field: &'static str) -> Result<u8> {
        self.array(field).map(u8::from_be_bytes)
    }

    /// Takes `i2` as unsigned.
    #[inline]
    pub fn u16(&mut self, field: &'static str) -> Result<u16> {
        self.array(field).map(u16::from_be_bytes)
    }

    /// Takes `i4` as unsigned.
    #[inline]
    pub fn u32(&mut self, field: &'static str) -> Result<u32> {
        self.array(field).map(u32::from_be_bytes)
    }

    /// Takes `i4`.
    #[inline]
    pub fn i32(&mut self, field: &'static str) -> Result<i32> {
        self.array(field).map(i32::from_be_bytes)
    }

    /// Takes `i8`.
    #[inline]
    pub fn i64(&mut self, field: &'static str) -> Result<i64> {
        self.array(field).map(i64::from_be_bytes)
    }

    /// Takes an `i4` length and that many octets, at most `limit` of them.
    // Always: a result of this size costs more to hand over than to make, and every look-up does it three times.
    #[inline(always)]
    pub fn bytes(&mut self, limit: usize, field: &'static str) -> Result<&'a [u8]> {
        let start = *self;
        let length = self.u32(field)? as usize;
        if length > limit {
            return Err(start.error(ErrorKind::TooLarge(limit), field));
        }
        self.take(length, field)
            .map_err(|_| start.error(ErrorKind::Short, field))
    }

    /// As [`Self::bytes`], as a slice of the shared buffer (or a copy when there is none).
    pub fn owned(&mut self, limit: usize, field: &'static str) -> Result<Bytes> {
        let octets = self.bytes(limit, field)?;
        Ok(self.share(octets))
    }

    /// As [`Self::take_rest`], as a slice of the shared buffer (or a copy when there is none).
    pub fn owned_rest(&mut self) -> Bytes {
        let octets = self.take_rest();
        self.share(octets)
    }

    /// Octets that this reader handed out, as a slice of the shared buffer (or a copy).
    #[must_use]
    pub(crate) fn share(&self, octets: &'a [u8]) -> Bytes {
        self.owner.map_or_else(
            || Bytes::copy_from_slice(octets),
            |owner| owner.slice_ref(octets),
        )
    }

    /// Takes the `i4` count of a list whose items have at least `item_min` octets.
    ///
    /// A count that cannot be true is refused here, so that room may be made for it.
    #[inline]
    pub fn count(&mut self, limit: usize, item_min: usize, field: &'static str) -> Result<usize> {
        let start = *self;
        let count = self.u32(field)? as usize;
        if count > limit {
            return Err(start.error(ErrorKind::TooLarge(limit), field));
        }
        if count.saturating_mul(item_min) > self.rest.len() {
            return Err(start.error(ErrorKind::Short, field));
        }
        Ok(count)
    }

    /// Takes a list: its count, then each item by `item`.
    pub fn list<T>(
        &mut self,
        limit: usize,
        item_min: usize,
        field: &'static str,
        mut item: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let count = self.count(limit, item_min, field)?;
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// Two zero octets at the very end, or nothing: old `HS_ADMIN` data and session set-ups have
    /// them.
    pub fn padding(&mut self) -> Result<bool> {
        match self.rest {
            [] => Ok(false),
            [0, 0] => Ok(!self.take_rest().is_empty()),
            _ => Err(self.error(ErrorKind::Trailing, "padding")),
        }
    }

    /// Everything has been read; what is left is an error about what follows `field`.
    #[inline]
    pub const fn finish(self, field: &'static str) -> Result<()> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.error(ErrorKind::Trailing, field))
        }
    }
}

/// Appends octets to a buffer.
///
/// Writing cannot fail: a length that does not fit its field is written as the maximum, which makes
/// a message that everybody refuses rather than one that says something else.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

/// Where a length stands that is not known yet.
#[derive(Debug)]
#[must_use = "a length that is never closed stays at its maximum"]
pub struct Place(usize);

impl<'a> Writer<'a> {
    /// Appends to this buffer.
    #[inline]
    pub const fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    /// Octets in the buffer, those before this writer included.
    #[inline]
    #[must_use]
    pub const fn position(&self) -> usize {
        self.out.len()
    }

    /// Appends octets as they are.
    #[inline]
    pub fn raw(&mut self, octets: &[u8]) {
        self.out.extend_from_slice(octets);
    }

    /// Appends `u1`.
    #[inline]
    pub fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    /// Appends `i2`.
    #[inline]
    pub fn u16(&mut self, value: u16) {
        self.raw(&value.to_be_bytes());
    }

    /// Appends `i4`, unsigned.
    #[inline]
    pub fn u32(&mut self, value: u32) {
        self.raw(&value.to_be_bytes());
    }

    /// Appends `i4`.
    #[inline]
    pub fn i32(&mut self, value: i32) {
        self.raw(&value.to_be_bytes());
    }

    /// Appends `i8`.
    #[inline]
    pub fn i64(&mut self, value: i64) {
        self.raw(&value.to_be_bytes());
    }

    /// Appends a length or a count as `i4`.
    #[inline]
    pub fn length(&mut self, length: usize) {
        self.u32(u32::try_from(length).unwrap_or(u32::MAX));
    }

    /// Appends octets with their `i4` length in front.
    #[inline]
    pub fn bytes(&mut self, octets: &[u8]) {
        self.length(octets.len());
        self.raw(octets);
    }

    /// Appends a list: its count, then each item by `item`.
    pub fn list<T>(&mut self, items: &[T], mut item: impl FnMut(&mut Self, &T)) {
        self.length(items.len());
        for each in items {
            item(self, each);
        }
    }

    /// Appends two zero octets when there is padding.
    pub fn padding(&mut self, padded: bool) {
        if padded {
            self.u16(0);
        }
    }

    /// Leaves room for an `i4` length, at its maximum until [`Self::close`].
    #[inline]
    pub fn open(&mut self) -> Place {
        let place = Place(self.out.len());
        self.u32(u32::MAX);
        place
    }

    /// Sets the length at `place` to the octets appended since.
    #[inline]
    pub fn close(&mut self, place: Place) {
        let length = self.out.len().saturating_sub(place.0 + size_of::<u32>());
        self.set_u32(place.0, u32::try_from(length).unwrap_or(u32::MAX));
    }

    /// Overwrites the `i4` at this position of the buffer (nothing happens outside it).
    #[inline]
    pub fn set_u32(&mut self, position: usize, value: u32) {
        if let Some(field) = self.out.get_mut(position..position.saturating_add(4)) {
            field.copy_from_slice(&value.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_comes_back() {
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out);
        writer.u8(1);
        writer.u16(2);
        writer.u32(3);
        writer.i32(-4);
        writer.i64(-5);
        writer.bytes(b"six");
        writer.list(&[7u32, 8], |w, n| w.u32(*n));
        let place = writer.open();
        writer.raw(b"nine");
        writer.close(place);
        let shared = Bytes::from(out);
        let mut reader = Reader::over(&shared);
        assert_eq!(reader.u8("a"), Ok(1));
        assert_eq!(reader.u16("b"), Ok(2));
        assert_eq!(reader.u32("c"), Ok(3));
        assert_eq!(reader.i32("d"), Ok(-4));
        assert_eq!(reader.i64("e"), Ok(-5));
        assert_eq!(reader.owned(9, "f").unwrap(), "six");
        assert_eq!(reader.list(9, 4, "g", |r| r.u32("h")), Ok(vec![7, 8]));
        assert_eq!(reader.bytes(9, "i"), Ok(&b"nine"[..]));
        assert_eq!(reader.finish("i"), Ok(()));
    }

    #[test]
    fn errors_name_the_field_and_where_it_begins() {
        let mut reader = Reader::new(&[0, 0, 0, 9, 1]);
        let error = reader.bytes(20, "handle").unwrap_err();
        assert_eq!(error, DecodeError::new(ErrorKind::Short, "handle", 0));
        let mut reader = Reader::new(&[0, 0, 0, 0, 9, 1]);
        reader.u8("first").unwrap();
        let error = reader.bytes(2, "handle").unwrap_err();
        assert_eq!(error, DecodeError::new(ErrorKind::TooLarge(2), "handle", 1));
        assert_eq!(
            error.to_string(),
            "handle is above its limit of 2 (octet 1)"
        );
        let error = Reader::new(&[1]).finish("handle").unwrap_err();
        assert_eq!(error, DecodeError::new(ErrorKind::Trailing, "handle", 0));
    }

    #[test]
    fn a_count_that_cannot_be_true_makes_no_room() {
        let mut reader = Reader::new(&[0x7f, 0xff, 0xff, 0xff, 0]);
        let error = reader
            .list(usize::MAX, 4, "indexes", |r| r.u32("index"))
            .unwrap_err();
        assert_eq!(error, DecodeError::new(ErrorKind::Short, "indexes", 0));
    }

    #[test]
    fn a_forgotten_close_leaves_an_impossible_length() {
        let mut out = Vec::new();
        let _open = Writer::new(&mut out).open();
        assert_eq!(out, [0xff; 4]);
    }
}
