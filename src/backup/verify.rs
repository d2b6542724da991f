//! Whether a repository is whole: every octet of every file is read, and what leads to the newest state of each full
//! backup is added up.
//!
//! It goes from full backup to full backup, so that no more of a repository elsewhere is on this machine at a time than
//! one of them and what leads on from there.

use std::collections::BTreeMap;

use super::{
    BackupError, Watch,
    manifest::{Kind, Manifest},
    plan::{Plan, Target, Ways},
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
    /// Names of backups that were removed while they were read: what is wrong with them is nobody's trouble.
    pub removed: Vec<String>,
    /// Names of backups that are encrypted and were not opened: what is kept is as it was written, and no more is known.
    pub unopened: Vec<String>,
}

/// Reads everything.
///
/// # Errors
/// The repository cannot be read, or what was given does not open it. What is wrong with the backups is in the report.
pub fn verify(repository: &Repository, watch: &dyn Watch) -> Result<Report, BackupError> {
    let _reading = repository.reading()?;
    let listing = repository.list()?;
    let mut report = Report {
        backups: listing.whole.len() as u64,
        bytes: listing.whole.iter().map(Manifest::bytes).sum(),
        unfinished: listing.unfinished.clone(),
        ..Report::default()
    };
    report
        .problems
        .extend(listing.damaged.iter().map(|(_, problem)| problem.clone()));
    if !listing.whole.iter().any(|backup| backup.kind == Kind::Full) {
        report.problems.push(format!(
            "{}: there is no full backup, so nothing can be restored; run `jiexi backup create`",
            repository.shown()
        ));
    }
    let sealed = |backup: &&Manifest| !repository.is_open(backup);
    let sealed = listing.whole.iter().filter(sealed);
    report.unopened = sealed.map(|backup| backup.id.clone()).collect();
    watch.begin("reading", report.bytes);
    let mut checked = Checked {
        repository,
        watch,
        problems: BTreeMap::new(),
    };
    let full = listing.whole.iter().filter(|one| one.kind == Kind::Full);
    for full in full {
        let added = checked.chain(&listing, full)?;
        report.problems.extend(added);
    }
    for backup in &listing.whole {
        checked.backup(backup)?;
        repository.release(backup);
    }
    let damaged = |backup: &&Manifest| checked.problems.get(&backup.id) != Some(&Vec::new());
    report.removed = repository.removed(listing.whole.iter().filter(damaged))?;
    let ways = Ways::of(&listing);
    let there = |backup: &&Manifest| !report.removed.contains(&backup.id);
    for backup in listing.whole.iter().filter(there) {
        let found = checked.problems.remove(&backup.id);
        report.problems.extend(found.unwrap_or_default());
        if backup.kind == Kind::Increment && !ways.lead_to(backup) {
            report.problems.push(format!(
                "{}: it continues sequence {}, and no full backup with its increments leads there: a backup before it is \
                 gone, and what it has cannot be restored; bring that back from another copy of the repository, or take \
                 a new backup",
                repository.shown_backup(&backup.id), backup.from
            ));
        }
    }
    Ok(report)
}

/// What was read so far.
struct Checked<'a> {
    repository: &'a Repository,
    watch: &'a dyn Watch,
    /// What is wrong with which backup.
    problems: BTreeMap<String, Vec<String>>,
}

impl Checked<'_> {
    /// Reads a backup, once; whether it is right.
    fn backup(&mut self, backup: &Manifest) -> Result<bool, BackupError> {
        if let Some(problems) = self.problems.get(&backup.id) {
            return Ok(problems.is_empty());
        }
        let open = self.repository.is_open(backup);
        if open {
            self.repository.expect_key(backup)?;
        }
        let mut problems = self.repository.check(backup, self.watch)?;
        // What has the right checksum was perhaps never right.
        if problems.is_empty() && open {
            match self.repository.read_archive(backup) {
                Ok(_) => {}
                Err(error) if error.is_elsewhere() => return Err(error),
                Err(error) => problems.push(error.to_string()),
            }
        }
        let right = problems.is_empty();
        self.problems.insert(backup.id.clone(), problems);
        Ok(right)
    }

    /// Follows the increments from a full backup to the next one, or their end; what does not come out as the journal
    /// said.
    fn chain(&mut self, listing: &Listing, full: &Manifest) -> Result<Option<String>, BackupError> {
        let plan = match way(listing, full) {
            Ok(plan) => plan,
            Err(error) => return Ok(Some(error.to_string())),
        };
        let mut right = true;
        for backup in plan.backups() {
            right &= self.backup(backup)? && self.repository.is_open(backup);
        }
        let mut problem = None;
        if right {
            let chain = plan.chain(self.repository)?;
            problem = chain.verify().err().map(|error| error.to_string());
        }
        plan.backups()
            .for_each(|backup| self.repository.release(backup));
        Ok(problem)
    }
}

/// The way from a full backup to the next one of its epoch, or the end of its increments.
fn way(listing: &Listing, full: &Manifest) -> Result<Plan, BackupError> {
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
    let until = Target::Sequence(until);
    // Nothing is restored, so that nothing comes of the time.
    Plan::new(&alone, until, Some(full.epoch), &|_| Ok(Vec::new()), 0)
}
