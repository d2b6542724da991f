//! A job at work: registrations. Of one that asks see `questions`.
//!
//! ```text
//! reader: disk → rows ─→ here: decide (registry) → results to the disk → one batch: changes and the job with its position
//! ```
//!
//! The next rows are read and decided while a batch is made durable. It is handed to the store only when the one before it
//! is durable: a position never passes over rows that are not.

use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use memchr::memmem;

use super::ATOMIC_ROWS_MAX;
use super::decide::{Registrant, Ruling, decide};
use super::questions;
use super::record::{Became, Counts, Job, Reason, State};
use super::repeats::Repeats;
use super::shelf::{Claim, Entry, Want};
use crate::batch::rows::{Form, Place, Row, Rows, Unreadable};
use crate::clock;
use crate::history::{Event as Remembered, Pen};
use crate::metrics::{Op, Outcome};
use crate::registry::audit::Event;
use crate::registry::figures::{self, Ended};
use crate::server::handle::outcome_of;
use crate::server::http::App;
use crate::store::{Batch, Change, CommitError, Committed};
use crate::token::Grant;
use crate::token::book::Refused;

/// Rows in a batch, so that one sync is cheap for each and others need not wait long.
const ROWS: usize = 2_000;
/// Octets of input in a batch, for the same reason; one row may be longer.
const OCTETS: u64 = 1 << 20;
/// Pieces of so many rows that wait for being decided.
const PIECES: usize = 4;
const PIECE: usize = 500;
/// What the results say of a row that creates its handle; in the text of a member it would stand with backslashes.
const CREATED: &[u8] = b"\"result\":\"created\"";
/// How often rows are decided again because a handle changed meanwhile, the last time while nobody else writes.
const ATTEMPTS_MAX: u32 = 4;
/// After how long a job that waits for the store or the disk is tried again.
const RETRY: u32 = 5;
/// How long the log of resolutions is waited for, and the pause between two looks.
const LOG_TIME: Duration = Duration::from_secs(1);
const LOG_PAUSE: Duration = Duration::from_millis(1);

/// Why a job is not worked on any longer.
pub(super) enum Stop {
    /// The node ends.
    Stopping,
    /// Its owner wants so.
    Wanted,
    /// It cannot go on.
    Failed(Reason),
    /// It is to be tried again, so many seconds from now.
    Wait(Reason, u32),
}

impl Stop {
    pub(super) fn failed(code: &str, message: impl Into<String>) -> Self {
        Self::Failed(Reason::new(code, message))
    }

    pub(super) fn disk(error: &io::Error) -> Self {
        tracing::error!(event = "job.files_failed", %error, "a job's files cannot be used; look at the disk");
        Self::Wait(Reason::new("server_error", "the node's disk fails"), RETRY)
    }

    pub(super) fn busy(message: &str) -> Self {
        Self::Wait(Reason::new("busy", message), RETRY)
    }

    /// The quota is used up until then, Unix seconds.
    pub(super) fn quota(renewal: u32) -> Self {
        let text = "the identifiers that the token has for today are used up";
        let wait = renewal.saturating_sub(clock::unix_seconds()).max(1);
        Self::Wait(Reason::new("quota_used_up", text), wait)
    }

    pub(super) fn store(error: &CommitError) -> Self {
        match error {
            CommitError::Closed => Self::Stopping,
            CommitError::TooLarge => Self::failed(
                "body_too_large",
                "the rows do not fit into one change; without atomic they need not",
            ),
            error => {
                tracing::warn!(event = "job.waiting", %error, "a job waits for the store");
                Self::busy("the store takes no changes now")
            }
        }
    }
}

