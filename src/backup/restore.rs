//! A store out of a repository, in a place where there is none.
//!
//! Everything that is needed is read and checked before anything is written, and the store gets its name when it is
//! complete: a restore that is killed leaves a directory beside it, which says in its name what it is.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    BackupError, Watch, failed, io_failed,
    manifest::{Manifest, Member},
    place::directory::sync_directory,
    plan::{Plan, Target},
    repository::Repository,
    shown_time,
};
use crate::{
    maintenance,
    store::{self, SnapshotInfo, Store},
};

/// Refuses a place where there is something already.
///
/// # Errors
/// It is not empty.
pub fn expect_empty(directory: &Path) -> Result<(), BackupError> {
    let mut items = match fs::read_dir(directory) {
        Ok(items) => items,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_failed(directory, "list", &error)),
    };
    match items.next() {
        None => Ok(()),
        Some(_) => Err(failed(format_args!(
            "{}: there is a store already, and a restore overwrites nothing; stop the node and move it away, or name \
             another directory with --data",
            directory.display()
        ))),
    }
}

/// Reads every file that a plan needs and compares the checksums.
///
/// # Errors
/// Something is damaged; all of it is named, and what can be restored instead.
pub fn check(repository: &Repository, plan: &Plan, watch: &dyn Watch) -> Result<(), BackupError> {
    let met = damaged(repository, plan, watch)?;
    match met.is_empty() {
        true => Ok(()),
        false => Err(nothing_restored(repository, plan, met, watch)),
    }
}

/// The backups of a plan that are damaged, and what is wrong with each.
type Damaged = Vec<(String, Vec<String>)>;

fn damaged(
    repository: &Repository,
    plan: &Plan,
    watch: &dyn Watch,
) -> Result<Damaged, BackupError> {
    plan.backups()
        .try_for_each(|backup| repository.expect_key(backup))?;
    watch.begin("checking", plan.backups().map(Manifest::bytes).sum());
    let mut damaged = Damaged::new();
    for backup in plan.backups() {
        let problems = repository.check(backup, watch)?;
        if !problems.is_empty() {
            damaged.push((backup.id.clone(), problems));
        }
    }
    Ok(damaged)
}

/// What is wrong with backups of which nothing leads to what is wanted, and what can be had.
fn nothing_restored(
    repository: &Repository,
    plan: &Plan,
    mut met: Damaged,
    watch: &dyn Watch,
) -> BackupError {
    let instead = match instead(repository, plan, &mut met, watch) {
        Ok(Some(advice)) => advice,
        Ok(None) => {
            "no other backup of that epoch is sound; `jiexi backup list` shows those there are"
                .to_owned()
        }
        Err(error) => format!("whether another one is sound cannot be seen: {error}"),
    };
    let problems: Vec<&str> = met
        .iter()
        .flat_map(|(_, problems)| problems)
        .map(String::as_str)
        .collect();
    failed(format_args!(
        "nothing was restored:\n{}\n{instead}",
        problems.join("\n")
    ))
}

/// What can be restored without the backups that are damaged, for people: it was read. What is found damaged on the way joins
/// the others.
fn instead(
    repository: &Repository,
    plan: &Plan,
    met: &mut Damaged,
    watch: &dyn Watch,
) -> Result<Option<String>, BackupError> {
    let mut listing = repository.list()?;
    let newest = listing.whole.iter().map(|backup| backup.epoch).max();
    loop {
        listing
            .whole
            .retain(|backup| met.iter().all(|(id, _)| *id != backup.id));
        let Some(other) = plan.instead(&listing) else {
            return Ok(None);
        };
        let found = damaged(repository, &other, watch)?;
        if !found.is_empty() {
            met.extend(found);
            continue;
        }
        let epoch = match newest == Some(other.full.epoch) {
            true => String::new(),
            false => format!(" --epoch {}", other.full.epoch),
        };
        return Ok(Some(format!(
            "sequence {} of {} is sound and can be restored: --to-sequence {}{epoch}",
            other.until,
            shown_time(other.last().created),
            other.until
        )));
    }
}

