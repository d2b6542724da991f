//! Handles as names below a zone, and back. Pure.
//!
//! A name is a list of labels in wire form (length, octets), relative to the apex of its zone and
//! without the final zero octet. [`Mapping`] says how the labels make a handle:
//!
//! | mapping | handle | name below the zone |
//! |---|---|---|
//! | `handle`, no stem | `88.118.1/CNC-2026` | `cnc-2026.88-118-1` |
//! | | `0.NA/88.118.1` | `88-118-1` |
//! | `handle`, stem `88.118.1/` | `88.118.1/CNC-2026` | `cnc-2026` |
//! | `oid`, stem `88.118.1/` | `88.118.1/1.2.156.3` | `3.156.2.1` |
//! | `gs1`, stem `88.118.1/` | `88.118.1/06901234567892` | `9.8.7.6.5.4.3.2.1.0.9.6.0` |
//!
//! * **Escape.** A label holds `a`–`z`, `0`–`9` and `-` as they are; every other octet is `_` and two
//!   hexadecimal digits (`_2f` is a slash, `_5f` the underscore). DNS ignores the case of letters, so
//!   where the store does not, capitals are escaped, too. A prefix writes its dots as `-` and its
//!   hyphens as `_2d`. An empty suffix is the label `_`. There is one name for each handle: what
//!   could be written shorter is not a name.
//! * **Long suffixes.** When the label would exceed 63 octets (RFC 1035 §2.3.4) it is `_h` and 32
//!   digits (RFC 4648 §7) of the first 160 bits of the SHA-256 of the folded handle. A stored table
//!   leads back to the handle; see [`hashed_key`].
//! * **OID.** One label for each arc, the last arc first, below the root of the resolution system
//!   (ITU-T X.672, conversion of an OID-IRI to a domain name; clause unverified).
//! * **GTIN.** One label for each digit of the GTIN-14, its check digit left out and the last digit
//!   first (GS1 ONS 2.0.1, conversion of a GTIN; clause and padding unverified).

use data_encoding::BASE32HEX_NOPAD;
use jiexi_proto::handle::{self, CaseRule};
use sha2::{Digest as _, Sha256};

/// The longest label, octets (RFC 1035 §2.3.4).
pub const LABEL_MAX: usize = 63;

/// The longest name with its length octets and the final zero, octets (RFC 1035 §2.3.4).
pub const NAME_MAX: usize = 255;

/// What a hashed label begins with; no escape does.
const HASHED: &[u8] = b"_h";

/// The digits of a hashed label.
const HASH_DIGITS: usize = 32;

/// What keys of the table of hashed labels begin with, among the node's own records.
const TABLE: &[u8] = b"dns/";

/// The digits of a GTIN-14 without its check digit.
const GTIN_LABELS: usize = 13;

/// How the names of a zone make handles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Which identifiers the zone is about.
    pub scheme: Scheme,
    /// What the handles of the zone begin with, folded. For [`Scheme::Handle`] that is a prefix and its
    /// slash, or nothing: then the names have a label for the prefix.
    pub stem: Vec<u8>,
    /// How the store folds handles.
    pub case: CaseRule,
}

/// Which identifiers a zone is about.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Handles
    Handle,
    /// Object identifiers (ITU-T X.660)
    Oid,
    /// GS1 GTIN of 14 digits
    Gs1,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// The handle whose key was written.
    Handle,
    /// The handle that the table has under the key that was written.
    Hashed,
    /// No handle, now or ever.
    Nothing,
}

impl Mapping {
    /// Appends the key of what `name` (lower case) stands for to `key`.
    pub fn read(&self, name: &[u8], key: &mut Vec<u8>) -> Named {
        let whole = match self.scheme {
            Scheme::Handle => return self.read_handle(name, key),
            Scheme::Oid => read_oid(name, &self.stem, key),
            Scheme::Gs1 => {
                let whole = read_digits(name, &self.stem, key) == Some(GTIN_LABELS);
                key.push(check_digit(&key[key.len().saturating_sub(GTIN_LABELS)..]));
                whole
            }
        };
        if whole { Named::Handle } else { Named::Nothing }
    }

