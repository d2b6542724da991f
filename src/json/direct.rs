//! A value in wire form as JSON text, without a tree between: what [`super::value::nearest`] gives, octet for octet, for
//! answers by the million.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use jiexi_proto::value::{Reference, Ttl, Value, ValueView, admin::Admin, list};
use std::io::Write as _;

use super::{data, value};

/// Octets of a time such as `2023-11-14T22:13:20Z`.
const TIME_SIZE: usize = 20;
/// Seconds of a day.
const DAY: u32 = 86_400;

/// Writes values; the day of the last time is remembered, because records are made many at a time.
#[derive(Clone, Debug, Default)]
pub struct Direct {
    day: Option<(u32, [u8; 10])>,
}

impl Direct {
    /// Appends a value. What is no value is `null`.
    pub fn value(&mut self, wire: &[u8], out: &mut Vec<u8>) {
        let before = out.len();
        let exact = match ValueView::split(wire) {
            Ok((view, [])) => self.exact(&view, out),
            _ => None,
        };
        if exact.is_none() {
            out.truncate(before);
            let value = Value::decode(&Bytes::copy_from_slice(wire)).ok();
            let near = value.as_ref().map(value::nearest);
            put_json(&near.unwrap_or_default(), out);
        }
    }

    /// Members in the order in which the tree gets them. None: the tree must decide.
    pub(super) fn exact(&mut self, view: &ValueView<'_>, out: &mut Vec<u8>) -> Option<()> {
        out.extend_from_slice(b"{\"index\":");
        put_number(view.index.into(), out);
        out.extend_from_slice(b",\"type\":");
        put_text(std::str::from_utf8(view.kind).ok()?, out);
        out.extend_from_slice(b",\"data\":");
        put_data(view.kind, view.data, out);
        if view.permissions.0 != value::PERMISSIONS_DEFAULT {
            out.extend_from_slice(b",\"permissions\":\"");
            self.permissions(view.permissions.0, out)?;
            out.push(b'"');
        }
        out.extend_from_slice(b",\"ttl\":");
        match view.ttl {
            Ttl::Relative(seconds) => put_signed(seconds, out),
            Ttl::Absolute(seconds) => {
                out.push(b'"');
                self.time(u32::try_from(seconds).ok()?, out);
                out.push(b'"');
            }
        }
        out.extend_from_slice(b",\"timestamp\":\"");
        self.time(view.timestamp, out);
        out.push(b'"');
        put_references(view.references, out)?;
        out.push(b'}');
        Some(())
    }

    /// Appends four permissions as a bit string; none when other bits are set.
    pub(crate) fn permissions(&self, permissions: u8, out: &mut Vec<u8>) -> Option<()> {
        let bit = |shift: u8| b'0' + (permissions >> shift & 1);
        (permissions < 16).then(|| out.extend_from_slice(&[bit(3), bit(2), bit(1), bit(0)]))
    }

    /// Appends Unix seconds as RFC 3339 in UTC.
    pub(crate) fn time(&mut self, seconds: u32, out: &mut Vec<u8>) {
        let (day, within) = (seconds / DAY, seconds % DAY);
        let date = match self.day {
            Some((known, date)) if known == day => date,
            _ => {
                let text = value::time_text(u64::from(seconds));
                let date = text.as_bytes().first_chunk().copied().unwrap_or_default();
                self.day = Some((day, date));
                date
            }
        };
        let mut text = *b"          T00:00:00Z";
        text[..date.len()].copy_from_slice(&date);
        for (at, number) in [
            (11, within / 3_600),
            (14, within / 60 % 60),
            (17, within % 60),
        ] {
            let digit = |number: u32| b'0' + u8::try_from(number % 10).unwrap_or(0);
            (text[at], text[at + 1]) = (digit(number / 10), digit(number));
        }
        const { assert!(b"          T00:00:00Z".len() == TIME_SIZE) };
        out.extend_from_slice(&text);
    }
}

/// Whether data of this type have a form of their own.
pub(crate) fn is_special(kind: &[u8]) -> bool {
    kind.starts_with(b"HS_")
        && (kind == Admin::TYPE
            || kind == list::TYPE
            || kind == b"HS_PUBKEY"
            || kind == b"HS_SITE"
            || kind.starts_with(b"HS_SITE."))
}

