//! What the index does not have yet, while it is filled from a file: a record that is asked for is fetched from the file at
//! once, and is in the index from then on.
//!
//! What is newer than the file is in the index before anybody fetches. The loader comes to the same records later, and
//! leaves them; what was fetched, it counts at the end.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::Duration;

use foldhash::fast::RandomState;

use super::blocks::Unreadable;
use super::index::Index;
use super::journal::entry::Position;
use super::metrics::Stopwatch;
use super::record::Packed;

/// How long a batch of look-ups may fetch, as it is looked between reads; the rest is not known yet. Whoever answers others
/// is held up by it, so there is one that fetches at a time, and nobody waits for it.
const PATIENCE: Duration = Duration::from_millis(2);

/// Keys without a record, each a space number and a key.
pub(crate) type Deleted = HashSet<Vec<u8>, RandomState>;

/// Reads the record of a space under a key from a file; none when there is none. Where that takes several reads it ends when
/// it is told that it took too long. What cannot be read is for the loader to find.
pub(crate) type Read =
    dyn Fn(u8, &[u8], &dyn Fn() -> bool) -> Result<Option<Packed>, Unreadable> + Send + Sync;

/// See the module.
pub(crate) struct Unread {
    read: Box<Read>,
    /// Keys that the file may have a record under, but nothing newer.
    deleted: Arc<Deleted>,
    /// Held by the one that fetches.
    turn: Mutex<()>,
    /// What was fetched adds up to; none when nothing may be fetched any more.
    fetched: Mutex<Option<Position>>,
}

impl Unread {
    pub(crate) fn new(read: Box<Read>, deleted: Arc<Deleted>) -> Self {
        Self {
            read,
            deleted,
            turn: Mutex::default(),
            fetched: Mutex::new(Some(Position::default())),
        }
    }

    /// Puts the records under these keys into the index, as many as can be had in a short time.
    pub(crate) fn fetch(&self, index: &Index, space: u8, keys: &[&[u8]]) {
        let _turn = match self.turn.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let fetching = Stopwatch::start();
        let is_late = || fetching.elapsed() > PATIENCE;
        for (at, key) in keys.iter().enumerate() {
            if at > 0 && is_late() {
                return;
            }
            self.fetch_one(index, (space, key), &is_late);
        }
    }

    /// Puts the record under a key into the index, if there is one.
    fn fetch_one(&self, index: &Index, (space, key): (u8, &[u8]), is_late: &dyn Fn() -> bool) {
        if !self.deleted.is_empty() && self.deleted.contains(&[&[space], key].concat()) {
            return;
        }
        let Ok(Some(packed)) = (self.read)(space, key, is_late) else {
            return;
        };
        // Held while it is put: what is loaded may be changed, and this is older.
        let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(position) = &mut *fetched
            && index.put_if_absent(packed.view())
        {
            position.exchange(None, Some(packed.checksum()));
        }
    }

    /// Ends it; what was fetched.
    pub(crate) fn close(&self) -> Position {
        let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        fetched.take().unwrap_or_default()
    }
}
