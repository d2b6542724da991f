//! Answers of other nodes, remembered for as long as their values live.
//!
//! A plain data structure: it is told the time, and knows neither questions nor how answers are fetched. What it holds
//! is bounded in octets; what was not asked for since its last turn gives way first.
//!
//! ```text
//!  learn ──→ fresh ──life──→ expired: still told while its home is down ──stale──→ gone
//!  fail ───→ for `retry` nobody asks again: what is remembered is told, or why there is nothing
//! ```

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiexi_proto::code::ResponseCode;

/// What an entry takes besides its key and its answer, octets: two map slots, allocations.
const OVERHEAD: usize = 192;

/// An answer that takes more than this part of the whole is not remembered: too much would give way for it.
const LARGE: usize = 4;

/// Entries asked for since their last turn that one call passes over: others wait for it.
const CHANCES: usize = 64;

/// How much is remembered, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Octets of all entries.
    pub bytes: usize,
    /// Longest life of an answer, whatever its values say.
    pub life_max: Duration,
    /// How long after its life an answer may stand in for one that cannot be had.
    pub stale: Duration,
    /// How long after a failure nobody asks again.
    pub retry: Duration,
}

/// An answer, as far as it is the same for all who ask the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The outcome.
    pub code: ResponseCode,
    /// What stands behind the handle: values with their count. Of anything but success, the text.
    pub body: Bytes,
}

/// What is remembered of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// This is the answer.
    Fresh(Known),
    /// Its home could not be asked a moment ago; this was the answer before.
    Stale(Known),
    /// Its home could not be asked a moment ago, and nothing else is known.
    Failed(Known),
    /// To be asked; if that fails, there is an answer of before.
    Expired,
    /// To be asked.
    Absent,
}

#[derive(Debug)]
struct Entry {
    known: Option<Known>,
    fresh_until: Instant,
    stale_until: Instant,
    /// Why its home could not be asked, and until when it is not asked again.
    failed: Option<(Known, Instant)>,
    /// Asked for since its last turn.
    used: bool,
}

impl Entry {
    fn new(now: Instant) -> Self {
        Self {
            known: None,
            fresh_until: now,
            stale_until: now,
            failed: None,
            used: false,
        }
    }

    /// Octets it takes, with its key.
    fn bytes(&self, key: &[u8]) -> usize {
        let known = self.known.as_ref().map_or(0, |known| known.body.len());
        let failed = self.failed.as_ref().map_or(0, |(why, _)| why.body.len());
        OVERHEAD + key.len() + known + failed
    }
}

/// Answers by the octets of their questions.
#[derive(Debug)]
pub struct Cache {
    bounds: Bounds,
    entries: HashMap<Arc<[u8]>, Entry, foldhash::fast::RandomState>,
    /// All keys, in the order of their turns to give way.
    turns: VecDeque<Arc<[u8]>>,
    bytes: usize,
}

