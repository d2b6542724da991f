//! jiexi: an identifier resolution node.
//!
//! Answering: [`server`] → [`resolver`] → [`store`], counted by [`metrics`].
//!
//! Operating: [`cli`] → [`config`], [`logging`] → [`node`], which starts everything; [`control`] and [`ops`] beside it;
//! [`bulk`], [`maintenance`] and [`demo`] for the data, [`identity`] for keys and site record.
//!
//! Asking: [`client`]. Shapes of data: [`json`] for people and files, [`records`] for the store. [`clock`] reads the
//! time.

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
pub mod metrics;
pub mod node;
pub mod ops;
pub mod records;
pub mod resolver;
pub mod server;
pub mod store;
