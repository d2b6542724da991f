//! Login (op 2001): the id-pointer SDK binds an identity to its connection.
//!
//! Request without a credential field, challenge (code 402) with op 2001, answer (op 200), and
//! success with op 2001 again. Later requests of the connection carry no proof of their own.

use crate::error::DecodeError;
use crate::value::Reference;
use crate::wire::{Reader, Writer};

/// The body of a login request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Login {
    /// The value with the user's key.
    pub user: Reference,
}

impl Login {
    /// Reads the body.
    ///
    /// # Errors
    /// Octets missing, a handle above its limit.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Reference::read(reader).map(|user| Self { user })
    }

    /// Appends the body.
    pub fn encode(&self, writer: &mut Writer<'_>) {
        self.user.write(writer);
    }
}
