//! Writes a message piece by piece, straight into the send buffer: the hot path of a server.

use super::{CredentialField, Envelope, Header};
use crate::limits::{ENVELOPE_SIZE, HEADER_SIZE};
use crate::wire::Writer;

/// A message whose body is being written. Without [`Self::finish`] its lengths are wrong.
#[derive(Debug)]
#[must_use = "the lengths are set by finish"]
pub struct MessageWriter<'a> {
    writer: Writer<'a>,
    /// Where the header begins.
    header_at: usize,
    /// Whether an envelope stands before it.
    enveloped: bool,
}

impl<'a> MessageWriter<'a> {
    /// Appends envelope and header; the body is next.
    #[inline]
    pub fn begin(envelope: &Envelope, header: &Header, out: &'a mut Vec<u8>) -> Self {
        out.extend_from_slice(&envelope.encode());
        Self {
            enveloped: true,
            ..Self::begin_content(header, out)
        }
    }

    /// Appends a header without an envelope, for what is to be signed, encrypted or cut.
    #[inline]
    pub fn begin_content(header: &Header, out: &'a mut Vec<u8>) -> Self {
        let header_at = out.len();
        out.extend_from_slice(&header.encode());
        Self {
            writer: Writer::new(out),
            header_at,
            enveloped: false,
        }
    }

    /// Where the body goes; the digest first, when there is one.
    #[inline]
    pub const fn body(&mut self) -> &mut Writer<'a> {
        &mut self.writer
    }

    /// Appends the credential and sets the lengths.
    #[inline]
    pub fn finish(mut self, credential: &CredentialField) {
        let body = self.writer.position() - self.header_at - HEADER_SIZE;
        self.set_length_before(self.header_at + HEADER_SIZE, body);
        credential.encode(&mut self.writer);
        if self.enveloped {
            let message = self.writer.position() - self.header_at;
            self.set_length_before(self.header_at, message);
        }
    }

    /// Envelope and header both end with a length.
    #[inline]
    fn set_length_before(&mut self, end: usize, length: usize) {
        const { assert!(ENVELOPE_SIZE > size_of::<u32>() && HEADER_SIZE > size_of::<u32>()) };
        self.writer.set_u32(
            end - size_of::<u32>(),
            u32::try_from(length).unwrap_or(u32::MAX),
        );
    }
}
