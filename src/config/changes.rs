//! `[changes]`: partners that follow what changes.

use serde::{Deserialize, Serialize};

/// `[changes]`: how many may follow changes over HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Changes {
    /// Polls at once, of all tokens.
    pub polls_max: u32,
    /// Polls at once of one token.
    pub polls_per_token: u32,
}

impl Default for Changes {
    fn default() -> Self {
        Self {
            polls_max: 64,
            polls_per_token: 4,
        }
    }
}

/// What cannot work of `[changes]`.
pub(super) fn check(changes: &Changes, need: &mut impl FnMut(bool, &str, &str, &str)) {
    need(
        (1..=256).contains(&changes.polls_max),
        "changes",
        "polls_max",
        "must lie between 1 and 256: each reads the journal while others write",
    );
    need(
        changes.polls_per_token > 0,
        "changes",
        "polls_per_token",
        "is 0; no change could be followed",
    );
}
