//! The body of a message by operation and direction: the one table of what stands where.

use bytes::Bytes;

use super::Header;
use super::challenge::{Challenge, ChallengeAnswer, VerifyChallenge};
use super::login::Login;
use super::refusal::{ErrorText, Referral};
use super::replication::{RetrieveTransactions, Share};
use super::resolution::Resolution;
use super::session::{SessionReady, SessionSetup};
use super::values::{HandleValues, RemoveValues};
use crate::code::{OpCode, ResponseCode, Version};
use crate::error::DecodeError;
use crate::limits::{HANDLE_MAX, MESSAGE_MAX, SESSION_KEY_MAX};
use crate::value::site::SiteRecord;
use crate::wire::{Reader, Writer};

/// The body of a message. Which shape it has follows from op code and response code.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// Request 1.
    Resolution(Resolution),
    /// Requests 2, 401, 1000, 1003, which name `/`; 101; and 105, 300, 301, 302, which name a
    /// prefix handle (Chinese clients the bare prefix in 300 and 301).
    Handle(Bytes),
    /// Requests 100, 102, 104.
    Values(HandleValues),
    /// Request 103.
    Remove(RemoveValues),
    /// Request 200.
    Answer(ChallengeAnswer),
    /// Request 201.
    Verify(VerifyChallenge),
    /// Request 400.
    SessionSetup(SessionSetup),
    /// Request 402: the session key, encrypted with the server's RSA key.
    ExchangeKey(Bytes),
    /// Request 1001.
    RetrieveTransactions(RetrieveTransactions),
    /// Request 1002.
    DumpHandles(Share),
    /// Request 2001.
    Login(Login),

    /// Success without more to say: 101–104, 300, 301, 401, 402, 1002, 1003, 2001; or a refusal
    /// without even an empty text.
    Empty,
    /// Success of 1.
    Resolved(HandleValues),
    /// Success of 2.
    Site(SiteRecord),
    /// Success of 100: the handle.
    Created(Bytes),
    /// Success of 105 and 302.
    Handles(Vec<Bytes>),
    /// Success of 201: 1 for a right answer.
    Verified(u8),
    /// Success of 400.
    SessionReady(SessionReady),
    /// Success of 1001: 0 in every recording.
    KeepAlive(u8),
    /// Codes 302 and 303.
    Referral(Referral),
    /// Code 402.
    Challenge(Challenge),
    /// Any other code.
    Error(ErrorText),

    /// An operation that is not known, or a success with a body where none is known.
    Opaque(Bytes),
}

impl Body {
    /// Reads a body; in a response, what follows its digest.
    ///
    /// # Errors
    /// Octets missing or left over, a length or count above its limit.
    pub fn decode(
        version: Version,
        header: &Header,
        mut reader: Reader<'_>,
    ) -> Result<Self, DecodeError> {
        let r = &mut reader;
        let body = match header.response_code {
            ResponseCode::NONE => Self::request(version, header.op_code, r)?,
            ResponseCode::SUCCESS => Self::success(header.op_code, r)?,
            ResponseCode::SERVICE_REFERRAL | ResponseCode::PREFIX_REFERRAL => {
                Self::Referral(Referral::decode(r)?)
            }
            ResponseCode::AUTHENTICATION_NEEDED => Self::Challenge(Challenge::decode(version, r)?),
            _ if r.is_empty() => Self::Empty,
            _ => Self::Error(ErrorText::decode(r)?),
        };
        reader.finish("body")?;
        Ok(body)
    }

