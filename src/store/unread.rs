//! What the index does not have yet, while it is filled from a file: a record that is asked for is fetched from the file at
//! once, and is in the index from then on.
//!
//! What is newer than the file is in the index before anybody fetches. The loader comes to the same records later, and
//! leaves them; what was fetched, it counts at the end.
//!
//! Who asks waits a moment. What takes longer, because a record may be in many places of the file, is left to a thread that
//! has the time: whoever asks again some time later finds it.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use foldhash::fast::RandomState;

use super::blocks::Unreadable;
use super::index::Index;
use super::journal::entry::Position;
use super::metrics::Stopwatch;
use super::record::Packed;

/// How long a batch of look-ups may fetch, as it is looked between reads; the rest is not known yet. Whoever answers others
/// is held up by it, so of those who ask one fetches at a time, and nobody waits for it.
const PATIENCE: Duration = Duration::from_millis(2);

/// Keys that are left to the thread at most; who asks for more asks again.
const LEFT_MAX: usize = 1024;

/// Keys of which is remembered that the file has no record, at most.
const ABSENT_MAX: usize = 65_536;

/// Keys without a record, each a space number and a key.
pub(crate) type Deleted = HashSet<Vec<u8>, RandomState>;

/// Reads the record of a space under a key from a file; none when there is none. Where that takes several reads it ends when
/// it is told that it took too long, or that nobody wants it any more. What cannot be read is for the loader to find.
pub(crate) type Read =
    dyn Fn(u8, &[u8], &dyn Fn() -> bool) -> Result<Option<Packed>, Unreadable> + Send + Sync;

/// See the module.
pub(crate) struct Unread {
    read: Box<Read>,
    /// Keys that the file may have a record under, but nothing newer.
    deleted: Arc<Deleted>,
    /// Held by the one that fetches, of those who ask.
    turn: Mutex<()>,
    /// What was fetched adds up to; none when nothing may be fetched any more.
    fetched: Mutex<Option<Position>>,
    /// What took too long, each a space number and a key.
    left: Mutex<VecDeque<Vec<u8>>>,
    /// What the file has no record of, each a space number and a key: to find that out takes longest.
    absent: Mutex<Deleted>,
    /// There is something left, or it ends.
    more: Condvar,
}

/// Ends it when dropped.
pub(crate) struct Ending<'u>(&'u Unread);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Unread {
    pub(crate) fn new(read: Box<Read>, deleted: Arc<Deleted>) -> Self {
        Self {
            read,
            deleted,
            turn: Mutex::default(),
            fetched: Mutex::new(Some(Position::default())),
            left: Mutex::default(),
            absent: Mutex::default(),
            more: Condvar::new(),
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
                return self.leave(space, &keys[at..]);
            }
            if !self.fetch_one(index, (space, key), &is_late) && is_late() {
                self.leave(space, &keys[at..=at]);
            }
        }
    }

    /// Leaves keys to the thread.
    fn leave(&self, space: u8, keys: &[&[u8]]) {
        let mut left = self.left();
        for key in keys {
            let place = [&[space], *key].concat();
            if left.len() >= LEFT_MAX {
                break;
            }
            if !left.contains(&place) {
                left.push_back(place);
            }
        }
        self.more.notify_one();
    }

    /// Fetches what was left, until it ends.
    pub(crate) fn go_after(&self, index: &Index) {
        let has_ended = || self.fetched().is_none();
        loop {
            let mut left = self.left();
            let place = loop {
                if has_ended() {
                    return;
                }
                match left.front() {
                    // It stays until it was looked for, or others would leave it again.
                    Some(place) => break place.clone(),
                    None => left = self.more.wait(left).unwrap_or_else(PoisonError::into_inner),
                }
            };
            drop(left);
            if let Some((space, key)) = place.split_first()
                && index.with(*space, key, |_| ()).is_none()
            {
                self.fetch_one(index, (*space, key), &has_ended);
            }
            self.left().pop_front();
        }
    }

    /// Puts the record under a key into the index, if there is one; whether that is known.
    fn fetch_one(
        &self,
        index: &Index,
        (space, key): (u8, &[u8]),
        is_late: &dyn Fn() -> bool,
    ) -> bool {
        let place = [&[space], key].concat();
        if self.deleted.contains(&place) || self.absent().contains(&place) {
            return true;
        }
        let packed = match (self.read)(space, key, is_late) {
            Ok(Some(packed)) => packed,
            Ok(None) => {
                let mut absent = self.absent();
                if absent.len() < ABSENT_MAX {
                    absent.insert(place);
                }
                return true;
            }
            Err(Unreadable) => return false,
        };
        // Held while it is put: what is loaded may be changed, and this is older.
        let mut fetched = self.fetched();
        if let Some(position) = &mut *fetched
            && index.put_if_absent(packed.view())
        {
            position.exchange(None, Some(packed.checksum()));
        }
        true
    }

    /// Ends it when that is dropped.
    pub(crate) fn ending(&self) -> Ending<'_> {
        Ending(self)
    }

    /// Ends it; what was fetched.
    pub(crate) fn close(&self) -> Position {
        let fetched = self.fetched().take();
        // Under the lock: the thread waits, or it looks whether this has ended before it does.
        let _left = self.left();
        self.more.notify_all();
        fetched.unwrap_or_default()
    }

    fn fetched(&self) -> MutexGuard<'_, Option<Position>> {
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn absent(&self) -> MutexGuard<'_, Deleted> {
        self.absent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn left(&self) -> MutexGuard<'_, VecDeque<Vec<u8>>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use bytes::Bytes;

    use super::*;
    use crate::store::change::{Draft, Space};

    /// Goal: what takes too long for who asks is found by the thread, once, and the thread ends. Method: a file whose first
    /// read takes too long.
    #[test]
    fn what_takes_too_long_is_found_later() {
        let draft = Draft {
            handle: Bytes::from_static(b"88.118/a"),
            values: Vec::new(),
        };
        let mut packed = Packed::encode(Space::Handle, b"88.118/a", &draft).unwrap();
        packed.seal(1);
        let sum = packed.checksum();
        let reads = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&reads);
        let read: Box<Read> = Box::new(move |_, _, is_late| {
            if counted.fetch_add(1, Ordering::Relaxed) > 0 {
                return Ok(Some(packed.clone()));
            }
            while !is_late() {
                thread::yield_now();
            }
            Err(Unreadable)
        });
        let unread = Unread::new(read, Arc::default());
        let index = Index::new();
        let (space, key): (u8, &[u8]) = (Space::Handle.number(), b"88.118/a");
        unread.fetch(&index, space, &[key]);
        assert_eq!(index.len(), 0);
        thread::scope(|scope| {
            let _ending = unread.ending();
            scope.spawn(|| unread.go_after(&index));
            while index.len() == 0 {
                thread::yield_now();
            }
            let fetched = unread.close();
            assert_eq!((fetched.count, fetched.sum), (1, sum));
        });
        assert_eq!(reads.load(Ordering::Relaxed), 2);
    }
}
