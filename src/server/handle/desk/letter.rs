//! A request with all that its answer needs, and the answer: flags, digest, signature or MAC,
//! encryption.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use getrandom::SysRng;
use jiexi_proto::code::{HashId, OpFlags, ResponseCode};
use jiexi_proto::limits::MESSAGE_MAX;
use jiexi_proto::message::credential::{Credential, CredentialField, signed_bytes};
use jiexi_proto::wire::Writer;
use jiexi_proto::{Envelope, EnvelopeFlags, Header, MessageView, OpCode, Version};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::login::LineKey;
use super::{Line, Sink};
use crate::notices::Away;
use crate::registry::cipher;
use crate::registry::keys::{Hash, NodeKey};
use crate::registry::retry::Key;
use crate::registry::session::Session;
use crate::registry::source::Sender;
use crate::registry::{Authenticated, Rejection};
use crate::server::forward::Told;
use crate::server::handle::TOO_LONG;
use crate::server::handle::reply::{REPEATED, Stamp, passed_on};

/// A session that a request belongs to.
#[derive(Clone, Debug)]
pub(super) struct Within {
    pub(super) id: u32,
    pub(super) session: Arc<Mutex<Session>>,
}

/// A request that was opened.
#[derive(Debug)]
pub(super) struct Letter {
    /// Its envelope.
    pub(super) envelope: Envelope,
    /// Its header.
    pub(super) header: Header,
    /// Header, body and credential, in clear.
    pub(super) content: Bytes,
    /// The operation that is answered: of the challenged request, when this is an answer to it.
    pub(super) op: OpCode,
    /// The session of the envelope.
    pub(super) within: Option<Within>,
    /// Who sent it, when the MAC of the session or the login of the connection says so.
    pub(super) who: Option<Authenticated>,
    /// The connection that it came over.
    pub(super) line: Option<Arc<Line>>,
    /// Whether its session id is that of the connection's login.
    pub(super) by_login: bool,
    /// Whether its MAC was right.
    pub(super) authentic: bool,
    /// The session id of the answer.
    pub(super) answer_session: u32,
    /// Whether the answer is encrypted: within a session, or as its connection is.
    pub(super) encrypt: bool,
    /// What the connection encrypts with, when that is how the request came.
    pub(super) line_key: Option<LineKey>,
    /// The request that was challenged, when this is the answer to the challenge.
    pub(super) question: Option<(Envelope, Bytes)>,
    /// The key under which its answer is kept.
    pub(super) retry: Option<Key>,
    pub(super) peer: SocketAddr,
    pub(super) sink: Sink,
    pub(super) came: Instant,
    /// How long it waited for another node, or for its turn.
    pub(super) away: Away,
}

/// The answer to a request, as far as it is the same for every copy of it.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) code: ResponseCode,
    /// The operation that it answers.
    pub(super) op: OpCode,
    /// What follows the digest.
    pub(super) body: Bytes,
    /// Something that existed was overwritten.
    pub(super) overwritten: bool,
    /// Another node answered this; whether its values live no longer.
    pub(super) passed_on: Option<bool>,
}

impl Outcome {
    /// What another node answered to a question for `handle`.
    pub(super) fn told(op: OpCode, handle: &[u8], told: &Told) -> Self {
        let body = match told.known.code {
            ResponseCode::SUCCESS => [&block(handle)[..], &told.known.body].concat(),
            _ => block(&told.known.body),
        };
        Self {
            code: told.known.code,
            passed_on: Some(told.is_stale()),
            ..Self::success(op, body)
        }
    }

    /// Success with a body.
    pub(super) fn success(op: OpCode, body: impl Into<Bytes>) -> Self {
        Self {
            code: ResponseCode::SUCCESS,
            op,
            body: body.into(),
            overwritten: false,
            passed_on: None,
        }
    }

    /// A refusal with its text.
    pub(super) fn refusal(op: OpCode, rejection: &Rejection) -> Self {
        Self {
            code: rejection.code,
            op,
            body: Bytes::from(block(rejection.text.as_bytes())),
            overwritten: false,
            passed_on: None,
        }
    }
}