/// Works on a job until it ends, or is to stop.
pub(super) fn run(app: &App, mut claim: Claim) {
    let job = claim.entry.job();
    let worked = match job.questions.clone() {
        Some(asked) => questions::work(app, &claim, job, asked),
        None => Run::new(app, &claim)
            .and_then(|mut run| run.work())
            .map(|()| claim.entry.job()),
    };
    let now = clock::unix_seconds();
    let mut job = match &worked {
        Ok(job) => job.clone(),
        Err(_) => claim.entry.job(),
    };
    let (state, reason) = match worked.map(drop) {
        Ok(()) => (State::Done, None),
        Err(Stop::Stopping) => return,
        Err(Stop::Wanted) => {
            let stopped = app.jobs.stop_as_wanted(&claim.entry, now);
            return put_off(&mut claim, stopped, now);
        }
        Err(Stop::Failed(reason)) => (State::Failed, Some(reason)),
        Err(Stop::Wait(reason, seconds)) => {
            claim.waiting = Some((reason, now.saturating_add(seconds)));
            return;
        }
    };
    job.started.get_or_insert(now);
    job.turn(state, reason, now);
    let stored = app.jobs.store(&claim.entry, job);
    put_off(&mut claim, stored, now);
}

/// What could not be stored is tried again.
fn put_off(claim: &mut Claim, stored: Result<(), CommitError>, now: u32) {
    if let Err(error) = stored {
        tracing::warn!(event = "job.end_pending", %error, "the end of a job is not stored yet");
        let reason = Reason::new("busy", "the store takes no changes now");
        claim.waiting = Some((reason, now.saturating_add(RETRY)));
    }
}

/// Rows that are decided.
struct Step {
    rows: Vec<Row>,
    rulings: Vec<Ruling>,
    /// Where the next rows are.
    end: Place,
}

/// A batch on its way to the disk.
struct Flight {
    step: Step,
    job: Job,
    told: Receiver<Result<Committed, CommitError>>,
}

/// A job at work.
struct Run<'r> {
    app: &'r App,
    claim: &'r Claim,
    registrant: Registrant,
    results: File,
    /// The job as it will be when everything handed over is durable.
    job: Job,
    /// What came before; nothing of a job that is one change, which looks itself.
    repeats: RefCell<Repeats>,
    flight: Option<Flight>,
}

impl<'r> Run<'r> {
    fn new(app: &'r App, claim: &'r Claim) -> Result<Self, Stop> {
        let mut job = claim.entry.job();
        let grant = grant(app, &job)?;
        let results = results(&claim.entry, &job)?;
        job.started.get_or_insert_with(clock::unix_seconds);
        Ok(Self {
            app,
            claim,
            registrant: Registrant::new(app, &grant),
            results,
            repeats: RefCell::new(Repeats::new(job.dry)),
            job,
            flight: None,
        })
    }

    /// Works through the rows.
    fn work(&mut self) -> Result<(), Stop> {
        let (send, rows) = sync_channel(PIECES);
        let (path, job) = (self.claim.entry.file("input"), self.job.clone());
        thread::scope(|scope| {
            scope.spawn(move || {
                let read = File::open(path)
                    .map_err(Unreadable::Disk)
                    .and_then(|file| read(file, &job, &send));
                if let Err(error) = read {
                    let _ = send.send(Err(error));
                }
            });
            let worked = match self.job.atomic {
                true => self.whole(&rows),
                false => self.steps(&rows),
            };
            // What was handed over is durable or not, also when nothing follows.
            let settled = self.settle();
            drop(rows);
            worked.and(settled)
        })
    }

    /// Step by step.
    fn steps(&mut self, pieces: &Receiver<Piece>) -> Result<(), Stop> {
        self.look()?;
        self.recall()?;
        let mut waiting = VecDeque::new();
        loop {
            self.look()?;
            let mut rows = Vec::new();
            let mut keys = HashSet::new();
            let mut octets = 0;
            let mut at = self.job.position.octet;
            while rows.len() < ROWS && octets < OCTETS {
                if waiting.is_empty() {
                    match pieces.recv() {
                        Ok(piece) => waiting.extend(piece.map_err(|error| unreadable(&error))?),
                        Err(_) => break,
                    }
                    continue;
                }
                // The second row of a handle must see the first.
                let is_new = |row: &Row| {
                    row.values.is_err() || keys.insert(self.app.registry.records.key(&row.handle))
                };
                if !waiting.front().is_some_and(is_new) {
                    break;
                }
                if let Some(row) = waiting.pop_front() {
                    octets += row.end.octet.saturating_sub(at);
                    at = row.end.octet;
                    rows.push(row);
                }
            }
            if rows.is_empty() {
                return Ok(());
            }
            let (rows, quota) = self.afford(rows)?;
            if !rows.is_empty() {
                let step = self.decide(rows)?;
                self.settle()?;
                self.submit(step)?;
            }
            if let Some(stop) = quota {
                return Err(stop);
            }
        }
    }

