//! Messages: envelope, header, body, credential (RFC 3652 §2).
//!
//! In order of depth: [`Envelope`] and [`Header`] say what a message is, and are enough to drop it
//! or to refuse it; [`MessageView`] finds its parts in a receive buffer;
//! [`resolution::ResolutionView`] is the question of the hot path, and [`MessageWriter`] writes its
//! answer; [`Message`] owns everything and knows every operation.
//!
//! ```text
//! envelope 20 │ header 24 │ body: (digest) … │ length 4 │ credential
//!             └── signed, digested ──────────┘
//!             └── encrypted when the envelope says so ─────────────┘
//! ```
//!
//! Bodies, one file per operation, both directions: [`resolution`], [`values`], [`challenge`],
//! [`session`], [`login`], [`replication`]; [`refusal`] is what any of them may get back.

use bytes::Bytes;

use crate::code::{OpFlags, Version};
use crate::error::DecodeError;
use crate::wire::Reader;

pub mod body;
pub mod challenge;
pub mod credential;
pub mod envelope;
pub mod header;
pub mod login;
pub mod refusal;
pub mod replication;
pub mod resolution;
pub mod session;
pub mod values;
pub mod view;
pub mod writer;

pub use body::Body;
pub use challenge::Digest;
pub use credential::{Credential, CredentialField};
pub use envelope::{Envelope, EnvelopeFlags};
pub use header::Header;
pub use session::EncryptedMessage;
pub use view::MessageView;
pub use writer::MessageWriter;

/// A whole message in clear, owning its parts as slices of the buffer it came in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// The envelope. Encoding sets its length by itself.
    pub envelope: Envelope,
    /// The header. Encoding sets the length of the body by itself.
    pub header: Header,
    /// The digest of the request, in responses that have the RRDG flag.
    pub digest: Option<Digest>,
    /// The body after it.
    pub body: Body,
    /// The credential.
    pub credential: CredentialField,
}

impl Message {
    /// A message without digest and credential.
    #[must_use]
    pub const fn new(envelope: Envelope, header: Header, body: Body) -> Self {
        Self {
            envelope,
            header,
            digest: None,
            body,
            credential: CredentialField::Empty,
        }
    }

    /// Reads a message of exactly the length that its envelope says.
    ///
    /// # Errors
    /// As [`MessageView::decode`], and a body or credential that does not have its shape.
    pub fn decode(octets: &Bytes) -> Result<Self, DecodeError> {
        Self::of_view(octets, &MessageView::decode(octets)?)
    }

    /// As [`Self::decode`], but the envelope may promise more than has come.
    ///
    /// # Errors
    /// As [`MessageView::decode_lenient`], and a body or credential that does not have its shape.
    pub fn decode_lenient(octets: &Bytes) -> Result<Self, DecodeError> {
        Self::of_view(octets, &MessageView::decode_lenient(octets)?)
    }

    /// Reads what stands after an envelope, when it has been decrypted.
    ///
    /// # Errors
    /// As [`MessageView::of_content`], and a body or credential that does not have its shape.
    pub fn decode_content(envelope: Envelope, content: &Bytes) -> Result<Self, DecodeError> {
        Self::of_view(content, &MessageView::of_content(envelope, content)?)
    }

    /// Understands the parts of `view`, which is a view of `octets`.
    fn of_view(octets: &Bytes, view: &MessageView<'_>) -> Result<Self, DecodeError> {
        let MessageView {
            envelope, header, ..
        } = *view;
        let mut reader = Reader::within(octets, view.body);
        let mut digest = None;
        let body = if has_digest(&envelope, &header) {
            digest = Digest::decode(&mut reader)?;
            match digest {
                Some(_) => Body::decode(envelope.version, &header, reader)?,
                None => Body::Opaque(reader.owned_rest()),
            }
        } else {
            Body::decode(envelope.version, &header, reader)?
        };
        let credential = match view.credential {
            None => CredentialField::Missing,
            Some([]) => CredentialField::Empty,
            Some(part) => {
                CredentialField::Present(Credential::decode(Reader::within(octets, part))?)
            }
        };
        Ok(Self {
            envelope,
            header,
            digest,
            body,
            credential,
        })
    }

