//! jiexi
pub mod clock;
pub mod metrics;
pub mod resolver;
pub mod server;
pub mod store;
