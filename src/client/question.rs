//! Questions as messages, and messages as replies.

use std::net::SocketAddr;

use bytes::Bytes;
use jiexi_proto::{
    code::{OpCode, OpFlags, Version},
    framing, limits,
    message::{
        Body, Digest, Envelope, EnvelopeFlags, Header, Message, refusal::Referral,
        resolution::Resolution, values::HandleValues,
    },
};
use sha2::{Digest as _, Sha256};

use super::{ClientError, Question, Reply, Transport};

/// How long a question is worth something; servers ignore it, the reference sends half a day.
const LIFETIME_S: u32 = 12 * 3600;

/// A question ready to be sent.
pub(super) struct Request {
    /// The envelope; encoding sets its length.
    envelope: Envelope,
    /// What stands behind it.
    content: Vec<u8>,
    /// SHA-256 of header and body, when answers must carry it.
    digest: Option<[u8; 32]>,
}

impl Request {
    /// Writes a question in `version` under `request_id`.
    pub(super) fn new(
        question: &Question,
        version: Version,
        request_id: u32,
        digest: bool,
        now: u32,
    ) -> Result<Self, ClientError> {
        let envelope = Envelope {
            version: version.min(Version::CURRENT),
            suggested: Version::CURRENT,
            request_id,
            ..Envelope::default()
        };
        let flags = OpFlags::RESOLUTION;
        let header = Header {
            op_code: OpCode::RESOLUTION,
            flags: if digest {
                flags.with(OpFlags::RRDG)
            } else {
                flags
            },
            site_serial: Header::SERIAL_UNKNOWN,
            expiration: i32::try_from(now.saturating_add(LIFETIME_S)).unwrap_or(i32::MAX),
            ..Header::default()
        };
        let body = Body::Resolution(Resolution {
            handle: question.handle.clone(),
            indexes: question.indexes.clone(),
            types: question.types.clone(),
            trailer: None,
        });
        let message = Message::new(envelope, header, body);
        let (mut content, mut signed) = (Vec::new(), Vec::new());
        message.encode_content(&mut content);
        message.encode_signed(&mut signed);
        if content.len() > limits::MESSAGE_MAX {
            return Err(ClientError::TooLong);
        }
        Ok(Self {
            envelope,
            content,
            digest: digest.then(|| Sha256::digest(&signed).into()),
        })
    }

    /// The question as one message, for TCP.
    pub(super) fn message(&self) -> Vec<u8> {
        let message_length = u32::try_from(self.content.len()).unwrap_or(u32::MAX);
        let envelope = Envelope {
            message_length,
            ..self.envelope
        };
        [envelope.encode().as_slice(), &self.content].concat()
    }

    /// The question as datagrams of at most 512 octets, for UDP.
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

    /// Whether a message has the id of this question; anything else on the socket is somebody else's.
    pub(super) fn is_answer(&self, message: &[u8]) -> bool {
        Envelope::decode(message)
            .is_ok_and(|envelope| envelope.request_id == self.envelope.request_id)
    }

    /// Reads the answer to this question.
    pub(super) fn reply(
        &self,
        octets: Vec<u8>,
        server: SocketAddr,
        transport: Transport,
    ) -> Result<Reply, ClientError> {
        let message = Message::decode(&Bytes::from(octets))
            .map_err(|error| ClientError::Malformed(server, error))?;
        if message.header.is_request() {
            return Err(ClientError::NotOurs(server, "it is a request"));
        }
        if !self.digest_agrees(message.digest.as_ref()) {
            return Err(ClientError::NotOurs(
                server,
                "the digest of the question in it is missing or wrong",
            ));
        }
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
        Ok(Reply {
            code: message.header.response_code,
            handle,
            values,
            message: text,
            server,
            transport,
        })
    }

    /// Whether an answer carries the digest that was asked for.
    fn digest_agrees(&self, found: Option<&Digest>) -> bool {
        match (&self.digest, found) {
            (None, _) => true,
            (Some(own), Some(found)) => found.octets == own.as_slice(),
            (Some(_), None) => false,
        }
    }
}
