//! jiexi
pub mod clock;
pub mod metrics;
