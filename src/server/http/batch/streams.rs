//! Batches that run: how many of each token, and what they keep on disk.

use std::collections::HashMap;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Limits;

/// Only the node's user reads what clients send and get.
const DIRECTORY_MODE: u32 = 0o700;

/// Makes a directory for what clients send and get. One that others may read is refused: it may be meant for something else.
pub(in super::super) fn own_directory(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(DIRECTORY_MODE).create(path)?;
    let mode = std::fs::metadata(path)?.permissions().mode() & 0o777;
    match mode & !DIRECTORY_MODE {
        0 => Ok(()),
        _ => Err(io::Error::other(format!(
            "{}: others than the node's user have rights there (mode {mode:o}), and it is for what clients send and get; \
             chmod {DIRECTORY_MODE:o} it, or name another directory",
            path.display()
        ))),
    }
}

/// What one token has.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    streams: usize,
    spooled: u64,
}

#[derive(Debug)]
struct Inner {
    all: usize,
    each: usize,
    spool: u64,
    directory: PathBuf,
    held: Mutex<HashMap<String, Held>>,
}

/// Batches that run.
#[derive(Clone, Debug)]
pub(in super::super) struct Streams(Arc<Inner>);

impl Streams {
    /// None runs; makes the directory of the spools.
    pub(in super::super) fn new(limits: &Limits) -> io::Result<Self> {
        own_directory(&limits.directory)?;
        Ok(Self(Arc::new(Inner {
            all: limits.streams,
            each: limits.streams_per_token,
            spool: limits.spool,
            directory: limits.directory.clone(),
            held: Mutex::default(),
        })))
    }

    /// Whether any batch runs.
    pub(in super::super) fn any_runs(&self) -> bool {
        !self.lock().is_empty()
    }

    /// How many run, and how many inputs of jobs arrive.
    pub(in super::super) fn running(&self) -> usize {
        self.lock().values().map(|held| held.streams).sum()
    }

    /// How many batches of a token run, and the octets that they keep on disk.
    pub(super) fn of(&self, token: &str) -> (usize, u64) {
        let held = self.lock().get(token).copied().unwrap_or_default();
        (held.streams, held.spooled)
    }

    /// One more batch of a token; none when there are as many as may be.
    pub(in super::super) fn enter(&self, token: &str) -> Option<Stream> {
        let mut held = self.lock();
        let running: usize = held.values().map(|held| held.streams).sum();
        let own = held.get(token).map_or(0, |held| held.streams);
        if running >= self.0.all || own >= self.0.each {
            return None;
        }
        held.entry(token.to_owned()).or_default().streams += 1;
        drop(held);
        Some(Stream {
            streams: self.clone(),
            token: token.to_owned(),
            spooled: AtomicU64::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Held>> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A batch that runs, until both of its ends have dropped this.
#[derive(Debug)]
pub(in super::super) struct Stream {
    streams: Streams,
    token: String,
    spooled: AtomicU64,
}

impl Stream {
    /// A file that has no name and is gone when it is closed.
    pub(super) fn file(&self) -> io::Result<File> {
        tempfile::tempfile_in(&self.streams.0.directory)
    }

    /// Takes room on the disk, if the token has it.
    pub(super) fn spool(&self, octets: u64) -> bool {
        let mut held = self.streams.lock();
        let own = held.entry(self.token.clone()).or_default();
        let good = own.spooled + octets <= self.streams.0.spool;
        if good {
            own.spooled += octets;
            self.spooled.fetch_add(octets, Relaxed);
        }
        good
    }

    /// Gives all room on the disk back.
    pub(super) fn unspool(&self) {
        let mut held = self.streams.lock();
        let spooled = self.spooled.swap(0, Relaxed);
        if let Some(own) = held.get_mut(&self.token) {
            own.spooled = own.spooled.saturating_sub(spooled);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.unspool();
        let mut held = self.streams.lock();
        if let Some(own) = held.get_mut(&self.token) {
            own.streams -= 1;
            if own.streams == 0 {
                held.remove(&self.token);
            }
        }
    }
}
