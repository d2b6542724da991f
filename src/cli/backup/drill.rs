//! `jiexi backup drill`: see that a backup would bring the node back.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;
use jiexi_proto::handle::CaseRule;
use serde_json::{Value as Json, json};

use super::{
    Bars, Form, Opening, RepositoryPath, explain,
    key::{self, EscrowedKey},
    restore::Moment,
    source::Node,
};
use crate::{
    backup::{
        create::Source,
        drill::{self, Step},
        plan::Plan,
        scratch::{self, Scratch},
    },
    cli::{Failed, output, place::Place},
    config::Config,
    store,
};

/// Restore into a scratch directory, verify what comes out, and compare it with the node
///
/// It needs neither the node nor its key file: on another host it restores and verifies what is in the repository. With
/// the key in escrow it opens every secret. Where the node is, running or stopped, number and sum of the records are
/// compared with it, the changes since the backup included. The scratch directory goes afterwards.
#[derive(Debug, Args)]
pub(super) struct Drill {
    #[command(flatten)]
    repository: RepositoryPath,
    #[command(flatten)]
    moment: Moment,
    #[command(flatten)]
    key: EscrowedKey,
    #[command(flatten)]
    opening: Opening,
    /// Compare with no node, even if there is one
    #[arg(long)]
    alone: bool,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    place: Place,
}

impl Drill {
    pub(super) fn run(self) -> Result<(), Failed> {
        let begun = Instant::now();
        let repository = (self.repository).open_with(self.opening.keys()?, &self.place)?;
        let _reading = repository.reading().map_err(explain)?;
        let plan = self.moment.plan(&repository)?;
        let pair = self.key.open(&plan)?;
        let sealer = pair.as_ref().map(key::sealer).transpose()?;
        let node = self.node()?;
        let directory =
            Scratch::new(scratch::OF_DRILL, &self.repository.scratch()).map_err(explain)?;
        let (bars, mut steps) = (Bars::default(), Vec::new());
        let drill = drill::Drill {
            repository: &repository,
            plan: &plan,
            settings: settings(&plan, directory.path().join("store")),
            sealer,
            node: node.as_ref().map(|node| node as &dyn Source),
            watch: &bars,
        };
        let done = drill.run(&mut |step| steps.push(step));
        bars.clear();
        let cleared = directory.close().map_err(|error| {
            Failed::report(format_args!(
                "the scratch directory cannot be removed: {error}"
            ))
        });
        self.tell(&steps, done.is_ok(), node.is_some(), begun.elapsed())?;
        let done = done.map_err(explain);
        cleared.and(done)
    }

    /// The node to compare with.
    fn node(&self) -> Result<Option<Node>, Failed> {
        if self.alone || !drill::has_store(&self.place.load()?.store_dir()) {
            return Ok(None);
        }
        Node::of(&self.place).map(Some)
    }

    fn tell(
        &self,
        steps: &[Step],
        good: bool,
        compared: bool,
        took: Duration,
    ) -> Result<(), Failed> {
        let json = json!({
            "good": good,
            "seconds": took.as_secs_f64(),
            "steps": steps.iter().map(step_json).collect::<Vec<_>>(),
        });
        let rows: Vec<Vec<String>> = steps
            .iter()
            .map(|step| {
                let seconds = format!("{:.2}", step.took.as_secs_f64());
                vec![step.what.to_owned(), seconds, step.result.clone()]
            })
            .collect();
        let mut text = output::table(&["STEP", "SECONDS", "RESULT"], &rows);
        if good {
            if self.key.is_none() {
                text += "secrets were not opened: give --key and --passphrase-file\n";
            }
            if !compared {
                text += "there is no node here: nothing was compared\n";
            }
            text += &format!(
                "the backup brings the node back; the drill took {:.2} s and left nothing behind\n",
                took.as_secs_f64()
            );
        }
        self.form.print(&json, &text)
    }
}

fn step_json(step: &Step) -> Json {
    json!({"step": step.what, "seconds": step.took.as_secs_f64(), "result": step.result})
}

/// Settings of the scratch store: those of the backup where they matter.
fn settings(plan: &Plan, dir: PathBuf) -> store::Config {
    let case = match plan.full.case.as_str() {
        "prefix" => CaseRule::Prefix,
        _ => CaseRule::Whole,
    };
    store::Config {
        dir,
        case,
        ..Config::default().store_config()
    }
}