    /// Writes to `start` what the keys of the handles below `name` (lower case) begin with; whether
    /// there can be any.
    ///
    /// A name below which there are others exists, even without records (RFC 4592 §2.2.2).
    pub fn below(&self, name: &[u8], start: &mut Vec<u8>) -> bool {
        match self.scheme {
            Scheme::Handle => {
                let mut labels = labels(name);
                let (prefix, more) = (labels.next(), labels.next());
                let (Some(prefix), None, true) = (prefix, more, self.stem.is_empty()) else {
                    return false;
                };
                read_prefix(prefix, start)
            }
            Scheme::Oid => {
                let inner = read_oid(name, &self.stem, start);
                start.push(b'.');
                inner
            }
            Scheme::Gs1 => {
                read_digits(name, &self.stem, start).is_some_and(|digits| digits < GTIN_LABELS)
            }
        }
    }

    /// Appends the name of the handle with this key; whether it has one in this zone.
    pub fn write(&self, key: &[u8], name: &mut Vec<u8>) -> bool {
        match self.scheme {
            Scheme::Handle => self.write_handle(key, name),
            Scheme::Oid => {
                let Some(oid) = key.strip_prefix(&self.stem[..]) else {
                    return false;
                };
                let start = name.len();
                for arc in oid.rsplit(|octet| *octet == b'.') {
                    put_label(arc, name);
                }
                // What reads back as this key is its name, and nothing else is.
                read_oid(&name[start..], &self.stem, &mut Vec::new())
            }
            Scheme::Gs1 => {
                let Some((gtin, check)) = key
                    .strip_prefix(&self.stem[..])
                    .filter(|gtin| gtin.len() == GTIN_LABELS + 1)
                    .and_then(|gtin| gtin.split_at_checked(GTIN_LABELS))
                else {
                    return false;
                };
                gtin.iter()
                    .rev()
                    .for_each(|digit| put_label(&[*digit], name));
                gtin.iter().all(u8::is_ascii_digit) && check == [check_digit(gtin)]
            }
        }
    }

    fn read_handle(&self, name: &[u8], key: &mut Vec<u8>) -> Named {
        let start = key.len();
        let mut labels = labels(name);
        let (first, second, third) = (labels.next(), labels.next(), labels.next());
        let (suffix, good) = match (first, second, third, self.stem.is_empty()) {
            (Some(suffix), None, None, false) => {
                key.extend_from_slice(&self.stem);
                (suffix, true)
            }
            (Some(prefix), None, None, true) => {
                key.extend_from_slice(handle::PREFIX_SPACE);
                return if unescape(prefix, b'.', CaseRule::Whole, key) {
                    Named::Handle
                } else {
                    Named::Nothing
                };
            }
            (Some(suffix), Some(prefix), None, true) => {
                let good = read_prefix(prefix, key);
                (suffix, good && !handle::is_prefix_handle(&key[start..]))
            }
            _ => return Named::Nothing,
        };
        if let Some(digits) = suffix.strip_prefix(HASHED) {
            key.truncate(start);
            key.extend_from_slice(TABLE);
            key.extend_from_slice(digits);
            return if good && digits.len() == HASH_DIGITS {
                Named::Hashed
            } else {
                Named::Nothing
            };
        }
        if good && unescape(suffix, b'-', self.case, key) {
            Named::Handle
        } else {
            Named::Nothing
        }
    }

    fn write_handle(&self, key: &[u8], name: &mut Vec<u8>) -> bool {
        let mut label = Vec::new();
        if !self.stem.is_empty() {
            let Some(suffix) = key.strip_prefix(&self.stem[..]) else {
                return false;
            };
            put_suffix(key, suffix, self.case, name);
            return true;
        }
        let Some((prefix, suffix)) = handle::split(key) else {
            return false;
        };
        let bare = handle::is_prefix_handle(key);
        if !bare {
            put_suffix(key, suffix, self.case, name);
        }
        escape(
            if bare { suffix } else { prefix },
            b'.',
            CaseRule::Whole,
            &mut label,
        );
        put_label(&label, name);
        (1..=LABEL_MAX).contains(&label.len()) && label != b"_"
    }
}