    /// Has a dry run that goes on know what its rows so far would have created: there is nothing of it in the store.
    fn recall(&self) -> Result<(), Stop> {
        if !self.job.dry || self.job.position == Place::default() {
            return Ok(());
        }
        let open = |name| File::open(self.claim.entry.file(name)).map_err(|error| missing(&error));
        let told = BufReader::new(open("results")?.take(self.job.results));
        let input = BufReader::with_capacity(256 << 10, open("input")?);
        let form = Form::of_questions(self.job.form).unwrap_or(Form::Ndjson);
        let mut rows = Rows::new(form, input).map_err(|error| unreadable(&error))?;
        let (mut repeats, now) = (self.repeats.borrow_mut(), clock::unix_seconds());
        for (number, told) in told.split(b'\n').enumerate() {
            if number % ROWS == 0 {
                look(self.app, self.claim)?;
            }
            let told = told.map_err(|error| Stop::disk(&error))?;
            let row = rows.next(now).map_err(|error| Stop::disk(&error))?;
            let Some(row) = row.filter(|_| !repeats.is_full()) else {
                break;
            };
            if memmem::find(&told, CREATED).is_some() {
                repeats.remember(&self.app.registry.records.key(&row.handle), &row);
            }
        }
        Ok(())
    }

    /// All rows, or none.
    fn whole(&mut self, pieces: &Receiver<Piece>) -> Result<(), Stop> {
        self.look()?;
        let mut rows = Vec::new();
        while let Ok(piece) = pieces.recv() {
            rows.extend(piece.map_err(|error| unreadable(&error))?);
            if rows.len() > ATOMIC_ROWS_MAX {
                return Err(Stop::failed(
                    "too_many_rows",
                    format!(
                        "a job that is atomic may have {ATOMIC_ROWS_MAX} rows; nothing was changed"
                    ),
                ));
            }
        }
        if rows.is_empty() {
            // It may have been carried out before the node ended.
            return self.all_or_none();
        }
        let (rows, quota) = self.afford(rows)?;
        if let Some(stop) = quota {
            return Err(stop);
        }
        let step = self.decide(rows)?;
        self.submit(step)?;
        self.settle()?;
        self.all_or_none()
    }

    /// Whether the rows of a job that is one change were all good.
    fn all_or_none(&self) -> Result<(), Stop> {
        match self.job.counts.bad() {
            0 => Ok(()),
            bad => Err(Stop::failed(
                "rows_refused",
                match bad {
                    1 => "the job is atomic and 1 of its rows is refused; nothing was changed"
                        .to_owned(),
                    _ => format!(
                        "the job is atomic and {bad} of its rows are refused; nothing was changed"
                    ),
                },
            )),
        }
    }

    /// What may stop a job between two steps.
    fn look(&mut self) -> Result<(), Stop> {
        look(self.app, self.claim)?;
        may_go_on(self.app, &self.job)
    }

    /// The rows that the token's quota of today has, with a reason to stop behind them when that is not all.
    fn afford(&self, mut rows: Vec<Row>) -> Result<(Vec<Row>, Option<Stop>), Stop> {
        if self.job.dry {
            return Ok((rows, None));
        }
        let (tokens, now) = (&self.app.tokens, clock::unix_seconds());
        let wanted = rows.len() as u64;
        let standing = tokens
            .standing(&self.job.token, now)
            .map_err(token_refused)?;
        let left = standing
            .quota
            .map_or(wanted, |quota| quota.saturating_sub(standing.used));
        let taken = match left.min(wanted) {
            0 => 0,
            // All or nothing is taken where that is how it is used.
            fewer if fewer < wanted && self.job.atomic => 0,
            possible => match tokens.take(&self.job.token, possible, 0, now) {
                Ok(taken) => taken,
                Err(Refused::Quota { .. }) => 0,
                Err(refused) => return Err(token_refused(refused)),
            },
        };
        if taken == wanted {
            return Ok((rows, None));
        }
        rows.truncate(usize::try_from(taken).unwrap_or(usize::MAX));
        Ok((rows, Some(Stop::quota(standing.renewal))))
    }

