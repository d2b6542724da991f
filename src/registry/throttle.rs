//! Wrong answers slow their sender down, and never lock the rightful owner out.
//!
//! A bucket for each identity and network: a handful of wrong answers at once, then one a second.
//! One for each network over all identities, and one for each identity over all networks. An
//! address that an identity has been proved from has a bucket of its own for it, and no other
//! counts there: neither guesses from everywhere nor those of its neighbours hold the owner up.
//! Signatures cannot be guessed, so they are only held by what their network costs us. Addresses
//! that may be forged share one bucket, which counts against nobody whose address is proven.
//!
//! An answer that finds its buckets full is not refused: it waits in a line ([`super::waiting`]) until they have room,
//! which is at the same guaranteed rate whoever guesses beside it. Before anybody's turn no key is looked at, so waiting
//! tells nothing of right and wrong; and a success gives nobody new guesses: it empties no bucket. Guessing is
//! therefore as slow with the line as without it: one a second of one identity from one network.
//!
//! In the line goes first who has failed least lately, by [`Throttle::standing`]: the owner next door to somebody who
//! guesses is there for the first time and is next. The owner behind the same address as the guesser cannot be told from
//! them before an answer is looked at, and waits for as many turns as answers wait there before: with a few connections
//! of the guesser some seconds. Only who keeps the line of an address full for good, with more connections than
//! [`super::waiting::LINE_MAX`], can still hold up those behind that very address who have not got a session: whoever is
//! let through there without being counted could be the guesser.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::auth::Identity;
use super::source::{Sender, Source};

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
    /// For one identity from one network, or from one address that has been right.
    pub pair: Rate,
    /// For one network, and for all forged ones together.
    pub source: Rate,
    /// For one identity from everywhere that has not been right.
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

/// Buckets remembered, and identities that were right; when there are more, those that matter least
/// are forgotten.
const ENTRIES_MAX: usize = 100_000;
/// Addresses remembered of one identity.
const ADDRESSES_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    /// An identity at an address that it has been proved from.
    Owner(Identity, IpAddr),
    Pair(Identity, Source),
    Source(Source),
    Identity(Identity),
    /// Whoever may be forged.
    Claimed,
    /// What an address has failed with an identity lately; and its network. They limit nothing.
    FailedAt(Identity, IpAddr),
    FailedIn(Identity, Source),
}

/// How fast failures are forgotten where they only say who goes first: one in twenty seconds.
const STANDING: Rate = Rate {
    burst: f64::INFINITY,
    per_second: 0.05,
};

#[derive(Clone, Copy, Debug)]
struct Bucket {
    spent: f64,
    at: Instant,
}

#[derive(Debug, Default)]
struct Inner {
    buckets: HashMap<Subject, Bucket, foldhash::fast::RandomState>,
    /// Addresses from which an identity was proved, the last one at the end.
    right: HashMap<Identity, Known, foldhash::fast::RandomState>,
}

#[derive(Debug)]
struct Known {
    addresses: VecDeque<IpAddr>,
    last: Instant,
}