impl Cache {
    /// Nothing yet.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            entries: HashMap::default(),
            turns: VecDeque::new(),
            bytes: 0,
        }
    }

    /// What is known of a question.
    pub fn find(&mut self, key: &[u8], now: Instant) -> Found {
        let Some(entry) = self.entries.get_mut(key) else {
            return Found::Absent;
        };
        entry.used = true;
        let before = entry.known.as_ref().filter(|_| now < entry.stale_until);
        if let Some(known) = before.filter(|_| now < entry.fresh_until) {
            return Found::Fresh(known.clone());
        }
        let failed = entry.failed.as_ref().filter(|(_, until)| now < *until);
        match (failed, before) {
            (Some(_), Some(known)) => Found::Stale(known.clone()),
            (Some((why, _)), None) => Found::Failed(why.clone()),
            (None, Some(_)) => Found::Expired,
            (None, None) => Found::Absent,
        }
    }

    /// Remembers an answer that lives as long as this. Answers that nothing was found are not told when that is over.
    pub fn learn(&mut self, key: &[u8], known: Known, life: Duration, now: Instant) {
        let large = known.body.len() > self.bounds.bytes / LARGE;
        let life = match large {
            true => Duration::ZERO,
            false => life.min(self.bounds.life_max),
        };
        // What lives no moment is not to be remembered at all.
        let stale = match known.code == ResponseCode::SUCCESS && !life.is_zero() {
            true => self.bounds.stale,
            false => Duration::ZERO,
        };
        self.put(
            key,
            Entry {
                known: Some(known).filter(|_| !life.is_zero()),
                fresh_until: now + life,
                stale_until: now + life + stale,
                ..Entry::new(now)
            },
        );
    }

    /// Notes why a question could not be answered. What was known before stays.
    pub fn fail(&mut self, key: &[u8], why: Known, now: Instant) {
        let mut entry = match self.entries.remove(key) {
            Some(entry) => {
                self.bytes -= entry.bytes(key);
                entry
            }
            None => {
                self.turns.push_back(key.into());
                Entry::new(now)
            }
        };
        entry.failed = Some((why, now + self.bounds.retry));
        self.hold(key.into(), entry);
    }

    /// How many questions are known of.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Octets held.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    fn put(&mut self, key: &[u8], entry: Entry) {
        match self.entries.remove(key) {
            Some(before) => self.bytes -= before.bytes(key),
            None => self.turns.push_back(key.into()),
        }
        self.hold(key.into(), entry);
    }

    /// Holds an entry that has its place among the turns. At most [`CHANCES`] others are passed over, and no more give way
    /// than take as much as this one.
    fn hold(&mut self, key: Arc<[u8]>, entry: Entry) {
        self.bytes += entry.bytes(&key);
        self.entries.insert(key, entry);
        let mut chances = CHANCES;
        while self.bytes > self.bounds.bytes {
            let Some(key) = self.turns.pop_front() else {
                return;
            };
            match self.entries.get_mut(&key) {
                Some(entry) if entry.used && chances > 0 => {
                    chances -= 1;
                    entry.used = false;
                    self.turns.push_back(key);
                }
                Some(entry) => {
                    self.bytes -= entry.bytes(&key);
                    self.entries.remove(&key);
                }
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn cache(bytes: usize) -> Cache {
        Cache::new(Bounds {
            bytes,
            life_max: 100 * SECOND,
            stale: 10 * SECOND,
            retry: 2 * SECOND,
        })
    }

    fn known(code: ResponseCode, body: &[u8]) -> Known {
        let body = Bytes::copy_from_slice(body);
        Known { code, body }
    }

    /// Goal: an answer is told as long as it lives, then while its home is down, then no more.
    #[test]
    fn answers_live_and_stand_in() {
        let (mut cache, now) = (cache(1 << 20), Instant::now());
        let (good, why) = (
            known(ResponseCode::SUCCESS, b"values"),
            known(ResponseCode::ERROR, b"down"),
        );
        assert_eq!(cache.find(b"q", now), Found::Absent);
        cache.learn(b"q", good.clone(), 5 * SECOND, now);
        assert_eq!(
            cache.find(b"q", now + 4 * SECOND),
            Found::Fresh(good.clone())
        );
        assert_eq!(cache.find(b"q", now + 5 * SECOND), Found::Expired);
        cache.fail(b"q", why.clone(), now + 5 * SECOND);
        assert_eq!(
            cache.find(b"q", now + 6 * SECOND),
            Found::Stale(good.clone())
        );
        assert_eq!(
            cache.find(b"q", now + 7 * SECOND),
            Found::Expired,
            "it is asked again"
        );
        assert_eq!(cache.find(b"q", now + 15 * SECOND), Found::Absent);
        cache.fail(b"q", why.clone(), now + 15 * SECOND);
        assert_eq!(cache.find(b"q", now + 16 * SECOND), Found::Failed(why));
        cache.learn(b"q", good.clone(), 1_000 * SECOND, now);
        assert_eq!(cache.find(b"q", now + 99 * SECOND), Found::Fresh(good));
        assert_eq!(
            cache.find(b"q", now + 100 * SECOND),
            Found::Expired,
            "the longest life"
        );
    }

    /// Goal: that there is nothing is not told when its time is over, and what lives no moment never.
    #[test]
    fn refusals_and_the_shortest_lives_do_not_stand_in() {
        let (mut cache, now) = (cache(1 << 20), Instant::now());
        let (nothing, why) = (
            known(ResponseCode::HANDLE_NOT_FOUND, b""),
            known(ResponseCode::ERROR, b"down"),
        );
        cache.learn(b"n", nothing.clone(), SECOND, now);
        assert_eq!(cache.find(b"n", now), Found::Fresh(nothing));
        assert_eq!(cache.find(b"n", now + SECOND), Found::Absent);
        cache.learn(
            b"z",
            known(ResponseCode::SUCCESS, b"v"),
            Duration::ZERO,
            now,
        );
        assert_eq!(cache.find(b"z", now), Found::Absent);
        cache.fail(b"z", why.clone(), now);
        assert_eq!(cache.find(b"z", now), Found::Failed(why));
    }

    /// Goal: memory stays below its bound whatever comes, and what is asked for again and again stays.
    #[test]
    fn octets_are_bounded() {
        let (mut cache, now) = (cache(20_000), Instant::now());
        cache.learn(
            b"often",
            known(ResponseCode::SUCCESS, &[1; 500]),
            50 * SECOND,
            now,
        );
        for number in 0..2_000_u32 {
            let key = number.to_be_bytes();
            match number % 3 {
                0 => cache.fail(&key, known(ResponseCode::ERROR, &[0; 300]), now),
                _ => cache.learn(&key, known(ResponseCode::SUCCESS, &[0; 300]), SECOND, now),
            }
            assert!(cache.bytes() <= 20_000);
            assert!(
                matches!(cache.find(b"often", now), Found::Fresh(_)),
                "{number}"
            );
        }
        assert!(cache.len() > 20 && cache.turns.len() == cache.len());
        let held: usize = cache
            .entries
            .iter()
            .map(|(key, entry)| entry.bytes(key))
            .sum();
        assert_eq!(held, cache.bytes());
        cache.learn(
            b"big",
            known(ResponseCode::SUCCESS, &[0; 30_000]),
            SECOND,
            now,
        );
        assert_eq!(cache.find(b"big", now), Found::Absent);
        assert!(matches!(cache.find(b"often", now), Found::Fresh(_)));
    }

    /// Goal: one more answer never has to look at all others, not even when all of them were just asked for.
    #[test]
    fn one_call_looks_at_few() {
        let (mut cache, now) = (cache(1_000_000), Instant::now());
        let answer = || known(ResponseCode::SUCCESS, &[0; 300]);
        let mut number = 0_u32;
        let mut learn = |cache: &mut Cache| {
            number += 1;
            cache.learn(&number.to_be_bytes(), answer(), SECOND, now);
        };
        while cache.bytes() < 999_000 {
            learn(&mut cache);
        }
        for entry in cache.entries.values_mut() {
            entry.used = true;
        }
        let (all, count) = (cache.len(), 10);
        for _ in 0..count {
            learn(&mut cache);
        }
        let used = cache.entries.values().filter(|entry| entry.used).count();
        assert!(all > 1_500, "{all}");
        let looked_at = all - used;
        assert!(looked_at <= count * (CHANCES + 1), "{looked_at} of {all}");
        assert!(cache.bytes() <= 1_000_000 && cache.turns.len() == cache.len());
    }
}
