//! What the index does not have yet, while it is filled from a file: a record that is asked for is fetched from the file at
//! once, and is in the index from then on.
//!
//! What is newer than the file is in the index before anybody fetches. The loader comes to the same records later, and
//! leaves them; what was fetched, it counts at the end.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use foldhash::fast::RandomState;

use super::index::Index;
use super::journal::entry::Position;
use super::metrics::Stopwatch;
use super::record::Packed;

/// How long a batch of look-ups may fetch; the rest is not known yet. Whoever answers others is held up by it.
const PATIENCE: Duration = Duration::from_millis(2);

/// Keys without a record, each a space number and a key.
pub(crate) type Deleted = HashSet<Vec<u8>, RandomState>;

/// Reads the sound record of a space under a key from a file, if there is one. Damage is for the loader to find.
pub(crate) type Read = dyn Fn(u8, &[u8]) -> Option<Packed> + Send + Sync;

/// See the module.
pub(crate) struct Unread {
    read: Box<Read>,
    /// Keys that the file may have a record under, but nothing newer.
    deleted: Arc<Deleted>,
    /// What was fetched adds up to; none when nothing may be fetched any more.
    fetched: Mutex<Option<Position>>,
}

impl Unread {
    pub(crate) fn new(read: Box<Read>, deleted: Arc<Deleted>) -> Self {
        Self {
            read,
            deleted,
            fetched: Mutex::new(Some(Position::default())),
        }
    }

    /// Puts the records under these keys into the index, as many as can be had in a short time.
    pub(crate) fn fetch(&self, index: &Index, space: u8, keys: &[&[u8]]) {
        let fetching = Stopwatch::start();
        for key in keys {
            if fetching.elapsed() > PATIENCE {
                return;
            }
            self.fetch_one(index, space, key);
        }
    }

    /// Puts the record under a key into the index, if there is one.
    fn fetch_one(&self, index: &Index, space: u8, key: &[u8]) {
        if !self.deleted.is_empty() && self.deleted.contains(&[&[space], key].concat()) {
            return;
        }
        let Some(packed) = (self.read)(space, key) else {
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
