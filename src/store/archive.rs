//! Archives: what a backup has of a store, in the format of snapshots.
//!
//! ```text
//! full:       a snapshot: dump, and window over it
//! increment:  a snapshot without a dump: the entries of the journal after *from* up to *to*, as its window, and
//!             before that a block of kind "TIME": Unix seconds (8) and a sequence acknowledged by then (8), …
//! ```
//!
//! So a full archive with the windows of the increments behind its own is a snapshot of any later moment, and is restored
//! and verified as every other one. What the state must come to after each entry the journal knows: a restore that comes
//! to something else is refused. At a moment within an entry, which the journal says nothing about, the state after the
//! whole entry is compared instead.
//!
//! A run (a bulk import) has no place in a window. Its records stand there as puts, in entries that all have the
//! sequence of the run.
//!
//! An increment is read from the files of a store beside its writer, who need not know: up to a sequence that is durable
//! entries do not change. When the journal is pruned meanwhile, it no longer reaches back, and that is what is said.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use jiexi_proto::handle::CaseRule;

use super::blocks::{self, BLOCK_HEAD, BlockReader, BlockWriter};
use super::config::Config;
use super::disk::Disk;
use super::error::StoreError;
use super::identity::{Identity, case_name};
use super::journal::entry::{
    Entry, EntryWriter, Named, Piece, Position, for_each_piece, put_change, read_segment_head,
    read_u64,
};
use super::journal::{self, tail};
use super::marks::Marks;
use super::record::PackedRef;
use super::role::Role;
use super::snapshot::{self, DUMP, Manifest, Tally, WINDOW};
use super::times::Mark;
use super::{SnapshotInfo, run, times};

const TIMES: &[u8; 4] = b"TIME";
/// A put of a run's records is written when it is this long.
const ENTRY_BYTES: usize = 1 << 20;
/// What to do about a damaged archive.
const REMEDY: &str = "use another backup; `jiexi backup verify` says which are whole";

/// What an archive says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Archive {
    /// How handles fold.
    pub case: CaseRule,
    /// The epoch of the store.
    pub epoch: u64,
    /// It has what came after this sequence; a full one has all of it.
    pub from: u64,
    /// The sequence whose state it leads to.
    pub sequence: u64,
    /// Records in that state.
    pub records: u64,
    /// Exclusive-or of their checksums.
    pub sum: u64,
    /// Unix seconds when it was written.
    pub created: u64,
}

impl Archive {
    fn new(manifest: &Manifest) -> Self {
        Self {
            case: manifest.case,
            epoch: manifest.epoch,
            from: manifest.from,
            sequence: manifest.to.sequence,
            records: manifest.to.count,
            sum: manifest.to.sum,
            created: manifest.created,
        }
    }

    fn position(&self) -> Position {
        Position {
            sequence: self.sequence,
            count: self.records,
            sum: self.sum,
        }
    }

    /// The name of the case rule.
    #[must_use]
    pub fn case_name(&self) -> &'static str {
        case_name(self.case)
    }
}

/// Reads what an archive says about itself.
///
/// # Errors
/// When it is damaged or cannot be read.
pub fn read(path: &Path) -> Result<Archive, StoreError> {
    snapshot::read_manifest(path).map(|manifest| Archive::new(&manifest))
}

/// As [`read`], of an open file, which is called `path` and stands at its beginning, before and after.
///
/// # Errors
/// As [`read`].
pub fn read_open(file: &File, path: &Path) -> Result<Archive, StoreError> {
    snapshot::read_open_manifest(file, path).map(|manifest| Archive::new(&manifest))
}

/// Reads when which sequence of an increment had been acknowledged: Unix seconds and sequence, oldest first.
///
/// # Errors
/// When it is damaged or cannot be read.
pub fn times(path: &Path) -> Result<Vec<(u64, u64)>, StoreError> {
    let manifest = snapshot::read_manifest(path)?;
    let mut reader = BlockReader::open(path, REMEDY)?;
    reader.block()?;
    let mut marks = Vec::new();
    while reader.at < manifest.window.0 {
        let block = reader.block()?;
        if block.kind != *TIMES {
            break;
        }
        marks.extend(
            block
                .body
                .chunks_exact(16)
                .filter_map(|mark| Some((read_u64(mark, 0)?, read_u64(mark, 8)?))),
        );
    }
    Ok(marks)
}

