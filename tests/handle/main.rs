//! The Handle front end, asked over real sockets on loopback.
//!
//! * [`replay`]: the recorded requests of the reference client, answered as the reference server did.
//! * [`administration`]: the recorded changes, proofs, sessions, lists and signed answers.
//! * [`administrator`]: our own client, with answers and sessions lost on the way.
//! * [`sdk`]: the recorded traffic of the id-pointer SDK, and what its logins must not become.
//! * [`datagrams`]: where UDP answers come from, what is never answered, the amplification guard.
//! * [`streams`]: pipelining, deadlines, the cap, drain.
//! * [`client`]: proofs and sessions from the other side.
//! * [`hazards`]: known ways to abuse proofs, sessions and changes.
//! * [`timing`]: what refusals cost.
//! * [`copying`]: dumps and transactions for mirrors.
//! * [`hostile`]: bytes that are no messages.

#![expect(
    clippy::expect_used,
    reason = "helpers of a test: a failed assumption is a failed test"
)]

mod administration;
mod administrator;
mod client;
mod copying;
mod datagrams;
mod hazards;
mod hostile;
mod node;
#[path = "../support/ports.rs"]
mod ports;
mod replay;
mod sdk;
mod streams;
mod timing;
