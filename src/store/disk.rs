//! The file layer under journal, snapshots and identity: every change of those files goes through here, so that tests
//! can record it, replay a power cut, or make it fail.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::error::StoreError;

/// Mode of new files: they hold data of others, secrets among them.
const FILE_MODE: u32 = 0o600;

/// One change of the files, as a test recorded it.
#[doc(hidden)]
#[derive(Clone, Debug)]
pub enum Event {
    /// A new, empty file.
    Create(PathBuf),
    /// The file reads as zeros up to this length.
    Allocate(PathBuf, u64),
    /// Bytes at an offset.
    Write(PathBuf, u64, Vec<u8>),
    /// The file's contents are durable.
    Sync(PathBuf),
    /// The file ends here.
    Truncate(PathBuf, u64),
    /// The directory's entries are durable.
    SyncDirectory(PathBuf),
    /// Another name.
    Rename(PathBuf, PathBuf),
    /// No more.
    Remove(PathBuf),
    /// The batch with this sequence was acknowledged.
    Acknowledge(u64),
}

/// Hooks for tests: what is to fail, and a recording of what was done.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Faults {
    /// Every sync of the journal fails.
    pub fail_sync: AtomicBool,
    /// Batches are acknowledged first, and written a little later: what no store may do.
    pub acknowledge_first: AtomicBool,
    /// The applier stands still, as if sled hung.
    pub stall_applier: AtomicBool,
    /// Snapshots stop half way until this is cleared.
    pub stall_snapshot: AtomicBool,
    /// Loading stops before it reads the dump of a snapshot, until this is cleared.
    pub stall_loader: AtomicBool,
    recording: Mutex<Option<Vec<Event>>>,
}

impl Faults {
    /// Records from now on.
    pub fn record(&self) {
        *self
            .recording
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
    }

    /// What was recorded so far.
    pub fn recorded(&self) -> Vec<Event> {
        self.recording
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .unwrap_or_default()
    }

    fn add(&self, event: impl FnOnce() -> Event) {
        if let Some(events) = &mut *self
            .recording
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
        {
            events.push(event());
        }
    }
}

/// The way to the disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    faults: Option<Arc<Faults>>,
}

/// A file that is written through [`Disk`].
#[derive(Debug)]
pub(crate) struct DiskFile {
    file: File,
    path: PathBuf,
    disk: Disk,
}

impl Disk {
    pub(crate) fn new(faults: Option<Arc<Faults>>) -> Self {
        Self { faults }
    }

