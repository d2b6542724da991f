//! `jiexi backup`: keep what a node has elsewhere, and bring it back.
//!
//! * `create`, `list`, `verify`, `prune` — a repository and what is in it.
//! * `restore`, `drill` — a node, or a scratch directory, out of it.
//! * `access` — where the backups are, and what opens them.
//! * `source` — the node that is backed up; `key` — the key that its secrets are sealed with.

use std::cell::RefCell;

use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use serde_json::{Value as Json, json};

use super::{Failed, exit::say, output, output::Format, place::Place, progress};
use crate::backup::{
    self, BackupError, Watch,
    create::{Source as _, Wanted, create},
    encryption::Encryption,
    last,
    manifest::Manifest,
    repository::Listing,
};
use access::{Opening, RepositoryPath, Sealing};

mod access;
mod drill;
mod key;
mod restore;
mod source;

/// What `--help` says about exit codes.
const AFTER_HELP: &str = "\
Exit codes: 0 done; 1 failed, or something is damaged; 2 wrong command line; 3 there is no such backup.";

/// Back a node up, check the backups, and bring a node back
///
/// A repository is a directory for backups alone, best on another disk or machine, or a part of a bucket in an S3 store. Its
/// first backup is a full one; the next ones have what changed since. Secret keys in it are sealed with the node's key,
/// which is not in it: keep that with `jiexi key escrow export`, in another place. All of a backup can be encrypted, too, in
/// the age format.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Backup {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Write what the repository does not have yet
    ///
    /// A running node goes on serving; the store of a stopped one is opened, and closed before anything is copied, so that
    /// the node can be started meanwhile. A backup counts once it is complete: one that was interrupted is removed by the
    /// next. One in clear is refused where the newest is encrypted.
    Create {
        #[command(flatten)]
        repository: RepositoryPath,
        #[command(flatten)]
        sealing: Sealing,
        /// Write a full backup, too
        #[arg(long)]
        full: bool,
        #[command(flatten)]
        form: Form,
        #[command(flatten)]
        place: Place,
    },
    /// Show the backups, oldest first
    List {
        #[command(flatten)]
        repository: RepositoryPath,
        #[command(flatten)]
        form: Form,
        #[command(flatten)]
        place: Place,
    },
    /// Read every octet and compare it with the checksums; exit code 1 if something is damaged
    ///
    /// Of encrypted backups that nothing was given for, it is seen that they are as they were written, and no more.
    Verify {
        #[command(flatten)]
        repository: RepositoryPath,
        #[command(flatten)]
        opening: Opening,
        #[command(flatten)]
        form: Form,
        #[command(flatten)]
        place: Place,
    },
    Restore(restore::Restore),
    Drill(drill::Drill),
    /// Remove old backups
    ///
    /// The newest full backups stay, with all increments since the oldest of them. Before anything goes, those that stay
    /// are read and compared with their checksums: a damaged one is not counted, and where there are too few others, nothing
    /// is removed. One whose manifest is damaged stays until it is named with --damaged.
    Prune {
        #[command(flatten)]
        repository: RepositoryPath,
        /// How many full backups stay
        #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
        keep: u32,
        /// Remove this backup, too, whose manifest is damaged, so that nobody can restore it; may be repeated
        #[arg(long, value_name = "ID")]
        damaged: Vec<String>,
        #[command(flatten)]
        form: Form,
        #[command(flatten)]
        place: Place,
    },
}

/// How something is printed.
#[derive(Debug, Args)]
struct Form {
    /// Form of the output
    #[arg(long, short = 'o', value_enum, default_value_t)]
    output: Format,
}

impl Form {
    fn print(&self, json: &Json, text: &str) -> Result<(), Failed> {
        match self.output {
            Format::Json => output::print_json(json),
            Format::Table => output::print(text),
        }
    }
}