/// How an answer is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seal {
    /// As the request asks: nothing, a MAC within a session, or a signature.
    AsAsked,
    /// A signature with the node's key, and no encryption: the session begins or ends with it.
    Signed,
}

/// Length and octets.
pub(super) fn block(octets: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(octets.len() + 4);
    Writer::new(&mut out).bytes(octets);
    out
}

impl Letter {
    /// Who sent it.
    pub(super) fn sender(&self) -> Sender {
        self.sink.sender(self.peer.ip())
    }

    /// Its body.
    pub(super) fn view(&self) -> Option<MessageView<'_>> {
        MessageView::of_content(self.envelope, &self.content).ok()
    }

    /// The body of what is to be carried out: of the challenged request, or of this one.
    pub(super) fn asked(&self) -> Option<MessageView<'_>> {
        match &self.question {
            Some((envelope, content)) => MessageView::of_content(*envelope, content).ok(),
            None => self.view(),
        }
    }

    /// The digest that the answer's version asks for, with the hash it is made with.
    pub(super) fn digest(&self) -> (HashId, Vec<u8>) {
        let signed = self.view().map_or(&[][..], |view| view.signed);
        let version = self.envelope.reply_version();
        let hash = HashId::of_version(version);
        let digest = match hash {
            HashId::SHA256 => Sha256::digest(signed).to_vec(),
            HashId::SHA1 => Sha1::digest(signed).to_vec(),
            _ => Md5::digest(signed).to_vec(),
        };
        (hash, digest)
    }

    /// The challenge's answer: `nonce` under the id of the session or a new one.
    pub(super) fn challenge(&self, nonce: &[u8], id: u32, key: &NodeKey, stamp: Stamp) -> Vec<u8> {
        let (hash, digest) = self.digest();
        let old = self.envelope.reply_version() < Version::V2_1;
        let body = match old {
            true => [block(nonce), block(&digest)].concat(),
            false => [&[hash.0][..], &digest, &block(nonce)].concat(),
        };
        let mut flags = self.flags();
        flags = match old {
            true => flags.without(OpFlags::RRDG),
            false => flags.with(OpFlags::RRDG),
        };
        let code = ResponseCode::AUTHENTICATION_NEEDED;
        self.write(
            flags,
            code,
            self.header.op_code,
            id,
            &body,
            Seal::AsAsked,
            key,
            stamp,
        )
    }

    /// The answer.
    pub(super) fn answer(
        &self,
        outcome: &Outcome,
        seal: Seal,
        key: &NodeKey,
        stamp: Stamp,
    ) -> Vec<u8> {
        let flags = match outcome.overwritten {
            true => self.flags().with(OpFlags::OVRW),
            false => self.flags(),
        };
        let flags = outcome
            .passed_on
            .map_or(flags, |stale| passed_on(flags, stale));
        self.page(outcome, flags, seal, key, stamp)
    }

    /// One message of several: `flags` say whether more follow.
    pub(super) fn page(
        &self,
        outcome: &Outcome,
        flags: OpFlags,
        seal: Seal,
        key: &NodeKey,
        stamp: Stamp,
    ) -> Vec<u8> {
        let body = match flags.contains(OpFlags::RRDG) {
            true => {
                let (hash, digest) = self.digest();
                [&[hash.0][..], &digest, &outcome.body].concat()
            }
            false => outcome.body.to_vec(),
        };
        let code = translated(outcome.code, self.envelope.reply_version());
        self.write(
            flags,
            code,
            outcome.op,
            self.answer_session,
            &body,
            seal,
            key,
            stamp,
        )
    }

    /// The flags of the answer.
    pub(super) fn flags(&self) -> OpFlags {
        let repeated = OpFlags(self.header.flags.0 & (REPEATED.0 | OpFlags::CERT.0));
        let flags = repeated.with(OpFlags::AUTH).with(OpFlags::RECU);
        match self.envelope.reply_version() < Version::V2_1 {
            true => flags.without(OpFlags::RRDG),
            false => flags,
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the fields of a message, each used once"
    )]
    fn write(
        &self,
        flags: OpFlags,
        code: ResponseCode,
        op: OpCode,
        session_id: u32,
        body: &[u8],
        seal: Seal,
        key: &NodeKey,
        stamp: Stamp,
    ) -> Vec<u8> {
        let flags = match seal {
            Seal::Signed => flags.with(OpFlags::CERT),
            Seal::AsAsked => flags,
        };
        let envelope = Envelope {
            session_id,
            ..self.envelope.reply()
        };
        let header = Header {
            op_code: op,
            response_code: code,
            flags,
            site_serial: stamp.site_serial,
            recursion_count: self.header.recursion_count,
            reserved: 0,
            expiration: stamp.expiration(),
            body_length: u32::try_from(body.len()).unwrap_or(u32::MAX),
        };
        let mut content = [&header.encode()[..], body].concat();
        let field = match flags.contains(OpFlags::CERT) {
            true => self.credential(&envelope, &content, seal, key),
            false => CredentialField::Empty,
        };
        field.encode(&mut Writer::new(&mut content));
        if content.len() > MESSAGE_MAX {
            return self.too_large(key, stamp);
        }
        if !self.encrypt || seal != Seal::AsAsked {
            return framed(envelope, &content);
        }
        match (&self.within, &self.line_key) {
            (Some(within), _) => {
                let session = within
                    .session
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                encrypted(envelope, &session.key, &content)
            }
            (None, Some(key)) => encrypted(envelope, key, &content),
            (None, None) => framed(envelope, &content),
        }
    }

    /// Said instead of an answer that does not fit a message.
    fn too_large(&self, key: &NodeKey, stamp: Stamp) -> Vec<u8> {
        let rejection = Rejection::new(ResponseCode::ERROR, TOO_LONG);
        self.answer(
            &Outcome::refusal(self.op, &rejection),
            Seal::AsAsked,
            key,
            stamp,
        )
    }

    /// A MAC within a session, otherwise a signature.
    fn credential(
        &self,
        envelope: &Envelope,
        content: &[u8],
        seal: Seal,
        key: &NodeKey,
    ) -> CredentialField {
        let mut covered = Vec::with_capacity(content.len() + 16);
        if let (Some(within), Seal::AsAsked) = (&self.within, seal) {
            let mut session = within
                .session
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let counter = session.next_counter();
            signed_bytes(envelope, counter, content, &mut covered);
            let (name, mac) = cipher::mac(envelope.version, &session.key, &covered);
            return CredentialField::Present(Credential::new(Credential::MAC, name, counter, mac));
        }
        let hash = match envelope.version >= Version::V2_7 {
            true => Hash::Sha256,
            false => Hash::Sha1,
        };
        signed_bytes(envelope, 0, content, &mut covered);
        match key.sign(hash, &covered, &mut SysRng) {
            Some(signature) => CredentialField::Present(Credential::new(
                Credential::SIGNED,
                hash.name(),
                0,
                signature,
            )),
            None => CredentialField::Empty,
        }
    }
}

/// Codes that old clients do not know.
fn translated(code: ResponseCode, version: Version) -> ResponseCode {
    match code {
        ResponseCode::INVALID_VALUE if version < Version::V2_5 => {
            ResponseCode::VALUE_ALREADY_EXISTS
        }
        ResponseCode::SERVER_BACKUP if version < Version::V2_5 => ResponseCode::PREFIX_REFERRAL,
        code => code,
    }
}

fn framed(envelope: Envelope, content: &[u8]) -> Vec<u8> {
    let message_length = u32::try_from(content.len()).unwrap_or(u32::MAX);
    let envelope = Envelope {
        message_length,
        ..envelope
    };
    [&envelope.encode()[..], content].concat()
}

fn encrypted(envelope: Envelope, key: &[u8], content: &[u8]) -> Vec<u8> {
    let mut iv = [0; cipher::BLOCK];
    if getrandom::fill(&mut iv).is_err() {
        return Vec::new();
    }
    let envelope = Envelope {
        flags: EnvelopeFlags::ENCRYPTED,
        ..envelope
    };
    let ciphertext = cipher::encrypt(key, &iv, content);
    ciphertext.map_or_else(Vec::new, |ciphertext| framed(envelope, &ciphertext))
}