    fn decide(&self, rows: Vec<Row>) -> Result<Step, Stop> {
        let now = clock::unix_seconds();
        let (mut rulings, mut keys) = (Vec::with_capacity(rows.len()), HashSet::new());
        for row in &rows {
            let decide = || {
                let ruling = decide(self.app, &self.registrant, row, now);
                ruling.map_err(|rejection| Stop::busy(&rejection.text))
            };
            let key = self.app.registry.records.key(&row.handle);
            rulings.push(match self.job.atomic {
                // Only in a job that is one change a handle can come twice here.
                true if !row.handle.is_empty() && !keys.insert(key.clone()) => Ruling::repeated(),
                true => decide()?,
                false => self.repeats.borrow_mut().rule(&key, row, decide()?),
            });
        }
        let bad = |ruling: &Ruling| {
            matches!(
                ruling.became,
                Became::Conflict | Became::Refused | Became::Invalid
            )
        };
        if self.job.atomic && rulings.iter().any(bad) {
            rulings = rulings.into_iter().map(Ruling::not_applied).collect();
        }
        let end = rows.last().map_or(self.job.position, |row| row.end);
        Ok(Step { rows, rulings, end })
    }

    /// Writes the results, then hands over the changes together with the job behind them.
    fn submit(&mut self, mut step: Step) -> Result<(), Stop> {
        let job = self.after(&step)?;
        let batch = self.batch(&mut step, &job);
        let (tell, told) = sync_channel(1);
        self.app
            .shared
            .store
            .submit_wait(batch, move |outcome| drop(tell.send(outcome)));
        self.job = job.clone();
        self.flight = Some(Flight { step, job, told });
        Ok(())
    }

    /// The job behind a step; its results are on the disk when this returns.
    fn after(&self, step: &Step) -> Result<Job, Stop> {
        let before = self.claim.entry.job();
        let mut text = Vec::with_capacity(96 * step.rows.len());
        let mut counts: Counts = before.counts;
        for (row, ruling) in step.rows.iter().zip(&step.rulings) {
            counts.add(ruling.became);
            ruling.tell(row.line, &row.handle, &mut text);
        }
        let written = self
            .results
            .write_all_at(&text, before.results)
            .and_then(|()| self.results.sync_data());
        written.map_err(|error| Stop::disk(&error))?;
        Ok(Job {
            position: step.end,
            counts,
            results: before.results + text.len() as u64,
            started: self.job.started,
            touched: clock::unix_seconds(),
            ..before
        })
    }

    fn batch(&self, step: &mut Step, job: &Job) -> Batch {
        let not_applied = |ruling: &Ruling| ruling.became == Became::NotApplied;
        let nothing = job.dry || step.rulings.iter().any(not_applied);
        let taken = step
            .rulings
            .iter_mut()
            .flat_map(|ruling| std::mem::take(&mut ruling.changes));
        let mut changes: Vec<Change> = match nothing {
            true => Vec::new(),
            false => taken.collect(),
        };
        changes.push(job.change(self.claim.entry.expect()));
        let batch = Batch {
            changes,
            ..Batch::default()
        };
        if nothing {
            return batch;
        }
        // The process may end before the trail has them.
        let told: Vec<Event<'_>> = self
            .events(step, job, None)
            .filter(|(ended, _)| *ended == Ended::Committed)
            .map(|(_, event)| event)
            .collect();
        self.app.registry.witnessed(batch, &told)
    }

