//! The thread that keeps the store well: it loads it, starts writer and applier, watches the applier and the disk, takes
//! snapshots when the journal has grown, scrubs, and closes everything at the end.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::RecvTimeoutError;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::setpriority_process;

use super::State;
use super::applier::{self, Begin};
use super::change::CommitError;
use super::disk;
use super::error::StoreError;
use super::index::Miss;
use super::journal::{self, Journal, tail};
use super::loader::{self, Loaded};
use super::metrics::{Part, Stopwatch};
use super::run;
use super::shared::{Holder, Requests, Shared};
use super::sled::{self, EngineError};
use super::times::Times;
use super::writer::{self, Writer};
use super::{snapshot, verify};

/// Priority of background work, from 0 (like all other) to 19.
const NICE: i32 = 15;
/// How much longer a sync of sled may take than anything else.
const SYNC_FACTOR: u32 = 6;
/// Pause before a failed rebuild or snapshot is tried again, at first and at most.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(300);
/// sled's file is at most so many times as large as the data it is made of, in order.
const SLED_FACTOR: u64 = 3;
/// How often closing looks whether the applier has ended.
const CLOSE_PAUSE: Duration = Duration::from_millis(2);
/// sled is made anew when its file is this many times as large as the live data …
const COMPACT_FACTOR: u64 = 5;
/// … and larger than this: small files are not worth it.
const COMPACT_BYTES: u64 = 256 << 20;

/// Runs a store until it is closed.
pub(crate) fn run(shared: Arc<Shared>) {
    refresh_disk(&shared);
    let mut known = guarded(|| loader::load(&shared));
    loop {
        let loaded = known.and_then(|known| guarded(|| settle(&shared, known)));
        match loaded.and_then(|loaded| Keeper::start(Arc::clone(&shared), loaded)) {
            Ok(keeper) => {
                keeper.keep();
                if shared.is_closing() {
                    break;
                }
            }
            Err(StoreError::Closed) => break,
            Err(error) => {
                shared.set_failed(&error);
                shared.refuse_waiting(&CommitError::ReadOnly(error.to_string().into()));
                while !shared.take_requests(Duration::MAX).stop {}
                break;
            }
        }
        // The files were given away; the index stays, and is what this process knows when it takes them back.
        known = Ok(Loaded::at(shared.overlay.durable()));
    }
    shared.refuse_waiting(&CommitError::Closed);
    shared.unlock();
}

/// Loads something; a panic is an error like another.
fn guarded(load: impl FnOnce() -> Result<Loaded, StoreError>) -> Result<Loaded, StoreError> {
    let loaded = catch_unwind(AssertUnwindSafe(load));
    loaded.unwrap_or(Err(StoreError::Unavailable(
        "loading panicked; the log says where",
    )))
}

/// Makes the files ready to be written, when they are this process's: with what another one wrote, up to the end of the
/// journal.
fn settle(shared: &Shared, known: Loaded) -> Result<Loaded, StoreError> {
    let loaded = match shared.holder() {
        Holder::Settling => known,
        holder => {
            if holder == Holder::Beside {
                shared.set_holder(Holder::Filled);
            }
            if !shared.wait_granted() {
                return Err(StoreError::Closed);
            }
            loader::catch_up(shared, known)?
        }
    };
    tail::cut(&shared.disk, shared.dir(), &loaded.tail)?;
    Ok(loaded)
}

/// Writes until the queue ends, and sees to it that nobody waits for a writer that is gone.
fn write(shared: &Shared) {
    if catch_unwind(AssertUnwindSafe(|| writer::run(shared))).is_err() {
        shared.writer().take();
        shared.lose_writer();
    }
}

/// What the keeper looks after.
struct Keeper {
    shared: Arc<Shared>,
    writer: JoinHandle<()>,
    applier: Option<Applier>,
    snapshot: Option<JoinHandle<bool>>,
    /// Since when no applier runs, and how long to wait with the next one.
    without_applier: Stopwatch,
    applier_retry: Duration,
    /// Likewise for snapshots.
    since_snapshot: Stopwatch,
    snapshot_retry: Duration,
    since_scrub: Stopwatch,
    /// A snapshot must take the place of everything older.
    renew: bool,
    /// Whether the log says that there is no space for sled.
    told_no_room: bool,
    times: Times,
}

