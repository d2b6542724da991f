//! Runs: the records of a bulk import, in a file that one change of the journal names.
//!
//! ```text
//! file:     blocks (see [`super::blocks`]): head, then stripes
//! HEAD:     format version (4) = 1, epoch (8), number (8)
//! STRP:     records: the first block of a stripe
//! RECS:     records: another block of it
//! ```
//!
//! A *stripe* is what was sorted at once, in bounded memory: its records are in the order of spaces and keys, each key once.
//! Under a key the record of the last stripe counts. Stripes are merged when sled is fed and when a scan reads, a few
//! blocks at a time, so that the import itself writes every byte once.
//!
//! The *number* of a run is a sequence that was kept free for it (by a batch without changes), and the generation of its
//! records: so they are complete, checksum included, before the journal knows of them. While the file is written it is
//! called `NUMBER.writing`; when the journal's entry that names it is durable, `SEQUENCE.run`, after that entry. What is
//! still called `writing` when a store was loaded, and not named by the journal, is removed.
//!
//! A run stays until sled, synced, and the oldest snapshot that is kept have what is in it. Damage: nothing of a damaged
//! block is served. At start-up it is as with a damaged journal: another base that does without the run is tried. Later
//! on sled is made anew from the index, and a scrub asks for a new snapshot, which takes the place of the run.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::{self, File};
use std::io::Read;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use super::blocks::{self, BlockReader, BlockWriter};
use super::disk::Disk;
use super::error::StoreError;
use super::journal::entry::{Named, Position, read_u32, read_u64};
use super::overlay::FullKey;
use super::record::PackedRef;

const VERSION: u32 = 1;
const HEAD: &[u8; 4] = b"HEAD";
const STRIPE: &[u8; 4] = b"STRP";
const RECORDS: &[u8; 4] = b"RECS";
/// A block is written when it is this long: what a scan reads of each stripe.
const BLOCK_BYTES: usize = 64 << 10;
/// Bytes of a run that are copied at once.
const PIECE: usize = 1 << 20;
/// Suffixes of the names of files, see the module.
const WRITING: &str = "writing";
const SUFFIX: &str = "run";
/// What to do about a damaged run.
const REMEDY: &str =
    "put the file back from a backup, or restore a snapshot with `jiexi store restore`";

/// The directory of the runs in that of a store; it is there once there was one.
pub(crate) fn directory(dir: &Path) -> PathBuf {
    dir.join("runs")
}

/// The file of a run that the entry with this sequence names.
pub(crate) fn named_path(dir: &Path, sequence: u64) -> PathBuf {
    directory(dir).join(format!("{sequence:020}.{SUFFIX}"))
}

/// The file of a run while it is written.
fn writing_path(dir: &Path, number: u64) -> PathBuf {
    directory(dir).join(format!("{number:020}.{WRITING}"))
}

/// The runs in the directory that are named, with the sequences of their entries and their bytes, oldest first.
pub(crate) fn list(dir: &Path) -> Vec<(u64, PathBuf, u64)> {
    let mut found: Vec<_> = files(dir, SUFFIX).collect();
    found.sort_by_key(|(sequence, ..)| *sequence);
    found
}

/// Makes the directory of the runs, if there was none yet.
fn make_directory(disk: &Disk, dir: &Path) -> Result<(), StoreError> {
    let directory = directory(dir);
    if !directory.is_dir() {
        fs::create_dir(&directory)
            .map_err(|error| StoreError::io(&directory, "create the directory", error))?;
        disk.sync_directory(dir)?;
    }
    Ok(())
}

fn files(dir: &Path, suffix: &'static str) -> impl Iterator<Item = (u64, PathBuf, u64)> {
    let items = fs::read_dir(directory(dir)).into_iter().flatten().flatten();
    items.filter_map(move |item| {
        let path = item.path();
        let number = path.file_stem()?.to_str()?.parse().ok()?;
        let ours = path.extension().is_some_and(|found| found == suffix);
        let bytes = item.metadata().ok()?.len();
        ours.then_some((number, path, bytes))
    })
}

/// Removes what interrupted imports have left, when the journal has been read.
pub(crate) fn remove_orphans(disk: &Disk, dir: &Path) -> Result<(), StoreError> {
    for (_, path, bytes) in files(dir, WRITING) {
        disk.discard(&path)?;
        tracing::info!(event = "import.interrupted", path = %path.display(), bytes, "an import was interrupted: what it had written is removed");
    }
    Ok(())
}

