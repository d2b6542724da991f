//! A whole message as a view of the receive buffer: found, not yet understood; nothing is copied.

use super::{Envelope, Header};
use crate::error::{DecodeError, ErrorKind};
use crate::limits::{ARRAY_MAX, ENVELOPE_SIZE, MESSAGE_MAX};
use crate::wire::Reader;

/// An unencrypted message, cut into its parts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MessageView<'a> {
    /// The envelope.
    pub envelope: Envelope,
    /// The header.
    pub header: Header,
    /// The body: with the digest in front when the flags say so.
    pub body: &'a [u8],
    /// The credential without its length; `None` when even the length is missing, which some
    /// clients do and servers accept.
    pub credential: Option<&'a [u8]>,
    /// Header and body: what digests and signatures cover.
    pub signed: &'a [u8],
}

impl<'a> MessageView<'a> {
    /// Cuts a message of exactly the length that its envelope says.
    ///
    /// # Errors
    /// Octets missing or left over, an encrypted message, a length above its limit.
    #[inline]
    pub fn decode(octets: &'a [u8]) -> Result<Self, DecodeError> {
        let (envelope, content) = open(octets)?;
        if content.len() < envelope.message_length as usize {
            return Err(DecodeError::new(ErrorKind::Short, "message", ENVELOPE_SIZE));
        }
        Self::of_content(envelope, content)
    }

    /// As [`Self::decode`], but the envelope may promise more than has come.
    ///
    /// That is how the reference reads a datagram that is not marked as truncated.
    ///
    /// # Errors
    /// As [`Self::decode`], but for the length of the message.
    // Always, as what it is made of: a view is large, and every look-up would hand it over three times.
    #[inline(always)]
    pub fn decode_lenient(octets: &'a [u8]) -> Result<Self, DecodeError> {
        let (envelope, content) = open(octets)?;
        Self::of_content(envelope, content)
    }

    /// Cuts what stands after the envelope: header, body and credential, in clear or decrypted.
    ///
    /// # Errors
    /// Octets missing or left over, a length above its limit.
    #[inline(always)]
    pub fn of_content(envelope: Envelope, content: &'a [u8]) -> Result<Self, DecodeError> {
        let header = Header::decode(content)?;
        let mut reader = Reader::new(content);
        let length = crate::limits::HEADER_SIZE.saturating_add(header.body_length as usize);
        let signed = reader.take(length, "body")?;
        let body = signed.get(crate::limits::HEADER_SIZE..).unwrap_or_default();
        let credential = match reader.is_empty() {
            true => None,
            false => Some(reader.bytes(ARRAY_MAX, "credential")?),
        };
        reader.finish("credential")?;
        Ok(Self {
            envelope,
            header,
            body,
            credential,
            signed,
        })
    }
}

/// The envelope and what follows it, when that is neither encrypted nor too much.
#[inline(always)]
fn open(octets: &[u8]) -> Result<(Envelope, &[u8]), DecodeError> {
    let envelope = Envelope::decode(octets)?;
    let content = octets.get(ENVELOPE_SIZE..).unwrap_or_default();
    let error = |kind| Err(DecodeError::new(kind, "message", ENVELOPE_SIZE));
    let length = envelope.message_length as usize;
    if length > MESSAGE_MAX {
        error(ErrorKind::TooLarge(MESSAGE_MAX))
    } else if length < content.len() {
        error(ErrorKind::Trailing)
    } else if envelope.is_encrypted() {
        error(ErrorKind::Encrypted)
    } else {
        Ok((envelope, content))
    }
}
