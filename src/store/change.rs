//! What is asked of the store: changes, batches of them, and what they expect to find.

use std::fmt;

use bytes::Bytes;

use super::role::Role;

/// Longest key, in bytes: a folded handle of the protocol (2,048) with room for composed keys.
pub const KEY_MAX: usize = 4096;
/// Most values in one record; the protocol's own limit.
pub const VALUES_MAX: usize = 2048;
/// Largest encoded record, in bytes: what fits into a protocol message.
pub const RECORD_MAX: usize = 262_144;
/// Most changes in one batch: an atomic unit must fit into one journal entry.
pub const BATCH_CHANGES_MAX: usize = 65_536;
/// Most bytes of one batch (keys, records and note): half of the default journal segment.
pub const BATCH_BYTES_MAX: usize = 32 << 20;

/// A key space. Keys of different spaces never meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Space {
    /// Handle records, by folded handle.
    Handle = 1,
    /// Homed prefixes: records without values, by folded prefix handle.
    Prefix = 2,
    /// Business records.
    Business = 3,
    /// The node's own records.
    System = 4,
}

impl Space {
    /// Every space.
    pub const ALL: [Self; 4] = [Self::Handle, Self::Prefix, Self::Business, Self::System];

    /// The space with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Handle),
            2 => Some(Self::Prefix),
            3 => Some(Self::Business),
            4 => Some(Self::System),
            _ => None,
        }
    }

    /// The number of the space in keys and records.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }
}

/// A value as a put carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DraftValue {
    /// The value's index.
    pub index: u32,
    /// The value's permissions, as in the protocol.
    pub permissions: u8,
    /// Whether `wire` holds a secret that was encrypted before it came here.
    pub sealed: bool,
    /// The whole value in wire form; the store does not look into it.
    pub wire: Bytes,
}

/// A record as a put carries it; the store encodes it and gives it its generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The handle as its owner wrote it.
    pub handle: Bytes,
    /// The values, in the order in which they are to be kept.
    pub values: Vec<DraftValue>,
}

/// What must be found under a key for a batch to be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Anything.
    Any,
    /// No record.
    Absent,
    /// A record.
    Present,
    /// The record of exactly this generation.
    Generation(u64),
    /// No record, or one of the same handle as that which is put.
    Unclaimed,
}

impl Expect {
    /// Whether a record of generation `found` (or none) is what is expected.
    #[must_use]
    pub fn holds(self, found: Option<u64>) -> bool {
        match self {
            // What the handle of a record is, the writer finds out.
            Self::Any | Self::Unclaimed => true,
            Self::Absent => found.is_none(),
            Self::Present => found.is_some(),
            Self::Generation(generation) => found == Some(generation),
        }
    }
}

/// What is to happen under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The whole record becomes this.
    Put(Draft),
    /// No record is left. Deleting what is not there is no error (see [`Expect`]).
    Delete,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where.
    pub space: Space,
    /// The key, folded by the caller.
    pub key: Vec<u8>,
    /// What must be there now.
    pub expect: Expect,
    /// What comes there.
    pub action: Action,
}

/// Changes that happen together or not at all, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The changes.
    pub changes: Vec<Change>,
    /// Opaque bytes that are journaled with the changes.
    pub note: Bytes,
}

/// A batch that is durable and visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its place in the journal; the generation of every record it put.
    pub sequence: u64,
}

/// Why a batch was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommitError {
    /// An expectation did not hold; nothing was changed.
    Conflict {
        /// Which change of the batch, from 0.
        change: usize,
        /// The generation found under its key.
        found: Option<u64>,
    },
    /// The queue is full; try again later.
    Busy,
    /// The store takes no writes until it is opened again. When the reason is a failed write or sync, it is unknown
    /// whether the changes that failed with it are found after that.
    ReadOnly(std::sync::Arc<str>),
    /// The disk is full, or so nearly that the guard refuses; writing goes on by itself when there is space again.
    DiskFull,
    /// The store takes no changes of its own: those of another one, or none any more. Nothing was changed.
    Elsewhere(Role),
    /// A key, record or batch exceeds its limit; nothing was changed.
    TooLarge,
    /// The store is being closed.
    Closed,
}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict {
                change,
                found: Some(generation),
            } => {
                write!(
                    f,
                    "change {change} met generation {generation}, which it did not expect"
                )
            }
            Self::Conflict {
                change,
                found: None,
            } => {
                write!(f, "change {change} expected a record and there is none")
            }
            Self::Busy => f.write_str("too many writes are waiting"),
            Self::ReadOnly(reason) => write!(f, "the store takes no writes: {reason}"),
            Self::DiskFull => f.write_str("the disk is full; free some space"),
            Self::Elsewhere(role) => role.fmt(f),
            Self::TooLarge => write!(
                f,
                "too large: a key may have {KEY_MAX} bytes, a record {RECORD_MAX} and {VALUES_MAX} values, \
                 a batch {BATCH_CHANGES_MAX} changes and {BATCH_BYTES_MAX} bytes"
            ),
            Self::Closed => f.write_str("the store is closed"),
        }
    }
}

impl std::error::Error for CommitError {}
