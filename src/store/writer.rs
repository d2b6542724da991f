//! The one writer: it takes what waits, checks expectations, appends one journal entry, syncs it, makes the changes
//! visible, and only then tells those who wait. It has a thread of its own; while that has nothing to do, a thread that
//! may wait for the disk has its batch written where it is, which saves waking two threads.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use foldhash::fast::RandomState;

use super::bulk::{self, Ready};
use super::change::{CommitError, Committed, Expect, Space};
use super::disk::Event;
use super::error::StoreError;
use super::index::{self, Reader, Stage};
use super::journal::Journal;
use super::journal::entry::{Change, Entry, EntryWriter, Position, Step};
use super::metrics::{Part, Result as Outcome, Stopwatch};
use super::overlay::{FullKey, Limits};
use super::queue::{Encoded, Job, Prepared, Todo};
use super::record::{Packed, Record};
use super::replica::ReplicaError;
use super::run::Written;
use super::shared::Shared;

/// For the test that must find losses: how long an acknowledged group then stays unwritten.
const UNSAFE_DELAY: Duration = Duration::from_millis(10);

/// The records that a group leaves under the keys it touches.
type Touched<'a> = HashMap<(u8, &'a [u8]), Option<&'a Packed>, RandomState>;

/// The writer's state.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    reader: Reader,
    journal: Journal,
    position: Position,
    entry: EntryWriter,
}

