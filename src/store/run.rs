//! Runs: the records of a bulk import, in a file that one change of the journal names.
//!
//! ```text
//! file:     blocks (see [`super::blocks`]): head, stripes, places …, end
//! HEAD:     format version (4) = 2, epoch (8), number (8)
//! STRP:     records: the first block of a stripe
//! RECS:     records: another block of it
//! PLCE:     where blocks of records are, and what they begin with: place (8), number of the block (4), number of the
//!           stripe (4), length of space and key (2), space and key
//! END:      where the places begin in the file (8), number of their first block (4)
//! ```
//!
//! Version 1 ends with its stripes.
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
use std::collections::{BTreeMap, BinaryHeap};
use std::fs::{self, File};
use std::io::Read;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use super::blocks::{self, BLOCK_HEAD, BlockReader, BlockWriter, END, Unreadable};
use super::disk::Disk;
use super::error::StoreError;
use super::journal::entry::{Named, Position, read_u32, read_u64};
use super::overlay::FullKey;
use super::record::PackedRef;
use super::unread;

/// The version this program writes, and the one before it.
const VERSION: u32 = 2;
const WITHOUT_PLACES: u32 = 1;
const HEAD: &[u8; 4] = b"HEAD";
const STRIPE: &[u8; 4] = b"STRP";
const RECORDS: &[u8; 4] = b"RECS";
const PLACES: &[u8; 4] = b"PLCE";
/// Bytes of the body of the end.
const END_BODY: usize = 12;
/// Bytes of a place before its key.
const PLACE_HEAD: usize = 18;
/// Places are written in pieces that are about so long.
const PLACES_PIECE: usize = 1 << 20;
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
    pub(crate) fn finish(mut self) -> Result<Written, StoreError> {
        let mut end = self.out.at.to_be_bytes().to_vec();
        end.extend_from_slice(&self.out.blocks.to_be_bytes());
        for piece in encode_places(&self.stripes) {
            self.out.block(PLACES, &piece)?;
        }
        self.out.block(END, &end)?;
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
#[derive(Clone, PartialEq, Eq)]
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
        self.for_each_block(last_first, |place, body, _| {
            for packed in blocks::records(body) {
                visit(packed.ok_or_else(|| self.damaged(place.at))?)?;
            }
            Ok(())
        })
    }

    /// Calls `visit` with every block of records, and its checksum.
    fn for_each_block(
        &self,
        last_first: bool,
        mut visit: impl FnMut(&Place, &[u8], u64) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut stripes: Vec<&Vec<Place>> = self.stripes.iter().collect();
        if last_first {
            stripes.reverse();
        }
        for place in stripes.into_iter().flatten() {
            let (body, checksum) = self.block(place)?;
            visit(place, &body, checksum)?;
        }
        Ok(())
    }

    /// The body of a block, and its checksum.
    fn block(&self, place: &Place) -> Result<(Vec<u8>, u64), StoreError> {
        let read = blocks::read_with_checksum(&self.file, place.at, place.number);
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
                self.body = self.run.block(place)?.0;
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
    let path = path_of(dir, named, after);
    let (found, stripes) = survey(&path, epoch)?;
    if found != named {
        return Err(unnamed(&path, named));
    }
    Run::new(path, named, stripes, (before, after))
}

/// Where the file of a run is.
fn path_of(dir: &Path, named: Named, after: Position) -> PathBuf {
    let (name, writing) = (
        named_path(dir, after.sequence),
        writing_path(dir, named.number),
    );
    if !name.exists() && writing.exists() {
        writing
    } else {
        name
    }
}

/// As [`open`], but it has only been read where its blocks are, if the file says that: the rest is read once.
pub(crate) fn open_unchecked(
    dir: &Path,
    epoch: u64,
    named: Named,
    (before, after): (Position, Position),
) -> Result<Unchecked, StoreError> {
    let path = path_of(dir, named, after);
    let mut reader = BlockReader::open(&path, REMEDY)?;
    if reader.length != named.bytes {
        return Err(unnamed(&path, named));
    }
    let head = reader.block()?;
    let read = read_head(&head.body).filter(|_| head.kind == *HEAD);
    // Whatever else is in it, all of it is looked at there.
    if read != Some((VERSION, epoch, named.number)) {
        let run = open(dir, epoch, named, (before, after))?;
        return Ok(Unchecked { run, ends: None });
    }
    let begins = reader.checksum;
    let (stripes, sums) = read_places(&mut reader)?;
    Ok(Unchecked {
        run: Run::new(path, named, stripes, (before, after))?,
        ends: Some((begins, sums)),
    })
}

