//! The store, seen from outside: against an oracle, killed, cut off from power, damaged, on a full disk.
//!
//! Every random run prints its seed; set `JIEXI_TEST_SEED` to repeat one.

mod behaviour;
mod damage;
mod formats;
mod full_disk;
mod healing;
mod kill;
mod oracle;
mod power_cut;
mod racing;
mod support;
