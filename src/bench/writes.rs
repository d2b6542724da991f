//! Records written while look-ups are measured: into a running node, over its control socket, at a fixed rate. What is due
//! is a small import of its own, so that it is on disk, and seen, while look-ups go on.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::runtime::Runtime;

use super::Failure;
use super::records::{Records, mix};
use crate::bulk::import::Known;
use crate::control::client::{ControlError, Node};
use crate::control::command::{Command, Outcome};

/// How often what is due is written.
const TICK: Duration = Duration::from_millis(20);
/// Records of one import at most: so many are one batch of the store.
const AT_ONCE: u64 = 1_000;

/// What was written.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Written {
    /// Records that were due each second.
    pub asked_per_second: f64,
    /// Records that are on disk.
    pub records: u64,
    /// How many that were each second.
    pub records_per_second: f64,
}

/// Writes until it is told to stop.
#[derive(Debug)]
pub struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Written, Failure>>,
}

impl Writer {
    /// Begins to overwrite `records` of the node whose control socket is `socket`, `rate` a second, in an order that
    /// `seed` determines. Handles stay; values change.
    ///
    /// # Errors
    /// No thread to be had.
    pub fn start(socket: PathBuf, records: Records, rate: f64, seed: u64) -> Result<Self, Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut lines = Lines {
            records,
            rate,
            seed,
            begun: Instant::now(),
            made: 0,
        };
        let stopping = Arc::clone(&stop);
        let work = move || write(&socket, &mut lines, &stopping);
        let thread = std::thread::Builder::new()
            .name("writes".into())
            .spawn(work)?;
        Ok(Self { stop, thread })
    }

    /// Writes no more, and says what was written.
    ///
    /// # Errors
    /// The node refused a record, or is gone.
    pub fn finish(self) -> Result<Written, Failure> {
        self.stop.store(true, Relaxed);
        self.thread
            .join()
            .map_err(|_| Failure::new("the writing thread panicked"))?
    }
}

/// One import after the other, until it is told to stop.
fn write(socket: &Path, lines: &mut Lines, stop: &AtomicBool) -> Result<Written, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut written = 0;
    let mut text = Vec::new();
    while !stop.load(Relaxed) {
        let began = Instant::now();
        lines.make(&mut text);
        if !text.is_empty() {
            written += import(&runtime, socket, &text)?;
        }
        std::thread::sleep(TICK.saturating_sub(began.elapsed()));
    }
    let each = written as f64 / lines.begun.elapsed().as_secs_f64();
    Ok(Written {
        asked_per_second: lines.rate,
        records: written,
        records_per_second: each.round(),
    })
}

/// Has the node import these lines; they are on its disk when this returns. How many that were.
fn import(runtime: &Runtime, socket: &Path, lines: &[u8]) -> Result<u64, Failure> {
    let failed = |error: &dyn fmt::Display| Failure::new(format_args!("writing: {error}"));
    let node = Node::connect(socket)
        .map_err(|error| failed(&error))?
        .ok_or_else(|| failed(&"the node is gone"))?;
    let import = Command::Import {
        keep_going: false,
        live: false,
        known: Known::Overwrite,
        dry_run: false,
    };
    match runtime.block_on(node.run(import, Some(lines), |_| Ok(()), |_| ())) {
        Ok(Outcome::Counts(counts)) => Ok(counts.records),
        Ok(_) => Err(Failure::new("the node answered another command")),
        Err(ControlError::Failed(failure)) => Err(Failure::new(failure.message)),
        Err(
            ControlError::Connection(error)
            | ControlError::Input(error)
            | ControlError::Output(error),
        ) => Err(failed(&error)),
    }
}

/// The lines of the records that are due, as an import reads them.
#[derive(Debug)]
struct Lines {
    records: Records,
    rate: f64,
    seed: u64,
    begun: Instant,
    made: u64,
}

impl Lines {
    /// Puts the lines that are due in the place of `text`.
    fn make(&mut self, text: &mut Vec<u8>) {
        text.clear();
        let due = (self.begun.elapsed().as_secs_f64() * self.rate) as u64;
        let until = due.min(self.made + AT_ONCE);
        while self.made < until {
            self.made += 1;
            let random = mix(self.seed ^ mix(self.made));
            let number = random % self.records.count();
            self.records.rewritten(number, random, text);
        }
    }
}
