//! Old backups go: the newest full ones that are sound stay, with all that leads on from the oldest of them.
//!
//! What has no manifest that can be read is of no age. It goes when it is named, and as much that is sound stays as otherwise.
//!
//! Sound is what has the right checksums. Of what is encrypted, those of the files as they are kept are compared: nobody
//! who removes backups needs a key. Nothing is read while there is nothing to remove.

use super::{
    BackupError, Watch, failed,
    manifest::{Kind, Manifest},
    repository::{Listing, Repository},
};

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// What was removed, newest first.
    pub removed: Vec<Manifest>,
    /// Names of those removed whose manifest was damaged.
    pub unreadable: Vec<String>,
    /// What is wrong with full backups that were not counted, one line each, for people.
    pub damaged: Vec<String>,
    /// What stays of those removed, and why, likewise.
    pub left: Vec<String>,
}

/// Removes what is older than the `keep` newest full backups that are sound, and the backups called `unreadable`, whose
/// manifest is damaged.
///
/// # Errors
/// There are not so many, or one of `unreadable` is none; it cannot be removed, or somebody else writes or reads here.
pub fn prune(
    repository: &Repository,
    keep: usize,
    unreadable: &[String],
    watch: &dyn Watch,
) -> Result<Pruned, BackupError> {
    let _lock = repository.lock()?;
    let _alone = repository.alone()?;
    let listing = repository.list()?;
    for id in unreadable {
        expect_unreadable(repository, &listing, id)?;
    }
    let mut pruned = Pruned::default();
    let full = newest_full(&listing);
    // At most so much goes: where some are damaged, older ones take their places.
    let most = full.get(keep.saturating_sub(1));
    let nothing_old = most.is_none_or(|oldest| outdated(&listing, oldest).is_empty());
    if nothing_old && unreadable.is_empty() {
        return Ok(pruned);
    }
    let oldest = oldest_kept(repository, &full, keep, &mut pruned.damaged, watch)?;
    for id in unreadable {
        // It may be named twice.
        if !pruned.unreadable.contains(id) {
            pruned.left.extend(repository.remove(id)?);
            pruned.unreadable.push(id.clone());
        }
    }
    for backup in outdated(&listing, oldest) {
        pruned.left.extend(repository.remove(&backup.id)?);
        pruned.removed.push(backup);
    }
    Ok(pruned)
}

/// Refuses to remove what is whole, or was written by a later version of this program.
fn expect_unreadable(
    repository: &Repository,
    listing: &Listing,
    id: &str,
) -> Result<(), BackupError> {
    let shown = repository.shown_backup(id);
    if listing.whole.iter().any(|backup| backup.id == id) {
        return Err(failed(format_args!(
            "{shown}: its manifest is not damaged, so it goes by its age; nothing was removed"
        )));
    }
    let Some((_, problem)) = listing.damaged.iter().find(|(name, _)| name == id) else {
        return Err(BackupError::NotFound(format!(
            "{shown}: there is no such backup; nothing was removed"
        )));
    };
    match repository.is_foreign(id)? {
        true => Err(failed(format_args!("{problem}; nothing was removed"))),
        false => Ok(()),
    }
}

/// Where a backup is in the order of all. Of one sequence there may be several full ones.
fn place(backup: &Manifest) -> (u64, u64, u64, &str) {
    (backup.epoch, backup.sequence, backup.created, &backup.id)
}

fn newest_full(listing: &Listing) -> Vec<&Manifest> {
    let all = listing.whole.iter();
    let mut full: Vec<&Manifest> = all.filter(|backup| backup.kind == Kind::Full).collect();
    full.sort_by(|a, b| place(b).cmp(&place(a)));
    full
}

/// The oldest full backup that is kept; the contents of all of them were read.
fn oldest_kept<'l>(
    repository: &Repository,
    full: &[&'l Manifest],
    keep: usize,
    damaged: &mut Vec<String>,
    watch: &dyn Watch,
) -> Result<&'l Manifest, BackupError> {
    let first = full.iter().take(keep);
    watch.begin("reading", first.map(|backup| backup.bytes()).sum());
    let mut sound = 0;
    for backup in full {
        // What can be seen at a glance is seen first: it needs no reading to its end.
        let problems = match repository.archive(backup) {
            Ok(_) => repository.check_kept(backup, watch)?,
            Err(error) if error.is_elsewhere() => return Err(error),
            Err(error) => vec![error.to_string()],
        };
        sound += usize::from(problems.is_empty());
        damaged.extend(problems);
        if sound == keep {
            return Ok(backup);
        }
    }
    Err(failed(too_few(keep, sound, damaged)))
}

