//! Backups: what a node has, kept elsewhere, checked, and brought back.
//!
//! A *repository* is a directory, or a part of an S3 bucket, with a group of files for each backup. Reading order:
//!
//! * [`place`]: where they are kept, on this machine or elsewhere.
//! * [`manifest`]: what a backup says about itself, and the checksums of its files; it is written last.
//! * [`encryption`]: files that only whoever has a key can read.
//! * [`repository`]: beginning a backup, completing it, finding those that are complete, and fetching what they have.
//!   [`scratch`]: where that is meanwhile.
//! * [`create`]: full, or what the repository does not have yet. [`verify`]: every octet. [`plan`]: what a restore needs.
//! * [`last`]: when that was done, for those who watch the node.
//! * [`restore`]: a store out of it. [`drill`]: the same for the sake of knowing that it works. [`prune`]: old ones go.
//!
//! The records are archives of the store (see [`crate::store::archive`]): a full one is a snapshot, an increment has the
//! journal since. Secrets in them are sealed with the node's key, which is in no backup: `jiexi key escrow` keeps it.
//! The configuration and the site record are copied, so that a host which has nothing but a backup and the key becomes
//! the node.

pub mod create;
pub mod drill;
pub mod encryption;
pub mod last;
pub mod manifest;
pub mod place;
pub mod plan;
pub mod prune;
pub mod repository;
pub mod restore;
pub mod scratch;
pub mod verify;

use std::{fmt, io, path::Path};

use crate::store::StoreError;

/// Why something with a backup did not succeed, for people.
#[derive(Debug)]
pub enum BackupError {
    /// There is no such backup.
    NotFound(String),
    /// It is encrypted, and not for what was given.
    Key(String),
    /// Where the backups are, or are fetched to, cannot be used, or refuses: that says nothing about a backup.
    Place(String),
    /// Anything else.
    Failed(String),
}

impl fmt::Display for BackupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(message)
            | Self::Key(message)
            | Self::Place(message)
            | Self::Failed(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for BackupError {}

impl From<StoreError> for BackupError {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl BackupError {
    /// A failure of a file that something is fetched into.
    fn of_scratch(path: &Path, action: &str, error: &io::Error) -> Self {
        Self::Place(io_failed(path, action, error).to_string())
    }

    /// Whether it says nothing about the backup itself.
    fn is_elsewhere(&self) -> bool {
        matches!(self, Self::Key(_) | Self::Place(_))
    }

    /// The error inside one of reading or writing; else a failure with what is called `shown`.
    fn of_io(error: io::Error, shown: &str, action: &str) -> Self {
        match error.downcast::<Self>() {
            Ok(error) => error,
            Err(error) => failed(format_args!("{shown}: cannot {action}: {error}")),
        }
    }
}

/// A failure.
fn failed(message: impl fmt::Display) -> BackupError {
    BackupError::Failed(message.to_string())
}

/// A failure of the operating system with a file of a repository: one that is not there is missing, and everything else says
/// something about the disk, the network or the rights, and nothing about the backup.
fn of_place(path: &Path, action: &str, error: &io::Error) -> BackupError {
    match (is_of_file(error), io_failed(path, action, error)) {
        (false, BackupError::Failed(message)) => BackupError::Place(message),
        (_, failed) => failed,
    }
}

/// Whether an error says something about a file itself: that it is not there, is none, or is too short.
fn is_of_file(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::UnexpectedEof
    )
}

/// A failure of the operating system with a file.
fn io_failed(path: &Path, action: &str, error: &io::Error) -> BackupError {
    failed(format_args!("{}: cannot {action}: {error}", path.display()))
}

/// What is told about how far a long command is.
pub trait Watch {
    /// Something begins that goes through so many octets; 0 when nobody knows.
    fn begin(&self, what: &'static str, octets: u64);
    /// So many more of them are done.
    fn advance(&self, octets: u64);
}

/// The end of the year 9999, behind which times have no usual form.
const TIME_MAX: u64 = 253_402_300_799;

/// A Unix time for people.
#[must_use]
pub fn shown_time(unix_seconds: u64) -> String {
    if unix_seconds > TIME_MAX {
        return unix_seconds.to_string();
    }
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(unix_seconds);
    humantime::format_rfc3339_seconds(time).to_string()
}
