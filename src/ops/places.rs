//! Places for connections. Those from this machine have their own: whoever fills the others keeps no supervisor, and no
//! `jiexi status`, from asking. Where none is left the connection gives way that has been silent longest.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

/// Simultaneous connections from this machine, and from others: scrapers and probes are few, and each costs memory.
pub(super) const LOCAL: usize = 16;
pub(super) const OTHERS: usize = 48;

/// All places.
#[derive(Debug, Default)]
pub(super) struct Places {
    local: Kind,
    others: Kind,
}

/// The places of one kind.
type Kind = Arc<Mutex<Vec<Arc<Held>>>>;

/// A place that is taken.
#[derive(Debug)]
struct Held {
    word: Mutex<Word>,
    /// The place is another connection's now.
    gone: CancellationToken,
}

/// What was last heard.
#[derive(Clone, Copy, Debug)]
struct Word {
    /// When it came, or was answered.
    at: Instant,
    /// Requests that came.
    requests: u64,
    /// Whether one is being answered.
    working: bool,
}

/// The place of one connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    held: Arc<Held>,
    kind: Kind,
}

impl Places {
    /// A place for a connection. `None` when those of its kind are all at work.
    pub(super) fn take(&self, local: bool) -> Option<Place> {
        let (kind, most) = match local {
            true => (&self.local, LOCAL),
            false => (&self.others, OTHERS),
        };
        let mut taken = lock(kind);
        if taken.len() >= most {
            let silent = taken
                .iter()
                .enumerate()
                .filter(|(_, held)| !lock(&held.word).working);
            let (longest, _) = silent.min_by_key(|(_, held)| lock(&held.word).at)?;
            taken.swap_remove(longest).gone.cancel();
        }
        let held = Arc::new(Held {
            word: Mutex::new(Word {
                at: Instant::now(),
                requests: 0,
                working: false,
            }),
            gone: CancellationToken::new(),
        });
        taken.push(Arc::clone(&held));
        Some(Place {
            held,
            kind: Arc::clone(kind),
        })
    }
}

impl Place {
    /// A request came.
    pub(super) fn begin(&self) {
        let mut word = lock(&self.held.word);
        (word.requests, word.working) = (word.requests + 1, true);
    }

    /// It is answered.
    pub(super) fn end(&self) {
        let mut word = lock(&self.held.word);
        (word.at, word.working) = (Instant::now(), false);
    }

    /// Whether a request came yet.
    pub(super) fn has_asked(&self) -> bool {
        lock(&self.held.word).requests > 0
    }

    /// Returns when another connection has the place.
    pub(super) async fn lost(&self) {
        self.held.gone.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.kind).retain(|held| !Arc::ptr_eq(held, &self.held));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a flood from elsewhere takes no place of this machine, the silent ones give way, oldest first, and whoever is
    /// being answered keeps its place.
    #[test]
    fn the_longest_silent_gives_way() {
        let places = Places::default();
        let others: Vec<_> = (0..OTHERS)
            .map(|_| places.take(false).expect("a place"))
            .collect();
        others[0].begin();
        let newest = places.take(false).expect("the place of the second");
        let lost = |place: &Place| place.held.gone.is_cancelled();
        assert!(!lost(&others[0]) && lost(&others[1]) && !lost(&others[2]));
        others[0].end();
        assert!(others[0].has_asked() && !newest.has_asked());
        let next = places.take(false).expect("the place of the third");
        assert!(!lost(&others[0]) && lost(&others[2]));
        for place in &others[3..] {
            place.begin();
        }
        others[0].begin();
        newest.begin();
        let here = places.take(true).expect("this machine has its own");
        drop(here);
        next.begin();
        assert!(places.take(false).is_none(), "all are at work");
        drop(others);
        assert!(places.take(false).is_some(), "a place that is left is free");
    }
}
