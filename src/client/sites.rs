//! Where prefixes are at home, remembered.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use jiexi_proto::value::{Ttl, Value};

/// Prefixes remembered at most; the one that would be forgotten first gives way.
pub const SITES_MAX: usize = 1_024;
/// Longest time a site is believed in, whatever its record says, in seconds.
pub const BELIEVED_S: u32 = 86_400;

/// What is known of a prefix.
#[derive(Debug, Clone)]
struct Known {
    /// The site values of its record.
    values: Vec<Value>,
    /// Until when, in Unix seconds.
    until: u32,
}

/// Prefix handle → site values, each for as long as the values live.
#[derive(Debug, Default)]
pub(super) struct Sites(Mutex<HashMap<Bytes, Known>>);

impl Sites {
    /// The site values of a prefix, if they are known and still fresh.
    pub(super) fn find(&self, prefix_handle: &[u8], now: u32) -> Option<Vec<Value>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known
            .get(prefix_handle)
            .is_some_and(|found| found.until <= now)
        {
            known.remove(prefix_handle);
        }
        known.get(prefix_handle).map(|found| found.values.clone())
    }

    /// Remembers the site values of a prefix.
    pub(super) fn learn(&self, prefix_handle: Bytes, values: &[Value], now: u32) {
        let lives = |value: &Value| match value.ttl {
            Ttl::Relative(seconds) => u32::try_from(seconds).unwrap_or(0),
            Ttl::Absolute(until) => u32::try_from(until).unwrap_or(0).saturating_sub(now),
        };
        let Some(shortest) = values.iter().map(lives).min().filter(|life| *life > 0) else {
            return;
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= SITES_MAX && !known.contains_key(&prefix_handle) {
            let first = known.iter().min_by_key(|(_, found)| found.until);
            if let Some(first) = first.map(|(prefix, _)| prefix.clone()) {
                known.remove(&first);
            }
        }
        let until = now.saturating_add(shortest.min(BELIEVED_S));
        let values = values.to_vec();
        known.insert(prefix_handle, Known { values, until });
    }

    /// Forgets a prefix: its site no longer answers for it.
    pub(super) fn forget(&self, prefix_handle: &[u8]) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(prefix_handle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(ttl: Ttl) -> Value {
        Value {
            ttl,
            ..crate::identity::value(1, b"HS_SITE", Bytes::new(), 0)
        }
    }

    fn name(number: usize) -> Bytes {
        Bytes::from(format!("0.NA/{number}"))
    }

    /// Goal: a site is believed in as long as its record says, and memory is bounded whatever comes.
    #[test]
    fn sites_live_as_long_as_their_values_and_are_bounded() {
        let sites = Sites::default();
        sites.learn(name(1), &[value(Ttl::Relative(60))], 1_000);
        assert!(sites.find(&name(1), 1_059).is_some());
        assert!(sites.find(&name(1), 1_060).is_none());
        sites.learn(name(2), &[value(Ttl::Relative(0))], 1_000);
        sites.learn(name(3), &[], 1_000);
        sites.learn(name(4), &[value(Ttl::Absolute(999))], 1_000);
        for unknown in 2..5 {
            assert!(sites.find(&name(unknown), 1_000).is_none());
        }
        sites.learn(name(5), &[value(Ttl::Relative(i32::MAX))], 1_000);
        assert!(sites.find(&name(5), 1_000 + BELIEVED_S).is_none());
        for number in 0..SITES_MAX + 10 {
            let life = 100 + i32::try_from(number).unwrap();
            sites.learn(name(number), &[value(Ttl::Relative(life))], 0);
        }
        assert!(sites.find(&name(0), 1).is_none());
        assert!(sites.find(&name(SITES_MAX), 1).is_some());
        assert_eq!(sites.0.lock().unwrap().len(), SITES_MAX);
        sites.forget(&name(SITES_MAX));
        assert!(sites.find(&name(SITES_MAX), 1).is_none());
    }
}
