//! The one error of decoding: what was wrong, in which field, at which octet.

use std::fmt;

/// Octets that are not what they should be. Always the sender's fault; making one never allocates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DecodeError {
    /// What was wrong.
    pub kind: ErrorKind,
    /// The field that was being read, in the words of the protocol.
    pub field: &'static str,
    /// Where it begins, in octets from the start of what was decoded (a message body counts from
    /// its own first octet).
    pub offset: usize,
}

/// What was wrong with a field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// The octets end before the field does.
    Short,
    /// Octets follow where the field should be the last.
    Trailing,
    /// A length or count above this limit.
    TooLarge(usize),
    /// A value that the protocol does not know here.
    Invalid,
    /// The message is encrypted: its content cannot be read without the session key.
    Encrypted,
}

impl DecodeError {
    /// An error of this kind.
    #[cold]
    #[must_use]
    pub const fn new(kind: ErrorKind, field: &'static str, offset: usize) -> Self {
        Self {
            kind,
            field,
            offset,
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            field,
            offset,
        } = self;
        match kind {
            ErrorKind::Short => write!(f, "the octets end inside {field} (octet {offset})"),
            ErrorKind::Trailing => write!(f, "octets follow after {field} (octet {offset})"),
            ErrorKind::TooLarge(limit) => {
                write!(f, "{field} is above its limit of {limit} (octet {offset})")
            }
            ErrorKind::Invalid => write!(f, "{field} has no valid value (octet {offset})"),
            ErrorKind::Encrypted => write!(f, "{field} is encrypted (octet {offset})"),
        }
    }
}

impl std::error::Error for DecodeError {}