impl Mapping {
    /// Whether `key`, which the table of hashed labels has under the label that `name` (lower case) begins with, is in
    /// this zone and below the prefix that the name says: whether [`Self::write`] gives that name.
    pub fn is_named(&self, name: &[u8], key: &[u8]) -> bool {
        if !self.stem.is_empty() {
            return key.starts_with(&self.stem);
        }
        let (Some(prefix), Some((start, _))) = (labels(name).nth(1), handle::split(key)) else {
            return false;
        };
        let mut read = prefix.split(|octet| *octet == b'_');
        // Prefixes with escapes are rare enough for the full way.
        let plain = read.next().unwrap_or_default();
        read.next().is_none()
            && plain.len() == start.len()
            && plain.iter().zip(start).all(|(label, octet)| {
                let meant = if *label == b'-' {
                    b'.'
                } else {
                    label.to_ascii_uppercase()
                };
                meant == *octet
            })
    }
}

/// The key under which the table of hashed labels has the handle with this key; none when its suffix
/// fits a label. It depends on nothing but the handle, so that the table serves every zone.
#[must_use]
pub fn hashed_key(key: &[u8], case: CaseRule) -> Option<Vec<u8>> {
    // One octet makes at most three of a label.
    let (_, suffix) = handle::split(key).filter(|(_, suffix)| suffix.len() > LABEL_MAX / 3)?;
    let mut label = Vec::new();
    escape(suffix, b'-', case, &mut label);
    (label.len() > LABEL_MAX && !handle::is_prefix_handle(key))
        .then(|| [TABLE, &hash(key)].concat())
}

/// The labels of a name in wire form; ends at a zero octet or where the octets do.
pub fn labels(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = name;
    std::iter::from_fn(move || {
        let (length, tail) = rest.split_first().filter(|(length, _)| **length > 0)?;
        let (label, tail) = tail.split_at_checked(usize::from(*length))?;
        rest = tail;
        Some(label)
    })
}

/// Appends a label.
pub fn put_label(label: &[u8], name: &mut Vec<u8>) {
    name.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
    name.extend_from_slice(label);
}

/// Appends the label of a suffix: escaped, or hashed when that is too long.
fn put_suffix(key: &[u8], suffix: &[u8], case: CaseRule, name: &mut Vec<u8>) {
    let mut label = Vec::new();
    escape(suffix, b'-', case, &mut label);
    if label.len() > LABEL_MAX {
        label.clear();
        label.extend_from_slice(HASHED);
        label.extend_from_slice(&hash(key));
    }
    put_label(&label, name);
}

/// The digits of a hashed label.
fn hash(key: &[u8]) -> Vec<u8> {
    let digest = Sha256::digest(key);
    let digits = BASE32HEX_NOPAD.encode(&digest[..HASH_DIGITS * 5 / 8]);
    digits.to_ascii_lowercase().into_bytes()
}

/// Appends `text` escaped; `hyphen` is what a `-` of the label stands for.
fn escape(text: &[u8], hyphen: u8, case: CaseRule, label: &mut Vec<u8>) {
    if text.is_empty() {
        label.push(b'_');
    }
    for &octet in text {
        match plain(octet, hyphen, case) {
            Some(octet) => label.push(octet),
            None => label.extend_from_slice(&[b'_', digit(octet >> 4), digit(octet & 15)]),
        }
    }
}

/// The octet of a label that stands for `octet` without an escape, if there is one.
const fn plain(octet: u8, hyphen: u8, case: CaseRule) -> Option<u8> {
    match (octet, case) {
        (b'A'..=b'Z', CaseRule::Whole) => Some(octet.to_ascii_lowercase()),
        (b'a'..=b'z', CaseRule::Prefix) | (b'0'..=b'9', _) => Some(octet),
        _ if octet == hyphen => Some(b'-'),
        _ => None,
    }
}

/// Appends the prefix that a label stands for, and a slash; whether it is one.
fn read_prefix(label: &[u8], key: &mut Vec<u8>) -> bool {
    let start = key.len();
    let good = label != b"_" && unescape(label, b'.', CaseRule::Whole, key);
    let whole = !key[start..].contains(&b'/');
    key.push(b'/');
    good && whole
}

