//! When a node was last backed up: a small file in its data directory, for those who watch it.
//!
//! `jiexi backup create` writes it, perhaps as another user than the node's and while the node is stopped; the node reads it
//! when it is asked for its figures. It says nothing about where the backup is.

use std::{fs, path::Path};

use super::place::directory::replace;

/// The name of the file.
const NAME: &str = "last-backup";

/// Notes that a backup was finished: Unix seconds.
///
/// # Errors
/// The file cannot be written.
pub fn note(data: &Path, now: u64) -> Result<(), super::BackupError> {
    // The node may be another user.
    replace(&data.join(NAME), format!("{now}\n").as_bytes(), 0o644)
}

/// When the last backup was finished, Unix seconds; none when there never was one, or nobody knows.
#[must_use]
pub fn read(data: &Path) -> Option<u64> {
    let text = fs::read_to_string(data.join(NAME)).ok()?;
    text.trim().parse().ok()
}
