//! The control socket: how `import`, `export`, `store …`, `handle …`, `value …` and `prefix …` work on a running node.
//!
//! A Unix socket in the data directory, for the user of the node and root only (mode 0600, and the peer's credentials
//! are checked). One command on a connection:
//!
//! ```text
//! client                                server
//! Command {"protocol":1,"command":…} ─→
//! Data … Data, End          (import) ─→
//!                                    ←─ Progress …            while it works
//!                                    ←─ Data … Data   (export, lists)
//!                                    ←─ Done {…} or Failed {"message":…}
//! ```
//!
//! * [`frame`] — what goes over the wire, and its bounds.
//! * [`command`] — the commands and their outcomes.
//! * [`registry`] — handles and prefixes, for whoever runs the node.
//! * [`server`] — beside the node, on its runtime; work that blocks runs on blocking threads.
//! * [`client`] — in the other process.

pub mod client;
pub mod command;
pub mod frame;
pub mod registry;
pub mod server;
