//! Bulk imports: many records as one change. They are encoded by whoever parses them, sorted and written as a run (see
//! [`super::run`]) by a thread of the import's own, and put into memory on the way. Then the writer names the run in the
//! journal and publishes all of them at once; sled gets them behind.
//!
//! ```text
//! parsers: Encoder → Slab ─→ Bulk::add ─→ worker: sort → run file → Stage ─→ commit: sync → writer: journal → index
//! ```

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use bytes::Bytes;
use foldhash::fast::RandomState;
use jiexi_proto::handle::CaseRule;

use super::change::{CommitError, Committed, Draft, Space};
use super::error::StoreError;
use super::index::Stage;
use super::metrics::Part;
use super::queue::Job;
use super::record::{self, PackedRef};
use super::run::{RunWriter, Written};
use super::shared::Shared;

/// Encodes the records of an import; any thread may have one.
#[derive(Clone, Copy, Debug)]
pub struct Encoder {
    generation: u64,
    case: CaseRule,
    other_key: fn(&[u8], CaseRule) -> Option<Vec<u8>>,
}

/// Encoded records, in the order in which they came.
#[derive(Debug)]
pub struct Slab {
    encoder: Encoder,
    bytes: Vec<u8>,
    /// Where the records end.
    ends: Vec<usize>,
    /// Other keys of handles, with the handles.
    claims: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Encoder {
    /// A place for records.
    #[must_use]
    pub fn slab(self) -> Slab {
        Slab {
            encoder: self,
            bytes: Vec::new(),
            ends: Vec::new(),
            claims: Vec::new(),
        }
    }
}

impl Slab {
    /// Adds a record; it replaces whatever there is under its key.
    ///
    /// # Errors
    /// The key or the record is longer than a store takes.
    pub fn put(&mut self, space: Space, key: &[u8], draft: &Draft) -> Result<(), CommitError> {
        self.push(space, key, draft)?;
        let Encoder {
            case, other_key, ..
        } = self.encoder;
        let other = (space == Space::Handle).then(|| other_key(key, case));
        if let Some(other) = other.flatten() {
            let handle = Bytes::copy_from_slice(key);
            let values = Vec::new();
            self.push(Space::System, &other, &Draft { handle, values })?;
            self.claims.push((other, key.to_vec()));
        }
        Ok(())
    }

    fn push(&mut self, space: Space, key: &[u8], draft: &Draft) -> Result<(), CommitError> {
        let start = self.bytes.len();
        record::encode_into(&mut self.bytes, space, key, draft)?;
        record::seal(&mut self.bytes[start..], self.encoder.generation);
        self.ends.push(self.bytes.len());
        Ok(())
    }

    fn record(&self, number: usize) -> PackedRef<'_> {
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        PackedRef::of_index(&self.bytes[start..self.ends[number]])
    }
}

/// An import that is gathered. Dropped without [`Self::commit`] it leaves nothing.
pub struct Bulk {
    shared: Arc<Shared>,
    encoder: Encoder,
    /// The next stripe.
    slabs: Vec<Slab>,
    bytes: usize,
    records: usize,
    claims: HashMap<Vec<u8>, Vec<u8>, RandomState>,
    worker: Option<Worker>,
}

struct Worker {
    stripes: SyncSender<Vec<Slab>>,
    thread: JoinHandle<Result<(Written, Stage), StoreError>>,
}

impl fmt::Debug for Bulk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bulk")
            .field("records", &self.records)
            .finish_non_exhaustive()
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        if self.worker.is_some() {
            // With what the worker gives back its file goes.
            drop(self.end());
        }
    }
}

/// A durable run on its way to the writer.
pub(crate) struct Ready {
    pub(crate) written: Written,
    pub(crate) stage: Stage,
    /// Keys that must be free, or the handle's.
    pub(crate) claims: HashMap<Vec<u8>, Vec<u8>, RandomState>,
}

impl Bulk {
    /// Begins an import with the sequence that was kept free for it.
    pub(crate) fn begin(shared: Arc<Shared>, reserved: Committed) -> Result<Self, CommitError> {
        let number = reserved.sequence;
        let encoder = Encoder {
            generation: number,
            case: shared.config.case,
            other_key: shared.config.other_key,
        };
        let (epoch, dir) = (shared.identity.epoch, shared.dir());
        let writer = RunWriter::create(&shared.disk, dir, epoch, number);
        let writer = writer.map_err(|error| refusal(&shared, &error))?;
        let (stripes, received) = sync_channel(1);
        let working = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("store-run".to_owned())
            .spawn(move || work(&working, writer, &received))
            .map_err(|error| CommitError::ReadOnly(error.to_string().into()))?;
        Ok(Self {
            shared,
            encoder,
            slabs: Vec::new(),
            bytes: 0,
            records: 0,
            claims: HashMap::default(),
            worker: Some(Worker { stripes, thread }),
        })
    }

    /// What encodes its records.
    #[must_use]
    pub fn encoder(&self) -> Encoder {
        self.encoder
    }

