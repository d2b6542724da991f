//! What the threads of a store share.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::Duration;

use super::State;
use super::change::{CommitError, Space};
use super::config::Config;
use super::disk::Disk;
use super::error::StoreError;
use super::follow::Places;
use super::identity::Identity;
use super::index::{Index, Miss};
use super::journal::entry::Position;
use super::metrics::{Stopwatch, StoreMetrics};
use super::overlay::Overlay;
use super::queue::Queue;
use super::role::Role;
use super::sled::Engine;
use super::writer::Writer;

/// How long another process may hold the directory: a killed one is torn down by then.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// For tests: how often what is stalled looks whether it still is.
const STALL_PAUSE: Duration = Duration::from_millis(5);
/// How often somebody who waits for sled looks whether it still can come.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// See the module.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) identity: Identity,
    pub(crate) disk: Disk,
    pub(crate) index: Arc<Index>,
    pub(crate) overlay: Overlay,
    pub(crate) queue: Queue,
    pub(crate) metrics: StoreMetrics,
    /// Whether another process had the files when this one opened them.
    pub(crate) began_beside: bool,
    /// Grows with every sign of life of the applier.
    pub(crate) progress: AtomicU64,
    /// Whether the applier is in a sync or orders the index, which may take long for good reason.
    pub(crate) syncing: AtomicBool,
    /// Whether sled is being opened, which ends by itself.
    pub(crate) opening: AtomicBool,
    /// Sequence up to which sled was synced.
    pub(crate) synced_sequence: AtomicU64,
    /// Number of the last sled directory.
    pub(crate) sled_number: AtomicU64,
    pub(crate) free_bytes: AtomicU64,
    /// With fewer bytes free there are no writes; as of then.
    pub(crate) reserve_bytes: AtomicU64,
    disk_low: AtomicBool,
    epochs: [AtomicU64; Space::ALL.len()],
    role: Mutex<Role>,
    /// Where those stopped who follow changes.
    pub(crate) places: Places,
    /// Held while snapshots are taken, verified and removed.
    pub(crate) snapshots: Mutex<()>,
    status: Mutex<Status>,
    status_changed: Condvar,
    /// Whoever holds this writes; none before loading and after closing.
    writer: Mutex<Option<Writer>>,
    /// Whoever holds this is the next to write.
    turn: Mutex<()>,
    lock: Mutex<Option<File>>,
}

/// Who has the files of the store. Only one process writes them; it may give them to another one and take them back.
///
/// ```text
/// open        ─→ Settling ─→ Here ─→ Leaving ─→ Away ─┐
/// open_beside ─→ Beside ─→ Filled ──→ Settling ←──────┘
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// Another process, and the index is being filled beside it.
    Beside,
    /// Another process; the index has what the journal had when it was read.
    Filled,
    /// This one: what the index lacks is read from the journal, then it is written.
    Settling,
    /// This one.
    Here,
    /// This one, until its writer has ended.
    Leaving,
    /// Another process, since this one gave them away.
    Away,
}

struct Status {
    state: State,
    holder: Holder,
    /// Another process lets this one have the files.
    granted: bool,
    /// Why loading failed.
    failure: Option<Arc<str>>,
    requests: Requests,
}

/// What the keeper is asked to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Requests {
    /// Close everything.
    pub(crate) stop: bool,
    /// Make sled anew: something in it cannot be read.
    pub(crate) rebuild: bool,
    /// Make sled anew: the operator wants it.
    pub(crate) anew: bool,
    /// Take a snapshot now and drop everything that is older.
    pub(crate) renew: bool,
}

