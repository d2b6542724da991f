//! What stands at a name: one view of the store, asked through the resolver.

use std::ops::Bound;

use super::Shared;
use super::name::{Named, labels};
use super::records::{Owner, visit};
use super::zone::Zone;
use crate::resolver::{self, Answer, Authority, Filter, Query, Selection};
use crate::store::{Lookup, OwnedRecord, Session, Space, StoreError};

/// How many handles below a name are looked at for one with records. A name whose first so many have none counts as
/// one with names below: who is told that it does not exist takes all below for absent (RFC 8020).
const BELOW_MAX: usize = 64;

/// The labels above the ports of a site (RFC 2782; "hdl-srv" is the name of port 2641 at IANA).
pub const SERVICE: &[u8] = b"_hdl-srv";

/// What answers of one batch are made of.
#[derive(Clone, Copy, Debug)]
pub struct View<'s> {
    /// The zones and what goes with them.
    pub shared: &'s Shared,
    /// The prefixes that live here.
    pub authority: &'s Authority,
    /// The records.
    pub session: &'s Session<'s>,
    /// The serial number of every zone.
    pub serial: u32,
    /// Seconds since 1970.
    pub unix_seconds: u32,
}

/// Where a name stands to its identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seat {
    /// It is the identifier's.
    Name,
    /// `_tcp` or `_udp` below it.
    Protocol(Owner),
    /// `_hdl-srv` below that.
    Service(Owner),
}

impl Seat {
    /// The labels between the name and that of the identifier.
    #[must_use]
    pub const fn depth(self) -> usize {
        match self {
            Self::Name => 0,
            Self::Protocol(_) => 1,
            Self::Service(_) => 2,
        }
    }

    /// Whether records of `owner` stand here.
    #[must_use]
    pub fn is(self, owner: Owner) -> bool {
        match self {
            Self::Name => owner == Owner::Name,
            Self::Protocol(_) => false,
            Self::Service(here) => owner == here,
        }
    }

    /// Whether records of `owner` stand here or below.
    #[must_use]
    pub fn covers(self, owner: Owner) -> bool {
        match self {
            Self::Name => true,
            Self::Protocol(here) | Self::Service(here) => owner == here,
        }
    }

    /// Whether there can be records here.
    #[must_use]
    pub const fn has_records(self) -> bool {
        !matches!(self, Self::Protocol(_))
    }
}

/// What stands at a name.
#[derive(Clone, Copy, Debug)]
pub enum Place<'s> {
    /// The zone itself.
    Apex,
    /// These values of an identifier.
    Values(Selection<'s, 'static>, Seat),
    /// Nothing, but there are names below (an empty non-terminal).
    Inner,
    /// Nothing.
    Nothing,
    /// It is not known yet.
    Loading,
    /// The stored record fails its checksum.
    Damaged,
}