/// Appends what a label (lower case) stands for, folded; whether it is the one label for that.
fn unescape(label: &[u8], hyphen: u8, case: CaseRule, text: &mut Vec<u8>) -> bool {
    if label == b"_" {
        return true;
    }
    let mut parts = label.split(|octet| *octet == b'_');
    let mut good = meant(parts.next().unwrap_or_default(), hyphen, case, text);
    for part in parts {
        // Behind a `_` stand the two digits of an octet.
        let Some(([high, low], rest)) = part.split_first_chunk() else {
            return false;
        };
        let (Some(high), Some(low)) = (value(*high), value(*low)) else {
            return false;
        };
        let octet = high << 4 | low;
        let folds = case == CaseRule::Whole && octet.is_ascii_lowercase();
        if folds || plain(octet, hyphen, case).is_some() {
            return false;
        }
        text.push(octet);
        good &= meant(rest, hyphen, case, text);
    }
    good
}

/// Appends what octets without escapes stand for; whether all of them may stand in a label. Without branches, so that
/// many octets are done at once.
fn meant(part: &[u8], hyphen: u8, case: CaseRule, text: &mut Vec<u8>) -> bool {
    let fold = u8::from(case == CaseRule::Whole) * 0x20;
    let mut good = true;
    text.extend(part.iter().map(|&octet| {
        let (letter, dash) = (octet.is_ascii_lowercase(), octet == b'-');
        good &= letter | dash | octet.is_ascii_digit();
        if dash {
            hyphen
        } else {
            octet - u8::from(letter) * fold
        }
    }));
    good
}

/// Appends the stem and the object identifier of a name; whether it is one.
fn read_oid(name: &[u8], stem: &[u8], key: &mut Vec<u8>) -> bool {
    key.extend_from_slice(stem);
    let start = key.len();
    let mut arcs = [&[][..]; NAME_MAX / 2];
    let mut count = 0;
    for (arc, label) in arcs.iter_mut().zip(labels(name)) {
        *arc = label;
        count += 1;
    }
    for arc in arcs[..count].iter().rev() {
        if key.len() > start {
            key.push(b'.');
        }
        key.extend_from_slice(arc);
    }
    let first = arcs_of(stem).split(|octet| *octet == b'.');
    // The last is empty: what stands before ends with a dot, or there is nothing.
    let first = first.filter(|arc| !arc.is_empty());
    count > 0 && is_oid(first.chain(arcs[..count].iter().rev().copied()))
}

/// The arcs that a stem ends with: those of the node that a zone is delegated for, such as `1.2.156.`.
fn arcs_of(stem: &[u8]) -> &[u8] {
    let is_other = |octet: &u8| !octet.is_ascii_digit() && *octet != b'.';
    let start = stem.iter().rposition(is_other).map_or(0, |at| at + 1);
    &stem[start..]
}

/// Whether the arcs that a stem ends with are the beginning of an object identifier, each with its dot.
pub fn begins_oid(stem: &[u8]) -> bool {
    let arcs = arcs_of(stem);
    let whole = arcs.strip_suffix(b".");
    arcs.is_empty() || whole.is_some_and(|whole| is_oid(whole.split(|octet| *octet == b'.')))
}

/// Whether these arcs make an object identifier (ITU-T X.660): the first is 0 to 2, below 0 and 1 the
/// second is at most 39, none has leading zeros.
fn is_oid<'a>(arcs: impl Iterator<Item = &'a [u8]>) -> bool {
    let mut first = None;
    for (place, arc) in arcs.enumerate() {
        let digits = !arc.is_empty() && arc.iter().all(u8::is_ascii_digit);
        if !digits || arc.len() > 1 && arc[0] == b'0' {
            return false;
        }
        match place {
            0 if arc.len() > 1 || arc[0] > b'2' => return false,
            0 => first = Some(arc[0]),
            1 if first != Some(b'2') && (arc.len() > 2 || arc.len() == 2 && arc[0] > b'3') => {
                return false;
            }
            _ => {}
        }
    }
    first.is_some()
}

/// Appends the stem and the digits of a name, one of each label and the last label's first; how many,
/// or none when it is not made of digits.
fn read_digits(name: &[u8], stem: &[u8], key: &mut Vec<u8>) -> Option<usize> {
    key.extend_from_slice(stem);
    let start = key.len();
    for label in labels(name) {
        match label {
            [digit @ b'0'..=b'9'] if key.len() < start + GTIN_LABELS => key.push(*digit),
            _ => return None,
        }
    }
    key[start..].reverse();
    Some(key.len() - start)
}