/// Text as `data.format` `string` has it: UTF-8 without control characters but tab and ends of lines.
pub(crate) fn readable(data: &[u8]) -> Option<&str> {
    // Control characters beyond ASCII are C2 80 to C2 9F.
    let bad = |before: u8, octet: u8| {
        octet < 0x20 && !matches!(octet, b'\t' | b'\n' | b'\r')
            || octet == 0x7F
            || before == 0xC2 && octet < 0xA0
    };
    let text = std::str::from_utf8(data).ok()?;
    let mut before = 0;
    for &octet in data {
        if bad(before, octet) {
            return None;
        }
        before = octet;
    }
    Some(text)
}

/// The data of a value: format and value.
fn put_data(kind: &[u8], data: &[u8], out: &mut Vec<u8>) {
    if is_special(kind) {
        if kind != Admin::TYPE || put_admin(data, out).is_none() {
            put_json(&data::write(kind, &Bytes::copy_from_slice(data)), out);
        }
        return;
    }
    if is_plain(data) {
        out.extend_from_slice(b"{\"format\":\"string\",\"value\":\"");
        out.extend_from_slice(data);
        out.extend_from_slice(b"\"}");
    } else if let Some(text) = readable(data) {
        out.extend_from_slice(b"{\"format\":\"string\",\"value\":");
        put_text(text, out);
        out.push(b'}');
    } else {
        out.extend_from_slice(b"{\"format\":\"base64\",\"value\":\"");
        put_base64(data, out);
        out.extend_from_slice(b"\"}");
    }
}

/// Appends RFC 4648, padded.
pub(crate) fn put_base64(data: &[u8], out: &mut Vec<u8>) {
    let at = out.len();
    out.resize(at + data.len().div_ceil(3) * 4, 0);
    let written = STANDARD.encode_slice(data, &mut out[at..]).unwrap_or(0);
    out.truncate(at + written);
}

/// An administrator; none, and nothing appended, when it has an unusual form.
fn put_admin(data: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (rights, rest) = data.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (handle, index) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    let (rights, index) = (
        u16::from_be_bytes(*rights),
        u32::from_be_bytes(index.try_into().ok()?),
    );
    let usual = rights < 1 << 12 && handle.len() <= jiexi_proto::limits::HANDLE_MAX;
    let handle = std::str::from_utf8(handle).ok().filter(|_| usual)?;
    out.extend_from_slice(b"{\"format\":\"admin\",\"value\":{\"handle\":");
    put_text(handle, out);
    out.extend_from_slice(b",\"index\":");
    put_number(index.into(), out);
    out.extend_from_slice(b",\"permissions\":\"");
    out.extend(
        (0..12)
            .rev()
            .map(|bit| b'0' + u8::from(rights >> bit & 1 == 1)),
    );
    out.extend_from_slice(b"\"}}");
    Some(())
}

/// The list of references, if there are any; none when one is not text.
fn put_references(references: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut between: &[u8] = b",\"references\":[{\"handle\":";
    for (handle, index) in Reference::iter(references) {
        out.extend_from_slice(between);
        put_text(std::str::from_utf8(handle).ok()?, out);
        out.extend_from_slice(b",\"index\":");
        put_number(index.into(), out);
        between = b"},{\"handle\":";
    }
    if !references.is_empty() {
        out.extend_from_slice(b"}]");
    }
    Some(())
}

/// Appends a tree.
pub(crate) fn put_json(json: &serde_json::Value, out: &mut Vec<u8>) {
    // A vector takes everything.
    let _ = serde_json::to_writer(out, json);
}

/// Appends a number.
pub(crate) fn put_number(number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let (mut at, mut left) = (digits.len(), number);
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(left % 10).unwrap_or(0);
        left /= 10;
        if left == 0 {
            break out.extend_from_slice(&digits[at..]);
        }
    }
}

/// Appends a number that may be below zero.
fn put_signed(number: i32, out: &mut Vec<u8>) {
    if number < 0 {
        out.push(b'-');
    }
    put_number(number.unsigned_abs().into(), out);
}

/// Whether text stands in JSON as it is: printable ASCII without `"` and `\`. Without a branch for each octet, so that
/// the compiler compares many at once.
fn is_plain(octets: &[u8]) -> bool {
    let odd = |octet: u8| !(0x20..0x7F).contains(&octet) | (octet == b'"') | (octet == b'\\');
    !octets
        .iter()
        .fold(false, |found, octet| found | odd(*octet))
}

/// Appends a text with its quotes.
pub(crate) fn put_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    if is_plain(text.as_bytes()) {
        out.extend_from_slice(text.as_bytes());
    } else {
        put_escaped(text.as_bytes(), out);
    }
    out.push(b'"');
}

