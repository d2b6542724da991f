//! The guard against amplification: a budget of answer bytes for each source network.
//!
//! A datagram's source address proves nothing, and answers are larger than questions. Each network
//! (a /24, a /56) has a token bucket of bytes; over budget a datagram gets no answer, and a real
//! client turns to TCP by itself. A network with an open TCP connection has proven its addresses
//! and is exempt. Loopback is not.
//!
//! Every worker keeps its own table, so that nothing is shared between cores on the hot path, and
//! is given its share of the configured rate and burst. An answer that is larger than a share, but not than the burst,
//! leaves once the share is whole, and is owed for.

use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use foldhash::fast::RandomState;

/// How many buckets share a place in the table.
const WAYS: usize = 4;

/// How long a network that was found exempt stays so before it is asked again, milliseconds.
const EXEMPT_MS: u64 = 100;

/// The bounds of the budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Bytes of answers a second for one source network, over all workers; 0 switches the guard off.
    pub bytes_per_second: u64,
    /// Bytes that may be answered at once after a pause.
    pub burst_bytes: u64,
    /// Leading bits of an IPv4 address that name its network, at most 32.
    pub ipv4_prefix: u8,
    /// Leading bits of an IPv6 address that name its network, at most 56.
    pub ipv6_prefix: u8,
    /// Networks each worker remembers.
    pub networks: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bytes_per_second: 1024 * 1024,
            burst_bytes: 1024 * 1024,
            ipv4_prefix: 24,
            ipv6_prefix: 56,
            networks: 16_384,
        }
    }
}

impl Config {
    /// The network of an address: its leading bits, and the family in the highest octet.
    fn network(&self, address: IpAddr) -> u64 {
        match address {
            IpAddr::V4(v4) => {
                let bits = u64::from(v4.to_bits());
                let host = 32 - u32::from(self.ipv4_prefix.min(32));
                (4 << 56) | (bits >> host << host)
            }
            IpAddr::V6(v6) => {
                let bits = u64::try_from(v6.to_bits() >> 72).unwrap_or(0);
                let host = 56 - u32::from(self.ipv6_prefix.min(56));
                (6 << 56) | (bits >> host << host)
            }
        }
    }
}

/// The networks with open TCP connections.
#[derive(Debug, Default)]
pub struct Proven {
    config: Config,
    connections: Mutex<HashMap<u64, u32, RandomState>>,
}

impl Proven {
    /// No network yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            connections: Mutex::default(),
        }
    }

    /// A connection from `address` was opened.
    pub fn opened(&self, address: IpAddr) {
        *self.lock().entry(self.config.network(address)).or_default() += 1;
    }

    /// A connection from `address` was closed.
    pub fn closed(&self, address: IpAddr) {
        let network = self.config.network(address);
        let mut connections = self.lock();
        if let Some(count) = connections.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                connections.remove(&network);
            }
        }
    }

    fn contains(&self, network: u64) -> bool {
        self.lock().contains_key(&network)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, u32, RandomState>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The budget of one network.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// The network; 0 for an empty place.
    network: u64,
    /// Bytes that may be answered now; below zero what is owed.
    tokens: i64,
    /// When tokens were added last, milliseconds since the table was made.
    filled_ms: u64,
    /// Until when the network counts as exempt.
    exempt_until_ms: u64,
    /// Answers refused so far, for protocols that let some of them slip.
    refused: u32,
}

impl Bucket {
    /// Adds what came since it was filled last, at this rate a second, up to its share.
    #[inline]
    fn fill(&mut self, now_ms: u64, rate: i64, share: i64) {
        let passed_ms = now_ms.saturating_sub(self.filled_ms);
        if passed_ms == 0 {
            return;
        }
        let passed_ms = i64::try_from(passed_ms).unwrap_or(i64::MAX);
        let more = rate.saturating_mul(passed_ms) / 1000;
        if more > 0 {
            self.tokens = self.tokens.saturating_add(more).min(share);
            self.filled_ms = now_ms;
        }
    }
}

/// The budgets that one worker keeps.
#[derive(Debug)]
pub struct Budget {
    config: Config,
    /// This worker's share of the rate …
    bytes_per_second: i64,
    /// … and of the burst.
    share: i64,
    buckets: Box<[Bucket]>,
    hasher: RandomState,
    origin: Instant,
    /// The time last given, and its milliseconds: a batch has one.
    now: (Instant, u64),
}

