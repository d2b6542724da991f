//! The envelope: 20 octets before every message and every piece of one.
//!
//! RFC 3652 §2.1.1 has two octets of flags; the wire has flags, the low two bits of the suggested
//! major version, and the suggested minor version in their place.

use crate::code::Version;
use crate::error::DecodeError;
use crate::limits::ENVELOPE_SIZE;
use crate::wire::Reader;

flags! {
    /// The flags of an envelope: octet 2 without its low two bits.
    EnvelopeFlags(u8) {
        /// Never used.
        COMPRESSED = 0x80 => "compressed",
        /// The message is encrypted with the key of the session.
        ENCRYPTED = 0x40 => "encrypted",
        /// A request that comes in several datagrams. Never set on a response in pieces.
        TRUNCATED = 0x20 => "truncated",
    }
}

/// The bits of octet 2 that are the suggested major version.
const SUGGESTED_MAJOR: u8 = 0b11;

/// The first 20 octets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Envelope {
    /// The version whose layouts the message follows.
    pub version: Version,
    /// Compressed, encrypted, truncated.
    pub flags: EnvelopeFlags,
    /// The version the sender would like to be answered in, as it stands there: two bits for the
    /// major, and major 0 means "as `version`" (see [`Self::wanted_version`]).
    pub suggested: Version,
    /// The session or the challenge this belongs to, or 0.
    pub session_id: u32,
    /// Chosen by the client, repeated in the response.
    pub request_id: u32,
    /// The number of this piece, from 0.
    pub sequence: u32,
    /// Octets of the whole message, this envelope not counted.
    pub message_length: u32,
}

impl Envelope {
    /// Reads an envelope; more may follow.
    ///
    /// # Errors
    /// Fewer than 20 octets. Any 20 octets are an envelope: what they mean is checked later.
    #[inline]
    pub fn decode(octets: &[u8]) -> Result<Self, DecodeError> {
        let fixed: [u8; ENVELOPE_SIZE] = Reader::new(octets).array("envelope")?;
        let mut reader = Reader::new(&fixed);
        let version = Version::new(reader.u8("major version")?, reader.u8("minor version")?);
        let flags = reader.u8("flags")?;
        Ok(Self {
            version,
            flags: EnvelopeFlags(flags & !SUGGESTED_MAJOR),
            suggested: Version::new(
                flags & SUGGESTED_MAJOR,
                reader.u8("suggested minor version")?,
            ),
            session_id: reader.u32("session id")?,
            request_id: reader.u32("request id")?,
            sequence: reader.u32("sequence number")?,
            message_length: reader.u32("message length")?,
        })
    }

    /// The 20 octets.
    #[inline]
    #[must_use]
    pub fn encode(&self) -> [u8; ENVELOPE_SIZE] {
        let [s0, s1, s2, s3] = self.session_id.to_be_bytes();
        let [r0, r1, r2, r3] = self.request_id.to_be_bytes();
        let [n0, n1, n2, n3] = self.sequence.to_be_bytes();
        let [l0, l1, l2, l3] = self.message_length.to_be_bytes();
        let flags = (self.flags.0 & !SUGGESTED_MAJOR) | (self.suggested.major & SUGGESTED_MAJOR);
        let (major, minor) = (self.version.major, self.version.minor);
        let wanted = self.suggested.minor;
        [
            major, minor, flags, wanted, s0, s1, s2, s3, r0, r1, r2, r3, n0, n1, n2, n3, l0, l1,
            l2, l3,
        ]
    }

    /// The envelope of a request in the newest version, outside sessions.
    #[must_use]
    pub const fn request(request_id: u32) -> Self {
        Self {
            version: Version::CURRENT,
            flags: EnvelopeFlags(0),
            suggested: Version::CURRENT,
            session_id: 0,
            request_id,
            sequence: 0,
            message_length: 0,
        }
    }

    /// Whether the message after it is encrypted.
    #[inline]
    #[must_use]
    pub const fn is_encrypted(&self) -> bool {
        self.flags.contains(EnvelopeFlags::ENCRYPTED)
    }

    /// The version the sender would like to be answered in.
    ///
    /// Without a suggestion that is its own, and major 5 is an old client's way to say 2.0.
    #[inline]
    #[must_use]
    pub const fn wanted_version(&self) -> Version {
        match (self.suggested.major, self.version.major) {
            (0, 5) => Version::V2_0,
            (0, _) => self.version,
            _ => self.suggested,
        }
    }

    /// The version that both sides of an exchange speak, as this response of the other one says: its own, unless it would
    /// rather be spoken to in an older one.
    #[inline]
    #[must_use]
    pub fn spoken_version(&self) -> Version {
        self.version.min(self.wanted_version())
    }

    /// The version a response to this request carries: the wanted one, as far as it is spoken.
    #[inline]
    #[must_use]
    pub fn reply_version(&self) -> Version {
        self.wanted_version().clamp(Version::V2_0, Version::CURRENT)
    }

    /// The envelope of a response to this request; the length is still to be set.
    #[inline]
    #[must_use]
    pub fn reply(&self) -> Self {
        Self {
            version: self.reply_version(),
            flags: EnvelopeFlags::default(),
            suggested: Version::CURRENT,
            sequence: 0,
            message_length: 0,
            ..*self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OCTETS: [u8; 20] = [
        2, 10, 0x43, 11, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4,
    ];

    #[test]
    fn flags_and_the_suggested_major_share_an_octet() {
        let envelope = Envelope::decode(&OCTETS).unwrap();
        assert_eq!(envelope.flags, EnvelopeFlags::ENCRYPTED);
        assert_eq!(envelope.suggested, Version::new(3, 11));
        assert_eq!(envelope.encode(), OCTETS);
        assert!(Envelope::decode(&OCTETS[..19]).is_err());
    }

    #[test]
    fn the_version_spoken_is_the_older_one() {
        let spoken = |version, suggested| {
            Envelope {
                version,
                suggested,
                ..Envelope::default()
            }
            .spoken_version()
        };
        let none = Version::new(0, 0);
        assert_eq!(spoken(Version::V2_11, Version::V2_11), Version::V2_11);
        assert_eq!(spoken(Version::V2_11, Version::V2_6), Version::V2_6);
        assert_eq!(spoken(Version::V2_5, Version::V2_11), Version::V2_5);
        assert_eq!(
            spoken(Version::V2_3, none),
            Version::V2_3,
            "servers before the suggestion"
        );
    }

    #[test]
    fn the_reply_has_the_suggested_version_as_far_as_spoken() {
        let reply = |version, suggested| {
            Envelope {
                version,
                suggested,
                ..Envelope::default()
            }
            .reply_version()
        };
        let v = Version::new;
        assert_eq!(reply(Version::V2_3, Version::V2_11), Version::V2_11);
        assert_eq!(reply(Version::V2_0, v(2, 0)), Version::V2_0);
        assert_eq!(reply(Version::V2_11, v(2, 12)), Version::V2_11);
        assert_eq!(reply(v(3, 0), v(3, 0)), Version::V2_11);
        assert_eq!(reply(Version::V2_5, v(0, 0)), Version::V2_5);
        assert_eq!(reply(v(5, 1), v(0, 0)), Version::V2_0);
        assert_eq!(reply(v(0, 0), v(0, 0)), Version::V2_0);
    }
}
