//! Old backups go: the newest full ones stay, with all that leads on from the oldest of them.

use super::{
    BackupError,
    manifest::{Kind, Manifest},
    repository::{Listing, Repository},
};

/// Removes what is older than the `keep` newest full backups; what was removed.
///
/// # Errors
/// It cannot be removed, or somebody else writes here.
pub fn prune(repository: &Repository, keep: usize) -> Result<Vec<Manifest>, BackupError> {
    let _lock = repository.lock()?;
    let mut removed = Vec::new();
    for backup in outdated(&repository.list()?, keep) {
        repository.remove(&backup.id)?;
        removed.push(backup);
    }
    Ok(removed)
}

/// What may go, oldest first.
fn outdated(listing: &Listing, keep: usize) -> Vec<Manifest> {
    let place = |backup: &Manifest| (backup.epoch, backup.sequence);
    let mut full: Vec<_> = listing
        .whole
        .iter()
        .filter(|backup| backup.kind == Kind::Full)
        .map(place)
        .collect();
    full.sort_unstable();
    let Some(oldest) = full
        .len()
        .checked_sub(keep)
        .and_then(|at| full.get(at))
        .copied()
    else {
        return Vec::new();
    };
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
        let left = |keep| {
            let goes = outdated(&listing, keep);
            let whole = listing.whole.iter().filter(|backup| !goes.contains(backup));
            whole.cloned().collect::<Vec<_>>()
        };
        assert_eq!(left(3).len(), 5);
        assert_eq!(left(4).len(), 5);
        assert_eq!(left(1).len(), 1);
        let two = Listing {
            whole: left(2),
            ..Listing::default()
        };
        assert_eq!(two.whole.len(), 3);
        assert!(Plan::new(&two, Target::Sequence(30), Some(1), &|_| Ok(Vec::new())).is_ok());
        assert!(Plan::new(&two, Target::Sequence(24), Some(1), &|_| Ok(Vec::new())).is_err());
    }
}
