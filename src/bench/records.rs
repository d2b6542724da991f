//! Records to load a server with: any of them follows from its number alone, so that millions need no memory.
//!
//! Handles have 25–60 octets below one prefix, a share of them Chinese; each has three values of 200–360 octets in all as
//! on the wire, so that every answer is one datagram of at most 512 octets.

use std::fmt::Write as _;

use super::wire::{self, Value};

/// Words of the handles. Three in twelve are Chinese.
const WORDS: [&str; 12] = [
    "device",
    "sensor",
    "robot",
    "pump",
    "valve",
    "batch",
    "motor",
    "bearing",
    "lot",
    "设备",
    "传感器",
    "轴承",
];

/// The types of the values; each gets half of the data that is left, the last one all of it.
const TYPES: [&str; 3] = ["URL", "MODEL", "BATCH"];

const HANDLE_MIN: u64 = 25;
const HANDLE_MAX: u64 = 60;
const VALUES_MIN: u64 = 200;
const VALUES_MAX: u64 = 360;

/// The records 0..count below a prefix.
#[derive(Clone, Debug)]
pub struct Records {
    prefix: String,
    count: u64,
}

impl Records {
    /// `count` records below `prefix`.
    #[must_use]
    pub fn new(prefix: &str, count: u64) -> Self {
        Self {
            prefix: prefix.to_owned(),
            count,
        }
    }

    /// How many there are.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Appends the handle of a record; a number beyond the count gives a handle that does not exist.
    pub fn handle(&self, number: u64, out: &mut Vec<u8>) {
        let start = out.len();
        let random = mix(number);
        let length = HANDLE_MIN + random % (HANDLE_MAX - HANDLE_MIN + 1);
        let word = WORDS[(random >> 32) as usize % WORDS.len()];
        out.extend_from_slice(self.prefix.as_bytes());
        out.push(b'/');
        out.extend_from_slice(word.as_bytes());
        out.push(b'.');
        // The number itself makes the handle unique, scrambled so that neighbours do not share a beginning.
        hex(number.wrapping_mul(0x9e37_79b1) & 0xffff_ffff, 8, out);
        out.push(b'-');
        let mut filler = mix(random);
        while out.len() < start + length as usize {
            hex(filler & 0xf, 1, out);
            filler = filler.rotate_right(4).wrapping_add(1);
        }
    }

    /// Calls `each` with every value of a record.
    pub fn values(&self, number: u64, mut each: impl FnMut(Value<'_>)) {
        let random = mix(number ^ 0x5bd1_e995_0000_0000);
        let total = (VALUES_MIN + random % (VALUES_MAX - VALUES_MIN + 1)) as usize;
        let overhead: usize = TYPES.iter().map(|kind| wire::value_size(kind, 0)).sum();
        let mut left = total - overhead;
        let mut data = Vec::with_capacity(left);
        for (place, kind) in TYPES.iter().enumerate() {
            let last = place + 1 == TYPES.len();
            let share = if last { left } else { left / 2 };
            left -= share;
            data.clear();
            let mut text = mix(random.wrapping_add(place as u64));
            while data.len() < share {
                hex(text, (share - data.len()).min(16), &mut data);
                text = mix(text);
            }
            each(Value {
                index: place as u32 + 1,
                kind,
                data: &data,
            });
        }
    }

    /// The line that makes a node responsible for the prefix.
    #[must_use]
    pub fn home(&self) -> String {
        format!("{{\"prefix\":\"{}\"}}\n", self.prefix)
    }

    /// Appends the record as one line that `jiexi import` reads: values in wire form as hex.
    pub fn line(&self, number: u64, out: &mut Vec<u8>) {
        self.rewritten(number, number, out);
    }

    /// As [`Self::line`], with the values of another number.
    pub fn rewritten(&self, number: u64, values: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"handle\":\"");
        self.handle(number, out);
        out.extend_from_slice(b"\",\"values_hex\":[");
        let mut wire = Vec::new();
        self.values(values, |value| {
            if value.index > 1 {
                out.push(b',');
            }
            wire.clear();
            value.encode(&mut wire);
            out.push(b'"');
            wire.iter().for_each(|octet| hex(u64::from(*octet), 2, out));
            out.push(b'"');
        });
        out.extend_from_slice(b"]}\n");
    }

    /// Octets of handle and values in wire form: what any server has to keep of a record.
    #[must_use]
    pub fn size(&self, number: u64) -> usize {
        let mut handle = Vec::new();
        self.handle(number, &mut handle);
        let mut size = handle.len();
        self.values(number, |value| {
            size += wire::value_size(value.kind, value.data.len())
        });
        size
    }

    /// Mean octets of a request, of an answer and of a record, over the first 100,000.
    #[must_use]
    pub fn means(&self) -> Means {
        let sample = self.count.clamp(1, 100_000);
        let (mut handles, mut records) = (0, 0);
        let mut handle = Vec::new();
        for number in 0..sample {
            handle.clear();
            self.handle(number, &mut handle);
            handles += handle.len();
            records += self.size(number);
        }
        let sample = sample as usize;
        Means {
            request_octets: wire::HEAD + 4 + 12 + handles / sample,
            answer_octets: wire::ANSWER_FIXED + records / sample,
            record_octets: records / sample,
        }
    }

    /// A short description for reports.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = String::new();
        let _ = write!(
            text,
            "{} generated records below {}",
            self.count, self.prefix
        );
        text
    }
}

/// Mean sizes of records and of messages about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Means {
    /// Octets of a request.
    pub request_octets: usize,
    /// Octets of a successful answer.
    pub answer_octets: usize,
    /// Octets of a handle and its values in wire form.
    pub record_octets: usize,
}

/// A good mixing of 64 bits (the finaliser of splitmix64).
#[must_use]
pub fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Appends the low `digits` hexadecimal digits.
pub fn hex(number: u64, digits: usize, out: &mut Vec<u8>) {
    for place in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(number >> (4 * place)) as usize & 0xf]);
    }
}
