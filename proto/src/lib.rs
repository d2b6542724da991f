//! The Handle wire protocol as it is really spoken (RFC 3650–3652 and the reference
//! implementation, versions 2.0 to 2.11), without IO: octets ⇄ meaning.
//!
//! No socket, clock, runtime or logging; time, buffers and randomness are arguments. No
//! cryptography either: what is to be signed, digested or encrypted is here as octets.
//!
//! ```text
//! stream ──────┐                                     ┌ ResolutionView   borrowed, allocates nothing
//!   framing    ├→ Envelope → Header → MessageView ───┤
//! datagrams ───┘  20 octets  24       parts found    └ Message → Body   owned slices of the buffer
//! ```
//!
//! In reading order:
//!
//! * [`message`] — envelope, header, body by operation, credential;
//! * [`value`] — values of handles, and the data of the types that the protocol defines;
//! * [`handle`] — case folding, prefixes, the choice of a server by hash;
//! * [`framing`] — messages on streams, and cut into datagrams;
//! * [`code`] — op codes, response codes, flags, versions;
//! * [`wire`] — the only place that touches offsets; [`limits`] — every bound; [`error`].
#![cfg_attr(feature = "json", doc = "* [`json`] — messages as JSON, for people.")]
//!
//! A request in three steps of depth, each enough for what has to be decided there: an
//! [`Envelope`] to answer errors to, a [`Header`] to drop what is no request, a body to carry out.
//! Unknown codes, types and operations are values, not errors.
//!
//! # Example
//!
//! Build a resolution request, and decode its answer:
//!
//! ```
//! use bytes::Bytes;
//! use jiexi_proto::message::resolution::{Resolution, ResolutionView};
//! use jiexi_proto::message::CredentialField;
//! use jiexi_proto::{
//!     Body, Envelope, Header, Message, MessageView, MessageWriter, OpCode, OpFlags, ResponseCode,
//! };
//!
//! let header = Header::request(OpCode::RESOLUTION, OpFlags::RESOLUTION, i32::MAX);
//! let handle = Bytes::from_static(b"88.118/item");
//! let body = Body::Resolution(Resolution { handle, ..Resolution::default() });
//! let mut request = Vec::new();
//! Message::new(Envelope::request(1), header, body).encode(&mut request);
//!
//! // A server: the question is a view of the datagram, the answer goes straight to its buffer.
//! let view = MessageView::decode(&request)?;
//! let question = ResolutionView::decode(view.body)?;
//! let header = Header { response_code: ResponseCode::SUCCESS, ..view.header };
//! let mut answer = Vec::new();
//! let mut writer = MessageWriter::begin(&view.envelope.reply(), &header, &mut answer);
//! writer.body().bytes(question.handle);
//! writer.body().length(0); // no values
//! writer.finish(&CredentialField::Empty);
//!
//! let answer = Message::decode(&Bytes::from(answer))?;
//! assert_eq!(answer.envelope.request_id, 1);
//! let Body::Resolved(resolved) = answer.body else { panic!("not an answer") };
//! assert_eq!(resolved.handle, "88.118/item");
//! # Ok::<(), jiexi_proto::DecodeError>(())
//! ```

pub mod error;
pub mod limits;
pub mod wire;
#[macro_use]
pub mod code;
pub mod framing;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod handle;
#[cfg(feature = "json")]
pub mod json;
pub mod message;
pub mod value;

pub use code::{HashId, HashOption, OpCode, OpFlags, Permissions, ResponseCode, Version};
pub use error::{DecodeError, ErrorKind};
pub use message::{Body, Envelope, EnvelopeFlags, Header, Message, MessageView, MessageWriter};
pub use value::{Reference, Ttl, Value, ValueView};
