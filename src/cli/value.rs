//! `jiexi value …`: single values of a handle.

use clap::{Args, Subcommand};

use super::{
    Failed,
    handle::{Common, checked},
    values::{self, Values},
};
use crate::registry::plan::Request;

/// What `--help` says at its end.
const EXAMPLES: &str = "\
Examples:
  jiexi value add 88.118.20/pump.7 --value 2:MODEL=IS80-65-160
  jiexi value set 88.118.20/pump.7 --value 1:URL=https://example.cn/pumps/7 --ttl 3600
  jiexi value rm 88.118.20/pump.7 2
  jiexi value set 88.118.20/pump.7 --value-file 301:HS_SECKEY=secret.txt

Exit codes: 0 done, 1 refused or failed, 2 wrong command line, 3 no such handle or value.";

/// Add, set and remove values of a handle
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ValueCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Add values; none of their indexes may be in use
    #[command(after_help = values::FORMS)]
    Add {
        /// The handle
        handle: String,
        #[command(flatten)]
        values: Values,
        #[command(flatten)]
        common: Common,
    },
    /// Add values, or replace those with the same indexes; others stay as they are
    #[command(after_help = values::FORMS)]
    Set {
        /// The handle
        handle: String,
        #[command(flatten)]
        values: Values,
        #[command(flatten)]
        common: Common,
    },
    /// Remove values
    Rm {
        /// The handle
        handle: String,
        /// Their indexes
        #[arg(required = true, value_name = "INDEX")]
        indexes: Vec<u32>,
        #[command(flatten)]
        common: Common,
    },
}

impl ValueCommand {
    pub(super) fn run(self) -> Result<(), Failed> {
        let (request, subject, what, common) = match self.action {
            Action::Add {
                handle,
                values,
                common,
            } => {
                let request = Request::Add {
                    handle: checked(&handle)?,
                    values: values.some()?,
                    overwrite: false,
                };
                (request, handle, "added values to", common)
            }
            Action::Set {
                handle,
                values,
                common,
            } => {
                let request = Request::Add {
                    handle: checked(&handle)?,
                    values: values.some()?,
                    overwrite: true,
                };
                (request, handle, "set values of", common)
            }
            Action::Rm {
                handle,
                indexes,
                common,
            } => {
                let request = Request::Remove {
                    handle: checked(&handle)?,
                    indexes,
                };
                (request, handle, "removed values of", common)
            }
        };
        let changed = common.change(&[request], &subject)?;
        common.say(&changed, what)
    }
}
