//! A new backup: what the repository does not have yet.
//!
//! The increments of a repository follow each other without a gap, whatever full backups are taken between them, as long
//! as the journal reaches back; so any sequence can be restored. A full backup is taken when there is none, when the
//! journal was pruned meanwhile, when what is there cannot be relied on, and when a restore would read more from
//! increments than from the full backup before them.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use super::{
    BackupError, Watch, failed, io_failed,
    manifest::{Kind, Manifest, Member},
    repository::{Draft, Listing, Repository},
};
use crate::store::archive::{self, Archive, Increment};

/// Increments of this many octets together are no reason for a full backup, however small that is.
const INCREMENTS_MIN: u64 = 64 << 20;

/// Where the store stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Its epoch.
    pub epoch: u64,
    /// The last acknowledged sequence.
    pub sequence: u64,
}

/// The node that is backed up, running or stopped.
pub trait Source {
    /// Where its store stands.
    ///
    /// # Errors
    /// A message for people.
    fn standing(&self) -> Result<Standing, BackupError>;

    /// Takes a snapshot; where it is.
    ///
    /// # Errors
    /// A message for people.
    fn snapshot(&self) -> Result<PathBuf, BackupError>;

    /// The directory of the store.
    fn store(&self) -> &Path;

    /// Files that are copied with the records when they are there, and the names they get.
    fn files(&self) -> &[(PathBuf, String)];

    /// SHA-256 of the public half of the key that secrets are sealed with.
    fn key(&self) -> Option<String>;

    /// Unix seconds.
    fn now(&self) -> u64;
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Created {
    /// The backups written; none when the repository has everything.
    pub backups: Vec<Manifest>,
    /// Why a full one was needed, for people.
    pub reason: Option<String>,
    /// Names of interrupted backups that were removed.
    pub removed: Vec<String>,
}

/// Writes what the repository lacks; a full backup in any case with `full`.
///
/// # Errors
/// When it cannot be written, or belongs to another history of the store. What is complete by then stays.
pub fn create(
    repository: &Repository,
    source: &dyn Source,
    full: bool,
    watch: &dyn Watch,
) -> Result<Created, BackupError> {
    let _lock = repository.lock()?;
    let listing = repository.list()?;
    repository.sweep(&listing)?;
    let standing = source.standing()?;
    let work = Work {
        repository,
        source,
        watch,
        standing,
    };
    let mut created = Created {
        removed: listing.unfinished.clone(),
        ..Created::default()
    };
    let line = work.line(&listing)?;
    let (increment, mut reason) = work.increment(&line)?;
    if reason.is_none() {
        let new = increment.as_ref().map_or(0, Manifest::bytes);
        reason = match full {
            true => Some("it was asked for".to_owned()),
            false => line.is_long(new).then(|| LONG.to_owned()),
        };
    }
    created.backups.extend(increment);
    if reason.is_some() {
        created.backups.push(work.full()?);
    }
    created.reason = reason;
    Ok(created)
}

/// Why a full backup is taken although it could do without.
const LONG: &str = "the increments since the last full backup are larger than that";

/// What there is of the epoch of the store.
struct Line<'a> {
    full: Option<&'a Manifest>,
    increment: Option<&'a Manifest>,
    /// Octets of the increments after the full backup.
    since_full: u64,
    /// A backup that is damaged, and newer than the full one.
    damaged: Option<&'a str>,
}

impl Line<'_> {
    fn is_long(&self, new: u64) -> bool {
        let full = self.full.map_or(0, Manifest::bytes);
        self.since_full + new > full.max(INCREMENTS_MIN)
    }
}

struct Work<'a> {
    repository: &'a Repository,
    source: &'a dyn Source,
    watch: &'a dyn Watch,
    standing: Standing,
}