/// Reads where the blocks of a run are, as it says, and the checksums of the blocks that say it.
fn read_places(reader: &mut BlockReader) -> Result<(Vec<Vec<Place>>, Vec<u64>), StoreError> {
    let end = (BLOCK_HEAD + END_BODY) as u64;
    let start = reader.length.checked_sub(end);
    reader.seek(start.ok_or_else(|| reader.damaged("it is cut off"))?, 0)?;
    let end = reader.block()?;
    let place = read_u64(&end.body, 0).zip(read_u32(&end.body, 8));
    let Some((at, number)) = place.filter(|_| end.kind == *END) else {
        return Err(reader.damaged("its end is damaged"));
    };
    reader.seek(at, number)?;
    let (mut stripes, mut sums) = (Vec::new(), Vec::new());
    while reader.at < reader.length {
        let block = reader.block()?;
        sums.push(block.checksum);
        let last = block.kind == *END;
        let sound = last || (block.kind == *PLACES && decode_places(&block.body, &mut stripes));
        if !sound || last != (reader.at == reader.length) {
            return Err(reader.damaged("what says where its blocks are is damaged"));
        }
    }
    Ok((stripes, sums))
}

/// Places of stripes, in pieces.
fn encode_places(stripes: &[Vec<Place>]) -> Vec<Vec<u8>> {
    let mut pieces = vec![Vec::new()];
    for (stripe, places) in stripes.iter().enumerate() {
        for place in places {
            if pieces
                .last()
                .is_some_and(|piece| piece.len() >= PLACES_PIECE)
            {
                pieces.push(Vec::new());
            }
            if let Some(piece) = pieces.last_mut() {
                piece.extend_from_slice(&place.at.to_be_bytes());
                piece.extend_from_slice(&place.number.to_be_bytes());
                piece.extend_from_slice(&(stripe as u32).to_be_bytes());
                piece.extend_from_slice(&(place.first.len() as u16).to_be_bytes());
                piece.extend_from_slice(&place.first);
            }
        }
    }
    pieces
}

/// Adds the places of a piece; whether they make sense.
fn decode_places(piece: &[u8], stripes: &mut Vec<Vec<Place>>) -> bool {
    let mut rest = piece;
    while !rest.is_empty() {
        let Some((place, stripe, length)) = decode_place(rest) else {
            return false;
        };
        if stripe == stripes.len() {
            stripes.push(Vec::new());
        }
        match stripes.last_mut() {
            Some(last) => last.push(place),
            None => return false,
        }
        if stripe + 1 != stripes.len() {
            return false;
        }
        rest = &rest[length..];
    }
    true
}

/// A place, its stripe, and how many bytes it takes.
fn decode_place(bytes: &[u8]) -> Option<(Place, usize, usize)> {
    let length = bytes.get(16..PLACE_HEAD)?;
    let end = PLACE_HEAD + usize::from(u16::from_be_bytes([length[0], length[1]]));
    let place = Place {
        at: read_u64(bytes, 0)?,
        number: read_u32(bytes, 8)?,
        first: bytes.get(PLACE_HEAD..end)?.into(),
    };
    Some((place, read_u32(bytes, 12)? as usize, end))
}

/// A run of which nobody knows yet whether it is what the journal names.
pub(crate) struct Unchecked {
    run: Run,
    /// What the checksums of its head, and of the blocks behind its records, are; none when all was read already.
    ends: Option<(u64, Vec<u64>)>,
}

impl Unchecked {
    /// What reads single records of it: of the last stripe that has one.
    pub(crate) fn finder(&self) -> Result<Box<unread::Read>, StoreError> {
        let file = self.run.file.try_clone();
        let file = file.map_err(|error| StoreError::io(&self.run.path, "open the file", error))?;
        let stripes = self.run.stripes.clone();
        Ok(Box::new(move |space, key, is_late| {
            let wanted = [&[space], key].concat();
            for stripe in stripes.iter().rev() {
                let behind = stripe.partition_point(|place| *place.first <= *wanted);
                let Some(place) = behind.checked_sub(1).and_then(|at| stripe.get(at)) else {
                    continue;
                };
                // What a later stripe may have comes before what an earlier one has.
                if is_late() {
                    return Err(Unreadable);
                }
                let body = blocks::read_at(&file, place.at, place.number);
                let body = body.ok().flatten().ok_or(Unreadable)?;
                if let Some(found) = blocks::find(&body, space, key)? {
                    return Ok(Some(found));
                }
            }
            Ok(None)
        }))
    }

