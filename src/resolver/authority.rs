//! Which prefixes are homed on this node.

use std::collections::HashSet;
use std::ops::Bound;

use crate::store::{Space, Store, StoreError};

/// The part of a prefix handle before the prefix itself.
const PREFIX_HANDLE: &[u8] = b"0.NA/";

/// The prefix of prefix handles, homed on a node that answers for the root.
const ROOT: &[u8] = b"0.NA";

/// How many prefixes are read from the store at once.
const PAGE: usize = 10_000;

/// The epoch of no store: prefixes that have not been read.
const UNKNOWN: u64 = u64::MAX;

/// The homed prefixes as of one epoch of the store; each worker keeps its own copy.
#[derive(Clone, Debug)]
pub struct Authority {
    /// Prefixes without the leading `0.NA/`, folded.
    homed: HashSet<Box<[u8]>, foldhash::fast::RandomState>,
    /// The epoch of the store's prefixes this was read at.
    epoch: u64,
}

impl Default for Authority {
    /// Nothing is known yet, so it is stale until it has been read.
    fn default() -> Self {
        Self {
            homed: HashSet::default(),
            epoch: UNKNOWN,
        }
    }
}

impl Authority {
    /// Whether the homed prefixes have been read; they cannot be while the store is loading.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.epoch != UNKNOWN
    }

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
                homed.insert(record.key[PREFIX_HANDLE.len()..].into());
                last = record.key;
            }
            if complete {
                return Ok(Self { homed, epoch });
            }
        }
    }

    /// Whether the store's prefixes changed since this was read.
    #[must_use]
    pub fn is_stale(&self, store: &Store) -> bool {
        store.epoch(Space::Prefix) != self.epoch
    }

    /// How many prefixes are homed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.homed.len()
    }

    /// Whether no prefix is homed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.homed.is_empty()
    }

    /// Whether this node answers for the folded handle `key`.
    ///
    /// A prefix handle is answered by the home of the root, of the prefix itself, and of every
    /// prefix it is derived from: the parent knows where its children live.
    #[must_use]
    pub fn responsible(&self, key: &[u8]) -> bool {
        let Some(slash) = key.iter().position(|&byte| byte == b'/') else {
            return false;
        };
        let (prefix, suffix) = (&key[..slash], &key[slash + 1..]);
        if self.homed.contains(prefix) {
            return true;
        }
        prefix == ROOT && self.homes_some_ancestor(suffix)
    }

    /// Whether `prefix` or a prefix it is derived from is homed.
    fn homes_some_ancestor(&self, mut prefix: &[u8]) -> bool {
        loop {
            if self.homed.contains(prefix) {
                return true;
            }
            match prefix.iter().rposition(|&byte| byte == b'.') {
                Some(dot) => prefix = &prefix[..dot],
                None => return false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn homing(prefixes: &[&str]) -> Authority {
        let homed = prefixes
            .iter()
            .map(|prefix| prefix.as_bytes().into())
            .collect();
        Authority { homed, epoch: 0 }
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
            assert!(node.responsible(ours.as_bytes()), "{ours}");
        }
        for foreign in [
            "88.118.9/X",
            "10.9999/1",
            "0.NA/88",
            "0.NA/0.NA",
            "0.NA/88.1189",
            "NOSLASH",
        ] {
            assert!(!node.responsible(foreign.as_bytes()), "{foreign}");
        }
    }

    /// Goal: the home of the root answers for every prefix handle.
    #[test]
    fn the_root_answers_for_every_prefix_handle() {
        let root = homing(&["0.NA"]);
        assert!(root.responsible(b"0.NA/10.1"));
        assert!(!root.responsible(b"10.1/X"));
    }
}
