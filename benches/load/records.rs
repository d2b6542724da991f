//! The records of a load: any of them is computed from its number alone, so that millions need no memory.
//!
//! Handles have 25–60 octets below one prefix, a share of them Chinese; each has three values of 200–360
//! octets in all as on the wire, so that every answer is one datagram of at most 512 octets.

use crate::wire;

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

/// Plain value types with the share of the data that each one gets.
const TYPES: [&str; 3] = ["URL", "MODEL", "BATCH"];

const HANDLE_MIN: u64 = 25;
const HANDLE_MAX: u64 = 60;
const VALUES_MIN: u64 = 200;
const VALUES_MAX: u64 = 360;
const TIMESTAMP: u32 = 1_700_000_000;
const TTL: u32 = 86_400;
const PERMISSIONS: u8 = 0b1110;

/// The set of records 0..count below a prefix.
pub(crate) struct Records {
    prefix: String,
    count: u64,
}

impl Records {
    pub(crate) fn new(prefix: &str, count: u64) -> Self {
        Self {
            prefix: prefix.to_owned(),
            count,
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Appends the handle of a record. Numbers from `count` on give handles that were never generated.
    pub(crate) fn handle(&self, number: u64, out: &mut Vec<u8>) {
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

    /// Calls `each` with index, type and data of every value.
    fn values(&self, number: u64, mut each: impl FnMut(u32, &str, &[u8])) {
        let random = mix(number ^ 0x5bd1_e995_0000_0000);
        let total = (VALUES_MIN + random % (VALUES_MAX - VALUES_MIN + 1)) as usize;
        let overhead: usize = TYPES.iter().map(|kind| wire::value_size(kind, 0)).sum();
        let mut left = total - overhead;
        let mut data = Vec::with_capacity(left);
        for (place, kind) in TYPES.iter().enumerate() {
            let share = if place + 1 == TYPES.len() {
                left
            } else {
                left / 2
            };
            left -= share;
            data.clear();
            let mut text = mix(random.wrapping_add(place as u64));
            while data.len() < share {
                hex(text, (share - data.len()).min(16), &mut data);
                text = mix(text);
            }
            each(place as u32 + 1, kind, &data);
        }
    }

    /// The line that makes the node responsible for the prefix.
    pub(crate) fn home(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("{{\"prefix\":\"{}\"}}\n", self.prefix).as_bytes());
    }

    /// The record as one line that `jiexi import` reads: values in wire form as hex.
    pub(crate) fn line(&self, number: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"handle\":\"");
        self.handle(number, out);
        out.extend_from_slice(b"\",\"values_hex\":[");
        let mut value = Vec::new();
        self.values(number, |index, kind, data| {
            if index > 1 {
                out.push(b',');
            }
            value.clear();
            wire::value(&mut value, index, TIMESTAMP, TTL, PERMISSIONS, kind, data);
            out.push(b'"');
            for octet in &value {
                hex(u64::from(*octet), 2, out);
            }
            out.push(b'"');
        });
        out.extend_from_slice(b"]}\n");
    }

    /// Octets of the answer to a plain look-up, envelope included.
    pub(crate) fn answer_size(&self, number: u64) -> usize {
        let mut handle = Vec::new();
        self.handle(number, &mut handle);
        let mut size = wire::ANSWER_FIXED + handle.len();
        self.values(number, |_, kind, data| {
            size += wire::value_size(kind, data.len())
        });
        size
    }
}

/// A good mixing of 64 bits (the finaliser of splitmix64).
pub(crate) fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Appends the low `digits` hexadecimal digits.
fn hex(number: u64, digits: usize, out: &mut Vec<u8>) {
    for place in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(number >> (4 * place)) as usize & 0xf]);
    }
}

/// An endless uniform choice of records, some of them missing.
pub(crate) struct Choice<'a> {
    records: &'a Records,
    miss_percent: u64,
    state: u64,
}

impl<'a> Choice<'a> {
    pub(crate) fn new(records: &'a Records, miss_percent: u64, seed: u64) -> Self {
        Self {
            records,
            miss_percent,
            state: mix(seed),
        }
    }

    /// Appends a request to `out`; true when its handle does not exist.
    pub(crate) fn request(&mut self, request_id: u32, out: &mut Vec<u8>) -> bool {
        self.state = self.state.wrapping_add(1);
        let random = mix(self.state);
        let miss = self.miss_percent > 0 && (random >> 48) % 100 < self.miss_percent;
        // Multiply and shift: uniform over the count without a division.
        let number = ((u128::from(random) * u128::from(self.records.count)) >> 64) as u64;
        let number = if miss {
            number + self.records.count
        } else {
            number
        };
        wire::request(out, request_id, |out| self.records.handle(number, out));
        miss
    }
}
