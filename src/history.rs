//! The log of resolutions and changes: every one, by day, compressed, kept for as long as the law asks.
//!
//! ```text
//! worker → its page ─┐
//! worker → its page ─┼→ one thread → <directory>/2026-11-25.ndjson.gz
//! worker → its page ─┘    one JSON object a line: time, net (client network), via, op, handle, outcome
//! ```
//!
//! A worker writes into a page of its own, which is there from the start: an entry costs it no allocation, no wait and no
//! system call. The thread takes the pages away several times a second, and appends a gzip member every few seconds;
//! members one after the other are one file to every tool (`zcat`). Lines of one second may stand in any order. Nothing
//! here is sampled; an entry that finds its page full, or that the disk does not take, is counted as lost. What is older
//! than the configured days is removed. When the files exceed their budget the oldest go first, and that is said loudly and
//! long before.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::busiest::{Busiest, Ranking};
use crate::clock;
use crate::json::direct::put_text;
use crate::metrics::{Families, Op, Outcome, names};

/// Entries that a page holds …
const ENTRIES_MAX: usize = 131_072;
/// … and octets of their handles.
const NAMES_MAX: usize = 8 << 20;
/// How often pages are taken away; a page that is half full is taken away at once.
const INTERVAL: Duration = Duration::from_millis(200);
/// Octets of text after which a member is written …
const MEMBER: usize = 1 << 20;
/// … and the time after which it is written anyway, and all of them are on the disk.
const DELAY: Duration = Duration::from_secs(2);
/// Longest handle that is kept whole, octets.
const NAME_MAX: usize = 2_048;
/// Percent of the budget from which its end is announced.
const ALARM_PERCENT: u64 = 80;
/// How often files are counted and old ones removed.
const TIDY: Duration = Duration::from_secs(60);
/// Prefixes that are counted, for the one or two hours of …
const PREFIXES: usize = 512;
/// … this many times [`TIDY`]; then half of what was counted is forgotten.
const FORGET: u32 = 60;
/// Seconds of a day.
const DAY: u32 = 86_400;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Unix seconds.
    pub time: u32,
    /// The client; its network is written down.
    pub client: IpAddr,
    /// What was asked.
    pub op: Op,
    /// What was answered.
    pub outcome: Outcome,
}

/// What became of entries and files.
#[derive(Debug, Default)]
struct Figures {
    /// Entries whose page was full, or that the disk did not take.
    lost: AtomicU64,
    /// Octets of all files.
    bytes: AtomicU64,
    /// Files removed before their time because of the budget.
    cut: AtomicU64,
    /// How full the fullest page was that was taken away, percent: of this minute and of the one before.
    fill: [AtomicU64; 2],
}

impl Figures {
    /// How full a page has been lately, percent.
    fn fill(&self) -> u64 {
        let [now, before] = &self.fill;
        now.load(Relaxed).max(before.load(Relaxed))
    }

    /// Another minute begins.
    fn turn(&self) {
        let [now, before] = &self.fill;
        before.store(now.swap(0, Relaxed), Relaxed);
    }
}

/// Entries that wait to be taken away.
#[derive(Debug, Default)]
struct Page {
    /// Events, each with the end of its handle in `names`.
    entries: Vec<(Event, usize)>,
    names: Vec<u8>,
}

impl Page {
    /// An empty page; the system gives its memory when it is written to.
    fn new() -> Self {
        Self {
            entries: Vec::with_capacity(ENTRIES_MAX),
            names: Vec::with_capacity(NAMES_MAX),
        }
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.names.clear();
    }

    /// Adds an entry, or says that there is no room.
    fn add(&mut self, event: Event, handle: &[u8]) -> bool {
        let handle = handle.get(..NAME_MAX).unwrap_or(handle);
        let room = self.entries.len() < ENTRIES_MAX && self.names.len() + handle.len() <= NAMES_MAX;
        if room {
            self.names.extend_from_slice(handle);
            self.entries.push((event, self.names.len()));
        }
        room
    }