/// A running applier, and when it last gave a sign of life.
struct Applier {
    thread: JoinHandle<Result<(), EngineError>>,
    progress: u64,
    seen: Stopwatch,
    /// When this was last looked at.
    looked: Stopwatch,
}

impl Applier {
    /// How long it has given no sign of life, when that is too long.
    fn out_of_patience(&mut self, shared: &Shared) -> Option<Duration> {
        // When nobody has looked for so long, this process stood still, and so did the applier: a machine that was suspended
        // or moved. It begins anew.
        let stood = self.looked.elapsed() > shared.config.applier_patience / 2;
        self.looked = Stopwatch::start();
        let progress = shared.progress.load(Relaxed);
        if progress != self.progress || shared.opening.load(Relaxed) || stood {
            self.progress = progress;
            self.seen = Stopwatch::start();
        }
        let factor = if shared.syncing.load(Relaxed) {
            SYNC_FACTOR
        } else {
            1
        };
        let patience = shared.config.applier_patience.saturating_mul(factor);
        (self.seen.elapsed() > patience).then_some(patience)
    }
}

impl Keeper {
    /// Begins service with what was loaded.
    fn start(shared: Arc<Shared>, loaded: Loaded) -> Result<Self, StoreError> {
        let Loaded {
            position,
            engine,
            pending,
            mut runs,
            renew,
            healed,
            attach,
            tail: _,
        } = loaded;
        let journal = Journal::new(
            shared.disk.clone(),
            shared.dir(),
            shared.config.segment_bytes,
            shared.identity.epoch,
        )?;
        journal.mark(position)?;
        journal.sync_mark()?;
        note_snapshots(&shared);
        for run in &mut runs {
            run.settle(&shared.disk, shared.dir())?;
        }
        run::remove_orphans(&shared.disk, shared.dir())?;
        let pending = if engine.is_some() {
            pending
        } else {
            BTreeMap::new()
        };
        if let Some((_, applied)) = &engine {
            shared.synced_sequence.store(applied.sequence, Relaxed);
        }
        shared.overlay.load(position, engine.clone(), pending, runs);
        shared.index.set_miss(Miss::Absent);
        // Who waits for the store to be ready may write on a thread of its own then.
        let writer = Writer::new(Arc::clone(&shared), journal, position);
        *shared.writer() = Some(writer);
        if healed && engine.is_none() {
            set_aside(&shared, true);
            shared.set_state(State::Degraded);
        } else {
            shared.set_state(State::Ready);
        }
        shared.queue.pause(false);
        let writing = Arc::clone(&shared);
        let writer = spawn("store-writer", move || write(&writing))?;
        shared.set_holder(Holder::Here);
        let times = Times::new(shared.disk.clone(), shared.dir(), shared.identity.epoch);
        let mut keeper = Self {
            shared,
            times,
            writer,
            applier: None,
            snapshot: None,
            without_applier: Stopwatch::start(),
            applier_retry: Duration::ZERO,
            since_snapshot: Stopwatch::start(),
            snapshot_retry: Duration::ZERO,
            since_scrub: Stopwatch::start(),
            renew,
            told_no_room: false,
        };
        keeper.start_applier(match engine {
            Some((engine, _)) => Begin::Loaded(engine),
            None if attach => Begin::Found,
            None => Begin::Anew,
        });
        Ok(keeper)
    }

    fn keep(mut self) {
        loop {
            let requests = self
                .shared
                .take_requests(self.shared.config.housekeeping_interval);
            if requests.stop || self.shared.is_stopping() {
                break;
            }
            let done = catch_unwind(AssertUnwindSafe(|| self.look(requests)));
            if done.is_err() {
                tracing::error!(
                    event = "store.housekeeping_panicked",
                    "housekeeping panicked; it goes on"
                );
            }
        }
        self.close();
    }

    fn look(&mut self, requests: Requests) {
        refresh_disk(&self.shared);
        self.note_time();
        self.shared.index.tend();
        self.renew |= requests.renew;
        if requests.rebuild {
            self.give_up_applier("a part of it cannot be read", false);
        } else if requests.anew {
            tracing::info!(
                event = "sled.rebuild_asked",
                "sled is made anew, as was asked for; reads and writes go on"
            );
            self.leave_applier(false);
        }
        self.watch_applier();
        self.watch_snapshot();
        self.scrub();
    }

