//! `[anonymous]`: clients that do not say who they are.

use serde::{Deserialize, Serialize};

/// `[anonymous]`: what one source network may have resolved without proof of who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Anonymous {
    /// Identifiers a second; 0: any number.
    pub rate: u32,
    /// Identifiers at once, after a pause.
    pub burst: u32,
    /// Whether a batch needs no token.
    pub batch: bool,
}

impl Default for Anonymous {
    fn default() -> Self {
        Self {
            rate: 200_000,
            burst: 1_000_000,
            batch: false,
        }
    }
}

/// What cannot work of `[anonymous]`.
pub(super) fn check(anonymous: &Anonymous, need: &mut impl FnMut(bool, &str, &str, &str)) {
    need(
        anonymous.rate == 0 || anonymous.burst > 0,
        "anonymous",
        "burst",
        "is 0; nobody could resolve anything without a token",
    );
}
