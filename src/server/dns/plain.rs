//! The short way of a plain question: octets in, octets out, nothing allocated.
//!
//! A question is plain when it is all of the message but for an OPT record without options or with a
//! cookie, asks for one type in class IN, and names an identifier. What this file does not understand
//! wholly it leaves to the full way, which gives the same octets.

use std::net::IpAddr;
use std::ops::Range;

use super::cookie::{self, Cookie};
use super::full::HEADER;
use super::name::{LABEL_MAX, NAME_MAX, Named, Scheme, labels};
use super::records::{Owner, visit};
use super::view::{Place, View};
use super::zone::{self, Zone};
use super::{Channel, Written, finish};
use crate::metrics::{Op, Outcome};
use crate::resolver::Selection;
use crate::store::{Lookup, Space};

/// Type and class of a question.
const KIND: usize = 4;

/// Octets of an OPT record without options.
const OPT: usize = 11;

/// Octets of a record before its data, its name being a pointer.
const RECORD: usize = 12;

/// The pointer to the name of the question (RFC 1035 §4.1.4).
const ASKED: [u8; 2] = [0xC0, HEADER as u8];

/// More records than these go the full way, where the codec stops to compress names at some number.
const RECORDS_MAX: u16 = 64;

/// Types that are questions about more than one type (RFC 6895 §3.1), and OPT.
const META: [std::ops::RangeInclusive<u16>; 2] = [41..=41, 249..=255];

/// A plain question.
#[derive(Clone, Debug)]
pub(super) struct Plain<'z> {
    /// The folded handle, among the keys of the batch.
    pub(super) key: Range<usize>,
    zone: &'z Zone,
    /// Octets of its name, with the final zero.
    name: usize,
    kind: u16,
    opt: Option<Opt>,
    limit: usize,
    channel: Channel,
}

/// The OPT record of a plain question.
#[derive(Clone, Copy, Debug)]
struct Opt {
    payload: u16,
    dnssec_ok: bool,
    cookie: Option<Cookie>,
}

impl<'z> Plain<'z> {
    /// Reads a message if it is a plain question.
    pub(super) fn read(
        view: &View<'z>,
        request: &[u8],
        client: IpAddr,
        channel: Channel,
        keys: &mut Vec<u8>,
    ) -> Option<Self> {
        let additional = match request.get(2..HEADER)? {
            [flags, more, 0, 1, 0, 0, 0, 0, 0, additional @ (0 | 1)]
                if flags & 0xFE == 0 && more & 0xCF == 0 =>
            {
                *additional
            }
            _ => return None,
        };
        let mut lower = [0; NAME_MAX];
        let name = lower_case(&request[HEADER..], &mut lower)?;
        let (kind, rest) = request[HEADER + name..].split_first_chunk::<KIND>()?;
        let [high, low, 0, 1] = *kind else {
            return None;
        };
        let kind = u16::from_be_bytes([high, low]);
        if META.iter().any(|types| types.contains(&kind)) {
            return None;
        }
        let opt = match additional {
            0 => rest.is_empty().then_some(None)?,
            _ => Some(Opt::read(view, rest, client)?),
        };
        let (zone, relative) = view.shared.zones.find(&lower[..name])?;
        let sites = |rule: &super::records::Rule| rule.reads_sites() && rule.record_type() == kind;
        if relative.is_empty() || zone.rules.iter().any(sites) {
            return None;
        }
        let start = keys.len();
        match zone.mapping.read(relative, keys) {
            Named::Handle => {}
            Named::Hashed => {
                let found = view.session.get(Space::System, &keys[start..]);
                keys.truncate(start);
                let Lookup::Found(record) = found else {
                    return None;
                };
                let key = record.handle();
                if !zone.mapping.is_named(relative, &key) {
                    return None;
                }
                keys.extend_from_slice(&key);
            }
            Named::Nothing => {
                keys.truncate(start);
                return None;
            }
        }
        let payload = opt.as_ref().map(|opt| opt.payload);
        Some(Self {
            key: start..keys.len(),
            zone,
            name,
            kind,
            opt,
            limit: channel.limit(view.shared.udp_payload, payload),
            channel,
        })
    }