/// An answer to a challenge, as far as its limits are concerned.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// Who they say they are.
    pub identity: &'a Identity,
    /// Where they are.
    pub sender: Sender,
    /// Whether the proof could be guessed: it is made with a secret that a person may have chosen.
    pub guessable: bool,
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

    /// Whether an answer is looked at.
    #[must_use]
    pub fn allows(&self, attempt: Attempt<'_>, now: Instant) -> bool {
        let inner = self.lock();
        inner
            .subjects(attempt, &self.limits)
            .into_iter()
            .all(|(subject, rate)| inner.spent(&subject, rate, now) < rate.burst)
    }

    /// An answer was wrong.
    pub fn failed(&self, attempt: Attempt<'_>, now: Instant) {
        let mut inner = self.lock();
        let mut subjects = inner.subjects(attempt, &self.limits);
        if attempt.sender.is_proven() {
            subjects.extend(standing_of(attempt).map(|subject| (subject, STANDING)));
        }
        for (subject, rate) in subjects {
            let spent = inner.spent(&subject, rate, now) + 1.0;
            inner.buckets.insert(subject, Bucket { spent, at: now });
        }
        inner.shrink(&self.limits, now);
    }

    /// An answer was right: from now on its address has a bucket of its own, in which is what this address has spent. Who
    /// guesses behind it gains nothing.
    pub fn succeeded(&self, attempt: Attempt<'_>, now: Instant) {
        if !attempt.sender.is_proven() {
            return;
        }
        let (identity, address) = (attempt.identity, host(attempt.sender.address()));
        let mut inner = self.lock();
        if !inner.knows(identity, address) {
            let pair = Subject::Pair(identity.clone(), attempt.sender.source());
            let [at, _] = standing_of(attempt);
            let failed = inner.spent(&at, STANDING, now);
            let spent = inner.spent(&pair, self.limits.pair, now).min(failed);
            let owner = Subject::Owner(identity.clone(), address);
            inner.buckets.insert(owner, Bucket { spent, at: now });
        }
        inner.remember(identity, address, now);
    }

    /// How much an address and its network have failed with an identity lately: who has least goes first.
    #[must_use]
    pub fn standing(&self, attempt: Attempt<'_>, now: Instant) -> f64 {
        let inner = self.lock();
        let failures = standing_of(attempt).map(|subject| inner.spent(&subject, STANDING, now));
        failures.iter().sum()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where failures are remembered to say who goes first.
fn standing_of(attempt: Attempt<'_>) -> [Subject; 2] {
    let identity = || attempt.identity.clone();
    [
        Subject::FailedAt(identity(), host(attempt.sender.address())),
        Subject::FailedIn(identity(), attempt.sender.source()),
    ]
}

/// What counts as one address: of IPv6 the half that names a network of one user.
fn host(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
    }
}

impl Inner {
    fn subjects(&self, attempt: Attempt<'_>, limits: &Limits) -> Vec<(Subject, Rate)> {
        let Attempt {
            identity,
            sender,
            guessable,
        } = attempt;
        if !sender.is_proven() {
            return vec![(Subject::Claimed, limits.source)];
        }
        let address = host(sender.address());
        if self.knows(identity, address) {
            let rate = if guessable {
                limits.pair
            } else {
                limits.source
            };
            return vec![(Subject::Owner(identity.clone(), address), rate)];
        }
        let source = sender.source();
        let mut subjects = vec![(Subject::Source(source), limits.source)];
        if guessable {
            subjects.push((Subject::Pair(identity.clone(), source), limits.pair));
            subjects.push((Subject::Identity(identity.clone()), limits.identity));
        }
        subjects
    }

    /// Whether an identity has been proved from an address.
    fn knows(&self, identity: &Identity, address: IpAddr) -> bool {
        let known = self.right.get(identity);
        known.is_some_and(|known| known.addresses.contains(&address))
    }

    fn remember(&mut self, identity: &Identity, address: IpAddr, now: Instant) {
        let known = self.right.entry(identity.clone()).or_insert_with(|| Known {
            addresses: VecDeque::new(),
            last: now,
        });
        known.last = now;
        known.addresses.retain(|other| *other != address);
        if known.addresses.len() >= ADDRESSES_MAX {
            known.addresses.pop_front();
        }
        known.addresses.push_back(address);
        if self.right.len() > ENTRIES_MAX {
            let mut times: Vec<Instant> = self.right.values().map(|known| known.last).collect();
            times.sort_unstable();
            let median = times.get(times.len() / 2).copied().unwrap_or(now);
            self.right.retain(|_, known| known.last > median);
        }
    }

