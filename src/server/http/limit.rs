//! How many requests a source network may make.

use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use foldhash::fast::RandomState;

use crate::registry::source::Source;

/// Parts of the table, so that connections seldom wait for one another.
const SHARDS: usize = 16;
/// Networks remembered in one part; when there are more, those that are full again are forgotten.
const NETWORKS_MAX: usize = 8_192;

/// A bucket for each source network: `burst` at once, `rate` a second.
#[derive(Debug)]
pub(super) struct Limit {
    rate: f64,
    burst: f64,
    hasher: RandomState,
    shards: [Mutex<HashMap<Source, Spent, RandomState>>; SHARDS],
}

#[derive(Clone, Copy, Debug)]
struct Spent {
    amount: f64,
    at: Instant,
}

impl Limit {
    /// Rate 0 allows everything.
    pub(super) fn new(rate: u32, burst: u32) -> Self {
        Self {
            rate: rate.into(),
            burst: burst.into(),
            hasher: RandomState::default(),
            shards: Default::default(),
        }
    }

    /// Takes one request from the bucket of a network, or says how many seconds it must wait.
    pub(super) fn take(&self, source: Source, now: Instant) -> Result<(), u32> {
        if self.rate == 0.0 {
            return Ok(());
        }
        let place = usize::try_from(self.hasher.hash_one(source) >> 40).unwrap_or(0) % SHARDS;
        let Some(shard) = self.shards.get(place) else {
            return Ok(());
        };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let left = |spent: &Spent| {
            let passed = now.saturating_duration_since(spent.at).as_secs_f64();
            (spent.amount - passed * self.rate).max(0.0)
        };
        let before = shard.get(&source).map_or(0.0, left);
        if before + 1.0 > self.burst {
            let wait = (before + 1.0 - self.burst) / self.rate;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a few seconds"
            )]
            return Err(wait.ceil() as u32);
        }
        if shard.len() >= NETWORKS_MAX {
            shard.retain(|_, spent| left(spent) > 0.0);
            if shard.len() >= NETWORKS_MAX {
                // More networks than can be told apart: better no memory than no service.
                shard.clear();
            }
        }
        let amount = before + 1.0;
        shard.insert(source, Spent { amount, at: now });
        Ok(())
    }
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
}