/// The check digit of a GTIN: modulo 10, the weights 3 and 1 in turn from the right.
fn check_digit(digits: &[u8]) -> u8 {
    let weighted = digits.iter().rev().zip([3, 1].into_iter().cycle());
    let sum: u32 = weighted
        .map(|(digit, weight)| u32::from(digit.wrapping_sub(b'0')) * weight)
        .sum();
    b'0' + u8::try_from((10 - sum % 10) % 10).unwrap_or(0)
}

const fn digit(value: u8) -> u8 {
    if value < 10 {
        b'0' + value
    } else {
        b'a' + value - 10
    }
}

const fn value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(scheme: Scheme, stem: &str, case: CaseRule) -> Mapping {
        Mapping {
            scheme,
            stem: stem.into(),
            case,
        }
    }

    fn wire(name: &str) -> Vec<u8> {
        let mut out = Vec::new();
        name.split('.')
            .for_each(|label| put_label(label.as_bytes(), &mut out));
        out
    }

    /// Goal: each handle has the name that the documentation gives it, and reads back from it.
    #[test]
    fn table() {
        let whole = CaseRule::Whole;
        let long = "X".repeat(64);
        let hash = String::from_utf8(hash(format!("88.118.1/{long}").as_bytes())).unwrap();
        let hashed = format!("_h{hash}.88-118-1");
        let chinese = "_e5_b7_a5_e4_b8_9a.88-118-1";
        let cases: &[(Mapping, &str, &str)] = &[
            (
                mapping(Scheme::Handle, "", whole),
                "88.118.1/CNC-2026",
                "cnc-2026.88-118-1",
            ),
            (
                mapping(Scheme::Handle, "", whole),
                "88.118.1/A/B_C.D",
                "a_2fb_5fc_2ed.88-118-1",
            ),
            (mapping(Scheme::Handle, "", whole), "88.118.1/工业", chinese),
            (
                mapping(Scheme::Handle, "", whole),
                "88.118.1/",
                "_.88-118-1",
            ),
            (
                mapping(Scheme::Handle, "", whole),
                "88.0042-1/X",
                "x.88-0042_2d1",
            ),
            (
                mapping(Scheme::Handle, "", whole),
                "0.NA/88.118.1",
                "88-118-1",
            ),
            (mapping(Scheme::Handle, "", whole), "0.NA/0.NA", "0-na"),
            (
                mapping(Scheme::Handle, "", CaseRule::Prefix),
                "86.A/Ab-c",
                "_41b-c.86-a",
            ),
            (
                mapping(Scheme::Handle, "88.118.1/", whole),
                "88.118.1/CNC-2026",
                "cnc-2026",
            ),
            (
                mapping(Scheme::Oid, "88.118.1/", whole),
                "88.118.1/1.2.156.3",
                "3.156.2.1",
            ),
            (
                mapping(Scheme::Oid, "88.118.1/OID:", whole),
                "88.118.1/OID:2.999",
                "999.2",
            ),
            (mapping(Scheme::Oid, "88.118.1/", whole), "88.118.1/0", "0"),
            (
                mapping(Scheme::Oid, "88.118.1/1.2.156.", whole),
                "88.118.1/1.2.156.3",
                "3",
            ),
            (
                mapping(Scheme::Oid, "88.118.1/oid:1.", whole),
                "88.118.1/oid:1.39.4000",
                "4000.39",
            ),
            (
                mapping(Scheme::Gs1, "88.118.1/", whole),
                "88.118.1/06901234567892",
                "9.8.7.6.5.4.3.2.1.0.9.6.0",
            ),
        ];
        for (mapping, handle, name) in cases {
            let (mut written, mut key) = (Vec::new(), Vec::new());
            assert!(mapping.write(handle.as_bytes(), &mut written), "{handle}");
            assert_eq!(written, wire(name), "{handle}");
            assert_eq!(mapping.read(&wire(name), &mut key), Named::Handle, "{name}");
            assert_eq!(String::from_utf8_lossy(&key), *handle, "{name}");
            assert_eq!(hashed_key(handle.as_bytes(), mapping.case), None);
        }
        let handles = mapping(Scheme::Handle, "", whole);
        let (key, mut written, mut read) = (format!("88.118.1/{long}"), Vec::new(), Vec::new());
        assert!(handles.write(key.as_bytes(), &mut written));
        assert_eq!(written, wire(&hashed));
        assert_eq!(handles.read(&written, &mut read), Named::Hashed);
        assert_eq!(Some(read), hashed_key(key.as_bytes(), whole));
    }

    /// Goal: there is one name for each handle; what could be written otherwise is none.
    #[test]
    fn other_spellings_are_no_names() {
        let whole = CaseRule::Whole;
        let none = [
            (mapping(Scheme::Handle, "", whole), "_61.88-118-1"),
            (mapping(Scheme::Handle, "", whole), "_41.88-118-1"),
            (mapping(Scheme::Handle, "", whole), "_2d.88-118-1"),
            (mapping(Scheme::Handle, "", whole), "a_2.88-118-1"),
            (mapping(Scheme::Handle, "", whole), "_zz.88-118-1"),
            (mapping(Scheme::Handle, "", whole), "a b.88-118-1"),
            (mapping(Scheme::Handle, "", whole), "x.88_2e118_2e1"),
            (mapping(Scheme::Handle, "", whole), "88-118.0-na"),
            (mapping(Scheme::Handle, "", whole), "x.88_2f1"),
            (mapping(Scheme::Handle, "", whole), "x._"),
            (mapping(Scheme::Handle, "", whole), "a.b.88-118-1"),
            (mapping(Scheme::Handle, "", whole), "_habc.88-118-1"),
            (mapping(Scheme::Handle, "", CaseRule::Prefix), "_61.86-a"),
            (mapping(Scheme::Oid, "88.1/", whole), "03.1"),
            (mapping(Scheme::Oid, "88.1/", whole), "40.1"),
            (mapping(Scheme::Oid, "88.1/", whole), "1.3"),
            (mapping(Scheme::Oid, "88.1/", whole), "a.1"),
            (
                mapping(Scheme::Gs1, "88.1/", whole),
                "9.8.7.6.5.4.3.2.1.0.9.6",
            ),
            (
                mapping(Scheme::Gs1, "88.1/", whole),
                "2.9.8.7.6.5.4.3.2.1.0.9.6.0",
            ),
            (
                mapping(Scheme::Gs1, "88.1/", whole),
                "98.7.6.5.4.3.2.1.0.9.6.0.0",
            ),
        ];
        for (mapping, name) in none {
            assert_eq!(
                mapping.read(&wire(name), &mut Vec::new()),
                Named::Nothing,
                "{name}"
            );
        }
        let mut name = Vec::new();
        assert!(!mapping(Scheme::Oid, "88.1/", whole).write(b"88.1/1.02", &mut name));
        assert!(!mapping(Scheme::Gs1, "88.1/", whole).write(b"88.1/06901234567890", &mut name));
    }

    /// Goal: the names above those of handles are known by what they begin with.
    #[test]
    fn names_above() {
        let whole = CaseRule::Whole;
        let cases = [
            (
                mapping(Scheme::Handle, "", whole),
                "88-118-1",
                Some("88.118.1/"),
            ),
            (mapping(Scheme::Handle, "", whole), "x.88-118-1", None),
            (mapping(Scheme::Handle, "88.1/", whole), "x", None),
            (
                mapping(Scheme::Oid, "88.1/", whole),
                "2.1",
                Some("88.1/1.2."),
            ),
            (
                mapping(Scheme::Gs1, "88.1/", whole),
                "9.6.0",
                Some("88.1/069"),
            ),
            (
                mapping(Scheme::Gs1, "88.1/", whole),
                "9.8.7.6.5.4.3.2.1.0.9.6.0",
                None,
            ),
        ];
        for (mapping, name, expected) in cases {
            let mut start = Vec::new();
            let below = mapping.below(&wire(name), &mut start);
            let start = below.then(|| String::from_utf8(start).unwrap());
            assert_eq!(start.as_deref(), expected, "{name}");
        }
    }
}
