//! The decision who answers a question, and with what.
//!
//! Synchronous and pure: an answer follows from the question, the homed prefixes and one view of
//! the store. Transports, sockets and clocks are unknown here.
//!
//! * [`Authority`]: which prefixes are homed on this node.
//! * [`Query`]: a question, with its [`Filter`] of indexes and types.
//! * [`Answer`]: what is to be said; not found, referral and denied are answers, not errors.
//! * [`Selection`]: the chosen values of a record, counted and copied in stored order.
//! * [`cache`]: what other nodes answered.
//!
//! The order of decisions is the reference server's: not homed, found, prefix referral, not
//! found, no such value, access.

mod authority;
pub mod cache;
mod selection;

pub use authority::Authority;
pub use selection::{Filter, Selection, type_matches};

use crate::store::{Lookup, Record, Session, Space};
use jiexi_proto::handle;

/// A question about one handle.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// The handle in the form it is stored under: with its prefix, case folded.
    pub key: &'a [u8],
    /// Which of its values are wanted.
    pub filter: Filter<'a>,
    /// Restricted values are left out (the `PUBL` flag) instead of asked a right for.
    pub public_only: bool,
    /// Referrals are wanted (the `DNRF` flag is clear).
    pub refer: bool,
}

/// What is to be said to a question.
#[derive(Clone, Debug)]
pub enum Answer<'s, 'q> {
    /// These values.
    Values(Selection<'s, 'q>),
    /// The prefix lives here, the handle does not exist.
    NoSuchHandle,
    /// The handle exists, none of its readable values was asked for.
    NoSuchValue,
    /// The prefix does not live here.
    NotResponsible,
    /// Ask the service that these values of an ancestor prefix name.
    PrefixReferral(Selection<'s, 'q>),
    /// A restricted value was asked for: prove who you are.
    NeedsAuthentication,
    /// A value was asked for that nobody may read.
    Denied,
    /// Not known yet: the node is still loading.
    Loading,
    /// The stored record fails its checksum and is not served.
    Damaged,
}

/// The types by which a prefix refers to the service of the prefixes derived from it.
const REFERRAL_TYPES: &[&[u8]] = &[b"HS_SITE.PREFIX", b"HS_NA_DELEGATE", b"HS_SERV.PREFIX"];

/// The length of `0.NA/`, which stands before every prefix.
const PREFIX_SPACE: usize = 5;

/// Answers `query`, whose record was looked up before: `found`.
pub fn resolve<'s, 'q>(
    authority: &'s Authority,
    session: &'s Session<'_>,
    query: &Query<'q>,
    found: &Lookup<'s>,
) -> Answer<'s, 'q> {
    match (authority.responsible(query.key), found) {
        (Some(false), _) => Answer::NotResponsible,
        // While nobody knows which prefixes are homed, what is here is served, and nothing denied.
        (_, &Lookup::Found(record)) => select(record, query),
        // What could not be loaded will not be known by waiting.
        (_, Lookup::Damaged) => Answer::Damaged,
        (None, _) | (_, Lookup::Loading) => Answer::Loading,
        (Some(true), Lookup::Absent) => absent(authority, session, query),
    }
}

/// The handle exists: its chosen values, as far as the asker may read them.
fn select<'s, 'q>(record: Record<'s>, query: &Query<'q>) -> Answer<'s, 'q> {
    let selection = Selection::new(record, query.filter);
    let chosen = selection.survey();
    if query.public_only {
        return if chosen.public > 0 {
            Answer::Values(selection)
        } else {
            Answer::NoSuchValue
        };
    }
    if chosen.unreadable > 0 {
        Answer::Denied
    } else if chosen.restricted > 0 {
        Answer::NeedsAuthentication
    } else if chosen.public > 0 {
        Answer::Values(selection)
    } else {
        Answer::NoSuchValue
    }
}

/// The handle does not exist. The home of a prefix is its service; of other prefixes the nearest
/// ancestor may name who knows them.
fn absent<'s, 'q>(
    authority: &'s Authority,
    session: &'s Session<'_>,
    query: &Query<'q>,
) -> Answer<'s, 'q> {
    if let Some(own) = authority.own_site(query.key) {
        return select(own, query);
    }
    if !query.refer || !handle::is_prefix_handle(query.key) {
        return Answer::NoSuchHandle;
    }
    let mut ancestor = query.key;
    while let Some(parent) = parent_prefix(ancestor) {
        ancestor = parent;
        match session.get(Space::Handle, ancestor) {
            Lookup::Found(record) => {
                let selection = Selection::new(record, Filter::Types(REFERRAL_TYPES));
                if selection.survey().public > 0 {
                    return Answer::PrefixReferral(selection);
                }
            }
            Lookup::Absent => {}
            Lookup::Loading => return Answer::Loading,
            Lookup::Damaged => return Answer::Damaged,
        }
    }
    Answer::NoSuchHandle
}

/// `0.NA/88.118.9` → `0.NA/88.118` → `0.NA/88` → nothing.
fn parent_prefix(prefix_handle: &[u8]) -> Option<&[u8]> {
    let prefix = prefix_handle.get(PREFIX_SPACE..)?;
    let dot = prefix.iter().rposition(|&byte| byte == b'.')?;
    prefix_handle.get(..PREFIX_SPACE + dot)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the walk to the root of the prefixes ends, and never leaves `0.NA/`.
    #[test]
    fn ancestors_of_a_prefix() {
        assert_eq!(parent_prefix(b"0.NA/88.118.9"), Some(&b"0.NA/88.118"[..]));
        assert_eq!(parent_prefix(b"0.NA/88.118"), Some(&b"0.NA/88"[..]));
        assert_eq!(parent_prefix(b"0.NA/88"), None);
    }
}
