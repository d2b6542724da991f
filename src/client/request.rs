//! Requests ready to be sent, and messages as replies.

use std::net::SocketAddr;

use bytes::Bytes;
use jiexi_proto::{
    code::{HashId, OpFlags},
    framing, limits,
    message::{
        Body, Digest, Envelope, EnvelopeFlags, Message, refusal::Referral, values::HandleValues,
    },
};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::{ClientError, Reply, Transport};

/// A request ready to be sent.
pub(super) struct Request {
    /// The envelope; encoding sets its length.
    envelope: Envelope,
    /// What stands behind it: in clear, or encrypted.
    content: Vec<u8>,
    /// Header and body in clear: what the digests in answers are about.
    signed: Vec<u8>,
    /// Whether answers must have a digest.
    digest: bool,
}

impl Request {
    /// A message as it is.
    pub(super) fn new(message: &Message) -> Result<Self, ClientError> {
        let mut content = Vec::new();
        message.encode_content(&mut content);
        Self::with_content(message, message.envelope, content)
    }

    /// A message whose content was encrypted.
    pub(super) fn with_content(
        message: &Message,
        envelope: Envelope,
        content: Vec<u8>,
    ) -> Result<Self, ClientError> {
        if content.len() > limits::MESSAGE_MAX {
            return Err(ClientError::TooLong);
        }
        let mut signed = Vec::new();
        message.encode_signed(&mut signed);
        Ok(Self {
            envelope,
            content,
            signed,
            digest: message.header.flags.contains(OpFlags::RRDG),
        })
    }

    /// The request as one message, for TCP.
    pub(super) fn message(&self) -> Vec<u8> {
        let message_length = u32::try_from(self.content.len()).unwrap_or(u32::MAX);
        let envelope = Envelope {
            message_length,
            ..self.envelope
        };
        [envelope.encode().as_slice(), &self.content].concat()
    }

    /// The request as datagrams of at most 512 octets, for UDP.
    pub(super) fn datagrams(&self) -> Vec<Vec<u8>> {
        let mut envelope = self.envelope;
        if self.content.len() > limits::PIECE_MAX {
            envelope.flags = EnvelopeFlags::TRUNCATED;
        }
        let mut out = Vec::new();
        framing::split_datagrams(&envelope, &self.content, &mut out);
        out.chunks(limits::DATAGRAM_MAX)
            .map(<[u8]>::to_vec)
            .collect()
    }

    /// Whether a message has the id of this request; anything else on a socket is somebody else's.
    pub(super) fn is_answer(&self, message: &[u8]) -> bool {
        Envelope::decode(message)
            .is_ok_and(|envelope| envelope.request_id == self.envelope.request_id)
    }

    /// Checks that a message answers this request.
    pub(super) fn check(&self, message: &Message, server: SocketAddr) -> Result<(), ClientError> {
        if message.header.is_request() {
            return Err(ClientError::NotOurs(server, "it is a request"));
        }
        let agrees = message
            .digest
            .as_ref()
            .map_or(!self.digest, |found| self.has_digest(found));
        match agrees {
            true => Ok(()),
            false => {
                let why = "the digest of the question in it is missing or wrong";
                Err(ClientError::NotOurs(server, why))
            }
        }
    }

    /// Reads the answer to this request, which is in clear.
    pub(super) fn read(&self, octets: Vec<u8>, server: SocketAddr) -> Result<Message, ClientError> {
        let message = Message::decode(&Bytes::from(octets))
            .map_err(|error| ClientError::Malformed(server, error))?;
        self.check(&message, server)?;
        Ok(message)
    }

    /// Whether this digest is one of this request.
    pub(super) fn has_digest(&self, digest: &Digest) -> bool {
        let own = match digest.hash {
            HashId::MD5 => Md5::digest(&self.signed).to_vec(),
            HashId::SHA1 => Sha1::digest(&self.signed).to_vec(),
            HashId::SHA256 => Sha256::digest(&self.signed).to_vec(),
            _ => return false,
        };
        digest.octets == own
    }

    /// Whether this MD5 of a challenge of version 2.0 is one of this request.
    pub(super) fn has_old_digest(&self, octets: &[u8]) -> bool {
        octets == &Md5::digest(&self.signed)[..]
    }
}

impl Reply {
    /// What a message says.
    pub(super) fn of(message: Message, server: SocketAddr, transport: Transport) -> Self {
        let stale = message.header.flags.contains(OpFlags::STALE);
        let (mut handle, mut values, mut text) = (Bytes::new(), Vec::new(), String::new());
        match message.body {
            Body::Resolved(HandleValues {
                handle: asked,
                values: found,
            }) => (handle, values) = (asked, found),
            Body::Referral(Referral {
                handle: other,
                values: sites,
            }) => {
                (handle, values) = (other, sites.unwrap_or_default());
            }
            Body::Error(error) => text = String::from_utf8_lossy(&error.message).into_owned(),
            _ => {}
        }
        Self {
            code: message.header.response_code,
            handle,
            values,
            message: text,
            server,
            transport,
            stale,
        }
    }
}