    /// How full it is, percent.
    fn fill(&self) -> usize {
        (self.entries.len() * 100 / ENTRIES_MAX).max(self.names.len() * 100 / NAMES_MAX)
    }

    fn is_half_full(&self) -> bool {
        self.entries.len() >= ENTRIES_MAX / 2 || self.names.len() >= NAMES_MAX / 2
    }
}

/// The page of one worker, and what it came over.
#[derive(Debug)]
struct Seat {
    via: &'static str,
    page: Mutex<Page>,
}

/// What workers and thread share.
#[derive(Debug)]
struct Shared {
    seats: Mutex<Vec<Arc<Seat>>>,
    figures: Figures,
    /// Prefixes of what was resolved.
    busiest: Mutex<Busiest>,
    closed: AtomicBool,
}

/// The log of a running node.
#[derive(Debug)]
pub struct History {
    shared: Arc<Shared>,
    writer: Thread,
    thread: Mutex<Option<JoinHandle<()>>>,
    budget: u64,
}

impl History {
    /// Opens the log; its directory is made if need be.
    ///
    /// # Errors
    /// The directory cannot be written, or no thread be started.
    pub fn open(config: Config) -> io::Result<Self> {
        fs::create_dir_all(&config.directory)?;
        let shared = Arc::new(Shared {
            seats: Mutex::default(),
            figures: Figures::default(),
            busiest: Mutex::new(Busiest::new(PREFIXES)),
            closed: AtomicBool::new(false),
        });
        let budget = config.budget;
        let mut writer = Writer {
            text: Vec::with_capacity(MEMBER + MEMBER / 4),
            entries: 0,
            day: clock::unix_seconds() / DAY,
            alarmed: false,
            failing: false,
            written: false,
            unsynced: 0,
            empty: Page::new(),
            stamp: Stamp::default(),
            minutes: 0,
            shared: Arc::clone(&shared),
            config,
        };
        writer.tidy()?;
        let thread = std::thread::Builder::new().name("history".into());
        let thread = thread.spawn(move || writer.run())?;
        Ok(Self {
            shared,
            writer: thread.thread().clone(),
            thread: Mutex::new(Some(thread)),
            budget,
        })
    }

    /// What one worker writes with; `via` is what its requests come over, such as `https`.
    #[must_use]
    pub fn pen(&self, via: &'static str) -> Pen {
        let seat = Arc::new(Seat {
            via,
            page: Mutex::new(Page::new()),
        });
        lock(&self.shared.seats).push(Arc::clone(&seat));
        Pen {
            seat,
            shared: Arc::clone(&self.shared),
            writer: self.writer.clone(),
        }
    }

    /// Adds what is counted to a scrape.
    pub fn collect(&self, families: &mut Families) {
        let figures = &self.shared.figures;
        for (name, value) in [
            (&names::HISTORY_LOST, figures.lost.load(Relaxed)),
            (&names::HISTORY_BYTES, figures.bytes.load(Relaxed)),
            (&names::HISTORY_BUDGET, self.budget),
            (&names::HISTORY_CUT, figures.cut.load(Relaxed)),
        ] {
            families.add(name, &[], value as f64);
        }
        families.add(&names::HISTORY_FILL, &[], figures.fill() as f64 / 100.0);
    }

    /// The prefixes whose handles were asked for most within the last one or two hours.
    #[must_use]
    pub fn busiest(&self, prefixes: usize) -> Ranking {
        lock(&self.shared.busiest).top(prefixes)
    }

    /// Writes what waits and ends.
    pub fn close(&self) {
        self.shared.closed.store(true, Relaxed);
        if let Some(thread) = lock(&self.thread).take() {
            self.writer.unpark();
            let _ = thread.join();
        }
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.close();
    }
}

/// Writes into the log, for one worker.
#[derive(Clone, Debug)]
pub struct Pen {
    seat: Arc<Seat>,
    shared: Arc<Shared>,
    writer: Thread,
}

