//! `jiexi migrate batch`: the batch files that the tools of a CNRI server take.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

use clap::Args;

use super::super::output::{self, Format};
use super::super::place::Place;
use super::super::{Failed, exit, progress};
use super::node::Node;
use crate::clock;
use crate::migrate::carry::{self, Options, Stop};
use crate::migrate::report::{REFUSALS_MAX, Refusal, Report};
use crate::migrate::trial::Trial;

/// Refusals that are shown to people; -o json has more of them.
const SHOWN: usize = 20;

/// Carry out batch files of the Handle.Net tools (hdl-genericbatch)
///
/// Reads CREATE, DELETE, ADD, MODIFY, REMOVE, HOME and UNHOME with their value lines (UTF8, ADMIN, LIST, FILE; relative paths
/// from the working directory). AUTHENTICATE and SESSIONSETUP are read and not needed; the server that HOME names is this node.
/// A file with a line that cannot be read changes nothing. A command that the node refuses stops the migration there; one that
/// creates a handle which is here already with the same values counts as done. Every change is in the audit trail.
///
/// The position is kept in FILE.position until all of the files are carried out: the same command goes on from there after a
/// kill, or when the reason of a refusal is gone, and passes over files that are done. A FILE that has changed meanwhile is
/// refused, and so is one that was begun before the node was restored. With --keep-going everything that is refused is named in
/// FILE.refused, a line of JSON for each, which stays; the next migration of FILE makes it FILE.refused.1.
///
/// A dry run takes the files one after the other as the real one would, from their positions on; without --keep-going it says
/// where that would stop. It keeps about 500 bytes in memory for each handle that they are about.
#[derive(Debug, Args)]
pub(super) struct Batch {
    /// The files, carried out in this order
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Report what would be done and refused, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Pass over what is refused or cannot be read; the exit code is then still 1
    #[arg(long)]
    keep_going: bool,
    /// Form of the report
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    place: Place,
}

impl Batch {
    pub(super) fn run(self) -> Result<(), Failed> {
        self.expect_distinct()?;
        let config = self.place.load()?;
        let data = &config.node.data;
        let options = Options {
            dry_run: self.dry_run,
            keep_going: self.keep_going,
            case: config.store_config().case,
            node: fs::canonicalize(data)
                .unwrap_or_else(|_| data.clone())
                .display()
                .to_string(),
            trail: config.audit_dir(),
            now: clock::unix_seconds,
        };
        let mut report = Report {
            dry_run: self.dry_run,
            ..Report::default()
        };
        let mut node = Node::open(config)?;
        let outcome = self.carry(&options, &mut report, &mut node);
        let closed = node.close();
        // What was done before something went wrong is said in any case.
        let told = self.tell(&report);
        let complete = !self.dry_run && report.is_complete(self.files.len());
        // What could not be told or was not closed is told by the same command again.
        let ended = match told.is_ok() && closed.is_ok() && complete {
            true => carry::end(&self.files).map_err(failed),
            false => Ok(()),
        };
        let judged = self.judge(&report);
        outcome.and(told).and(closed).and(ended).and(judged)
    }