    /// Calls `visit` with all records, block by block, those of the last stripe first; the run, if it is what is named.
    pub(crate) fn check(
        self,
        mut visit: impl FnMut(&[PackedRef<'_>]) -> Result<(), StoreError>,
    ) -> Result<Run, StoreError> {
        let (mut sums, mut count) = (BTreeMap::new(), 0);
        self.run.for_each_block(true, |place, body, checksum| {
            let damaged = || self.run.damaged(place.at);
            let records: Option<Vec<_>> = blocks::records(body).collect();
            let records = records.ok_or_else(damaged)?;
            count += records.len() as u64;
            sums.insert(place.number, checksum);
            visit(&records)
        })?;
        let named = self.run.named;
        if let Some((begins, ends)) = self.ends {
            let all = sums.into_values().chain(ends);
            let checksum = all.fold(begins, blocks::chain);
            if (count, checksum) != (named.records, named.checksum) {
                return Err(unnamed(&self.run.path, named));
            }
        }
        Ok(self.run)
    }
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
    let Some((version, _, number)) = read.filter(|(_, found, _)| *found == epoch) else {
        return Err(reader.damaged("its head is not that of a run of this store"));
    };
    if version != VERSION && version != WITHOUT_PLACES {
        let path = path.to_path_buf();
        let found = version;
        return Err(StoreError::Version { path, found });
    }
    let (mut records, mut stripes, mut said) = (0, Vec::new(), Vec::new());
    let mut ended = version == WITHOUT_PLACES;
    while reader.at < reader.length {
        let (at, place) = (reader.at, reader.blocks);
        let block = reader.block()?;
        if block.kind == *END || block.kind == *PLACES {
            ended |= block.kind == *END;
            if block.kind == *PLACES && !decode_places(&block.body, &mut said) {
                return Err(reader.damaged("what says where its blocks are makes no sense"));
            }
            continue;
        }
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
    if !ended || (version != WITHOUT_PLACES && said != stripes) {
        return Err(reader.damaged("it does not say where its blocks are"));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::change::{Draft, Space};
    use crate::store::record::Packed;

    /// Goal: a run of the first version, which does not say where its blocks are, is read as one that does. Method: the
    /// blocks of a run are written once more, without what is new; of two records of a key the last one counts.
    #[test]
    fn of_the_first_version() {
        let directory = tempfile::tempdir().unwrap();
        let (disk, dir) = (Disk::default(), directory.path());
        let record = |number: usize, generation| {
            let key = format!("88.118/{number:05}").into_bytes();
            let handle = key.clone().into();
            let values = Vec::new();
            let mut packed =
                Packed::encode(Space::Handle, &key, &Draft { handle, values }).unwrap();
            packed.seal(generation);
            packed
        };
        let stripes: Vec<Vec<Packed>> = vec![
            (0..3_000).map(|number| record(number, 1)).collect(),
            (1_000..5_000).map(|number| record(number, 2)).collect(),
        ];
        let mut writer = RunWriter::create(&disk, dir, 1, 7).unwrap();
        for stripe in &stripes {
            writer.stripe(stripe.iter().map(Packed::view)).unwrap();
        }
        let mut written = writer.finish().unwrap();
        written.file.leave();
        let new = written.named;
        let path = writing_path(dir, 7);
        let mut reader = BlockReader::open(&path, REMEDY).unwrap();
        let mut out = BlockWriter::new(disk.create(&dir.join("old")).unwrap());
        while reader.at < reader.length {
            let mut block = reader.block().unwrap();
            if block.kind == *HEAD {
                block.body[..4].copy_from_slice(&WITHOUT_PLACES.to_be_bytes());
            }
            if block.kind != *PLACES && block.kind != *END {
                out.block(&block.kind, &block.body).unwrap();
            }
        }
        let (bytes, checksum) = (out.at, out.checksum);
        let old = Named {
            bytes,
            checksum,
            ..new
        };
        let nowhere = (Position::default(), Position::default());
        for (named, has_places) in [(new, true), (old, false)] {
            if !has_places {
                fs::rename(dir.join("old"), &path).unwrap();
            }
            let run = open(dir, 1, named, nowhere).unwrap();
            assert_eq!(run.named.records, 7_000);
            let unchecked = open_unchecked(dir, 1, named, nowhere).unwrap();
            assert_eq!(unchecked.ends.is_some(), has_places);
            let finder = unchecked.finder().unwrap();
            let find =
                |space: Space, key: &str, late| finder(space.number(), key.as_bytes(), &|| late);
            for number in (0..5_000).step_by(77) {
                let key = format!("88.118/{number:05}");
                let found = find(Space::Handle, &key, false).unwrap().unwrap();
                let generation = if number < 1_000 { 1 } else { 2 };
                assert_eq!(found.record().generation(), generation, "{key}");
            }
            let none = find(Space::Handle, "88.118/05000", false);
            assert!(matches!(none, Ok(None)));
            let none = find(Space::Prefix, "88.118/00001", false);
            assert!(matches!(none, Ok(None)));
            // It would have to be looked for in the first stripe, too.
            assert!(find(Space::Handle, "88.118/00500", true).is_err());
            let mut seen = 0;
            let mut count = |records: &[PackedRef<'_>]| {
                seen += records.len();
                Ok(())
            };
            let run = unchecked.check(&mut count).unwrap();
            assert_eq!((seen, run.named), (7_000, named));
            let wrong = Named {
                checksum: named.checksum ^ 1,
                ..named
            };
            let other = open_unchecked(dir, 1, wrong, nowhere);
            let other = other.and_then(|unchecked| unchecked.check(|_| Ok(())));
            assert!(other.is_err(), "it is not what is named");
        }
    }
}
