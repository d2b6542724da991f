//! A repository in a directory.
//!
//! ```text
//! jiexi-backups                  says what this is
//! lock                           held by whoever writes
//! readers                        held by those who read, or by the one who removes
//! 20261126T153000Z-full/         a backup: its files, and last its manifest
//! ```
//!
//! Root may have made one of the two locks, and the node's user needs it: they belong to whom the directory belongs to, and
//! everybody who may come here can hold them.
//!
//! A backup gets its name when it is complete, and loses it before it is removed: `20261126T153000Z-full.unfinished` counts
//! for nothing, and the next one removes it. Nothing else is ever removed.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
    },
    path::{Path, PathBuf},
};

use super::{Found, Place, Put};
use crate::{
    backup::{BackupError, failed, manifest, of_place, repository::is_id},
    owner,
};

/// The file that says what the directory is.
const MARKER: &str = "jiexi-backups";
/// The file that readers lock together, and whoever removes alone.
const READERS: &str = "readers";
/// Of a lock, whatever the umask is.
const LOCK_MODE: u32 = 0o644;
/// Behind the name of a backup that is not complete.
const UNFINISHED: &str = ".unfinished";

/// See the module.
#[derive(Debug)]
pub(in crate::backup) struct Directory {
    path: PathBuf,
}

impl Directory {
    /// The directory at a path, whatever there is.
    pub(in crate::backup) fn new(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
        }
    }

    /// The directory of a backup that is being written or removed.
    fn unfinished(&self, id: &str) -> PathBuf {
        self.path.join(format!("{id}{UNFINISHED}"))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), BackupError> {
        fs::rename(from, to).map_err(|error| of_place(from, "rename", &error))?;
        sync_directory(&self.path)
    }
}

impl Place for Directory {
    fn shown(&self, name: &str) -> String {
        match name {
            "" => self.path.display().to_string(),
            name => self.path.join(name).display().to_string(),
        }
    }

    fn directory(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn draft(&self, id: &str) -> Option<PathBuf> {
        Some(self.unfinished(id))
    }

    fn mark(&self) -> Result<Option<Vec<u8>>, BackupError> {
        let marker = self.path.join(MARKER);
        match fs::read(&marker) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(of_place(&marker, "read", &error)),
        }
    }

    fn found(&self, mark: &[u8]) -> Result<(), BackupError> {
        let path = &self.path;
        make_directory(path, true)?;
        let items = fs::read_dir(path).map_err(|error| of_place(path, "list", &error))?;
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
        replace(&path.join(MARKER), mark, 0o600)
    }

    fn lock(&self, _beside: Option<&Path>) -> Result<Option<File>, BackupError> {
        lock(&self.path.join("lock")).map(Some)
    }

    fn reading(&self) -> Result<Option<File>, BackupError> {
        let path = self.path.join(READERS);
        // Where it cannot be made or locked, such as on a disk that is read-only, others may remove beside this: what is gone
        // then is not called damaged.
        let Ok(file) = open_lock(&path) else {
            return Ok(None);
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(Some(file)),
            Err(fs::TryLockError::WouldBlock) => Err(failed(format_args!(
                "{}: backups are being removed here; wait until that is done",
                path.display()
            ))),
            Err(fs::TryLockError::Error(_)) => Ok(None),
        }
    }

    fn alone(&self) -> Result<Option<File>, BackupError> {
        let path = self.path.join(READERS);
        let busy =
            "backups are being read here (list, verify, restore or drill); wait until that is done";
        lock_or(&path, busy).map(Some)
    }

    fn list(&self) -> Result<Vec<Found>, BackupError> {
        let mut found = Vec::new();
        let unreadable = |error| of_place(&self.path, "list", &error);
        for item in fs::read_dir(&self.path).map_err(unreadable)? {
            let item = item.map_err(unreadable)?;
            if item.file_type().map_err(unreadable)?.is_file() {
                continue;
            }
            let name = item.file_name().to_string_lossy().into_owned();
            let (id, complete) = match name.strip_suffix(UNFINISHED) {
                Some(id) => (id, false),
                None => (name.as_str(), true),
            };
            if is_id(id) {
                let id = id.to_owned();
                found.push(Found { id, complete });
            }
        }
        Ok(found)
    }

    fn begin(&self, id: &str) -> Result<bool, BackupError> {
        let directory = self.unfinished(id);
        let is_taken = |path: &Path| path.symlink_metadata().is_ok();
        if is_taken(&directory) || is_taken(&self.path.join(id)) {
            return Ok(false);
        }
        make_directory(&directory, false)?;
        sync_directory(&self.path)?;
        Ok(true)
    }

