//! Polls that wait or are being answered: how many of each token; and when it is time to write down who follows.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// Seconds after which it is written down again that a token follows changes.
const NOTED_EVERY: u32 = 3_600;

/// What one token has.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    polls: usize,
    /// Unix seconds when it was last written down.
    noted: Option<u32>,
}

#[derive(Debug)]
struct Inner {
    all: usize,
    each: usize,
    held: Mutex<HashMap<String, Held>>,
    ending: CancellationToken,
}

/// All polls.
#[derive(Clone, Debug)]
pub(in super::super) struct Polls(Arc<Inner>);

impl Polls {
    /// None yet; `all` at once, and `each` of one token.
    pub(in super::super) fn new((all, each): (usize, usize)) -> Self {
        Self(Arc::new(Inner {
            all,
            each,
            held: Mutex::default(),
            ending: CancellationToken::new(),
        }))
    }

    /// Whoever waits is answered now, and nobody waits any more: the node stops.
    pub(in super::super) fn end(&self) {
        self.0.ending.cancel();
    }

    /// Told by [`Self::end`].
    pub(super) fn ending(&self) -> &CancellationToken {
        &self.0.ending
    }

    /// One more poll of a token; none when there are as many as may be.
    pub(super) fn enter(&self, token: &str) -> Option<Poll> {
        let mut held = self.lock();
        let running: usize = held.values().map(|held| held.polls).sum();
        let own = held.get(token).map_or(0, |held| held.polls);
        if running >= self.0.all || own >= self.0.each {
            return None;
        }
        held.entry(token.to_owned()).or_default().polls += 1;
        drop(held);
        Some(Poll {
            polls: self.clone(),
            token: token.to_owned(),
        })
    }

    /// Whether it is to be written down at `now` (Unix seconds) that a token follows changes: not for each of its polls.
    pub(super) fn is_to_be_noted(&self, token: &str, now: u32) -> bool {
        let mut held = self.lock();
        // Whoever has not come for so long is written down when it comes again.
        held.retain(|_, held| {
            held.polls > 0
                || held
                    .noted
                    .is_some_and(|at| now < at.saturating_add(NOTED_EVERY))
        });
        let own = held.entry(token.to_owned()).or_default();
        let due = own
            .noted
            .is_none_or(|at| now >= at.saturating_add(NOTED_EVERY));
        if due {
            own.noted = Some(now);
        }
        due
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Held>> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A poll, until this is dropped.
#[derive(Debug)]
pub(super) struct Poll {
    polls: Polls,
    token: String,
}

impl Drop for Poll {
    fn drop(&mut self) {
        if let Some(own) = self.polls.lock().get_mut(&self.token) {
            own.polls = own.polls.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: bounds of each and of all hold, a poll that ends makes room, and a token is written down once an hour.
    #[test]
    fn bounds_and_notes() {
        let polls = Polls::new((3, 2));
        let one = [polls.enter("a"), polls.enter("a")];
        assert!(one.iter().all(Option::is_some));
        assert!(polls.enter("a").is_none(), "of one token");
        let other = polls.enter("b");
        assert!(other.is_some() && polls.enter("c").is_none(), "of all");
        drop(one);
        assert!(polls.enter("a").is_some());
        assert!(polls.is_to_be_noted("a", 100));
        assert!(!polls.is_to_be_noted("a", 3_699));
        assert!(polls.is_to_be_noted("b", 3_699));
        assert!(polls.is_to_be_noted("a", 3_700));
        assert!(polls.is_to_be_noted("z", 1 << 30));
        assert!(polls.lock().len() <= 2, "who went long ago is forgotten");
    }
}
