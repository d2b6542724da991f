//! The log of resolutions and changes: every one, by day, compressed, kept for as long as the law asks.
//!
//! ```text
//! <directory>/2026-11-25.ndjson.gz    one JSON object a line: time, net (client network), via, op, handle, outcome
//! ```
//!
//! Entries go through a bounded channel to one thread, which appends a gzip member every few seconds; members one after
//! the other are one file to every tool (`zcat`). Nothing here is sampled. What is older than the configured days is
//! removed. When the files exceed their budget the oldest go first, and that is said loudly and long before.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;

use crate::clock;
use crate::metrics::{Families, names};

/// Entries that may wait for the thread.
const WAITING_MAX: usize = 65_536;
/// Octets of text after which a member is written …
const MEMBER: usize = 1 << 20;
/// … and the time after which it is written anyway.
const DELAY: Duration = Duration::from_secs(2);
/// Longest handle that is kept whole, octets.
const NAME_MAX: usize = 2_048;
/// Percent of the budget from which its end is announced.
const ALARM_PERCENT: u64 = 80;
/// How often files are counted and old ones removed.
const TIDY: Duration = Duration::from_secs(60);
/// Seconds of a day.
const DAY: u64 = 86_400;

/// How the log is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where.
    pub directory: PathBuf,
    /// How many days.
    pub days: u32,
    /// Octets that all files may take.
    pub budget: u64,
}

/// One resolution or change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Unix seconds.
    pub time: u32,
    /// The client; its network is written down.
    pub client: IpAddr,
    /// `http` or `https`.
    pub via: &'static str,
    /// What was asked.
    pub op: &'static str,
    /// Of which handle.
    pub handle: String,
    /// What was answered.
    pub outcome: &'static str,
}

/// A line of the log.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    net: String,
    via: &'a str,
    op: &'a str,
    handle: &'a str,
    outcome: &'a str,
}

/// What became of entries and files.
#[derive(Debug, Default)]
struct Figures {
    /// Entries that came while too many waited, or that the disk did not take.
    lost: AtomicU64,
    /// Octets of all files.
    bytes: AtomicU64,
    /// Files removed before their time because of the budget.
    cut: AtomicU64,
}

/// The log of a running node.
#[derive(Debug)]
pub struct History {
    sender: Mutex<Option<SyncSender<Event>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    figures: Arc<Figures>,
    budget: u64,
}

impl History {
    /// Opens the log; its directory is made if need be.
    ///
    /// # Errors
    /// The directory cannot be written, or no thread be started.
    pub fn open(config: Config) -> io::Result<Self> {
        fs::create_dir_all(&config.directory)?;
        let figures = Arc::new(Figures::default());
        let budget = config.budget;
        let (sender, receiver) = sync_channel(WAITING_MAX);
        let mut writer = Writer {
            text: Vec::new(),
            entries: 0,
            day: clock::unix_seconds() / 86_400,
            alarmed: false,
            figures: Arc::clone(&figures),
            config,
        };
        writer.tidy()?;
        let thread = std::thread::Builder::new().name("history".into());
        let thread = thread.spawn(move || writer.run(&receiver))?;
        Ok(Self {
            sender: Mutex::new(Some(sender)),
            thread: Mutex::new(Some(thread)),
            figures,
            budget,
        })
    }

    /// A handle to write by; each connection has its own.
    #[must_use]
    pub fn pen(&self) -> Option<Pen> {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        let figures = Arc::clone(&self.figures);
        sender.clone().map(|sender| Pen { sender, figures })
    }

    /// Adds what is counted to a scrape.
    pub fn collect(&self, families: &mut Families) {
        for (name, value) in [
            (&names::HISTORY_LOST, self.figures.lost.load(Relaxed)),
            (&names::HISTORY_BYTES, self.figures.bytes.load(Relaxed)),
            (&names::HISTORY_BUDGET, self.budget),
            (&names::HISTORY_CUT, self.figures.cut.load(Relaxed)),
        ] {
            families.add(name, &[], value as f64);
        }
    }

