//! Changes one after the other, from where somebody stands: the journal read in pieces, beside its writer.
//!
//! Unlike [`super::since`], which gathers the last change of every key, this shows each change once, holds one entry of
//! the journal in memory, and may be stopped behind any change and gone on with there.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Seek as _, SeekFrom};
use std::ops::ControlFlow;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::change::Space;
use super::error::StoreError;
use super::journal::entry::{Change, Entry, HEAD, head_says};
use super::journal::{self, Segment};
use super::record::Record;
use super::shared::Shared;

/// Octets of the journal that are read from the disk at once.
const BUFFER: usize = 256 << 10;
/// Places in the journal that are remembered, for those who come again.
const PLACES_MAX: usize = 256;

/// Where somebody stands in the row of changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// All batches up to this sequence lie behind.
    pub sequence: u64,
    /// And so many changes of the one after it.
    pub changes: u32,
}

/// A change, as the journal has it.
#[derive(Clone, Copy, Debug)]
pub struct Followed<'a> {
    /// The sequence of its batch.
    pub sequence: u64,
    /// Where the key is.
    pub space: Space,
    /// The key.
    pub key: &'a [u8],
    /// What was put there; none: it was deleted.
    pub put: Option<Record<'a>>,
}

/// Hears of each change and the place behind it; says whether more are wanted.
pub type Visit<'v> = dyn FnMut(Mark, &Followed<'_>) -> ControlFlow<()> + 'v;

/// An end of an entry in a file of the journal.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// The last sequence before it.
    sequence: u64,
    /// The first sequence of the file.
    segment: u64,
    at: u64,
}

/// Places where somebody stopped, so that whoever comes again begins there and not at the beginning of a file.
#[derive(Debug, Default)]
pub(crate) struct Places(Mutex<VecDeque<Place>>);

impl Places {
    /// The last known place in a file that is not behind `sequence`.
    fn before(&self, segment: u64, sequence: u64) -> Option<Place> {
        let places = self.lock();
        let known = places.iter().copied();
        let good = known.filter(|place| place.segment == segment && place.sequence <= sequence);
        good.max_by_key(|place| place.sequence)
    }

