//! The credential at the end of a message, and the octets that it covers.
//!
//! RFC 3652 §2.2.4, where the wire differs in what is covered: that changed with the version, and
//! in 2.6 it is a mistake that has to be repeated.

use bytes::Bytes;

use super::Envelope;
use crate::code::Version;
use crate::error::DecodeError;
use crate::limits::{ARRAY_MAX, CREDENTIAL_LENGTH_SIZE, NAME_MAX};
use crate::value::Reference;
use crate::wire::{Reader, Writer};

/// What stands at the end of a message.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum CredentialField {
    /// Not even a length; logins of the id-pointer SDK are like this, and servers accept it.
    Missing,
    /// A length of 0.
    #[default]
    Empty,
    /// A credential.
    Present(Credential),
}

/// A signature or a MAC over the message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credential {
    /// Always 0.
    pub version: u8,
    /// Always 0.
    pub reserved: u8,
    /// Always 0.
    pub flags: u16,
    /// An empty handle, and as index the counter of the session; 0 outside sessions.
    pub signer: Reference,
    /// [`Self::SIGNED`] or [`Self::MAC`].
    pub kind: Bytes,
    /// `SHA-256` or `SHA1`; `HMAC-SHA256`.
    pub algorithm: Bytes,
    /// RSA PKCS#1 v1.5, or the MAC.
    pub signature: Bytes,
}

impl Credential {
    /// The kind of signatures with the server's key.
    pub const SIGNED: &'static [u8] = b"HS_SIGNED";
    /// The kind of MACs with the session's key.
    pub const MAC: &'static [u8] = b"HS_MAC";

    /// A credential as they are all made.
    #[must_use]
    pub fn new(
        kind: &'static [u8],
        algorithm: &'static [u8],
        counter: u32,
        signature: impl Into<Bytes>,
    ) -> Self {
        Self {
            version: 0,
            reserved: 0,
            flags: 0,
            signer: Reference {
                handle: Bytes::new(),
                index: counter,
            },
            kind: Bytes::from_static(kind),
            algorithm: Bytes::from_static(algorithm),
            signature: signature.into(),
        }
    }

    /// The counter of the session, 0 outside sessions.
    #[must_use]
    pub const fn counter(&self) -> u32 {
        self.signer.index
    }

    /// Octets of algorithm and signature with their lengths, as the message says them.
    #[must_use]
    pub fn section_length(&self) -> usize {
        2 * CREDENTIAL_LENGTH_SIZE + self.algorithm.len() + self.signature.len()
    }

    /// Reads a credential that is all of what is left.
    ///
    /// # Errors
    /// Octets missing or left over, a length above its limit.
    pub fn decode(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        let version = reader.u8("credential version")?;
        let reserved = reader.u8("credential reserved")?;
        let flags = reader.u16("credential flags")?;
        let signer = Reference::read(&mut reader)?;
        let kind = reader.owned(NAME_MAX, "credential type")?;
        let section = reader.bytes(ARRAY_MAX, "signature section")?;
        reader.finish("signature section")?;
        let mut inner = Reader::new(section);
        let algorithm = reader.share(inner.bytes(NAME_MAX, "signature algorithm")?);
        let signature = reader.share(inner.bytes(ARRAY_MAX, "signature")?);
        inner.finish("signature")?;
        Ok(Self {
            version,
            reserved,
            flags,
            signer,
            kind,
            algorithm,
            signature,
        })
    }

    /// Appends the credential, without its length.
    pub fn encode(&self, writer: &mut Writer<'_>) {
        writer.u8(self.version);
        writer.u8(self.reserved);
        writer.u16(self.flags);
        self.signer.write(writer);
        writer.bytes(&self.kind);
        writer.length(self.section_length());
        writer.bytes(&self.algorithm);
        writer.bytes(&self.signature);
    }
}

impl CredentialField {
    /// Appends the field.
    pub fn encode(&self, writer: &mut Writer<'_>) {
        match self {
            Self::Missing => {}
            Self::Empty => writer.length(0),
            Self::Present(credential) => {
                let place = writer.open();
                credential.encode(writer);
                writer.close(place);
            }
        }
    }
}

/// Appends what a signature or MAC covers: a prefix by version, then header and body in clear.
///
/// `content` is header and body ([`super::MessageView::signed`]).
pub fn signed_bytes(envelope: &Envelope, counter: u32, content: &[u8], out: &mut Vec<u8>) {
    signed_prefix(envelope, counter, out);
    out.extend_from_slice(content);
}

/// Appends the prefix that stands before header and body where they are signed.
pub fn signed_prefix(envelope: &Envelope, counter: u32, out: &mut Vec<u8>) {
    let version = envelope.version;
    let mut writer = Writer::new(out);
    if version < Version::V2_6 {
        return;
    }
    writer.u8(version.major);
    writer.u8(version.minor);
    if version < Version::V2_7 {
        return old_prefix(envelope.session_id, counter, &mut writer);
    }
    if version >= Version::V2_8 {
        writer.u8(envelope.suggested.major);
        writer.u8(envelope.suggested.minor);
    }
    writer.u32(envelope.session_id);
    writer.u32(envelope.request_id);
    writer.u32(counter);
}

/// The rest of the prefix of 2.6.
///
/// The reference sets its offset where it should add to it: the session id goes to offset 2, then
/// the request id and the counter both to offset 4, and the rest of the 14 octets stays zero. So
/// the request id is not covered, and half of the session id is overwritten.
fn old_prefix(session_id: u32, counter: u32, writer: &mut Writer<'_>) {
    let [high, low, ..] = session_id.to_be_bytes();
    writer.raw(&[high, low]);
    writer.u32(counter);
    writer.raw(&[0; 6]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(major: u8, minor: u8) -> Vec<u8> {
        let envelope = Envelope {
            version: Version::new(major, minor),
            suggested: Version::V2_11,
            session_id: 0x0102_0304,
            request_id: 0x0506_0708,
            ..Envelope::default()
        };
        let mut out = Vec::new();
        signed_prefix(&envelope, 9, &mut out);
        out
    }

    #[test]
    fn the_prefix_goes_with_the_version() {
        assert!(prefix(2, 5).is_empty());
        assert_eq!(prefix(2, 6), [2, 6, 1, 2, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0]);
        assert_eq!(prefix(2, 7), [2, 7, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 9]);
        assert_eq!(
            prefix(2, 8),
            [2, 8, 2, 11, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 9]
        );
    }
}
