//! Writes responses: envelope and header first, the body behind them, lengths at the end.

use jiexi_proto::code::{HashId, OpFlags, ResponseCode};
use jiexi_proto::limits::{ENVELOPE_SIZE, HEADER_SIZE, MESSAGE_MAX};
use jiexi_proto::{Envelope, EnvelopeFlags, Header, MessageView, OpCode, Version};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// How long a response is valid, seconds: the reference server's twelve hours.
const VALIDITY_SECONDS: u32 = 12 * 60 * 60;

/// The serial number of a site record that is not known.
const SERIAL_UNKNOWN: u16 = 0xFFFF;

/// Request flags that a response repeats.
pub(super) const REPEATED: OpFlags = OpFlags(
    OpFlags::CACR.0 | OpFlags::ENCR.0 | OpFlags::PUBL.0 | OpFlags::DNRF.0 | OpFlags::RRDG.0,
);

/// The flags of a refusal made before the request was understood, as recorded.
const REFUSAL: OpFlags = OpFlags(OpFlags::RECU.0 | OpFlags::CACR.0 | OpFlags::PUBL.0);

/// Where the flags stand in the header.
const FLAGS: usize = 8;

/// The flags of a response with what another node answered: this one is no authority about it.
pub(super) fn passed_on(flags: OpFlags, stale: bool) -> OpFlags {
    match stale {
        true => flags.without(OpFlags::AUTH).with(OpFlags::STALE),
        false => flags.without(OpFlags::AUTH),
    }
}

/// A response being written at the end of a buffer.
#[derive(Debug)]
pub(super) struct Reply<'o> {
    out: &'o mut Vec<u8>,
    start: usize,
}

/// What all responses of a batch have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    /// The serial number of this node's site record.
    pub(super) site_serial: u16,
    /// Seconds since 1970.
    pub(super) unix_seconds: u32,
}

impl Stamp {
    /// When a response made now expires; never in the past, never negative.
    pub(super) fn expiration(self) -> i32 {
        i32::try_from(self.unix_seconds.saturating_add(VALIDITY_SECONDS)).unwrap_or(i32::MAX)
    }
}

impl<'o> Reply<'o> {
    /// Begins the response to `request`; its digest stands first where it was asked for.
    pub(super) fn begin(
        out: &'o mut Vec<u8>,
        stamp: Stamp,
        request: &MessageView<'_>,
        code: ResponseCode,
    ) -> Self {
        let version = request.envelope.reply_version();
        let mut flags = OpFlags(request.header.flags.0 & REPEATED.0);
        if version < Version::V2_1 {
            flags = flags.without(OpFlags::RRDG);
        }
        let digest = flags.contains(OpFlags::RRDG);
        let mut reply = Self::head(
            out,
            stamp,
            request,
            code,
            flags,
            request.envelope.session_id,
        );
        if digest {
            reply.put_digest(version, request.signed);
        }
        reply
    }

    /// Begins the response to `request` with what another node answered; `stale` when its values live no longer.
    pub(super) fn passed_on(
        out: &'o mut Vec<u8>,
        stamp: Stamp,
        request: &MessageView<'_>,
        code: ResponseCode,
        stale: bool,
    ) -> Self {
        let reply = Self::begin(out, stamp, request, code);
        let at = reply.start + ENVELOPE_SIZE + FLAGS;
        if let Some(field) = reply.out.get_mut(at..at + 4) {
            let flags = field
                .iter()
                .fold(0, |flags, octet| flags << 8 | u32::from(*octet));
            field.copy_from_slice(&passed_on(OpFlags(flags), stale).0.to_be_bytes());
        }
        reply
    }

    /// Begins the refusal of a message that was not understood beyond its envelope.
    pub(super) fn refusal(
        out: &'o mut Vec<u8>,
        stamp: Stamp,
        request: &Envelope,
        op_code: OpCode,
        code: ResponseCode,
    ) -> Self {
        let start = out.len();
        let envelope = Envelope {
            version: Version { major: 2, minor: 3 },
            flags: EnvelopeFlags::default(),
            suggested: Version::CURRENT,
            session_id: 0,
            request_id: request.request_id,
            sequence: 0,
            message_length: 0,
        };
        let header = Header {
            op_code,
            response_code: code,
            flags: REFUSAL,
            site_serial: SERIAL_UNKNOWN,
            recursion_count: 0,
            reserved: 0,
            expiration: stamp.expiration(),
            body_length: 0,
        };
        out.extend_from_slice(&envelope.encode());
        out.extend_from_slice(&header.encode());
        Self { out, start }
    }

    fn head(
        out: &'o mut Vec<u8>,
        stamp: Stamp,
        request: &MessageView<'_>,
        code: ResponseCode,
        flags: OpFlags,
        session_id: u32,
    ) -> Self {
        let start = out.len();
        let envelope = Envelope {
            version: request.envelope.reply_version(),
            flags: EnvelopeFlags::default(),
            suggested: Version::CURRENT,
            session_id,
            request_id: request.envelope.request_id,
            sequence: 0,
            message_length: 0,
        };
        let header = Header {
            op_code: request.header.op_code,
            response_code: code,
            flags: flags.with(OpFlags::AUTH).with(OpFlags::RECU),
            site_serial: stamp.site_serial,
            recursion_count: request.header.recursion_count,
            reserved: 0,
            expiration: stamp.expiration(),
            body_length: 0,
        };
        out.extend_from_slice(&envelope.encode());
        out.extend_from_slice(&header.encode());
        Self { out, start }
    }

    /// The request's digest, with the hash that belongs to the response's version.
    fn put_digest(&mut self, version: Version, signed: &[u8]) {
        if version >= Version::V2_7 {
            self.out.push(HashId::SHA256.0);
            self.out.extend_from_slice(&Sha256::digest(signed));
        } else {
            self.out.push(HashId::SHA1.0);
            self.out.extend_from_slice(&Sha1::digest(signed));
        }
    }

    /// Length and octets.
    pub(super) fn put_block(&mut self, octets: &[u8]) {
        let length = u32::try_from(octets.len()).unwrap_or(u32::MAX);
        self.out.extend_from_slice(&length.to_be_bytes());
        self.out.extend_from_slice(octets);
    }

    /// The buffer, for what is written in wire form already.
    pub(super) fn body(&mut self) -> &mut Vec<u8> {
        self.out
    }

    /// Ends the response without a credential and sets the lengths.
    ///
    /// Returns whether it fits a message; otherwise nothing is left of it.
    #[must_use]
    pub(super) fn finish(mut self) -> bool {
        self.out.extend_from_slice(&[0; 4]);
        let message = self.out.len() - self.start - ENVELOPE_SIZE;
        if message > MESSAGE_MAX {
            self.out.truncate(self.start);
            return false;
        }
        let body = message - HEADER_SIZE - 4;
        self.put_length(16, message);
        self.put_length(ENVELOPE_SIZE + 20, body);
        true
    }

    /// Overwrites the length field at `offset` of the response.
    fn put_length(&mut self, offset: usize, length: usize) {
        let at = self.start + offset;
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        self.out[at..at + 4].copy_from_slice(&length.to_be_bytes());
    }
}