    fn carry(&self, options: &Options, report: &mut Report, node: &mut Node) -> Result<(), Failed> {
        let length = |file: &PathBuf| fs::metadata(file).map_or(0, |found| found.len());
        let what = if self.dry_run { "looking" } else { "migrating" };
        let bar = progress::bytes(what, self.files.iter().map(length).sum());
        let mut before = 0;
        carry::take_back(&self.files).map_err(failed)?;
        let mut trial = Trial::new(options.case);
        for file in &self.files {
            let mut watch = |octets| bar.set_position(before + octets);
            let mut ask = |asked: &_| node.ask(asked);
            let outcome = carry::file(file, options, report, &mut trial, &mut ask, &mut watch);
            before += length(file);
            if let Err(stop) = outcome {
                bar.finish_and_clear();
                return match stop {
                    // The report says it.
                    Stop::Refused => Ok(()),
                    stop => Err(failed(stop)),
                };
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// A file that is named twice would be carried out once.
    fn expect_distinct(&self) -> Result<(), Failed> {
        let mut seen = HashSet::new();
        for file in &self.files {
            // One that is not there is told of later.
            let place = fs::canonicalize(file).unwrap_or_else(|_| file.clone());
            if !seen.insert(place) {
                let name = file.display();
                let text = format!("{name} is given twice: a command carries a file out once");
                return Err(Failed::usage(text));
            }
        }
        Ok(())
    }

    /// Prints the report.
    fn tell(&self, report: &Report) -> Result<(), Failed> {
        for refusal in report.refusals.iter().take(SHOWN) {
            exit::say(format_args!("jiexi: {}", line(refusal)));
        }
        match self.output {
            Format::Json => output::print_json(&report.json()),
            Format::Table => output::print(&table(report)),
        }
    }

    /// What is refused is a failure.
    fn judge(&self, report: &Report) -> Result<(), Failed> {
        let refused = report.counts.refused();
        if refused == 0 {
            return Ok(());
        }
        let lists: Vec<&str> = report
            .sources
            .iter()
            .filter_map(|source| source.refused_in.as_deref())
            .collect();
        let named = match (lists.is_empty(), report.is_truncated()) {
            (false, _) => format!("{} names all of them", lists.join(", ")),
            (true, true) => format!("-o json has the first {REFUSALS_MAX}"),
            (true, false) => "-o json has all of them".to_owned(),
        };
        let more = match refused.saturating_sub(SHOWN as u64) {
            0 if lists.is_empty() => String::new(),
            0 => format!(" ({named})"),
            more => format!(" ({more} of them are not shown; {named})"),
        };
        let stopped = report.sources.iter().any(|source| !source.complete);
        let help = match (self.dry_run, stopped, report.counts.unreadable) {
            (true, ..) => "; nothing was changed",
            (false, false, _) => "; the rest is done",
            (false, true, 0) => {
                "; the migration stopped there, and the same command goes on when the reason is gone"
            }
            (false, true, _) => "; a file with such lines is not begun with",
        };
        Err(Failed::report(format_args!(
            "{refused} refused{more}{help}"
        )))
    }
}

/// Why a migration ends, for people.
fn failed(stop: Stop<Failed>) -> Failed {
    match stop {
        Stop::Refused => Failed::report("refused"),
        Stop::File(text) | Stop::Unwilling(text) => Failed::report(text),
        Stop::Node(failed) => failed,
    }
}

/// A refusal on a line.
fn line(refusal: &Refusal) -> String {
    let Refusal {
        file,
        line,
        operation,
        handle,
        reason,
        ..
    } = refusal;
    let operation = operation.as_ref();
    let operation = operation.map_or_else(String::new, |operation| format!("{operation} "));
    let about = handle.as_ref().map(|handle| output::visible(handle));
    let about = about.map_or_else(String::new, |handle| format!("{operation}{handle}: "));
    format!("{file}:{line}: {about}{reason}")
}

/// The counts in columns.
fn table(report: &Report) -> String {
    let counts = &report.counts;
    let row = |(kind, tally): (&String, &crate::migrate::report::Tally)| {
        vec![
            kind.clone(),
            tally.done.to_string(),
            tally.same.to_string(),
            tally.refused.to_string(),
        ]
    };
    let mut rows: Vec<_> = counts.operations.iter().map(row).collect();
    if counts.unreadable > 0 {
        let none = || "0".to_owned();
        rows.push(vec![
            "unreadable".to_owned(),
            none(),
            none(),
            counts.unreadable.to_string(),
        ]);
    }
    let done = if report.dry_run {
        "WOULD BE DONE"
    } else {
        "DONE"
    };
    let mut out = output::table(&["OPERATION", done, "ALREADY SO", "REFUSED"], &rows);
    let mut more = vec![format!("{} values", counts.values)];
    if counts.not_needed > 0 {
        more.push(format!(
            "{} AUTHENTICATE and SESSIONSETUP not needed",
            counts.not_needed
        ));
    }
    for source in &report.sources {
        if let Some(line) = source.resumed_after {
            let goes_on = if report.dry_run {
                "would go on"
            } else {
                "resumed"
            };
            more.push(format!("{} {goes_on} behind line {line}", source.file));
        }
        if source.done_before {
            more.push(format!("{} was done before", source.file));
        }
    }
    match &report.would_stop {
        Some(stop) if stop.begun => {
            more.push(format!("it would stop at {}:{}", stop.file, stop.line));
        }
        Some(stop) => more.push(format!(
            "{} would not be begun with, for line {} cannot be read",
            stop.file, stop.line
        )),
        None => {}
    }
    if report.dry_run {
        more.push("nothing was changed".to_owned());
    }
    out.push_str(&more.join("; "));
    out.push('\n');
    out
}
