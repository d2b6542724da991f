//! Goal: nothing is freed that a reader may still look at, and everything is freed in the end. Method: loom tries all
//! interleavings of a writer that replaces something twice and readers that enter, look and leave. "Freed" is a write to
//! the thing; loom fails when a look and a write can meet, or when a look finds what the write left.

#[path = "../../../src/store/index/epoch.rs"]
mod epoch;
mod sync {
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering, fence};
    pub(super) use loom::sync::{Arc, Mutex};
    pub(super) use std::sync::PoisonError;
}

use epoch::Domain;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

const FREED: u64 = u64::MAX;
const THINGS: usize = 3;

/// Three things, one of which can be reached.
struct Shared {
    domain: Domain,
    reachable: AtomicUsize,
    things: [UnsafeCell<u64>; THINGS],
}

// SAFETY: that the cells are not touched by two threads at once is what loom is to find out.
unsafe impl Sync for Shared {}

impl Shared {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            domain: Domain::new(),
            reachable: AtomicUsize::new(0),
            things: [0, 1, 2].map(UnsafeCell::new),
        })
    }

    fn look(&self) -> u64 {
        let at = self.reachable.load(Ordering::Acquire);
        // SAFETY: see above.
        let seen = self.things[at].with(|thing| unsafe { *thing });
        assert_eq!(seen, at as u64, "a thing that was freed was found");
        seen
    }

    /// Frees what may be freed of what was retired; what is left.
    fn reclaim(&self, retired: &mut Vec<(u64, usize)>) {
        let horizon = self.domain.horizon();
        retired.retain(|(number, at)| {
            let free = *number < horizon;
            if free {
                // SAFETY: see above.
                self.things[*at].with_mut(|thing| unsafe { *thing = FREED });
            }
            !free
        });
    }

    fn write(&self) {
        let mut retired = Vec::new();
        for at in 1..THINGS {
            self.reachable.store(at, Ordering::Release);
            retired.push((self.domain.retire(), at - 1));
            self.reclaim(&mut retired);
        }
    }
}

fn model(threads: Option<usize>, body: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = threads;
    model.check(body);
}

/// One reader that looks twice in one visit, and comes again.
#[test]
fn a_reader_that_comes_again() {
    model(None, || {
        let shared = Shared::new();
        let seat = shared.domain.join();
        let reader = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                shared.domain.enter(&seat);
                let first = shared.look();
                assert!(shared.look() >= first);
                shared.domain.leave(&seat);
                shared.domain.enter(&seat);
                assert!(shared.look() >= first);
                shared.domain.leave(&seat);
            }
        });
        shared.write();
        reader.join().unwrap();
        let mut rest = vec![(0, 1)];
        shared.reclaim(&mut rest);
        assert!(rest.is_empty(), "a reader that is away holds nothing back");
    });
}

/// Two readers, one of which takes its seat in the middle of everything and gives it up.
#[test]
fn readers_come_and_go() {
    model(Some(3), || {
        let shared = Shared::new();
        let seat = shared.domain.join();
        let first = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                shared.domain.enter(&seat);
                shared.look();
                shared.domain.leave(&seat);
            }
        });
        let second = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let seat = shared.domain.join();
                shared.domain.enter(&seat);
                shared.look();
                shared.domain.leave(&seat);
                shared.domain.part(&seat);
            }
        });
        shared.write();
        first.join().unwrap();
        second.join().unwrap();
    });
}

/// The test can fail: a reader that does not say when it enters is found out.
#[test]
#[should_panic(expected = "")]
fn a_reader_without_a_seat() {
    model(None, || {
        let shared = Shared::new();
        let reader = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                shared.look();
            }
        });
        shared.write();
        reader.join().unwrap();
    });
}
