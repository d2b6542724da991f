//! Which prefixes are homed on this node.

use std::collections::HashSet;
use std::ops::Bound;

use bytes::Bytes;
use jiexi_proto::code::Permissions;
use jiexi_proto::value::{Ttl, Value};

use crate::store::{Draft, DraftValue, OwnedRecord, Record, Space, Store, StoreError};

/// The part of a prefix handle before the prefix itself.
const PREFIX_HANDLE: &[u8] = b"0.NA/";

/// The prefix of prefix handles, homed on a node that answers for the root.
const ROOT: &[u8] = b"0.NA";

/// How many prefixes are read from the store at once.
const PAGE: usize = 10_000;

/// The homed prefixes as of one epoch of the store; each worker keeps its own copy.
///
/// [`Authority::default`] knows nothing yet: it stands for a store that is still loading.
#[derive(Clone, Debug, Default)]
pub struct Authority {
    /// Prefixes without the leading `0.NA/`, folded; none while they are not known.
    homed: Option<HashSet<Box<[u8]>, foldhash::fast::RandomState>>,
    /// The epoch of the store's prefixes this was read at.
    epoch: u64,
    /// What is said of a homed prefix that has no record.
    own: Option<OwnedRecord>,
}

/// How long the site of a prefix without a record may be cached, seconds.
const SITE_TTL: i32 = 86_400;

impl Authority {
    /// Reads the homed prefixes.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn load(store: &Store) -> Result<Self, StoreError> {
        let epoch = store.epoch(Space::Prefix);
        let mut homed = HashSet::default();
        let mut last: Vec<u8> = Vec::new();
        loop {
            let from = if last.is_empty() {
                Bound::Unbounded
            } else {
                Bound::Excluded(&last[..])
            };
            let page = store.scan(Space::Prefix, from, PREFIX_HANDLE, PAGE)?;
            let complete = page.len() < PAGE;
            for record in page {
                homed.insert(record.key()[PREFIX_HANDLE.len()..].into());
                last = record.key().to_vec();
            }
            if complete {
                return Ok(Self {
                    homed: Some(homed),
                    epoch,
                    own: None,
                });
            }
        }
    }

    /// Names `site`, a site record in wire form, as the service of homed prefixes that have no record:
    /// whoever asks the home of a prefix for its service has found it.
    #[must_use]
    pub fn announcing(mut self, site: &Bytes) -> Self {
        let public =
            Permissions::ADMIN_READ.0 | Permissions::ADMIN_WRITE.0 | Permissions::PUBLIC_READ.0;
        let value = Value {
            index: 1,
            timestamp: 0,
            ttl: Ttl::Relative(SITE_TTL),
            permissions: Permissions(public),
            kind: Bytes::from_static(b"HS_SITE"),
            data: site.clone(),
            references: Vec::new(),
        };
        let mut wire = Vec::new();
        value.encode(&mut wire);
        let value = DraftValue {
            index: value.index,
            permissions: public,
            sealed: false,
            wire: Bytes::from(wire),
        };
        let draft = Draft {
            handle: Bytes::new(),
            values: vec![value],
        };
        self.own = OwnedRecord::new(b"", &draft).ok();
        self
    }

    /// What is said of the prefix handle `key` when it has no record: the site of this node if that
    /// homes the prefix.
    pub(super) fn own_site(&self, key: &[u8]) -> Option<Record<'_>> {
        let prefix = key.strip_prefix(PREFIX_HANDLE)?;
        let homed = self.homed.as_ref()?.contains(prefix);
        self.own.as_ref().filter(|_| homed).map(OwnedRecord::view)
    }

    /// Whether the prefixes are not known yet, or changed since they were read.
    #[must_use]
    pub fn is_stale(&self, store: &Store) -> bool {
        self.homed.is_none() || store.epoch(Space::Prefix) != self.epoch
    }

    /// How many prefixes are homed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.homed.as_ref().map_or(0, HashSet::len)
    }

    /// Whether no prefix is homed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether this node answers for the folded handle `key`; nothing while that is not known.
    ///
    /// A prefix handle is answered by the home of the root, of the prefix itself, and of every
    /// prefix it is derived from: the parent knows where its children live.
    #[must_use]
    pub fn responsible(&self, key: &[u8]) -> Option<bool> {
        let homed = self.homed.as_ref()?;
        let Some(slash) = key.iter().position(|&byte| byte == b'/') else {
            return Some(false);
        };
        let (prefix, suffix) = (&key[..slash], &key[slash + 1..]);
        let ancestors = || lineage(suffix).any(|ancestor| homed.contains(ancestor));
        Some(homed.contains(prefix) || prefix == ROOT && ancestors())
    }
}

/// `88.118.9`, `88.118`, `88`.
fn lineage(prefix: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(Some(prefix), |prefix| parent(prefix))
}

/// `88.118.9` → `88.118`.
fn parent(prefix: &[u8]) -> Option<&[u8]> {
    let dot = prefix.iter().rposition(|&byte| byte == b'.')?;
    prefix.get(..dot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiexi_proto::value::ValueView;

    fn homing(prefixes: &[&str]) -> Authority {
        let homed = prefixes
            .iter()
            .map(|prefix| prefix.as_bytes().into())
            .collect();
        Authority {
            homed: Some(homed),
            epoch: 0,
            own: None,
        }
    }

    /// Goal: a second-level node answers for its own and for derived prefixes, and for nothing else.
    #[test]
    fn responsibility() {
        let node = homing(&["88.118", "88.118.8"]);
        for ours in [
            "88.118/X",
            "88.118.8/A/B",
            "0.NA/88.118",
            "0.NA/88.118.8",
            "0.NA/88.118.9.1",
        ] {
            assert_eq!(node.responsible(ours.as_bytes()), Some(true), "{ours}");
        }
        for foreign in [
            "88.118.9/X",
            "10.9999/1",
            "0.NA/88",
            "0.NA/0.NA",
            "0.NA/88.1189",
            "NOSLASH",
        ] {
            assert_eq!(
                node.responsible(foreign.as_bytes()),
                Some(false),
                "{foreign}"
            );
        }
    }

    /// Goal: only a homed prefix has the site of this node, and only when that is known.
    #[test]
    fn the_site_of_homed_prefixes() {
        assert!(homing(&["88.118"]).own_site(b"0.NA/88.118").is_none());
        let node = homing(&["88.118"]).announcing(&Bytes::from_static(b"site"));
        let record = node.own_site(b"0.NA/88.118").unwrap();
        let (value, _) = ValueView::split(record.wire()).unwrap();
        assert_eq!((value.kind, value.data), (&b"HS_SITE"[..], &b"site"[..]));
        for other in ["0.NA/88.118.9", "0.NA/88", "88.118/X", "0.NA/"] {
            assert!(node.own_site(other.as_bytes()).is_none(), "{other}");
        }
    }

    /// Goal: the home of the root answers for every prefix handle.
    #[test]
    fn the_root_answers_for_every_prefix_handle() {
        let root = homing(&["0.NA"]);
        assert_eq!(root.responsible(b"0.NA/10.1"), Some(true));
        assert_eq!(root.responsible(b"10.1/X"), Some(false));
        assert_eq!(Authority::default().responsible(b"10.1/X"), None);
    }
}
