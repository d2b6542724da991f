//! The bounded queue between those who change something and the writer.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::bulk::Ready;
use super::change::{
    Action, BATCH_BYTES_MAX, BATCH_CHANGES_MAX, Batch, Change, CommitError, Committed, Expect,
    KEY_MAX, Space,
};
use super::journal::entry::Step;
use super::record::Packed;

/// What is called with the outcome of a batch.
pub(crate) type Done = Box<dyn FnOnce(Result<Committed, CommitError>) + Send>;

/// A change, encoded by the thread that asked for it.
pub(crate) struct Prepared {
    pub(crate) expect: Expect,
    pub(crate) step: Todo,
}

/// What is to be done under a key.
pub(crate) enum Todo {
    Put(Packed),
    Delete { space: Space, key: Vec<u8> },
}

impl Todo {
    pub(crate) fn space(&self) -> u8 {
        match self {
            Self::Put(packed) => packed.space_number(),
            Self::Delete { space, .. } => space.number(),
        }
    }

    pub(crate) fn key(&self) -> &[u8] {
        match self {
            Self::Put(packed) => packed.key(),
            Self::Delete { key, .. } => key,
        }
    }

    /// The change as the journal takes it.
    pub(crate) fn as_step(&self) -> Step<'_> {
        match self {
            Self::Put(packed) => Step::Put(packed),
            Self::Delete { space, key } => Step::Delete {
                space: space.number(),
                key,
            },
        }
    }

    /// Bytes of the record and its key.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Put(packed) => packed.bytes().len(),
            Self::Delete { key, .. } => key.len(),
        }
    }
}

/// A batch on its way.
pub(crate) struct Job {
    pub(crate) changes: Vec<Prepared>,
    pub(crate) note: Bytes,
    pub(crate) bytes: usize,
    pub(crate) done: Done,
    /// A bulk import, in the place of changes. It is carried out by itself.
    pub(crate) bulk: Option<Box<Ready>>,
}

/// A job, or one without changes, to be refused.
pub(crate) type Encoded = Result<Job, (CommitError, Job)>;

impl Job {
    /// Encodes a batch. One that is too large comes back as a job without changes.
    pub(crate) fn new(batch: Batch, done: Done) -> Encoded {
        match prepare(batch.changes, batch.note.len()) {
            Ok((changes, bytes)) => Ok(Self {
                changes,
                note: batch.note,
                bytes,
                done,
                bulk: None,
            }),
            Err(error) => Err((
                error,
                Self {
                    changes: Vec::new(),
                    note: Bytes::new(),
                    bytes: 0,
                    done,
                    bulk: None,
                },
            )),
        }
    }

    /// A bulk import.
    pub(crate) fn bulk(ready: Ready, done: Done) -> Self {
        Self {
            changes: Vec::new(),
            note: Bytes::new(),
            bytes: 0,
            done,
            bulk: Some(Box::new(ready)),
        }
    }
}

fn prepare(changes: Vec<Change>, note: usize) -> Result<(Vec<Prepared>, usize), CommitError> {
    if changes.len() > BATCH_CHANGES_MAX {
        return Err(CommitError::TooLarge);
    }
    let mut bytes = note;
    let mut prepared = Vec::with_capacity(changes.len());
    for change in changes {
        let step = match change.action {
            Action::Put(draft) => Todo::Put(Packed::encode(change.space, &change.key, &draft)?),
            Action::Delete if change.key.len() > KEY_MAX => return Err(CommitError::TooLarge),
            Action::Delete => Todo::Delete {
                space: change.space,
                key: change.key,
            },
        };
        bytes += step.bytes();
        if bytes > BATCH_BYTES_MAX {
            return Err(CommitError::TooLarge);
        }
        prepared.push(Prepared {
            expect: change.expect,
            step,
        });
    }
    Ok((prepared, bytes))
}

#[derive(Default)]
struct Inner {
    jobs: VecDeque<Job>,
    bytes: usize,
    /// Why nothing is taken any more.
    refusal: Option<CommitError>,
    /// What is taken waits: there is no writer now.
    paused: bool,
}

/// See the module.
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    /// There is a job, or there will be none.
    filled: Condvar,
    /// There is room, or there will be none.
    emptied: Condvar,
    batches_max: usize,
    bytes_max: usize,
}

impl Queue {
    pub(crate) fn new(batches_max: usize, bytes_max: usize) -> Self {
        Self {
            inner: Mutex::default(),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            batches_max,
            bytes_max,
        }
    }

    /// Adds a job; without room it waits, or gives it back with the reason.
    pub(crate) fn push(&self, job: Job, wait: bool) -> Result<(), (CommitError, Job)> {
        let mut inner = self.lock();
        while inner.refusal.is_none() && self.is_full(&inner, job.bytes) {
            if !wait {
                return Err((CommitError::Busy, job));
            }
            inner = self
                .emptied
                .wait(inner)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(refusal) = &inner.refusal {
            return Err((refusal.clone(), job));
        }
        inner.bytes += job.bytes;
        inner.jobs.push_back(job);
        drop(inner);
        self.filled.notify_one();
        Ok(())
    }

    /// Waits for a job; false when there is none and there will be none, or none for this writer.
    pub(crate) fn wait(&self) -> bool {
        let waiting =
            |inner: &mut Inner| inner.jobs.is_empty() && inner.refusal.is_none() && !inner.paused;
        let inner = self.filled.wait_while(self.lock(), waiting);
        let inner = inner.unwrap_or_else(PoisonError::into_inner);
        !inner.jobs.is_empty() && !inner.paused
    }

    /// Whether nothing waits, and something would be carried out.
    pub(crate) fn is_idle(&self) -> bool {
        let inner = self.lock();
        inner.jobs.is_empty() && inner.refusal.is_none() && !inner.paused
    }

    /// Lets the writer end, and what comes wait for another one; or no longer.
    pub(crate) fn pause(&self, paused: bool) {
        self.lock().paused = paused;
        self.filled.notify_all();
    }

    /// Takes the jobs that are there, up to `bytes` (but at least one, and a bulk import by itself); none when there are none.
    pub(crate) fn take(&self, bytes: usize) -> Option<Vec<Job>> {
        let mut inner = self.lock();
        let mut taken = Vec::new();
        let mut sum = 0;
        while let Some(job) = inner.jobs.front() {
            let alone = job.bulk.is_some();
            if !taken.is_empty() && (alone || sum + job.bytes > bytes) {
                break;
            }
            sum += job.bytes;
            taken.extend(inner.jobs.pop_front());
            if alone {
                break;
            }
        }
        inner.bytes -= sum;
        drop(inner);
        self.emptied.notify_all();
        (!taken.is_empty()).then_some(taken)
    }

    /// Takes nothing any more, for this reason; what is in the queue stays. The first reason stays, too.
    pub(crate) fn refuse(&self, reason: CommitError) {
        self.lock().refusal.get_or_insert(reason);
        self.filled.notify_all();
        self.emptied.notify_all();
    }

    /// Whether a job must wait. One that is larger than the bound waits for an empty queue.
    fn is_full(&self, inner: &Inner, bytes: usize) -> bool {
        let full = inner.jobs.len() >= self.batches_max || inner.bytes + bytes > self.bytes_max;
        full && !inner.jobs.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