/// A batch of a group, and what became of its expectations.
struct Judged {
    job: Job,
    verdict: Result<Committed, CommitError>,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, journal: Journal, position: Position) -> Self {
        Self {
            reader: Reader::new(Arc::clone(&shared.index)),
            shared,
            journal,
            position,
            entry: EntryWriter::default(),
        }
    }

    /// Ends the journal.
    fn close(mut self) {
        if self.shared.read_only().is_none()
            && let Err(error) = self.journal.close(self.position)
        {
            self.shared.metrics.count_error(Part::Journal);
            tracing::error!(event = "journal.not_closed", %error, "the journal could not be closed; what was acknowledged is in it");
        }
    }

    /// Carries out a group.
    fn commit(&mut self, jobs: Vec<Job>) {
        if let Some(reason) = self.shared.read_only() {
            return self.refuse(jobs, &CommitError::ReadOnly(reason));
        }
        if self.shared.disk_is_low() {
            return self.refuse(jobs, &CommitError::DiskFull);
        }
        let role = self.shared.role();
        if !role.takes_changes() {
            return self.refuse(jobs, &CommitError::Elsewhere(role));
        }
        let watch = Stopwatch::start();
        let jobs = match self.commit_bulk(jobs) {
            Ok(()) => return,
            Err(jobs) => jobs,
        };
        let (group, after) = self.judge(jobs);
        if after.sequence == self.position.sequence {
            return self
                .shared
                .complete(group.into_iter().map(|judged| (judged.job, judged.verdict)));
        }
        self.encode(&group, after);
        if let Err(error) = self
            .journal
            .reserve(self.position, self.entry.bytes().len())
        {
            return self.no_room(group, &error);
        }
        if self.shared.disk.acknowledges_first() {
            self.publish(group, after);
            thread::sleep(UNSAFE_DELAY);
            self.write(after)
                .unwrap_or_else(|error| self.fail(Vec::new(), &error));
        } else {
            match self.write(after) {
                Ok(()) => self.publish(group, after),
                Err(error) => return self.fail(group, &error),
            }
        }
        self.position = after;
        self.shared
            .metrics
            .commit_duration
            .observe(watch.nanoseconds());
    }

    /// Carries out a bulk import, which is a group by itself; another group comes back.
    fn commit_bulk(&mut self, mut jobs: Vec<Job>) -> Result<(), Vec<Job>> {
        let Some(ready) = jobs.first_mut().and_then(|job| job.bulk.take()) else {
            return Err(jobs);
        };
        let records = ready.written.named.records as usize;
        let outcome = self.name_run(*ready);
        if let Ok(Committed { sequence }) = outcome {
            self.shared.disk.note(|| Event::Acknowledge(sequence));
        }
        // The queue gives it out by itself.
        for job in jobs {
            self.shared.tell(job, outcome.clone(), records);
        }
        Ok(())
    }

    /// Names a run in the journal and makes its records visible.
    fn name_run(&mut self, ready: Ready) -> Result<Committed, CommitError> {
        let Ready {
            written,
            stage,
            claims,
        } = ready;
        if let Some((key, _)) = claims
            .iter()
            .find(|(key, handle)| bulk::is_claimed(&self.shared, key, handle))
        {
            let found = self.reader.with(Space::System.number(), key, |found| {
                found.record().generation()
            });
            return Err(CommitError::Conflict { change: 0, found });
        }
        if !written.is_there() {
            tracing::warn!(
                event = "import.given_away",
                "an import was under way while the store was given away and taken back: it is to be begun again"
            );
            return Err(CommitError::Closed);
        }
        let index = Arc::clone(&self.shared.index);
        let prepared = index.prepare(stage);
        let before = self.position;
        let after = Position {
            sequence: before.sequence + 1,
            count: before.count.saturating_add_signed(prepared.count),
            sum: before.sum ^ prepared.sum,
        };
        self.entry.begin();
        self.entry.batch(1, b"");
        self.entry.change(&Step::Run(written.named));
        let epoch = self.shared.identity.epoch;
        self.entry.finish(epoch, after.sequence, after);
        self.settle_run(written, prepared, (before, after))
    }

    /// Makes a run durable with the entry that names it, and its records visible.
    fn settle_run(
        &mut self,
        mut written: Written,
        prepared: index::Prepared<'_>,
        (before, after): (Position, Position),
    ) -> Result<Committed, CommitError> {
        let reserved = self.journal.reserve(before, self.entry.bytes().len());
        let named = reserved.map_err(|error| (error.is_disk_full(), error));
        match named.and_then(|()| self.write(after).map_err(|error| (false, error))) {
            Ok(()) => {}
            Err((true, error)) => {
                tracing::error!(event = "disk.full", %error, "the disk is full: writes are refused, reads go on");
                return Err(CommitError::DiskFull);
            }
            Err((false, error)) => {
                // The next start finds out whether the journal names it.
                written.file.leave();
                return Err(CommitError::ReadOnly(self.stop(&error)));
            }
        }
        self.shared.overlay.synced(after);
        if let Err(error) = written.file.keep(after.sequence) {
            tracing::error!(event = "import.name_kept", %error, "a run keeps its first name; the next start finds it all the same");
        }
        prepared.publish();
        self.position = after;
        self.publish_run(written, before, after);
        let sequence = after.sequence;
        Ok(Committed { sequence })
    }

    /// Lets sled and the scans know of a run that is visible.
    fn publish_run(&self, written: Written, before: Position, after: Position) {
        match written.into_run(before, after) {
            Ok(run) => self.shared.overlay.publish_run(run),
            Err(error) => {
                tracing::error!(event = "import.unreadable", %error, "a run cannot be read: sled is made anew from the index");
                self.shared.overlay.publish(Vec::new(), after);
                self.shared.request(|requests| requests.rebuild = true);
            }
        }
        self.shared.bump_epochs([true; Space::ALL.len()]);
    }

    /// Appends the entry and makes it durable.
    fn write(&mut self, after: Position) -> Result<(), StoreError> {
        self.journal.append(self.entry.bytes())?;
        let watch = Stopwatch::start();
        self.journal.sync()?;
        self.shared
            .metrics
            .sync_duration
            .observe(watch.nanoseconds());
        self.journal.mark(after)
    }

    /// Makes a group visible, then tells those who wait.
    fn publish(&self, group: Vec<Judged>, after: Position) {
        self.shared.overlay.synced(after);
        let mut keys: Vec<(FullKey, u32)> = Vec::new();
        let mut changed = [false; Space::ALL.len()];
        let mut told = Vec::with_capacity(group.len());
        for Judged { mut job, verdict } in group {
            let changes = std::mem::take(&mut job.changes);
            let count = changes.len();
            if verdict.is_ok() {
                for change in changes {
                    let (space, key) = (change.step.space(), change.step.key());
                    keys.push(([&[space], key].concat().into(), change.step.bytes() as u32));
                    changed[usize::from(space) - 1] = true;
                    match change.step {
                        Todo::Put(packed) => self.shared.index.put(packed.view()),
                        Todo::Delete { space, key } => {
                            self.shared.index.remove(space.number(), &key)
                        }
                    };
                }
            }
            told.push((job, verdict, count));
        }
        self.shared.metrics.batch_changes.observe(keys.len() as u64);
        self.shared.overlay.publish(keys, after);
        self.shared.bump_epochs(changed);
        for (job, verdict, count) in told {
            if let Ok(Committed { sequence }) = verdict {
                self.shared.disk.note(|| Event::Acknowledge(sequence));
            }
            self.shared.tell(job, verdict, count);
        }
    }

    /// Gives each batch its sequence, or the reason why not; the position after the group.
    fn judge(&self, mut jobs: Vec<Job>) -> (Vec<Judged>, Position) {
        let mut after = self.position;
        let mut verdicts = Vec::with_capacity(jobs.len());
        let mut touched = Touched::default();
        for job in &mut jobs {
            let sequence = after.sequence + 1;
            for change in &mut job.changes {
                if let Todo::Put(packed) = &mut change.step {
                    packed.seal(sequence);
                }
            }
            let verdict = self.judge_batch(job, &mut touched, after);
            verdicts.push(verdict.map(|next| {
                after = Position { sequence, ..next };
                Committed { sequence }
            }));
        }
        drop(touched);
        let judged = jobs
            .into_iter()
            .zip(verdicts)
            .map(|(job, verdict)| Judged { job, verdict });
        (judged.collect(), after)
    }

    /// Checks the expectations of one batch against the index and what the group did before.
    fn judge_batch<'a>(
        &self,
        job: &'a Job,
        touched: &mut Touched<'a>,
        mut position: Position,
    ) -> Result<Position, CommitError> {
        let mut undo = Vec::new();
        for (number, change) in job.changes.iter().enumerate() {
            let place = (change.step.space(), change.step.key());
            let known = touched.get(&place).copied();
            let judge = |record: Record<'_>, checksum| {
                let figures = (record.generation(), checksum);
                (Some(figures), is_claimed(change, record))
            };
            let old = match known {
                Some(found) => found.map(|found| judge(found.record(), found.checksum())),
                None => self.reader.with(place.0, place.1, |found| {
                    judge(found.record(), found.checksum())
                }),
            };
            let (old, claimed) = old.unwrap_or((None, false));
            if claimed || !change.expect.holds(old.map(|(generation, _)| generation)) {
                for (place, before) in undo.into_iter().rev() {
                    match before {
                        Some(before) => touched.insert(place, before),
                        None => touched.remove(&place),
                    };
                }
                return Err(CommitError::Conflict {
                    change: number,
                    found: old.map(|(found, _)| found),
                });
            }
            let new = match &change.step {
                Todo::Put(packed) => Some(packed),
                Todo::Delete { .. } => None,
            };
            position.exchange(old.map(|(_, sum)| sum), new.map(Packed::checksum));
            undo.push((place, touched.insert(place, new)));
        }
        Ok(position)
    }

    fn encode(&mut self, group: &[Judged], after: Position) {
        self.entry.begin();
        for judged in group.iter().filter(|judged| judged.verdict.is_ok()) {
            self.entry.batch(judged.job.changes.len(), &judged.job.note);
            for change in &judged.job.changes {
                self.entry.change(&change.step.as_step());
            }
        }
        self.entry.finish(
            self.shared.identity.epoch,
            self.position.sequence + 1,
            after,
        );
    }

    /// Takes entries of the journal that this one is a copy of, with one sync for all.
    fn replicate(&mut self, entries: &[Entry<'_>]) -> Result<(), ReplicaError> {
        self.takes_copies()?;
        let watch = Stopwatch::start();
        let (changes, after) = self.follow(entries)?;
        let bytes: Vec<&[u8]> = entries.iter().map(|entry| entry.bytes).collect();
        self.entry.copy(&bytes.concat());
        let reserved = self
            .journal
            .reserve(self.position, self.entry.bytes().len());
        reserved.map_err(|error| match error.is_disk_full() {
            true => CommitError::DiskFull,
            false => CommitError::ReadOnly(self.stop(&error)),
        })?;
        if let Err(error) = self.write(after) {
            return Err(CommitError::ReadOnly(self.stop(&error)).into());
        }
        self.position = after;
        self.publish_copies(changes, after);
        self.shared
            .metrics
            .commit_duration
            .observe(watch.nanoseconds());
        Ok(())
    }

    /// The changes of entries that continue what is here and come to what they say, and the state after them.
    fn follow<'e>(
        &self,
        entries: &[Entry<'e>],
    ) -> Result<(Vec<Change<'e>>, Position), ReplicaError> {
        let (mut position, mut changes) = (self.position, Vec::new());
        let mut touched: HashMap<(u8, &'e [u8]), Option<u64>, RandomState> = HashMap::default();
        for entry in entries {
            if entry.first != position.sequence + 1 {
                let (wanted, found) = (position.sequence + 1, entry.first);
                let what = format!("sequence {found} came for {wanted}");
                return Err(ReplicaError::Diverged(what));
            }
            let from = changes.len();
            let mut whole = entry.for_each(|change| changes.push(change));
            for change in &changes[from..] {
                let (space, key, new) = match *change {
                    Change::Put(packed) => {
                        whole &= Space::from_number(packed.space_number()).is_some();
                        (packed.space_number(), packed.key(), Some(packed.checksum()))
                    }
                    Change::Delete { space, key } => (space, key, None),
                    // A run is the only change of its entry, which does not come this way.
                    Change::Run(_) => continue,
                };
                let old = match touched.insert((space, key), new) {
                    Some(known) => known,
                    None => self.reader.with(space, key, |found| found.checksum()),
                };
                position.exchange(old, new);
            }
            position.sequence = entry.after.sequence;
            if !whole || position != entry.after {
                let what = format!(
                    "the state after sequence {} is another one",
                    position.sequence
                );
                return Err(ReplicaError::Diverged(what));
            }
        }
        Ok((changes, position))
    }

    /// Makes the changes of another store visible.
    fn publish_copies(&self, changes: Vec<Change<'_>>, after: Position) {
        self.shared.overlay.synced(after);
        let mut keys: Vec<(FullKey, u32)> = Vec::with_capacity(changes.len());
        let mut changed = [false; Space::ALL.len()];
        for change in &changes {
            let space = match *change {
                Change::Put(packed) => {
                    self.shared.index.put(packed);
                    packed.space_number()
                }
                Change::Delete { space, key } => {
                    self.shared.index.remove(space, key);
                    space
                }
                Change::Run(_) => continue,
            };
            changed[usize::from(space) - 1] = true;
            if let Some((key, bytes)) = change.place() {
                keys.push((key.into(), bytes as u32));
            }
        }
        let metrics = &self.shared.metrics;
        metrics.batch_changes.observe(keys.len() as u64);
        metrics.count_changes(Outcome::Committed, keys.len());
        self.shared.overlay.publish(keys, after);
        self.shared.bump_epochs(changed);
        self.shared.disk.note(|| Event::Acknowledge(after.sequence));
    }

    /// Takes a run of the store that this one is a copy of, with the entry that names it.
    fn replicate_run(
        &mut self,
        entry: Entry<'_>,
        written: Written,
        stage: Stage,
    ) -> Result<(), ReplicaError> {
        self.takes_copies()?;
        let index = Arc::clone(&self.shared.index);
        let prepared = index.prepare(stage);
        let before = self.position;
        let after = Position {
            sequence: before.sequence + 1,
            count: before.count.saturating_add_signed(prepared.count),
            sum: before.sum ^ prepared.sum,
        };
        if after != entry.after {
            let what = format!(
                "the state after the run of {} is another one",
                entry.after.sequence
            );
            return Err(ReplicaError::Diverged(what));
        }
        self.entry.copy(entry.bytes);
        self.settle_run(written, prepared, (before, after))?;
        Ok(())
    }

    /// Whether the disk takes what comes.
    fn takes_copies(&self) -> Result<(), CommitError> {
        match self.shared.read_only() {
            Some(reason) => Err(CommitError::ReadOnly(reason)),
            None if self.shared.disk_is_low() => Err(CommitError::DiskFull),
            None => Ok(()),
        }
    }

    /// No segment could be reserved: nothing is lost, and the next group tries again.
    fn no_room(&self, group: Vec<Judged>, error: &StoreError) {
        if !error.is_disk_full() {
            return self.fail(group, error);
        }
        tracing::error!(event = "disk.full", %error, "the disk is full: writes are refused, reads go on");
        self.refuse(
            group.into_iter().map(|judged| judged.job).collect(),
            &CommitError::DiskFull,
        );
    }

    /// The journal failed: nobody knows what of the group is on the disk, so nothing more may be written.
    fn fail(&self, group: Vec<Judged>, error: &StoreError) {
        let reason = self.stop(error);
        for judged in group {
            self.shared
                .metrics
                .count_changes(Outcome::Failed, judged.job.changes.len());
            call(judged.job, Err(CommitError::ReadOnly(Arc::clone(&reason))));
        }
    }

    /// Takes no writes from now on; the reason.
    fn stop(&self, error: &StoreError) -> Arc<str> {
        let reason: Arc<str> =
            format!("{error}; close the store, make sure of the disk, open it again").into();
        self.shared.metrics.count_error(Part::Journal);
        self.shared.set_read_only(Arc::clone(&reason));
        reason
    }

    fn refuse(&self, jobs: Vec<Job>, reason: &CommitError) {
        self.shared
            .complete(jobs.into_iter().map(|job| (job, Err(reason.clone()))));
    }
}

/// Whether a key that must be free or the same handle's belongs to another one.
fn is_claimed(change: &Prepared, found: Record<'_>) -> bool {
    match (change.expect, &change.step) {
        (Expect::Unclaimed, Todo::Put(put)) => found.handle() != put.record().handle(),
        _ => false,
    }
}

/// Writes until the queue ends.
pub(crate) fn run(shared: &Shared) {
    while shared.queue.wait() {
        shared.overlay.wait_room(Limits::of(shared));
        let mut writer = shared.writer_in_turn();
        // What came while another thread was writing goes with it.
        if let (Some(writer), Some(jobs)) =
            (&mut *writer, shared.queue.take(shared.config.group_bytes))
        {
            writer.commit(jobs);
        }
    }
    if let Some(writer) = shared.writer().take() {
        writer.close();
    }
}

/// Writes one batch on this thread, unless others wait or the writer is at work: then it comes back.
pub(crate) fn write_here(shared: &Shared, job: Job) -> Result<(), Job> {
    let Some(mut writer) = shared.idle_writer() else {
        return Err(job);
    };
    let Some(idle) = writer
        .as_mut()
        .filter(|_| shared.queue.is_idle() && shared.overlay.has_room(Limits::of(shared)))
    else {
        return Err(job);
    };
    if catch_unwind(AssertUnwindSafe(|| idle.commit(vec![job]))).is_err() {
        *writer = None;
        shared.lose_writer();
    }
    Ok(())
}

/// Has a batch decided and written on this thread while nobody else writes. It comes back while nobody can.
pub(crate) fn write_decided(
    shared: &Shared,
    decide: impl FnOnce() -> Option<Encoded>,
) -> Option<Encoded> {
    shared.overlay.wait_room(Limits::of(shared));
    let mut writer = shared.writer_in_turn();
    let job = decide()?;
    match (job, writer.as_mut()) {
        (Ok(job), Some(at_work)) => {
            if catch_unwind(AssertUnwindSafe(|| at_work.commit(vec![job]))).is_err() {
                *writer = None;
                shared.lose_writer();
            }
            None
        }
        (unwritten, _) => Some(unwritten),
    }
}

/// Takes entries of the journal that the store is a copy of, on this thread.
pub(crate) fn replicate(shared: &Shared, entries: &[Entry<'_>]) -> Result<(), ReplicaError> {
    if entries.is_empty() {
        return Ok(());
    }
    shared.overlay.wait_room(Limits::of(shared));
    with_writer(shared, |writer| writer.replicate(entries))
}

/// As [`replicate`], for the entry of a run.
pub(crate) fn replicate_run(
    shared: &Shared,
    entry: Entry<'_>,
    written: Written,
    stage: Stage,
) -> Result<(), ReplicaError> {
    with_writer(shared, |writer| writer.replicate_run(entry, written, stage))
}

fn with_writer(
    shared: &Shared,
    work: impl FnOnce(&mut Writer) -> Result<(), ReplicaError>,
) -> Result<(), ReplicaError> {
    let mut writer = shared.writer_in_turn();
    let Some(at_work) = writer.as_mut() else {
        return Err(CommitError::Closed.into());
    };
    match catch_unwind(AssertUnwindSafe(|| work(at_work))) {
        Ok(done) => done,
        Err(_) => {
            *writer = None;
            shared.lose_writer();
            Err(CommitError::Closed.into())
        }
    }
}

impl Limits {
    fn of(shared: &Shared) -> Self {
        Self {
            changes: shared.config.lag_changes,
            bytes: shared.config.lag_bytes,
        }
    }
}

impl Shared {
    /// After a panic of the writer: nobody waits for it.
    pub(crate) fn lose_writer(&self) {
        let reason: Arc<str> = "the writer panicked; the log says where".into();
        self.set_read_only(Arc::clone(&reason));
        self.refuse_waiting(&CommitError::ReadOnly(reason));
    }

    /// Tells those who wait.
    fn complete(&self, outcomes: impl Iterator<Item = (Job, Result<Committed, CommitError>)>) {
        for (job, outcome) in outcomes {
            let changes = job.changes.len();
            self.tell(job, outcome, changes);
        }
    }

    /// Refuses everything in a queue that takes nothing any more.
    pub(crate) fn refuse_waiting(&self, reason: &CommitError) {
        self.queue.refuse(reason.clone());
        while let Some(jobs) = self.queue.take(usize::MAX) {
            self.complete(jobs.into_iter().map(|job| (job, Err(reason.clone()))));
        }
    }

    /// Tells the one who waits for a batch of so many changes.
    pub(crate) fn tell(&self, job: Job, outcome: Result<Committed, CommitError>, changes: usize) {
        let result = if outcome.is_ok() {
            Outcome::Committed
        } else {
            Outcome::Refused
        };
        self.metrics.count_changes(result, changes);
        call(job, outcome);
    }
}

/// Calls the completion of a batch. One that panics must not end the writer.
fn call(job: Job, outcome: Result<Committed, CommitError>) {
    let done = job.done;
    if catch_unwind(AssertUnwindSafe(|| done(outcome))).is_err() {
        tracing::error!(
            event = "store.completion_panicked",
            "the completion of a batch panicked"
        );
    }
}