    /// Appends the message with its envelope.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.write(
            MessageWriter::begin(&self.envelope, &self.header, out),
            &self.credential,
        );
    }

    /// Appends header, body and credential: what is encrypted, or cut into datagrams.
    pub fn encode_content(&self, out: &mut Vec<u8>) {
        self.write(
            MessageWriter::begin_content(&self.header, out),
            &self.credential,
        );
    }

    /// Appends header and body: what is signed, and what request digests cover.
    pub fn encode_signed(&self, out: &mut Vec<u8>) {
        let writer = MessageWriter::begin_content(&self.header, out);
        self.write(writer, &CredentialField::Missing);
    }

    fn write(&self, mut writer: MessageWriter<'_>, credential: &CredentialField) {
        if let Some(digest) = &self.digest {
            digest.encode(writer.body());
        }
        self.body.encode(self.envelope.version, writer.body());
        writer.finish(credential);
    }
}

/// Whether the body of this message begins with a digest.
#[inline]
fn has_digest(envelope: &Envelope, header: &Header) -> bool {
    !header.is_request()
        && header.flags.contains(OpFlags::RRDG)
        && envelope.version >= Version::V2_1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::{HashId, OpCode, ResponseCode};
    use crate::error::ErrorKind;

    fn octets(version: Version, header: Header, content: &'static [u8]) -> Vec<u8> {
        let envelope = Envelope {
            version,
            ..Envelope::request(7)
        };
        let body = Body::Opaque(Bytes::from_static(content));
        let mut out = Vec::new();
        Message::new(envelope, header, body).encode(&mut out);
        out
    }

    fn decoded(version: Version, header: Header, content: &'static [u8]) -> Message {
        Message::decode(&octets(version, header, content).into()).unwrap()
    }

    fn answer(response_code: ResponseCode, flags: OpFlags) -> Header {
        Header {
            response_code,
            ..Header::request(OpCode::CREATE_HANDLE, flags, 0)
        }
    }

    #[test]
    fn unknown_operations_are_carried() {
        let header = Header::request(OpCode(77), OpFlags::RRDG, 0);
        let message = decoded(Version::V2_11, header, b"what?");
        assert_eq!(message.body, Body::Opaque(Bytes::from_static(b"what?")));
        assert_eq!(message.digest, None);
    }

    #[test]
    fn an_unknown_digest_hides_the_body() {
        let header = answer(ResponseCode::ERROR, OpFlags::RRDG);
        let message = decoded(Version::V2_11, header, b"\x09digest\0\0\0\0");
        assert!(matches!(message.body, Body::Opaque(body) if body.len() == 11));
    }

    #[test]
    fn digests_stand_in_front_from_2_1_on() {
        const CONTENT: &[u8] = b"\x02twenty octets of sha\0\0\0\0";
        let header = answer(ResponseCode::ERROR, OpFlags::RRDG);
        let digest = decoded(Version::V2_1, header, CONTENT).digest.unwrap();
        assert_eq!(
            (digest.hash, &digest.octets[..]),
            (HashId::SHA1, &b"twenty octets of sha"[..])
        );
        assert!(Message::decode(&octets(Version::V2_0, header, CONTENT).into()).is_err());
        let empty = decoded(Version::V2_0, header, b"\0\0\0\0");
        assert_eq!(
            (empty.digest, empty.body),
            (None, Body::Error(refusal::ErrorText::default()))
        );
    }

    #[test]
    fn a_login_has_no_credential_field() {
        let mut octets = octets(
            Version::V2_10,
            Header::request(OpCode::LOGIN, OpFlags::RRDG, 0),
            b"\0\0\0\x0888.1/abc\0\0\x01\x2c",
        );
        octets.truncate(octets.len() - 4);
        let cut = Bytes::from(octets.clone());
        assert_eq!(Message::decode(&cut).unwrap_err().kind, ErrorKind::Short);
        assert!(Message::decode_lenient(&cut).is_ok());
        octets[19] -= 4;
        let message = Message::decode(&octets.clone().into()).unwrap();
        assert_eq!(message.credential, CredentialField::Missing);
        assert!(matches!(&message.body, Body::Login(login) if login.user.index == 300));
        let mut encoded = Vec::new();
        message.encode(&mut encoded);
        assert_eq!(encoded, octets);
    }

    #[test]
    fn what_is_signed_is_what_the_view_shows() {
        let octets = octets(
            Version::V2_11,
            Header::request(OpCode(77), OpFlags(0), 0),
            b"body",
        );
        let message = Message::decode(&octets.clone().into()).unwrap();
        let mut signed = Vec::new();
        message.encode_signed(&mut signed);
        assert_eq!(MessageView::decode(&octets).unwrap().signed, signed);
    }
}
