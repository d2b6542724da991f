//! When memory that a reader may still look at can be freed. No unsafe code is here, but `memory` stands on it.
//!
//! A reader *enters* before it looks and *leaves* when it has forgotten what it saw: once per batch. While it is away it
//! holds nothing back, however long that is. The writer makes something unreachable, *retires* it, which gives it a
//! number, and frees it when every reader is away or has entered at a later number.
//!
//! Why that is right: a reader writes its seat, then a fence, then looks. The writer makes something unreachable, then a
//! fence, then reads the seats. Of the two fences one comes first. If the reader's, the writer sees the seat taken, with a
//! number that is not later; if the writer's, the reader no longer finds what was made unreachable. A reader that entered
//! at a later number read it after it was counted up, and so after the thing was unreachable.
//!
//! `tests/loom` includes this file and tries all interleavings; hence [`sync`](super::sync).

use super::sync::{Arc, AtomicU64, Mutex, Ordering, PoisonError, fence};

/// In the seat of a reader that is away.
const AWAY: u64 = u64::MAX;

/// Where a reader says at which number it entered. On a line of its own, and the one next to it, which processors fetch
/// together: readers on different cores share nothing that is written.
#[repr(align(128))]
#[derive(Debug)]
pub(crate) struct Seat(AtomicU64);

/// The readers of one index, and the number of what was retired last.
#[derive(Debug)]
pub(crate) struct Domain {
    epoch: AtomicU64,
    seats: Mutex<Vec<Arc<Seat>>>,
}

impl Domain {
    pub(crate) fn new() -> Self {
        Self {
            epoch: AtomicU64::new(1),
            seats: Mutex::new(Vec::new()),
        }
    }

    /// A seat for another reader, which is away at first.
    pub(crate) fn join(&self) -> Arc<Seat> {
        let seat = Arc::new(Seat(AtomicU64::new(AWAY)));
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        seats.push(Arc::clone(&seat));
        seat
    }

    /// Takes away the seat of a reader, which must be away.
    pub(crate) fn part(&self, seat: &Arc<Seat>) {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        seats.retain(|other| !Arc::ptr_eq(other, seat));
    }

    /// Before the first look.
    #[inline]
    pub(crate) fn enter(&self, seat: &Seat) {
        // Release: who sees this knows that earlier looks are over.
        seat.0
            .store(self.epoch.load(Ordering::Acquire), Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// After the last look.
    #[inline]
    pub(crate) fn leave(&self, seat: &Seat) {
        seat.0.store(AWAY, Ordering::Release);
    }

    /// The number of something that has just been made unreachable.
    pub(crate) fn retire(&self) -> u64 {
        self.epoch.fetch_add(1, Ordering::AcqRel)
    }

    /// What was retired with a smaller number than this is seen by nobody.
    pub(crate) fn horizon(&self) -> u64 {
        fence(Ordering::SeqCst);
        let seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        let entered = seats.iter().map(|seat| seat.0.load(Ordering::Acquire));
        entered.min().unwrap_or(AWAY)
    }
}
