//! Which names are seen most often, in bounded memory: the frequent-items sketch of Misra and Gries.
//!
//! With `k` counters, a name that makes up more than one in `k` of what was seen is among them, and its count is at most
//! `seen / k` too low. Taking one from every counter when there is no free one costs no more in all than counting did. The
//! counts are halved from time to time, so that what was asked for long ago is forgotten.

use std::collections::HashMap;

use foldhash::quality::RandomState;

/// Longest name that is counted under its own, octets; real prefixes have some ten.
const NAME_MAX: usize = 64;

/// A sketch.
#[derive(Debug)]
pub struct Busiest {
    counts: HashMap<Box<[u8]>, u64, RandomState>,
    capacity: usize,
    seen: u64,
}

/// One name of a sketch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Busy {
    /// The name, with ASCII letters in upper case.
    pub name: String,
    /// How often it was seen lately, at least.
    pub count: u64,
}

/// The names seen most often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranking {
    /// Most often first.
    pub top: Vec<Busy>,
    /// How often any name was seen lately.
    pub seen: u64,
}

impl Busiest {
    /// A sketch with so many counters.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            counts: HashMap::with_capacity_and_hasher(capacity, RandomState::default()),
            capacity,
            seen: 0,
        }
    }

    /// Counts a name, whatever the case of its ASCII letters.
    pub fn see(&mut self, name: &[u8]) {
        self.seen += 1;
        let mut folded = [0; NAME_MAX];
        let Some(folded) = folded.get_mut(..name.len()) else {
            return;
        };
        folded.copy_from_slice(name);
        folded.make_ascii_uppercase();
        if let Some(count) = self.counts.get_mut(&*folded) {
            *count += 1;
        } else if self.counts.len() < self.capacity {
            self.counts.insert((&*folded).into(), 1);
        } else {
            self.keep(|count| count - 1);
        }
    }

    /// Forgets half of all.
    pub fn age(&mut self) {
        self.seen /= 2;
        self.keep(|count| count / 2);
    }

    /// The names seen most often, most often first.
    #[must_use]
    pub fn top(&self, names: usize) -> Ranking {
        let mut all: Vec<_> = self.counts.iter().collect();
        all.sort_unstable_by(|(a, many), (b, more)| more.cmp(many).then(a.cmp(b)));
        let top = all.into_iter().take(names).map(|(name, count)| Busy {
            name: String::from_utf8_lossy(name).into_owned(),
            count: *count,
        });
        Ranking {
            top: top.collect(),
            seen: self.seen,
        }
    }

    fn keep(&mut self, left: impl Fn(u64) -> u64) {
        self.counts.retain(|_, count| {
            *count = left(*count);
            *count > 0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a frequent name is found among a flood of others, with the error that the sketch promises and no more memory.
    #[test]
    fn frequent_among_many() {
        let mut sketch = Busiest::new(100);
        for number in 0..100_000_u32 {
            sketch.see(format!("88.118.{number}").as_bytes());
            if number % 20 == 0 {
                sketch.see(b"88.abc.7");
            }
            assert!(sketch.counts.len() <= 100);
        }
        let Ranking { top, seen } = sketch.top(1);
        assert_eq!((top[0].name.as_str(), seen), ("88.ABC.7", 105_000));
        assert!((5_000 - 1_050..=5_000).contains(&top[0].count), "{top:?}");
    }

    /// Goal: what was seen long ago is forgotten; a name that is too long costs nothing.
    #[test]
    fn forgotten() {
        let mut sketch = Busiest::new(4);
        sketch.see(&[b'1'; NAME_MAX + 1]);
        (0..5).for_each(|_| sketch.see(b"1"));
        sketch.see(b"2");
        assert_eq!(sketch.top(9).top.len(), 2);
        sketch.age();
        let left = Busy {
            name: "1".into(),
            count: 2,
        };
        let top = vec![left];
        assert_eq!(sketch.top(9), Ranking { top, seen: 3 });
    }
}