impl Work<'_> {
    /// What there is to continue.
    fn line<'l>(&self, listing: &'l Listing) -> Result<Line<'l>, BackupError> {
        let newest = |kind| {
            let ours = listing
                .whole
                .iter()
                .filter(move |backup| backup.kind == kind && backup.epoch == self.standing.epoch);
            ours.max_by_key(|backup| backup.sequence)
        };
        if let Some(later) = listing
            .whole
            .iter()
            .find(|backup| backup.epoch > self.standing.epoch)
        {
            return Err(failed(format_args!(
                "{}: backup {} is of epoch {}, and this store is of epoch {}, before a restore: it is not the node \
                 that was backed up here; use a repository of its own",
                self.repository.shown(),
                later.id,
                later.epoch,
                self.standing.epoch
            )));
        }
        let is_other = |backup: &&Manifest| backup.key.is_some() && backup.key != self.source.key();
        if let Some(other) = listing.whole.iter().find(is_other) {
            return Err(failed(format_args!(
                "{}: backup {} is of a node with another key; use a repository of its own",
                self.repository.shown(),
                other.id
            )));
        }
        let full = newest(Kind::Full);
        let since = listing.whole.iter().filter(|backup| {
            let after = full.is_some_and(|full| backup.sequence > full.sequence);
            backup.kind == Kind::Increment && backup.epoch == self.standing.epoch && after
        });
        let damaged = listing.damaged.iter().rev();
        let mut damaged = damaged.filter(|(id, _)| full.is_some_and(|full| *id > full.id));
        Ok(Line {
            full,
            increment: newest(Kind::Increment),
            since_full: since.map(Manifest::bytes).sum(),
            damaged: damaged.next().map(|(id, _)| id.as_str()),
        })
    }

    /// Writes an increment if there is something new and the journal reaches back; otherwise why it takes a full backup.
    fn increment(
        &self,
        line: &Line<'_>,
    ) -> Result<(Option<Manifest>, Option<String>), BackupError> {
        let Some(full) = line.full else {
            let reason = "there is none of this epoch of the store".to_owned();
            return Ok((None, Some(reason)));
        };
        if let Some(damaged) = line.damaged {
            return Ok((None, Some(format!("backup {damaged} is damaged"))));
        }
        let increment = line.increment.into_iter();
        // What the increments lead to comes first: then there is no gap between them.
        for last in increment.chain([full]) {
            let archive = match self.repository.archive(last) {
                Ok(archive) => archive,
                Err(error @ BackupError::Place(_)) => return Err(error),
                Err(error) => return Ok((None, Some(error.to_string()))),
            };
            let draft = self.repository.begin(Kind::Increment, self.source.now())?;
            let path = draft.directory.join(Kind::Increment.file());
            let written = archive::increment(
                self.source.store(),
                &archive,
                self.standing.sequence,
                self.source.now(),
                &path,
            )?;
            match written {
                Increment::Written(archive) => {
                    let records = self.repository.keep(&draft, &path, self.watch)?;
                    return Ok((Some(self.complete(&draft, &archive, records)?), None));
                }
                Increment::Nothing => {
                    return self.repository.abandon(&draft).map(|()| (None, None));
                }
                Increment::TooShort => self.repository.abandon(&draft)?,
                Increment::Diverged => {
                    self.repository.abandon(&draft)?;
                    return Err(self.diverged(last));
                }
            }
        }
        let reason = format!(
            "the journal no longer reaches back to sequence {}",
            full.sequence
        );
        Ok((None, Some(reason)))
    }

    fn diverged(&self, last: &Manifest) -> BackupError {
        failed(format_args!(
            "{}: the journal of this store does not continue sequence {} of backup {}: it is another store, or was \
             restored from something older; use a repository of its own",
            self.repository.shown(),
            last.sequence,
            last.id
        ))
    }

    /// Copies a new snapshot.
    fn full(&self) -> Result<Manifest, BackupError> {
        self.watch.begin("taking a snapshot", 0);
        let snapshot = self.source.snapshot()?;
        // Open, it stays, even if newer ones take its place meanwhile.
        let file =
            File::open(&snapshot).map_err(|error| io_failed(&snapshot, "open the file", &error))?;
        let length = file
            .metadata()
            .map_err(|error| io_failed(&snapshot, "read the size", &error))?
            .len();
        self.watch.begin("copying", length);
        let draft = self.repository.begin(Kind::Full, self.source.now())?;
        let name = Kind::Full.file();
        let records = (self.repository).copy(&draft, file, &snapshot, name, self.watch)?;
        let archive = match draft.direct {
            true => archive::read(&draft.directory.join(name))?,
            false => archive::read(&snapshot)?,
        };
        self.complete(&draft, &archive, records)
    }

    /// Copies what belongs to the records, and writes the manifest.
    fn complete(
        &self,
        draft: &Draft,
        archive: &Archive,
        records: Member,
    ) -> Result<Manifest, BackupError> {
        let kind = match records.name == Kind::Full.file() {
            true => Kind::Full,
            false => Kind::Increment,
        };
        let mut files = vec![records];
        for (path, name) in self.source.files() {
            match File::open(path) {
                Ok(file) => {
                    let copied = (self.repository).copy(draft, file, path, name, self.watch);
                    files.push(copied?);
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(io_failed(path, "open the file", &error)),
            }
        }
        let encryption = self.repository.encryption();
        let manifest = Manifest {
            format: match encryption {
                Some(_) => super::manifest::FORMAT_ENCRYPTED,
                None => super::manifest::FORMAT,
            },
            id: draft.id.clone(),
            kind,
            created: self.source.now(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            case: archive.case_name().to_owned(),
            epoch: archive.epoch,
            from: match kind {
                Kind::Full => 0,
                Kind::Increment => archive.from,
            },
            sequence: archive.sequence,
            records: archive.records,
            sum: format!("{:016x}", archive.sum),
            key: self.source.key(),
            files,
            encryption,
        };
        self.repository.complete(draft, &manifest)?;
        Ok(manifest)
    }
}
