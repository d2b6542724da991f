//! The header: 24 octets after the envelope (RFC 3652 §2.2.2).

use crate::code::{OpCode, OpFlags, ResponseCode};
use crate::error::DecodeError;
use crate::limits::HEADER_SIZE;
use crate::wire::Reader;

/// What a message is about and how long its body is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Header {
    /// The operation. A response has that of its request; the response to op 200 that of the
    /// request which was challenged.
    pub op_code: OpCode,
    /// 0 in requests.
    pub response_code: ResponseCode,
    /// How to do it, or how it was done.
    pub flags: OpFlags,
    /// The serial number of the site record the sender knows; 0xFFFF when it knows none.
    pub site_serial: u16,
    /// How many servers have passed the request on.
    pub recursion_count: u8,
    /// Always 0.
    pub reserved: u8,
    /// When the message is no longer worth anything, in seconds since 1970. Servers ignore it;
    /// clients refuse a response whose time has passed.
    pub expiration: i32,
    /// Octets of the body, the request digest in front included. Encoding sets it by itself.
    pub body_length: u32,
}

impl Header {
    /// The serial number that means "not known".
    pub const SERIAL_UNKNOWN: u16 = 0xFFFF;

    /// Reads a header; more may follow.
    ///
    /// # Errors
    /// Fewer than 24 octets.
    #[inline]
    pub fn decode(octets: &[u8]) -> Result<Self, DecodeError> {
        let fixed: [u8; HEADER_SIZE] = Reader::new(octets).array("header")?;
        let mut reader = Reader::new(&fixed);
        Ok(Self {
            op_code: OpCode(reader.u32("op code")?),
            response_code: ResponseCode(reader.u32("response code")?),
            flags: OpFlags(reader.u32("op flags")?),
            site_serial: reader.u16("site info serial")?,
            recursion_count: reader.u8("recursion count")?,
            reserved: reader.u8("reserved")?,
            expiration: reader.i32("expiration")?,
            body_length: reader.u32("body length")?,
        })
    }

    /// The header of a request by a client that knows no site record. `expiration` is in seconds
    /// since 1970; clients say 12 hours from now.
    #[must_use]
    pub const fn request(op_code: OpCode, flags: OpFlags, expiration: i32) -> Self {
        Self {
            op_code,
            response_code: ResponseCode::NONE,
            flags,
            site_serial: Self::SERIAL_UNKNOWN,
            recursion_count: 0,
            reserved: 0,
            expiration,
            body_length: 0,
        }
    }

    /// Whether this is a request: anything else is not to be answered.
    #[inline]
    #[must_use]
    pub const fn is_request(&self) -> bool {
        self.response_code.0 == 0
    }

    /// The 24 octets.
    #[inline]
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_SIZE] {
        let [o0, o1, o2, o3] = self.op_code.0.to_be_bytes();
        let [r0, r1, r2, r3] = self.response_code.0.to_be_bytes();
        let [f0, f1, f2, f3] = self.flags.0.to_be_bytes();
        let [s0, s1] = self.site_serial.to_be_bytes();
        let [e0, e1, e2, e3] = self.expiration.to_be_bytes();
        let [l0, l1, l2, l3] = self.body_length.to_be_bytes();
        let (count, reserved) = (self.recursion_count, self.reserved);
        [
            o0, o1, o2, o3, r0, r1, r2, r3, f0, f1, f2, f3, s0, s1, count, reserved, e0, e1, e2,
            e3, l0, l1, l2, l3,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_comes_back() {
        let header = Header {
            op_code: OpCode::CREATE_HANDLE,
            response_code: ResponseCode::SUCCESS,
            flags: OpFlags(0x9900_0000),
            site_serial: 0xFFFE,
            recursion_count: 20,
            reserved: 1,
            expiration: -2,
            body_length: 7,
        };
        assert_eq!(Header::decode(&header.encode()), Ok(header));
        assert!(!header.is_request());
        assert!(Header::decode(&header.encode()[..23]).is_err());
    }
}