/// Why nothing goes: so many are to stay, and fewer are sound.
fn too_few(keep: usize, sound: usize, damaged: &[String]) -> String {
    let found = match sound {
        0 => "none of those here is sound".to_owned(),
        1 => "only 1 of those here is sound".to_owned(),
        _ => format!("only {sound} of those here are sound"),
    };
    format!(
        "nothing was removed: {keep} full backups are to stay, and {found}:\n{}",
        damaged.join("\n")
    )
}

/// What may go, newest first: who is killed in between leaves nothing without what leads to it.
fn outdated(listing: &Listing, oldest: &Manifest) -> Vec<Manifest> {
    let goes = |backup: &&Manifest| match backup.kind {
        Kind::Full => place(backup) < place(oldest),
        // An increment that ends there has nothing that comes after.
        Kind::Increment => (backup.epoch, backup.sequence) <= (oldest.epoch, oldest.sequence),
    };
    let mut going: Vec<Manifest> = listing.whole.iter().filter(goes).cloned().collect();
    going.sort_by(|a, b| place(b).cmp(&place(a)));
    going
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::plan::{Plan, Target, Ways, tests::backup};

    /// Goal: what is said of backups that are not enough is a sentence, however few there are.
    #[test]
    fn too_few_is_a_sentence() {
        for (sound, found) in [
            (0, "none of those here is sound:"),
            (1, "only 1 of those here is sound:"),
            (2, "only 2 of those here are sound:"),
        ] {
            let said = too_few(3, sound, &["full-1: gone".to_owned()]);
            assert_eq!(
                said,
                format!(
                    "nothing was removed: 3 full backups are to stay, and {found}\nfull-1: gone"
                )
            );
        }
    }

    fn without(listing: &Listing, gone: &[Manifest]) -> Listing {
        let whole = listing.whole.iter().filter(|one| !gone.contains(one));
        Listing {
            whole: whole.cloned().collect(),
            ..Listing::default()
        }
    }

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
        let left = |oldest: usize| {
            let goes = outdated(&listing, &listing.whole[oldest]);
            without(&listing, &goes)
        };
        assert_eq!(left(0).whole.len(), 5);
        assert_eq!(left(4).whole.len(), 1);
        let two = left(2);
        assert_eq!(two.whole.len(), 3);
        assert!(Plan::new(&two, Target::Sequence(30), Some(1), &|_| Ok(Vec::new()), 0).is_ok());
        assert!(Plan::new(&two, Target::Sequence(24), Some(1), &|_| Ok(Vec::new()), 0).is_err());
    }

    /// Goal: however far it comes, nothing is left that nothing leads to; of one sequence the newest stays.
    #[test]
    fn the_order_in_which_it_goes() {
        use Kind::{Full, Increment};
        let mut again = backup(Full, 1, 0, 40, 500);
        again.id += "-2";
        let listing = Listing {
            whole: vec![
                backup(Full, 1, 0, 10, 900),
                backup(Increment, 1, 10, 20, 200),
                backup(Full, 1, 0, 20, 200),
                backup(Increment, 1, 20, 30, 300),
                backup(Increment, 1, 30, 40, 100),
                backup(Full, 1, 0, 40, 400),
                again.clone(),
            ],
            ..Listing::default()
        };
        let goes = outdated(&listing, newest_full(&listing)[0]);
        for count in 0..=goes.len() {
            let left = without(&listing, &goes[..count]);
            let ways = Ways::of(&left);
            let mut increments = left.whole.iter().filter(|one| one.kind == Increment);
            assert!(increments.all(|one| ways.lead_to(one)), "{count}");
        }
        assert_eq!(without(&listing, &goes).whole, [again]);
    }
}
