//! Handles as octets: case folding, prefixes, and the choice of a server by hash.
//!
//! A handle is a prefix, a slash and a suffix (RFC 3650 §3.1). Only ASCII letters fold; other
//! octets are compared as they are, without Unicode normalisation. Functions that build a name
//! append it to `out`.

use crate::code::HashOption;

/// The prefix handle of a prefix stands below this.
pub const PREFIX_SPACE: &[u8] = b"0.NA/";
/// The handle of the root of all prefixes.
pub const ROOT: &[u8] = b"0.NA/0.NA";

/// How much of a handle ignores the case of ASCII letters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum CaseRule {
    /// All of it (the usual rule).
    #[default]
    Whole,
    /// Only the prefix. A prefix handle (`0.NA/…`, or without a slash) is all prefix.
    Prefix,
}

/// Appends `handle` with `a`–`z` as `A`–`Z`, as far as `rule` says.
#[inline]
pub fn fold(handle: &[u8], rule: CaseRule, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(handle);
    let folded = match rule {
        CaseRule::Whole => handle.len(),
        CaseRule::Prefix if is_prefix_handle(handle) => handle.len(),
        CaseRule::Prefix => slash(handle).unwrap_or(handle.len()),
    };
    if let Some(part) = out.get_mut(start..start + folded) {
        uppercase(part);
    }
}

/// `a`–`z` become `A`–`Z`, eight octets at a time: names are too short for wide registers to pay. What is left at the end
/// goes with the octets before it, which stay as they are then.
#[inline]
fn uppercase(octets: &mut [u8]) {
    let (words, rest) = octets.as_chunks_mut::<8>();
    for word in words {
        *word = uppercase_word(*word);
    }
    if rest.is_empty() {
        return;
    }
    match octets.last_chunk_mut::<8>() {
        Some(word) => *word = uppercase_word(*word),
        None => octets.make_ascii_uppercase(),
    }
}

