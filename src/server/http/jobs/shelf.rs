//! Jobs that are known: whose they are, what they keep on disk, whose turn it is, and when they are forgotten.
//!
//! On the disk a job has the directory `<token>/<id>` with `input` (until it has ended) and `results`. What it is, is in the
//! store; a directory without a record is of an upload that was cut, and goes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value as Json;
use tokio::sync::{Notify, watch};

use super::Limits;
use super::ended;
use super::record::{Job, KEY, Reason, State};
use crate::registry::Rejection;
use crate::server::http::answer::Refusal;
use crate::server::http::batch::own_directory;
use crate::store::{Action, Batch, Change, CommitError, Expect, Space, Store};
use crate::token::book::{Book, Refused};

/// Digits of the name of a token, and of a job.
const TOKEN_DIGITS: usize = 12;
const ID_DIGITS: usize = 16;
/// Jobs that are read from the store at once.
const PAGE: usize = 1_000;
/// How long loading waits for the store at once.
const LOADING: Duration = Duration::from_secs(1);

/// What its owner wants of a job that is at work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Want {
    /// To go on.
    #[default]
    Work,
    /// To stop for a while.
    Pause,
    /// To end.
    Cancel,
}

/// Whether anybody works on a job.
#[derive(Debug, Default)]
struct Hold {
    running: bool,
    /// It has stopped as its owner wanted: what is wanted now is another change.
    settled: bool,
    want: Want,
    /// Why nobody does, and until when (Unix seconds).
    waiting: Option<(Reason, u32)>,
    /// It was deleted.
    gone: bool,
}

/// A job that is known.
#[derive(Debug)]
pub(in super::super) struct Entry {
    job: watch::Sender<Job>,
    /// The generation of its record. Changed by whoever holds it: a thread at work, else whoever has the lock.
    generation: AtomicU64,
    hold: Mutex<Hold>,
    directory: PathBuf,
}

impl Entry {
    /// The job as it is stored.
    pub(super) fn job(&self) -> Job {
        self.job.borrow().clone()
    }

    /// Hears of changes.
    pub(super) fn watch(&self) -> watch::Receiver<Job> {
        self.job.subscribe()
    }

    /// What its record must be for the next change.
    pub(super) fn expect(&self) -> Expect {
        Expect::Generation(self.generation.load(Relaxed))
    }

    /// The job is stored so.
    pub(super) fn stored(&self, job: Job, sequence: u64) {
        self.generation.store(sequence, Relaxed);
        self.job.send_replace(job);
    }

    /// What its owner wants.
    pub(super) fn want(&self) -> Want {
        self.lock().want
    }

    /// A file of it.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The lock, unless somebody changes the job, who may wait for the disk.
    fn try_lock(&self) -> Option<MutexGuard<'_, Hold>> {
        self.hold.try_lock().ok()
    }

    fn lock(&self) -> MutexGuard<'_, Hold> {
        self.hold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Inner {
    loaded: bool,
    /// By id, which is in the order of time.
    jobs: BTreeMap<String, Arc<Entry>>,
    /// Octets of inputs that arrive, and how many there are, by token.
    uploads: HashMap<String, (u64, usize)>,
}

/// All jobs.
#[derive(Debug)]
pub(in super::super) struct Shelf {
    pub(super) limits: Limits,
    store: Arc<Store>,
    inner: Mutex<Inner>,
    /// Told when there may be something to do.
    wake: Notify,
    stopping: AtomicBool,
}

impl Shelf {
    /// None is known yet; makes the directory.
    pub(in super::super) fn new(limits: &Limits, store: &Arc<Store>) -> io::Result<Self> {
        own_directory(&limits.directory)?;
        Ok(Self {
            limits: limits.clone(),
            store: Arc::clone(store),
            inner: Mutex::default(),
            wake: Notify::new(),
            stopping: AtomicBool::new(false),
        })
    }

    /// Lets no job begin, and those at work stop where they are.
    pub(in super::super) fn stop(&self) {
        self.stopping.store(true, Relaxed);
        self.wake.notify_one();
    }

    /// They go on.
    pub(in super::super) fn go_on(&self) {
        self.stopping.store(false, Relaxed);
        self.wake.notify_one();
    }

    /// Whether jobs are to stop.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    /// Whether any is at work.
    pub(in super::super) fn any_runs(&self) -> bool {
        self.lock().jobs.values().any(|entry| entry.lock().running)
    }

