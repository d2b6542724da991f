//! Import: lines of JSON become batches of changes.
//!
//! ```text
//! caller's thread, cutter  parsers (1 … 4)              committer
//! read → chunk of lines ─→ chunk k goes to parser k % n ─→ takes from parser k % n, in order ─→ Store::submit
//! ```
//! (the left column is the module `feed`)
//!
//! A chunk is a batch, and a batch is atomic: a bad line stops the import with nothing of its chunk applied and all
//! chunks before it applied. With `keep_going` the line is reported and the rest of its chunk applied.
//!
//! The first chunks are held back. When there are more of them the import is a bulk import: the parsers encode the records,
//! and everything that is to be applied becomes durable and visible at once, at the end; a crash before that leaves nothing
//! of it. Few chunks are not worth a file of their own and are batches of the journal.
//!
//! Where handles that are here are not simply replaced, the node may be changed by others between the look at what is here
//! and the write: what was found is what the batch expects, and a chunk of which that no longer holds is looked at again. A
//! bulk import expects nothing, and is for a store that nobody else changes.
//!
//! Where the input is live (a pipe, and not a file) and pauses, the chunks that are held back become batches at once: they
//! would wait for somebody who may be waiting for them.

use std::{
    collections::{HashSet, VecDeque},
    fmt,
    io::{self, Read},
    sync::{
        Mutex, OnceLock,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use jiexi_proto::handle::CaseRule;
use serde::{Deserialize, Serialize};

use super::{
    Counts,
    feed::{self, Chunk},
};
use getrandom::SysRng;

use crate::{
    json::line::{self, Line},
    records,
    registry::seal::{self, Sealer},
    store::{
        Action, Batch, Bulk, Change, CommitError, Committed, DraftValue, Encoder, Entry, Expect,
        Slab, Store,
    },
};

/// Parsers; JSON is parsed at some 100,000 lines a second on each, more than the store takes in from four.
const PARSERS_MAX: usize = 4;
/// Chunks that are held back until it is known whether there are more.
const HELD_MAX: usize = 16;
/// Batches handed to the store and not yet durable.
const IN_FLIGHT_MAX: usize = 8;
/// How often a chunk is looked at while others change what it found; more than a few times takes somebody who does nothing
/// but that.
const LOOKS_MAX: u32 = 32;

/// What becomes of a handle that is here already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Known {
    /// It is replaced, whatever it has.
    #[default]
    Overwrite,
    /// It is left alone if it has the same values, else replaced.
    Replace,
    /// It is left alone if it has the same values, else too, and that is told.
    Keep,
}

/// How to import.
#[derive(Debug, Clone)]
pub struct Options {
    /// What becomes of handles that are here already.
    pub known: Known,
    /// Count what would come of it, and change nothing.
    pub dry_run: bool,
    /// Report bad lines and go on, instead of stopping at the first.
    pub keep_going: bool,
    /// Unix seconds: the timestamp of values that do not say their own.
    pub now: u32,
    /// The input may pause before its end; what is there is applied then.
    pub live: bool,
    /// Nobody else changes the store until the import is over.
    pub alone: bool,
    /// Encrypts secrets before they reach the store; without it, lines with secrets are bad lines.
    pub sealer: Option<Sealer>,
}

impl Options {
    /// Whether what is found here may be another thing when it is written.
    fn is_checked(&self) -> bool {
        self.known != Known::Overwrite && !self.alone && !self.dry_run
    }
}

/// What happens while importing.
#[derive(Debug)]
pub enum Event<'a> {
    /// More has been read; the counts so far.
    Progress(Counts),
    /// A line was skipped.
    Skipped(&'a BadLine),
    /// This handle is here with other values, and was kept.
    Kept(&'a str),
}

/// A line that cannot be imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLine {
    /// Its number, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub message: String,
}

/// Why an import stopped.
#[derive(Debug)]
pub enum ImportError {
    /// A line is bad, and the import was not told to keep going.
    Line(BadLine),
    /// The input cannot be read.
    Read(io::Error),
    /// The store refused a batch.
    Store {
        /// First line of the batch.
        line: u64,
        /// Why.
        error: CommitError,
    },
    /// A part of the program died; it has said why on stderr.
    Internal,
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(BadLine { line, message }) => write!(f, "{line}: {message}"),
            Self::Read(error) => write!(f, "cannot be read: {error}"),
            Self::Store { line, error } => write!(
                f,
                "{line}: the store refused the batch that begins here: {error}"
            ),
            Self::Internal => f.write_str("a worker thread of the import ended unexpectedly"),
        }
    }
}

