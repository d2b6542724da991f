//! What the index does not have yet, while it is filled from a snapshot: a record that is asked for is fetched from the
//! snapshot at once, and is in the index from then on.
//!
//! What is newer than the dump, from the snapshot's window and the journal, is in the index before anybody fetches. The
//! loader comes to the same records later, and leaves them; what was fetched, it counts at the end.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use foldhash::fast::RandomState;

use super::blocks;
use super::index::Index;
use super::journal::entry::Position;
use super::marks::Marks;
use super::metrics::Stopwatch;

/// How long a batch of look-ups may fetch; the rest is not known yet. Whoever answers others is held up by it.
const PATIENCE: Duration = Duration::from_millis(2);

/// Keys without a record, each a space number and a key.
pub(crate) type Deleted = HashSet<Vec<u8>, RandomState>;

/// See the module.
pub(crate) struct Unread {
    file: File,
    marks: Marks,
    /// Keys that the dump may have a record under, but nothing newer.
    deleted: Arc<Deleted>,
    /// What was fetched adds up to; none when nothing may be fetched any more.
    fetched: Mutex<Option<Position>>,
}

impl Unread {
    /// The dump of an open snapshot.
    pub(crate) fn new(file: File, marks: Marks, deleted: Arc<Deleted>) -> Self {
        Self {
            file,
            marks,
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

    /// Puts the record under a key into the index, if there is a sound one. Damage is for the loader to find.
    fn fetch_one(&self, index: &Index, space: u8, key: &[u8]) {
        if !self.deleted.is_empty() && self.deleted.contains(&[&[space], key].concat()) {
            return;
        }
        let Some((at, octets)) = self.marks.find(space, key) else {
            return;
        };
        let mut stretch = vec![0; octets];
        if self.file.read_exact_at(&mut stretch, at).is_err() {
            return;
        }
        let mut records = blocks::records(&stretch).map_while(|packed| packed);
        let found = records.find(|packed| (packed.space_number(), packed.key()) == (space, key));
        let Some(packed) = found else {
            return;
        };
        // Held while it is put: what is loaded may be changed, and this is older.
        let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(position) = &mut *fetched
            && index.put_if_absent(packed)
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
