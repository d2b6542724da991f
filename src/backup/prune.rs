//! Old backups go: the newest full ones that are sound stay, with all that leads on from the oldest of them.
//!
//! Sound is what can be seen to be at a glance: the files are there in their lengths, and where the records can be looked
//! at, they begin and end as they should. Their checksums are for `verify`.

use super::{
    BackupError, failed,
    manifest::{Kind, Manifest},
    repository::{Listing, Repository},
};

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// What was removed.
    pub removed: Vec<Manifest>,
    /// What is wrong with full backups that were not counted, one line each, for people.
    pub damaged: Vec<String>,
    /// What stays of those removed, and why, likewise.
    pub left: Vec<String>,
}

/// Removes what is older than the `keep` newest full backups that are sound.
///
/// # Errors
/// There are not so many; it cannot be removed, or somebody else writes or reads here.
pub fn prune(repository: &Repository, keep: usize) -> Result<Pruned, BackupError> {
    let _lock = repository.lock()?;
    let _alone = repository.alone()?;
    let listing = repository.list()?;
    let mut pruned = Pruned::default();
    let Some(oldest) = oldest_kept(repository, &listing, keep, &mut pruned.damaged)? else {
        return Ok(pruned);
    };
    for backup in outdated(&listing, oldest) {
        pruned.left.extend(repository.remove(&backup.id)?);
        pruned.removed.push(backup);
    }
    Ok(pruned)
}

/// Where a backup is in the order of all.
type Place = (u64, u64);

fn place(backup: &Manifest) -> Place {
    (backup.epoch, backup.sequence)
}

/// The oldest full backup that is kept; none when there are no more than are to be kept.
fn oldest_kept(
    repository: &Repository,
    listing: &Listing,
    keep: usize,
    damaged: &mut Vec<String>,
) -> Result<Option<Place>, BackupError> {
    let all = listing.whole.iter();
    let mut full: Vec<&Manifest> = all.filter(|backup| backup.kind == Kind::Full).collect();
    if full.len() <= keep {
        return Ok(None);
    }
    full.sort_by_key(|backup| std::cmp::Reverse(place(backup)));
    let mut sound = 0;
    for backup in full {
        match repository.archive(backup) {
            Ok(_) => sound += 1,
            Err(error) if error.is_elsewhere() => return Err(error),
            Err(error) => damaged.push(error.to_string()),
        }
        if sound == keep {
            return Ok(Some(place(backup)));
        }
    }
    Err(failed(format_args!(
        "nothing was removed: {keep} full backups are to stay, and of those there are only {sound} are sound:\n{}",
        damaged.join("\n")
    )))
}

/// What may go, oldest first.
fn outdated(listing: &Listing, oldest: Place) -> Vec<Manifest> {
    let goes = |backup: &&Manifest| match backup.kind {
        Kind::Full => place(backup) < oldest,
        // An increment that ends there has nothing that comes after.
        Kind::Increment => place(backup) <= oldest,
    };
    listing.whole.iter().filter(goes).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::plan::{Plan, Target, tests::backup};

    /// Goal: what is kept can still be restored up to the newest sequence, and nothing older is left.
    #[test]
    fn what_goes() {
        use Kind::{Full, Increment};
        let listing = Listing {
            whole: vec![
                backup(Full, 1, 0, 10, 100),
                backup(Increment, 1, 10, 20, 200),
                backup(Full, 1, 0, 25, 300),
                backup(Increment, 1, 20, 30, 300),
                backup(Full, 2, 0, 28, 400),
            ],
            ..Listing::default()
        };
        let left = |oldest| {
            let goes = outdated(&listing, oldest);
            let whole = listing.whole.iter().filter(|backup| !goes.contains(backup));
            whole.cloned().collect::<Vec<_>>()
        };
        assert_eq!(left((1, 10)).len(), 5);
        assert_eq!(left((2, 28)).len(), 1);
        let two = Listing {
            whole: left((1, 25)),
            ..Listing::default()
        };
        assert_eq!(two.whole.len(), 3);
        assert!(Plan::new(&two, Target::Sequence(30), Some(1), &|_| Ok(Vec::new()), 0).is_ok());
        assert!(Plan::new(&two, Target::Sequence(24), Some(1), &|_| Ok(Vec::new()), 0).is_err());
    }
}
