//! The only reader of the clocks: everything below is given a [`Now`].

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// One reading of both clocks, taken once per batch.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Seconds since 1970, UTC.
    pub unix_seconds: u32,
    /// The monotonic clock, for rates and deadlines.
    pub instant: Instant,
}

impl Now {
    /// Reads both clocks.
    #[must_use]
    pub fn read() -> Self {
        Self {
            unix_seconds: unix_seconds(),
            instant: Instant::now(),
        }
    }
}

/// Seconds since 1970; 0 when the machine's clock stands before that.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place the ban leaves"
)]
pub fn unix_seconds() -> u32 {
    let elapsed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    u32::try_from(elapsed.as_secs()).unwrap_or(u32::MAX)
}
