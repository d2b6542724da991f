//! `jiexi migrate dump`: everything that a running CNRI server has.

use std::io::Cursor;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::ProgressBar;

use super::super::access::Access;
use super::super::output::{self, Format};
use super::super::refusal::{self, Refusal};
use super::super::{Failed, access::Trouble, bulk, exit, progress, target};
use crate::bulk::Counts;
use crate::bulk::import::{self, Event, Known, import};
use crate::client::Administrator;
use crate::clock;
use crate::config::Config;
use crate::control::command::{Command, Outcome, Progress};
use crate::identity;
use crate::migrate::dump::Dump as Gathered;
use crate::migrate::report::REFUSALS_MAX;
use crate::registry::seal::Sealer;
use crate::store::Store;

/// Refusals that are shown to people; -o json has more of them.
const SHOWN: usize = 20;

/// What has come is written after so long, however little it is: what is written need not come again.
const SEGMENT_TIME: Duration = Duration::from_secs(5);

/// Copy everything that a running CNRI server has
///
/// Asks the server for all its handles and homed prefixes, as its mirrors do: the identity must be one of its
/// replication_admins. What comes is checked against the key in the server's site record (--site-record, else the one that the
/// server shows), block by block or by TLS. Values come as they are, with timestamps, secret keys too, which are sealed here as
/// all secrets are. Handles are written as the server stores them, in capital letters unless it is case-sensitive.
///
/// A handle that is here with other values is kept and reported, or with --overwrite replaced; what clients of a running node
/// write meanwhile is here, too. One that is here with the same
/// values is not written again: the same command goes on after an interruption, and brings what has changed there since.
/// What was deleted there meanwhile stays here. A site with several servers is copied from each of them.
#[derive(Debug, Args)]
pub(super) struct Dump {
    /// Report what would come of it, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Replace handles that are here with other values
    #[arg(long)]
    overwrite: bool,
    /// Form of the report
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    access: Access,
}

/// The node that takes it, running or stopped.
enum Taker {
    Running(Box<Config>),
    Stopped(Box<Config>, Box<Store>, Option<Sealer>),
}

/// How handles are imported.
#[derive(Clone, Copy)]
struct How {
    known: Known,
    dry_run: bool,
}

/// What was not taken, as far as a report names it: there may be millions.
#[derive(Default)]
struct Left {
    kept: Vec<String>,
    /// How many lines were skipped, which are not all in `refusals`.
    refused: u64,
    refusals: Vec<(String, String)>,
}

impl Left {
    fn keep(&mut self, handle: String) {
        if self.kept.len() < REFUSALS_MAX {
            self.kept.push(handle);
        }
    }

    /// Notes the lines of a segment that were skipped.
    fn skip(&mut self, segment: &[u8], skipped: Vec<(u64, String)>) {
        self.refused += skipped.len() as u64;
        let mut skipped = skipped.into_iter().peekable();
        for (number, line) in (1..).zip(segment.split(|octet| *octet == b'\n')) {
            if self.refusals.len() == REFUSALS_MAX {
                break;
            }
            while let Some((_, reason)) = skipped.next_if(|(at, _)| *at == number) {
                self.refusals.push((handle_of(line), reason));
            }
            if skipped.peek().is_none() {
                break;
            }
        }
    }
}

impl Dump {
    pub(super) fn run(self) -> Result<(), Failed> {
        let (admin, clear, config) = self.access.copying()?;
        let mut gathered = Gathered::new(config.store_config().case);
        let taker = Taker::open(config)?;
        let how = How {
            known: if self.overwrite {
                Known::Replace
            } else {
                Known::Keep
            },
            dry_run: self.dry_run,
        };
        let bar = progress::unknown(if self.dry_run { "looking" } else { "copying" });
        let mut counts = Counts::default();
        let (segments, received) = sync_channel(1);
        let outcome = thread::scope(|scope| {
            let (gathered, bar) = (&mut gathered, &bar);
            let receiving = scope.spawn(move || {
                let told = target::block_on(receive(admin, clear, gathered, &segments, bar));
                told.map_err(Trouble::Failed).and_then(|told| told)
            });
            let taken = take_all(&taker, how, &received, &mut counts);
            // When this side has given up, the other one is told so by that.
            drop(received);
            let received = receiving.join();
            let received = received
                .unwrap_or_else(|_| Err(Failed::report("a thread ended unexpectedly").into()));
            (taken, received)
        });
        bar.finish_and_clear();
        let closed = taker.close(how.dry_run, outcome.0.is_ok());
        self.finish(outcome, gathered, &counts).and(closed)
    }

