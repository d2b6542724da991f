//! Files that a command writes: never over what it reads, and nothing of what was there goes before something new has come.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Seek as _, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value as Json;

use super::Failed;
use crate::ask::parquet::Table;

/// Nobody but its owner reads what was asked with rights.
const MODE: u32 = 0o600;
/// What the name of a table ends with until it is complete.
const INCOMPLETE: &str = ".incomplete";

/// Refuses an output that is the input, by whatever names; `option` is how the output was given.
pub(super) fn apart(input: &Path, out: &Path, option: &str) -> Result<(), Failed> {
    // What standard input is on this system, which may be a file as well.
    let input_file = match input.as_os_str() == "-" {
        true => Path::new("/dev/stdin"),
        false => input,
    };
    let which =
        |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino(), file.is_file()));
    match (which(input_file), which(out)) {
        (Ok(one), Ok(other)) if one == other && one.2 => Err(Failed::usage(format_args!(
            "{option} {}: this is the input, which would be lost: give another file",
            out.display()
        ))),
        _ => Ok(()),
    }
}

/// A file whose old contents stay until there is something new: the first octet that is written, or [`Self::begin`].
#[derive(Clone)]
pub(super) struct Late(Arc<Mutex<Inner>>);

/// What is done when the old contents go.
type First = Box<dyn FnOnce() -> io::Result<()> + Send>;

struct Inner {
    path: PathBuf,
    file: File,
    /// Whether it was made here; then it goes again when nothing comes.
    made: bool,
    /// Octets at its beginning that stay.
    kept: u64,
    /// None when the old contents have gone.
    first: Option<First>,
}

impl Late {
    /// Opens it, so that nobody asks for what cannot be written; `kept` octets stay, and `first` is done when the others
    /// go.
    pub(super) fn open(path: &Path, kept: u64, first: First) -> io::Result<Self> {
        let options = || {
            let mut options = OpenOptions::new();
            options.write(true).mode(MODE);
            options
        };
        let (file, made) = match options().create_new(true).open(path) {
            Ok(file) => (file, true),
            // It exists, or is a link that leads to nothing yet.
            Err(_) => (options().create(true).truncate(false).open(path)?, false),
        };
        Ok(Self(Arc::new(Mutex::new(Inner {
            path: path.to_owned(),
            file,
            made,
            kept,
            first: Some(first),
        }))))
    }

    /// There is something new, and be it that there is nothing.
    pub(super) fn begin(&self) -> io::Result<()> {
        self.inner().begin()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn begin(&mut self) -> io::Result<()> {
        let Some(first) = self.first.take() else {
            return Ok(());
        };
        // A device or a pipe has no old contents.
        if self.file.metadata()?.is_file() {
            self.file.set_len(self.kept)?;
            self.file.seek(SeekFrom::Start(self.kept))?;
        }
        first()
    }
}

impl Write for Late {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let mut inner = self.inner();
        if !octets.is_empty() {
            inner.begin()?;
        }
        inner.file.write(octets)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner().file.flush()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.made && self.first.is_some() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A table that is not complete: it has another name until it is, and goes when it will not be. What a killed command has
/// left under that name is written over by the next one.
pub(super) struct Draft {
    pub(super) table: Table,
    out: PathBuf,
    /// None when it is complete.
    temporary: Option<PathBuf>,
    /// Locked as long as the table is written.
    _lock: File,
}

impl Draft {
    pub(super) fn new(out: &Path) -> io::Result<Self> {
        let mut temporary = out.as_os_str().to_owned();
        temporary.push(INCOMPLETE);
        let temporary = PathBuf::from(temporary);
        let lock = locked(&temporary)?;
        lock.set_len(0)?;
        Ok(Self {
            table: Table::new(lock.try_clone()?)?,
            out: out.to_owned(),
            temporary: Some(temporary),
            _lock: lock,
        })
    }

    /// Completes it, and gives it its name.
    pub(super) fn finish(&mut self, summary: &Json) -> io::Result<()> {
        self.table.finish(summary)?;
        if let Some(temporary) = &self.temporary {
            fs::rename(temporary, &self.out)?;
        }
        self.temporary = None;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = fs::remove_file(temporary);
        }
    }
}

/// Opens a file that no other command writes.
fn locked(path: &Path) -> io::Result<File> {
    loop {
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(MODE);
        let file = file.open(path)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::other(format!(
                "another command is writing {}: wait for it, or give another file",
                path.display()
            )),
            TryLockError::Error(error) => error,
        })?;
        // Between the two it may have been completed, and have another name now.
        let own = file.metadata()?;
        if fs::metadata(path)
            .is_ok_and(|named| (named.dev(), named.ino()) == (own.dev(), own.ino()))
        {
            return Ok(file);
        }
    }
}
