//! Changes of values: create (op 100), add (102), remove (103), modify (104).
//!
//! RFC 3652 §3.7 and §3.8. What a resolution answers has the same shape as what a change brings.

use bytes::Bytes;

use crate::error::DecodeError;
use crate::limits::{HANDLE_MAX, VALUES_MAX};
use crate::value::Value;
use crate::wire::{Reader, Writer};

/// A handle with values: the body of create, add and modify, and the answer to a resolution.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HandleValues {
    /// The handle; an answer repeats it as it was asked.
    pub handle: Bytes,
    /// The values; an answer has them in index order, a create may have none.
    pub values: Vec<Value>,
}

impl HandleValues {
    /// Reads the body, or what follows its digest.
    ///
    /// # Errors
    /// Octets missing, a length or count above its limit.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let handle = reader.owned(HANDLE_MAX, "handle")?;
        Ok(Self {
            handle,
            values: read_values(reader)?,
        })
    }

    /// Appends the body.
    pub fn encode(&self, writer: &mut Writer<'_>) {
        writer.bytes(&self.handle);
        write_values(&self.values, writer);
    }
}

/// The body of a remove request.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RemoveValues {
    /// The handle.
    pub handle: Bytes,
    /// The indexes of the values to remove.
    pub indexes: Vec<u32>,
}

impl RemoveValues {
    /// Reads the body.
    ///
    /// # Errors
    /// Octets missing, a length or count above its limit.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let handle = reader.owned(HANDLE_MAX, "handle")?;
        let indexes = reader.list(VALUES_MAX, 4, "indexes", |r| r.u32("index"))?;
        Ok(Self { handle, indexes })
    }

    /// Appends the body.
    pub fn encode(&self, writer: &mut Writer<'_>) {
        writer.bytes(&self.handle);
        writer.list(&self.indexes, |w, index| w.u32(*index));
    }
}

pub(crate) fn read_values(reader: &mut Reader<'_>) -> Result<Vec<Value>, DecodeError> {
    reader.list(VALUES_MAX, Value::SIZE_MIN, "values", Value::read)
}

pub(crate) fn write_values(values: &[Value], writer: &mut Writer<'_>) {
    writer.list(values, |w, value| value.write(w));
}