impl Pen {
    /// Whether the page takes more than it has. For those who can wait until it does: it is taken away at once.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !lock(&self.seat.page).is_half_full()
    }

    /// Adds an entry.
    pub fn note(&self, event: Event, handle: &[u8]) {
        self.note_all([(event, handle)]);
    }

    /// Adds the entries of a batch; those that find no room are counted as lost.
    pub fn note_all<'a>(&self, events: impl IntoIterator<Item = (Event, &'a [u8])>) {
        let mut page = lock(&self.seat.page);
        let half_full = page.is_half_full();
        let lost = events
            .into_iter()
            .filter(|(event, handle)| !page.add(*event, handle))
            .count();
        let wake = !half_full && page.is_half_full();
        drop(page);
        if wake {
            self.writer.unpark();
        }
        if lost > 0 {
            self.shared.figures.lost.fetch_add(lost as u64, Relaxed);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

/// The beginning of a line, up to the handle: it seldom changes from one entry to the next.
#[derive(Debug, Default)]
struct Stamp {
    of: Option<(Event, &'static str)>,
    head: Vec<u8>,
    seconds: u32,
    time: String,
}

impl Stamp {
    fn of(&mut self, event: &Event, via: &'static str) -> &[u8] {
        if self.of != Some((*event, via)) {
            if self.time.is_empty() || self.seconds != event.time {
                self.seconds = event.time;
                self.time = time_text(event.time);
            }
            let (time, net) = (&self.time, network(event.client));
            let (op, outcome) = (event.op.label(), event.outcome.label());
            self.head.clear();
            let written = write!(
                self.head,
                r#"{{"time":"{time}","net":"{net}","via":"{via}","op":"{op}","outcome":"{outcome}","handle":"#
            );
            // Writing to memory does not fail.
            debug_assert!(written.is_ok());
            self.of = Some((*event, via));
        }
        &self.head
    }
}

struct Writer {
    config: Config,
    /// Lines that wait for their member, how many, and of which day.
    text: Vec<u8>,
    entries: u64,
    day: u32,
    alarmed: bool,
    /// The disk did not take something, and has not taken anything for sure since.
    failing: bool,
    /// The last member was written; whether the disk has it is not known before the sync.
    written: bool,
    /// Entries in members that may not be on the disk yet.
    unsynced: u64,
    /// What is given to a worker for its page.
    empty: Page,
    stamp: Stamp,
    /// Times that it tidied up since half of [`Shared::busiest`] was forgotten.
    minutes: u32,
    shared: Arc<Shared>,
}

impl Writer {
    fn run(&mut self) {
        let (mut due, mut tidy) = (Instant::now() + DELAY, Instant::now() + TIDY);
        loop {
            std::thread::park_timeout(INTERVAL);
            let closed = self.shared.closed.load(Relaxed);
            self.take_all();
            if closed {
                return self.write_and_sync();
            }
            if Instant::now() >= due {
                self.write_and_sync();
                due = Instant::now() + DELAY;
            }
            if Instant::now() >= tidy {
                if let Err(error) = self.tidy() {
                    tracing::warn!(event = "history.kept", %error, directory = %self.config.directory.display(), "old logs of resolutions stay");
                }
                self.turn();
                tidy = Instant::now() + TIDY;
            }
        }
    }

    /// Takes the page of every worker away; each gets an empty one.
    fn take_all(&mut self) {
        let seats = lock(&self.shared.seats).clone();
        for seat in seats {
            let mut page = lock(&seat.page);
            if page.entries.is_empty() {
                continue;
            }
            let mut taken = std::mem::replace(&mut *page, std::mem::take(&mut self.empty));
            drop(page);
            let fill = taken.fill() as u64;
            self.shared.figures.fill[0].fetch_max(fill, Relaxed);
            self.count(&taken);
            let mut start = 0;
            for (event, end) in &taken.entries {
                self.take(event, seat.via, &taken.names[start..*end]);
                start = *end;
            }
            taken.clear();
            self.empty = taken;
        }
    }

    /// Another minute begins.
    fn turn(&mut self) {
        self.shared.figures.turn();
        self.minutes += 1;
        if self.minutes == FORGET {
            self.minutes = 0;
            lock(&self.shared.busiest).age();
        }
    }

    /// Counts the prefixes of what was resolved.
    fn count(&self, page: &Page) {
        let mut busiest = lock(&self.shared.busiest);
        let mut start = 0;
        for (event, end) in &page.entries {
            if event.op == Op::Resolve {
                busiest.see(prefix(&page.names[start..*end]));
            }
            start = *end;
        }
    }

    fn take(&mut self, event: &Event, via: &'static str, handle: &[u8]) {
        let day = event.time / DAY;
        if day != self.day {
            self.write_and_sync();
            self.day = day;
        }
        let text = &mut self.text;
        text.extend_from_slice(self.stamp.of(event, via));
        put_text(&String::from_utf8_lossy(handle), text);
        text.extend_from_slice(b"}\n");
        self.entries += 1;
        if self.text.len() >= MEMBER {
            self.write();
        }
    }

    /// Appends what waits as one member. What the disk does not take is lost, and counted; it is said once.
    fn write(&mut self) {
        if self.text.is_empty() {
            return;
        }
        let path = path_of(&self.config.directory, self.day);
        match append(&path, &self.text) {
            Ok(()) => {
                self.unsynced += self.entries;
                self.written = true;
            }
            Err(error) => self.lose(self.entries, &path, &error),
        }
        self.text.clear();
        self.entries = 0;
    }

    /// As [`Self::write`], and waits for the disk: seldom, for workers fill their pages meanwhile.
    fn write_and_sync(&mut self) {
        self.write();
        if self.unsynced == 0 {
            return;
        }
        let path = path_of(&self.config.directory, self.day);
        match File::open(&path).and_then(|file| file.sync_data()) {
            // Somebody took the file away.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.lose(self.unsynced, &path, &error),
            Ok(()) => self.recover(),
        }
        self.unsynced = 0;
    }

    /// The disk has what was written: says so if it did not before.
    fn recover(&mut self) {
        if self.failing && self.written {
            let lost = self.shared.figures.lost.load(Relaxed);
            tracing::warn!(
                event = "history.recovered",
                lost,
                "the log of resolutions is written again"
            );
            self.failing = false;
        }
    }

    /// Counts entries that the disk did not take; says so the first time.
    fn lose(&mut self, entries: u64, path: &Path, error: &io::Error) {
        self.shared.figures.lost.fetch_add(entries, Relaxed);
        if !self.failing {
            tracing::error!(event = "history.failed", %error, file = %path.display(),
                "the log of resolutions cannot be written: entries are lost until it can; jiexi_history_lost_total counts them");
        }
        self.failing = true;
        self.written = false;
    }

    /// Counts the files; removes those that are too old, and the oldest when they are too large.
    fn tidy(&mut self) -> io::Result<()> {
        let mut files = files(&self.config.directory)?;
        let first = clock::unix_seconds() / DAY;
        let first = first.saturating_sub(self.config.days);
        let first = path_of(&self.config.directory, first);
        files.retain(|(path, _)| {
            let old = path < &first;
            if old && let Err(error) = fs::remove_file(path) {
                tracing::warn!(event = "history.not_removed", %error, file = %path.display(), "cannot be removed");
            }
            !old
        });
        let mut total: u64 = files.iter().map(|(_, length)| length).sum();
        let alarm = total > self.config.budget / 100 * ALARM_PERCENT;
        if alarm && !self.alarmed {
            tracing::warn!(
                event = "history.nearly_full",
                bytes = total,
                budget = self.config.budget,
                files = files.len(),
                "the log of resolutions will soon exceed its budget, and then its oldest days are lost: raise [history] budget"
            );
        }
        self.alarmed = alarm;
        let today = path_of(&self.config.directory, clock::unix_seconds() / DAY);
        for (path, length) in &files {
            if total <= self.config.budget || *path >= today {
                break;
            }
            tracing::error!(event = "history.day_lost", file = %path.display(), budget = self.config.budget,
                "a day of the log of resolutions is lost: the budget is exceeded");
            fs::remove_file(path)?;
            self.shared.figures.cut.fetch_add(1, Relaxed);
            total -= length;
        }
        self.shared.figures.bytes.store(total, Relaxed);
        Ok(())
    }
}

/// What stands before the first slash.
fn prefix(handle: &[u8]) -> &[u8] {
    handle
        .split(|octet| *octet == b'/')
        .next()
        .unwrap_or_default()
}

fn append(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(text.len() / 8), Compression::fast());
    encoder.write_all(text)?;
    let member = encoder.finish()?;
    let mut options = OpenOptions::new();
    let mut file: File = options.create(true).append(true).mode(0o600).open(path)?;
    let before = file.metadata()?.len();
    let written = file.write_all(&member);
    if written.is_err() {
        // Half a member would hide what comes after it.
        let _ = file.set_len(before);
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
    let date = time_text(day * DAY);
    directory.join(format!("{}.ndjson.gz", &date[..10]))
}

fn time_text(seconds: u32) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds.into())).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn event(time: u32) -> Event {
        Event {
            time,
            client: "192.0.2.77".parse().unwrap(),
            op: Op::Resolve,
            outcome: Outcome::Success,
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
            let pen = history.pen("https");
            for number in 0..1000 {
                pen.note(event(today), format!("88.118/{run}.{number}").as_bytes());
            }
            pen.note(event(today - DAY), "88.118/\"昨天\"".as_bytes());
            history.close();
        }
        let text = read(&path_of(directory.path(), today / DAY));
        assert_eq!(text.lines().count(), 2_000);
        let line: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(
            (&line["net"], &line["handle"]),
            (&"192.0.2.0/24".into(), &"88.118/0.0".into())
        );
        let text = read(&path_of(directory.path(), today / DAY - 1));
        let line: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(
            (text.lines().count(), &line["handle"]),
            (2, &"88.118/\"昨天\"".into())
        );
    }

    /// Goal: a page that is full loses what comes, says how much, and forgets nothing of what it took.
    #[test]
    fn full_pages() {
        let mut page = Page::new();
        let handle = [b'x'; NAME_MAX + 1];
        let added = (0..ENTRIES_MAX).filter(|_| page.add(event(0), &handle));
        assert_eq!(added.count(), NAMES_MAX / NAME_MAX, "long handles are cut");
        assert_eq!(page.fill(), 100);
        page.clear();
        assert_eq!(page.fill(), 0);
        let added = (0..=ENTRIES_MAX).filter(|_| page.add(event(0), b"88.118/a"));
        assert_eq!(added.count(), ENTRIES_MAX);
        assert_eq!(page.fill(), 100);
        let (entries, names) = (page.entries.capacity(), page.names.capacity());
        assert_eq!((entries, names), (ENTRIES_MAX, NAMES_MAX), "it never grows");
    }

    /// Goal: what is too old goes; over the budget the oldest go, but never today's.
    #[test]
    fn ages_and_budget() {
        let directory = tempfile::tempdir().unwrap();
        let day = clock::unix_seconds() / DAY;
        for age in 0..5 {
            fs::write(path_of(directory.path(), day - age), vec![0; 1000]).unwrap();
        }
        drop(open(directory.path(), 3, 1 << 30));
        assert_eq!(files(directory.path()).unwrap().len(), 4);
        let history = open(directory.path(), 3, 2_500);
        assert_eq!(files(directory.path()).unwrap().len(), 2);
        assert_eq!(history.shared.figures.cut.load(Relaxed), 2);
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
