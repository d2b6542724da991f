//! DNS as its clients see it. One test for each rule, with the section of its RFC in its name.
//!
//! Every question that is asked without sockets goes both ways, plain and full, and the octets are
//! compared ([`node::Bench::ask`]).

#![expect(
    clippy::expect_used,
    reason = "helpers of a test: a failed assumption is a failed test"
)]

mod both_ways;
mod labels;
mod node;
mod peers;
#[path = "../support/ports.rs"]
mod ports;
mod remembered;
mod rules;
mod tls;
mod transports;