    fn put(&self, id: &str, name: &str, _bytes_max: u64) -> Result<Box<dyn Put + '_>, BackupError> {
        let path = self.unfinished(id).join(name);
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let file = options
            .open(&path)
            .map_err(|error| of_place(&path, "create the file", &error))?;
        Ok(Box::new(NewFile { file, path }))
    }

    fn complete(&self, id: &str, manifest: &[u8]) -> Result<(), BackupError> {
        let draft = self.unfinished(id);
        replace(&draft.join(manifest::NAME), manifest, 0o600)?;
        self.rename(&draft, &self.path.join(id))
    }

    fn get(&self, id: &str, name: &str) -> Result<Box<dyn Read + '_>, BackupError> {
        let path = self.path.join(id).join(name);
        let file = File::open(&path).map_err(|error| of_place(&path, "open the file", &error))?;
        Ok(Box::new(file))
    }

    fn length(&self, id: &str, name: &str) -> Result<Option<u64>, BackupError> {
        let path = self.path.join(id).join(name);
        match path.metadata() {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(of_place(&path, "look at the file", &error)),
        }
    }

    fn sweep(&self, id: &str) -> Result<Option<String>, BackupError> {
        let path = self.unfinished(id);
        fs::remove_dir_all(&path)
            .map_err(|error| of_place(&path, "remove what an interrupted backup left", &error))?;
        sync_directory(&self.path).map(|()| None)
    }

    fn remove(&self, id: &str) -> Result<Option<String>, BackupError> {
        let going = self.unfinished(id);
        self.rename(&self.path.join(id), &going)?;
        fs::remove_dir_all(&going).map_err(|error| of_place(&going, "remove", &error))?;
        sync_directory(&self.path).map(|()| None)
    }
}

/// A file being written.
struct NewFile {
    file: File,
    path: PathBuf,
}

impl NewFile {
    fn failed(&self, action: &str, error: &io::Error) -> BackupError {
        of_place(&self.path, action, error)
    }
}

impl Write for NewFile {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let written = self.file.write(octets);
        written.map_err(|error| io::Error::other(self.failed("write", &error)))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Put for NewFile {
    fn finish(self: Box<Self>) -> Result<(), BackupError> {
        let synced = self.file.sync_all();
        synced.map_err(|error| self.failed("sync", &error))
    }
}

/// Locks a file, which is made if need be, for whoever writes.
pub(super) fn lock(path: &Path) -> Result<File, BackupError> {
    lock_or(
        path,
        "another backup is being written here; wait until it is done",
    )
}

/// Opens a lock, and makes it if need be.
fn open_lock(path: &Path) -> io::Result<File> {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_lock(path),
        // That is enough to lock it, but on some file systems of a network.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            File::open(path)
        }
        opened => opened,
    }
}

fn make_lock(path: &Path) -> io::Result<File> {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create_new(true);
    let file = match options.mode(LOCK_MODE).open(path) {
        // Somebody was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return File::open(path),
        made => made?,
    };
    file.set_permissions(fs::Permissions::from_mode(LOCK_MODE))?;
    if let Some(owner) = owner_of_directory(path)
        && owner.uid() != file.metadata()?.uid()
    {
        // Root may give it away; what another user has made can be locked all the same.
        let _ = fchown(&file, Some(owner.uid()), Some(owner.gid()));
    }
    Ok(file)
}

fn owner_of_directory(path: &Path) -> Option<fs::Metadata> {
    fs::metadata(path.parent()?).ok()
}

/// Locks a file alone; `busy` is said when somebody has it.
fn lock_or(path: &Path, busy: &str) -> Result<File, BackupError> {
    let file = open_lock(path).map_err(|error| not_opened(path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => {
            Err(failed(format_args!("{}: {busy}", path.display())))
        }
        Err(fs::TryLockError::Error(error)) => Err(of_place(path, "lock", &error)),
    }
}

/// A lock cannot be opened: root has made it, with an earlier version, and keeps it.
fn not_opened(path: &Path, error: &io::Error) -> BackupError {
    let failed = of_place(path, "open the file", error);
    match (fs::metadata(path), owner_of_directory(path)) {
        (Ok(lock), Some(directory))
            if error.kind() == io::ErrorKind::PermissionDenied && lock.uid() != directory.uid() =>
        {
            let (whose, user) = (owner::name(lock.uid()), owner::name(directory.uid()));
            BackupError::Place(format!(
                "{failed}; it belongs to {whose}, perhaps because a command was run as {whose}: as root `chown {user} {}`",
                path.display()
            ))
        }
        _ => failed,
    }
}

fn make_directory(path: &Path, recursive: bool) -> Result<(), BackupError> {
    fs::DirBuilder::new()
        .recursive(recursive)
        .mode(0o700)
        .create(path)
        .map_err(|error| of_place(path, "create the directory", &error))
}

/// Makes the names in a directory durable.
pub(in crate::backup) fn sync_directory(path: &Path) -> Result<(), BackupError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| of_place(path, "sync the directory", &error))
}

/// Puts a small file in its place: all of it or nothing, and durable.
pub(in crate::backup) fn replace(
    path: &Path,
    content: &[u8],
    mode: u32,
) -> Result<(), BackupError> {
    let temporary = path.with_extension("new");
    // What a killed one left may be another user's.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(of_place(&temporary, "remove", &error));
        }
        _ => {}
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    let written = options.open(&temporary).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    written.map_err(|error| of_place(&temporary, "write", &error))?;
    fs::rename(&temporary, path).map_err(|error| of_place(path, "rename", &error))?;
    match path.parent() {
        Some(parent) => sync_directory(parent),
        None => Ok(()),
    }
}