/// Removes the runs of entries up to `sequence`.
pub(crate) fn prune(disk: &Disk, dir: &Path, sequence: u64) -> Result<(), StoreError> {
    let mut removed = 0;
    for (named, path, bytes) in list(dir) {
        if named <= sequence {
            disk.remove(&path)?;
            removed += 1;
            tracing::info!(event = "import.run_removed", path = %path.display(), bytes, "run removed: sled and the snapshots have it");
        }
    }
    if removed > 0 {
        disk.sync_directory(&directory(dir))?;
    }
    Ok(())
}

// ---------------------------------------------------------------------------------------------------- writing

/// The file of a run, which is removed with this unless it was kept.
pub(crate) struct RunFile {
    disk: Disk,
    dir: PathBuf,
    path: PathBuf,
    kept: bool,
}

impl RunFile {
    fn new(disk: &Disk, dir: &Path, path: PathBuf) -> Self {
        Self {
            disk: disk.clone(),
            dir: dir.to_path_buf(),
            path,
            kept: false,
        }
    }

    /// Gives it its name: the journal's entry of this sequence, which is durable, names it. When that fails the run is
    /// found all the same.
    pub(crate) fn keep(&mut self, sequence: u64) -> Result<(), StoreError> {
        self.kept = true;
        let path = named_path(&self.dir, sequence);
        self.disk.rename(&self.path, &path)?;
        self.path = path;
        self.disk.sync_directory(&directory(&self.dir))
    }

    /// Leaves it where it is: nobody knows whether the journal names it.
    pub(crate) fn leave(&mut self) {
        self.kept = true;
    }
}

impl Drop for RunFile {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = self.disk.remove(&self.path)
        {
            tracing::warn!(event = "import.file_left", %error, "an import that was given up leaves a file; the next start removes it");
        }
    }
}

/// A run being written.
pub(crate) struct RunWriter {
    file: RunFile,
    out: BlockWriter,
    number: u64,
    records: u64,
    stripes: Vec<Vec<Place>>,
    body: Vec<u8>,
}

impl RunWriter {
    pub(crate) fn create(
        disk: &Disk,
        dir: &Path,
        epoch: u64,
        number: u64,
    ) -> Result<Self, StoreError> {
        make_directory(disk, dir)?;
        let path = writing_path(dir, number);
        let mut out = BlockWriter::new(disk.create(&path)?);
        let file = RunFile::new(disk, dir, path);
        let head = [
            &VERSION.to_be_bytes()[..],
            &epoch.to_be_bytes(),
            &number.to_be_bytes(),
        ];
        out.block(HEAD, &head.concat())?;
        Ok(Self {
            file,
            out,
            number,
            records: 0,
            stripes: Vec::new(),
            body: Vec::with_capacity(2 * BLOCK_BYTES),
        })
    }

    /// Writes a stripe of records that are in order, and lets the disk begin with it.
    pub(crate) fn stripe<'a>(
        &mut self,
        records: impl Iterator<Item = PackedRef<'a>>,
    ) -> Result<(), StoreError> {
        self.stripes.push(Vec::new());
        for packed in records {
            if self.body.is_empty()
                && let Some(stripe) = self.stripes.last_mut()
            {
                stripe.push(Place {
                    at: self.out.at,
                    number: self.out.blocks,
                    first: full_key(packed).into(),
                });
            }
            blocks::put_record(&mut self.body, packed.bytes());
            self.records += 1;
            if self.body.len() >= BLOCK_BYTES {
                self.flush()?;
            }
        }
        self.flush()?;
        self.out.file.sync()
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        if self.body.is_empty() {
            return Ok(());
        }
        let first = self.stripes.last().is_some_and(|stripe| stripe.len() == 1);
        self.out
            .block(if first { STRIPE } else { RECORDS }, &self.body)?;
        self.body.clear();
        Ok(())
    }

    /// Makes it durable.
    pub(crate) fn finish(self) -> Result<Written, StoreError> {
        self.out.file.sync()?;
        self.file.disk.sync_directory(&directory(&self.file.dir))?;
        Ok(Written {
            named: Named {
                number: self.number,
                records: self.records,
                bytes: self.out.at,
                checksum: self.out.checksum,
            },
            stripes: self.stripes,
            file: self.file,
        })
    }
}

impl Written {
    /// Whether its file is still there: another process that had the store meanwhile removes what is not named.
    pub(crate) fn is_there(&self) -> bool {
        self.file.path.exists()
    }
}

/// A durable run that the journal does not name yet.
pub(crate) struct Written {
    pub(crate) named: Named,
    pub(crate) file: RunFile,
    stripes: Vec<Vec<Place>>,
}

