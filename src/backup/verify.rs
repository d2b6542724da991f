//! Whether a repository is whole: every octet of every file is read, and what leads to the newest state of each full
//! backup is added up.

use super::{
    BackupError, Watch,
    manifest::{Kind, Manifest},
    plan::{Plan, Target},
    repository::{Listing, Repository},
};

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Backups that were read.
    pub backups: u64,
    /// Octets that were read.
    pub bytes: u64,
    /// What is wrong, one line each, for people; each names the file.
    pub problems: Vec<String>,
    /// Names of backups that were interrupted: they count for nothing, and that is no problem.
    pub unfinished: Vec<String>,
}

/// Reads everything.
///
/// # Errors
/// The directory cannot be read. What is wrong with the backups is in the report.
pub fn verify(repository: &Repository, watch: &dyn Watch) -> Result<Report, BackupError> {
    let listing = repository.list()?;
    let mut report = Report {
        backups: listing.whole.len() as u64,
        bytes: listing.whole.iter().map(Manifest::bytes).sum(),
        problems: Vec::new(),
        unfinished: listing.unfinished.clone(),
    };
    report
        .problems
        .extend(listing.damaged.iter().map(|(_, problem)| problem.clone()));
    if !listing.whole.iter().any(|backup| backup.kind == Kind::Full) {
        report.problems.push(format!(
            "{}: there is no full backup, so nothing can be restored; run `jiexi backup create`",
            repository.path().display()
        ));
    }
    watch.begin("reading", report.bytes);
    for backup in &listing.whole {
        let directory = repository.directory(&backup.id);
        let mut problems = backup.check_files(&directory, watch);
        // What has the right checksum was perhaps never right.
        if problems.is_empty()
            && let Err(error) = backup.archive(&directory)
        {
            problems.push(error.to_string());
        }
        report.problems.extend(problems);
    }
    if report.problems.is_empty() {
        watch.begin("adding up", 0);
        report.problems = add_up(repository, &listing);
    }
    Ok(report)
}

/// Follows the increments from each full backup to the next one, or their end; what does not come out as the journal said.
fn add_up(repository: &Repository, listing: &Listing) -> Vec<String> {
    let mut problems = Vec::new();
    for full in listing
        .whole
        .iter()
        .filter(|backup| backup.kind == Kind::Full)
    {
        let later = listing.whole.iter().filter(|later| {
            let ours = later.kind == Kind::Full && later.epoch == full.epoch;
            ours && later.sequence > full.sequence
        });
        let end = later.map(|later| later.sequence).min();
        let mut until = full.sequence;
        while end.is_none_or(|end| until < end)
            && let Some(next) = listing.whole.iter().find(|next| {
                let ours = next.kind == Kind::Increment && next.epoch == full.epoch;
                ours && next.from <= until && next.sequence > until
            })
        {
            until = next.sequence;
        }
        // Only this full backup: a plan would take the newest.
        let alone = Listing {
            whole: listing
                .whole
                .iter()
                .filter(|backup| backup.kind == Kind::Increment || backup.id == full.id)
                .cloned()
                .collect(),
            ..Listing::default()
        };
        let found = Plan::new(&alone, Target::Sequence(until), Some(full.epoch), &|_| {
            Ok(Vec::new())
        })
        .and_then(|plan| plan.chain(repository).verify().map_err(BackupError::from));
        if let Err(error) = found {
            problems.push(error.to_string());
        }
    }
    problems
}