    fn request(version: Version, op: OpCode, r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match op {
            OpCode::RESOLUTION => Self::Resolution(Resolution::decode(r)?),
            OpCode::GET_SITE_INFO
            | OpCode::DELETE_HANDLE
            | OpCode::LIST_HANDLES
            | OpCode::HOME_NA
            | OpCode::UNHOME_NA
            | OpCode::UNHOME_AND_DELETE
            | OpCode::LIST_HOMED_NAS
            | OpCode::SESSION_TERMINATE
            | OpCode::GET_NEXT_TXN_ID
            | OpCode::BACKUP_SERVER => Self::Handle(r.owned(HANDLE_MAX, "handle")?),
            OpCode::CREATE_HANDLE
            | OpCode::ADD_VALUE
            | OpCode::MODIFY_VALUE
            | OpCode::HOME_AND_CREATE => Self::Values(HandleValues::decode(r)?),
            OpCode::REMOVE_VALUE => Self::Remove(RemoveValues::decode(r)?),
            OpCode::RESPONSE_TO_CHALLENGE => Self::Answer(ChallengeAnswer::decode(r)?),
            OpCode::VERIFY_CHALLENGE => Self::Verify(VerifyChallenge::decode(r)?),
            OpCode::SESSION_SETUP => Self::SessionSetup(SessionSetup::decode(r)?),
            OpCode::SESSION_EXCHANGEKEY => {
                Self::ExchangeKey(r.owned(SESSION_KEY_MAX, "encrypted session key")?)
            }
            OpCode::RETRIEVE_TXN_LOG => {
                Self::RetrieveTransactions(RetrieveTransactions::decode(version, r)?)
            }
            OpCode::DUMP_HANDLES => Self::DumpHandles(Share::decode(r)?),
            OpCode::LOGIN => Self::Login(Login::decode(r)?),
            _ => Self::Opaque(r.owned_rest()),
        })
    }

    fn success(op: OpCode, r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        /// No message holds more handles than fit into it.
        const LIST_MAX: usize = MESSAGE_MAX / 4;
        Ok(match op {
            OpCode::RESOLUTION => Self::Resolved(HandleValues::decode(r)?),
            OpCode::GET_SITE_INFO => Self::Site(SiteRecord::read(r)?),
            // Servers of the time before handles were minted do not say which one it is.
            OpCode::CREATE_HANDLE if r.is_empty() => Self::Empty,
            OpCode::CREATE_HANDLE => Self::Created(r.owned(HANDLE_MAX, "handle")?),
            OpCode::LIST_HANDLES | OpCode::LIST_HOMED_NAS => {
                Self::Handles(r.list(LIST_MAX, 4, "handles", |r| r.owned(HANDLE_MAX, "handle"))?)
            }
            OpCode::VERIFY_CHALLENGE => Self::Verified(r.u8("verdict")?),
            OpCode::SESSION_SETUP => Self::SessionReady(SessionReady::decode(r)?),
            OpCode::RETRIEVE_TXN_LOG => Self::KeepAlive(r.u8("keep-alive")?),
            _ if r.is_empty() => Self::Empty,
            _ => Self::Opaque(r.owned_rest()),
        })
    }

    /// Appends the body.
    pub fn encode(&self, version: Version, writer: &mut Writer<'_>) {
        match self {
            Self::Resolution(body) => body.encode(writer),
            Self::Handle(handle) | Self::Created(handle) => writer.bytes(handle),
            Self::Values(body) | Self::Resolved(body) => body.encode(writer),
            Self::Remove(body) => body.encode(writer),
            Self::Answer(body) => body.encode(writer),
            Self::Verify(body) => body.encode(writer),
            Self::SessionSetup(body) => body.encode(writer),
            Self::ExchangeKey(key) => writer.bytes(key),
            Self::RetrieveTransactions(body) => body.encode(version, writer),
            Self::DumpHandles(share) => share.encode(writer),
            Self::Login(body) => body.encode(writer),
            Self::Empty => {}
            Self::Site(site) => site.write(writer),
            Self::Handles(handles) => writer.list(handles, |w, handle| w.bytes(handle)),
            Self::Verified(octet) | Self::KeepAlive(octet) => writer.u8(*octet),
            Self::SessionReady(body) => body.encode(writer),
            Self::Referral(body) => body.encode(writer),
            Self::Challenge(body) => body.encode(writer),
            Self::Error(body) => body.encode(writer),
            Self::Opaque(octets) => writer.raw(octets),
        }
    }
}
