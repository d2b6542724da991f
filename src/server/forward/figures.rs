//! What is counted of questions that are passed on.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Manner;
use crate::metrics::{Families, names};

/// All manners, with their labels.
const MANNERS: [(Manner, &str); 5] = [
    (Manner::Answered, "answered"),
    (Manner::Cached, "cached"),
    (Manner::Stale, "stale"),
    (Manner::Failed, "failed"),
    (Manner::Loop, "loop"),
];

/// Counters.
#[derive(Debug, Default)]
pub(super) struct Figures {
    told: [AtomicU64; MANNERS.len()],
    fetched: AtomicU64,
    forbidden: AtomicU64,
}

impl Figures {
    /// Somebody was told something.
    pub(super) fn told(&self, manner: Manner) {
        self.told[manner as usize].fetch_add(1, Relaxed);
    }

    /// A question is asked elsewhere.
    pub(super) fn fetched(&self) {
        self.fetched.fetch_add(1, Relaxed);
    }

    /// A server was not connected to because of the rules.
    pub(super) fn forbidden(&self) {
        self.forbidden.fetch_add(1, Relaxed);
    }

    pub(super) fn collect(&self, families: &mut Families) {
        for (manner, label) in MANNERS {
            let count = self.told[manner as usize].load(Relaxed);
            families.add(&names::FORWARDED, &[("result", label)], count as f64);
        }
        families.add(
            &names::FORWARD_FETCHES,
            &[],
            self.fetched.load(Relaxed) as f64,
        );
        families.add(
            &names::FORWARD_FORBIDDEN,
            &[],
            self.forbidden.load(Relaxed) as f64,
        );
    }
}