impl<'s> View<'s> {
    /// What stands at `relative`, a name below `zone` in lower case; `key` becomes the handle that it is of, for the log:
    /// as text the name itself where it is of none, which has no slash.
    pub fn locate(&self, zone: &Zone, relative: &[u8], key: &mut Vec<u8>) -> Place<'s> {
        if relative.is_empty() {
            return Place::Apex;
        }
        let (seat, identifier) = seat(relative);
        key.clear();
        let found = match zone.mapping.read(identifier, key) {
            Named::Handle => self.resolve(key, self.session.get(Space::Handle, key)),
            Named::Hashed => self.hashed(zone, identifier, key),
            Named::Nothing => {
                put_text(identifier, key);
                Place::Nothing
            }
        };
        match found {
            Place::Values(values, _) if self.has_records(zone, &values) => {
                Place::Values(values, seat)
            }
            Place::Values(..) | Place::Nothing if seat == Seat::Name => self.inner(zone, relative),
            Place::Values(..) => Place::Nothing,
            other => other,
        }
    }

    /// What the resolver says to a handle looked up before.
    pub fn resolve(&self, key: &[u8], found: Lookup<'s>) -> Place<'s> {
        let query = Query {
            key,
            filter: Filter::All,
            public_only: true,
            refer: false,
        };
        match resolver::resolve(self.authority, self.session, &query, &found) {
            Answer::Values(values) => Place::Values(values.all(), Seat::Name),
            Answer::Loading => Place::Loading,
            Answer::Damaged => Place::Damaged,
            Answer::NoSuchHandle
            | Answer::NoSuchValue
            | Answer::NotResponsible
            | Answer::PrefixReferral(_)
            | Answer::NeedsAuthentication
            | Answer::Denied => Place::Nothing,
        }
    }

    /// The handle behind a hashed label, if it is one of the zone and this is its name.
    fn hashed(&self, zone: &Zone, identifier: &[u8], key: &mut Vec<u8>) -> Place<'s> {
        let found = self.session.get(Space::System, key);
        put_text(identifier, key);
        let handle = match found {
            Lookup::Found(record) => record.handle(),
            Lookup::Absent => return Place::Nothing,
            Lookup::Loading => return Place::Loading,
            Lookup::Damaged => return Place::Damaged,
        };
        let mut name = Vec::new();
        if !zone.mapping.write(&handle, &mut name) || name != identifier {
            return Place::Nothing;
        }
        key.clear();
        key.extend_from_slice(&handle);
        self.resolve(&handle, self.session.get(Space::Handle, &handle))
    }

    /// Whether there are names with records below.
    fn inner(&self, zone: &Zone, relative: &[u8]) -> Place<'s> {
        let mut start = Vec::new();
        if !zone.mapping.below(relative, &mut start) {
            return Place::Nothing;
        }
        let store = &self.shared.store;
        match store.scan(Space::Handle, Bound::Unbounded, &start, BELOW_MAX) {
            Ok(records)
                if records.len() >= BELOW_MAX
                    || records.iter().any(|record| self.is_served(zone, record)) =>
            {
                Place::Inner
            }
            Ok(_) => Place::Nothing,
            Err(StoreError::Loading) => Place::Loading,
            Err(_) => Place::Damaged,
        }
    }

    fn is_served(&self, zone: &Zone, record: &OwnedRecord) -> bool {
        let values = Selection::new(record.view(), Filter::All);
        self.authority.responsible(record.key()) == Some(true)
            && zone.mapping.write(record.key(), &mut Vec::new())
            && self.has_records(zone, &values)
    }

    /// Whether the values make any record.
    #[must_use]
    pub fn has_records(&self, zone: &Zone, values: &Selection<'_, '_>) -> bool {
        let mut any = false;
        visit(
            values,
            &zone.rules,
            None,
            self.unix_seconds,
            |_, _, _, _| any = true,
        );
        any
    }
}

/// Replaces `text` by a name in wire form with dots between its labels.
fn put_text(name: &[u8], text: &mut Vec<u8>) {
    text.clear();
    for label in labels(name) {
        if !text.is_empty() {
            text.push(b'.');
        }
        text.extend_from_slice(label);
    }
}

/// Takes the labels of a service off a name.
fn seat(relative: &[u8]) -> (Seat, &[u8]) {
    let owner = |label: Option<&[u8]>| match label {
        Some(b"_tcp") => Some(Owner::Tcp),
        Some(b"_udp") => Some(Owner::Udp),
        _ => None,
    };
    /// The octets of a label of four.
    const PROTOCOL: usize = 5;
    let mut first = labels(relative);
    match first.next() {
        Some(SERVICE) => match owner(first.next()) {
            Some(owner) => (
                Seat::Service(owner),
                &relative[SERVICE.len() + 1 + PROTOCOL..],
            ),
            None => (Seat::Name, relative),
        },
        label => match owner(label) {
            Some(owner) => (Seat::Protocol(owner), &relative[PROTOCOL..]),
            None => (Seat::Name, relative),
        },
    }
}
