//! Scratch directories: what is fetched and decrypted is in one while a command runs, and goes with it.
//!
//! A command that is killed leaves its own, with all that is in it in clear. Each has a file that its command holds locked;
//! whoever makes the next one removes those of the same user beside it whose lock nobody holds any more.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use tempfile::TempDir;

use super::BackupError;

/// What the names of scratch directories begin with: of a repository, and of a drill.
pub const OF_REPOSITORY: &str = "jiexi-backup-";
/// See [`OF_REPOSITORY`].
pub const OF_DRILL: &str = "jiexi-drill-";
/// The file that is locked. It has this name once it is.
const LOCK: &str = "in-use";

/// See the module.
#[derive(Debug)]
pub struct Scratch {
    directory: TempDir,
    _lock: File,
}

impl Scratch {
    /// Makes one in a directory, and removes those there that were left.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(prefix: &str, parent: &Path) -> Result<Self, BackupError> {
        let made = Self::make(prefix, parent).map_err(|error| {
            BackupError::Place(format!(
                "{}: no scratch directory can be made there: {error}; name another place with --scratch",
                parent.display()
            ))
        })?;
        sweep(parent, made.path());
        Ok(made)
    }

    fn make(prefix: &str, parent: &Path) -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix(prefix).tempdir_in(parent)?;
        let (path, new) = (
            directory.path().join(LOCK),
            directory.path().join("in-use.new"),
        );
        let mut options = fs::OpenOptions::new();
        options.create_new(true).write(true).mode(0o600);
        let lock = options.open(&new)?;
        lock.lock()?;
        fs::rename(new, path)?;
        Ok(Self {
            directory,
            _lock: lock,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Removes it.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn close(self) -> io::Result<()> {
        self.directory.close()
    }
}

/// Removes what was left in a directory; what cannot be removed stays for the next one.
fn sweep(parent: &Path, own: &Path) {
    let (Ok(items), Ok(own)) = (fs::read_dir(parent), own.symlink_metadata()) else {
        return;
    };
    for item in items.flatten() {
        let is_ours = item.path().symlink_metadata().is_ok_and(|found| {
            found.is_dir() && found.uid() == own.uid() && found.ino() != own.ino()
        });
        if !is_named(&item.file_name()) || !is_ours {
            continue;
        }
        let lock = fs::OpenOptions::new()
            .write(true)
            .open(item.path().join(LOCK));
        // Held until everything is gone.
        if let Ok(lock) = lock
            && lock.try_lock().is_ok()
        {
            drop(fs::remove_dir_all(item.path()));
        }
    }
}

fn is_named(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    [OF_REPOSITORY, OF_DRILL]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}
