//! What the journal says of a change beside it: who asked, from where, what. The journal is first, so after a crash it may
//! know changes that the trail does not; by these notes the trail is completed, entry by entry as it would have been.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::Entry;

/// Entries of the trail are in the order in which changes were told, not in that of the journal: this many changes
/// before the last one it knows are looked for as well. More are never under way.
pub(super) const UNDER_WAY_MAX: u64 = 4_096;
/// Bytes from the end of the trail that are looked through.
pub(super) const TAIL_BYTES: u64 = 16 << 20;

/// The note of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Witness {
    /// The run of the node that writes the entries itself.
    pub(super) run: String,
    pub(super) time: u64,
    pub(super) identity: String,
    pub(super) source: String,
    /// Operation and handle of each change that was asked for.
    pub(super) changes: Vec<(String, String)>,
}

/// Which changes the end of a trail knows.
#[derive(Debug, Default)]
pub(super) struct Recent {
    known: HashSet<(u64, String, String)>,
    /// The first and the last of them.
    first: Option<u64>,
    last: Option<u64>,
}

impl Recent {
    /// Takes an entry in.
    pub(super) fn add(&mut self, entry: Entry) {
        let Some(change) = entry.change else {
            return;
        };
        self.first = Some(self.first.map_or(change, |first| first.min(change)));
        self.last = Some(self.last.map_or(change, |last| last.max(change)));
        self.known.insert((change, entry.operation, entry.handle));
    }

    /// After which sequence of a journal that ends at `end` the trail may lack changes; `cut` when the trail has more
    /// entries than were looked through.
    pub(super) fn begin(&self, end: u64, cut: bool) -> u64 {
        let last = self.last.map_or(end, |last| last.min(end));
        // Few changes may have many entries: of a trail that is cut at least the newer half is taken for whole.
        let sure = match (cut, self.first) {
            (true, Some(first)) => first + (UNDER_WAY_MAX / 2).min(last.saturating_sub(first) / 2),
            _ => 0,
        };
        last.saturating_sub(UNDER_WAY_MAX).max(sure)
    }

    /// Whether the trail tells of this.
    pub(super) fn knows(&self, change: u64, operation: &str, handle: &str) -> bool {
        let told = (change, operation.to_owned(), handle.to_owned());
        self.known.contains(&told)
    }
}
