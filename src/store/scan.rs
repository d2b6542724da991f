//! Ordered reading: the keys come from sled, the overlay and its runs, which together have every key; the records come from
//! the index, which is always right. Without a complete sled the keys come from the index, too, which costs a reading of
//! all of it.

use std::iter::Peekable;
use std::ops::Bound;

use super::change::Space;
use super::error::StoreError;
use super::index::Miss;
use super::overlay::{FullKey, View};
use super::record::OwnedRecord;
use super::shared::Shared;
use super::sled::EngineError;

/// Fewest keys that are taken from the overlay at once.
const PAGE_MIN: usize = 64;

/// Up to `limit` records of a space after `from` that begin with `prefix`, in the order of their keys.
pub(crate) fn scan(
    shared: &Shared,
    space: Space,
    from: Bound<&[u8]>,
    prefix: &[u8],
    limit: usize,
) -> Result<Vec<OwnedRecord>, StoreError> {
    match shared.index.miss() {
        Miss::Absent => {}
        Miss::Closed | Miss::Loading => return Err(StoreError::Loading),
        Miss::Damaged => {
            return Err(shared
                .failure()
                .map_or(StoreError::Loading, StoreError::Failed));
        }
    }
    let full = |key: &[u8]| [&[space.number()], key].concat();
    let prefix = full(prefix);
    let mut from = match from {
        Bound::Included(key) if full(key) > prefix => Bound::Included(full(key)),
        Bound::Excluded(key) if full(key) >= prefix => Bound::Excluded(full(key)),
        Bound::Included(_) | Bound::Excluded(_) | Bound::Unbounded => {
            Bound::Included(prefix.clone())
        }
    };
    let mut records = Vec::new();
    while records.len() < limit {
        let wanted = limit - records.len();
        let page = keys(shared, borrowed(&from), &prefix, wanted);
        records.extend(page.keys.iter().filter_map(|key| {
            shared
                .index
                .with(key[0], &key[1..], |packed| packed.record().to_owned())
        }));
        match page.keys.into_iter().next_back() {
            Some(last) if page.more => from = Bound::Excluded(last),
            _ => break,
        }
    }
    records.truncate(limit);
    Ok(records)
}

struct Page {
    /// Some keys from the beginning of the range on, in order, none left out; not all of them need have a record.
    keys: Vec<Vec<u8>>,
    /// Whether there may be more.
    more: bool,
}

fn keys(shared: &Shared, from: Bound<&[u8]>, prefix: &[u8], wanted: usize) -> Page {
    // First the overlay, then sled: what is in neither then was in the overlay before, and so in sled now.
    let mut view = shared.overlay.view(from, prefix, wanted.max(PAGE_MIN));
    let added = add_runs(&mut view, from, prefix, wanted.max(PAGE_MIN));
    let merged = match added {
        Ok(()) => merge(&view, from, prefix, wanted),
        Err(error) => Some(Err(EngineError::other(error.to_string()))),
    };
    match merged {
        Some(Ok(page)) => page,
        Some(Err(error)) => {
            tracing::error!(
                event = "sled.scan_failed",
                error = error.message,
                "scan: sled or a run failed; the index is read instead"
            );
            shared.request(|requests| requests.rebuild = true);
            from_index(shared, from, prefix, wanted)
        }
        None => from_index(shared, from, prefix, wanted),
    }
}

/// Adds the first keys of the runs to those of the overlay.
fn add_runs(
    view: &mut View,
    from: Bound<&[u8]>,
    prefix: &[u8],
    limit: usize,
) -> Result<(), StoreError> {
    if view.engine.is_none() || view.runs.is_empty() {
        return Ok(());
    }
    for run in &view.runs {
        view.keys.extend(run.keys(from, prefix, limit)?);
    }
    view.keys.sort_unstable();
    view.keys.dedup();
    view.cut = view.keys.len() >= limit;
    view.keys.truncate(limit);
    Ok(())
}

/// The first keys of sled and overlay together; none without a sled.
fn merge(
    view: &View,
    from: Bound<&[u8]>,
    prefix: &[u8],
    wanted: usize,
) -> Option<Result<Page, EngineError>> {
    let engine = view.engine.as_ref()?;
    let (start, skip) = match from {
        Bound::Included(start) => (start, false),
        Bound::Excluded(start) => (start, true),
        Bound::Unbounded => (prefix, false),
    };
    let stored = engine.keys(start, prefix);
    let stored = stored.filter(|key| !(skip && key.as_ref().is_ok_and(|key| key == start)));
    Some(merge_keys(stored.peekable(), view, wanted))
}

fn merge_keys(
    mut stored: Peekable<impl Iterator<Item = Result<Vec<u8>, EngineError>>>,
    view: &View,
    wanted: usize,
) -> Result<Page, EngineError> {
    let mut pending = view.keys.iter().peekable();
    let mut keys: Vec<Vec<u8>> = Vec::new();
    while keys.len() < wanted {
        if view.cut && pending.peek().is_none() {
            // Keys of the overlay beyond this were not taken: sled alone does not say what comes next.
            return Ok(Page { keys, more: true });
        }
        let next = match (stored.peek(), pending.peek()) {
            (Some(Ok(a)), Some(b)) if a.as_slice() > &***b => from_overlay(pending.next()),
            (Some(Ok(a)), Some(b)) if a.as_slice() == &***b => {
                pending.next();
                stored.next().transpose()?
            }
            (None, Some(_)) => from_overlay(pending.next()),
            _ => stored.next().transpose()?,
        };
        match next {
            Some(key) => keys.push(key),
            None => return Ok(Page { keys, more: false }),
        }
    }
    Ok(Page { keys, more: true })
}

fn from_overlay(key: Option<&FullKey>) -> Option<Vec<u8>> {
    key.map(|key| key.to_vec())
}

/// The first keys of the index.
fn from_index(shared: &Shared, from: Bound<&[u8]>, prefix: &[u8], wanted: usize) -> Page {
    let keys = shared.index.page(from, prefix, wanted);
    Page {
        more: keys.len() == wanted,
        keys,
    }
}

fn borrowed(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}
