//! Copying a server: its transactions (op 1001), all its handles (op 1002), and the streams that
//! follow the responses on the same connection.
//!
//! Every block of a signed stream is followed by a length-prefixed signature over just that
//! block, except the last one of a dump. A TLS stream has the same blocks and no signatures.

use bytes::Bytes;

use crate::code::{HashOption, Version};
use crate::error::{DecodeError, ErrorKind};
use crate::limits::{ARRAY_MAX, HANDLE_MAX, NAME_MAX, VALUES_MAX};
use crate::value::Value;
use crate::wire::{Reader, Writer};

/// Which share of the handles is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// Which part of a handle is hashed.
    pub hash_option: HashOption,
    /// The number of servers that share; 1 means all handles.
    pub servers: u32,
    /// The place of the asking one among them.
    pub place: u32,
}

impl Share {
    /// Every handle.
    pub const ALL: Self = Self {
        hash_option: HashOption::WHOLE,
        servers: 1,
        place: 0,
    };

    /// Reads the body of a dump request, or the end of that of a retrieve request.
    ///
    /// # Errors
    /// Octets missing.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            hash_option: HashOption(reader.u8("hash option")?),
            servers: reader.u32("number of servers")?,
            place: reader.u32("own place")?,
        })
    }

    /// Appends it.
    pub fn encode(&self, writer: &mut Writer<'_>) {
        writer.u8(self.hash_option.0);
        writer.u32(self.servers);
        writer.u32(self.place);
    }
}

/// Since when transactions are wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Since {
    /// Those of the server itself.
    Transaction {
        /// The last one known.
        id: i64,
        /// The time of the last question, in milliseconds since 1970.
        date_ms: i64,
    },
    /// Those of all servers it knows (2.9 and later), by a state in JSON.
    State(Bytes),
}

/// The body of a retrieve request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RetrieveTransactions {
    /// Since when.
    pub since: Since,
    /// Of which handles.
    pub share: Share,
}

impl RetrieveTransactions {
    /// Reads the body. From 2.9 on it begins with an octet that says which form follows.
    ///
    /// # Errors
    /// Octets missing, a form that is not known.
    pub fn decode(version: Version, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = *reader;
        let all = if version >= Version::V2_9 {
            reader.u8("all sources")?
        } else {
            0
        };
        let since = match all {
            0 => Since::Transaction {
                id: reader.i64("last transaction id")?,
                date_ms: reader.i64("last query date")?,
            },
            1 => Since::State(reader.owned(ARRAY_MAX, "replication state")?),
            _ => return Err(start.error(ErrorKind::Invalid, "all sources")),
        };
        Ok(Self {
            since,
            share: Share::decode(reader)?,
        })
    }

    /// Appends the body. [`Since::State`] exists from 2.9 on.
    pub fn encode(&self, version: Version, writer: &mut Writer<'_>) {
        if version >= Version::V2_9 {
            writer.u8(u8::from(matches!(self.since, Since::State(_))));
        }
        match &self.since {
            Since::Transaction { id, date_ms } => {
                writer.i64(*id);
                writer.i64(*date_ms);
            }
            Since::State(state) => writer.bytes(state),
        }
        self.share.encode(writer);
    }
}

/// The start of a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StreamStart {
    /// Signed blocks; the hash of the signatures, by name.
    Signed(Bytes),
    /// A TLS handshake begins, with the asking server as client.
    Tls,
}

impl StreamStart {
    /// "TLS" and a zero octet.
    const TLS: u32 = 0x544C_5300;

    /// Reads the start.
    ///
    /// # Errors
    /// Octets missing, a kind that is not known.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = *reader;
        match reader.u32("stream type")? {
            0 => Ok(Self::Signed(reader.owned(NAME_MAX, "hash name")?)),
            Self::TLS => Ok(Self::Tls),
            _ => Err(start.error(ErrorKind::Invalid, "stream type")),
        }
    }

    /// Appends it.
    pub fn encode(&self, writer: &mut Writer<'_>) {
        match self {
            Self::Signed(hash) => {
                writer.u32(0);
                writer.bytes(hash);
            }
            Self::Tls => writer.u32(Self::TLS),
        }
    }
}

/// The first block of a stream of transactions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransactionsHead {
    /// The format; 1.
    pub format: u32,
    /// 2 when transactions follow.
    pub status: u32,
}

impl TransactionsHead {
    /// Reads the block.
    ///
    /// # Errors
    /// Octets missing.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            format: reader.u32("stream format")?,
            status: reader.u32("stream status")?,
        })
    }

    /// Appends the block.
    pub fn encode(&self, writer: &mut Writer<'_>) {
        writer.u32(self.format);
        writer.u32(self.status);
    }
}