/// Writes a copy of a run that the journal of another store names, once all of it is what is named.
pub(crate) fn receive(
    disk: &Disk,
    dir: &Path,
    epoch: u64,
    named: Named,
    from: &mut dyn Read,
) -> Result<Written, StoreError> {
    make_directory(disk, dir)?;
    let path = writing_path(dir, named.number);
    disk.discard(&path)?;
    let out = disk.create(&path)?;
    let file = RunFile::new(disk, dir, path.clone());
    let (mut piece, mut at) = (vec![0; PIECE], 0);
    let mut from = from.take(named.bytes);
    loop {
        let read = from
            .read(&mut piece)
            .map_err(|error| StoreError::io(&path, "copy a run", error))?;
        if read == 0 {
            break;
        }
        out.write_at(&piece[..read], at)?;
        at += read as u64;
    }
    out.sync()?;
    disk.sync_directory(&directory(dir))?;
    let (found, stripes) = survey(&path, epoch)?;
    if found != named {
        return Err(unnamed(&path, named));
    }
    Ok(Written {
        named,
        file,
        stripes,
    })
}

impl Written {
    /// Calls `visit` with every record, those of the first stripe first.
    pub(crate) fn for_each(
        &self,
        visit: impl FnMut(PackedRef<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let nowhere = (Position::default(), Position::default());
        let path = self.file.path.clone();
        Run::new(path, self.named, self.stripes.clone(), nowhere)?.for_each(false, visit)
    }

    /// The run, for reading its keys; it brings the store from one position to the other.
    pub(crate) fn into_run(self, before: Position, after: Position) -> Result<Run, StoreError> {
        let path = self.file.path.clone();
        Run::new(path, self.named, self.stripes, (before, after))
    }
}

// ---------------------------------------------------------------------------------------------------- reading

/// Where a block is, and the space and key that it begins with.
#[derive(Clone)]
struct Place {
    at: u64,
    number: u32,
    first: FullKey,
}

/// A run whose keys can be read in order.
pub(crate) struct Run {
    pub(crate) named: Named,
    /// The state before it, and the one after it.
    pub(crate) before: Position,
    pub(crate) after: Position,
    path: PathBuf,
    file: File,
    stripes: Vec<Vec<Place>>,
}

impl Run {
    fn new(
        path: PathBuf,
        named: Named,
        stripes: Vec<Vec<Place>>,
        (before, after): (Position, Position),
    ) -> Result<Self, StoreError> {
        let file =
            File::open(&path).map_err(|error| StoreError::io(&path, "open the file", error))?;
        Ok(Self {
            named,
            before,
            after,
            path,
            file,
            stripes,
        })
    }

    /// Gives it its name, if the store was closed before it had one.
    pub(crate) fn settle(&mut self, disk: &Disk, dir: &Path) -> Result<(), StoreError> {
        let path = named_path(dir, self.after.sequence);
        if self.path != path {
            disk.rename(&self.path, &path)?;
            disk.sync_directory(&directory(dir))?;
            self.path = path;
        }
        Ok(())
    }

    /// Up to `limit` keys from a bound on that begin with `prefix`, in order.
    pub(crate) fn keys(
        &self,
        from: Bound<&[u8]>,
        prefix: &[u8],
        limit: usize,
    ) -> Result<Vec<FullKey>, StoreError> {
        let mut cursors = Vec::with_capacity(self.stripes.len());
        let mut next = BinaryHeap::new();
        for (number, stripe) in self.stripes.iter().enumerate() {
            let mut cursor = Cursor::new(self, stripe, from);
            if let Some(key) = cursor.next(from)? {
                next.push(Reverse((key, number)));
            }
            cursors.push(cursor);
        }
        let mut keys: Vec<FullKey> = Vec::new();
        while keys.len() < limit
            && let Some(Reverse((key, number))) = next.pop()
            && key.starts_with(prefix)
        {
            if let Some(key) = cursors[number].next(from)? {
                next.push(Reverse((key, number)));
            }
            if keys.last().is_none_or(|last| **last != *key) {
                keys.push(key.into());
            }
        }
        Ok(keys)
    }