    /// Adds records behind those that were added before.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] when the other key of a handle belongs to another handle: nothing of the slab was added,
    /// and what was added before can still be committed. Otherwise the import is over.
    pub fn add(&mut self, slab: Slab) -> Result<(), CommitError> {
        let mut claims: HashMap<&[u8], &[u8], RandomState> = HashMap::default();
        for (change, (key, handle)) in slab.claims.iter().enumerate() {
            let before = self.claims.get(key).map(Vec::as_slice);
            let before = before.or_else(|| claims.insert(key, handle));
            if before.is_some_and(|before| before != handle)
                || is_claimed(&self.shared, key, handle)
            {
                let found = None;
                return Err(CommitError::Conflict { change, found });
            }
        }
        self.claims.extend(slab.claims.iter().cloned());
        self.bytes += slab.bytes.len();
        self.records += slab.ends.len();
        self.slabs.push(slab);
        if self.bytes >= self.shared.config.import_stripe_bytes {
            self.send()?;
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), CommitError> {
        self.bytes = 0;
        let stripe = std::mem::take(&mut self.slabs);
        match &self.worker {
            Some(worker) if worker.stripes.send(stripe).is_ok() => Ok(()),
            _ => Err(self.end().err().unwrap_or(CommitError::Closed)),
        }
    }

    /// Waits for the worker.
    fn end(&mut self) -> Result<(Written, Stage), CommitError> {
        let Some(Worker { stripes, thread }) = self.worker.take() else {
            return Err(CommitError::Closed);
        };
        drop(stripes);
        let died =
            || StoreError::Unavailable("the thread of an import panicked; the log says where");
        let done = thread.join().unwrap_or_else(|_| Err(died()));
        done.map_err(|error| refusal(&self.shared, &error))
    }

    /// Makes all of it durable and visible, at once.
    ///
    /// # Errors
    /// See [`CommitError`]; nothing was changed then, but for [`CommitError::ReadOnly`], after which that is unknown.
    pub fn commit(mut self) -> Result<Committed, CommitError> {
        self.send()?;
        let (written, stage) = self.end()?;
        let claims = std::mem::take(&mut self.claims);
        let ready = Ready {
            written,
            stage,
            claims,
        };
        let (send, receive) = sync_channel(1);
        // The receiver is there until this returns.
        let job = Job::bulk(ready, Box::new(move |outcome| drop(send.send(outcome))));
        if let Err((error, job)) = self.shared.queue.push(job, true) {
            self.shared.tell(job, Err(error), self.records);
        }
        receive.recv().unwrap_or(Err(CommitError::Closed))
    }
}

/// Whether a key belongs to another handle.
pub(crate) fn is_claimed(shared: &Shared, key: &[u8], handle: &[u8]) -> bool {
    let found = shared.index.with(Space::System.number(), key, |found| {
        *found.record().handle() != *handle
    });
    found.unwrap_or(false)
}

/// Why an import cannot go on, in the words of those who commit.
fn refusal(shared: &Shared, error: &StoreError) -> CommitError {
    if error.is_disk_full() {
        return CommitError::DiskFull;
    }
    shared.metrics.count_error(Part::Journal);
    tracing::error!(event = "import.failed", %error, "an import is given up");
    CommitError::ReadOnly(error.to_string().into())
}

/// Sorts and writes stripe after stripe, and puts their records into memory.
fn work(
    shared: &Shared,
    mut writer: RunWriter,
    stripes: &Receiver<Vec<Slab>>,
) -> Result<(Written, Stage), StoreError> {
    let mut stage = shared.index.stage();
    while let Ok(slabs) = stripes.recv() {
        if shared.disk_is_low() {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(StoreError::io(shared.dir(), "go on with an import", full));
        }
        let places = sort(&slabs);
        let records = || places.iter().map(|place| place.record(&slabs));
        records().for_each(|packed| stage.add(packed));
        writer.stripe(records())?;
    }
    Ok((writer.finish()?, stage))
}

/// A record of a stripe, with the beginning of what its key is compared by.
#[derive(Clone, Copy)]
struct Sorted {
    begins: u64,
    slab: u32,
    record: u32,
}

impl Sorted {
    fn record(self, slabs: &[Slab]) -> PackedRef<'_> {
        slabs[self.slab as usize].record(self.record as usize)
    }
}

/// The records in the order of spaces and keys; of those with one key the last that came.
fn sort(slabs: &[Slab]) -> Vec<Sorted> {
    let mut places: Vec<Sorted> = Vec::new();
    for (at, slab) in slabs.iter().enumerate() {
        let all = (0..slab.ends.len()).map(|record| Sorted {
            begins: 0,
            slab: at as u32,
            record: record as u32,
        });
        places.extend(all);
    }
    let common = common_start(&places, slabs);
    for place in &mut places {
        let packed = place.record(slabs);
        place.begins = begins(packed, common);
    }
    let key = |place: &Sorted| {
        let packed = place.record(slabs);
        (packed.space_number(), packed.key())
    };
    places.sort_unstable_by(|a, b| {
        let order = a.begins.cmp(&b.begins).then_with(|| key(a).cmp(&key(b)));
        // The last one first, so that it is the one that is kept.
        order.then_with(|| (b.slab, b.record).cmp(&(a.slab, a.record)))
    });
    places.dedup_by(|b, a| a.begins == b.begins && key(a) == key(b));
    places
}

/// How many bytes all keys begin with in common; none when they are of several spaces.
fn common_start(places: &[Sorted], slabs: &[Slab]) -> Option<usize> {
    let first = places.first()?.record(slabs);
    let mut common = first.key().len();
    for place in places {
        let packed = place.record(slabs);
        if packed.space_number() != first.space_number() {
            return None;
        }
        let pairs = first.key()[..common].iter().zip(packed.key());
        common = pairs.take_while(|(a, b)| a == b).count();
    }
    Some(common)
}

/// Eight bytes that are in the order of spaces and keys, though they may be equal.
fn begins(packed: PackedRef<'_>, common: Option<usize>) -> u64 {
    let mut bytes = [0; 8];
    let from = match common {
        Some(common) => &packed.key()[common..],
        None => packed.key(),
    };
    let into = match common {
        Some(_) => &mut bytes[..],
        None => {
            bytes[0] = packed.space_number();
            &mut bytes[1..]
        }
    };
    let length = from.len().min(into.len());
    into[..length].copy_from_slice(&from[..length]);
    u64::from_be_bytes(bytes)
}
