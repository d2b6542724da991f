//! What the work on one request needs, for as many requests as are at work at the same moment.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::metrics::{Cell, LookupResult, Metrics, Protocol, Transport};
use crate::resolver::Authority;
use crate::server::handle::{Responder, Shared};
use crate::store::Reader;

/// A reader of the store, the homed prefixes, and counters with one writer.
pub(super) struct Scratch {
    pub(super) reader: Reader,
    pub(super) authority: Authority,
    /// Answers messages of the Handle protocol; made when there is the first.
    responder: Option<Responder>,
    plain: Arc<Cell>,
    tls: Arc<Cell>,
}

impl Scratch {
    /// The counters of plain HTTP, or of HTTPS.
    pub(super) fn cell(&self, tls: bool) -> &Cell {
        match tls {
            true => &self.tls,
            false => &self.plain,
        }
    }
}

impl Scratch {
    /// Counts a look-up in the index.
    pub(super) fn count(&self, result: LookupResult) {
        self.plain.lookups(result).add(1);
    }
}

/// Scratch that nobody uses now.
pub(super) struct Pool {
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    free: Mutex<Vec<Scratch>>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl Pool {
    /// An empty pool; it grows to the number of threads that answer.
    pub(super) fn new(shared: Arc<Shared>, metrics: Arc<Metrics>) -> Self {
        Self {
            shared,
            metrics,
            free: Mutex::default(),
        }
    }

    /// Lends scratch for work that does not wait.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Scratch) -> T) -> T {
        let free = self.lock().pop();
        let mut scratch = free.unwrap_or_else(|| self.make());
        let done = work(&mut scratch);
        self.lock().push(scratch);
        done
    }

    /// As [`Self::with`], with the homed prefixes as of now.
    pub(super) fn with_authority<T>(&self, work: impl FnOnce(&mut Scratch) -> T) -> T {
        self.with(|scratch| {
            if scratch.authority.is_stale(&self.shared.store)
                && let Ok(authority) = Authority::load(&self.shared.store)
            {
                scratch.authority = authority;
            }
            work(scratch)
        })
    }

    /// Lends a responder of the Handle protocol.
    pub(super) fn with_responder<T>(&self, work: impl FnOnce(&mut Responder) -> T) -> T {
        self.with(|scratch| {
            let responder = scratch.responder.get_or_insert_with(|| {
                let cell = self.metrics.cell(Transport::Http);
                Responder::new(Arc::clone(&self.shared), cell)
            });
            work(responder)
        })
    }

    fn make(&self) -> Scratch {
        Scratch {
            reader: self.shared.store.reader(),
            authority: Authority::default(),
            responder: None,
            plain: self.metrics.cell_of(Protocol::Http, Transport::Tcp),
            tls: self.metrics.cell_of(Protocol::Http, Transport::Tls),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Scratch>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