    /// Appends the answer; nothing when it takes the full way to find it.
    pub(super) fn write<'s>(
        &self,
        view: &View<'s>,
        request: &[u8],
        key: &[u8],
        found: Lookup<'s>,
        out: &mut Vec<u8>,
    ) -> Option<Written> {
        let start = out.len();
        let question = HEADER + self.name + KIND;
        out.extend_from_slice(&request[..question]);
        let asked = &request[HEADER..HEADER + self.name];
        let outcome = match view.resolve(key, found) {
            Place::Values(values, _) => self.records(view, &values, asked, out, start)?,
            Place::Nothing => self.no_name(view, asked, out, start)?,
            Place::Apex | Place::Inner | Place::Loading | Place::Damaged => return None,
        };
        let options = self.put_opt(view, out);
        let (answers, authorities) = match outcome {
            Outcome::Success => (count_records(&out[start + question..], options), 0),
            _ => (0, 1),
        };
        let code = if outcome == Outcome::NotFound { 3 } else { 0 };
        let head = &mut out[start + 2..start + HEADER];
        head[0] = 0x84 | head[0] & 1;
        head[1] = code;
        head[4..6].copy_from_slice(&answers.to_be_bytes());
        head[7] = authorities;
        head[9] = u8::from(options > 0);
        let proven = matches!(
            self.opt,
            Some(Opt {
                cookie: Some(Cookie::Proven(_)),
                ..
            })
        );
        let written = Written {
            end: 0,
            options,
            proven,
            op: Op::Resolve,
            outcome,
        };
        Some(finish(
            written,
            start,
            request.len(),
            self.limit,
            self.channel,
            out,
        ))
    }

    /// Appends the records of the type asked for, or says that there are none.
    fn records(
        &self,
        view: &View<'_>,
        values: &Selection<'_, '_>,
        asked: &[u8],
        out: &mut Vec<u8>,
        start: usize,
    ) -> Option<Outcome> {
        let first = out.len();
        let (mut count, mut least) = (0_u16, u32::MAX);
        let now = view.unix_seconds;
        visit(
            values,
            &self.zone.rules,
            Some(self.kind),
            now,
            |kind, _, datum, ttl| {
                least = least.min(ttl);
                let at = out.len();
                out.extend_from_slice(&ASKED);
                out.extend_from_slice(&kind.to_be_bytes());
                out.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
                datum.write(&[], out);
                let length = u16::try_from(out.len() - at - RECORD).unwrap_or(u16::MAX);
                out[at + RECORD - 2..at + RECORD].copy_from_slice(&length.to_be_bytes());
                // The records before it end where it begins.
                if records_in(&out[first..at]).any(|record| record == &out[at..]) {
                    out.truncate(at);
                } else {
                    count += 1;
                }
            },
        );
        if count > RECORDS_MAX {
            return None;
        }
        if count == 0 {
            return self.no_type(view, values, asked, out, start);
        }
        let mut at = first;
        while at < out.len() {
            out[at + 6..at + 10].copy_from_slice(&least.to_be_bytes());
            at += RECORD + usize::from(u16::from_be_bytes([out[at + 10], out[at + 11]]));
        }
        Some(Outcome::Success)
    }

    /// There are values, and none of the type makes a record: whether the name exists depends on whether
    /// any does.
    fn no_type(
        &self,
        view: &View<'_>,
        values: &Selection<'_, '_>,
        asked: &[u8],
        out: &mut Vec<u8>,
        start: usize,
    ) -> Option<Outcome> {
        for rule in &self.zone.rules {
            if rule.reads_sites() {
                continue;
            }
            let mut exists = false;
            let rule = std::slice::from_ref(rule);
            visit(values, rule, None, view.unix_seconds, |_, owner, _, _| {
                exists |= owner == Owner::Name;
            });
            if exists {
                self.put_soa(view, asked, out, start);
                return Some(Outcome::ValuesNotFound);
            }
        }
        None
    }

    /// There is no such handle; whether there are names below takes the full way to find out.
    fn no_name(
        &self,
        view: &View<'_>,
        asked: &[u8],
        out: &mut Vec<u8>,
        start: usize,
    ) -> Option<Outcome> {
        let leaf = match self.zone.mapping.scheme {
            Scheme::Oid => false,
            Scheme::Gs1 => true,
            Scheme::Handle => {
                let below = self.name - self.zone.apex.len();
                let first = usize::from(asked[0]) + 1;
                !self.zone.mapping.stem.is_empty() || first < below
            }
        };
        if !leaf {
            return None;
        }
        self.put_soa(view, asked, out, start);
        Some(Outcome::NotFound)
    }

    /// Appends the SOA record.
    fn put_soa(&self, view: &View<'_>, asked: &[u8], out: &mut Vec<u8>, start: usize) {
        let zone = self.zone;
        let mut names = Names::new(asked);
        names.put(&asked[self.name - zone.apex.len()..], start, out);
        out.extend_from_slice(&super::records::SOA.to_be_bytes());
        out.extend_from_slice(&1_u16.to_be_bytes());
        out.extend_from_slice(&zone.negative_ttl.min(zone.ttl).to_be_bytes());
        let at = out.len();
        out.extend_from_slice(&[0; 2]);
        if let Some(primary) = zone.nameservers.first() {
            names.put(primary, start, out);
        }
        names.put(&zone.mail, start, out);
        out.extend_from_slice(&view.serial.to_be_bytes());
        for number in [zone::REFRESH, zone::RETRY, zone::EXPIRE] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out.extend_from_slice(&zone.negative_ttl.to_be_bytes());
        let length = u16::try_from(out.len() - at - 2).unwrap_or(u16::MAX);
        out[at..at + 2].copy_from_slice(&length.to_be_bytes());
    }

    /// Appends the OPT record if the client sent one; its octets.
    fn put_opt(&self, view: &View<'_>, out: &mut Vec<u8>) -> usize {
        let Some(opt) = &self.opt else {
            return 0;
        };
        let start = out.len();
        out.extend_from_slice(&[0, 0, 41]);
        out.extend_from_slice(&view.shared.receives().to_be_bytes());
        out.extend_from_slice(&[0, 0, u8::from(opt.dnssec_ok) << 7, 0]);
        match opt.cookie {
            Some(Cookie::Unproven(cookie) | Cookie::Proven(cookie)) => {
                let whole = u8::try_from(cookie::WHOLE).unwrap_or(0);
                out.extend_from_slice(&[0, 4 + whole, 0, 10, 0, whole]);
                out.extend_from_slice(&cookie);
            }
            Some(Cookie::Malformed) | None => out.extend_from_slice(&[0, 0]),
        }
        out.len() - start
    }
}

