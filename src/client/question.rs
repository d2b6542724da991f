//! Questions as messages, and messages as replies.

use std::net::SocketAddr;

use bytes::Bytes;
use jiexi_proto::{
    code::{HashId, OpCode, OpFlags, ResponseCode, Version},
    limits,
    message::{
        Envelope, EnvelopeFlags, Header, MessageView,
        resolution::{Resolution, Resolved},
    },
    wire::{Reader, Writer},
};
use sha2::{Digest, Sha256};

use super::{ClientError, Question, Reply, Transport};

/// How long a question is worth something; servers ignore it, the reference sends half a day.
const LIFETIME_S: u32 = 12 * 3600;

/// A question ready to be sent.
pub(super) struct Request {
    /// The envelope, its length set.
    pub(super) envelope: Envelope,
    /// What stands behind it.
    pub(super) content: Vec<u8>,
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
        let mut body = Vec::new();
        let resolution = Resolution {
            handle: question.handle.clone(),
            indexes: question.indexes.clone(),
            types: question.types.clone(),
            trailer: None,
        };
        resolution.encode(&mut Writer::new(&mut body));
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
            body_length: u32::try_from(body.len()).map_err(|_| ClientError::TooLong)?,
            ..Header::default()
        };
        let mut content = header.encode().to_vec();
        content.extend_from_slice(&body);
        let digest = digest.then(|| Sha256::digest(&content).into());
        content.extend_from_slice(&[0; limits::CREDENTIAL_LENGTH_SIZE]);
        if content.len() > limits::MESSAGE_MAX {
            return Err(ClientError::TooLong);
        }
        let envelope = Envelope {
            version: version.min(Version::CURRENT),
            suggested: Version::CURRENT,
            request_id,
            message_length: u32::try_from(content.len()).map_err(|_| ClientError::TooLong)?,
            ..Envelope::default()
        };
        Ok(Self {
            envelope,
            content,
            digest,
        })
    }

    /// The question as one message, for TCP.
    pub(super) fn message(&self) -> Vec<u8> {
        [self.envelope.encode().as_slice(), &self.content].concat()
    }

    /// The question as datagrams of at most 512 octets, for UDP.
    pub(super) fn datagrams(&self) -> Vec<Vec<u8>> {
        let mut envelope = self.envelope;
        if self.content.len() > limits::PIECE_MAX {
            envelope.flags = EnvelopeFlags::TRUNCATED;
        }
        let mut out = Vec::new();
        jiexi_proto::framing::split_datagrams(&envelope, &self.content, &mut out);
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
        message: Vec<u8>,
        server: SocketAddr,
        transport: Transport,
    ) -> Result<Reply, ClientError> {
        let malformed = |error| ClientError::Malformed(server, error);
        let not_ours = |why| ClientError::NotOurs(server, why);
        let message = Bytes::from(message);
        let view = MessageView::decode(&message).map_err(malformed)?;
        if view.header.is_request() {
            return Err(not_ours("it is a request"));
        }
        let body = message.slice_ref(view.body);
        let mut reader = Reader::over(&body);
        let mut digest = None;
        if view.header.flags.contains(OpFlags::RRDG) {
            let hash = HashId(reader.u8("digest hash").map_err(malformed)?);
            let size = hash
                .size()
                .ok_or_else(|| not_ours("its digest uses a hash that is not known"))?;
            digest = Some(reader.take(size, "digest").map_err(malformed)?);
        }
        if self
            .digest
            .as_ref()
            .is_some_and(|own| digest != Some(own.as_slice()))
        {
            return Err(not_ours(
                "the digest of the question in it is missing or wrong",
            ));
        }
        let mut reply = Reply {
            code: view.header.response_code,
            handle: Bytes::new(),
            values: Vec::new(),
            message: String::new(),
            server,
            transport,
        };
        match reply.code {
            ResponseCode::SUCCESS => {
                let resolved = Resolved::decode(&mut reader).map_err(malformed)?;
                (reply.handle, reply.values) = (resolved.handle, resolved.values);
            }
            ResponseCode::SERVICE_REFERRAL | ResponseCode::PREFIX_REFERRAL => {
                reply.handle = reader
                    .owned(limits::HANDLE_MAX, "handle")
                    .map_err(malformed)?;
                if !reader.is_empty() {
                    let size = jiexi_proto::value::Value::SIZE_MIN;
                    let values = reader.list(
                        limits::VALUES_MAX,
                        size,
                        "values",
                        jiexi_proto::value::Value::read,
                    );
                    reply.values = values.map_err(malformed)?;
                }
            }
            ResponseCode::AUTHENTICATION_NEEDED => {}
            _ => {
                // A refusal is a refusal, even if its text cannot be read.
                let text = reader
                    .bytes(limits::MESSAGE_MAX, "message")
                    .unwrap_or_default();
                reply.message = String::from_utf8_lossy(text).into_owned();
            }
        }
        Ok(reply)
    }
}
