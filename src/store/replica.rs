//! A copy of another store: it takes the entries of that one's journal as they are, with their sequences and epoch, and
//! comes to the same state after each. What does not is refused before it is written.
//!
//! ```text
//! the other store's snapshot ─→ Store::copy
//! the other store's journal  ─→ Store::replicate (many entries, one sync) ─→ journal, index, sled as any change
//!     an entry that names a run ─→ Store::replicate_run, with the file of the run
//! ```
//!
//! A copy takes no changes of its own ([`Role`]). [`Store::succeed`] makes it a store like any other, with a new epoch.

use std::fmt;
use std::fs::{File, TryLockError};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use super::change::CommitError;
use super::config::Config;
use super::disk::Disk;
use super::error::StoreError;
use super::identity::Identity;
use super::journal::entry::{Entry, Position};
use super::journal::{self, mark};
use super::role::Role;
use super::{SnapshotInfo, Store, run, shared, sled, snapshot, writer};

/// Why entries of another store are not taken.
#[derive(Debug)]
pub enum ReplicaError {
    /// They do not continue what is here: it is the journal of another store, or of another history.
    Diverged(String),
    /// The store takes nothing now.
    Refused(CommitError),
    /// A file could not be written or read.
    Store(StoreError),
}

impl fmt::Display for ReplicaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Diverged(what) => write!(f, "the journals differ: {what}"),
            Self::Refused(error) => error.fmt(f),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ReplicaError {}

impl From<CommitError> for ReplicaError {
    fn from(error: CommitError) -> Self {
        Self::Refused(error)
    }
}

impl From<StoreError> for ReplicaError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// A run that the next entry names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunWanted {
    /// The sequence of that entry.
    pub sequence: u64,
    /// Bytes of the file of the run.
    pub bytes: u64,
    entry: Vec<u8>,
}

impl Store {
    /// Makes a store out of a snapshot of the store at `of`, in a directory that is empty or does not exist: a copy, of the
    /// same `epoch`.
    ///
    /// # Errors
    /// When the snapshot is damaged, has another case rule, or the directory is not empty.
    pub fn copy(
        config: &Config,
        snapshot: &Path,
        epoch: u64,
        of: &str,
    ) -> Result<SnapshotInfo, StoreError> {
        Self::restore_as(config, snapshot, |_| epoch, Role::Copy(of.into()))
    }

    /// Takes entries of the journal that this store is a copy of, which must begin behind [`Store::position`]; all of them
    /// are durable and visible when this returns. It stops before an entry that names a run: see [`Self::replicate_run`].
    ///
    /// # Errors
    /// See [`ReplicaError`]; nothing was taken then.
    pub fn replicate(&self, entries: &[u8]) -> Result<Option<RunWanted>, ReplicaError> {
        self.must_be_copy()?;
        let (mut rest, mut found, mut wanted) = (entries, Vec::new(), None);
        while !rest.is_empty() {
            let entry = self.entry(rest)?;
            rest = rest.get(entry.bytes.len()..).unwrap_or_default();
            if let Some(named) = entry.run() {
                wanted = Some(RunWanted {
                    sequence: entry.after.sequence,
                    bytes: named.bytes,
                    entry: entry.bytes.to_vec(),
                });
                break;
            }
            found.push(entry);
        }
        writer::replicate(&self.shared, &found)?;
        Ok(wanted)
    }

    /// Takes the run that the next entry names, whose file `file` reads.
    ///
    /// # Errors
    /// See [`ReplicaError`]; nothing was taken then.
    pub fn replicate_run(
        &self,
        wanted: &RunWanted,
        file: &mut dyn Read,
    ) -> Result<(), ReplicaError> {
        self.must_be_copy()?;
        let entry = self.entry(&wanted.entry)?;
        let named = entry.run().ok_or_else(|| no_entry("a run"))?;
        let (disk, dir) = (&self.shared.disk, self.shared.dir());
        let written = run::receive(disk, dir, self.shared.identity.epoch, named, file)?;
        let mut stage = self.shared.index.stage();
        written.for_each(|packed| {
            stage.add(packed);
            Ok(())
        })?;
        writer::replicate_run(&self.shared, entry, written, stage)
    }