    /// What the audit trail says of a step: how each of its rows ended.
    fn events<'s>(
        &'s self,
        step: &'s Step,
        job: &Job,
        committed: Option<Committed>,
    ) -> impl Iterator<Item = (Ended, Event<'s>)> {
        let (now, source) = (clock::unix_seconds(), job.source.to_string());
        let rows = step.rows.iter().zip(&step.rulings);
        rows.filter_map(move |(row, ruling)| {
            let ended = match ruling.became {
                Became::Created => Ended::Committed,
                Became::Conflict | Became::Refused => Ended::Refused,
                Became::Same | Became::Invalid | Became::NotApplied => return None,
            };
            let result = Ended::ALL.iter().find(|(known, _)| *known == ended);
            let committed = committed.filter(|_| ended == Ended::Committed);
            let event = Event {
                time: now.into(),
                identity: Some(self.registrant.who().identity()),
                source: source.clone(),
                operation: figures::KINDS[figures::CREATE],
                handle: &row.handle,
                result: result.map_or("", |(_, label)| label),
                code: ruling.code.0,
                change: committed.map(|committed| committed.sequence),
            };
            Some((ended, event))
        })
    }

    /// Waits until what was handed over is durable; decides again if others changed a handle meanwhile.
    fn settle(&mut self) -> Result<(), Stop> {
        let Some(mut flight) = self.flight.take() else {
            return Ok(());
        };
        for attempt in 1..=ATTEMPTS_MAX {
            match flight.told.recv().unwrap_or(Err(CommitError::Closed)) {
                Ok(committed) => {
                    self.note(&flight, committed);
                    self.claim.entry.stored(flight.job, committed.sequence);
                    return Ok(());
                }
                Err(CommitError::Conflict { .. }) if attempt < ATTEMPTS_MAX => {
                    // Results are written anew where the last durable ones end.
                    flight = self.again(flight, attempt + 1 == ATTEMPTS_MAX)?;
                }
                Err(error) => return Err(Stop::store(&error)),
            }
        }
        Err(Stop::busy("the handles are changed by others all the time"))
    }

    /// Decides the rows of a batch again, at last while nobody else writes.
    fn again(&mut self, flight: Flight, alone: bool) -> Result<Flight, Stop> {
        let (tell, told) = sync_channel(1);
        let rows = flight.step.rows;
        let store = &self.app.shared.store;
        let mut decided = Err(Stop::busy("not decided"));
        let decide = || {
            let made = self.decide(rows).and_then(|mut step| {
                let job = self.after(&step)?;
                let batch = self.batch(&mut step, &job);
                Ok((step, job, batch))
            });
            match made {
                Ok((step, job, batch)) => {
                    decided = Ok((step, job));
                    Some((batch, move |outcome| drop(tell.send(outcome))))
                }
                Err(stop) => {
                    decided = Err(stop);
                    None
                }
            }
        };
        if alone {
            store.submit_decided(decide);
        } else if let Some((batch, done)) = decide() {
            store.submit_wait(batch, done);
        }
        let (step, job) = decided?;
        self.job = job.clone();
        Ok(Flight { step, job, told })
    }

    /// Counts what is durable, and writes it into the audit trail and the log of resolutions and changes.
    fn note(&self, flight: &Flight, committed: Committed) {
        if flight.job.dry {
            return;
        }
        let events = self.events(&flight.step, &flight.job, Some(committed));
        self.app.registry.ended_all(figures::CREATE, events);
        self.remember(flight, clock::unix_seconds());
    }

    fn remember(&self, flight: &Flight, now: u32) {
        let job = &flight.job;
        let begun = Instant::now();
        let pool = &self.app.pool;
        let has_room =
            || pool.with(|scratch| scratch.cell(job.tls).pen().is_none_or(Pen::has_room));
        while !has_room() && begun.elapsed() < LOG_TIME {
            thread::sleep(LOG_PAUSE);
        }
        let outcome = |ruling: &Ruling| match ruling.became {
            Became::Created => Outcome::Success,
            Became::Invalid => Outcome::Invalid,
            _ => outcome_of(ruling.code),
        };
        let rows = || {
            let rows = flight.step.rows.iter().zip(&flight.step.rulings);
            rows.filter(|(_, ruling)| ruling.became != Became::NotApplied)
        };
        pool.with(|scratch| {
            let cell = scratch.cell(job.tls);
            for (_, ruling) in rows() {
                cell.requests(Op::Create).add(1);
                cell.responses(outcome(ruling)).add(1);
            }
            let Some(pen) = cell.pen() else { return };
            let named = rows().filter(|(row, _)| !row.handle.is_empty());
            pen.note_all(named.map(|(row, ruling)| {
                let event = Remembered {
                    time: now,
                    client: job.source,
                    op: Op::Create,
                    outcome: outcome(ruling),
                };
                (event, &*row.handle)
            }));
        });
    }
}

/// Rows that were read, or why no more are.
type Piece = Result<Vec<Row>, Unreadable>;

