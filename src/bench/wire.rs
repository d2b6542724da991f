//! The few parts of the Handle protocol that a plain look-up needs, written out once more here so that the node's own
//! codec is not the judge of itself.

use super::{Failure, Outcome, Protocol, Seen};

/// Envelope (20) and header (24).
pub const HEAD: usize = 44;
/// Octets of a successful answer besides handle and values: head, two lengths, credential length.
pub const ANSWER_FIXED: usize = HEAD + 4 + 4 + 4;
/// Largest datagram either way.
pub const DATAGRAM_MAX: usize = 512;
/// The code of a server that has no time.
pub const TOO_BUSY: u32 = 3;

const ENVELOPE: usize = 20;
const REQUEST_ID: usize = 8;
const MESSAGE_LENGTH: usize = 16;
const OP_CODE: usize = 20;
const RESPONSE_CODE: usize = 24;

/// Version 2.11, asking for 2.11.
const VERSION: [u8; 4] = [2, 11, 2, 11];
const RESOLUTION: u32 = 1;
/// RECU, CACR, PUBL: what a plain client sends.
const FLAGS: u32 = 0x1900_0000;
/// Far in the future; the server does not look at it.
const EXPIRATION: u32 = 0x7fff_0000;
const SUCCESS: u32 = 1;
const HANDLE_NOT_FOUND: u32 = 100;

/// A plain resolution of all public values.
#[derive(Clone, Copy, Debug, Default)]
pub struct Handle;

impl Protocol for Handle {
    const ID_BITS: u32 = 32;

    fn request(&self, id: u32, name: &[u8], out: &mut Vec<u8>) {
        let length = name.len() as u32;
        out.extend_from_slice(&VERSION);
        put(out, 0); // session
        put(out, id);
        put(out, 0); // sequence
        put(out, length + 24 + 12 + 4);
        put(out, RESOLUTION);
        put(out, 0); // response code
        put(out, FLAGS);
        put(out, 0x0001_0000); // site serial 1, recursion 0, reserved
        put(out, EXPIRATION);
        put(out, length + 12);
        put(out, length);
        out.extend_from_slice(name);
        put(out, 0); // no indexes
        put(out, 0); // no types
        put(out, 0); // no credential
    }

    fn set_id(&self, id: u32, request: &mut [u8]) {
        set(request, REQUEST_ID, id);
    }

    fn answer(&self, message: &[u8]) -> Result<Seen, Failure> {
        let wrong = |what: &str| {
            Err(Failure::new(format_args!(
                "an answer whose {what} is wrong"
            )))
        };
        if message.len() < HEAD || get(message, MESSAGE_LENGTH) as usize != message.len() - ENVELOPE
        {
            return wrong("length");
        }
        if get(message, OP_CODE) != RESOLUTION {
            return wrong("op code");
        }
        let outcome = match get(message, RESPONSE_CODE) {
            SUCCESS => Outcome::Found,
            HANDLE_NOT_FOUND => Outcome::Missing,
            code => Outcome::Other(code),
        };
        Ok(Seen {
            id: Some(get(message, REQUEST_ID)),
            outcome,
        })
    }

    fn frame(&self, stream: &[u8]) -> Option<usize> {
        (stream.len() >= ENVELOPE).then(|| ENVELOPE + get(stream, MESSAGE_LENGTH) as usize)
    }
}

/// Turns the head of a request into that of a successful answer of `size` octets: what an echo does.
pub fn make_answer(head: &mut [u8], size: usize) {
    set(head, MESSAGE_LENGTH, (size - ENVELOPE) as u32);
    set(head, RESPONSE_CODE, SUCCESS);
}

/// Octets of a value on the wire, without references.
#[must_use]
pub fn value_size(kind: &str, data: usize) -> usize {
    4 + 4 + 1 + 4 + 1 + 4 + kind.len() + 4 + data + 4
}

/// A value of a record, without references.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a> {
    /// Its index.
    pub index: u32,
    /// Its type.
    pub kind: &'a str,
    /// Its data.
    pub data: &'a [u8],
}

const TIMESTAMP: u32 = 1_700_000_000;
const TTL: u32 = 86_400;
const PERMISSIONS: u8 = 0b1110;

impl Value<'_> {
    /// Appends it in wire form: a fixed time, a day to live, readable by everybody.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put(out, self.index);
        put(out, TIMESTAMP);
        out.push(0); // the TTL is relative
        put(out, TTL);
        out.push(PERMISSIONS);
        put(out, self.kind.len() as u32);
        out.extend_from_slice(self.kind.as_bytes());
        put(out, self.data.len() as u32);
        out.extend_from_slice(self.data);
        put(out, 0); // no references
    }
}

fn put(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_be_bytes());
}

fn set(out: &mut [u8], at: usize, number: u32) {
    out[at..at + 4].copy_from_slice(&number.to_be_bytes());
}

fn get(octets: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
}