/// What came of an [`increment`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Increment {
    /// It is written, durable.
    Written(Archive),
    /// There is nothing new.
    Nothing,
    /// The journal does not reach back that far.
    TooShort,
    /// The journal does not continue what the last archive ended with: it is that of another store, or of another
    /// history of this one.
    Diverged,
}

/// Writes what the store in `dir` has after `last` and up to `until`, which is durable, into a new file.
///
/// # Errors
/// When the journal is damaged, or the file cannot be written.
pub fn increment(
    dir: &Path,
    last: &Archive,
    until: u64,
    now: u64,
    path: &Path,
) -> Result<Increment, StoreError> {
    let start = last.position();
    if until < start.sequence {
        return Ok(Increment::Diverged);
    }
    let reached = || reach(dir, last.epoch, start);
    let outcome = reached().and_then(|reached| match reached {
        Some(found) if found != start => Ok(Increment::Diverged),
        Some(_) if until > start.sequence => write(dir, last, until, now, path),
        Some(_) => Ok(Increment::Nothing),
        None if until == start.sequence => Ok(Increment::Nothing),
        None => Ok(Increment::TooShort),
    });
    outcome.or_else(|error| {
        Disk::default().discard(path)?;
        // Pruned meanwhile, it looks damaged; asked again, it does not reach back.
        let is_gone = matches!(&error, StoreError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound);
        match is_gone || matches!(reached(), Ok(None)) {
            true => Ok(Increment::TooShort),
            false => Err(error),
        }
    })
}

/// What the journal says of the state at a position: the position itself if it continues that; none when it does not
/// reach back. Where there is no sound entry in the place of it, nobody knows, and that is damage.
fn reach(dir: &Path, epoch: u64, start: Position) -> Result<Option<Position>, StoreError> {
    let segments = journal::segments(dir)?;
    let next = start.sequence + 1;
    let Some(segment) = segments.iter().rfind(|segment| segment.first <= next) else {
        return Ok(None);
    };
    let bytes =
        fs::read(&segment.path).map_err(|error| StoreError::io(&segment.path, "read", error))?;
    let head = read_segment_head(&bytes, epoch);
    let mut found = head.filter(|before| *before == start);
    let (mut last, mut hole) = (segment.first - 1, None);
    for_each_piece(&bytes, epoch, |piece| match piece {
        Piece::Entry(entry) => {
            if entry.after.sequence == start.sequence {
                found = Some(entry.after);
            }
            if entry.first <= start.sequence {
                // Whatever is damaged lies before it.
                hole = None;
            }
            last = entry.after.sequence;
        }
        Piece::Hole { at } | Piece::Torn { at } if last < start.sequence => {
            hole.get_or_insert(at);
        }
        Piece::Hole { .. } | Piece::Torn { .. } => {}
    });
    let what = match (found, hole) {
        (Some(found), _) => return Ok(Some(found)),
        (None, Some(at)) => format!(
            "no sound entry at byte {at}, where sequence {} must be",
            start.sequence
        ),
        // Less than was acknowledged, or it would have been asked for nothing here.
        (None, None) if last < start.sequence => format!("it ends at sequence {last}"),
        (None, None) if head.is_none() && segment.first > start.sequence => {
            "its head is damaged".to_owned()
        }
        // An archive ends with an entry: a journal that has none which ends there is another one.
        (None, None) => return Ok(Some(Position::default())),
    };
    Err(StoreError::damaged(
        &segment.path,
        what,
        "`jiexi store verify` says what else is damaged",
    ))
}

fn write(
    dir: &Path,
    last: &Archive,
    until: u64,
    now: u64,
    path: &Path,
) -> Result<Increment, StoreError> {
    let mut marks = times::read(dir, last.epoch);
    marks.retain(|(_, sequence)| *sequence > last.sequence && *sequence <= until);
    let mut increment = Writer::create(last, &marks, path)?;
    let read = tail::read(dir, last.epoch, (last.sequence, until), |entry| {
        increment.entry(dir, entry)
    })?;
    if read.last < until {
        return Err(StoreError::damaged(
            &journal::directory(dir),
            format!(
                "the journal ends at sequence {}, but sequence {until} was acknowledged",
                read.last
            ),
            "see the log of the node; `jiexi store verify` says what is damaged",
        ));
    }
    increment.finish(now).map(Increment::Written)
}

/// An increment being written.
struct Writer {
    out: BlockWriter,
    manifest: Manifest,
}

