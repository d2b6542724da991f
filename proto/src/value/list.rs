//! `HS_VLIST`: a list of values, most often a group of administrators (RFC 3651 §3.2.7).

use bytes::Bytes;

use crate::error::DecodeError;
use crate::limits::REFERENCES_MAX;
use crate::value::Reference;
use crate::wire::{Reader, Writer};

/// The type that has this data.
pub const TYPE: &[u8] = b"HS_VLIST";

/// Reads the data of an `HS_VLIST` value.
///
/// # Errors
/// Octets missing or left over, a length or count above its limit.
pub fn decode(data: &Bytes) -> Result<Vec<Reference>, DecodeError> {
    let mut reader = Reader::over(data);
    let list = reader.list(
        REFERENCES_MAX,
        Reference::SIZE_MIN,
        "value list",
        Reference::read,
    )?;
    reader.finish("value list")?;
    Ok(list)
}

/// Appends the data of an `HS_VLIST` value.
pub fn encode(list: &[Reference], out: &mut Vec<u8>) {
    Writer::new(out).list(list, |w, reference| reference.write(w));
}