    /// A new file. Nothing may have its name.
    pub(crate) fn create(&self, path: &Path) -> Result<DiskFile, StoreError> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create_new(true)
            .mode(FILE_MODE);
        let file = options
            .open(path)
            .map_err(|error| StoreError::io(path, "create the file", error))?;
        self.note(|| Event::Create(path.to_path_buf()));
        Ok(DiskFile {
            file,
            path: path.to_path_buf(),
            disk: self.clone(),
        })
    }

    /// An existing file.
    pub(crate) fn open(&self, path: &Path) -> Result<DiskFile, StoreError> {
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.map_err(|error| StoreError::io(path, "open the file", error))?;
        Ok(DiskFile {
            file,
            path: path.to_path_buf(),
            disk: self.clone(),
        })
    }

    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        fs::rename(from, to).map_err(|error| StoreError::io(from, "rename the file", error))?;
        self.note(|| Event::Rename(from.to_path_buf(), to.to_path_buf()));
        Ok(())
    }

    pub(crate) fn remove(&self, path: &Path) -> Result<(), StoreError> {
        fs::remove_file(path).map_err(|error| StoreError::io(path, "remove the file", error))?;
        self.note(|| Event::Remove(path.to_path_buf()));
        Ok(())
    }

    /// Removes what an interrupted run may have left.
    pub(crate) fn discard(&self, path: &Path) -> Result<(), StoreError> {
        if path.exists() {
            self.remove(path)
        } else {
            Ok(())
        }
    }

    /// Makes the entries of a directory durable.
    pub(crate) fn sync_directory(&self, path: &Path) -> Result<(), StoreError> {
        File::open(path)
            .and_then(|directory| directory.sync_all())
            .map_err(|error| StoreError::io(path, "sync the directory", error))?;
        self.note(|| Event::SyncDirectory(path.to_path_buf()));
        Ok(())
    }

    /// Puts a small file in the place of `path`: all of it or nothing, and durable.
    pub(crate) fn replace(&self, path: &Path, contents: &[u8]) -> Result<(), StoreError> {
        let temporary = path.with_extension("new");
        self.discard(&temporary)?;
        let file = self.create(&temporary)?;
        file.write_at(contents, 0)?;
        file.sync()?;
        self.rename(&temporary, path)?;
        self.sync_directory(parent(path))
    }

    /// For tests: whether batches are to be acknowledged before they are written.
    pub(crate) fn acknowledges_first(&self) -> bool {
        self.fault(|faults| &faults.acknowledge_first)
    }

    /// For tests: whether the applier is to stand still.
    pub(crate) fn stalls_applier(&self) -> bool {
        self.fault(|faults| &faults.stall_applier)
    }

    /// For tests: whether snapshots are to stand still.
    pub(crate) fn stalls_snapshot(&self) -> bool {
        self.fault(|faults| &faults.stall_snapshot)
    }

    /// For tests: whether loading is to stand still.
    pub(crate) fn stalls_loader(&self) -> bool {
        self.fault(|faults| &faults.stall_loader)
    }

    pub(crate) fn note(&self, event: impl FnOnce() -> Event) {
        if let Some(faults) = &self.faults {
            faults.add(event);
        }
    }

    fn fault(&self, which: impl FnOnce(&Faults) -> &AtomicBool) -> bool {
        self.faults
            .as_ref()
            .is_some_and(|faults| which(faults).load(Relaxed))
    }
}

impl DiskFile {
    pub(crate) fn length(&self) -> Result<u64, StoreError> {
        let metadata = self.file.metadata();
        metadata
            .map(|metadata| metadata.len())
            .map_err(|error| self.error("read the size", error))
    }

    /// Reserves `length` bytes that read as zeros, so that writing into them needs no space.
    pub(crate) fn allocate(&self, length: u64) -> Result<(), StoreError> {
        let size = i64::try_from(length).unwrap_or(i64::MAX);
        nix::fcntl::posix_fallocate(&self.file, 0, size)
            .map_err(|error| self.error("reserve space", io::Error::from(error)))?;
        self.disk
            .note(|| Event::Allocate(self.path.clone(), length));
        Ok(())
    }

    pub(crate) fn write_at(&self, bytes: &[u8], at: u64) -> Result<(), StoreError> {
        self.disk
            .note(|| Event::Write(self.path.clone(), at, bytes.to_vec()));
        self.file
            .write_all_at(bytes, at)
            .map_err(|error| self.error("write", error))
    }

    /// Makes the contents durable (fdatasync; the size is part of that).
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        if self.disk.fault(|faults| &faults.fail_sync) {
            return Err(self.error("sync", io::Error::other("a test made it fail")));
        }
        self.file
            .sync_data()
            .map_err(|error| self.error("sync", error))?;
        self.disk.note(|| Event::Sync(self.path.clone()));
        Ok(())
    }

    pub(crate) fn truncate(&self, length: u64) -> Result<(), StoreError> {
        self.file
            .set_len(length)
            .map_err(|error| self.error("cut", error))?;
        self.disk
            .note(|| Event::Truncate(self.path.clone(), length));
        Ok(())
    }

    fn error(&self, action: &'static str, error: io::Error) -> StoreError {
        StoreError::io(&self.path, action, error)
    }
}

/// The directory that a path of ours is in.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."))
}

/// Makes everything below a directory durable, and the directory itself.
pub(crate) fn sync_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    File::open(path)?.sync_all()
}

/// Bytes free for us, and bytes in all, on the disk of a directory.
pub(crate) fn free_space(path: &Path) -> io::Result<(u64, u64)> {
    let figures = nix::sys::statvfs::statvfs(path)?;
    let unit = figures.fragment_size();
    Ok((figures.blocks_available() * unit, figures.blocks() * unit))
}
