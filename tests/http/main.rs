//! Goal: HTTP as its users see it. Method: the release binary with a node of its own for each test, asked by curl, and
//! by bare sockets where curl is too well-behaved.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "helpers of a test: a failed assumption is a failed test"
)]

mod abuse;
mod anonymous;
mod batch;
mod battery;
mod change;
mod changes;
mod elsewhere;
mod history;
mod jobs;
mod languages;
mod lists;
mod login;
mod node;
mod page;
#[path = "../support/ports.rs"]
mod ports;
mod proxies;
mod questions;
mod repeats;
mod resolve;
mod rows;
mod shapes;
mod tables;
mod tls;
mod tokens;
mod turns;
