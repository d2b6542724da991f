//! jiexi: an identifier resolution node.
//!
//! Operating: [`cli`] → [`config`], [`logging`], [`node`]; [`control`] and [`ops`] beside a running node;
//! [`bulk`], [`maintenance`] and [`demo`] for its data; [`identity`] for its keys and site record.
//! Asking: [`client`]. Shapes: [`json`], [`records`].

pub mod bulk;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod control;
pub mod demo;
pub mod identity;
pub mod json;
pub mod logging;
pub mod maintenance;
pub mod node;
pub mod ops;
pub mod records;
pub mod store;