impl Shared {
    /// Without a lock another process has the files.
    pub(crate) fn new(config: Config, identity: Identity, lock: Option<File>) -> Self {
        let holder = match lock {
            Some(_) => Holder::Settling,
            None => Holder::Beside,
        };
        Self {
            began_beside: lock.is_none(),
            disk: Disk::new(config.faults.clone()),
            index: Arc::new(Index::new()),
            overlay: Overlay::default(),
            queue: Queue::new(config.queue_batches, config.queue_bytes),
            metrics: StoreMetrics::default(),
            progress: AtomicU64::new(0),
            syncing: AtomicBool::new(false),
            opening: AtomicBool::new(false),
            synced_sequence: AtomicU64::new(0),
            sled_number: AtomicU64::new(0),
            free_bytes: AtomicU64::new(0),
            reserve_bytes: AtomicU64::new(0),
            disk_low: AtomicBool::new(false),
            epochs: Default::default(),
            role: Mutex::new(identity.role.clone()),
            places: Places::default(),
            snapshots: Mutex::new(()),
            status: Mutex::new(Status {
                state: State::Loading,
                holder,
                granted: false,
                failure: None,
                requests: Requests::default(),
            }),
            status_changed: Condvar::new(),
            writer: Mutex::default(),
            turn: Mutex::default(),
            lock: Mutex::new(lock),
            config,
            identity,
        }
    }

    /// The directory of the store.
    pub(crate) fn dir(&self) -> &Path {
        &self.config.dir
    }

    pub(crate) fn state(&self) -> State {
        self.status().state.clone()
    }

    /// Goes to another state; read-only is never left.
    pub(crate) fn set_state(&self, state: State) {
        let mut status = self.status();
        if !matches!(status.state, State::ReadOnly(_)) && status.state != state {
            let reason = match &state {
                State::ReadOnly(reason) => Some(&**reason),
                _ => None,
            };
            tracing::info!(
                event = "store.state",
                from = status.state.label(),
                to = state.label(),
                reason,
                "store state"
            );
            status.state = state;
            self.status_changed.notify_all();
        }
    }

    /// Takes no writes from now on.
    pub(crate) fn set_read_only(&self, reason: Arc<str>) {
        tracing::error!(event = "store.read_only", %reason, "the store is read-only");
        self.set_state(State::ReadOnly(Arc::clone(&reason)));
        self.queue.refuse(CommitError::ReadOnly(reason));
    }

