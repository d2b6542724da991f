//! The chosen values of a record: what a filter picks and an asker may read.

use crate::store::{Entry, Record};
use jiexi_proto::code::Permissions;
use jiexi_proto::message::resolution::{IndexList, TypeList};
use jiexi_proto::value;

/// Which values of a record are wanted. Indexes and types form a union.
#[derive(Clone, Copy, Debug)]
pub enum Filter<'q> {
    /// Every value.
    All,
    /// Those of these indexes and those of these types, as a request lists them.
    Asked(IndexList<'q>, TypeList<'q>),
    /// Those of these types.
    Types(&'static [&'static [u8]]),
}

impl<'q> Filter<'q> {
    /// The filter of a request; empty lists want everything.
    #[must_use]
    pub fn asked(indexes: IndexList<'q>, types: TypeList<'q>) -> Self {
        if indexes.is_empty() && types.is_empty() {
            Self::All
        } else {
            Self::Asked(indexes, types)
        }
    }

    /// Whether `entry` is wanted.
    fn picks(&self, entry: &Entry<'_>) -> bool {
        match self {
            Self::All => true,
            Self::Asked(indexes, types) => {
                indexes.iter().any(|index| index == entry.index)
                    || (!types.is_empty() && {
                        let kind = value::type_of(entry.wire);
                        types.iter().any(|wanted| type_matches(wanted, kind))
                    })
            }
            Self::Types(types) => {
                let kind = value::type_of(entry.wire);
                types.iter().any(|wanted| type_matches(wanted, kind))
            }
        }
    }
}

/// `URL` matches URL; `URL.` matches URL and every URL.x; ASCII case does not matter.
#[must_use]
pub fn type_matches(wanted: &[u8], kind: &[u8]) -> bool {
    match wanted.split_last() {
        Some((b'.', stem)) => match kind.split_at_checked(stem.len()) {
            Some((head, tail)) => {
                head.eq_ignore_ascii_case(stem) && (tail.is_empty() || tail.first() == Some(&b'.'))
            }
            None => false,
        },
        _ => wanted.eq_ignore_ascii_case(kind),
    }
}

/// How many of the wanted values may be read by whom.
#[derive(Clone, Copy, Debug, Default)]
pub struct Survey {
    /// Readable by everybody.
    pub public: u32,
    /// Readable by administrators.
    pub restricted: u32,
    /// Readable by nobody.
    pub unreadable: u32,
}

impl Survey {
    /// Counts the values of a record that `filter` picks.
    #[inline]
    fn of(record: Record<'_>, filter: &Filter<'_>) -> Self {
        let mut survey = Self::default();
        match filter {
            Filter::All => record
                .permissions()
                .for_each(|(permissions, sealed)| survey.add(permissions, sealed)),
            filter => {
                let wanted = record.entries().filter(|entry| filter.picks(entry));
                wanted.for_each(|entry| survey.add(entry.permissions, entry.sealed));
            }
        }
        survey
    }

    #[inline]
    fn add(&mut self, permissions: u8, sealed: bool) {
        if is_public(permissions, sealed) {
            self.public += 1;
        } else if permissions & Permissions::ADMIN_READ.0 != 0 {
            self.restricted += 1;
        } else {
            self.unreadable += 1;
        }
    }
}

/// The public values of a record that a filter picks, in stored order.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'s, 'q> {
    record: Record<'s>,
    filter: Filter<'q>,
    survey: Survey,
}

impl<'s, 'q> Selection<'s, 'q> {
    /// The values of `record` that `filter` picks.
    #[must_use]
    #[inline]
    pub fn new(record: Record<'s>, filter: Filter<'q>) -> Self {
        let survey = Survey::of(record, &filter);
        Self {
            record,
            filter,
            survey,
        }
    }

    /// All values of the same record.
    #[must_use]
    #[inline]
    pub fn all(&self) -> Selection<'s, 'static> {
        Selection {
            record: self.record,
            filter: Filter::All,
            survey: match self.filter {
                Filter::All => self.survey,
                _ => Survey::of(self.record, &Filter::All),
            },
        }
    }

    /// How many of the wanted values may be read by whom.
    #[must_use]
    pub const fn survey(&self) -> Survey {
        self.survey
    }

    /// The wanted values that everybody may read, in stored order.
    pub fn public(&self) -> impl Iterator<Item = Entry<'s>> {
        let entries = self.record.entries();
        entries
            .filter(|entry| is_public(entry.permissions, entry.sealed) && self.filter.picks(entry))
    }

    /// The wanted values that somebody may read, in stored order: the public and the restricted.
    pub fn readable(&self) -> impl Iterator<Item = Entry<'s>> {
        let entries = self.record.entries();
        entries.filter(|entry| {
            let reader = is_public(entry.permissions, entry.sealed)
                || entry.permissions & Permissions::ADMIN_READ.0 != 0;
            reader && self.filter.picks(entry)
        })
    }

    /// Appends `count, values` in wire form.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>) {
        if self.survey.public as usize == self.record.len() {
            // Everything is wanted and public: as it stands in the record.
            out.extend_from_slice(&self.survey.public.to_be_bytes());
            return out.extend_from_slice(self.record.wire());
        }
        let at = out.len();
        out.extend_from_slice(&[0; 4]);
        let mut count = 0_u32;
        for entry in self.record.entries() {
            if is_public(entry.permissions, entry.sealed) && self.filter.picks(&entry) {
                out.extend_from_slice(entry.wire);
                count += 1;
            }
        }
        out[at..at + 4].copy_from_slice(&count.to_be_bytes());
    }
}

/// Whether everybody may read a value. Sealed values are secrets whatever their permissions say.
#[inline]
const fn is_public(permissions: u8, sealed: bool) -> bool {
    permissions & Permissions::PUBLIC_READ.0 != 0 && !sealed
}

#[cfg(test)]
mod tests {
    use super::type_matches;

    /// Goal: the rules of type matching, as recorded of the reference server.
    #[test]
    fn types() {
        let cases: &[(&str, &str, bool)] = &[
            ("URL", "URL", true),
            ("url", "URL", true),
            ("URL", "URL.MIRROR", false),
            ("URL.", "URL", true),
            ("URL.", "url.mirror", true),
            ("URL.", "URLX", false),
            ("", "", true),
            (".", "URL", false),
        ];
        for (wanted, kind, expected) in cases {
            assert_eq!(
                type_matches(wanted.as_bytes(), kind.as_bytes()),
                *expected,
                "{wanted} {kind}"
            );
        }
    }
}