    fn entry<'b>(&self, bytes: &'b [u8]) -> Result<Entry<'b>, ReplicaError> {
        let epoch = self.shared.identity.epoch;
        Entry::read(bytes, epoch).ok_or_else(|| no_entry(&format!("epoch {epoch}")))
    }

    fn must_be_copy(&self) -> Result<(), ReplicaError> {
        match self.shared.role() {
            Role::Copy(_) => Ok(()),
            _ => Err(ReplicaError::Diverged("this store is no copy".to_owned())),
        }
    }

    /// The newest state: everything acknowledged.
    #[must_use]
    pub fn position(&self) -> Position {
        self.shared.overlay.position()
    }

    /// Whose changes the store in a directory takes, and its epoch; it may be open.
    ///
    /// # Errors
    /// When there is no store, or its identity is damaged.
    pub fn role_of(dir: &Path) -> Result<(Role, u64), StoreError> {
        Identity::read(dir).map(|identity| (identity.role, identity.epoch))
    }

    /// The greatest epoch that the store in a directory knows of: its own, or that of the one that took its place. 0 when
    /// there is none, or nothing can be known of it.
    #[must_use]
    pub fn known_epoch(dir: &Path) -> u64 {
        match Self::role_of(dir) {
            Ok((Role::Superseded { epoch: other, .. }, own)) => own.max(other),
            Ok((_, own)) => own,
            Err(_) => 0,
        }
    }

    /// Makes sure that no process has the store in a directory open, if there is one, nor opens it while the lock is held
    /// that is given back: then another store may be put in its place.
    ///
    /// # Errors
    /// When one has (after 5 s).
    pub fn unused(dir: &Path) -> Result<Option<File>, StoreError> {
        match dir.is_dir() {
            true => shared::lock(dir).map(Some),
            false => Ok(None),
        }
    }

    /// Whether a process has the store in a directory open. Nothing is made to find that out.
    #[must_use]
    pub fn is_open(dir: &Path) -> bool {
        let locked = |file: File| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
        File::open(dir.join("lock")).is_ok_and(locked)
    }

    /// Whose changes the store takes.
    #[must_use]
    pub fn role(&self) -> Role {
        self.shared.role()
    }

    /// Takes the changes of others, or of nobody, from now on; durable when it returns, and nothing of one's own is
    /// written after that.
    ///
    /// # Errors
    /// When the identity cannot be written.
    pub fn set_role(&self, role: Role) -> Result<(), StoreError> {
        self.shared.set_role(role)
    }

    /// Makes a stopped copy, whose newest snapshot has all of it, a store that takes changes, of a new epoch: the one that
    /// the old primary was told. When it is interrupted nothing is lost, and it may be done again. Nobody can open it as long
    /// as the lock is held that is given back.
    ///
    /// # Errors
    /// When it is no copy, the snapshot does not have all of it, or the epoch is not greater than that of the copy.
    pub fn succeed(config: &Config, epoch: u64) -> Result<File, StoreError> {
        let (dir, disk) = (&config.dir, Disk::new(config.faults.clone()));
        let lock = shared::lock(dir)?;
        let identity = Identity::read(dir)?;
        let Role::Copy(of) = &identity.role else {
            return Err(StoreError::Unavailable(
                "the store is no copy of another one",
            ));
        };
        if epoch <= identity.epoch {
            return Err(StoreError::Unavailable(
                "the new epoch is not greater than that of the store",
            ));
        }
        let snapshots = snapshot::list(dir)?;
        let newest = snapshots
            .first()
            .map(|(_, path)| snapshot::read_manifest(path));
        let all = mark::read(dir, identity.epoch).map(|mark| mark.position);
        if all.is_none() || newest.transpose()?.map(|newest| newest.to) != all {
            return Err(StoreError::Unavailable(
                "the newest snapshot does not have everything: take one when nothing changes any more",
            ));
        }
        // The snapshot has everything. Of what is of the old epoch nothing may be found with the new one.
        forget(&disk, dir, &snapshots)?;
        let successor = Identity {
            epoch,
            role: Role::Successor(Arc::clone(of)),
            ..identity
        };
        successor.write(&disk, dir)?;
        Ok(lock)
    }
}

/// Removes everything but the newest snapshot.
fn forget(
    disk: &Disk,
    dir: &Path,
    snapshots: &[(u64, std::path::PathBuf)],
) -> Result<(), StoreError> {
    let failed = |error| StoreError::io(dir, "remove sled's files", error);
    if let (Some(number), _) = sled::numbers(dir).map_err(failed)? {
        sled::quarantine(&sled::directory(dir, number), false).map_err(failed)?;
    }
    for (_, older) in snapshots.iter().skip(1) {
        disk.remove(older)?;
    }
    disk.sync_directory(&snapshot::directory(dir))?;
    run::prune(disk, dir, u64::MAX)?;
    for segment in journal::segments(dir)? {
        disk.remove(&segment.path)?;
    }
    disk.remove(&mark::path(dir))?;
    disk.sync_directory(&journal::directory(dir))
}

fn no_entry(of: &str) -> ReplicaError {
    ReplicaError::Diverged(format!("what came is no entry of {of}"))
}