impl std::error::Error for ImportError {}

/// A stopped import: why, and what had been applied before.
#[derive(Debug)]
pub struct Stopped {
    /// Why.
    pub error: ImportError,
    /// What is in the store now.
    pub applied: Counts,
}

/// Imports all of `input` into `store`. Blocks; `watch` is called from another thread.
///
/// A record replaces what the store has under the same handle, unless [`Options::known`] says otherwise.
///
/// # Errors
/// See [`ImportError`]; everything before the failing batch is applied.
pub fn import(
    input: impl Read,
    store: &Store,
    options: Options,
    watch: &(dyn Fn(Event<'_>) + Sync),
) -> Result<Counts, Stopped> {
    let (case, live) = (store.case(), options.live);
    let encoder = OnceLock::new();
    let parsers = thread::available_parallelism()
        .map_or(1, usize::from)
        .min(PARSERS_MAX);
    thread::scope(|scope| {
        let (mut to_parsers, mut from_parsers) = (Vec::new(), Vec::new());
        for _ in 0..parsers {
            let (chunk_sender, chunks) = sync_channel::<Chunk>(2);
            let (parsed_sender, parsed) = sync_channel::<Parsed>(2);
            to_parsers.push(chunk_sender);
            from_parsers.push(parsed);
            let (options, encoder) = (options.clone(), &encoder);
            scope.spawn(move || {
                parse_all(&chunks, &parsed_sender, (case, encoder), &options, store);
            });
        }
        let committer = {
            let encoder = &encoder;
            scope.spawn(move || Committer::new(store, options, watch, encoder).run(&from_parsers))
        };
        let (pieces, received) = sync_channel(feed::PIECES_MAX);
        let cutter = scope.spawn(move || feed::cut(&received, &to_parsers, live));
        let read = feed::read(input, &pieces);
        // Without an end before it, this is one that nothing is to be made of.
        drop(pieces);
        let cut = cutter.join();
        let (applied, outcome) = committer
            .join()
            .unwrap_or_else(|_| (Counts::default(), Err(ImportError::Internal)));
        let read = read.map_err(ImportError::Read);
        let cut = match cut {
            Ok(cut) => cut.map_err(ImportError::Read),
            Err(_) => Err(ImportError::Internal),
        };
        match outcome.and(cut).and(read) {
            Ok(()) => Ok(applied),
            Err(error) => Err(Stopped { error, applied }),
        }
    })
}

/// A chunk as changes, or as records of a bulk import.
struct Parsed {
    first: u64,
    /// The input pauses after it.
    pause: bool,
    changes: Vec<Change>,
    slab: Option<Slab>,
    counts: Counts,
    bad: Vec<BadLine>,
    /// Handles that were left as they are here.
    kept: Vec<String>,
    /// The keys that it puts, where it expects what it found under them.
    keys: HashSet<Vec<u8>>,
    /// The lines, where they may have to be looked at again.
    text: Vec<u8>,
}

/// A parser thread.
fn parse_all(
    chunks: &Receiver<Chunk>,
    parsed: &SyncSender<Parsed>,
    (case, encoder): (CaseRule, &OnceLock<Encoder>),
    options: &Options,
    store: &Store,
) {
    while let Ok(chunk) = chunks.recv() {
        let slab = encoder.get().map(|encoder| encoder.slab());
        let mut next = parse(&chunk, case, slab, options, store);
        if options.is_checked() {
            next.text = chunk.text;
        }
        if parsed.send(next).is_err() {
            return;
        }
    }
}

/// Parses a chunk. Without `keep_going` the first bad line ends it.
fn parse(
    chunk: &Chunk,
    case: CaseRule,
    slab: Option<Slab>,
    options: &Options,
    store: &Store,
) -> Parsed {
    let bytes = u64::try_from(chunk.text.len()).unwrap_or(u64::MAX);
    let mut parsed = Parsed {
        first: chunk.first,
        pause: chunk.pause,
        changes: Vec::new(),
        slab,
        counts: Counts {
            bytes,
            ..Counts::default()
        },
        bad: Vec::new(),
        kept: Vec::new(),
        keys: HashSet::new(),
        text: Vec::new(),
    };
    for (number, text) in (chunk.first..).zip(chunk.text.split_inclusive(|byte| *byte == b'\n')) {
        parsed.counts.lines += 1;
        let text = text.trim_ascii();
        if text.is_empty() {
            continue;
        }
        if let Err(message) = parse_line(text, case, options, store, &mut parsed) {
            parsed.bad.push(BadLine {
                line: number,
                message,
            });
            if !options.keep_going {
                break;
            }
            parsed.counts.skipped += 1;
        }
    }
    parsed
}

/// Parses a line into a change.
fn parse_line(
    text: &[u8],
    case: CaseRule,
    options: &Options,
    store: &Store,
    parsed: &mut Parsed,
) -> Result<(), String> {
    match line::read(text, options.now).map_err(|error| error.to_string())? {
        Line::Prefix(prefix) => {
            parsed.put(records::home_prefix(&prefix, case), options)?;
            parsed.counts.prefixes += 1;
        }
        Line::Record(record) => {
            let values = u64::try_from(record.values.len()).unwrap_or_default();
            let mut change = records::put(record, case);
            let (here, expected) = match options.known {
                Known::Overwrite => (Found::Nothing, Expect::Any),
                Known::Replace | Known::Keep => found(&change, options, store)?,
            };
            match (here, options.known) {
                (Found::Same, _) => {
                    parsed.counts.same += 1;
                    return Ok(());
                }
                (Found::Other, Known::Keep) => {
                    parsed.keep(&change);
                    return Ok(());
                }
                (Found::Nothing | Found::Other, _) => {}
            }
            match &options.sealer {
                Some(sealer) => sealer
                    .seal_change(&mut change, &mut SysRng)
                    .map_err(|_| String::from("the operating system gives no randomness"))?,
                None if seal::has_clear_secret(&change) => {
                    return Err(
                        "the value is a secret, and there is no node key to seal it with".into(),
                    );
                }
                None => {}
            }
            let key = options.is_checked().then(|| change.key.clone());
            // What the same chunk puts there before nobody finds yet.
            if key.as_ref().is_some_and(|key| !parsed.keys.contains(key)) {
                change.expect = expected;
            }
            parsed.put(change, options)?;
            parsed.keys.extend(key);
            // Only now: it may be larger than the store takes.
            parsed.counts.records += 1;
            parsed.counts.values += values;
            parsed.counts.replaced += u64::from(here == Found::Other);
        }
    }
    Ok(())
}

/// What is here under the key of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    Same,
    Other,
}

/// Compares a record with what is here; says with what a batch finds that to be still so.
fn found(change: &Change, options: &Options, store: &Store) -> Result<(Found, Expect), String> {
    let Action::Put(draft) = &change.action else {
        return Ok((Found::Nothing, Expect::Any));
    };
    let record = store.get(change.space, &change.key);
    let Some(record) = record.map_err(|error| error.to_string())? else {
        return Ok((Found::Nothing, Expect::Absent));
    };
    let is_same = |(entry, value): (Entry<'_>, &DraftValue)| match (&options.sealer, entry.sealed) {
        (Some(sealer), true) => sealer
            .open_entry(&record.key, &entry)
            .is_some_and(|wire| wire == value.wire),
        (None, true) => false,
        (_, false) => entry.wire == &value.wire[..],
    };
    let same = record.entries().count() == draft.values.len()
        && record.entries().zip(&draft.values).all(is_same);
    let found = if same { Found::Same } else { Found::Other };
    Ok((found, Expect::Generation(record.generation())))
}

impl Parsed {
    /// A record that is left as it is here.
    fn keep(&mut self, change: &Change) {
        self.counts.kept += 1;
        if let Action::Put(draft) = &change.action {
            let handle = String::from_utf8_lossy(&draft.handle);
            self.kept.push(handle.into_owned());
        }
    }

    fn put(&mut self, change: Change, options: &Options) -> Result<(), String> {
        let fits = match (&mut self.slab, &change.action) {
            (_, Action::Put(draft)) if options.dry_run => draft.check(&change.key),
            (Some(slab), _) => put(slab, &change),
            (None, Action::Put(draft)) => draft.check(&change.key),
            (None, Action::Delete) => Ok(()),
        };
        fits.map_err(|error| error.to_string())?;
        if self.slab.is_none() && !options.dry_run {
            self.changes.push(change);
        }
        Ok(())
    }

    /// Whether there is nothing in it to be written.
    fn is_void(&self) -> bool {
        self.changes.is_empty() && self.counts.records + self.counts.prefixes == 0
    }
}

/// Encodes a change, which is a put.
fn put(slab: &mut Slab, change: &Change) -> Result<(), CommitError> {
    match &change.action {
        Action::Put(draft) => slab.put(change.space, &change.key, draft),
        Action::Delete => Ok(()),
    }
}

/// The thread that hands batches to the store, in the order of the input.
struct Committer<'a> {
    store: &'a Store,
    options: Options,
    watch: &'a (dyn Fn(Event<'_>) + Sync),
    /// Tells the parsers that this is a bulk import.
    encoder: &'a OnceLock<Encoder>,
    /// Chunks that are held back.
    held: Vec<Parsed>,
    bulk: Option<Bulk>,
    /// What was taken, and what of it is in the bulk import.
    taken: Counts,
    gathered: Counts,
    /// Batches on their way to the disk, oldest first.
    in_flight: VecDeque<InFlight>,
    /// What is durable.
    applied: Counts,
}

