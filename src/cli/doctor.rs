//! `jiexi doctor`: what stands between a node and its work, and what to do about it.

use std::{fs, io};

use clap::Args;
use serde_json::{Value as Json, json};

use super::{
    Failed,
    output::{self, Format},
    place::{self, Place},
};
use crate::config;
use crate::doctor::{self, Finding, Verdict};
use crate::owner;

/// Look at configuration, keys, ports, clock, limits and disk, and ask the node by each protocol
///
/// Run it as the user of the node, on its machine; before the first start as well as when something is wrong. Exit code 1
/// when something stands between the node and its work, 0 when all is good or only worth a look.
#[derive(Debug, Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    place: Place,
    /// Form of the report
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

impl Doctor {
    pub(super) fn run(self) -> Result<(), Failed> {
        let findings = self.findings()?;
        let printed = match self.output {
            Format::Table => output::print(&text(&findings)),
            Format::Json => output::print_json(&findings.iter().map(report).collect()),
        };
        match findings
            .iter()
            .filter(|finding| finding.verdict == Verdict::Bad)
            .count()
        {
            0 => printed,
            bad => Err(Failed::report(format_args!(
                "{bad} of {} checks failed",
                findings.len()
            ))),
        }
    }

    fn findings(&self) -> Result<Vec<Finding>, Failed> {
        let check = "configuration";
        let Some(file) = self.place.file().or_else(|| self.place.hidden()) else {
            let advice = "`jiexi init` makes a node; --config or --data say where one is";
            return Ok(vec![Finding::new(
                check,
                Verdict::Bad,
                "no configuration file found",
                advice,
            )]);
        };
        let (config, origins) = match config::load_placed(&file, place::environment()) {
            Ok(loaded) => loaded,
            Err(problems) => {
                let bad = |problem: &config::Problem| {
                    let advice = "`jiexi config template` shows every key";
                    Finding::new(check, Verdict::Bad, problem.to_string(), advice)
                };
                let mut findings = match fs::File::open(&file) {
                    // Nothing is wrong with what is in it.
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                        let found = format!("{}: {error}", file.display());
                        let advice = owner::advice(&file);
                        vec![Finding::new(check, Verdict::Bad, found, advice)]
                    }
                    _ => problems.iter().map(bad).collect(),
                };
                let mut config = config::Config::default();
                config.operations.listen = config::operations_listen(&file, place::environment());
                // A node that runs has the configuration from before.
                findings.extend(doctor::examine_running(&config));
                return Ok(findings);
            }
        };
        owner::is_about(&config.node.data);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime
            .map_err(|error| Failed::report(format_args!("cannot start the runtime: {error}")))?;
        let mut findings = vec![Finding::new(
            check,
            Verdict::Good,
            file.display().to_string(),
            "",
        )];
        findings.extend(runtime.block_on(doctor::examine(&config, &origins)));
        Ok(findings)
    }
}

/// A line for each finding, and one for what to do.
fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let found = output::visible(&finding.found);
        text += &format!(
            "{:<8} {:<13} {found}\n",
            finding.verdict.label(),
            finding.check
        );
        if !finding.advice.is_empty() {
            text += &format!("{:<22} → {}\n", "", output::visible(&finding.advice));
        }
    }
    text
}

fn report(finding: &Finding) -> Json {
    json!({
        "check": finding.check,
        "verdict": finding.verdict.label().to_lowercase(),
        "found": finding.found,
        "advice": finding.advice,
    })
}
