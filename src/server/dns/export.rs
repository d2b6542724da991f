//! A zone as text, in the form that every DNS server reads (RFC 1035 §5), one identifier after the other.

use std::fmt::Write as _;
use std::ops::Bound;

use super::name::put_label;
use super::records::{self, Owner, visit};
use super::view::{Place, SERVICE, View};
use super::zone::{self, Zone, text};
use crate::store::{OwnedRecord, Space, StoreError};

/// How many records are read from the store at once.
const PAGE: usize = 1_000;

/// What an export found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Identifiers of the zone that are in the store.
    pub identifiers: u64,
    /// Names with records.
    pub names: u64,
    /// Records, without SOA and NS.
    pub records: u64,
    /// Identifiers without a name: not of the mapping's form, or too long for one.
    pub nameless: u64,
    /// Identifiers with a name whose values make no record.
    pub empty: u64,
}

/// Writes the zone to `each`, a piece of whole lines at a time.
///
/// # Errors
/// When the store cannot be read, or `each` says so.
pub fn export<E: From<StoreError>>(
    view: &View<'_>,
    zone: &Zone,
    mut each: impl FnMut(&str) -> Result<(), E>,
) -> Result<Counts, E> {
    let mut counts = Counts::default();
    each(&head(zone, view.serial))?;
    for space in [Space::Handle, Space::Prefix] {
        let start: &[u8] = &zone.mapping.stem;
        let mut last: Vec<u8> = Vec::new();
        loop {
            let from = if last.is_empty() {
                Bound::Unbounded
            } else {
                Bound::Excluded(&last[..])
            };
            let page = view.shared.store.scan(space, from, start, PAGE)?;
            let complete = page.len() < PAGE;
            let mut lines = String::new();
            for record in &page {
                one(view, zone, space, record, &mut counts, &mut lines);
            }
            each(&lines)?;
            let Some(record) = page.into_iter().next_back().filter(|_| !complete) else {
                break;
            };
            last = record.key;
        }
    }
    Ok(counts)
}

/// The records of the apex.
fn head(zone: &Zone, serial: u32) -> String {
    let (apex, ttl) = (text(&zone.apex), zone.ttl);
    let primary = zone
        .nameservers
        .first()
        .map_or_else(String::new, |name| text(name));
    let mut lines = format!(
        "$ORIGIN {apex}\n@ {ttl} IN SOA {primary} {} {serial} {} {} {} {}\n",
        text(&zone.mail),
        zone::REFRESH,
        zone::RETRY,
        zone::EXPIRE,
        zone.negative_ttl,
    );
    for server in &zone.nameservers {
        let _ = writeln!(lines, "@ {ttl} IN NS {}", text(server));
    }
    lines
}

/// The records of one identifier. A homed prefix without a record of its own has the site of the node;
/// with one it comes with the handles.
fn one(
    view: &View<'_>,
    zone: &Zone,
    space: Space,
    record: &OwnedRecord,
    counts: &mut Counts,
    lines: &mut String,
) {
    let key = record.key();
    let found = view.session.get(Space::Handle, key);
    if space == Space::Prefix && found != crate::store::Lookup::Absent
        || view.authority.responsible(key) != Some(true)
    {
        return;
    }
    counts.identifiers += 1;
    let mut name = Vec::new();
    if !zone.mapping.write(key, &mut name) {
        counts.nameless += 1;
        return;
    }
    let before = counts.records;
    if let Place::Values(values, _) = view.resolve(key, found) {
        let (owner, target) = (text(&name), [&name[..], &zone.apex].concat());
        if target.len() > super::name::NAME_MAX - 2 - SERVICE.len() - "_tcp".len() {
            counts.nameless += 1;
            return;
        }
        let mut rrs: Vec<(u16, Owner, u32, String)> = Vec::new();
        let now = view.unix_seconds;
        visit(&values, &zone.rules, None, now, |kind, at, datum, ttl| {
            rrs.push((kind, at, ttl, datum.text(&text(&target))));
        });
        // One RRset has one TTL, and no record twice (RFC 2181 §5).
        for place in 0..rrs.len() {
            let (kind, at, _, ref data) = rrs[place];
            let same = |other: &&(u16, Owner, u32, String)| (other.0, other.1) == (kind, at);
            let ttl = rrs
                .iter()
                .filter(same)
                .map(|other| other.2)
                .min()
                .unwrap_or(0);
            if rrs[..place]
                .iter()
                .filter(same)
                .any(|other| other.3 == *data)
            {
                continue;
            }
            let below = match at {
                Owner::Name => String::new(),
                Owner::Tcp => service(b"_tcp"),
                Owner::Udp => service(b"_udp"),
            };
            let owner = owner.trim_end_matches('.');
            let _ = writeln!(
                lines,
                "{below}{owner} {ttl} IN {} {data}",
                records::type_name(kind)
            );
            counts.records += 1;
        }
    }
    if counts.records > before {
        counts.names += 1;
    } else {
        counts.empty += 1;
    }
}

/// The labels of a service in front of a name.
fn service(protocol: &[u8]) -> String {
    let mut labels = Vec::new();
    put_label(SERVICE, &mut labels);
    put_label(protocol, &mut labels);
    text(&labels)
}
