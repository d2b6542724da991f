//! DNS: TXT of a name whose first label is the suffix of the handle; the data of its values are the strings.

use std::io::Write as _;

use jiexi::bench::{Failure, Outcome, Protocol, Seen};

/// The zone that all names are in.
const ZONE: &[u8] = b"\x05peers\x04test\x00";

/// What a zone file begins with.
pub(crate) const ZONE_HEAD: &str = "$ORIGIN peers.test.\n$TTL 86400\n\
    @ IN SOA ns.peers.test. hostmaster.peers.test. 1 3600 600 86400 60\n@ IN NS ns.peers.test.\nns IN A 127.0.0.1\n";

/// Octets before the question.
const HEADER: usize = 12;
/// A query that wants no recursion: id, flags, one question.
const QUERY: [u8; HEADER] = [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
const TYPE_TXT: [u8; 4] = [0, 16, 0, 1];

pub(crate) struct Dns;

impl Protocol for Dns {
    const ID_BITS: u32 = 16;

    fn request(&self, id: u32, name: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        let label = suffix(name);
        out.extend_from_slice(&QUERY);
        out.push(label.len() as u8);
        out.extend_from_slice(label);
        out.extend_from_slice(ZONE);
        out.extend_from_slice(&TYPE_TXT);
        self.set_id(id, &mut out[start..]);
    }

    fn set_id(&self, id: u32, request: &mut [u8]) {
        request[..2].copy_from_slice(&(id as u16).to_be_bytes());
    }

    fn answer(&self, answer: &[u8]) -> Result<Seen, Failure> {
        let Some(&[high, low, flags, code, _, _, answers_high, answers_low]) = answer.first_chunk()
        else {
            return Err(Failure::new("an answer shorter than its header"));
        };
        let outcome = match (
            code & 15,
            flags & 2,
            u16::from_be_bytes([answers_high, answers_low]),
        ) {
            (0, 0, 1) => Outcome::Found,
            (3, ..) => Outcome::Missing,
            (code, ..) => Outcome::Other(code.into()),
        };
        let id = Some(u16::from_be_bytes([high, low]).into());
        Ok(Seen { id, outcome })
    }

    fn frame(&self, stream: &[u8]) -> Option<usize> {
        stream
            .first_chunk()
            .map(|&length| 2 + usize::from(u16::from_be_bytes(length)))
    }
}

/// What stands behind the prefix of a handle.
fn suffix(handle: &[u8]) -> &[u8] {
    let slash = handle.iter().position(|&octet| octet == b'/');
    slash.map_or(handle, |slash| &handle[slash + 1..])
}

/// Appends the owner and type of a record to a line of a zone file.
pub(crate) fn owner(handle: &[u8], out: &mut Vec<u8>) {
    for &octet in suffix(handle) {
        // Writing to a vector does not fail.
        let _ = match octet {
            b'a'..=b'z' | b'0'..=b'9' | b'-' => out.write_all(&[octet]),
            octet => write!(out, "\\{octet:03}"),
        };
    }
    out.extend_from_slice(b" IN TXT");
}

/// Appends a string, which is hexadecimal, to a line of a zone file.
pub(crate) fn text(data: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b" \"");
    out.extend_from_slice(data);
    out.push(b'"');
}