    /// Notes which sequence is the newest now: it was acknowledged before the clock is read.
    fn note_time(&mut self) {
        let sequence = self.shared.overlay.durable().sequence;
        self.times.note(sequence, (self.shared.config.now)());
    }

    // -------------------------------------------------------------------------------------------- applier

    fn start_applier(&mut self, begin: Begin) {
        let shared = Arc::clone(&self.shared);
        // With a loaded engine this is the first applier, which the overlay already expects.
        let lane = match begin {
            Begin::Loaded(_) => 0,
            Begin::Found | Begin::Anew => shared.overlay.detach().0,
        };
        let body = move || {
            let run = catch_unwind(AssertUnwindSafe(|| applier::run(&shared, lane, begin)));
            run.unwrap_or_else(|_| Err(EngineError::other("sled panicked")))
        };
        match spawn_behind("store-applier", body) {
            Ok(thread) => {
                let progress = self.shared.progress.load(Relaxed);
                self.applier = Some(Applier {
                    thread,
                    progress,
                    seen: Stopwatch::start(),
                    looked: Stopwatch::start(),
                });
            }
            Err(error) => {
                tracing::error!(event = "sled.applier_failed", %error, "the applier could not be started; it is tried again")
            }
        }
    }

    /// Looks after the applier: one that ended or hangs is given up, and there is always another one.
    fn watch_applier(&mut self) {
        let Some(applier) = &mut self.applier else {
            if self.without_applier.elapsed() >= self.applier_retry && self.has_room_for_sled() {
                self.start_applier(Begin::Anew);
            }
            return;
        };
        if applier.thread.is_finished() {
            let ended = self.applier.take().map(|applier| applier.thread.join());
            let error = match ended {
                Some(Ok(Err(error))) => error,
                // It ends with the store, and what it has not applied is in the journal: its sled is sound.
                Some(Ok(Ok(()))) if self.shared.is_stopping() => {
                    self.applier_retry = RETRY_FIRST;
                    self.without_applier = Stopwatch::start();
                    return;
                }
                _ => EngineError::other("the applier ended"),
            };
            return self.give_up_applier(&error.message, error.disk_full);
        }
        if let Some(patience) = applier.out_of_patience(&self.shared) {
            self.give_up_applier(
                &format!("sled made no progress for {} s", patience.as_secs_f64()),
                false,
            );
        }
    }

    /// Whether a new sled would fit without taking the space that the journal needs.
    fn has_room_for_sled(&mut self) -> bool {
        let needed = self.shared.index.bytes() * SLED_FACTOR + self.shared.config.guard_free_bytes;
        let free = self.shared.free_bytes.load(Relaxed);
        let fits = free >= needed && !self.shared.disk_is_low();
        if !fits && !self.told_no_room {
            tracing::error!(
                event = "sled.no_room",
                free,
                needed,
                "sled cannot be made anew: free some space on the disk"
            );
        }
        self.told_no_room = !fits;
        fits
    }

    /// Goes on without sled, from journal and index.
    fn give_up_applier(&mut self, reason: &str, disk_full: bool) {
        tracing::error!(
            event = "sled.given_up",
            reason,
            "sled is given up; reads and writes go on, and it is made anew"
        );
        self.shared.metrics.count_error(Part::Sled);
        self.leave_applier(disk_full);
    }

    /// Leaves sled, which is made anew.
    fn leave_applier(&mut self, disk_full: bool) {
        self.shared.set_state(State::Degraded);
        let (_, engine) = self.shared.overlay.detach();
        self.shared.syncing.store(false, Relaxed);
        if let Some(engine) = engine {
            sled::close_aside(engine);
        }
        set_aside(&self.shared, !disk_full && !self.shared.disk_is_low());
        // A thread that hangs is left to itself: it works on files that nobody reads.
        self.applier = None;
        let first = self.without_applier.elapsed() > RETRY_MAX || self.applier_retry.is_zero();
        self.applier_retry = if first && !disk_full {
            RETRY_FIRST / 10
        } else {
            (self.applier_retry * 2).clamp(RETRY_FIRST, RETRY_MAX)
        };
        self.without_applier = Stopwatch::start();
    }

    // -------------------------------------------------------------------------------------------- snapshots

