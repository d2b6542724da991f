//! redis: GET of a handle gives its values in wire form.

use std::io::Write as _;

use jiexi::bench::{Failure, Outcome, Protocol, Seen};

/// Its protocol, version 2, where only the order tells which answer is whose.
pub(crate) struct Redis;

impl Protocol for Redis {
    const ID_BITS: u32 = 32;

    fn request(&self, _id: u32, name: &[u8], out: &mut Vec<u8>) {
        command(&[b"GET", name], out);
    }

    fn set_id(&self, _id: u32, _request: &mut [u8]) {}

    fn answer(&self, answer: &[u8]) -> Result<Seen, Failure> {
        let outcome = match answer {
            [b'$', b'-', ..] => Outcome::Missing,
            [b'$', ..] => Outcome::Found,
            other => return Err(Failure::new(String::from_utf8_lossy(other))),
        };
        Ok(Seen { id: None, outcome })
    }

    fn frame(&self, stream: &[u8]) -> Option<usize> {
        let line = stream.iter().take(64).position(|&octet| octet == b'\n')? + 1;
        let length = stream.get(1..line - 2).filter(|_| stream[0] == b'$')?;
        let length = std::str::from_utf8(length).ok()?.parse::<usize>();
        // An error is its line; a missing value has the length -1.
        Some(length.map_or(line, |length| line + length + 2))
    }
}

/// Appends a command.
pub(crate) fn command(parts: &[&[u8]], out: &mut Vec<u8>) {
    // Writing to a vector does not fail.
    let _ = write!(out, "*{}\r\n", parts.len());
    for part in parts {
        let _ = write!(out, "${}\r\n", part.len());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}
