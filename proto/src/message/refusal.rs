//! Answers that are not what was asked for: a text, or another place to ask.

use bytes::Bytes;

use super::values::{read_values, write_values};
use crate::error::DecodeError;
use crate::limits::{ARRAY_MAX, HANDLE_MAX};
use crate::value::Value;
use crate::wire::{Reader, Writer};

/// Why a request failed, for people (RFC 3652 §3.3).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ErrorText {
    /// UTF-8, often empty.
    pub message: Bytes,
    /// What follows the text: nothing in any real response, but a request sent with a response
    /// code reads like this.
    pub tail: Bytes,
}

impl ErrorText {
    /// A response with this text.
    #[must_use]
    pub fn new(message: impl Into<Bytes>) -> Self {
        Self {
            message: message.into(),
            tail: Bytes::new(),
        }
    }

    /// Reads what follows the digest.
    ///
    /// # Errors
    /// Octets missing.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let message = reader.owned(ARRAY_MAX, "message")?;
        Ok(Self {
            message,
            tail: reader.owned_rest(),
        })
    }

    /// Appends it.
    pub fn encode(&self, writer: &mut Writer<'_>) {
        writer.bytes(&self.message);
        writer.raw(&self.tail);
    }
}

/// Where to ask instead (codes 302 and 303; RFC 3652 §3.4).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Referral {
    /// Resolve this handle to find the service; empty when `values` say where it is.
    pub handle: Bytes,
    /// `HS_SITE` and `HS_SERV` values. `None` when not even their count is there.
    pub values: Option<Vec<Value>>,
}

impl Referral {
    /// Reads what follows the digest.
    ///
    /// # Errors
    /// Octets missing, a length or count above its limit.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let handle = reader.owned(HANDLE_MAX, "referral handle")?;
        let values = match reader.is_empty() {
            true => None,
            false => Some(read_values(reader)?),
        };
        Ok(Self { handle, values })
    }

    /// Appends it.
    pub fn encode(&self, writer: &mut Writer<'_>) {
        writer.bytes(&self.handle);
        if let Some(values) = &self.values {
            write_values(values, writer);
        }
    }
}