#[inline(always)]
const fn uppercase_word(octets: [u8; 8]) -> [u8; 8] {
    const LOW: u64 = u64::from_ne_bytes([0x7F; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    const TO_A: u64 = u64::from_ne_bytes([0x80 - b'a'; 8]);
    const TO_PAST_Z: u64 = u64::from_ne_bytes([0x80 - b'z' - 1; 8]);
    let word = u64::from_ne_bytes(octets);
    let ascii = word & LOW;
    // The highest bit of each octet says whether it is a letter to be changed; no sum reaches the next octet.
    let lower = (ascii + TO_A) & !(ascii + TO_PAST_Z) & !word & HIGH;
    (word ^ lower >> 2).to_ne_bytes()
}

/// Appends the name under which `handle` is stored: folded, and `0.NA/x` for a bare prefix `x`.
#[inline]
pub fn canonical(handle: &[u8], rule: CaseRule, out: &mut Vec<u8>) {
    if slash(handle).is_none() {
        out.extend_from_slice(PREFIX_SPACE);
    }
    fold(handle, rule, out);
}

/// Appends the prefix handle of `handle`: the record that says where it is at home.
///
/// For a prefix handle this is the root.
#[inline]
pub fn prefix_handle(handle: &[u8], out: &mut Vec<u8>) {
    match split(handle) {
        Some((prefix, _)) if !is_prefix_handle(handle) => {
            out.extend_from_slice(PREFIX_SPACE);
            fold(prefix, CaseRule::Whole, out);
        }
        _ => out.extend_from_slice(ROOT),
    }
}

/// Whether this names a prefix: `0.NA/…` in any case, or a bare prefix without a slash.
#[inline]
#[must_use]
pub fn is_prefix_handle(handle: &[u8]) -> bool {
    match handle.split_at_checked(PREFIX_SPACE.len()) {
        Some((start, _)) if start.eq_ignore_ascii_case(PREFIX_SPACE) => true,
        _ => slash(handle).is_none(),
    }
}

/// The prefix and the suffix: what stands before and after the first slash.
#[inline]
#[must_use]
pub fn split(handle: &[u8]) -> Option<(&[u8], &[u8])> {
    let (prefix, rest) = handle.split_at_checked(slash(handle)?)?;
    Some((prefix, rest.split_first()?.1))
}

/// Where the first slash stands.
#[inline]
fn slash(handle: &[u8]) -> Option<usize> {
    handle.iter().position(|octet| *octet == b'/')
}

/// Appends what the hash over a site's servers covers: the folded part of the handle.
pub fn hashed_part(handle: &[u8], option: HashOption, out: &mut Vec<u8>) {
    let part = match (option, split(handle)) {
        (HashOption::PREFIX, Some((prefix, _))) => prefix,
        (HashOption::SUFFIX, Some((_, suffix))) => suffix,
        _ => handle,
    };
    fold(part, CaseRule::Whole, out);
}

/// The number that chooses a server, from the MD5 of [`hashed_part`].
///
/// Its last four octets as a signed number, without the sign; the server is this modulo the number
/// of servers, as a place in the site record.
#[must_use]
pub fn site_hash(md5: &[u8; 16]) -> u32 {
    let [.., a, b, c, d] = *md5;
    i32::from_be_bytes([a, b, c, d]).unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(make: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        make(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn folding_touches_ascii_letters_only() {
        let handle = "88.118.8/éß工z".as_bytes();
        assert_eq!(
            made(|out| fold(handle, CaseRule::Whole, out)),
            "88.118.8/éß工Z"
        );
    }

    #[test]
    fn folding_is_that_of_the_library_at_every_length() {
        let octets: Vec<u8> = (0..=255).collect();
        for length in 0..40 {
            for start in 0..octets.len() - length {
                let part = octets.get(start..start + length).unwrap_or_default();
                let mut folded = Vec::new();
                fold(part, CaseRule::Whole, &mut folded);
                assert_eq!(folded, part.to_ascii_uppercase());
            }
        }
    }

    #[test]
    fn the_prefix_rule_leaves_suffixes_alone() {
        for (handle, folded) in [
            ("a.b/cD/e", "A.B/cD/e"),
            ("0.na/a.b", "0.NA/A.B"),
            ("a.b", "A.B"),
            ("/x", "/x"),
        ] {
            assert_eq!(
                made(|out| fold(handle.as_bytes(), CaseRule::Prefix, out)),
                folded
            );
        }
    }

    #[test]
    fn building_appends() {
        let mut out = b"x".to_vec();
        fold(b"a/b", CaseRule::Whole, &mut out);
        assert_eq!(out, b"xA/B");
    }

    #[test]
    fn a_bare_prefix_is_stored_as_a_prefix_handle() {
        assert_eq!(
            made(|out| canonical(b"a.b", CaseRule::Whole, out)),
            "0.NA/A.B"
        );
        assert_eq!(
            made(|out| canonical(b"0.na/a.b", CaseRule::Prefix, out)),
            "0.NA/A.B"
        );
        assert_eq!(
            made(|out| canonical(b"a.b/c", CaseRule::Prefix, out)),
            "A.B/c"
        );
    }

    #[test]
    fn prefix_handles() {
        for (handle, expected) in [
            ("10.x/a", "0.NA/10.X"),
            ("0.na/10.x", "0.NA/0.NA"),
            ("noslash", "0.NA/0.NA"),
            ("a/", "0.NA/A"),
            ("", "0.NA/0.NA"),
        ] {
            assert_eq!(made(|out| prefix_handle(handle.as_bytes(), out)), expected);
        }
        assert!(is_prefix_handle(b"0.na/x") && is_prefix_handle(b"88.118"));
        assert!(!is_prefix_handle(b"0.nab/x"));
    }

    #[test]
    fn the_smallest_number_has_an_absolute_value() {
        let mut md5 = [0; 16];
        md5[12] = 0x80;
        assert_eq!(site_hash(&md5), 0x8000_0000);
    }
}
