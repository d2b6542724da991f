//! How far behind a standby is.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What is known of the way to the primary. It outlives the node when that starts anew with another store.
#[derive(Debug)]
pub struct Watch {
    /// Where the primary is.
    pub place: String,
    /// Its newest sequence, when it was last heard of.
    newest: AtomicU64,
    /// The last time at which everything of it was here; when this began, before.
    level: Mutex<Instant>,
    connected: AtomicBool,
    /// Snapshots that were taken in, and connections that failed.
    pub(super) boots: AtomicU64,
    pub(super) failures: AtomicU64,
}

/// How far behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// Sequences, as far as is known.
    pub sequences: u64,
    /// What is answered is at most so old.
    pub time: Duration,
}

impl Watch {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(place: &str, now: Instant) -> Self {
        Self {
            place: place.to_owned(),
            newest: AtomicU64::new(0),
            level: Mutex::new(now),
            connected: AtomicBool::new(false),
            boots: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }

    /// The primary was at `newest` at this time; this node is at `own` now.
    pub(super) fn heard(&self, newest: u64, at: Instant, own: u64) {
        self.newest.store(newest, Relaxed);
        if own >= newest {
            *self.level.lock().unwrap_or_else(PoisonError::into_inner) = at;
        }
    }

    pub(super) fn set_connected(&self, connected: bool) -> bool {
        self.connected.swap(connected, Relaxed)
    }

    /// Whether the primary was reached the last time it was tried.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connected.load(Relaxed)
    }

    /// The newest sequence of the primary that is known.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.newest.load(Relaxed)
    }

    /// How far a node that is at `own` is behind.
    #[must_use]
    pub fn lag(&self, own: u64, now: Instant) -> Lag {
        let level = *self.level.lock().unwrap_or_else(PoisonError::into_inner);
        Lag {
            sequences: self.newest().saturating_sub(own),
            time: now.saturating_duration_since(level),
        }
    }

    /// Snapshots that were taken in.
    #[must_use]
    pub fn boots(&self) -> u64 {
        self.boots.load(Relaxed)
    }

    /// Connections that failed or were refused.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the age of answers is the time since the last moment in which nothing was missing, also when nothing is heard.
    #[test]
    fn lag_is_counted_from_the_last_level_moment() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let watch = Watch::new("https://p", start);
        assert_eq!(watch.lag(0, at(3)).time, Duration::from_secs(3));
        watch.heard(10, at(4), 10);
        watch.heard(20, at(5), 15);
        let lag = watch.lag(15, at(6));
        assert_eq!((lag.sequences, lag.time), (5, Duration::from_secs(2)));
        watch.heard(20, at(7), 20);
        let lag = watch.lag(20, at(9));
        assert_eq!((lag.sequences, lag.time), (0, Duration::from_secs(2)));
    }
}