    fn add(&self, place: Place) {
        let mut places = self.lock();
        places.retain(|known| known.sequence != place.sequence);
        if places.len() >= PLACES_MAX {
            places.pop_front();
        }
        places.push_back(place);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shows the changes behind `from` to `visit`, in their order and each once, until it wants no more, about `octets` of the
/// journal have been read, or none is left; says the place behind the last. None: the journal does not tell what followed.
pub(crate) fn follow(
    shared: &Shared,
    from: Mark,
    octets: u64,
    visit: &mut Visit<'_>,
) -> Result<Option<Mark>, StoreError> {
    let until = shared.overlay.position().sequence;
    let none_left = from.sequence == until && from.changes == 0;
    if none_left || from.sequence >= until {
        return Ok(none_left.then_some(from));
    }
    let segments = journal::segments(shared.dir())?;
    let begin = segments
        .iter()
        .rposition(|segment| segment.first <= from.sequence + 1);
    let mut walk = Walk {
        shared,
        from,
        until,
        left: octets,
        last: 0,
        mark: from,
        ended: false,
        visit,
    };
    for segment in begin.map_or(&[][..], |begin| &segments[begin..]) {
        // A gap is an end, too: what follows it is not what comes next.
        if walk.ended || segment.first > walk.next() {
            break;
        }
        walk.segment(segment)?;
    }
    Ok((walk.mark != from).then_some(walk.mark))
}

/// Somebody on the way through the journal.
struct Walk<'a, 'v> {
    shared: &'a Shared,
    from: Mark,
    /// What is behind this is not looked at: it may not be whole yet.
    until: u64,
    /// Octets that may still be read.
    left: u64,
    /// The last sequence that was read or passed over.
    last: u64,
    mark: Mark,
    /// Nothing more is to be read, or nothing more can be said.
    ended: bool,
    visit: &'a mut Visit<'v>,
}

impl Walk<'_, '_> {
    /// The highest sequence that the next entry may begin with.
    fn next(&self) -> u64 {
        self.last.max(self.from.sequence) + 1
    }

    /// Reads a file of the journal up to its end, or to where it makes no sense.
    fn segment(&mut self, segment: &Segment) -> Result<(), StoreError> {
        let failed = |error| StoreError::io(&segment.path, "read", error);
        let file = match File::open(&segment.path) {
            Ok(file) => file,
            // It was pruned meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        let length = file.metadata().map_err(failed)?.len();
        let mut file = BufReader::with_capacity(BUFFER, file);
        let known = self.shared.places.before(segment.first, self.from.sequence);
        let mut at = known.map_or(HEAD as u64, |place| place.at);
        self.last = known.map_or(segment.first - 1, |place| place.sequence);
        file.seek(SeekFrom::Start(at)).map_err(failed)?;
        let mut bytes = Vec::new();
        while self.last < self.until && !self.ended {
            bytes.resize(HEAD, 0);
            if !fill(&mut file, &mut bytes).map_err(failed)? {
                return Ok(());
            }
            let Some((size, last)) = head_says(&bytes).filter(|(size, _)| at + size <= length)
            else {
                return Ok(());
            };
            if last <= self.from.sequence {
                // It lies behind; what it has is of no interest, whole or not.
                let rest = i64::try_from(size).unwrap_or(i64::MAX) - HEAD as i64;
                file.seek_relative(rest).map_err(failed)?;
                (self.last, at) = (last, at + size);
                continue;
            }
            bytes.resize(usize::try_from(size).unwrap_or(HEAD), 0);
            if !fill(&mut file, &mut bytes[HEAD..]).map_err(failed)? {
                return Ok(());
            }
            let entry = Entry::read(&bytes, self.shared.identity.epoch);
            let Some(entry) = entry.filter(|entry| entry.first <= self.next()) else {
                return Ok(());
            };
            self.left = self.left.saturating_sub(size);
            match self.entry(&entry) {
                true => (self.last, at) = (entry.after.sequence, at + size),
                false => self.ended = true,
            }
            self.ended |= self.left == 0;
        }
        self.shared.places.add(Place {
            sequence: self.last,
            segment: segment.first,
            at,
        });
        Ok(())
    }

    /// Shows what an entry has; whether that was all of it.
    fn entry(&mut self, entry: &Entry<'_>) -> bool {
        let (mut current, mut place, mut stopped) = (0, 0, false);
        let whole = entry.for_each_numbered(|sequence, change| {
            if sequence != current {
                (current, place) = (sequence, 0);
            }
            place += 1;
            let behind = sequence <= self.from.sequence
                || (sequence == self.from.sequence + 1 && place <= self.from.changes);
            if behind || stopped || sequence > self.until {
                return;
            }
            let mark = Mark {
                sequence: sequence - 1,
                changes: place,
            };
            stopped = match followed(sequence, change) {
                Some(followed) => {
                    self.mark = mark;
                    (self.visit)(mark, &followed).is_break()
                }
                // The records of a bulk import are in no journal.
                None => true,
            };
        });
        debug_assert!(whole, "the checksum of the entry was right");
        if stopped {
            return false;
        }
        self.mark = Mark {
            sequence: entry.after.sequence.min(self.until),
            changes: 0,
        };
        entry.after.sequence <= self.until
    }
}

/// Reads as much as `bytes` holds; false when the file ends before.
fn fill(file: &mut impl io::Read, bytes: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// A change of a record; none for what stands for many.
fn followed(sequence: u64, change: Change<'_>) -> Option<Followed<'_>> {
    let (space, key, put) = match change {
        Change::Put(packed) => (packed.space_number(), packed.key(), Some(packed.record())),
        Change::Delete { space, key } => (space, key, None),
        Change::Run(_) => return None,
    };
    Some(Followed {
        sequence,
        space: Space::from_number(space)?,
        key,
        put,
    })
}
