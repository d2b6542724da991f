//! The few parts of the Handle protocol that a plain look-up needs, written out once more here so that the
//! node's own codec is not the judge of itself.

use crate::Failure;

/// Envelope (20) and header (24).
pub(crate) const HEAD: usize = 44;
/// Octets of a successful answer besides handle and values: head, two lengths, credential length.
pub(crate) const ANSWER_FIXED: usize = HEAD + 4 + 4 + 4;
/// Largest datagram either way.
pub(crate) const DATAGRAM_MAX: usize = 512;

const ENVELOPE: usize = 20;
const REQUEST_ID: usize = 8;
const MESSAGE_LENGTH: usize = 16;
const OP_CODE: usize = 20;
const RESPONSE_CODE: usize = 24;
const BODY_LENGTH: usize = 40;

/// Version 2.11, asking for 2.11.
const VERSION: [u8; 4] = [2, 11, 2, 11];
const RESOLUTION: u32 = 1;
/// RECU, CACR, PUBL: what a plain client sends.
const FLAGS: u32 = 0x1900_0000;
/// Far in the future; the server does not look at it.
const EXPIRATION: u32 = 0x7fff_0000;

pub(crate) const SUCCESS: u32 = 1;
pub(crate) const TOO_BUSY: u32 = 3;
pub(crate) const HANDLE_NOT_FOUND: u32 = 100;

/// Appends a request for all values of the handle that `handle` appends.
pub(crate) fn request(out: &mut Vec<u8>, request_id: u32, handle: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&VERSION);
    put(out, 0); // session
    put(out, request_id);
    put(out, 0); // sequence
    put(out, 0); // message length, below
    put(out, RESOLUTION);
    put(out, 0); // response code
    put(out, FLAGS);
    put(out, 0x0001_0000); // site serial 1, recursion 0, reserved
    put(out, EXPIRATION);
    put(out, 0); // body length, below
    put(out, 0); // handle length, below
    let from = out.len();
    handle(out);
    let length = (out.len() - from) as u32;
    put(out, 0); // no indexes
    put(out, 0); // no types
    put(out, 0); // no credential
    set(out, start + MESSAGE_LENGTH, length + 24 + 12 + 4);
    set(out, start + BODY_LENGTH, length + 12);
    set(out, start + HEAD, length);
}

/// What an answer says about itself.
pub(crate) struct Answer {
    pub(crate) request_id: u32,
    pub(crate) response_code: u32,
}

/// Reads the head of one whole answer; refuses what is no answer to a look-up.
pub(crate) fn answer(message: &[u8]) -> Result<Answer, Failure> {
    if message.len() < HEAD {
        return Err(format!("an answer of {} octets", message.len()).into());
    }
    let answer = Answer {
        request_id: get(message, REQUEST_ID),
        response_code: get(message, RESPONSE_CODE),
    };
    if get(message, MESSAGE_LENGTH) as usize != message.len() - ENVELOPE {
        return Err(format!("request {}: message length is wrong", answer.request_id).into());
    }
    if get(message, OP_CODE) != RESOLUTION {
        return Err(format!("request {}: op code is wrong", answer.request_id).into());
    }
    Ok(answer)
}

/// Octets of the message that begins here, once its envelope is there.
pub(crate) fn frame_size(stream: &[u8]) -> Option<usize> {
    (stream.len() >= ENVELOPE).then(|| ENVELOPE + get(stream, MESSAGE_LENGTH) as usize)
}

/// Turns a request's head into that of a successful answer of `size` octets: what the echo does.
pub(crate) fn make_answer(head: &mut [u8], size: usize) {
    set(head, MESSAGE_LENGTH, (size - ENVELOPE) as u32);
    set(head, RESPONSE_CODE, SUCCESS);
}

/// Octets of a value on the wire, without references.
pub(crate) fn value_size(kind: &str, data: usize) -> usize {
    4 + 4 + 1 + 4 + 1 + 4 + kind.len() + 4 + data + 4
}

/// Appends a value in wire form.
pub(crate) fn value(
    out: &mut Vec<u8>,
    index: u32,
    timestamp: u32,
    ttl: u32,
    permissions: u8,
    kind: &str,
    data: &[u8],
) {
    put(out, index);
    put(out, timestamp);
    out.push(0); // the TTL is relative
    put(out, ttl);
    out.push(permissions);
    put(out, kind.len() as u32);
    out.extend_from_slice(kind.as_bytes());
    put(out, data.len() as u32);
    out.extend_from_slice(data);
    put(out, 0); // no references
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