impl Backup {
    pub(super) fn run(self) -> Result<(), Failed> {
        match self.action {
            Action::Create {
                repository,
                sealing,
                full,
                form,
                place,
            } => run_create(&repository, &sealing, full, &form, &place),
            Action::List {
                repository,
                form,
                place,
            } => list(&repository, &form, &place),
            Action::Verify {
                repository,
                opening,
                form,
                place,
            } => verify(&repository, &opening, &form, &place),
            Action::Restore(command) => command.run(),
            Action::Drill(command) => command.run(),
            Action::Prune {
                repository,
                keep,
                damaged,
                form,
                place,
            } => prune(&repository, keep, &damaged, &form, &place),
        }
    }
}

fn run_create(
    repository: &RepositoryPath,
    sealing: &Sealing,
    full: bool,
    form: &Form,
    place: &Place,
) -> Result<(), Failed> {
    let config = place.load()?;
    let lock = sealing.lock(&config)?;
    let node = source::Node::of(place)?;
    let repository = repository.create(lock, place, &config)?;
    let bars = Bars::default();
    let wanted = Wanted {
        full,
        in_clear: sealing.is_in_clear(),
    };
    let created = create(&repository, &node, wanted, &bars);
    bars.clear();
    let created = created.map_err(explain)?;
    if let Err(error) = last::note(&config.node.data, node.now()) {
        say(format_args!(
            "jiexi: the backup is whole, but those who watch the node will not see it: {error}"
        ));
    }
    let json = json!({
        "created": created.backups.iter().map(row_json).collect::<Vec<_>>(),
        "reason": created.reason,
        "removed_unfinished": created.removed,
        "left": created.left,
    });
    let mut text = String::new();
    for id in &created.removed {
        text += &format!("{id} had been interrupted and was removed\n");
    }
    for left in &created.left {
        text += &format!("{left}\n");
    }
    if let Some(reason) = &created.reason {
        text += &format!("a full backup was taken: {reason}\n");
    }
    match created.backups.is_empty() {
        true => text += "nothing has changed since the last backup\n",
        false => text += &table(&created.backups),
    }
    form.print(&json, &text)
}

fn list(repository: &RepositoryPath, form: &Form, place: &Place) -> Result<(), Failed> {
    let repository = repository.open(place)?;
    let _reading = repository.reading().map_err(explain)?;
    let listing = repository.list().map_err(explain)?;
    let json = json!({
        "backups": listing.whole.iter().map(row_json).collect::<Vec<_>>(),
        "damaged": listing.damaged.iter().map(|(id, _)| id).collect::<Vec<_>>(),
        "unfinished": listing.unfinished,
    });
    form.print(&json, &table(&listing.whole))?;
    damaged(&listing)
}

/// A backup whose manifest is damaged is named on every occasion.
fn damaged(listing: &Listing) -> Result<(), Failed> {
    let problems: Vec<&str> = listing
        .damaged
        .iter()
        .map(|(_, problem)| problem.as_str())
        .collect();
    match problems.is_empty() {
        true => Ok(()),
        false => Err(Failed::report(problems.join("\njiexi: "))),
    }
}

fn verify(
    repository: &RepositoryPath,
    opening: &Opening,
    form: &Form,
    place: &Place,
) -> Result<(), Failed> {
    let repository = repository.open_with(opening.keys()?, place)?;
    let bars = Bars::default();
    let report = backup::verify::verify(&repository, &bars);
    bars.clear();
    let report = report.map_err(explain)?;
    let good = report.problems.is_empty();
    let json = json!({
        "good": good,
        "backups": report.backups,
        "bytes": report.bytes,
        "problems": report.problems,
        "unfinished": report.unfinished,
        "removed": report.removed,
        "unopened": report.unopened,
    });
    let mut text = format!(
        "{} backups, {} read\n",
        report.backups,
        bytesize::ByteSize(report.bytes)
    );
    for id in &report.unfinished {
        text +=
            &format!("{id} was interrupted and counts for nothing; the next backup removes it\n");
    }
    for id in &report.removed {
        text += &format!("{id} was removed while it was read, and counts for nothing\n");
    }
    for problem in &report.problems {
        text += &format!("{problem}\n");
    }
    if !report.unopened.is_empty() {
        text += &format!(
            "encrypted, and not opened: {}; they are as they were written, and what is in them was not looked at; give \
             --identity FILE or --encryption-passphrase-file FILE\n",
            report.unopened.join(", ")
        );
    }
    if good {
        text += "all of it is right\n";
    }
    form.print(&json, &text)?;
    match good {
        true => Ok(()),
        false => Err(Failed::report(
            "the backups are not as they should be; see the report",
        )),
    }
}

