//! A new backup: what the repository does not have yet.
//!
//! The increments of a repository follow each other without a gap, whatever full backups are taken between them, as long
//! as the journal reaches back; so any sequence can be restored. A full backup is taken when there is none, when the
//! journal was pruned meanwhile or is damaged, when what is there cannot be relied on or is not to be opened by whom new
//! backups are for, and when a restore would read more from increments than from the full backup before them.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use super::{
    BackupError, Watch, failed, io_failed,
    manifest::{Kind, Manifest, Member},
    plan::Ways,
    repository::{Draft, Listing, Repository},
};
use crate::store::{
    StoreError,
    archive::{self, Archive, Increment},
};

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

/// What is to be written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// A full backup in any case.
    pub full: bool,
    /// Not encrypted, although what was written last is.
    pub in_clear: bool,
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
    /// What stays of others, and why, one line each, for people.
    pub left: Vec<String>,
}

/// Writes what the repository lacks.
///
/// # Errors
/// When it cannot be written or may not be in clear, or belongs to another history of the store. What is complete by then
/// stays.
pub fn create(
    repository: &Repository,
    source: &dyn Source,
    wanted: Wanted,
    watch: &dyn Watch,
) -> Result<Created, BackupError> {
    let _lock = repository.lock()?;
    let listing = repository.list()?;
    if !wanted.in_clear {
        expect_encryption(repository, &listing)?;
    }
    let (removed, left) = repository.sweep(&listing)?;
    let standing = source.standing()?;
    let work = Work {
        repository,
        source,
        watch,
        standing,
    };
    let mut created = Created {
        removed,
        left,
        ..Created::default()
    };
    let line = work.line(&listing)?;
    let (increment, mut reason) = work.increment(&line)?;
    if reason.is_none() {
        let new = increment.as_ref().map_or(0, Manifest::bytes);
        reason = match wanted.full {
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

/// Refuses to write in clear where what was written last is encrypted: who forgets an option, or loses the configuration, is
/// not to show everything to whom it was hidden from.
fn expect_encryption(repository: &Repository, listing: &Listing) -> Result<(), BackupError> {
    if repository.encryption().is_some() {
        return Ok(());
    }
    match newest_sealed(repository, listing)? {
        Some(sealed) => Err(failed(format_args!(
            "{}: backup {sealed} is encrypted, and this one would not be; nothing was written; give --recipient or \
             --encryption-passphrase-file, or set [backup] recipients; --unencrypted if everybody who can read the \
             repository may read all of it",
            repository.shown()
        ))),
        None => Ok(()),
    }
}

/// The backup that was written last, if it is encrypted.
fn newest_sealed(
    repository: &Repository,
    listing: &Listing,
) -> Result<Option<String>, BackupError> {
    let all = listing.whole.iter();
    let newest = all.max_by_key(|backup| (backup.epoch, backup.sequence, backup.created));
    if let Some(sealed) = newest.filter(|newest| newest.encryption.is_some()) {
        return Ok(Some(sealed.id.clone()));
    }
    // Those whose manifest is damaged have their time in their names.
    let is_later = |id: &str| newest.is_none_or(|newest| *id > *newest.id);
    for (id, _) in listing.damaged.iter().rev() {
        if is_later(id) && repository.is_sealed(id)? {
            return Ok(Some(format!("{id}, whose manifest is damaged,")));
        }
    }
    Ok(None)
}

/// Why a full backup is taken although it could do without.
const LONG: &str = "the increments since the last full backup are larger than that";

/// What there is of the epoch of the store.
struct Line<'a> {
    full: Option<&'a Manifest>,
    /// The newest increment that a restore can come to.
    increment: Option<&'a Manifest>,
    /// Octets of the increments after the full backup.
    since_full: u64,
    /// Why what there is since the full backup is not to be continued.
    broken: Option<String>,
}

impl Line<'_> {
    fn is_long(&self, new: u64) -> bool {
        let full = self.full.map_or(0, Manifest::bytes);
        self.since_full + new > full.max(INCREMENTS_MIN)
    }
}

/// What there is after a backup.
enum Since {
    /// It is written.
    Written(Box<Manifest>),
    /// There is nothing new.
    Nothing,
    /// The journal does not reach back that far.
    TooShort,
    /// It is damaged.
    Damaged(String),
}

/// Whether an error is about what is in the store.
fn is_of_store(error: &StoreError, store: &Path) -> bool {
    match error {
        StoreError::Damaged { path, .. } | StoreError::Io { path, .. } => path.starts_with(store),
        _ => false,
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
        let Some(full) = newest(Kind::Full) else {
            return Ok(Line {
                full: None,
                increment: None,
                since_full: 0,
                broken: Some("there is none of this epoch of the store".to_owned()),
            });
        };
        let since = listing.whole.iter().filter(|backup| {
            let ours = backup.kind == Kind::Increment && backup.epoch == self.standing.epoch;
            ours && backup.sequence > full.sequence
        });
        let since: Vec<&Manifest> = since.collect();
        let ways = Ways::of(listing);
        let is_reached = |increment: &&Manifest| ways.lead_to(increment);
        Ok(Line {
            full: Some(full),
            increment: newest(Kind::Increment).filter(is_reached),
            since_full: since.iter().map(|backup| backup.bytes()).sum(),
            broken: self.broken(listing, &ways, full, &since)?,
        })
    }

    /// Why a full backup and what came since are not to be continued, if that is so.
    fn broken(
        &self,
        listing: &Listing,
        ways: &Ways,
        full: &Manifest,
        since: &[&Manifest],
    ) -> Result<Option<String>, BackupError> {
        let mut damaged = listing.damaged.iter().rev();
        if let Some((id, _)) = damaged.find(|(id, _)| *id > full.id) {
            return Ok(Some(format!("backup {id} is damaged")));
        }
        let lost = since.iter().find(|increment| !ways.lead_to(increment));
        if let Some(lost) = lost {
            return Ok(Some(format!(
                "backup {} continues sequence {}, and nothing leads there any more: a backup before it is gone",
                lost.id, lost.from
            )));
        }
        let others = |backup: &Manifest| format!("backup {} is encrypted for others", backup.id);
        let mut continued = std::iter::once(&full).chain(since);
        if let Some(other) = continued.find(|backup| !self.repository.is_open_to_later(backup)) {
            return Ok(Some(others(other)));
        }
        // That all of them have one passphrase was seen when they were written; trying it is work.
        let newest = since.iter().max_by_key(|increment| increment.sequence);
        for backup in std::iter::once(&full).chain(newest) {
            if !self.repository.is_of_passphrase(backup)? {
                return Ok(Some(others(backup)));
            }
        }
        Ok(None)
    }

    /// Writes an increment if there is something new and the journal reaches back; otherwise why it takes a full backup.
    fn increment(
        &self,
        line: &Line<'_>,
    ) -> Result<(Option<Manifest>, Option<String>), BackupError> {
        let (Some(full), None) = (line.full, &line.broken) else {
            return Ok((None, line.broken.clone()));
        };
        let mut reason = format!(
            "the journal no longer reaches back to sequence {}",
            full.sequence
        );
        let increment = line.increment.into_iter();
        // What the increments lead to comes first: then there is no gap between them.
        for last in increment.chain([full]) {
            // Everything after it would stand on it. A full one is read by those who prune and verify.
            let problems = match last.kind {
                Kind::Increment => self.repository.check_kept(last, self.watch)?,
                Kind::Full => Vec::new(),
            };
            if let Some(problem) = problems.into_iter().next() {
                return Ok((None, Some(problem)));
            }
            let archive = match self.repository.archive(last) {
                Ok(archive) => archive,
                Err(error @ BackupError::Place(_)) => return Err(error),
                Err(error) => return Ok((None, Some(error.to_string()))),
            };
            match self.since(last, &archive)? {
                Since::Written(manifest) => return Ok((Some(*manifest), None)),
                Since::Nothing => return Ok((None, None)),
                Since::TooShort => {}
                Since::Damaged(what) => reason = format!("the journal is damaged ({what})"),
            }
        }
        Ok((None, Some(reason)))
    }

    /// Writes what came after a backup.
    fn since(&self, last: &Manifest, archive: &Archive) -> Result<Since, BackupError> {
        let draft = self.repository.begin(Kind::Increment, self.source.now())?;
        let since = self.write_since(&draft, last, archive);
        match &since {
            Ok(Since::Written(_)) => {}
            Ok(_) => self.repository.abandon(&draft)?,
            Err(error) => self.repository.give_up(&draft, error),
        }
        since
    }

    fn write_since(
        &self,
        draft: &Draft,
        last: &Manifest,
        archive: &Archive,
    ) -> Result<Since, BackupError> {
        let path = draft.directory.join(Kind::Increment.file());
        let (until, now) = (self.standing.sequence, self.source.now());
        let store = self.source.store();
        match archive::increment(store, archive, until, now, &path) {
            Ok(Increment::Written(archive)) => {
                let records = self.repository.keep(draft, &path, self.watch)?;
                let manifest = self.complete(draft, &archive, records)?;
                Ok(Since::Written(Box::new(manifest)))
            }
            Ok(Increment::Nothing) => Ok(Since::Nothing),
            Ok(Increment::TooShort) => Ok(Since::TooShort),
            Ok(Increment::Diverged) => Err(self.diverged(last)),
            // What the node has in its state was read from the journal before; of that there may be a snapshot.
            Err(error) if is_of_store(&error, store) => Ok(Since::Damaged(error.to_string())),
            Err(error) => Err(error.into()),
        }
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
        // Open, it stays, even if newer ones take its place meanwhile; its name may be gone as soon.
        let file =
            File::open(&snapshot).map_err(|error| io_failed(&snapshot, "open the file", &error))?;
        let length = file
            .metadata()
            .map_err(|error| io_failed(&snapshot, "read the size", &error))?
            .len();
        self.watch.begin("copying", length);
        let draft = self.repository.begin(Kind::Full, self.source.now())?;
        let written = self.write_full(&draft, file, &snapshot);
        if let Err(error) = &written {
            self.repository.give_up(&draft, error);
        }
        written
    }

    fn write_full(
        &self,
        draft: &Draft,
        file: File,
        snapshot: &Path,
    ) -> Result<Manifest, BackupError> {
        let archive = archive::read_open(&file, snapshot)?;
        let name = Kind::Full.file();
        let records = (self.repository).copy(draft, file, snapshot, name, self.watch)?;
        self.complete(draft, &archive, records)
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