impl Budget {
    /// The table of one of `workers` workers.
    #[must_use]
    pub fn new(config: &Config, workers: usize, now: Instant) -> Self {
        let places = config.networks.max(WAYS).next_power_of_two();
        let workers = u64::try_from(workers.max(1)).unwrap_or(1);
        let share = |whole: u64| i64::try_from(whole.div_ceil(workers)).unwrap_or(i64::MAX);
        Self {
            bytes_per_second: share(config.bytes_per_second),
            share: share(config.burst_bytes),
            buckets: vec![Bucket::default(); places].into_boxed_slice(),
            hasher: RandomState::default(),
            origin: now,
            now: (now, 0),
            config: config.clone(),
        }
    }

    /// Takes `bytes` from the budget of the network of `address`, or says that it has not so many.
    pub fn take(&mut self, address: IpAddr, bytes: usize, now: Instant, proven: &Proven) -> bool {
        if self.config.bytes_per_second == 0 {
            return true;
        }
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let now_ms = self.milliseconds(now);
        let network = self.config.network(address);
        let (share, burst) = (self.share, self.config.burst_bytes);
        let bucket = self.bucket(network, now_ms);
        let large = bucket.tokens == share && bytes.unsigned_abs() <= burst;
        if bucket.tokens >= bytes || large {
            bucket.tokens -= bytes;
            return true;
        }
        if bucket.exempt_until_ms > now_ms {
            return true;
        }
        let exempt = proven.contains(network);
        if exempt {
            bucket.exempt_until_ms = now_ms.saturating_add(EXEMPT_MS);
        }
        exempt
    }

    /// Counts one more answer that the network of `address` did not get; how many that makes.
    pub fn refused(&mut self, address: IpAddr, now: Instant) -> u32 {
        let now_ms = self.milliseconds(now);
        let network = self.config.network(address);
        let bucket = self.bucket(network, now_ms);
        bucket.refused = bucket.refused.wrapping_add(1);
        bucket.refused
    }

    fn milliseconds(&mut self, now: Instant) -> u64 {
        if self.now.0 != now {
            let elapsed = now.saturating_duration_since(self.origin).as_millis();
            self.now = (now, u64::try_from(elapsed).unwrap_or(u64::MAX));
        }
        self.now.1
    }

    /// The bucket of `network`, filled up to now.
    ///
    /// When its place is taken by others, the fullest of them gives way: it has the least to
    /// remember, and a network under attack stays in the table however many others are forged.
    fn bucket(&mut self, network: u64, now_ms: u64) -> &mut Bucket {
        let hash = usize::try_from(self.hasher.hash_one(network) >> 32).unwrap_or(0);
        let start = hash & (self.buckets.len() - 1) & !(WAYS - 1);
        let (rate, share) = (self.bytes_per_second, self.share);
        let places = &mut self.buckets[start..start + WAYS];
        let known = places.iter().position(|bucket| bucket.network == network);
        let place = known.unwrap_or_else(|| {
            for bucket in places.iter_mut() {
                bucket.fill(now_ms, rate, share);
            }
            let fullest = |&place: &usize| {
                let bucket: &Bucket = &places[place];
                if bucket.network == 0 {
                    i64::MAX
                } else {
                    bucket.tokens
                }
            };
            let place = (0..WAYS).max_by_key(fullest).unwrap_or(0);
            places[place] = Bucket {
                network,
                tokens: share,
                filled_ms: now_ms,
                exempt_until_ms: 0,
                refused: 0,
            };
            place
        });
        let bucket = &mut places[place];
        bucket.fill(now_ms, rate, share);
        bucket
    }
}

/// The budgets of those who answer in the stead of workers, and share them. What they take comes on top of the workers'
/// own, which none of them could look at without a lock on the way of every look-up.
#[derive(Debug)]
pub struct Purse {
    budget: Mutex<Budget>,
    /// Networks exempt from the budget.
    proven: Arc<Proven>,
}

impl Purse {
    /// With these budgets, from which `proven` networks are exempt.
    #[must_use]
    pub const fn new(budget: Budget, proven: Arc<Proven>) -> Self {
        Self {
            budget: Mutex::new(budget),
            proven,
        }
    }

