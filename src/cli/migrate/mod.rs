//! `jiexi migrate …`: move here from a CNRI server.
//!
//! * [`batch`] — the batch files of its tools.
//! * [`dump`] — everything that a running one has.
//! * `node` — the node that carries changes out, running or stopped.

mod batch;
mod dump;
mod node;

use clap::{Args, Subcommand};

use super::Failed;

const EXAMPLES: &str = "\
Examples:
  jiexi migrate batch handles.batch --dry-run      what would be created, and what would be refused and why
  jiexi migrate batch handles.batch                carry it out; the same command again goes on after an interruption
  jiexi migrate batch one.batch two.batch --keep-going -o json > report.json
  jiexi migrate dump --server 192.0.2.10 --identity 300:0.NA/88.118 --key admpriv.bin --dry-run
  jiexi migrate dump --site-record siteinfo.json --identity 300:0.NA/88.118 --key admpriv.bin

Exit codes: 0 done (with --dry-run: all of it can be done); 1 something is refused, kept as it is here, cannot be read, or
failed; 2 wrong command line; 3 the server has no such thing; 141 nobody reads the output any more.";

/// Move here from a CNRI server
///
/// What comes is written into the node of this machine, running or stopped, by whoever may use its control socket; no key is
/// needed. --dry-run changes nothing and reports what would become of everything.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Migrate {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Batch(batch::Batch),
    Dump(dump::Dump),
}

impl Migrate {
    pub(super) fn run(self) -> Result<(), Failed> {
        match self.action {
            Action::Batch(batch) => batch.run(),
            Action::Dump(dump) => dump.run(),
        }
    }
}
