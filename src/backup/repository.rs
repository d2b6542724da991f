//! A repository in a directory.
//!
//! ```text
//! jiexi-backups                  says what this is
//! lock                           held by whoever writes
//! 20261126T153000Z-full/         a backup: its files, and last its manifest
//! ```
//!
//! A backup gets its name when it is complete, and loses it before it is removed: `20261126T153000Z-full.unfinished` counts
//! for nothing, and the next one removes it. Nothing else is ever removed.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::{
    BackupError, failed, io_failed,
    manifest::{self, Kind, Manifest},
    shown_time,
};

/// The file that says what the directory is.
const MARKER: &str = "jiexi-backups";
/// What it says.
const MARK: &str = "jiexi backups, format 1\n";
/// Behind the name of a backup that is not complete.
const UNFINISHED: &str = ".unfinished";
/// Most backups of one second.
const IDS_MAX: u32 = 1_000;

/// See the module.
#[derive(Debug, Clone)]
pub struct Repository {
    path: PathBuf,
}

/// What is in a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The backups, oldest first.
    pub whole: Vec<Manifest>,
    /// Names of backups whose manifest is damaged, and what is wrong.
    pub damaged: Vec<(String, String)>,
    /// Names of backups that were not completed.
    pub unfinished: Vec<String>,
}

/// A backup that is being written.
#[derive(Debug)]
pub struct Draft {
    /// Its name.
    pub id: String,
    /// Its directory, which is not called so until it is complete.
    pub directory: PathBuf,
}

impl Repository {
    /// The repository at a path.
    ///
    /// # Errors
    /// There is none.
    pub fn open(path: &Path) -> Result<Self, BackupError> {
        let marker = path.join(MARKER);
        match fs::read(&marker) {
            Ok(text) if text == MARK.as_bytes() => Ok(Self {
                path: path.to_path_buf(),
            }),
            Ok(_) => Err(failed(format_args!(
                "{}: not the mark of a repository that this program knows; use the version that wrote it",
                marker.display()
            ))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(BackupError::NotFound(format!(
                    "{}: no backups here; `jiexi backup create` begins a repository",
                    path.display()
                )))
            }
            Err(error) => Err(io_failed(&marker, "read", &error)),
        }
    }

    /// The repository at a path; a new one when there is nothing.
    ///
    /// # Errors
    /// There is something else, or it cannot be written.
    pub fn open_or_create(path: &Path) -> Result<Self, BackupError> {
        match Self::open(path) {
            Err(BackupError::NotFound(_)) => {}
            found => return found,
        }
        make_directory(path, true)?;
        let items = fs::read_dir(path).map_err(|error| io_failed(path, "list", &error))?;
        let mut others = items
            .filter_map(Result::ok)
            .map(|item| item.file_name().to_string_lossy().into_owned())
            .filter(|name| name != "lost+found" && !name.starts_with(MARKER));
        if let Some(other) = others.next() {
            return Err(failed(format_args!(
                "{}: neither empty nor a repository of backups (there is {other}); name a directory for backups alone",
                path.display()
            )));
        }
        replace(&path.join(MARKER), MARK.as_bytes())?;
        Self::open(path)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of a backup.
    #[must_use]
    pub fn directory(&self, id: &str) -> PathBuf {
        self.path.join(id)
    }

    /// The right to write, until the file is closed.
    ///
    /// # Errors
    /// Somebody else has it.
    pub fn lock(&self) -> Result<File, BackupError> {
        let path = self.path.join("lock");
        let mut options = fs::OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        let file = options
            .open(&path)
            .map_err(|error| io_failed(&path, "open the file", &error))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(fs::TryLockError::WouldBlock) => Err(failed(format_args!(
                "{}: another backup is being written here; wait until it is done",
                path.display()
            ))),
            Err(fs::TryLockError::Error(error)) => Err(io_failed(&path, "lock", &error)),
        }
    }

