//! `jiexi promote`: a standby takes the place of its primary.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value as Json;

use super::{
    Failed,
    output::{self, Format},
    place::Place,
    target,
};
use crate::config::Config;
use crate::control::client::Node;
use crate::control::command::{Command, Outcome, StoreAction};
use crate::maintenance::LOAD_MAX;
use crate::standby::promote;

/// How often it is looked whether the node is there again.
const LOOK: Duration = Duration::from_millis(200);

const EXAMPLES: &str = "\
Examples:
  jiexi promote                       planned: the primary gives way, everything of it is here, then this node is the primary
  jiexi promote --without-primary     the primary is gone: what it acknowledged and this node does not have is lost

An old primary that names another node than this one (old_primary_gave_way_to) was told the same by that one before: then
both are primaries, unless it is this node by another address. Stop one of them.

Exit codes: 0 this node is the primary; 1 it is not, and a message says what to do; 2 wrong command line.";

/// Let this standby take the place of its primary
///
/// The primary is told first: it takes no changes any more, also after a restart, and sends those who want to make one here.
/// When everything that it acknowledged is here, the store gets a new epoch and the node starts anew, for which questions
/// wait as long as a start takes. It works on a stopped node as well.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Promote {
    #[command(flatten)]
    place: Place,
    /// Also when the primary cannot be told; it is told when it is met again
    #[arg(long)]
    without_primary: bool,
    #[command(flatten)]
    follow: Follow,
    /// Form of the report
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// The primary, for a configuration that does not name it.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Follow {
    /// The primary, such as https://id.example.cn:8000; as [follow] url
    #[arg(long, value_name = "URL")]
    follow: Option<String>,
    /// File with a token of it that has the right replicate; as [follow] token_file
    #[arg(long, value_name = "FILE", requires = "follow")]
    token_file: Option<PathBuf>,
    /// Certificates in PEM to believe beside those of the machine; as [follow] ca_file
    #[arg(long, value_name = "FILE", requires = "follow")]
    ca_file: Option<PathBuf>,
}

impl Follow {
    /// What the command line says goes before the file.
    pub(super) fn apply(&self, config: &mut Config) {
        if let Some(url) = &self.follow {
            config.follow.url.clone_from(url);
        }
        if let Some(path) = &self.token_file {
            config.follow.token_file.clone_from(path);
        }
        if let Some(path) = &self.ca_file {
            config.follow.ca_file.clone_from(path);
        }
    }

    /// What cannot work of it.
    pub(super) fn check(config: &Config) -> Result<(), Failed> {
        match config.follow.problems().first() {
            Some(problem) => Err(Failed::usage(format_args!("--{problem}"))),
            None => Ok(()),
        }
    }
}

impl Promote {
    pub(super) fn run(self) -> Result<(), Failed> {
        let mut config = self.place.load()?;
        self.follow.apply(&mut config);
        Follow::check(&config)?;
        let report = match target::running(&config)? {
            Some(node) => running(&config, node, self.without_primary)?,
            None => stopped(&config, self.without_primary)?,
        };
        match self.output {
            Format::Json => output::print_json(&report),
            Format::Table => output::print(&lines(&report)),
        }
    }
}

/// On a node that runs, which starts anew.
fn running(config: &Config, node: Node, without: bool) -> Result<Json, Failed> {
    let report = ask(node, Command::Promote { without })?;
    let begun = Instant::now();
    while begun.elapsed() < LOAD_MAX {
        thread::sleep(LOOK);
        let stats = Command::Store {
            action: StoreAction::Stats,
        };
        // One that starts, or stops, may cut the answer.
        let Ok(Some(node)) = Node::connect(&config.control_socket()) else {
            continue;
        };
        let stats =
            target::block_on(node.run(stats, None::<tokio::io::Empty>, |_| Ok(()), |_| {}))?;
        if let Ok(Outcome::Report { report: stats, .. }) = stats
            && stats["epoch"] == report["epoch"]
        {
            return Ok(report);
        }
    }
    Err(Failed::report(
        "this node was to be the primary, and is not there again with the new epoch; its log says why",
    ))
}

fn ask(node: Node, command: Command) -> Result<Json, Failed> {
    let outcome =
        target::block_on(node.run(command, None::<tokio::io::Empty>, |_| Ok(()), |_| {}))?;
    match outcome.map_err(target::explain)? {
        Outcome::Report { report, .. } => Ok(report),
        Outcome::Counts(_) | Outcome::Told(_) => {
            Err(Failed::report("the node answered another command"))
        }
    }
}

/// On a node that does not run.
fn stopped(config: &Config, without: bool) -> Result<Json, Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = runtime
        .map_err(|error| Failed::report(format_args!("cannot start the runtime: {error}")))?;
    let mut noted = |good| target::note(config, "promote", good, None);
    let done = runtime.block_on(promote::stopped(config, without, &mut noted));
    done.map_err(Failed::report)
}

/// A line for each fact.
fn lines(report: &Json) -> String {
    let rows = report.as_object().into_iter().flatten();
    let rows = rows.map(|(name, value)| {
        let shown = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        vec![name.replace('_', " "), output::visible(&shown)]
    });
    output::table(&["WHAT", "VALUE"], &rows.collect::<Vec<_>>())
}