/// Reads rows from where the job stands, until the end or until nobody takes more.
fn read(file: File, job: &Job, send: &SyncSender<Piece>) -> Result<(), Unreadable> {
    let now = clock::unix_seconds();
    let form = Form::of_questions(job.form).unwrap_or(Form::Ndjson);
    let mut rows = Rows::new(form, BufReader::with_capacity(256 << 10, file))?;
    rows.go_on(job.position, |input, octet| {
        input.seek(SeekFrom::Start(octet)).map(drop)
    })?;
    loop {
        let (mut piece, mut octets, mut at) = (Vec::new(), 0, None);
        while piece.len() < PIECE && octets < OCTETS {
            let Some(row) = rows.next(now)? else { break };
            octets += row.end.octet - at.unwrap_or(row.end.octet);
            at = Some(row.end.octet);
            piece.push(row);
        }
        if piece.is_empty() || send.send(Ok(piece)).is_err() {
            return Ok(());
        }
    }
}

/// The results of a job up to where it stands.
pub(super) fn results(entry: &Entry, job: &Job) -> Result<File, Stop> {
    let results = OpenOptions::new().write(true).open(entry.file("results"));
    let results = results.map_err(|error| missing(&error))?;
    let length = |metadata: io::Result<Metadata>| {
        metadata
            .map(|metadata| metadata.len())
            .map_err(|error| missing(&error))
    };
    let input = length(fs::metadata(entry.file("input")))?;
    if input != job.input || length(results.metadata())? < job.results {
        return Err(gone());
    }
    // What is behind this is about rows that are not durable.
    results
        .set_len(job.results)
        .map_err(|error| Stop::disk(&error))?;
    Ok(results)
}

/// Whether anybody wants a job to stop.
pub(super) fn look(app: &App, claim: &Claim) -> Result<(), Stop> {
    if app.jobs.is_stopping() {
        return Err(Stop::Stopping);
    }
    match claim.entry.want() {
        Want::Work => Ok(()),
        Want::Pause | Want::Cancel => Err(Stop::Wanted),
    }
}

/// Whether a job's token still allows it, and has room for its results.
pub(super) fn may_go_on(app: &App, job: &Job) -> Result<(), Stop> {
    grant(app, job)?;
    let most = app.jobs.limits.disk;
    if job.disk() > most {
        // Nothing that its owner deletes would make room for it.
        let text = format!(
            "the input of this job and its results take more than the {most} octets that a token has on the disk ([jobs] \
             disk_max): hand what follows its results over in parts"
        );
        return Err(Stop::failed("disk_quota_used_up", text));
    }
    if app.jobs.used(&job.token) > most {
        let text =
            "the results find no room ([jobs] disk_max): delete jobs of this token that have ended";
        return Err(Stop::Wait(Reason::new("disk_quota_used_up", text), RETRY));
    }
    Ok(())
}

/// What the job's token allows now.
pub(super) fn grant(app: &App, job: &Job) -> Result<Grant, Stop> {
    let granted = app.tokens.grant_of(&job.token, clock::unix_seconds());
    let grant = granted.map_err(token_refused)?;
    for right in job.rights() {
        if !grant.may(right) {
            let text = format!("the token has not the right {}", right.name());
            return Err(Stop::failed("token_not_allowed", text));
        }
    }
    Ok(grant)
}

fn token_refused(refused: Refused) -> Stop {
    match refused {
        Refused::Unavailable | Refused::Quota { .. } => Stop::busy("the tokens cannot be read now"),
        Refused::Unknown | Refused::Ended => Stop::failed("token_not_valid", "the token has ended"),
    }
}

/// After a restore, or when somebody removed them.
fn gone() -> Stop {
    Stop::failed(
        "input_gone",
        "the job's files are not on this node; hand its input over again: rows that were carried out are told as same",
    )
}

pub(super) fn missing(error: &io::Error) -> Stop {
    match error.kind() {
        io::ErrorKind::NotFound => gone(),
        _ => Stop::disk(error),
    }
}

fn unreadable(error: &Unreadable) -> Stop {
    match error {
        Unreadable::Disk(error) => missing(error),
        Unreadable::Columns(text) => Stop::failed("invalid_request", text.clone()),
    }
}