impl Writer {
    fn create(last: &Archive, marks: &[Mark], path: &Path) -> Result<Self, StoreError> {
        let mut out = BlockWriter::new(Disk::default().create(path)?);
        let mut manifest = Manifest {
            case: last.case,
            epoch: last.epoch,
            from: last.sequence,
            to: last.position(),
            dumped: 0,
            created: 0,
            window: (0, 0),
            window_end: 0,
            marks: None,
        };
        manifest.write_head(&mut out)?;
        if !marks.is_empty() {
            let numbers = marks.iter().flat_map(|(time, sequence)| [time, sequence]);
            let body: Vec<u8> = numbers.flat_map(|number| number.to_be_bytes()).collect();
            out.block(TIMES, &body)?;
        }
        manifest.window = (out.at, out.blocks);
        Ok(Self { out, manifest })
    }

    fn entry(&mut self, dir: &Path, entry: Entry<'_>) -> Result<(), StoreError> {
        match entry.run() {
            Some(named) => self.run(dir, entry, named)?,
            None => self.out.block(WINDOW, entry.bytes)?,
        }
        self.manifest.to = entry.after;
        Ok(())
    }

    /// The records of a run as puts.
    fn run(&mut self, dir: &Path, entry: Entry<'_>, named: Named) -> Result<(), StoreError> {
        let run = run::open(
            dir,
            self.manifest.epoch,
            named,
            (self.manifest.to, entry.after),
        )?;
        let mut puts = Puts::default();
        run.for_each(false, |packed| {
            puts.add(packed);
            if puts.encoded.len() < ENTRY_BYTES {
                return Ok(());
            }
            self.out
                .block(WINDOW, puts.entry(self.manifest.epoch, entry.after))
        })?;
        self.out
            .block(WINDOW, puts.entry(self.manifest.epoch, entry.after))
    }

    fn finish(mut self, now: u64) -> Result<Archive, StoreError> {
        self.manifest.created = now;
        self.manifest.write_end(self.out, &Marks::default())?;
        Ok(Archive::new(&self.manifest))
    }
}

/// Puts that become one entry.
#[derive(Default)]
struct Puts {
    encoded: Vec<u8>,
    count: usize,
    writer: EntryWriter,
}

impl Puts {
    fn add(&mut self, packed: PackedRef<'_>) {
        put_change(&mut self.encoded, packed);
        self.count += 1;
    }

    /// The entry of what was added since the last one.
    fn entry(&mut self, epoch: u64, after: Position) -> &[u8] {
        self.writer.begin();
        self.writer.batch(self.count, b"");
        self.writer.changes(&self.encoded);
        self.writer.finish(epoch, after.sequence, after);
        self.encoded.clear();
        self.count = 0;
        self.writer.bytes()
    }
}

/// A full archive, and the increments after it, up to a sequence.
#[derive(Clone, Debug)]
pub struct Chain {
    /// The full archive.
    pub full: PathBuf,
    /// The increments, oldest first. What they have in common with what is before them is taken once.
    pub increments: Vec<PathBuf>,
    /// The last sequence that is wanted.
    pub until: u64,
}

impl Chain {
    /// Reads everything and adds it up; the state at the end.
    ///
    /// # Errors
    /// When something is damaged, missing, or does not come to what the journal said.
    pub fn verify(&self) -> Result<Archive, StoreError> {
        let manifest = snapshot::read_manifest(&self.full)?;
        if manifest.to.sequence > self.until {
            let what = format!("it begins after sequence {}", self.until);
            return Err(StoreError::damaged(&self.full, what, REMEDY));
        }
        // To the end of the last entry, which may be further than what is wanted: the journal tells of that.
        let whole = self.total(&manifest, u64::MAX)?;
        let to = match whole.sequence == self.until {
            true => whole,
            false => self.total(&manifest, self.until)?,
        };
        Ok(Archive::new(&Manifest { to, ..manifest }))
    }

    /// Makes a store of it, in a directory that is empty or does not exist, with an epoch of its own.
    ///
    /// # Errors
    /// As [`Self::verify`]; when the case rule is another one, or the directory is not empty.
    pub fn restore(&self, config: &Config, epoch: u64) -> Result<SnapshotInfo, StoreError> {
        let state = self.verify()?;
        if state.case != config.case {
            return Err(StoreError::CaseMismatch {
                path: self.full.clone(),
                stored: state.case,
                asked: config.case,
            });
        }
        let (disk, _lock) = super::create_tree(config)?;
        let temporary = snapshot::directory(&config.dir).join("taking.tmp");
        self.compose(&disk, &state, (config.now)(), &temporary)?;
        let (manifest, bytes) = snapshot::verify(&temporary)?;
        let path = snapshot::settle(&disk, &config.dir, &temporary, &manifest)?;
        let identity = Identity {
            case: manifest.case,
            epoch,
            role: Role::Primary,
        };
        identity.write(&disk, &config.dir)?;
        Ok(SnapshotInfo::new(path, &manifest, bytes))
    }

