//! How many requests a source network may make.

use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use crate::registry::source::Source;

/// Parts of the table, so that connections seldom wait for one another.
const SHARDS: usize = 16;
/// Networks remembered in one part; when there are more, those that are full again are forgotten.
const NETWORKS_MAX: usize = 8_192;

/// A bucket for each source network: `burst` at once, `rate` a second. The default allows everything.
#[derive(Debug, Default)]
pub struct Limit {
    rate: f64,
    burst: f64,
    hasher: RandomState,
    shards: [Mutex<Networks>; SHARDS],
}

type Networks = HashMap<Source, Spent, RandomState>;

#[derive(Clone, Copy, Debug)]
struct Spent {
    amount: f64,
    at: Instant,
}

impl Limit {
    /// Rate 0 allows everything.
    #[must_use]
    pub fn new(rate: u32, burst: u32) -> Self {
        Self {
            rate: rate.into(),
            burst: burst.into(),
            ..Self::default()
        }
    }

    /// Takes one request from the bucket of a network.
    ///
    /// # Errors
    /// It is empty: how many seconds the network must wait.
    pub fn take(&self, source: Source, now: Instant) -> Result<(), u32> {
        if self.rate == 0.0 {
            return Ok(());
        }
        let mut networks = self.networks(source);
        let before = self.spent(&networks, source, now);
        if before + 1.0 > self.burst {
            return Err(seconds((before + 1.0 - self.burst) / self.rate));
        }
        self.set(&mut networks, source, before + 1.0, now);
        Ok(())
    }

    /// Takes so many requests, which have been made, and says how long the network is to wait before it makes more.
    #[must_use]
    pub fn owe(&self, source: Source, requests: u64, now: Instant) -> Duration {
        if self.rate == 0.0 {
            return Duration::ZERO;
        }
        let mut networks = self.networks(source);
        #[expect(clippy::cast_precision_loss, reason = "a batch of requests")]
        let amount = self.spent(&networks, source, now) + requests as f64;
        self.set(&mut networks, source, amount, now);
        Duration::try_from_secs_f64((amount - self.burst) / self.rate).unwrap_or_default()
    }

    fn networks(&self, source: Source) -> MutexGuard<'_, Networks> {
        let place = usize::try_from(self.hasher.hash_one(source) >> 40).unwrap_or(0) % SHARDS;
        self.shards[place]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What a network has used and not been given back yet.
    fn spent(&self, networks: &Networks, source: Source, now: Instant) -> f64 {
        networks
            .get(&source)
            .map_or(0.0, |spent| self.left(spent, now))
    }

    fn left(&self, spent: &Spent, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(spent.at).as_secs_f64();
        (spent.amount - passed * self.rate).max(0.0)
    }

    fn set(&self, networks: &mut Networks, source: Source, amount: f64, now: Instant) {
        if networks.len() >= NETWORKS_MAX {
            networks.retain(|_, spent| self.left(spent, now) > 0.0);
            if networks.len() >= NETWORKS_MAX {
                // More networks than can be told apart: better no memory than no service.
                networks.clear();
            }
        }
        networks.insert(source, Spent { amount, at: now });
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a few seconds"
)]
fn seconds(wait: f64) -> u32 {
    wait.ceil() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::source::Sender;
    use std::time::Duration;

    /// Goal: a burst, then the rate; another network has its own.
    #[test]
    fn burst_then_rate() {
        let (limit, now) = (Limit::new(2, 3), Instant::now());
        let (one, two) = (
            Sender::proven("192.0.2.1".parse().unwrap()).source(),
            Sender::proven("192.0.3.1".parse().unwrap()).source(),
        );
        for _ in 0..3 {
            assert_eq!(limit.take(one, now), Ok(()));
        }
        assert_eq!(limit.take(one, now), Err(1));
        assert_eq!(limit.take(two, now), Ok(()));
        let later = now + Duration::from_millis(500);
        assert_eq!(limit.take(one, later), Ok(()));
        assert_eq!(limit.take(one, later), Err(1));
    }

    /// Goal: what was asked beyond the burst is waited for at the rate, also by those who take one at a time; what was
    /// asked first waits no longer for what comes later.
    #[test]
    fn debts_are_waited_for() {
        let (limit, now) = (Limit::new(10, 100), Instant::now());
        let one = Sender::proven("192.0.2.1".parse().unwrap()).source();
        assert_eq!(limit.owe(one, 100, now), Duration::ZERO);
        assert_eq!(limit.owe(one, 50, now), Duration::from_secs(5));
        assert_eq!(limit.owe(one, 10, now), Duration::from_secs(6));
        assert_eq!(limit.take(one, now), Err(7));
        let later = now + Duration::from_secs(7);
        assert_eq!(limit.owe(one, 10, later), Duration::ZERO);
        let free = Limit::default();
        assert_eq!(free.owe(one, u64::MAX, now), Duration::ZERO);
    }
}
