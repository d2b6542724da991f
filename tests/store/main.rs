//! The store, seen from outside: against an oracle, killed, cut off from power, damaged, on a full disk.
//!
//! Every random run prints its seed; set `JIEXI_TEST_SEED` to repeat one.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod archive;
mod behaviour;
mod bulk;
mod copying;
mod damage;
mod follow;
mod formats;
mod full_disk;
mod handover;
mod healing;
mod kill;
mod oracle;
mod power_cut;
mod quota;
mod racing;
mod support;
mod unread;
