//! Which backups a restore needs: the newest full one before what is wanted, and increments from there on.

use super::{
    BackupError,
    manifest::{Kind, Manifest},
    repository::{Listing, Repository},
    shown_time,
};
use crate::store::{self, archive::Chain};

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The newest.
    Newest,
    /// The state after this sequence.
    Sequence(u64),
    /// The newest state that is certain to have been there at this Unix time, to the second.
    Time(u64),
}

/// What a restore needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The full backup.
    pub full: Manifest,
    /// Increments, oldest first.
    pub increments: Vec<Manifest>,
    /// The sequence whose state comes out.
    pub until: u64,
    /// The epoch of the restored store: greater than every one in the repository.
    pub epoch: u64,
}

/// Reads when which sequence of an increment had been acknowledged: Unix seconds, and the sequence.
pub type Times<'a> = dyn Fn(&Manifest) -> Result<Vec<(u64, u64)>, BackupError> + 'a;

impl Plan {
    /// Finds the backups for a target, of the newest epoch unless another one is named, for a restore at a Unix time.
    ///
    /// # Errors
    /// The repository does not have it.
    pub fn new(
        listing: &Listing,
        target: Target,
        epoch: Option<u64>,
        times: &Times<'_>,
        now: u64,
    ) -> Result<Self, BackupError> {
        let highest = listing.whole.iter().map(|backup| backup.epoch).max();
        let Some(highest) = highest else {
            return Err(not_found("there is no whole backup here"));
        };
        let of_epoch = |wanted: Option<u64>| {
            let backups = listing.whole.iter();
            backups.filter(move |backup| wanted.is_none_or(|epoch| backup.epoch == epoch))
        };
        let newest = |time: u64, wanted| {
            let mut all: Vec<&Manifest> = of_epoch(wanted).collect();
            all.sort_by_key(|backup| (backup.epoch, backup.sequence));
            // A clock that was wrong makes nothing older than what came before it.
            let then = all.into_iter().scan(0, |latest, backup| {
                *latest = backup.created.max(*latest);
                (*latest <= time).then_some(backup)
            });
            then.last().ok_or_else(|| nothing_at(listing, time, wanted))
        };
        let (epoch, until) = match target {
            Target::Newest => {
                let newest = newest(u64::MAX, Some(epoch.unwrap_or(highest)))?;
                (newest.epoch, newest.sequence)
            }
            Target::Time(time) => {
                let newest = newest(time, epoch)?;
                (newest.epoch, until_time(listing, newest, time, times)?)
            }
            Target::Sequence(sequence) => (epoch.unwrap_or(highest), sequence),
        };
        let (full, increments) =
            connect(listing, epoch, until).ok_or_else(|| no_way(listing, epoch, until))?;
        Ok(Self {
            full,
            increments,
            until,
            epoch: store::next_epoch(highest, now),
        })
    }

    /// The way to the newest end of a backup that is no later than what this plan leads to, with nothing but what is in
    /// `listing`; none when nothing of that epoch is left to begin with.
    pub(super) fn instead(&self, listing: &Listing) -> Option<Self> {
        let epoch = self.full.epoch;
        let ends = listing
            .whole
            .iter()
            .filter(|backup| backup.epoch == epoch && backup.sequence <= self.until);
        let mut ends: Vec<u64> = ends.map(|backup| backup.sequence).collect();
        ends.sort_unstable_by(|a, b| b.cmp(a));
        ends.into_iter().find_map(|until| {
            let (full, increments) = connect(listing, epoch, until)?;
            Some(Self {
                full,
                increments,
                until,
                epoch: self.epoch,
            })
        })
    }

    /// The backups, oldest first.
    pub fn backups(&self) -> impl Iterator<Item = &Manifest> {
        std::iter::once(&self.full).chain(&self.increments)
    }

    /// The newest of them, which has the newest configuration.
    #[must_use]
    pub fn last(&self) -> &Manifest {
        self.increments.last().unwrap_or(&self.full)
    }

    /// The files with the records, on this machine.
    ///
    /// # Errors
    /// They cannot be fetched.
    pub fn chain(&self, repository: &Repository) -> Result<Chain, BackupError> {
        let increments = self.increments.iter();
        Ok(Chain {
            full: repository.records(&self.full)?,
            increments: (increments.map(|backup| repository.records(backup)))
                .collect::<Result<_, _>>()?,
            until: self.until,
        })
    }
}