impl Opt {
    /// Reads an OPT record that is all of `octets` and has no option but a cookie.
    fn read(view: &View<'_>, octets: &[u8], client: IpAddr) -> Option<Self> {
        let (fixed, options) = octets.split_first_chunk::<OPT>()?;
        let [0, 0, 41, high, low, 0, 0, flags @ (0 | 0x80), 0, a, b] = *fixed else {
            return None;
        };
        if usize::from(u16::from_be_bytes([a, b])) != options.len() {
            return None;
        }
        let cookie = match options {
            [] => None,
            [0, 10, 0, length, cookie @ ..] if usize::from(*length) == cookie.len() => {
                let cookies = &view.shared.cookies;
                match cookies.judge(cookie, client, view.unix_seconds) {
                    Cookie::Malformed => return None,
                    good => Some(good),
                }
            }
            _ => return None,
        };
        Some(Self {
            payload: u16::from_be_bytes([high, low]),
            dnssec_ok: flags != 0,
            cookie,
        })
    }
}

/// The records of an answer, each with a pointer for its name.
fn records_in(octets: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = octets;
    std::iter::from_fn(move || {
        let length = rest.get(RECORD - 2..RECORD)?;
        let length = RECORD + usize::from(u16::from_be_bytes([length[0], length[1]]));
        let (record, tail) = rest.split_at_checked(length)?;
        rest = tail;
        Some(record)
    })
}

/// How many records stand before the `options` octets of the OPT record.
fn count_records(octets: &[u8], options: usize) -> u16 {
    let records = records_in(&octets[..octets.len() - options]).count();
    u16::try_from(records).unwrap_or(u16::MAX)
}

/// Copies the name that `octets` begin with in lower case; its octets, or nothing when it is compressed,
/// cut, or too long.
fn lower_case(octets: &[u8], lower: &mut [u8; NAME_MAX]) -> Option<usize> {
    let mut end = 0;
    loop {
        let length = usize::from(*octets.get(end)?);
        if length > LABEL_MAX {
            return None;
        }
        end += length + 1;
        if end > NAME_MAX {
            return None;
        }
        if length == 0 {
            break;
        }
    }
    let copy = &mut lower[..end];
    copy.copy_from_slice(octets.get(..end)?);
    // No length of a label is a letter.
    copy.make_ascii_lowercase();
    Some(end)
}

/// The names in an answer so far, for compression (RFC 1035 §4.1.4). It finds what hickory-proto's
/// encoder finds: the first name written whose octets, in their case, are the rest of the new one.
struct Names<'n> {
    /// Where names stand, relative to the beginning of the answer, and their labels.
    places: [(u16, &'n [u8]); Names::MAX],
    count: usize,
}

impl<'n> Names<'n> {
    /// The most names that hickory-proto remembers.
    const MAX: usize = 64;

    /// Begins with the name of the question.
    fn new(asked: &'n [u8]) -> Self {
        let mut names = Self {
            places: [(0, &[]); Self::MAX],
            count: 0,
        };
        let mut at = 0;
        for label in labels(asked) {
            names.remember(HEADER + at, &asked[at..asked.len() - 1]);
            at += label.len() + 1;
        }
        names
    }

    fn remember(&mut self, place: usize, labels: &'n [u8]) {
        if let (Ok(place), Some(slot)) = (u16::try_from(place), self.places.get_mut(self.count)) {
            *slot = (place, labels);
            self.count += 1;
        }
    }

    /// Appends a name in wire form to the answer that begins at `start`.
    fn put(&mut self, name: &'n [u8], start: usize, out: &mut Vec<u8>) {
        let mut rest = name;
        while let [length, ..] = *rest
            && length > 0
        {
            let wanted = &rest[..rest.len() - 1];
            let known = self.places[..self.count].iter();
            if let Some((place, _)) = known.into_iter().find(|(_, labels)| *labels == wanted) {
                return out.extend_from_slice(&(0xC000 | place).to_be_bytes());
            }
            self.remember(out.len() - start, wanted);
            let label = usize::from(length) + 1;
            out.extend_from_slice(&rest[..label]);
            rest = &rest[label..];
        }
        out.push(0);
    }
}
