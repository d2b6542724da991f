//! The Handle wire protocol, without IO: octets ⇄ meaning.
//!
//! No socket, clock, runtime or logging; time and buffers are arguments.

pub mod error;
pub mod limits;
pub mod wire;
#[macro_use]
pub mod code;
pub mod framing;
pub mod handle;
#[cfg(feature = "json")]
pub mod json;
pub mod message;
pub mod value;

pub use code::{HashId, HashOption, OpCode, OpFlags, Permissions, ResponseCode, Version};
pub use error::{DecodeError, ErrorKind};
pub use message::{Body, Envelope, EnvelopeFlags, Header, Message, MessageView, MessageWriter};
pub use value::{Reference, Ttl, Value, ValueView};