    /// Writes what waits and ends. Every [`Pen`] must be gone before.
    pub fn close(&self) {
        drop(
            self.sender
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

/// Writes into the log.
#[derive(Clone, Debug)]
pub struct Pen {
    sender: SyncSender<Event>,
    figures: Arc<Figures>,
}

impl Pen {
    /// Adds an entry; one that finds no room is counted as lost.
    pub fn note(&self, event: Event) {
        if self.sender.try_send(event).is_err() {
            self.figures.lost.fetch_add(1, Relaxed);
        }
    }
}

/// The network of an address: IPv4 /24, IPv6 /56.
fn network(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            format!("{a}.{b}.{c}.0/24")
        }
        IpAddr::V6(v6) => {
            let kept = std::net::Ipv6Addr::from_bits(v6.to_bits() >> 72 << 72);
            format!("{kept}/56")
        }
    }
}

struct Writer {
    config: Config,
    /// Lines that wait for their member, how many, and of which day.
    text: Vec<u8>,
    entries: u64,
    day: u32,
    alarmed: bool,
    figures: Arc<Figures>,
}

impl Writer {
    fn run(&mut self, receiver: &Receiver<Event>) {
        let (mut due, mut tidy) = (Instant::now() + DELAY, Instant::now() + TIDY);
        loop {
            let wait = due.saturating_duration_since(Instant::now());
            match receiver.recv_timeout(wait) {
                Ok(event) => self.take(&event),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.write(),
            }
            if self.text.len() >= MEMBER || Instant::now() >= due {
                self.write();
                due = Instant::now() + DELAY;
            }
            if Instant::now() >= tidy {
                if let Err(error) = self.tidy() {
                    tracing::warn!(%error, directory = %self.config.directory.display(), "old logs of resolutions stay");
                }
                tidy = Instant::now() + TIDY;
            }
        }
    }

    fn take(&mut self, event: &Event) {
        let day = event.time / 86_400;
        if day != self.day {
            self.write();
            self.day = day;
        }
        let mut end = event.handle.len().min(NAME_MAX);
        while !event.handle.is_char_boundary(end) {
            end -= 1;
        }
        let line = Line {
            time: time_text(event.time.into()),
            net: network(event.client),
            via: event.via,
            op: event.op,
            handle: &event.handle[..end],
            outcome: event.outcome,
        };
        if serde_json::to_writer(&mut self.text, &line).is_ok() {
            self.text.push(b'\n');
            self.entries += 1;
        }
    }

    /// Appends what waits as one member. What the disk does not take is lost, and counted.
    fn write(&mut self) {
        if self.text.is_empty() {
            return;
        }
        let path = path_of(&self.config.directory, self.day);
        if let Err(error) = append(&path, &self.text) {
            self.figures.lost.fetch_add(self.entries, Relaxed);
            tracing::error!(%error, file = %path.display(), entries = self.entries, "the log of resolutions cannot be written");
        }
        self.text.clear();
        self.entries = 0;
    }

    /// Counts the files; removes those that are too old, and the oldest when they are too large.
    fn tidy(&mut self) -> io::Result<()> {
        let mut files = files(&self.config.directory)?;
        let first = clock::unix_seconds() / 86_400;
        let first = first.saturating_sub(self.config.days);
        let first = path_of(&self.config.directory, first);
        files.retain(|(path, _)| {
            let old = path < &first;
            if old && let Err(error) = fs::remove_file(path) {
                tracing::warn!(%error, file = %path.display(), "cannot be removed");
            }
            !old
        });
        let mut total: u64 = files.iter().map(|(_, length)| length).sum();
        let alarm = total > self.config.budget / 100 * ALARM_PERCENT;
        if alarm && !self.alarmed {
            tracing::warn!(
                bytes = total,
                budget = self.config.budget,
                files = files.len(),
                "the log of resolutions will soon exceed its budget, and then its oldest days are lost: raise [history] budget"
            );
        }
        self.alarmed = alarm;
        let today = path_of(&self.config.directory, clock::unix_seconds() / 86_400);
        for (path, length) in &files {
            if total <= self.config.budget || *path >= today {
                break;
            }
            tracing::error!(file = %path.display(), budget = self.config.budget,
                "a day of the log of resolutions is lost: the budget is exceeded");
            fs::remove_file(path)?;
            self.figures.cut.fetch_add(1, Relaxed);
            total -= length;
        }
        self.figures.bytes.store(total, Relaxed);
        Ok(())
    }
}

fn append(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(text.len() / 8), Compression::fast());
    encoder.write_all(text)?;
    let member = encoder.finish()?;
    let mut options = OpenOptions::new();
    let mut file: File = options.create(true).append(true).mode(0o600).open(path)?;
    let before = file.metadata()?.len();
    let written = file.write_all(&member).and_then(|()| file.sync_data());
    if written.is_err() {
        // Half a member would hide what comes after it.
        file.set_len(before)?;
    }
    written
}

