//! What is asked of a server, before it becomes a message.

use bytes::Bytes;
use jiexi_proto::{
    code::{OpCode, OpFlags, Version},
    handle,
    message::{
        Body, Envelope, Header, Message,
        resolution::Resolution,
        values::{HandleValues, RemoveValues},
    },
};

use super::{Question, follow};
use crate::registry::plan::Request;

/// How long a question is worth something; servers ignore it, the reference sends half a day.
const LIFETIME_S: u32 = 12 * 3600;
/// What the reference client sends with everything but questions for what is not public.
const USUAL: OpFlags = OpFlags::RESOLUTION;

/// An operation with its flags and its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Which operation.
    pub op: OpCode,
    /// How it is to be carried out.
    pub flags: OpFlags,
    /// What it is about.
    pub body: Body,
}

impl Operation {
    /// A resolution; with `restricted` of values too that only administrators may read.
    #[must_use]
    pub fn resolution(question: &Question, restricted: bool) -> Self {
        let body = Body::Resolution(Resolution {
            handle: question.handle.clone(),
            indexes: question.indexes.clone(),
            types: question.types.clone(),
            trailer: None,
        });
        let flags = match restricted {
            true => USUAL.without(OpFlags::PUBL),
            false => USUAL,
        };
        Self {
            op: OpCode::RESOLUTION,
            flags,
            body,
        }
    }

    /// The site record of the server.
    #[must_use]
    pub fn site() -> Self {
        Self::about(OpCode::GET_SITE_INFO, Bytes::from_static(b"/"))
    }

    /// The names of the handles below a prefix, given as `0.NA/…`.
    #[must_use]
    pub fn list(prefix_handle: Bytes) -> Self {
        Self::about(OpCode::LIST_HANDLES, prefix_handle)
    }

    /// The prefixes that the server is the home of.
    #[must_use]
    pub fn list_homed() -> Self {
        Self::about(OpCode::LIST_HOMED_NAS, Bytes::from_static(handle::ROOT))
    }

    pub(super) fn about(op: OpCode, handle: Bytes) -> Self {
        Self {
            op,
            flags: USUAL,
            body: Body::Handle(handle),
        }
    }

    /// The handle by which the server is found; `None` for what is asked of one server only.
    #[must_use]
    pub fn handle(&self) -> Option<&Bytes> {
        match (&self.body, self.op) {
            (_, OpCode::HOME_NA | OpCode::UNHOME_NA | OpCode::LIST_HOMED_NAS) => None,
            (_, OpCode::HOME_AND_CREATE) => None,
            (Body::Resolution(Resolution { handle, .. }), _)
            | (Body::Values(HandleValues { handle, .. }), _)
            | (Body::Remove(RemoveValues { handle, .. }), _) => Some(handle),
            (Body::Handle(handle), OpCode::DELETE_HANDLE | OpCode::LIST_HANDLES) => Some(handle),
            _ => None,
        }
    }

    /// The prefix handle of the prefix whose site takes the operation, where it goes to another server than the one that
    /// was asked. A change of a prefix handle goes nowhere else: it is held by the home of the prefix above, while the site
    /// in it is that of the prefix itself, where a record of the same name is not the one that was meant.
    pub(super) fn home(&self) -> Option<Bytes> {
        let handle = self.handle()?;
        let below = matches!(self.op, OpCode::LIST_HANDLES | OpCode::RESOLUTION);
        match handle::is_prefix_handle(handle) {
            true => below.then(|| canonical(handle)),
            false => follow::prefix_of(handle),
        }
    }

    /// The message: `version` is that of the server's site record, `now` is Unix seconds.
    #[must_use]
    pub fn message(&self, version: Version, request_id: u32, now: u32) -> Message {
        let envelope = Envelope {
            version: version.min(Version::CURRENT),
            ..Envelope::request(request_id)
        };
        let expiration = i32::try_from(now.saturating_add(LIFETIME_S)).unwrap_or(i32::MAX);
        let header = Header::request(self.op, self.flags, expiration);
        Message::new(envelope, header, self.body.clone())
    }
}

/// A prefix handle in the one form in which it is remembered.
fn canonical(handle: &[u8]) -> Bytes {
    let mut out = Vec::new();
    handle::canonical(handle, handle::CaseRule::Whole, &mut out);
    out.into()
}

impl From<&Request> for Operation {
    fn from(request: &Request) -> Self {
        let flag = |wanted: bool, flag: OpFlags| if wanted { flag } else { OpFlags(0) };
        let values = |handle: &Bytes, values: &[jiexi_proto::Value]| {
            Body::Values(HandleValues {
                handle: handle.clone(),
                values: values.to_vec(),
            })
        };
        let (op, flags, body) = match request {
            Request::Create {
                handle,
                values: given,
                overwrite,
                mint,
            } => {
                let flags = flag(*overwrite, OpFlags::OVRW).with(flag(*mint, OpFlags::MINT));
                (OpCode::CREATE_HANDLE, flags, values(handle, given))
            }
            Request::Add {
                handle,
                values: given,
                overwrite,
            } => {
                let flags = flag(*overwrite, OpFlags::OVRW);
                (OpCode::ADD_VALUE, flags, values(handle, given))
            }
            Request::Modify {
                handle,
                values: given,
            } => (OpCode::MODIFY_VALUE, OpFlags(0), values(handle, given)),
            Request::Remove { handle, indexes } => {
                let body = Body::Remove(RemoveValues {
                    handle: handle.clone(),
                    indexes: indexes.clone(),
                });
                (OpCode::REMOVE_VALUE, OpFlags(0), body)
            }
            Request::Delete { handle } => {
                return Self::about(OpCode::DELETE_HANDLE, handle.clone());
            }
            Request::Home {
                prefix,
                record: Some(given),
            } => (OpCode::HOME_AND_CREATE, OpFlags(0), values(prefix, given)),
            Request::Home { prefix, .. } => return Self::about(OpCode::HOME_NA, prefix.clone()),
            Request::Unhome { prefix, record } => {
                let op = match record {
                    true => OpCode::UNHOME_AND_DELETE,
                    false => OpCode::UNHOME_NA,
                };
                return Self::about(op, prefix.clone());
            }
        };
        Self {
            op,
            flags: USUAL.with(flags),
            body,
        }
    }
}