/// A batch on its way to the disk.
struct InFlight {
    parsed: Parsed,
    done: Receiver<Result<Committed, CommitError>>,
}

impl<'a> Committer<'a> {
    fn new(
        store: &'a Store,
        options: Options,
        watch: &'a (dyn Fn(Event<'_>) + Sync),
        encoder: &'a OnceLock<Encoder>,
    ) -> Self {
        Self {
            store,
            options,
            watch,
            encoder,
            held: Vec::new(),
            bulk: None,
            taken: Counts::default(),
            gathered: Counts::default(),
            in_flight: VecDeque::new(),
            applied: Counts::default(),
        }
    }

    /// Takes chunk after chunk from the parsers in turn until one has no more.
    fn run(mut self, parsers: &[Receiver<Parsed>]) -> (Counts, Result<(), ImportError>) {
        let mut outcome = Ok(());
        for parser in parsers.iter().cycle() {
            let Ok(parsed) = parser.recv() else { break };
            outcome = self.take(parsed);
            if outcome.is_err() {
                break;
            }
        }
        // Whatever went wrong, what came before it counts.
        let applied = self.apply();
        (self.applied, outcome.and(applied))
    }

    /// One parsed chunk.
    fn take(&mut self, parsed: Parsed) -> Result<(), ImportError> {
        self.stop_at_bad(&parsed)?;
        let void = self.options.dry_run || parsed.is_void();
        // Of what may be looked at again it is told when it is so.
        if void || !self.options.is_checked() {
            self.tell(&parsed);
        }
        self.taken.add(parsed.counts);
        let pause = parsed.pause;
        if void {
            self.applied.add(parsed.counts);
        } else if self.bulk.is_some() {
            self.gather(parsed)?;
        } else {
            self.held.push(parsed);
            match self.held.len() > HELD_MAX {
                true if self.options.is_checked() => self.apply()?,
                true => self.begin_bulk()?,
                false => {}
            }
        }
        // A bulk import stays one change.
        if pause && self.bulk.is_none() {
            self.apply()?;
        }
        (self.watch)(Event::Progress(self.taken));
        Ok(())
    }

    /// Without `keep_going` a bad line ends the import.
    fn stop_at_bad(&self, parsed: &Parsed) -> Result<(), ImportError> {
        match parsed.bad.first() {
            Some(bad) if !self.options.keep_going => Err(ImportError::Line(bad.clone())),
            _ => Ok(()),
        }
    }

    /// Tells of single lines of a chunk.
    fn tell(&self, parsed: &Parsed) {
        for bad in &parsed.bad {
            (self.watch)(Event::Skipped(bad));
        }
        for kept in &parsed.kept {
            (self.watch)(Event::Kept(kept));
        }
    }

    /// There is more than is held back: all of it is a bulk import.
    fn begin_bulk(&mut self) -> Result<(), ImportError> {
        let refused = |error| ImportError::Store { line: 1, error };
        let bulk = self.store.bulk().map_err(refused)?;
        // Only this thread sets it, and once.
        let _ = self.encoder.set(bulk.encoder());
        self.bulk = Some(bulk);
        for parsed in std::mem::take(&mut self.held) {
            self.gather(parsed)?;
        }
        Ok(())
    }

    /// Adds a chunk to the bulk import. After an error that does not concern this chunk alone there is none any more.
    fn gather(&mut self, parsed: Parsed) -> Result<(), ImportError> {
        let Some(bulk) = &mut self.bulk else {
            return Ok(());
        };
        let (mut slab, mut encoded) = (parsed.slab, Ok(()));
        let whole = slab.get_or_insert_with(|| bulk.encoder().slab());
        for change in &parsed.changes {
            encoded = encoded.and_then(|()| put(whole, change));
        }
        let added = encoded.and_then(|()| slab.map_or(Ok(()), |slab| bulk.add(slab)));
        match &added {
            Ok(()) => self.gathered.add(parsed.counts),
            Err(CommitError::Conflict { .. } | CommitError::TooLarge) => {}
            Err(_) => self.bulk = None,
        }
        let line = parsed.first;
        added.map_err(|error| ImportError::Store { line, error })
    }

    /// Makes durable what was taken.
    fn apply(&mut self) -> Result<(), ImportError> {
        let refused = |error| ImportError::Store { line: 1, error };
        if let Some(bulk) = self.bulk.take() {
            bulk.commit().map_err(refused)?;
            self.applied.add(self.gathered);
        }
        let mut outcome = Ok(());
        for parsed in std::mem::take(&mut self.held) {
            if self.in_flight.len() >= IN_FLIGHT_MAX && outcome.is_ok() {
                outcome = self.settle();
            }
            if outcome.is_ok() {
                self.submit(parsed);
            }
        }
        // What was handed over is on its way and counts.
        while !self.in_flight.is_empty() {
            let settled = self.settle();
            outcome = outcome.and(settled);
        }
        outcome
    }

    /// Hands a chunk over as a batch.
    fn submit(&mut self, mut parsed: Parsed) {
        let done = self.hand_over(&mut parsed);
        self.in_flight.push_back(InFlight { parsed, done });
    }

    /// Hands the changes of a chunk over, and says where it is told what became of them.
    fn hand_over(&self, parsed: &mut Parsed) -> Receiver<Result<Committed, CommitError>> {
        let (report, done) = sync_channel(1);
        let report = Mutex::new(report);
        let batch = Batch {
            changes: std::mem::take(&mut parsed.changes),
            note: bytes::Bytes::new(),
        };
        self.store.submit_wait(batch, move |outcome| {
            // The receiver is gone only when the import was abandoned.
            drop(report.lock().map(|report| report.send(outcome)));
        });
        done
    }

    /// Waits for the oldest batch.
    fn settle(&mut self) -> Result<(), ImportError> {
        let Some(InFlight {
            mut parsed,
            mut done,
        }) = self.in_flight.pop_front()
        else {
            return Ok(());
        };
        let mut looks = 1;
        loop {
            let line = parsed.first;
            match done.recv().unwrap_or(Err(CommitError::Closed)) {
                Ok(_) => break,
                Err(CommitError::Conflict { .. })
                    if self.options.is_checked() && looks < LOOKS_MAX => {}
                Err(error) => return Err(ImportError::Store { line, error }),
            }
            looks += 1;
            parsed = self.look_again(parsed, looks == LOOKS_MAX)?;
            if parsed.is_void() {
                break;
            }
            done = self.hand_over(&mut parsed);
        }
        if self.options.is_checked() {
            self.tell(&parsed);
        }
        self.applied.add(parsed.counts);
        Ok(())
    }

    /// Somebody has changed what a chunk found.
    fn look_again(&self, parsed: Parsed, last: bool) -> Result<Parsed, ImportError> {
        let chunk = Chunk {
            first: parsed.first,
            text: parsed.text,
            pause: parsed.pause,
        };
        let options = Options {
            // What is replaced whatever it is needs not be what was found in the end.
            alone: last && self.options.known == Known::Replace,
            ..self.options.clone()
        };
        let mut next = parse(&chunk, self.store.case(), None, &options, self.store);
        next.text = chunk.text;
        self.stop_at_bad(&next)?;
        Ok(next)
    }
}
