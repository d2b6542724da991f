//! A change that is asked for again is answered again, not made again.
//!
//! The key is session, request id, and a digest of operation and body: a new socket or a message
//! that was signed anew makes no other change. While the first is still under way, those who ask
//! again wait for its answer.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

/// Octets of answers that are kept in all; the oldest give way. As many as half a million changes:
/// those of a minute at eight thousand a second.
pub const KEPT_MAX: usize = 128 << 20;
/// What keeping an answer costs besides its octets: key, state, and its place in the order.
const ANSWER_COST: usize = 256;
/// Those who may wait for one answer; more are told to come back.
pub const WAITING_MAX: usize = 8;

/// What makes two requests the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    session: u32,
    request: u32,
    digest: [u8; 32],
}

impl Key {
    /// The key of a request.
    #[must_use]
    pub fn new(session: u32, request: u32, op: u32, body: &[u8]) -> Self {
        let hash = Sha256::new().chain_update(op.to_be_bytes());
        Self {
            session,
            request,
            digest: hash.chain_update(body).finalize().into(),
        }
    }
}

/// What is to be done about a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Begin<W, A> {
    /// It is new: carry it out, then [`Retries::finish`].
    New(W),
    /// It is under way: whoever asked will be told.
    Waiting,
    /// This was the answer.
    Done(W, A),
    /// Too many wait for it.
    Crowded(W),
}

#[derive(Debug)]
enum State<W, A> {
    Running(Vec<W>),
    Done(A),
}

#[derive(Debug)]
struct Inner<W, A> {
    states: HashMap<Key, State<W, A>, foldhash::fast::RandomState>,
    /// Finished ones with their sizes, in the order in which they finished.
    order: VecDeque<(Key, Instant, usize)>,
    kept: usize,
}

/// Changes under way and answered: `W` is whoever asked, `A` the answer.
#[derive(Debug)]
pub struct Retries<W, A> {
    keep: Duration,
    inner: Mutex<Inner<W, A>>,
}

impl<W, A: Clone> Retries<W, A> {
    /// Keeps answers this long.
    #[must_use]
    pub fn new(keep: Duration) -> Self {
        let inner = Inner {
            states: HashMap::default(),
            order: VecDeque::new(),
            kept: 0,
        };
        Self {
            keep,
            inner: Mutex::new(inner),
        }
    }

    /// Takes a request up, or finds what became of it.
    pub fn begin(&self, key: Key, who: W, now: Instant) -> Begin<W, A> {
        let mut inner = self.lock();
        inner.expire(now, self.keep);
        match inner.states.get_mut(&key) {
            None => {
                inner.states.insert(key, State::Running(Vec::new()));
                Begin::New(who)
            }
            Some(State::Running(waiting)) if waiting.len() < WAITING_MAX => {
                waiting.push(who);
                Begin::Waiting
            }
            Some(State::Running(_)) => Begin::Crowded(who),
            Some(State::Done(answer)) => {
                let answer = answer.clone();
                Begin::Done(who, answer)
            }
        }
    }

    /// Keeps the answer, of so many octets, and says who else waits for it.
    #[must_use]
    pub fn finish(&self, key: Key, answer: A, octets: usize, now: Instant) -> Vec<W> {
        let mut inner = self.lock();
        let before = inner.states.insert(key, State::Done(answer));
        let size = octets + ANSWER_COST;
        inner.order.push_back((key, now, size));
        inner.kept += size;
        inner.expire(now, self.keep);
        waiting(before)
    }

    /// Forgets a request that was not carried out and may be tried again; says who else waits.
    #[must_use]
    pub fn forget(&self, key: Key) -> Vec<W> {
        let before = self.lock().states.remove(&key);
        waiting(before)
    }

    fn lock(&self) -> MutexGuard<'_, Inner<W, A>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn waiting<W, A>(state: Option<State<W, A>>) -> Vec<W> {
    match state {
        Some(State::Running(waiting)) => waiting,
        _ => Vec::new(),
    }
}

impl<W, A> Inner<W, A> {
    fn expire(&mut self, now: Instant, keep: Duration) {
        while let Some((key, finished, size)) = self.order.front() {
            let over = now.saturating_duration_since(*finished) > keep;
            if !over && self.kept <= KEPT_MAX {
                return;
            }
            self.kept -= size;
            self.states.remove(key);
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asked_again_is_answered_again() {
        let retries: Retries<&str, u32> = Retries::new(Duration::from_secs(60));
        let now = Instant::now();
        let key = Key::new(1, 2, 100, b"body");
        assert_eq!(retries.begin(key, "first", now), Begin::New("first"));
        assert_eq!(retries.begin(key, "second", now), Begin::Waiting);
        for other in [
            Key::new(1, 3, 100, b"body"),
            Key::new(2, 2, 100, b"body"),
            Key::new(1, 2, 102, b"body"),
        ] {
            assert_eq!(retries.begin(other, "other", now), Begin::New("other"));
        }
        assert_eq!(retries.finish(key, 7, 4, now), ["second"]);
        assert_eq!(retries.begin(key, "third", now), Begin::Done("third", 7));
        let later = now + Duration::from_secs(61);
        assert_eq!(retries.begin(key, "late", later), Begin::New("late"));
        assert!(retries.forget(key).is_empty());
        assert_eq!(retries.begin(key, "again", later), Begin::New("again"));
    }

    /// Goal: large answers do not add up: the oldest are forgotten.
    #[test]
    fn what_is_kept_is_bounded() {
        let retries: Retries<(), u32> = Retries::new(Duration::from_secs(60));
        let (now, octets) = (Instant::now(), 1 << 20);
        for request in 0..200 {
            let key = Key::new(1, request, 100, b"");
            assert_eq!(retries.begin(key, (), now), Begin::New(()));
            assert!(retries.finish(key, request, octets, now).is_empty());
        }
        assert!(retries.lock().states.len() <= KEPT_MAX / octets);
        let last = Key::new(1, 199, 100, b"");
        assert_eq!(retries.begin(last, (), now), Begin::Done((), 199));
        let first = Key::new(1, 0, 100, b"");
        assert_eq!(retries.begin(first, (), now), Begin::New(()));
    }
}