    /// Whose changes are taken.
    pub(crate) fn role(&self) -> Role {
        self.role
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Takes the changes of others, or of nobody, from now on: first on the disk, so that no start forgets it.
    pub(crate) fn set_role(&self, role: Role) -> Result<(), StoreError> {
        let identity = Identity {
            role: role.clone(),
            ..self.identity.clone()
        };
        // Whoever writes goes on until it is done, and nobody begins before it is so.
        let _writer = self.writer_in_turn();
        if self.holder() != Holder::Here && self.holder() != Holder::Settling {
            return Err(StoreError::Unavailable(
                "another process has the files of the store now; try again",
            ));
        }
        identity.write(&self.disk, self.dir())?;
        *self.role.lock().unwrap_or_else(PoisonError::into_inner) = role;
        Ok(())
    }

    /// Reads whose changes are taken again: another process has had the files. They must be those of the same store.
    pub(crate) fn read_role(&self) -> Result<(), StoreError> {
        // As in `set_role`: what that writes is not read half-way, nor forgotten.
        let _writer = self.writer_in_turn();
        let identity = Identity::read(self.dir())?;
        if identity.epoch != self.identity.epoch {
            return Err(StoreError::Unavailable(
                "the store is another one since it was read: start again",
            ));
        }
        *self.role.lock().unwrap_or_else(PoisonError::into_inner) = identity.role;
        Ok(())
    }

    /// Why no writes are taken, if so.
    pub(crate) fn read_only(&self) -> Option<Arc<str>> {
        match &self.status().state {
            State::ReadOnly(reason) => Some(Arc::clone(reason)),
            _ => None,
        }
    }

    /// Gives up: the files cannot be loaded.
    pub(crate) fn set_failed(&self, error: &StoreError) {
        let message: Arc<str> = error.to_string().into();
        self.index.set_miss(Miss::Damaged);
        self.status().failure = Some(Arc::clone(&message));
        self.set_read_only(message);
    }

    /// Why loading failed, if it did.
    pub(crate) fn failure(&self) -> Option<Arc<str>> {
        self.status().failure.clone()
    }

    /// Waits until `done` says so, at most for `patience`; whether it does.
    pub(crate) fn wait_state(&self, patience: Duration, done: impl Fn(&State) -> bool) -> bool {
        let waiting = |status: &mut Status| !done(&status.state);
        let waited = self
            .status_changed
            .wait_timeout_while(self.status(), patience, waiting);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Waits for a complete sled that has all runs, with the position it holds at least; none when it has to be made anew.
    pub(crate) fn wait_sled(&self) -> Option<(Arc<Engine>, Position)> {
        loop {
            let found = self.overlay.wait_engine(LOOK_PAUSE);
            if found.is_some() && !self.overlay.runs().1 && !self.is_stopping() {
                thread::sleep(LOOK_PAUSE);
                continue;
            }
            // Ready without a sled: it is being verified, or made for the first time.
            if found.is_some() || self.state() != State::Ready || self.is_stopping() {
                return found;
            }
        }
    }

    /// Asks the keeper for something.
    pub(crate) fn request(&self, change: impl FnOnce(&mut Requests)) {
        change(&mut self.status().requests);
        self.status_changed.notify_all();
    }

    /// Waits up to `patience` for requests and takes them; a stop stays.
    pub(crate) fn take_requests(&self, patience: Duration) -> Requests {
        let idle = |status: &mut Status| {
            status.requests == Requests::default() && status.holder != Holder::Leaving
        };
        let waited = self
            .status_changed
            .wait_timeout_while(self.status(), patience, idle);
        let mut status = waited.unwrap_or_else(PoisonError::into_inner).0;
        let requests = status.requests;
        status.requests = Requests {
            stop: requests.stop,
            ..Requests::default()
        };
        requests
    }

    /// Whether the store is being closed, or given to another process: what works on its files is to end.
    pub(crate) fn is_stopping(&self) -> bool {
        let status = self.status();
        status.requests.stop || matches!(status.holder, Holder::Leaving | Holder::Away)
    }

    /// Whether the store is being closed.
    pub(crate) fn is_closing(&self) -> bool {
        self.status().requests.stop
    }

    /// Who has the files.
    pub(crate) fn holder(&self) -> Holder {
        self.status().holder
    }

    /// Notes who has the files.
    pub(crate) fn set_holder(&self, holder: Holder) {
        self.status().holder = holder;
        self.status_changed.notify_all();
    }

    /// Waits until one of these has the files, or never will; who has them then.
    pub(crate) fn wait_holder(&self, patience: Duration, wanted: &[Holder]) -> Holder {
        let waiting = |status: &mut Status| {
            let ended = status.failure.is_some() || status.requests.stop;
            !wanted.contains(&status.holder) && !ended
        };
        let waited = self
            .status_changed
            .wait_timeout_while(self.status(), patience, waiting);
        waited.unwrap_or_else(PoisonError::into_inner).0.holder
    }

    /// Begins to give the files away; whether this process has them.
    pub(crate) fn leave(&self) -> bool {
        let mut status = self.status();
        let here = status.holder == Holder::Here && !status.requests.stop;
        if here {
            status.holder = Holder::Leaving;
            status.granted = false;
            self.status_changed.notify_all();
        }
        here
    }

    /// Lets the keeper have the files; the lock comes with them, unless it is here still.
    pub(crate) fn grant(&self, lock: Option<File>) {
        if lock.is_some() {
            *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = lock;
        }
        self.status().granted = true;
        self.status_changed.notify_all();
    }

    /// Waits until the files may be written by this process; false when it closes the store before.
    pub(crate) fn wait_granted(&self) -> bool {
        let waiting = |status: &mut Status| !status.granted && !status.requests.stop;
        let waited = self.status_changed.wait_while(self.status(), waiting);
        let mut status = waited.unwrap_or_else(PoisonError::into_inner);
        let granted = std::mem::take(&mut status.granted) && !status.requests.stop;
        if granted {
            status.holder = Holder::Settling;
        }
        granted
    }

    /// The lock of the directory, for another process to have it as well.
    pub(crate) fn share_lock(&self) -> Result<File, StoreError> {
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = lock.as_ref().map(File::try_clone);
        let shared = shared.ok_or(StoreError::Closed)?;
        shared.map_err(|error| StoreError::io(self.dir(), "share the lock", error))
    }

    /// For tests: stands still as long as it is told to.
    pub(crate) fn stall(&self, stalls: fn(&Disk) -> bool) {
        while stalls(&self.disk) && !self.is_stopping() {
            thread::sleep(STALL_PAUSE);
        }
    }

    /// Notes a sign of life of the applier.
    pub(crate) fn beat(&self) {
        self.progress.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn disk_is_low(&self) -> bool {
        self.disk_low.load(Ordering::Relaxed)
    }

    pub(crate) fn set_disk_low(&self, low: bool) -> bool {
        self.disk_low.swap(low, Ordering::Relaxed) != low
    }

    /// A number that grows with changes in a space.
    pub(crate) fn epoch(&self, space: Space) -> u64 {
        self.epochs[space as usize - 1].load(Ordering::Acquire)
    }

    /// Lets the numbers of these spaces grow; not that of handles, which nobody follows.
    pub(crate) fn bump_epochs(&self, changed: [bool; Space::ALL.len()]) {
        for (space, changed) in Space::ALL.into_iter().zip(changed) {
            if changed && space != Space::Handle {
                self.epochs[space as usize - 1].fetch_add(1, Ordering::Release);
            }
        }
    }

    /// The writer, when nobody else writes any more.
    pub(crate) fn writer(&self) -> MutexGuard<'_, Option<Writer>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer, when it is this thread's turn: whoever waits for it is not overtaken by who has just had it.
    pub(crate) fn writer_in_turn(&self) -> MutexGuard<'_, Option<Writer>> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.writer()
    }

    /// The writer, unless somebody writes, or waits to: between two who write, it is nobody's to take.
    pub(crate) fn idle_writer(&self) -> Option<MutexGuard<'_, Option<Writer>>> {
        let _turn = free(&self.turn)?;
        free(&self.writer)
    }

    /// Lets another process have the directory.
    pub(crate) fn unlock(&self) {
        self.lock
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is behind a lock that nobody has.
fn free<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(held) => Some(held),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Takes the lock of a store's directory; it is held until the file is closed.
pub(crate) fn lock(dir: &Path) -> Result<File, StoreError> {
    if !dir.is_dir() {
        return Err(StoreError::NotInitialised {
            path: dir.to_path_buf(),
        });
    }
    let path = dir.join("lock");
    let waiting = Stopwatch::start();
    loop {
        // Whoever has the lock may put another directory in the place of this one, so it is opened each time.
        let problem = match open_lock(&path) {
            Ok(file) => match file.try_lock() {
                Ok(()) if is_at(&file, &path) => return Ok(file),
                Ok(()) | Err(fs::TryLockError::WouldBlock) => {
                    StoreError::Locked { path: path.clone() }
                }
                Err(fs::TryLockError::Error(error)) => {
                    return Err(StoreError::io(&path, "lock", error));
                }
            },
            // For a moment neither of the two is there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => StoreError::NotInitialised {
                path: dir.to_path_buf(),
            },
            Err(error) => return Err(StoreError::io(&path, "open the file", error)),
        };
        if waiting.elapsed() >= LOCK_PATIENCE {
            return Err(problem);
        }
        thread::sleep(LOCK_PAUSE);
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).open(path)
}

/// Whether a file is the one of a name still: the lock of a directory that was moved away keeps nobody out.
fn is_at(file: &File, path: &Path) -> bool {
    let known = |found: fs::Metadata| (found.dev(), found.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(file), Ok(there)) => known(file) == known(there),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiexi_proto::handle::CaseRule;

    /// Goal: who waits for the writer is next, whoever looks whether it is free meanwhile. Method: the turn is what one
    /// has who waits, and the writer is free, as in the moment in which it goes from one to the next.
    #[test]
    fn who_waits_is_not_overtaken() {
        let directory = tempfile::tempdir().unwrap();
        let config = Config {
            dir: directory.path().to_path_buf(),
            ..Config::default()
        };
        let identity = Identity {
            case: CaseRule::Whole,
            epoch: 1,
            role: Role::Primary,
        };
        let lock = lock(directory.path()).unwrap();
        let shared = Shared::new(config, identity, Some(lock));
        let waiting = shared.turn.lock().unwrap();
        assert!(shared.idle_writer().is_none(), "somebody is next");
        drop(waiting);
        assert!(shared.idle_writer().is_some());
        let writing = shared.writer_in_turn();
        assert!(shared.idle_writer().is_none(), "somebody writes");
        drop(writing);
        assert!(shared.idle_writer().is_some());
    }
}
