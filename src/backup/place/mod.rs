//! Where a repository keeps its backups, and the one interface to it: a stream is put under a name as a whole or not at
//! all, and got, listed and removed again.
//!
//! * `directory`: a directory of this machine. [`s3`]: a bucket of a store that speaks S3.
//!
//! A backup is a group of members under an id. It counts from when its manifest is there, which is put last; what is
//! there before is *unfinished*, and may be removed by whoever has the lock.

pub(super) mod directory;
pub mod s3;

use std::{
    fmt,
    fs::File,
    io::{Read, Write},
    path::{Path, PathBuf},
};

use super::BackupError;

/// Where a repository is.
#[derive(Debug, Clone)]
pub enum Location {
    /// In a directory.
    Directory(PathBuf),
    /// In a bucket.
    S3(Box<s3::Settings>),
}

impl Location {
    /// The place there.
    pub(super) fn place(&self) -> Result<Box<dyn Place>, BackupError> {
        Ok(match self {
            Self::Directory(path) => Box::new(directory::Directory::new(path)),
            Self::S3(settings) => Box::new(s3::Bucket::new(settings)?),
        })
    }
}

/// A backup that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Its id.
    pub(super) id: String,
    /// Whether it has a manifest, or ought to.
    pub(super) complete: bool,
}

/// See the module.
pub(super) trait Place: fmt::Debug {
    /// What something here is called in messages; the place itself with an empty name.
    fn shown(&self, name: &str) -> String;

    /// The directory, where members can be used as the files they are.
    fn directory(&self) -> Option<&Path>;

    /// The directory of a backup that is not complete, likewise.
    fn draft(&self, id: &str) -> Option<PathBuf>;

    /// What the mark of a repository says, if there is one.
    fn mark(&self) -> Result<Option<Vec<u8>>, BackupError>;

    /// Makes this a repository, if there is nothing else here.
    fn found(&self, mark: &[u8]) -> Result<(), BackupError>;

    /// The right to write, until the file is closed. `beside` is a file of the node that is backed up, if there is one.
    fn lock(&self, beside: Option<&Path>) -> Result<Option<File>, BackupError>;

    /// That nothing is removed until the file is closed, where that can be.
    fn reading(&self) -> Result<Option<File>, BackupError>;

    /// That nobody reads, likewise.
    fn alone(&self) -> Result<Option<File>, BackupError>;

    /// The backups, in no order.
    fn list(&self) -> Result<Vec<Found>, BackupError>;

    /// Begins a backup; false when there is one of this id.
    fn begin(&self, id: &str) -> Result<bool, BackupError>;

    /// Begins a member of a backup that was begun, of no more octets than these.
    fn put(&self, id: &str, name: &str, bytes_max: u64) -> Result<Box<dyn Put + '_>, BackupError>;

    /// Completes a backup, whose members are durable, with its manifest.
    fn complete(&self, id: &str, manifest: &[u8]) -> Result<(), BackupError>;

    /// Opens a member of a complete backup.
    fn get(&self, id: &str, name: &str) -> Result<Box<dyn Read + '_>, BackupError>;

    /// How long a member of a complete backup is; none when it is not there.
    fn length(&self, id: &str, name: &str) -> Result<Option<u64>, BackupError>;

    /// Removes what there is of a backup that is not complete; what stays nevertheless, and why, for people.
    fn sweep(&self, id: &str) -> Result<Option<String>, BackupError>;

    /// Removes a backup: first what says that it is one. What stays, likewise.
    fn remove(&self, id: &str) -> Result<Option<String>, BackupError>;
}

/// A member being written. Its writer's errors are those of [`BackupError`] inside.
pub(super) trait Put: Write {
    /// Makes it durable, under its name.
    fn finish(self: Box<Self>) -> Result<(), BackupError>;
}