    /// Calls `visit` with every record, those of the last stripe first or last. Of two records of a key that of the later
    /// stripe counts.
    pub(crate) fn for_each(
        &self,
        last_first: bool,
        mut visit: impl FnMut(PackedRef<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut stripes: Vec<&Vec<Place>> = self.stripes.iter().collect();
        if last_first {
            stripes.reverse();
        }
        for place in stripes.into_iter().flatten() {
            let body = self.block(place)?;
            for packed in blocks::records(&body) {
                visit(packed.ok_or_else(|| self.damaged(place.at))?)?;
            }
        }
        Ok(())
    }

    fn block(&self, place: &Place) -> Result<Vec<u8>, StoreError> {
        let read = blocks::read_at(&self.file, place.at, place.number);
        let read = read.map_err(|error| StoreError::io(&self.path, "read", error))?;
        read.ok_or_else(|| self.damaged(place.at))
    }

    fn damaged(&self, at: u64) -> StoreError {
        StoreError::damaged(
            &self.path,
            format!("the block at byte {at} is damaged"),
            REMEDY,
        )
    }
}

/// A place in a stripe.
struct Cursor<'r> {
    run: &'r Run,
    /// Blocks not read yet.
    places: std::slice::Iter<'r, Place>,
    body: Vec<u8>,
    at: usize,
}

impl<'r> Cursor<'r> {
    fn new(run: &'r Run, stripe: &'r [Place], from: Bound<&[u8]>) -> Self {
        let after = stripe.partition_point(|place| match from {
            Bound::Included(from) | Bound::Excluded(from) => &*place.first <= from,
            Bound::Unbounded => false,
        });
        Self {
            run,
            places: stripe[after.saturating_sub(1)..].iter(),
            body: Vec::new(),
            at: 0,
        }
    }

    /// The next key within the bound.
    fn next(&mut self, from: Bound<&[u8]>) -> Result<Option<Vec<u8>>, StoreError> {
        loop {
            if self.at == self.body.len() {
                let Some(place) = self.places.next() else {
                    return Ok(None);
                };
                self.body = self.run.block(place)?;
                self.at = 0;
            }
            let Some(Some(packed)) = blocks::raw_records(&self.body[self.at..]).next() else {
                return Err(self.run.damaged(self.at as u64));
            };
            self.at += 4 + packed.len();
            let key = full_key(PackedRef::of_index(packed));
            let within = match from {
                Bound::Included(from) => *key >= *from,
                Bound::Excluded(from) => *key > *from,
                Bound::Unbounded => true,
            };
            if within {
                return Ok(Some(key));
            }
        }
    }
}

/// Space and key of a record.
fn full_key(packed: PackedRef<'_>) -> Vec<u8> {
    [&[packed.space_number()], packed.key()].concat()
}

/// Opens the run that an entry of the journal names, once all of it has been read and is what the entry says.
pub(crate) fn open(
    dir: &Path,
    epoch: u64,
    named: Named,
    (before, after): (Position, Position),
) -> Result<Run, StoreError> {
    let (name, writing) = (
        named_path(dir, after.sequence),
        writing_path(dir, named.number),
    );
    let path = if !name.exists() && writing.exists() {
        writing
    } else {
        name
    };
    let (found, stripes) = survey(&path, epoch)?;
    if found != named {
        return Err(unnamed(&path, named));
    }
    Run::new(path, named, stripes, (before, after))
}

fn unnamed(path: &Path, named: Named) -> StoreError {
    let records = named.records;
    StoreError::damaged(
        path,
        format!("it is not the run of {records} records that the journal names"),
        REMEDY,
    )
}

/// Reads a run to see whether it is whole; what the journal should say of it, and where its blocks are.
fn survey(path: &Path, epoch: u64) -> Result<(Named, Vec<Vec<Place>>), StoreError> {
    let mut reader = BlockReader::open(path, REMEDY)?;
    let head = reader.block()?;
    let read = read_head(&head.body).filter(|_| head.kind == *HEAD);
    let Some((VERSION, _, number)) = read.filter(|(_, found, _)| *found == epoch) else {
        return Err(reader.damaged("its head is not that of a run of this store"));
    };
    let (mut records, mut stripes) = (0, Vec::new());
    while reader.at < reader.length {
        let (at, place) = (reader.at, reader.blocks);
        let block = reader.block()?;
        let mut first = None;
        for packed in blocks::raw_records(&block.body) {
            let Some(packed) = packed else {
                return Err(reader.damaged("a block makes no sense"));
            };
            first.get_or_insert(packed);
            records += 1;
        }
        if block.kind == *STRIPE {
            stripes.push(Vec::new());
        }
        let (Some(first), Some(stripe)) = (first, stripes.last_mut()) else {
            return Err(reader.damaged("a block is not where it belongs"));
        };
        stripe.push(Place {
            at,
            number: place,
            first: full_key(PackedRef::of_index(first)).into(),
        });
    }
    let named = Named {
        number,
        records,
        bytes: reader.at,
        checksum: reader.checksum,
    };
    Ok((named, stripes))
}

fn read_head(body: &[u8]) -> Option<(u32, u64, u64)> {
    Some((read_u32(body, 0)?, read_u64(body, 4)?, read_u64(body, 12)?))
}

/// Reads a run only to see whether it is whole.
pub(crate) fn verify(path: &Path, epoch: u64) -> Result<(), StoreError> {
    survey(path, epoch).map(drop)
}