    fn spent(&self, subject: &Subject, rate: Rate, now: Instant) -> f64 {
        let Some(bucket) = self.buckets.get(subject) else {
            return 0.0;
        };
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.spent - passed * rate.per_second).max(0.0)
    }

    fn shrink(&mut self, limits: &Limits, now: Instant) {
        if self.buckets.len() <= ENTRIES_MAX {
            return;
        }
        self.buckets.retain(|subject, bucket| {
            let rate = match subject {
                Subject::Owner(..) | Subject::Pair(..) => limits.pair,
                Subject::Source(_) | Subject::Claimed => limits.source,
                Subject::Identity(_) => limits.identity,
                Subject::FailedAt(..) | Subject::FailedIn(..) => STANDING,
            };
            let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
            bucket.spent > passed * rate.per_second
        });
        // Who goes first is the least that is lost.
        if self.buckets.len() > ENTRIES_MAX {
            self.buckets.retain(|subject, _| {
                !matches!(subject, Subject::FailedAt(..) | Subject::FailedIn(..))
            });
        }
        // Whoever fills the table with fresh failures is held by the bucket of their network.
        if self.buckets.len() > ENTRIES_MAX {
            self.buckets
                .retain(|subject, _| matches!(subject, Subject::Source(_) | Subject::Claimed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn owner() -> Identity {
        Identity {
            handle: b"0.NA/1".to_vec(),
            index: 300,
        }
    }

    fn at(network: u8, host: u8) -> Sender {
        Sender::proven(IpAddr::from([10, 0, network, host]))
    }

    fn guess(identity: &Identity, sender: Sender) -> Attempt<'_> {
        Attempt {
            identity,
            sender,
            guessable: true,
        }
    }

    /// Goal: guessing is slowed where it comes from, and who was right there has a bucket of their own from then on:
    /// once, however often they are right.
    #[test]
    fn guesses_are_slowed() {
        let (throttle, owner, now) = (Throttle::default(), owner(), Instant::now());
        let here = guess(&owner, at(2, 1));
        for _ in 0..10 {
            assert!(throttle.allows(here, now));
            throttle.failed(here, now);
        }
        assert!(!throttle.allows(here, now));
        assert!(
            !throttle.allows(guess(&owner, at(2, 9)), now),
            "the network"
        );
        assert!(throttle.allows(here, now + Duration::from_millis(1100)));
        let other = Identity {
            index: 301,
            ..owner.clone()
        };
        assert!(throttle.allows(guess(&other, at(2, 1)), now));
        throttle.succeeded(here, now);
        let text = "being right gives nobody behind the address new guesses";
        assert!(!throttle.allows(here, now), "{text}");
        assert!(throttle.allows(here, now + Duration::from_millis(1100)));
        let next_door = guess(&owner, at(2, 9));
        throttle.succeeded(next_door, now);
        for _ in 0..10 {
            assert!(throttle.allows(next_door, now));
            throttle.failed(next_door, now);
            throttle.succeeded(next_door, now);
        }
        assert!(!throttle.allows(next_door, now), "{text}");
    }

    /// Goal: the owner is locked out by nobody who is somewhere else, not even next door.
    #[test]
    fn the_owner_is_not_locked_out() {
        let (throttle, owner, now) = (Throttle::default(), owner(), Instant::now());
        let mine = guess(&owner, at(1, 1));
        throttle.succeeded(mine, now);
        for host in 2..=250 {
            throttle.failed(guess(&owner, at(1, host)), now);
        }
        for network in 3..=250 {
            throttle.failed(guess(&owner, at(network, 1)), now);
        }
        assert!(
            !throttle.allows(guess(&owner, at(251, 1)), now),
            "guesses from everywhere"
        );
        assert!(
            throttle.allows(mine, now),
            "an address that has been right before"
        );
        let signed = Attempt {
            guessable: false,
            ..guess(&owner, at(251, 1))
        };
        assert!(throttle.allows(signed, now), "a signature is no guess");
        for _ in 0..10 {
            throttle.failed(mine, now);
        }
        assert!(
            !throttle.allows(mine, now),
            "an address that has been right is held too"
        );
    }

    /// Goal: who forges addresses slows other forgers down, and nobody else.
    #[test]
    fn forged_addresses_count_against_nobody() {
        let (throttle, owner, now) = (Throttle::default(), owner(), Instant::now());
        let forged = |network| guess(&owner, Sender::claimed(at(network, 1).address()));
        for network in 0..100 {
            assert!(throttle.allows(forged(network), now));
            throttle.failed(forged(network), now);
        }
        assert!(!throttle.allows(forged(200), now));
        for network in 0..100 {
            assert!(throttle.allows(guess(&owner, at(network, 1)), now));
        }
        throttle.succeeded(forged(1), now);
        assert!(
            !throttle.allows(forged(1), now),
            "and are not remembered as right"
        );
    }

    /// Goal: who has a key of their own and many addresses does not make the table forget others.
    #[test]
    fn addresses_of_an_identity_are_bounded() {
        let (throttle, owner, now) = (Throttle::default(), owner(), Instant::now());
        for network in 0..=255 {
            throttle.succeeded(guess(&owner, at(network, 1)), now);
        }
        assert_eq!(throttle.lock().right[&owner].addresses.len(), ADDRESSES_MAX);
    }
}