/// The newest sequence that is known to have been acknowledged at a time: that of the newest backup of then, or one that
/// a later increment tells of.
fn until_time(
    listing: &Listing,
    newest: &Manifest,
    time: u64,
    times: &Times<'_>,
) -> Result<u64, BackupError> {
    let mut later: Vec<&Manifest> = (listing.whole.iter())
        .filter(|backup| {
            backup.kind == Kind::Increment
                && backup.epoch == newest.epoch
                && backup.sequence > newest.sequence
        })
        .collect();
    later.sort_by_key(|backup| backup.sequence);
    let mut until = newest.sequence;
    for backup in later {
        let marks = match times(backup) {
            Ok(marks) => marks,
            // What it knows is lost, and of what follows it nobody knows what came first.
            Err(BackupError::Failed(_) | BackupError::NotFound(_)) => break,
            Err(error) => return Err(error),
        };
        let then = marks.iter().take_while(|(noted, _)| *noted <= time);
        until = then.map(|(_, sequence)| *sequence).fold(until, u64::max);
        // What follows is later, whatever it says, and need not be readable.
        if marks.iter().any(|(noted, _)| *noted > time) {
            break;
        }
    }
    Ok(until)
}

/// The newest full backup from which increments lead to a sequence, and these.
fn connect(listing: &Listing, epoch: u64, until: u64) -> Option<(Manifest, Vec<Manifest>)> {
    let ours = |kind: Kind| {
        let all = listing.whole.iter();
        all.filter(move |backup| backup.epoch == epoch && backup.kind == kind)
    };
    let mut full: Vec<&Manifest> = ours(Kind::Full)
        .filter(|backup| backup.sequence <= until)
        .collect();
    full.sort_by_key(|backup| std::cmp::Reverse(backup.sequence));
    full.into_iter().find_map(|full| {
        let (mut reached, mut increments) = (full.sequence, Vec::new());
        while reached < until {
            let next = ours(Kind::Increment)
                .filter(|backup| backup.from <= reached && backup.sequence > reached)
                .max_by_key(|backup| backup.sequence)?;
            reached = next.sequence;
            increments.push(next.clone());
        }
        Some((full.clone(), increments))
    })
}

/// How far increments lead from each full backup: its epoch and sequence, and the last sequence.
pub(super) struct Ways(Vec<(u64, u64, u64)>);

impl Ways {
    /// Those of a repository.
    pub(super) fn of(listing: &Listing) -> Self {
        let ours = |kind: Kind| {
            let all = listing.whole.iter();
            all.filter(move |backup| backup.kind == kind)
        };
        let mut increments: Vec<&Manifest> = ours(Kind::Increment).collect();
        increments.sort_by_key(|backup| backup.from);
        let ways = ours(Kind::Full).map(|full| {
            let mut reached = full.sequence;
            for next in increments.iter().filter(|next| next.epoch == full.epoch) {
                if next.from <= reached {
                    reached = reached.max(next.sequence);
                }
            }
            (full.epoch, full.sequence, reached)
        });
        Self(ways.collect())
    }

    /// Whether a restore can come to what is in an increment.
    pub(super) fn lead_to(&self, increment: &Manifest) -> bool {
        let Manifest { from, sequence, .. } = increment;
        self.0.iter().any(|(epoch, first, last)| {
            *epoch == increment.epoch && first < sequence && last >= from
        })
    }
}

fn not_found(message: impl Into<String>) -> BackupError {
    BackupError::NotFound(message.into())
}

fn nothing_at(listing: &Listing, time: u64, epoch: Option<u64>) -> BackupError {
    let ours = listing
        .whole
        .iter()
        .find(|backup| epoch.is_none_or(|epoch| backup.epoch == epoch));
    not_found(match ours {
        Some(oldest) => format!(
            "no backup is from {} or before; the oldest is {} of {}",
            shown_time(time),
            oldest.id,
            shown_time(oldest.created)
        ),
        None => format!(
            "there is no backup of epoch {}; `jiexi backup list` shows those there are",
            epoch.unwrap_or_default()
        ),
    })
}