    /// As [`Budget::take`].
    pub fn take(&self, address: IpAddr, bytes: usize, now: Instant) -> bool {
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        budget.take(address, bytes, now, &self.proven)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn guard(now: Instant) -> (Budget, Proven) {
        let config = Config {
            bytes_per_second: 1000,
            burst_bytes: 3000,
            networks: 64,
            ..Config::default()
        };
        (Budget::new(&config, 1, now), Proven::new(config))
    }

    /// Goal: a burst passes, then nothing, then what a second brings; the neighbour network and
    /// the other family have budgets of their own. Method: the clock is an argument.
    #[test]
    fn burst_then_rate() {
        let start = Instant::now();
        let (mut budget, proven) = guard(start);
        let victim: IpAddr = "127.0.0.1".parse().unwrap();
        let same: IpAddr = "127.0.0.77".parse().unwrap();
        let other: IpAddr = "127.0.1.1".parse().unwrap();
        assert!(budget.take(victim, 2000, start, &proven));
        assert!(budget.take(same, 1000, start, &proven));
        assert!(!budget.take(victim, 1, start, &proven));
        assert!(budget.take(other, 3000, start, &proven));
        assert!(budget.take("::1".parse().unwrap(), 3000, start, &proven));
        let later = start + Duration::from_secs(1);
        assert!(budget.take(victim, 1000, later, &proven));
        assert!(!budget.take(victim, 1, later, &proven));
    }

    /// Goal: all workers together answer a burst, not each of them; a larger answer than a share leaves once, and is owed
    /// for.
    #[test]
    fn workers_share_a_burst() {
        let start = Instant::now();
        let config = Config {
            bytes_per_second: 1000,
            burst_bytes: 3000,
            networks: 64,
            ..Config::default()
        };
        let proven = Proven::new(config.clone());
        let victim: IpAddr = "127.0.0.1".parse().unwrap();
        let mut answered = 0;
        for _ in 0..4 {
            let mut budget = Budget::new(&config, 4, start);
            while budget.take(victim, 150, start, &proven) {
                answered += 150;
            }
        }
        assert_eq!(answered, 3000);

        let mut budget = Budget::new(&config, 4, start);
        assert!(!budget.take(victim, 3001, start, &proven));
        assert!(budget.take(victim, 3000, start, &proven));
        // 2,250 are owed, at 250 a second.
        let soon = start + Duration::from_secs(9);
        assert!(!budget.take(victim, 1, soon, &proven));
        assert!(budget.take(victim, 250, start + Duration::from_secs(10), &proven));
    }

    /// Goal: an open TCP connection exempts its network, and only as long as it is open.
    #[test]
    fn a_connection_exempts() {
        let start = Instant::now();
        let (mut budget, proven) = guard(start);
        let client: IpAddr = "127.0.0.1".parse().unwrap();
        assert!(budget.take(client, 3000, start, &proven));
        assert!(!budget.take(client, 500, start, &proven));
        proven.opened("127.0.0.9".parse().unwrap());
        assert!(budget.take(client, 500, start, &proven));
        proven.closed("127.0.0.9".parse().unwrap());
        assert!(!budget.take(client, 500, start + Duration::from_millis(200), &proven));
    }

    /// Goal: an exemption ends after 50 days of service as well, when 32 bits of milliseconds are full.
    #[test]
    fn an_exemption_ends_in_the_long_run() {
        let start = Instant::now();
        let (mut budget, proven) = guard(start);
        let client: IpAddr = "127.0.0.1".parse().unwrap();
        let late = start + Duration::from_millis((1 << 32) - 50);
        proven.opened(client);
        assert!(budget.take(client, 3000, late, &proven));
        assert!(budget.take(client, 500, late, &proven), "exempt");
        proven.closed(client);
        let soon = late + Duration::from_millis(70);
        assert!(budget.take(client, 500, soon, &proven), "for 100 ms");
        let later = late + Duration::from_millis(200);
        assert!(!budget.take(client, 500, later, &proven));
    }

    /// Goal: forged sources do not push a network under attack out of the table.
    #[test]
    fn forged_sources_do_not_refill() {
        let start = Instant::now();
        let (mut budget, proven) = guard(start);
        let victim: IpAddr = "127.0.0.1".parse().unwrap();
        assert!(budget.take(victim, 3000, start, &proven));
        for forged in 0..100_000_u32 {
            let source = IpAddr::from((10 << 24 | forged << 8).to_be_bytes());
            budget.take(source, 100, start, &proven);
            assert!(
                !budget.take(victim, 100, start, &proven),
                "after {forged} forged sources"
            );
        }
    }
}