fn put_escaped(octets: &[u8], out: &mut Vec<u8>) {
    let mut plain = 0;
    for (at, &octet) in octets.iter().enumerate() {
        let short = match octet {
            b'"' | b'\\' => octet,
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x08 => b'b',
            0x0C => b'f',
            0x00..0x20 => b'u',
            _ => continue,
        };
        out.extend_from_slice(&octets[plain..at]);
        plain = at + 1;
        match short {
            b'u' => drop(write!(out, "\\u{octet:04x}")),
            short => out.extend_from_slice(&[b'\\', short]),
        }
    }
    out.extend_from_slice(&octets[plain..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiexi_proto::code::Permissions;

    fn same(value: &Value) {
        let (mut wire, mut out) = (Vec::new(), Vec::new());
        value.encode(&mut wire);
        Direct::default().value(&wire, &mut out);
        let tree = value::nearest(value).to_string();
        assert_eq!(String::from_utf8(out).unwrap(), tree);
    }

    fn of(kind: &[u8], data: &[u8]) -> Value {
        Value {
            index: 7,
            timestamp: 1_700_000_000,
            ttl: Ttl::Relative(86_400),
            permissions: Permissions(0b1110),
            kind: Bytes::copy_from_slice(kind),
            data: Bytes::copy_from_slice(data),
            references: Vec::new(),
        }
    }

    /// Goal: the same text as the tree's. Method: every shape of data, type, time and permissions, and all octets.
    #[test]
    fn the_same_as_the_tree() {
        let admin: &[u8] = b"\x0f\xff\0\0\0\x07a/\"b\xe6\xb0\0\0\x01\x2c";
        let plain_admin: &[u8] = b"\x07\xf3\0\0\0\x05a/b c\0\0\x01\x2c";
        let odd_admin: &[u8] = b"\xf7\xf3\0\0\0\x05a/b c\0\0\x01\x2c";
        for kind in [
            "URL",
            "",
            "型号",
            "HS_ADMIN",
            "HS_SITE",
            "HS_SITE.6",
            "HS_PUBKEY",
            "HS_VLIST",
            "HS_SECKEY",
        ] {
            for data in [
                b"".as_slice(),
                b"https://example.cn/a?b=\"c\"",
                "离心泵\n\t".as_bytes(),
                b"\0",
                b"\xff\xfe",
                b"\x7f",
                "\u{80}".as_bytes(),
                "\u{a0}".as_bytes(),
                "é\u{2028}\\".as_bytes(),
                admin,
                plain_admin,
                odd_admin,
                &[plain_admin, b"\0\0"].concat(),
                b"\0\0\0\x01\0\0\0\x03a/b\0\0\0\x01",
            ] {
                same(&of(kind.as_bytes(), data));
            }
        }
        for octet in 0..=255 {
            same(&of(b"A", &[octet]));
            same(&of(b"A", &[b'a', octet, b'b']));
            same(&of(&[b'T', octet], b"x"));
            same(&Value {
                permissions: Permissions(octet),
                ..of(b"A", b"x")
            });
        }
        for seconds in [
            0,
            1,
            59,
            86_399,
            86_400,
            951_782_400,
            1_709_164_800,
            i32::MAX,
        ] {
            let time = u32::try_from(seconds).unwrap();
            same(&Value {
                timestamp: time,
                ttl: Ttl::Absolute(seconds),
                ..of(b"A", b"x")
            });
        }
        for ttl in [
            Ttl::Absolute(-1),
            Ttl::Relative(-5),
            Ttl::Relative(i32::MIN),
        ] {
            same(&Value {
                ttl,
                timestamp: u32::MAX,
                ..of(b"A", b"x")
            });
        }
        for handle in [b"a/b".as_slice(), b"a/\"", b"a/\xff"] {
            let reference = Reference {
                handle: Bytes::copy_from_slice(handle),
                index: 300,
            };
            same(&Value {
                references: vec![reference.clone()],
                ..of(b"A", b"x")
            });
            same(&Value {
                references: vec![reference.clone(), reference],
                ..of(b"A", b"x")
            });
        }
    }

    /// Goal: what is no value does no harm.
    #[test]
    fn no_value() {
        let mut out = b"[".to_vec();
        Direct::default().value(b"\0\0\0\x01", &mut out);
        assert_eq!(out, b"[null");
    }
}
