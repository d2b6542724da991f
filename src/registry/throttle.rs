//! Wrong answers slow their sender down, and nobody else.
//!
//! A bucket for each identity and source network: a handful of wrong answers at once, then one a
//! second. One for each network over all identities, and one for each identity over all networks
//! that have never been right: who guesses from everywhere is slowed, while the rightful owner, on
//! a network that has been right before, is not. Refusals cost nothing to make: they are made
//! before any key is looked at, so they do not tell a right answer from a wrong one.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::auth::Identity;
use super::source::Source;

/// A bucket's size, and how many a second come back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Wrong answers at once.
    pub burst: f64,
    /// Wrong answers a second after that.
    pub per_second: f64,
}

/// The limits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// For one identity from one network.
    pub pair: Rate,
    /// For one network.
    pub source: Rate,
    /// For one identity from networks that have not been right.
    pub identity: Rate,
}

impl Default for Limits {
    fn default() -> Self {
        let rate = |burst, per_second| Rate { burst, per_second };
        Self {
            pair: rate(10.0, 1.0),
            source: rate(100.0, 10.0),
            identity: rate(200.0, 10.0),
        }
    }
}

/// Buckets and networks remembered; when there are more, those that are full again are forgotten.
const ENTRIES_MAX: usize = 100_000;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    Pair(Identity, Source),
    Source(Source),
    Identity(Identity),
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    spent: f64,
    at: Instant,
}

#[derive(Debug, Default)]
struct Inner {
    buckets: HashMap<Subject, Bucket, foldhash::fast::RandomState>,
    /// Networks from which an identity was proved, with the time of the last proof.
    right: HashMap<(Identity, Source), Instant, foldhash::fast::RandomState>,
}

/// Counts wrong answers.
#[derive(Debug, Default)]
pub struct Throttle {
    limits: Limits,
    inner: Mutex<Inner>,
}

impl Throttle {
    /// With these limits.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            inner: Mutex::default(),
        }
    }

    /// Whether an answer of this identity from this network is looked at.
    #[must_use]
    pub fn allows(&self, identity: &Identity, source: Source, now: Instant) -> bool {
        let inner = self.lock();
        let known = inner.right.contains_key(&(identity.clone(), source));
        self.subjects(identity, source, known)
            .into_iter()
            .flatten()
            .all(|(subject, rate)| inner.spent(&subject, rate, now) < rate.burst)
    }

    /// An answer was wrong.
    pub fn failed(&self, identity: &Identity, source: Source, now: Instant) {
        let mut inner = self.lock();
        let known = inner.right.contains_key(&(identity.clone(), source));
        for (subject, rate) in self.subjects(identity, source, known).into_iter().flatten() {
            let spent = inner.spent(&subject, rate, now) + 1.0;
            inner.buckets.insert(subject, Bucket { spent, at: now });
        }
        inner.shrink(&self.limits, now);
    }

    /// An answer was right.
    pub fn succeeded(&self, identity: &Identity, source: Source, now: Instant) {
        let mut inner = self.lock();
        inner
            .buckets
            .remove(&Subject::Pair(identity.clone(), source));
        inner.right.insert((identity.clone(), source), now);
    }

    fn subjects(
        &self,
        identity: &Identity,
        source: Source,
        known: bool,
    ) -> [Option<(Subject, Rate)>; 3] {
        let everywhere = (Subject::Identity(identity.clone()), self.limits.identity);
        [
            Some((Subject::Pair(identity.clone(), source), self.limits.pair)),
            Some((Subject::Source(source), self.limits.source)),
            (!known).then_some(everywhere),
        ]
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn spent(&self, subject: &Subject, rate: Rate, now: Instant) -> f64 {
        let Some(bucket) = self.buckets.get(subject) else {
            return 0.0;
        };
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.spent - passed * rate.per_second).max(0.0)
    }

    fn shrink(&mut self, limits: &Limits, now: Instant) {
        if self.buckets.len() > ENTRIES_MAX {
            self.buckets.retain(|subject, bucket| {
                let rate = match subject {
                    Subject::Pair(..) => limits.pair,
                    Subject::Source(_) => limits.source,
                    Subject::Identity(_) => limits.identity,
                };
                let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
                bucket.spent > passed * rate.per_second
            });
            // Whoever fills the table with fresh failures is held by the bucket of their network.
            if self.buckets.len() > ENTRIES_MAX {
                self.buckets
                    .retain(|subject, _| !matches!(subject, Subject::Pair(..)));
            }
        }
        if self.right.len() > ENTRIES_MAX {
            let mut times: Vec<Instant> = self.right.values().copied().collect();
            times.sort_unstable();
            let median = times[times.len() / 2];
            self.right.retain(|_, time| *time > median);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn source(number: u8) -> Source {
        Source::of(std::net::IpAddr::from([10, 0, number, 1]))
    }

    /// Goal: guessing is slowed where it comes from; the owner is never locked out elsewhere.
    #[test]
    fn the_owner_is_not_locked_out() {
        let throttle = Throttle::default();
        let (owner, now) = (
            Identity {
                handle: b"0.NA/1".to_vec(),
                index: 300,
            },
            Instant::now(),
        );
        throttle.succeeded(&owner, source(1), now);
        for _ in 0..10 {
            assert!(throttle.allows(&owner, source(2), now));
            throttle.failed(&owner, source(2), now);
        }
        assert!(!throttle.allows(&owner, source(2), now));
        assert!(throttle.allows(&owner, source(2), now + Duration::from_millis(1100)));
        // From everywhere.
        for number in 3..=250 {
            throttle.failed(&owner, source(number), now);
        }
        assert!(!throttle.allows(&owner, source(251), now));
        assert!(
            throttle.allows(&owner, source(1), now),
            "a network that has been right before"
        );
        let other = Identity {
            index: 301,
            ..owner.clone()
        };
        assert!(throttle.allows(&other, source(251), now));
        throttle.succeeded(&owner, source(2), now);
        assert!(
            throttle.allows(&owner, source(2), now),
            "being right forgives"
        );
    }
}