    /// Reports what was done, and what was not.
    fn finish(
        &self,
        (taken, received): (Result<Left, Failed>, Result<(), Trouble>),
        mut gathered: Gathered,
        counts: &Counts,
    ) -> Result<(), Failed> {
        let failed = match (taken, received) {
            (Ok(left), received) => {
                gathered.left(left.kept, left.refused, left.refusals);
                let subject = self.access.elsewhere();
                let explain =
                    |trouble| refusal::explain(trouble, &subject, &self.access, Format::Table);
                received.map_err(explain).err()
            }
            (Err(failed), _) => Some(failed),
        };
        let complete = failed.is_none();
        self.tell(&gathered, complete, counts)?;
        if let Some(failed) = failed {
            exit::say("jiexi: not all was copied; the same command goes on from what is here");
            return Err(failed);
        }
        match (gathered.refused, counts.kept) {
            (0, 0) => Ok(()),
            (refused, 0) => Err(Failed::report(format_args!(
                "{refused} refused; all others are here"
            ))),
            (0, kept) => Err(Failed::report(format_args!(
                "{kept} handles are here with other values and were kept; --overwrite replaces them"
            ))),
            (refused, kept) => Err(Failed::report(format_args!(
                "{refused} refused; {kept} handles are here with other values and were kept; --overwrite replaces them"
            ))),
        }
    }

    fn tell(&self, gathered: &Gathered, complete: bool, counts: &Counts) -> Result<(), Failed> {
        for (handle, reason) in gathered.refusals.iter().take(SHOWN) {
            exit::say(format_args!("jiexi: {}: {reason}", output::visible(handle)));
        }
        not_shown("refused", gathered.refused, gathered.refusals.len());
        for handle in gathered.kept.iter().take(SHOWN) {
            let handle = output::visible(handle);
            exit::say(format_args!("jiexi: {handle}: is here with other values"));
        }
        not_shown("kept", counts.kept, gathered.kept.len());
        let json = gathered.json(&self.access.elsewhere(), self.dry_run, complete, counts);
        if self.output == Format::Json {
            return output::print_json(&json);
        }
        let row = |what: &str, count: u64| vec![what.to_owned(), count.to_string()];
        let of = |name: &str| json["handles"][name].as_u64().unwrap_or_default();
        let would = |is: &str, be: &str| {
            if self.dry_run {
                be.to_owned()
            } else {
                is.to_owned()
            }
        };
        let rows = [
            row("received", of("received")),
            row(&would("new here", "would be new here"), of("new")),
            row("already so", of("same")),
            row(&would("replaced", "would be replaced"), of("replaced")),
            row("kept, with other values", of("kept")),
            row("refused", of("refused")),
            row(
                "prefixes at home there",
                json["prefixes"].as_array().map_or(0, Vec::len) as u64,
            ),
        ];
        let mut out = output::table(&["HANDLES", "COUNT"], &rows);
        for remark in gathered.remarks() {
            out.push_str(&output::visible(&remark));
            out.push('\n');
        }
        if self.dry_run {
            out.push_str("nothing was changed\n");
        }
        output::print(&out)
    }
}

/// Says that there are more than people are shown, and whether programs are.
fn not_shown(what: &str, all: u64, named: usize) {
    let more = all.saturating_sub(SHOWN as u64);
    if more == 0 {
        return;
    }
    let named = named as u64;
    let help = match named < all {
        true => format!("-o json names the first {named}"),
        false => "-o json names them".to_owned(),
    };
    exit::say(format_args!("jiexi: {more} more are {what}; {help}"));
}

