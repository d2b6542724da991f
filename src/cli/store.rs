//! `jiexi store`: look after the data of a node, running or stopped.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::Value as Json;

use super::{
    Failed,
    output::{self, Format},
    place::Place,
    target,
};
use crate::{
    config::Config,
    control::command::{Command, Outcome, StoreAction},
    maintenance::{self, Report},
};

/// Verify, measure, snapshot, rebuild or restore the store
///
/// A running node does it through its control socket and goes on serving; a stopped one is opened directly.
#[derive(Debug, Args)]
pub(super) struct Store {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    place: Place,
    /// Form of the report
    #[arg(long, short, value_enum, default_value_t, global = true)]
    output: Format,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Read everything and compare journal, index, disk and checksums; exit code 1 if something does not agree
    ///
    /// On a running node the file of sled counts as far as sled reads it again; much comes from its memory. It is a copy of
    /// what snapshot and journal have, and a start makes it anew. On a stopped node the file itself is read.
    Verify,
    /// Records, sizes and positions
    Stats,
    /// Write a snapshot now
    Snapshot,
    /// Make the state on disk anew from the newest snapshot and the journal
    Rebuild,
    /// Replace all data by those of a snapshot
    Restore {
        /// The snapshot: a path that `store snapshot` has printed
        snapshot: PathBuf,
        /// Do it without asking; what is in the store now is lost
        #[arg(long)]
        yes: bool,
    },
}

impl Store {
    pub(super) fn run(self) -> Result<(), Failed> {
        let config = self.place.load()?;
        let action = self.action.into_action()?;
        let report = perform(&config, action)?;
        let printed = match self.output {
            Format::Json => output::print_json(&report.json),
            Format::Table => output::print(&lines(&report.json)),
        };
        if report.good {
            printed
        } else {
            Err(Failed::report(
                "the store is not as it should be; see the report",
            ))
        }
    }
}

impl Action {
    /// What is to be done.
    fn into_action(self) -> Result<StoreAction, Failed> {
        Ok(match self {
            Self::Verify => StoreAction::Verify,
            Self::Stats => StoreAction::Stats,
            Self::Snapshot => StoreAction::Snapshot,
            Self::Rebuild => StoreAction::Rebuild,
            Self::Restore { yes: false, .. } => {
                return Err(Failed::usage(
                    "restore replaces all data of the node; add --yes if that is meant",
                ));
            }
            Self::Restore {
                snapshot,
                yes: true,
            } => {
                // A running node has another working directory.
                let absolute = std::path::absolute(&snapshot);
                let snapshot = absolute.map_err(|error| {
                    Failed::report(format_args!("{}: {error}", snapshot.display()))
                })?;
                StoreAction::Restore { snapshot }
            }
        })
    }
}

/// Does it where the data are.
fn perform(config: &Config, action: StoreAction) -> Result<Report, Failed> {
    let Some(node) = target::running(config)? else {
        // A node that is started meanwhile has the audit trail when this has written in it.
        let mut noted = |good| target::note(config, "restore", good, None);
        let done = maintenance::on_stopped(config, &action, &mut noted);
        return done.map_err(Failed::report);
    };
    let command = Command::Store { action };
    let outcome =
        target::block_on(node.run(command, None::<tokio::io::Empty>, |_| Ok(()), |_| {}))?;
    match outcome.map_err(target::explain)? {
        Outcome::Report { good, report } => Ok(Report { good, json: report }),
        Outcome::Counts(_) | Outcome::Told(_) => {
            Err(Failed::report("the node answered another command"))
        }
    }
}

/// A report as lines `name  value`.
fn lines(report: &Json) -> String {
    let mut rows = Vec::new();
    flatten("", report, &mut rows);
    output::table(&["WHAT", "VALUE"], &rows)
}

/// Leaves of a report with their paths.
fn flatten(path: &str, json: &Json, rows: &mut Vec<Vec<String>>) {
    match json {
        Json::Object(fields) => {
            for (name, field) in fields {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                flatten(&path, field, rows);
            }
        }
        Json::Array(items) => {
            for (place, item) in items.iter().enumerate() {
                flatten(&format!("{path}[{place}]"), item, rows);
            }
        }
        Json::String(text) => rows.push(vec![path.to_owned(), output::visible(text)]),
        other => rows.push(vec![path.to_owned(), other.to_string()]),
    }
}