    /// How many there are in each state.
    pub(in super::super) fn states(&self) -> [(&'static str, usize); 6] {
        let mut counts = [
            ("running", 0),
            ("queued", 0),
            ("paused", 0),
            ("done", 0),
            ("failed", 0),
            ("cancelled", 0),
        ];
        for entry in self.lock().jobs.values() {
            // Whoever has the lock works on it, or changes it.
            let runs = || entry.try_lock().is_none_or(|hold| hold.running);
            let place = match entry.job.borrow().state {
                State::Active if runs() => 0,
                State::Active => 1,
                State::Paused => 2,
                State::Done => 3,
                State::Failed => 4,
                State::Cancelled => 5,
            };
            counts[place].1 += 1;
        }
        counts
    }

    /// Waits until there may be something to do, or for so long.
    pub(super) async fn wait(&self, time: Duration) {
        let _ = tokio::time::timeout(time, self.wake.notified()).await;
    }

    /// Somebody has something to do.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// From one life of the node to the next.
impl Shelf {
    /// Reads the jobs that the store has, once it can be read, and removes what belongs to none.
    pub(super) fn load(&self) {
        loop {
            match self.store.wait_loaded(LOADING) {
                Ok(true) => break,
                Ok(false) => {}
                // It stays so until the node is started anew.
                Err(_) => std::thread::sleep(LOADING),
            }
            if self.is_stopping() {
                return;
            }
        }
        match self.load_all() {
            Ok(jobs) => {
                let mut inner = self.lock();
                inner.jobs = jobs;
                inner.loaded = true;
            }
            Err(error) => tracing::error!(
                event = "jobs.unreadable",
                error,
                "the jobs cannot be read; none is taken or carried out"
            ),
        }
        self.wake();
    }

    fn load_all(&self) -> Result<BTreeMap<String, Arc<Entry>>, String> {
        let (mut jobs, mut unread) = (BTreeMap::new(), HashSet::new());
        let mut after = None::<Vec<u8>>;
        loop {
            let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let page = self.store.scan(Space::System, from, KEY, PAGE);
            let page = page.map_err(|error| error.to_string())?;
            let Some(last) = page.last() else { break };
            after = Some(last.key().to_vec());
            for record in &page {
                let Some(job) = Job::read(record) else {
                    let key = String::from_utf8_lossy(record.key()).into_owned();
                    tracing::error!(
                        event = "job.unreadable",
                        key,
                        "a job cannot be read: it is not carried out, and its files stay; use the version that wrote it"
                    );
                    unread.extend(key.rsplit('/').next().map(ToOwned::to_owned));
                    continue;
                };
                let id = job.id.clone();
                jobs.insert(id, Arc::new(self.entry(job, record.generation())));
            }
        }
        self.remove_strays(&jobs, &unread);
        Ok(jobs)
    }

    fn entry(&self, job: Job, generation: u64) -> Entry {
        Entry {
            directory: self.directory(&job.token, &job.id),
            job: watch::Sender::new(job),
            generation: AtomicU64::new(generation),
            hold: Mutex::default(),
        }
    }

    /// Removes directories of uploads that were cut, and of jobs that a restored store does not know. What is not named as
    /// those are stays: whoever has written a wrong path into the configuration loses nothing by it.
    fn remove_strays(&self, jobs: &BTreeMap<String, Arc<Entry>>, unread: &HashSet<String>) {
        for token in names(&self.limits.directory, TOKEN_DIGITS) {
            let below = self.limits.directory.join(&token);
            for id in names(&below, ID_DIGITS) {
                let known = jobs.get(&id);
                let is_stray = known.is_none_or(|entry| entry.job.borrow().token != token);
                if is_stray && !unread.contains(&id) {
                    let path = below.join(id);
                    tracing::info!(event = "job.files_removed", path = %path.display(), "files of a job that is not known are removed");
                    remove(&path);
                }
            }
            // One that is not empty stays.
            let _ = fs::remove_dir(below);
        }
        for entry in jobs
            .values()
            .filter(|entry| entry.job.borrow().state.has_ended())
        {
            // The node may have ended between the record and this.
            let _ = fs::remove_file(entry.file("input"));
        }
    }

    fn directory(&self, token: &str, id: &str) -> PathBuf {
        self.limits.directory.join(token).join(id)
    }
}

/// For those who own jobs.
impl Shelf {
    /// A job of a token.
    pub(super) fn find(&self, token: &str, id: &str) -> Result<Arc<Entry>, Refusal> {
        let inner = self.lock();
        if !inner.loaded {
            return Err(loading());
        }
        let found = inner.jobs.get(id);
        let own = found.filter(|entry| entry.job.borrow().token == token);
        own.cloned().ok_or_else(no_such_job)
    }

    /// The jobs of a token, newest first, behind `after`; and whether there are more than `limit`.
    pub(super) fn list(
        &self,
        token: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<Json>, bool), Refusal> {
        let inner = self.lock();
        if !inner.loaded {
            return Err(loading());
        }
        let end = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = inner.jobs.range::<str, _>((Bound::Unbounded, end));
        let own = range
            .rev()
            .map(|(_, entry)| entry)
            .filter(|entry| entry.job.borrow().token == token);
        let mut own: Vec<_> = own.take(limit + 1).cloned().collect();
        drop(inner);
        let more = own.len() > limit;
        own.truncate(limit);
        Ok((own.iter().map(|entry| self.shown(entry)).collect(), more))
    }

    /// A job for its owner.
    pub(super) fn shown(&self, entry: &Entry) -> Json {
        let hold = entry.lock();
        let job = entry.job.borrow();
        job.json(hold.running, hold.waiting.as_ref(), self.limits.keep)
    }

    /// Octets that a token has on the disk.
    pub(super) fn used(&self, token: &str) -> u64 {
        let inner = self.lock();
        let jobs = inner.jobs.values().map(|entry| entry.job.borrow());
        let own = jobs.filter(|job| job.token == token);
        own.map(|job| job.disk()).sum::<u64>() + inner.uploads.get(token).map_or(0, |held| held.0)
    }

    /// Room for one more job of a token, with its directory.
    pub(super) fn begin(self: &Arc<Self>, token: &str, id: &str) -> Result<Upload, Refusal> {
        let mut inner = self.lock();
        if !inner.loaded || self.is_stopping() {
            return Err(loading());
        }
        let own = inner.jobs.values();
        let own = own
            .filter(|entry| entry.job.borrow().token == token)
            .count();
        let (_, arriving) = inner.uploads.get(token).copied().unwrap_or_default();
        if own + arriving >= self.limits.each {
            let text = format!(
                "the token has {} jobs ([jobs] jobs_per_token): delete some that have ended",
                self.limits.each
            );
            let status = axum::http::StatusCode::TOO_MANY_REQUESTS;
            return Err(Refusal::named(status, "too_many_jobs", text));
        }
        inner.uploads.entry(token.to_owned()).or_default().1 += 1;
        drop(inner);
        let upload = Upload {
            shelf: Arc::clone(self),
            token: token.to_owned(),
            id: id.to_owned(),
            directory: self.directory(token, id),
            octets: 0,
            kept: false,
        };
        let made = own_directory(&self.limits.directory.join(token))
            .and_then(|()| own_directory(&upload.directory));
        made.map_err(|error| broken(&upload.directory, &error))?;
        Ok(upload)
    }

    /// Changes the state of a job that nobody works on; one at work is told what is wanted.
    ///
    /// Waits for the disk. False: it was told.
    pub(super) fn ask(
        &self,
        entry: &Entry,
        want: Want,
        change: impl FnOnce(&mut Job) -> Result<bool, Refusal>,
    ) -> Result<bool, Refusal> {
        let mut hold = entry.lock();
        if hold.gone {
            return Err(no_such_job());
        }
        if hold.running && !hold.settled {
            // Who cancels is not contradicted by an order that comes before it is done.
            if hold.want == Want::Cancel && want != Want::Cancel {
                return Err(ended());
            }
            hold.want = want;
            return Ok(want == Want::Work);
        }
        let mut job = entry.job();
        if change(&mut job)? {
            self.store(entry, job)
                .map_err(|error| Refusal::from(Rejection::of_store(&error)))?;
            hold.waiting = None;
            self.wake();
        }
        Ok(true)
    }

    /// A job that was told to stop: it stops as its owner wants it to by now, or goes on after all. Who wants something
    /// else meanwhile waits, and changes it then. Waits for the disk.
    pub(super) fn stop_as_wanted(&self, entry: &Entry, now: u32) -> Result<(), CommitError> {
        let mut hold = entry.lock();
        let state = match hold.want {
            Want::Work => return Ok(()),
            Want::Pause => State::Paused,
            Want::Cancel => State::Cancelled,
        };
        let mut job = entry.job();
        job.started.get_or_insert(now);
        job.turn(state, None, now);
        self.store(entry, job)?;
        hold.settled = true;
        Ok(())
    }

    /// Stores a job. Waits for the disk.
    pub(super) fn store(&self, entry: &Entry, job: Job) -> Result<(), CommitError> {
        let batch = Batch {
            changes: vec![job.change(entry.expect())],
            ..Batch::default()
        };
        let committed = self.store.commit(batch)?;
        if job.state.has_ended() {
            let _ = fs::remove_file(entry.file("input"));
        }
        entry.stored(job, committed.sequence);
        Ok(())
    }

    /// Forgets a job that has ended or is paused. Waits for the disk.
    pub(super) fn delete(&self, entry: &Entry) -> Result<(), Refusal> {
        self.forget(entry, |job, _| job.state != State::Active)
    }

    /// Forgets a job that nobody works on, if it may be forgotten as it is and waits. Waits for the disk.
    fn forget(&self, entry: &Entry, may: impl FnOnce(&Job, bool) -> bool) -> Result<(), Refusal> {
        let mut hold = entry.lock();
        let job = entry.job();
        if hold.gone {
            return Err(no_such_job());
        }
        if hold.running || !may(&job, hold.waiting.is_some()) {
            let status = axum::http::StatusCode::CONFLICT;
            let text = "cancel it first";
            return Err(Refusal::named(status, "job_not_ended", text));
        }
        let batch = Batch {
            changes: vec![Change {
                space: Space::System,
                key: job.key(),
                expect: Expect::Any,
                action: Action::Delete,
            }],
            ..Batch::default()
        };
        let deleted = self.store.commit(batch);
        deleted.map_err(|error| Refusal::from(Rejection::of_store(&error)))?;
        hold.gone = true;
        drop(hold);
        self.lock().jobs.remove(&job.id);
        remove(&entry.directory);
        // One with other jobs stays.
        let _ = fs::remove_dir(self.limits.directory.join(&job.token));
        Ok(())
    }
}

/// For those who carry jobs out.
impl Shelf {
    /// Forgets what is too old, and what nobody can fetch any more because its token has ended. Waits for the disk.
    pub(super) fn expire(&self, tokens: &Book, now: u32) {
        let keep = self.limits.keep;
        let gone = self.ended_tokens(tokens, now);
        let is_old = |job: &Job, waits: bool| {
            let rests = job.state != State::Active || waits;
            rests && gone.contains(&job.token)
                || job.expires(waits, keep).is_some_and(|end| end <= now)
        };
        // Which of them wait, their locks say.
        let may_be_old = |entry: &&Arc<Entry>| is_old(&entry.job.borrow(), true);
        let old: Vec<_> = self
            .lock()
            .jobs
            .values()
            .filter(may_be_old)
            .cloned()
            .collect();
        for entry in old {
            if let Err(refusal) = self.forget(&entry, is_old) {
                tracing::debug!(?refusal, "an old job stays until the next time");
            }
        }
    }

    /// Tokens with jobs that have ended, were revoked, or are not known: none of them is ever good again.
    fn ended_tokens(&self, tokens: &Book, now: u32) -> HashSet<String> {
        let inner = self.lock();
        let all = inner
            .jobs
            .values()
            .map(|entry| entry.job.borrow().token.clone());
        let all: HashSet<String> = all.collect();
        drop(inner);
        let has_ended = |token: &String| {
            let found = tokens.grant_of(token, now);
            matches!(found, Err(Refused::Ended | Refused::Unknown))
        };
        all.into_iter().filter(has_ended).collect()
    }

    /// The job whose turn it is: the oldest of a token that none is at work of.
    pub(super) fn claim(self: &Arc<Self>, now: u32) -> Option<Claim> {
        let inner = self.lock();
        if self.is_stopping() {
            return None;
        }
        let running: Vec<String> = inner
            .jobs
            .values()
            // One that is just being looked at may run.
            .filter(|entry| entry.try_lock().is_none_or(|hold| hold.running))
            .map(|entry| entry.job.borrow().token.clone())
            .collect();
        if running.len() >= self.limits.running {
            return None;
        }
        for entry in inner.jobs.values() {
            // Whose owner is just changing it is looked at again afterwards.
            let Some(mut hold) = entry.try_lock() else {
                continue;
            };
            let job = entry.job.borrow();
            let waits = hold.waiting.as_ref().is_some_and(|(_, until)| *until > now);
            let free = !hold.running && !waits && !hold.gone;
            if job.state == State::Active && free && !running.contains(&job.token) {
                hold.running = true;
                hold.settled = false;
                hold.want = Want::Work;
                return Some(Claim {
                    shelf: Arc::clone(self),
                    entry: Arc::clone(entry),
                    waiting: None,
                });
            }
        }
        None
    }
}

/// A job that is being worked on, until this is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    shelf: Arc<Shelf>,
    pub(super) entry: Arc<Entry>,
    /// Why it is not gone on with now, and until when.
    pub(super) waiting: Option<(Reason, u32)>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut hold = self.entry.lock();
        hold.running = false;
        hold.waiting = self.waiting.take();
        drop(hold);
        // Those who wait for it to stop hear of it.
        self.entry.job.send_modify(|_| {});
        self.shelf.wake();
    }
}