    /// What is here.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(&self) -> Result<Listing, BackupError> {
        let mut listing = Listing::default();
        let unreadable = |error| io_failed(&self.path, "list", &error);
        for item in fs::read_dir(&self.path).map_err(unreadable)? {
            let item = item.map_err(unreadable)?;
            let id = item.file_name().to_string_lossy().into_owned();
            if item.file_type().map_err(unreadable)?.is_file() {
                continue;
            }
            if let Some(id) = id.strip_suffix(UNFINISHED).filter(|id| is_id(id)) {
                listing.unfinished.push(id.to_owned());
                continue;
            }
            if !is_id(&id) {
                continue;
            }
            match Manifest::read(&item.path()) {
                Ok(manifest) => listing.whole.push(manifest),
                Err(error) => listing.damaged.push((id, error.to_string())),
            }
        }
        // Of one second, an increment is from before the full backup that leads to the same sequence.
        let place = |manifest: &Manifest| {
            let order = (manifest.created, manifest.epoch, manifest.sequence);
            (order, manifest.kind == Kind::Full)
        };
        listing
            .whole
            .sort_by(|a, b| (place(a), &a.id).cmp(&(place(b), &b.id)));
        listing.damaged.sort();
        listing.unfinished.sort();
        Ok(listing)
    }

    /// Removes what interrupted backups have left. The caller has the lock.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn sweep(&self, listing: &Listing) -> Result<(), BackupError> {
        for id in &listing.unfinished {
            let path = self.unfinished(id);
            fs::remove_dir_all(&path).map_err(|error| {
                io_failed(&path, "remove what an interrupted backup left", &error)
            })?;
        }
        sync_directory(&self.path)
    }

    /// Begins a backup.
    ///
    /// # Errors
    /// Its directory cannot be made.
    pub fn begin(&self, kind: Kind, now: u64) -> Result<Draft, BackupError> {
        let compact: String = shown_time(now)
            .chars()
            .filter(|sign| sign.is_ascii_alphanumeric())
            .collect();
        for number in 1..=IDS_MAX {
            let mut id = format!("{compact}-{}", kind.name());
            if number > 1 {
                id = format!("{id}-{number}");
            }
            let directory = self.unfinished(&id);
            let is_taken = |path: &Path| path.symlink_metadata().is_ok();
            if is_taken(&directory) || is_taken(&self.directory(&id)) {
                continue;
            }
            make_directory(&directory, false)?;
            sync_directory(&self.path)?;
            return Ok(Draft { id, directory });
        }
        Err(failed(format_args!(
            "{}: too many backups of one second",
            self.path.display()
        )))
    }

    /// Completes a backup: everything that the manifest names is durable before the manifest is there.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn complete(&self, draft: &Draft, manifest: &Manifest) -> Result<(), BackupError> {
        replace(&draft.directory.join(manifest::NAME), &manifest.seal()?)?;
        self.rename(&draft.directory, &self.directory(&draft.id))
    }

    /// Removes a backup: first its name. The caller has the lock.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(&self, id: &str) -> Result<(), BackupError> {
        let going = self.unfinished(id);
        self.rename(&self.directory(id), &going)?;
        fs::remove_dir_all(&going).map_err(|error| io_failed(&going, "remove", &error))?;
        sync_directory(&self.path)
    }

    /// The directory of a backup that is being written or removed.
    fn unfinished(&self, id: &str) -> PathBuf {
        self.path.join(format!("{id}{UNFINISHED}"))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), BackupError> {
        fs::rename(from, to).map_err(|error| io_failed(from, "rename", &error))?;
        sync_directory(&self.path)
    }
}

/// Whether a name is that of a backup: a time, and what it is.
fn is_id(name: &str) -> bool {
    let parts = name.split_once('-');
    parts.is_some_and(|(time, kind)| {
        let digits =
            |text: &str, count| text.len() == count && text.bytes().all(|d| d.is_ascii_digit());
        let time = time.strip_suffix('Z').and_then(|time| time.split_once('T'));
        time.is_some_and(|(day, time)| digits(day, 8) && digits(time, 6))
            && [Kind::Full, Kind::Increment]
                .iter()
                .filter_map(|known| kind.strip_prefix(known.name()))
                .any(|rest| {
                    let number = rest.strip_prefix('-');
                    rest.is_empty() || number.is_some_and(|text| text.parse::<u32>().is_ok())
                })
    })
}

fn make_directory(path: &Path, recursive: bool) -> Result<(), BackupError> {
    fs::DirBuilder::new()
        .recursive(recursive)
        .mode(0o700)
        .create(path)
        .map_err(|error| io_failed(path, "create the directory", &error))
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(path: &Path) -> Result<(), BackupError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| io_failed(path, "sync the directory", &error))
}

/// Puts a small file in its place: all of it or nothing, and durable.
fn replace(path: &Path, content: &[u8]) -> Result<(), BackupError> {
    let temporary = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options.open(&temporary).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    written.map_err(|error| io_failed(&temporary, "write", &error))?;
    fs::rename(&temporary, path).map_err(|error| io_failed(path, "rename", &error))?;
    match path.parent() {
        Some(parent) => sync_directory(parent),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: only what this program has named is taken for a backup, and perhaps removed.
    #[test]
    fn names_of_backups() {
        for good in ["20261126T153000Z-full", "20261126T153000Z-increment-2"] {
            assert!(is_id(good), "{good}");
        }
        for bad in [
            "lost+found",
            "20261126-full",
            "20261126T153000Z-else",
            "20261126T153000Z-full-kept",
            "20261126T153000Z-full.tar.gz",
            "2026112aT153000Z-full",
        ] {
            assert!(!is_id(bad), "{bad}");
        }
    }
}