    /// Writes all of it as one snapshot.
    fn compose(
        &self,
        disk: &Disk,
        state: &Archive,
        now: u64,
        path: &Path,
    ) -> Result<(), StoreError> {
        let mut manifest = snapshot::read_manifest(&self.full)?;
        let mut out = BlockWriter::new(disk.create(path)?);
        manifest.write_head(&mut out)?;
        let mut full = BlockReader::open(&self.full, REMEDY)?;
        let mut marks = Marks::default();
        full.block()?;
        while full.at < manifest.window.0 {
            let block = full.block()?;
            if block.kind != *DUMP {
                return Err(full.damaged("a block of its dump is damaged"));
            }
            let mut at = out.at + BLOCK_HEAD as u64;
            for packed in blocks::records(&block.body).flatten() {
                marks.note(at, packed);
                at += blocks::put_length(packed.bytes()) as u64;
            }
            out.block(DUMP, &block.body)?;
        }
        manifest.window = (out.at, out.blocks);
        let base = manifest;
        self.for_each(&base, self.until, |entry, _| {
            if entry.after.sequence <= self.until {
                return out.block(WINDOW, entry.bytes);
            }
            let cut = entry.cut(manifest.epoch, state.position());
            cut.map_or(Ok(()), |cut| out.block(WINDOW, &cut))
        })?;
        manifest.to = state.position();
        manifest.created = now;
        manifest.write_end(out, &marks)
    }

    /// What all of it up to a sequence adds up to; it is what the journal said, if that is the end of an entry.
    fn total(&self, manifest: &Manifest, until: u64) -> Result<Position, StoreError> {
        let (mut tally, epoch) = (Tally::default(), manifest.epoch);
        let known = self.for_each(manifest, until, |entry, path| {
            if entry.after.sequence <= until {
                return tally.window(entry, path);
            }
            let after = Position {
                sequence: until,
                ..entry.after
            };
            let cut = entry.cut(epoch, after);
            let cut = cut.as_deref().and_then(|cut| Entry::read(cut, epoch));
            cut.map_or(Ok(()), |cut| tally.window(cut, path))
        })?;
        snapshot::read_dump(&self.full, manifest, |records, _| {
            records.iter().for_each(|packed| tally.dumped(*packed));
            Ok(())
        })?;
        let total = tally.total(known.sequence.min(until));
        if known.sequence > until || total == known {
            return Ok(total);
        }
        let what = format!(
            "with what comes after it, it gives {} records with sum {:016x}, and there must be {} with sum {:016x}",
            total.count, total.sum, known.count, known.sum
        );
        Err(StoreError::damaged(&self.full, what, REMEDY))
    }

    /// Calls `visit` with every entry that begins at or before `until`; the state after the last one.
    fn for_each(
        &self,
        full: &Manifest,
        until: u64,
        mut visit: impl FnMut(Entry<'_>, &Path) -> Result<(), StoreError>,
    ) -> Result<Position, StoreError> {
        let mut reached = full.to;
        snapshot::read_window(&self.full, full, |entry, _| visit(entry, &self.full))?;
        for path in &self.increments {
            let manifest = snapshot::read_manifest(path)?;
            let begin = reached.sequence;
            if begin >= until {
                break;
            }
            if (manifest.epoch, manifest.case) != (full.epoch, full.case) || manifest.from > begin {
                let what = format!("it does not continue sequence {begin} of what is before it");
                return Err(StoreError::damaged(path, what, REMEDY));
            }
            snapshot::read_window(path, &manifest, |entry, _| {
                if entry.after.sequence <= begin || entry.first > until {
                    return Ok(());
                }
                reached = entry.after;
                visit(entry, path)
            })?;
        }
        // What comes after the last increment that is needed is in none of these files.
        match reached.sequence < until.min(self.until) {
            false => Ok(reached),
            true => {
                let last = self.increments.last().unwrap_or(&self.full);
                let what = format!(
                    "it ends at sequence {}, before {}",
                    reached.sequence, self.until
                );
                Err(StoreError::damaged(last, what, REMEDY))
            }
        }
    }
}