/// The files of the log with their lengths, oldest first.
fn files(directory: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().ends_with(".ndjson.gz") {
            found.push((entry.path(), entry.metadata()?.len()));
        }
    }
    found.sort();
    Ok(found)
}

fn path_of(directory: &Path, day: u32) -> PathBuf {
    let date = time_text(u64::from(day) * DAY);
    directory.join(format!("{}.ndjson.gz", &date[..10]))
}

fn time_text(seconds: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn event(time: u32, handle: &str) -> Event {
        Event {
            time,
            client: "192.0.2.77".parse().unwrap(),
            via: "https",
            op: "resolve",
            handle: handle.into(),
            outcome: "success",
        }
    }

    fn open(directory: &Path, days: u32, budget: u64) -> History {
        let config = Config {
            directory: directory.to_path_buf(),
            days,
            budget,
        };
        History::open(config).unwrap()
    }

    fn read(path: &Path) -> String {
        let mut text = String::new();
        let file = File::open(path).unwrap();
        flate2::read::MultiGzDecoder::new(file)
            .read_to_string(&mut text)
            .unwrap();
        text
    }

    /// Goal: every entry is there, by its day, over restarts. Method: two runs, two days.
    #[test]
    fn days_and_restarts() {
        let directory = tempfile::tempdir().unwrap();
        let today = clock::unix_seconds();
        for run in 0..2 {
            let history = open(directory.path(), 180, 1 << 30);
            let pen = history.pen().unwrap();
            for number in 0..1000 {
                pen.note(event(today, &format!("88.118/{run}.{number}")));
            }
            pen.note(event(today - 86_400, "88.118/yesterday"));
            drop(pen);
            history.close();
        }
        let text = read(&path_of(directory.path(), today / 86_400));
        assert_eq!(text.lines().count(), 2_000);
        let line: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(
            (&line["net"], &line["handle"]),
            (&"192.0.2.0/24".into(), &"88.118/0.0".into())
        );
        assert_eq!(
            read(&path_of(directory.path(), today / 86_400 - 1))
                .lines()
                .count(),
            2
        );
    }

    /// Goal: what is too old goes; over the budget the oldest go, but never today's.
    #[test]
    fn ages_and_budget() {
        let directory = tempfile::tempdir().unwrap();
        let day = clock::unix_seconds() / 86_400;
        for age in 0..5 {
            fs::write(path_of(directory.path(), day - age), vec![0; 1000]).unwrap();
        }
        drop(open(directory.path(), 3, 1 << 30));
        assert_eq!(files(directory.path()).unwrap().len(), 4);
        let history = open(directory.path(), 3, 2_500);
        assert_eq!(files(directory.path()).unwrap().len(), 2);
        assert_eq!(history.figures.cut.load(Relaxed), 2);
        drop(open(directory.path(), 3, 10));
        let left = files(directory.path()).unwrap();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].0, path_of(directory.path(), day));
    }

    /// Goal: an address is never written down whole.
    #[test]
    fn networks() {
        assert_eq!(network("192.0.2.77".parse().unwrap()), "192.0.2.0/24");
        assert_eq!(
            network("2001:db8:1:2ff::1".parse().unwrap()),
            "2001:db8:1:200::/56"
        );
    }
}