/// As [`check`]; but where other backups lead to the same state without those that are damaged, the plan is made of them,
/// and `told` hears what is wrong with the others.
///
/// # Errors
/// No sound backups lead there; all that is damaged is named.
pub fn sound(
    repository: &Repository,
    mut plan: Plan,
    watch: &dyn Watch,
    told: impl Fn(&str),
) -> Result<Plan, BackupError> {
    let mut listing = repository.list()?;
    let mut met = Damaged::new();
    loop {
        let found = damaged(repository, &plan, watch)?;
        if found.is_empty() {
            met.iter()
                .flat_map(|(_, problems)| problems)
                .for_each(|problem| told(problem));
            return Ok(plan);
        }
        met.extend(found);
        listing
            .whole
            .retain(|backup| met.iter().all(|(id, _)| *id != backup.id));
        let (until, epoch) = (Target::Sequence(plan.until), plan.full.epoch);
        let other = Plan::new(&listing, until, Some(epoch), &|_| Ok(Vec::new()), 0);
        plan = Plan {
            epoch: plan.epoch,
            ..match other {
                Ok(other) => other,
                Err(_) => return Err(nothing_restored(repository, &plan, met, watch)),
            }
        };
    }
}

/// A store that was restored.
#[derive(Debug)]
pub struct Restored {
    /// What is in it.
    pub info: SnapshotInfo,
    /// As long as it is held nobody opens the store.
    pub lock: Option<fs::File>,
}

/// Makes the store; the files were checked.
///
/// # Errors
/// When the archives are damaged, or it cannot be written. Then there is nothing in its place.
pub fn restore(
    repository: &Repository,
    plan: &Plan,
    settings: &store::Config,
    watch: &dyn Watch,
) -> Result<Restored, BackupError> {
    expect_empty(&settings.dir)?;
    watch.begin("restoring", 0);
    let building = maintenance::beside(&settings.dir, "restoring");
    let made = store::Config {
        dir: building.clone(),
        ..settings.clone()
    };
    let chain = plan.chain(repository)?;
    let restored = chain.restore(&made, plan.epoch);
    let done = restored.and_then(|info| {
        let lock = Store::unused(&building)?;
        Ok(Restored { info, lock })
    });
    let restored = done.map_err(|error| clear(&building, error.into()))?;
    match put_in_place(&building, &settings.dir) {
        Ok(()) => Ok(restored),
        Err(error) => Err(clear(&building, error)),
    }
}

/// Gives the complete store its name.
fn put_in_place(building: &Path, directory: &Path) -> Result<(), BackupError> {
    if directory.exists() {
        // It is empty, or this fails.
        fs::remove_dir(directory)
            .map_err(|error| io_failed(directory, "put the store in its place", &error))?;
    }
    fs::rename(building, directory)
        .map_err(|error| io_failed(building, "rename the directory", &error))?;
    sync_directory(parent(directory))
}

/// The directory that a path is in.
fn parent(path: &Path) -> &Path {
    let parent = path.parent();
    parent
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."))
}

/// Removes what was begun.
fn clear(building: &Path, error: BackupError) -> BackupError {
    match fs::remove_dir_all(building) {
        Err(left) if left.kind() != io::ErrorKind::NotFound => failed(format_args!(
            "{error}\n{}: cannot be removed: {left}",
            building.display()
        )),
        _ => error,
    }
}

/// Copies a small file of the newest backup to where there is none.
///
/// # Errors
/// It is damaged, or cannot be written.
pub fn bring_back(
    repository: &Repository,
    plan: &Plan,
    name: &str,
    to: &Path,
    watch: &dyn Watch,
) -> Result<(), BackupError> {
    match to.metadata() {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io_failed(to, "look at the file", &error)),
    }
    let Some(path) = file(repository, plan, name, watch)? else {
        return Ok(());
    };
    let from = fs::File::open(&path).map_err(|error| io_failed(&path, "open the file", &error))?;
    // It gets its name when it is whole.
    let building = maintenance::beside(to, "restoring");
    Member::copy(from, &path, &building, watch)?;
    fs::rename(&building, to)
        .map_err(|error| io_failed(to, "put the file in its place", &error))?;
    sync_directory(parent(to))
}

/// Where a small file of the newest backup is, if that has it; its checksum is right.
///
/// # Errors
/// It is damaged.
pub fn file(
    repository: &Repository,
    plan: &Plan,
    name: &str,
    watch: &dyn Watch,
) -> Result<Option<PathBuf>, BackupError> {
    let last = plan.last();
    let Some(wanted) = last.files.iter().find(|file| file.name == name) else {
        return Ok(None);
    };
    let path = repository.file(last, wanted, watch)?;
    let found = Member::of(&path, watch)?;
    match (found.bytes, &found.sha256) == (wanted.bytes, &wanted.sha256) {
        true => Ok(Some(path)),
        false => Err(failed(format_args!(
            "{}: it has a wrong checksum; nothing was restored; take another backup with --to-sequence",
            path.display()
        ))),
    }
}