    fn watch_snapshot(&mut self) {
        if let Some(running) = self.snapshot.take_if(|running| running.is_finished()) {
            let taken = running.join().unwrap_or(false);
            self.since_snapshot = Stopwatch::start();
            self.snapshot_retry = if taken {
                Duration::ZERO
            } else {
                (self.snapshot_retry * 2).clamp(RETRY_FIRST, RETRY_MAX)
            };
            self.renew &= !taken;
            if taken {
                self.compact();
            }
        }
        let wanted = self.renew || snapshot_is_due(&self.shared);
        let has_runs = self.shared.overlay.runs().1;
        let possible = self.snapshot.is_none() && has_runs && self.shared.state() == State::Ready;
        if wanted && possible && self.since_snapshot.elapsed() >= self.snapshot_retry {
            let (shared, renew) = (Arc::clone(&self.shared), self.renew);
            let taking = move || {
                let taken = catch_unwind(AssertUnwindSafe(|| snapshot::take(&shared, renew)));
                taken.is_ok_and(|taken| shared.snapshot_outcome(taken).is_ok())
            };
            self.snapshot = spawn_behind("store-snapshot", taking).ok();
        }
    }

    /// Makes sled anew when its file has grown out of proportion: it never shrinks.
    fn compact(&mut self) {
        let bytes = self
            .shared
            .overlay
            .wait_engine(Duration::ZERO)
            .map_or(0, |(engine, _)| engine.bytes());
        let live = self.shared.index.bytes();
        if bytes > COMPACT_BYTES && bytes > live.saturating_mul(COMPACT_FACTOR) {
            self.give_up_applier(
                &format!("its file has {bytes} bytes for {live} of live data"),
                false,
            );
        }
    }

    // -------------------------------------------------------------------------------------------- the rest

    fn scrub(&mut self) {
        let interval = self.shared.config.scrub_interval;
        if interval.is_zero()
            || self.since_scrub.elapsed() < interval
            || self.shared.state() != State::Ready
        {
            return;
        }
        self.since_scrub = Stopwatch::start();
        let shared = Arc::clone(&self.shared);
        let started = spawn_behind("store-scrub", move || match verify::verify(&shared) {
            Ok(report) if report.is_good() => {
                tracing::info!(
                    event = "scrub.good",
                    records = report.sled_records,
                    "scrub: all is well"
                )
            }
            Ok(report) => {
                tracing::error!(
                    event = "scrub.damage",
                    problems = report.problems.join("; "),
                    "scrub: damage was found and is being healed"
                )
            }
            Err(error) => {
                tracing::warn!(event = "scrub.postponed", %error, "scrub: not possible now")
            }
        });
        if let Err(error) = started {
            tracing::warn!(event = "scrub.no_thread", %error, "scrub: no thread");
        }
    }

    /// Ends the writer, then lets the applier finish. When the files are given away, that is so as soon as the writer has
    /// ended: sled, which is behind, follows.
    fn close(mut self) {
        match self.shared.is_closing() {
            true => self.shared.queue.refuse(CommitError::Closed),
            false => self.shared.queue.pause(true),
        }
        // It may wait for an applier that hangs.
        while !self.writer.is_finished() {
            self.watch_applier();
            thread::sleep(CLOSE_PAUSE);
        }
        self.note_time();
        if self.shared.holder() == Holder::Leaving {
            self.shared.set_holder(Holder::Away);
        }
        self.shared.overlay.stop();
        let mut hangs = false;
        if let Some(mut applier) = self.applier.take() {
            while !applier.thread.is_finished() && !hangs {
                hangs = applier.out_of_patience(&self.shared).is_some();
                thread::sleep(CLOSE_PAUSE);
            }
            if hangs {
                tracing::error!(
                    event = "sled.hangs",
                    "sled hangs; the journal has what it lacks"
                );
            } else if let Ok(Err(error)) = applier.thread.join() {
                tracing::error!(
                    event = "sled.failed_at_end",
                    error = error.message,
                    "sled failed at the end; the journal has what it lacks"
                );
            }
        }
        if let Some(snapshot) = self.snapshot.take() {
            drop(snapshot.join());
        }
        let (_, engine) = self.shared.overlay.detach();
        // Closing writes what is left, as a sync does.
        let patience = self
            .shared
            .config
            .applier_patience
            .saturating_mul(SYNC_FACTOR);
        let closed = engine.map(|engine| sled::close_aside(engine).recv_timeout(patience));
        if closed == Some(Err(RecvTimeoutError::Timeout)) {
            tracing::error!(
                event = "sled.not_closed",
                "sled does not close; the journal has what it lacks"
            );
        }
    }
}