/// Receives the copy, and hands it over in segments.
async fn receive(
    mut admin: Administrator,
    clear: bool,
    gathered: &mut Gathered,
    segments: &SyncSender<Vec<u8>>,
    bar: &ProgressBar,
) -> Result<(), Trouble> {
    let mut copy = admin.copy(clear).await?.map_err(|answer| {
        Trouble::Refused(Refusal {
            code: answer.code,
            message: answer.message,
            server: Some(answer.server),
        })
    })?;
    let mut handed_over = Instant::now();
    let outcome = loop {
        match copy.next().await {
            Ok(Some(block)) => gathered.take(&block),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error.into()),
        }
        bar.set_position(gathered.received);
        if let Some(segment) = gathered.segment(handed_over.elapsed() >= SEGMENT_TIME) {
            if segments.send(segment).is_err() {
                // The other side says why.
                return Ok(());
            }
            handed_over = Instant::now();
        }
    };
    let rest = match &outcome {
        Ok(()) => gathered.last(),
        // What has come is good, and need not come again.
        Err(_) => gathered.rest(),
    };
    let _ = segments.send(rest);
    outcome
}

/// Imports segment after segment.
fn take_all(
    taker: &Taker,
    how: How,
    segments: &Receiver<Vec<u8>>,
    counts: &mut Counts,
) -> Result<Left, Failed> {
    let mut left = Left::default();
    for segment in segments {
        if segment.is_empty() {
            continue;
        }
        counts.add(taker.take(&segment, how, &mut left)?);
    }
    Ok(left)
}

/// The handle of a line.
fn handle_of(line: &[u8]) -> String {
    let json: Option<serde_json::Value> = serde_json::from_slice(line).ok();
    let handle = json.as_ref().and_then(|json| json["handle"].as_str());
    handle.unwrap_or_default().to_owned()
}

impl Taker {
    fn open(config: Config) -> Result<Self, Failed> {
        match target::find(&config)? {
            target::Target::Running(_) => Ok(Self::Running(Box::new(config))),
            target::Target::Stopped(store) => {
                let sealer = identity::sealer(&config.node_key()).map_err(Failed::report)?;
                Ok(Self::Stopped(Box::new(config), store, sealer))
            }
        }
    }

    /// Imports a segment.
    fn take(&self, segment: &[u8], how: How, left: &mut Left) -> Result<Counts, Failed> {
        let mut skipped = Vec::new();
        let counts = match self {
            Self::Stopped(_, store, sealer) => {
                let options = import::Options {
                    known: how.known,
                    dry_run: how.dry_run,
                    keep_going: true,
                    now: clock::unix_seconds(),
                    live: false,
                    alone: true,
                    sealer: sealer.clone(),
                };
                let told = Mutex::new((&mut *left, &mut skipped));
                let watch = |event: Event<'_>| {
                    let Ok(mut told) = told.lock() else { return };
                    match event {
                        Event::Progress(_) => {}
                        Event::Skipped(bad) => told.1.push((bad.line, bad.message.clone())),
                        Event::Kept(handle) => told.0.keep(handle.to_owned()),
                    }
                };
                let done = import(Cursor::new(segment), store, options, &watch);
                done.map_err(|stopped| Failed::report(stopped.error))?
            }
            Self::Running(config) => {
                let node = target::running(config)?
                    .ok_or_else(|| Failed::report("the node was stopped meanwhile"))?;
                let command = Command::Import {
                    keep_going: true,
                    live: false,
                    known: how.known,
                    dry_run: how.dry_run,
                };
                let on_progress = |progress: Progress| match progress {
                    Progress::Kept { handle } => left.keep(handle),
                    Progress::Skipped { line, message } => skipped.push((line, message)),
                    Progress::Counts(_) | Progress::Total(_) => {}
                };
                let done = node.run(command, Some(segment), |_| Ok(()), on_progress);
                match target::block_on(done)?.map_err(target::explain)? {
                    Outcome::Counts(counts) => counts,
                    _ => return Err(Failed::report("the node answered another command")),
                }
            }
        };
        // Chunks that were looked at again are told of later than others.
        skipped.sort_by_key(|(line, _)| *line);
        left.skip(segment, skipped);
        Ok(counts)
    }

    /// Lets the node go.
    fn close(self, dry_run: bool, good: bool) -> Result<(), Failed> {
        let Self::Stopped(config, store, _) = self else {
            return Ok(());
        };
        if !dry_run {
            target::note(&config, "import", good, Some(store.sequence()));
            if good {
                bulk::follow(&store);
            }
        }
        target::close(&store)
    }
}