/// Why a sequence cannot be restored: what there is instead.
fn no_way(listing: &Listing, epoch: u64, until: u64) -> BackupError {
    let ours = |kind: Kind| {
        let all = listing.whole.iter();
        all.filter(move |backup| backup.epoch == epoch && backup.kind == kind)
    };
    let mut full: Vec<u64> = ours(Kind::Full).map(|backup| backup.sequence).collect();
    full.sort_unstable();
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for first in full {
        let mut last = first;
        while let Some(next) =
            ours(Kind::Increment).find(|next| next.from <= last && next.sequence > last)
        {
            last = next.sequence;
        }
        match ranges.last_mut() {
            Some(range) if first <= range.1 => range.1 = range.1.max(last),
            _ => ranges.push((first, last)),
        }
    }
    let shown: Vec<String> = ranges
        .iter()
        .map(|(first, last)| format!("{first} to {last}"))
        .collect();
    not_found(format!(
        "sequence {until} of epoch {epoch} cannot be restored; there is {}",
        match shown.is_empty() {
            true => "no full backup of that epoch".to_owned(),
            false => shown.join(", "),
        }
    ))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::backup) fn backup(
        kind: Kind,
        epoch: u64,
        from: u64,
        sequence: u64,
        created: u64,
    ) -> Manifest {
        Manifest {
            format: 1,
            id: format!("{kind:?}-{epoch}-{sequence}"),
            kind,
            created,
            program: String::new(),
            case: "whole".to_owned(),
            epoch,
            from,
            sequence,
            records: 0,
            sum: String::new(),
            key: None,
            files: Vec::new(),
            encryption: None,
        }
    }

    /// Goal: whatever is asked for, the newest full backup that leads there is taken, and what cannot be is refused.
    #[test]
    fn the_way_to_a_sequence() {
        use Kind::{Full, Increment};
        let listing = Listing {
            whole: vec![
                backup(Full, 1, 0, 10, 100),
                backup(Increment, 1, 10, 20, 200),
                backup(Full, 1, 0, 25, 300),
                backup(Increment, 1, 20, 30, 300),
                backup(Increment, 1, 30, 40, 400),
                backup(Full, 1, 0, 60, 500),
                backup(Full, 2, 0, 35, 600),
            ],
            ..Listing::default()
        };
        let times = |backup: &Manifest| match backup.sequence {
            40 => Ok(vec![(320, 32), (360, 36)]),
            20 => Ok(vec![(150, 15)]),
            _ => Ok(Vec::new()),
        };
        let plan = |target, epoch| {
            Plan::new(&listing, target, epoch, &times, 0)
                .ok()
                .map(|plan| {
                    let parts: Vec<u64> = plan
                        .increments
                        .iter()
                        .map(|backup| backup.sequence)
                        .collect();
                    assert_eq!(plan.epoch, 3);
                    (plan.full.epoch, plan.full.sequence, parts, plan.until)
                })
        };
        assert_eq!(plan(Target::Newest, None), Some((2, 35, vec![], 35)));
        assert_eq!(plan(Target::Newest, Some(1)), Some((1, 60, vec![], 60)));
        let at = |sequence| plan(Target::Sequence(sequence), Some(1));
        assert_eq!(at(10), Some((1, 10, vec![], 10)));
        assert_eq!(at(24), Some((1, 10, vec![20, 30], 24)));
        assert_eq!(at(25), Some((1, 25, vec![], 25)));
        assert_eq!(at(37), Some((1, 25, vec![30, 40], 37)));
        for nowhere in [9, 41, 59, 61] {
            assert_eq!(at(nowhere), None, "{nowhere}");
        }
        assert_eq!(
            plan(Target::Time(450), None),
            Some((1, 25, vec![30, 40], 40))
        );
        assert_eq!(plan(Target::Time(250), None), Some((1, 10, vec![20], 20)));
        assert_eq!(plan(Target::Time(149), None), Some((1, 10, vec![], 10)));
        assert_eq!(plan(Target::Time(199), None), Some((1, 10, vec![20], 15)));
        assert_eq!(
            plan(Target::Time(330), None),
            Some((1, 25, vec![30, 40], 32))
        );
        assert_eq!(plan(Target::Time(99), None), None);
        assert_eq!(plan(Target::Newest, Some(3)), None);
        let error =
            Plan::new(&listing, Target::Sequence(50), Some(1), &times, 0).expect_err("is a gap");
        assert!(error.to_string().contains("10 to 40, 60 to 60"), "{error}");
    }
}
