//! What has changed since a sequence, as far back as the journal reaches.

use std::collections::HashMap;

use bytes::Bytes;

use super::change::Space;
use super::error::StoreError;
use super::journal::{self, entry::Change, tail};
use super::shared::Shared;

/// The last change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The sequence of its batch.
    pub sequence: u64,
    /// Where the key is.
    pub space: Space,
    /// The key.
    pub key: Vec<u8>,
    /// Whether a record was put there; deleted otherwise.
    pub put: bool,
}

/// The last change of each key after sequence `after` and up to `until`, in the order of their sequences; none when the
/// journal does not reach back that far, or names a bulk import since.
pub(crate) fn changes(
    shared: &Shared,
    after: u64,
    until: u64,
) -> Result<Option<Vec<Changed>>, StoreError> {
    if after == until {
        return Ok(Some(Vec::new()));
    }
    let oldest = journal::segments(shared.dir())?
        .first()
        .map_or(until + 1, |segment| segment.first);
    if after > until || oldest > after + 1 {
        return Ok(None);
    }
    let mut last: HashMap<(u8, Vec<u8>), (u64, bool)> = HashMap::new();
    // What a bulk import changed is in no journal, and too much for a list.
    let mut bulk = false;
    tail::read(
        shared.dir(),
        shared.identity.epoch,
        (after, until),
        |entry| {
            let whole = entry.for_each_numbered(|sequence, change| {
                let (space, key, put) = match &change {
                    Change::Put(packed) => (packed.space_number(), packed.key().to_vec(), true),
                    Change::Delete { space, key } => (*space, key.to_vec(), false),
                    Change::Run(_) => {
                        bulk |= sequence > after && sequence <= until;
                        return;
                    }
                };
                if sequence > after && sequence <= until {
                    last.insert((space, key), (sequence, put));
                }
            });
            debug_assert!(whole, "the checksum of the entry was right");
            Ok(())
        },
    )?;
    if bulk {
        return Ok(None);
    }
    let mut changes: Vec<Changed> = last
        .into_iter()
        .filter_map(|((space, key), (sequence, put))| {
            Some(Changed {
                sequence,
                space: Space::from_number(space)?,
                key,
                put,
            })
        })
        .collect();
    changes.sort_by(|a, b| (a.sequence, &a.key).cmp(&(b.sequence, &b.key)));
    Ok(Some(changes))
}

/// The notes of the batches after sequence `after` and up to `until` that have one, as far back as the journal reaches,
/// in the order of their sequences.
pub(crate) fn notes(
    shared: &Shared,
    after: u64,
    until: u64,
) -> Result<Vec<(u64, Bytes)>, StoreError> {
    let oldest = journal::segments(shared.dir())?
        .first()
        .map_or(until, |segment| segment.first.saturating_sub(1));
    let after = after.max(oldest);
    let mut notes = Vec::new();
    if after >= until {
        return Ok(notes);
    }
    let epoch = shared.identity.epoch;
    tail::read(shared.dir(), epoch, (after, until), |entry| {
        let whole = entry.for_each_note(|sequence, note| {
            if sequence > after && sequence <= until && !note.is_empty() {
                notes.push((sequence, Bytes::copy_from_slice(note)));
            }
        });
        debug_assert!(whole, "the checksum of the entry was right");
        Ok(())
    })?;
    Ok(notes)
}
