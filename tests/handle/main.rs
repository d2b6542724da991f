//! The Handle front end, asked over real sockets on loopback.
//!
//! * [`replay`]: the recorded requests of the reference client, answered as the reference server did.
//! * [`datagrams`]: where UDP answers come from, what is never answered, the amplification guard.
//! * [`streams`]: pipelining, deadlines, the cap, drain.
//! * [`hostile`]: bytes that are no messages.

#![expect(
    clippy::expect_used,
    reason = "helpers of a test: a failed assumption is a failed test"
)]

mod datagrams;
mod hostile;
mod node;
mod replay;
mod streams;
