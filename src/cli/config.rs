//! `jiexi config`: check a configuration, print the template.

use clap::{Args, Subcommand};

use super::{
    Failed, output,
    place::{self, Place},
};
use crate::config;

/// Check a configuration file, or print the commented template
#[derive(Debug, Args)]
pub(super) struct ConfigCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Read the configuration as `serve` would, with the overrides of the environment, and report every problem
    Check {
        #[command(flatten)]
        place: Place,
        /// The file, as an argument
        #[arg(value_name = "FILE", conflicts_with_all = ["config", "data"])]
        file: Option<std::path::PathBuf>,
    },
    /// Print the template: every key with its default and the reason for it
    Template,
}

impl ConfigCommand {
    pub(super) fn run(self) -> Result<(), Failed> {
        match self.action {
            Action::Template => output::print(config::TEMPLATE),
            Action::Check { place, file } => {
                let Some(path) = file.or_else(|| place.file()) else {
                    return Err(Failed::usage(
                        "no configuration file found; name one: jiexi config check FILE",
                    ));
                };
                place::usable(&path)?;
                output::print(&format!("{}: no problems\n", path.display()))
            }
        }
    }
}
