//! `jiexi upgrade`: the node passes to the program that is installed now.

use std::time::Duration;

use clap::Args;
use serde_json::Value as Json;

use super::{
    Failed,
    output::{self, Format},
    place::Place,
    serve, target,
};
use crate::control::client::{ControlError, Node};
use crate::control::command::{Command, Outcome};

const EXAMPLES: &str = "\
Examples:
  jiexi upgrade                                   after the program was replaced, by a package say
  jiexi upgrade --config /etc/jiexi/jiexi.toml || systemctl restart jiexi

Exit codes: 0 the new process is the node; 1 it failed, and the one from before goes on; 2 wrong command line; 3 there is no
node here that can do this: start it anew; 4 another upgrade is under way, or has succeeded meanwhile: wait for it, and ask
again if it was to another program.";

/// Let the program that is installed now take the place of the running one, without a pause
///
/// The running node starts the program by the name that it was started by itself, with its arguments and environment, and
/// passes itself to it as to `jiexi serve --take-over`: no question is lost, changes wait for --pause-max at most, and when
/// the new process fails the old one goes on as before. Under the systemd unit the new process is the unit's main one then.
/// Waits until it is decided, which takes as long as a start. A standby cannot do this.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Upgrade {
    #[command(flatten)]
    place: Place,
    /// How long changes may wait while the store is taken over; beyond it the running node takes it back
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = serve::pause)]
    pause_max: Duration,
    /// Form of the report
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

impl Upgrade {
    pub(super) fn run(self) -> Result<(), Failed> {
        // Of the new program, as a rule: what it cannot read is said before anything happens.
        let config = self.place.load_to_serve()?;
        let Some(node) = target::running(&config)? else {
            return Err(Failed::not_found(format_args!(
                "{}: no node runs here",
                config.control_socket().display()
            )));
        };
        let report = ask(node, self.pause_max)?;
        match self.output {
            Format::Json => output::print_json(&report),
            Format::Table => output::print(&lines(&report)),
        }
    }
}

fn ask(node: Node, pause_max: Duration) -> Result<Json, Failed> {
    let command = Command::Upgrade {
        pause_max_ms: u64::try_from(pause_max.as_millis()).unwrap_or(u64::MAX),
    };
    let asked = node.run(command, None::<tokio::io::Empty>, |_| Ok(()), |_| {});
    match target::block_on(asked)? {
        Ok(Outcome::Report { good: true, report }) => Ok(report),
        Ok(Outcome::Report { report, .. }) if report["another"] == true => {
            Err(Failed::overtaken(format_args!(
                "this upgrade was not tried: {}",
                report["why"].as_str().unwrap_or_default()
            )))
        }
        Ok(Outcome::Report { report, .. }) => Err(Failed::report(format_args!(
            "the node goes on as before: {}",
            report["why"].as_str().unwrap_or_default()
        ))),
        Ok(Outcome::Counts(_) | Outcome::Told(_)) => {
            Err(Failed::report("the node answered another command"))
        }
        Err(ControlError::Failed(refused)) => Err(Failed::not_found(refusal(&refused.message))),
        Err(error) => Err(target::explain(error)),
    }
}

/// What a node said that does not do this; one of an older version does not know the command.
fn refusal(message: &str) -> String {
    match message.starts_with("bad command: unknown variant") {
        true => "the running node is of a version that cannot do this: start it anew".to_owned(),
        false => message.to_owned(),
    }
}

/// A line for each fact.
fn lines(report: &Json) -> String {
    let rows = ["process", "before", "pause_seconds"].map(|name| {
        let value = report.get(name).map(Json::to_string).unwrap_or_default();
        vec![name.replace('_', " "), value]
    });
    output::table(&["WHAT", "VALUE"], &rows)
}