open_code! {
    /// What a transaction did.
    Action(u8) {
        /// A handle was created.
        CREATE = 1 => "create",
        /// It was deleted.
        DELETE = 2 => "delete",
        /// Its values changed.
        UPDATE = 3 => "update",
        /// A prefix came home.
        HOME = 4 => "home",
        /// It left.
        UNHOME = 5 => "unhome",
    }
}

impl Action {
    /// Whether the values of the handle follow.
    #[must_use]
    pub const fn has_values(self) -> bool {
        matches!(self, Self::CREATE | Self::UPDATE)
    }
}

/// A later block of a stream of transactions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TransactionBlock {
    /// One transaction.
    Transaction {
        /// Its number; they ascend.
        id: i64,
        /// The handle, as its client wrote it.
        handle: Bytes,
        /// What was done.
        action: Action,
        /// When, in milliseconds since 1970.
        date_ms: i64,
        /// The handle's values now, when the action has any.
        values: Vec<Value>,
    },
    /// The end.
    End {
        /// The date to ask from next time, in milliseconds since 1970.
        date_ms: i64,
    },
}

impl TransactionBlock {
    /// Reads a block.
    ///
    /// # Errors
    /// Octets missing, a kind that is not known.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = *reader;
        match reader.u8("block type")? {
            0 => Ok(Self::End {
                date_ms: reader.i64("next date")?,
            }),
            1 => {
                let id = reader.i64("transaction id")?;
                let handle = reader.owned(HANDLE_MAX, "handle")?;
                let action = Action(reader.u8("action")?);
                let date_ms = reader.i64("transaction date")?;
                let values = match action.has_values() {
                    true => read_sized_values(reader)?,
                    false => Vec::new(),
                };
                Ok(Self::Transaction {
                    id,
                    handle,
                    action,
                    date_ms,
                    values,
                })
            }
            _ => Err(start.error(ErrorKind::Invalid, "block type")),
        }
    }

    /// Appends the block.
    pub fn encode(&self, writer: &mut Writer<'_>) {
        match self {
            Self::End { date_ms } => {
                writer.u8(0);
                writer.i64(*date_ms);
            }
            Self::Transaction {
                id,
                handle,
                action,
                date_ms,
                values,
            } => {
                writer.u8(1);
                writer.i64(*id);
                writer.bytes(handle);
                writer.u8(action.0);
                writer.i64(*date_ms);
                if action.has_values() {
                    write_sized_values(values, writer);
                }
            }
        }
    }
}

/// The format that stands as the first block of a dump.
pub const DUMP_FORMAT: u32 = 2;

/// A later block of a dump.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DumpBlock {
    /// Where the server stands.
    Server {
        /// Its time, in milliseconds since 1970.
        date_ms: i64,
        /// Its last transaction.
        last_transaction: i64,
    },
    /// A handle with all values, secret keys included.
    Handle {
        /// The handle, folded; they come in the order of their octets.
        handle: Bytes,
        /// Its values.
        values: Vec<Value>,
    },
    /// A prefix that is at home there; after all handles.
    Prefix(Bytes),
    /// The end: a single octet without a signature.
    End,
}

impl DumpBlock {
    /// Reads a block.
    ///
    /// # Errors
    /// Octets missing, a kind that is not known.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = *reader;
        match reader.u8("block type")? {
            0 => Ok(Self::Server {
                date_ms: reader.i64("server date")?,
                last_transaction: reader.i64("last transaction id")?,
            }),
            1 => Ok(Self::Handle {
                handle: reader.owned(HANDLE_MAX, "handle")?,
                values: read_sized_values(reader)?,
            }),
            2 => reader.owned(HANDLE_MAX, "prefix handle").map(Self::Prefix),
            0xFF => Ok(Self::End),
            _ => Err(start.error(ErrorKind::Invalid, "block type")),
        }
    }

    /// Appends the block.
    pub fn encode(&self, writer: &mut Writer<'_>) {
        match self {
            Self::Server {
                date_ms,
                last_transaction,
            } => {
                writer.u8(0);
                writer.i64(*date_ms);
                writer.i64(*last_transaction);
            }
            Self::Handle { handle, values } => {
                writer.u8(1);
                writer.bytes(handle);
                write_sized_values(values, writer);
            }
            Self::Prefix(prefix) => {
                writer.u8(2);
                writer.bytes(prefix);
            }
            Self::End => writer.u8(0xFF),
        }
    }
}

/// Values in replication records have a length each; in messages they have none.
fn read_sized_values(reader: &mut Reader<'_>) -> Result<Vec<Value>, DecodeError> {
    reader.list(VALUES_MAX, 4 + Value::SIZE_MIN, "values", |r| {
        Value::decode(&r.owned(ARRAY_MAX, "value")?)
    })
}

fn write_sized_values(values: &[Value], writer: &mut Writer<'_>) {
    writer.list(values, |w, value| {
        let place = w.open();
        value.write(w);
        w.close(place);
    });
}
