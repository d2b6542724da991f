//! DNS: where an identifier leads (NAPTR), under the names of a node's zone, which the peers load as well.

use jiexi::bench::records::Records;
use jiexi::bench::{Failure, Outcome, Protocol, Seen};
use jiexi::server::dns::name::{Mapping, Scheme};
use jiexi_proto::handle::{self, CaseRule};

/// The zone of all names: the one that run.sh configures.
const ZONE: &[u8] = b"\x02id\x07example\x03net\x00";

/// Octets before the question.
const HEADER: usize = 12;
/// A query that wants no recursion: id, flags, one question.
const QUERY: [u8; HEADER] = [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
const TYPE_NAPTR: [u8; 4] = [0, 35, 0, 1];
/// Octets of a NAPTR record besides the URI: pointer, type, class, TTL, length; order and preference; flags "u", service
/// "http+I2L", the expression around the URI; the root as replacement (RFC 3403 §4.1).
const RECORD: usize = 12 + 4 + 2 + 9 + 8 + 1;

/// How the names of the zone make handles.
pub(crate) struct Dns(Mapping);

impl Dns {
    /// The mapping of run.sh's zone, for handles below `prefix`.
    pub(crate) fn new(prefix: &str) -> Self {
        Self(Mapping {
            scheme: Scheme::Handle,
            stem: format!("{prefix}/").into_bytes(),
            case: CaseRule::Whole,
        })
    }

    /// Mean octets of an answer: as many as the floor sends.
    pub(crate) fn answer_octets(&self, records: &Records) -> usize {
        let sample = records.count().clamp(1, 100_000);
        let (mut octets, mut name, mut question) = (0, Vec::new(), Vec::new());
        for number in 0..sample {
            name.clear();
            question.clear();
            records.handle(number, &mut name);
            self.request(0, &name, &mut question);
            octets += question.len() + RECORD;
            records.values(number, |value| {
                if value.kind == "URL" {
                    octets += value.data.len();
                }
            });
        }
        octets / sample as usize
    }
}

impl Protocol for Dns {
    const ID_BITS: u32 = 16;

    fn request(&self, id: u32, name: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&QUERY);
        let mut key = Vec::with_capacity(name.len());
        handle::fold(name, self.0.case, &mut key);
        let named = self.0.write(&key, out);
        debug_assert!(named, "every record has a name");
        out.extend_from_slice(ZONE);
        out.extend_from_slice(&TYPE_NAPTR);
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

/// Makes an answer of a copied question: what the floor does.
pub(crate) fn make_answer(answer: &mut [u8]) {
    answer[2..4].copy_from_slice(&[0x84, 0]);
    answer[6..8].copy_from_slice(&[0, 1]);
}