impl Entry {
    /// Whether a thread is at work.
    pub(super) fn is_running(&self) -> bool {
        self.lock().running
    }
}

/// The input of a job that arrives. What was not kept goes.
#[derive(Debug)]
pub(super) struct Upload {
    shelf: Arc<Shelf>,
    token: String,
    id: String,
    pub(super) directory: PathBuf,
    octets: u64,
    kept: bool,
}

impl Upload {
    /// Takes room on the disk, if the token has it.
    pub(super) fn take(&mut self, octets: u64) -> bool {
        if self.shelf.used(&self.token) + octets > self.shelf.limits.disk {
            return false;
        }
        let mut inner = self.shelf.lock();
        inner.uploads.entry(self.token.clone()).or_default().0 += octets;
        self.octets += octets;
        true
    }

    /// It is all there, and stored under this generation.
    pub(super) fn keep(mut self, job: Job, generation: u64) -> Arc<Entry> {
        let entry = Arc::new(self.shelf.entry(job, generation));
        let mut inner = self.shelf.lock();
        inner.jobs.insert(self.id.clone(), Arc::clone(&entry));
        // From here on the job counts for it.
        if let Some(held) = inner.uploads.get_mut(&self.token) {
            held.0 = held.0.saturating_sub(std::mem::take(&mut self.octets));
        }
        drop(inner);
        self.kept = true;
        self.shelf.wake();
        entry
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let mut inner = self.shelf.lock();
        if let Some(held) = inner.uploads.get_mut(&self.token) {
            held.0 = held.0.saturating_sub(self.octets);
            held.1 = held.1.saturating_sub(1);
            if held.1 == 0 {
                inner.uploads.remove(&self.token);
            }
        }
        drop(inner);
        if !self.kept {
            remove(&self.directory);
            // One with other jobs stays.
            let _ = fs::remove_dir(self.shelf.limits.directory.join(&self.token));
        }
    }
}

fn loading() -> Refusal {
    Rejection::busy("the jobs are not available now").into()
}

/// Said of jobs that are not there, and of those of others.
pub(super) fn no_such_job() -> Refusal {
    Refusal::named(axum::http::StatusCode::NOT_FOUND, "no_such_job", "")
}

/// The disk fails.
pub(super) fn broken(path: &Path, error: &io::Error) -> Refusal {
    tracing::error!(event = "job.write_failed", %error, path = %path.display(), "a job's file cannot be written; look at the disk");
    Rejection::busy("the node's disk takes nothing now").into()
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The names of directories in a directory that are so many hexadecimal digits.
fn names(path: &Path, digits: usize) -> Vec<String> {
    let is_ours = |name: &String| {
        name.len() == digits
            && name
                .bytes()
                .all(|octet| matches!(octet, b'0'..=b'9' | b'a'..=b'f'))
    };
    let found = fs::read_dir(path).into_iter().flatten().flatten();
    let directories = found.filter(|item| item.file_type().is_ok_and(|kind| kind.is_dir()));
    directories
        .filter_map(|item| item.file_name().into_string().ok())
        .filter(is_ours)
        .collect()
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::error!(event = "job.files_left", %error, path = %path.display(), "files of a job stay: remove them");
    }
}
