//! jiexi
pub mod config;
pub mod logging;
