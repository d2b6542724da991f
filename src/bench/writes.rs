//! Records written while look-ups are measured: into a running node, over its control socket, at a fixed rate. Each is
//! on disk when the node counts it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::Failure;
use super::records::{Records, mix};
use crate::control::client::{ControlError, Node};
use crate::control::command::{Command, Outcome};

/// How often it is looked which records are due.
const TICK: Duration = Duration::from_millis(1);
/// Lines made at once, bytes.
const AT_ONCE: usize = 64 << 10;

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
    /// Begins to overwrite `records` of the node at the other end of `node`, `rate` a second, in an order that `seed`
    /// determines. Handles stay; values change.
    ///
    /// # Errors
    /// No thread to be had.
    pub fn start(node: Node, records: Records, rate: f64, seed: u64) -> Result<Self, Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        let lines = Lines {
            records,
            rate,
            seed,
            begun: Instant::now(),
            made: 0,
            octets: Vec::with_capacity(2 * AT_ONCE),
            taken: 0,
            sleep: None,
            stop: Arc::clone(&stop),
        };
        let work = move || write(node, lines);
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

fn write(node: Node, lines: Lines) -> Result<Written, Failure> {
    let (begun, rate) = (lines.begun, lines.rate);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let import = Command::Import { keep_going: false };
    let outcome = runtime.block_on(node.run(import, Some(lines), |_| Ok(()), |_| ()));
    let records = match outcome {
        Ok(Outcome::Counts(counts)) => counts.records,
        Ok(_) => return Err(Failure::new("the node answered another command")),
        Err(ControlError::Failed(failure)) => return Err(Failure::new(failure.message)),
        Err(
            ControlError::Connection(error)
            | ControlError::Input(error)
            | ControlError::Output(error),
        ) => return Err(Failure::new(format_args!("writing: {error}"))),
    };
    let each = records as f64 / begun.elapsed().as_secs_f64();
    Ok(Written {
        asked_per_second: rate,
        records,
        records_per_second: each.round(),
    })
}

/// The lines of the records that are due, as an import reads them.
struct Lines {
    records: Records,
    rate: f64,
    seed: u64,
    begun: Instant,
    made: u64,
    octets: Vec<u8>,
    /// How many of the octets have been read.
    taken: usize,
    sleep: Option<Pin<Box<Sleep>>>,
    stop: Arc<AtomicBool>,
}

impl Lines {
    /// Makes the lines that are due.
    fn make(&mut self) {
        self.octets.clear();
        self.taken = 0;
        let due = (self.begun.elapsed().as_secs_f64() * self.rate) as u64;
        while self.made < due && self.octets.len() < AT_ONCE {
            self.made += 1;
            let random = mix(self.seed ^ mix(self.made));
            let number = random % self.records.count();
            self.records.rewritten(number, random, &mut self.octets);
        }
    }
}

impl AsyncRead for Lines {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let lines = self.get_mut();
        while lines.taken == lines.octets.len() {
            if let Some(sleep) = &mut lines.sleep {
                ready!(sleep.as_mut().poll(cx));
                lines.sleep = None;
            }
            if lines.stop.load(Relaxed) {
                return Poll::Ready(Ok(()));
            }
            lines.make();
            if lines.octets.is_empty() {
                lines.sleep = Some(Box::pin(sleep(TICK)));
            }
        }
        let rest = &lines.octets[lines.taken..];
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..count]);
        lines.taken += count;
        Poll::Ready(Ok(()))
    }
}