fn prune(
    repository: &RepositoryPath,
    keep: u32,
    unreadable: &[String],
    form: &Form,
    place: &Place,
) -> Result<(), Failed> {
    let repository = repository.open(place)?;
    let keep = usize::try_from(keep).unwrap_or(usize::MAX);
    let bars = Bars::default();
    let pruned = backup::prune::prune(&repository, keep, unreadable, &bars);
    bars.clear();
    let pruned = pruned.map_err(explain)?;
    let json = json!({
        "removed": pruned.removed.iter().map(row_json).collect::<Vec<_>>(),
        "removed_damaged": pruned.unreadable,
        "damaged": pruned.damaged,
        "left": pruned.left,
    });
    let mut text = String::new();
    for id in &pruned.unreadable {
        text += &format!("removed, because its manifest is damaged: {id}\n");
    }
    for damaged in &pruned.damaged {
        text += &format!("not counted, because it is damaged: {damaged}\n");
    }
    for left in &pruned.left {
        text += &format!("{left}\n");
    }
    match pruned.removed.is_empty() {
        true => text += "nothing is old enough to be removed\n",
        false => text += &format!("removed:\n{}", table(&pruned.removed)),
    }
    form.print(&json, &text)
}

/// Reports an error of a backup.
fn explain(error: BackupError) -> Failed {
    match error {
        BackupError::NotFound(message) => Failed::not_found(message),
        BackupError::Key(message) | BackupError::Place(message) | BackupError::Failed(message) => {
            Failed::report(message)
        }
    }
}

/// Backups as rows.
fn table(backups: &[Manifest]) -> String {
    let rows: Vec<Vec<String>> = backups
        .iter()
        .map(|backup| {
            vec![
                backup.id.clone(),
                backup::shown_time(backup.created),
                backup.kind.name().to_owned(),
                backup.epoch.to_string(),
                format!("{}-{}", backup.from, backup.sequence),
                backup.records.to_string(),
                bytesize::ByteSize(backup.bytes()).to_string(),
                backup
                    .encryption
                    .as_ref()
                    .map_or_else(|| "no".to_owned(), Encryption::summary),
            ]
        })
        .collect();
    let header = [
        "ID",
        "TIME",
        "KIND",
        "EPOCH",
        "SEQUENCES",
        "RECORDS",
        "SIZE",
        "ENCRYPTED",
    ];
    output::table(&header, &rows)
}

/// A backup for programs.
fn row_json(backup: &Manifest) -> Json {
    json!({
        "id": backup.id,
        "time": backup::shown_time(backup.created),
        "kind": backup.kind.name(),
        "epoch": backup.epoch,
        "from": backup.from,
        "sequence": backup.sequence,
        "records": backup.records,
        "bytes": backup.bytes(),
        "case": backup.case,
        "key": backup.key,
        "program": backup.program,
        "encrypted_for": backup.encryption.as_ref().map(|encryption| &encryption.recipients),
    })
}

/// Progress on the terminal.
#[derive(Default)]
struct Bars(RefCell<Option<ProgressBar>>);

impl Bars {
    fn clear(&self) {
        if let Some(bar) = self.0.take() {
            bar.finish_and_clear();
        }
    }
}

impl Watch for Bars {
    fn begin(&self, what: &'static str, octets: u64) {
        self.clear();
        let bar = match octets {
            0 => progress::working(what),
            _ => progress::bytes(what, octets),
        };
        self.0.replace(Some(bar));
    }

    fn advance(&self, octets: u64) {
        if let Some(bar) = &*self.0.borrow() {
            bar.inc(octets);
        }
    }
}
