//! Goal: handles at home elsewhere, asked for over real sockets of the real program. Method: two and three nodes, each a
//! process of its own, over loopback; in the place of a node that misbehaves, a socket of the test.
//!
//! * [`chains`]: who is asked, and what the answer looks like; circles; restricted values.
//! * [`failures`]: homes that are dead, slow, frozen or forged, and what is told then.
//! * [`identity`]: users whose keys are at home elsewhere.
//! * [`bounds`]: addresses, memory, queues, equal questions, what strangers may cost.

#![expect(
    clippy::expect_used,
    reason = "helpers of a test: a failed assumption is a failed test"
)]

mod bounds;
mod chains;
#[path = "../handle/client.rs"]
#[expect(dead_code, reason = "no DSA, no sessions and no encryption here")]
mod client;
mod failures;
mod identity;
mod login;
mod node;
#[path = "../support/ports.rs"]
mod ports;