impl Shared {
    /// Looks at the outcome of a snapshot: damage that it came upon is healed.
    pub(crate) fn snapshot_outcome<T>(
        &self,
        taken: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if let Err(error) = &taken {
            self.metrics.count_error(Part::Snapshot);
            match error {
                StoreError::Closed => {}
                StoreError::Damaged { .. } => {
                    tracing::error!(event = "snapshot.found_damage", %error, "snapshot: not taken, and sled is made anew");
                    self.request(|requests| requests.rebuild = true);
                }
                error => tracing::error!(event = "snapshot.failed", %error, "snapshot: not taken"),
            }
        }
        taken
    }
}

/// Puts sled's files aside.
fn set_aside(shared: &Shared, keep: bool) {
    let aside = sled::numbers(shared.dir()).and_then(|(newest, _)| match newest {
        Some(number) => sled::quarantine(&sled::directory(shared.dir(), number), keep),
        None => Ok(()),
    });
    if let Err(error) = aside {
        tracing::error!(event = "sled.not_put_aside", %error, "sled's old files could not be put aside");
    }
}

/// Whether the journal has grown so much since the last snapshot that another one is due.
fn snapshot_is_due(shared: &Shared) -> bool {
    let (Ok(snapshots), Ok(segments)) = (
        snapshot::list(shared.dir()),
        journal::segments(shared.dir()),
    ) else {
        return false;
    };
    let newest = snapshots.first().map_or(0, |(sequence, _)| *sequence);
    let since = segments.iter().filter(|segment| segment.first > newest);
    let grown: u64 = since.map(|segment| segment.bytes).sum();
    let runs = run::list(shared.dir()).into_iter();
    let runs = runs.filter(|(sequence, ..)| *sequence > newest);
    let grown = grown + runs.map(|(.., bytes)| bytes).sum::<u64>();
    let share = shared.index.bytes() / 100 * shared.config.snapshot_live_percent;
    grown >= shared.config.snapshot_journal_bytes.max(share)
}

/// Lets the figures know of the snapshots that are there.
fn note_snapshots(shared: &Shared) {
    let newest = snapshot::list(shared.dir())
        .ok()
        .and_then(|all| all.into_iter().next());
    if let Some((sequence, path)) = newest
        && let (Ok(manifest), Ok(metadata)) = (snapshot::read_manifest(&path), path.metadata())
    {
        let metrics = &shared.metrics;
        metrics.snapshot_timestamp.store(manifest.created, Relaxed);
        metrics.snapshot_sequence.store(sequence, Relaxed);
        metrics.snapshot_bytes.store(metadata.len(), Relaxed);
    }
}

/// Looks how much of the disk is free.
fn refresh_disk(shared: &Shared) {
    let Ok((free, total)) = disk::free_space(shared.dir()) else {
        return;
    };
    shared.free_bytes.store(free, Relaxed);
    let reserve = shared.config.reserve_bytes(total);
    shared.reserve_bytes.store(reserve, Relaxed);
    let low = free < reserve;
    if shared.set_disk_low(low) {
        if low {
            tracing::error!(
                event = "disk.low",
                free,
                total,
                "the disk is nearly full: writes are refused, reads go on"
            );
        } else {
            tracing::info!(
                event = "disk.recovered",
                free,
                total,
                "there is space on the disk: writes are taken"
            );
        }
    }
}

/// As [`spawn`], for work that look-ups and writes come before. Threads that it starts, sled's among them, come after
/// them, too.
fn spawn_behind<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, StoreError> {
    spawn(name, move || {
        // On Linux "this process" is this thread. Not allowed to be nice, it is only less nice.
        if let Err(error) = setpriority_process(None, NICE) {
            tracing::debug!(%error, "background work has the priority of all other");
        }
        body()
    })
}

fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, StoreError> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(body);
    spawned.map_err(|_| StoreError::Unavailable("the system gives no more threads"))
}
