//! Accepting connections: the cap, back-off that never gives up, and who has been idle longest.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::metrics::{Connections, Why};
use crate::server::budget::Proven;

/// The pause after a failure to accept: long enough not to spin, short enough not to be missed.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Says to one connection that it is to close.
#[derive(Debug, Default)]
struct Bell {
    notify: Notify,
    drain: AtomicBool,
    cut: Notify,
    /// Work that takes long, see [`Ticket::work`].
    at_work: AtomicUsize,
}

/// An open connection in the list.
#[derive(Debug)]
struct Link {
    bell: Arc<Bell>,
    /// Whether it was told to close, and so is not to be told again.
    told: bool,
    /// Whether it is among those that may be told.
    idle: bool,
    newer: Option<usize>,
    older: Option<usize>,
}

/// The open connections; those without work ordered by when they were last of use.
#[derive(Debug, Default)]
struct List {
    links: Vec<Option<Link>>,
    free: Vec<usize>,
    oldest: Option<usize>,
    newest: Option<usize>,
    count: usize,
    /// Those of them that were told to close.
    closing: usize,
}

impl List {
    /// Adds a connection as the one used last.
    fn insert(&mut self, bell: Arc<Bell>) -> usize {
        let link = Some(Link {
            bell,
            told: false,
            idle: false,
            newer: None,
            older: None,
        });
        let place = self.free.pop().unwrap_or(self.links.len());
        if place == self.links.len() {
            self.links.push(link);
        } else {
            self.links[place] = link;
        }
        self.count += 1;
        self.attach(place);
        place
    }

    fn remove(&mut self, place: usize) {
        self.detach(place);
        let link = self.links[place].take();
        self.closing -= usize::from(link.is_some_and(|link| link.told));
        self.free.push(place);
        self.count -= 1;
    }

    /// Tells the longest idle connection to close; the next one told is another.
    fn close_longest_idle(&mut self) {
        let Some(oldest) = self.oldest else { return };
        self.detach(oldest);
        if let Some(link) = &mut self.links[oldest] {
            link.told = true;
            link.bell.notify.notify_one();
            self.closing += 1;
        }
    }

    fn touch(&mut self, place: usize) {
        if self.newest != Some(place) {
            self.detach(place);
            self.attach(place);
        }
    }

    /// Makes a connection the one used last; one that was told to close stays out.
    fn attach(&mut self, place: usize) {
        let Some(link) = self.links[place].as_mut().filter(|link| !link.told) else {
            return;
        };
        let older = self.newest.replace(place);
        (link.idle, link.older, link.newer) = (true, older, None);
        match older.and_then(|older| self.links[older].as_mut()) {
            Some(link) => link.newer = Some(place),
            None => self.oldest = Some(place),
        }
    }

    fn detach(&mut self, place: usize) {
        let Some(link) = self.links[place].as_mut().filter(|link| link.idle) else {
            return;
        };
        link.idle = false;
        let (older, newer) = (link.older, link.newer);
        match older.and_then(|older| self.links[older].as_mut()) {
            Some(link) => link.newer = newer,
            None => self.oldest = newer,
        }
        match newer.and_then(|newer| self.links[newer].as_mut()) {
            Some(link) => link.older = older,
            None => self.newest = older,
        }
    }
}

/// All open connections of a front end.
#[derive(Debug)]
pub struct Registry {
    list: Mutex<List>,
    cap: usize,
    /// Counts.
    pub connections: Arc<Connections>,
    proven: Arc<Proven>,
}

impl Registry {
    /// No connection yet, at most `cap`.
    #[must_use]
    pub fn new(cap: usize, connections: Arc<Connections>, proven: Arc<Proven>) -> Self {
        Self {
            list: Mutex::default(),
            cap,
            connections,
            proven,
        }
    }

    /// How many connections are open.
    #[must_use]
    pub fn count(&self) -> usize {
        self.list().count
    }

    /// Enters a new connection; at the cap the longest idle one is told to close.
    fn enter(self: &Arc<Self>, peer: IpAddr) -> Ticket {
        let bell = Arc::new(Bell::default());
        let mut list = self.list();
        if list.count - list.closing >= self.cap {
            list.close_longest_idle();
        }
        let place = list.insert(Arc::clone(&bell));
        drop(list);
        self.connections.opened();
        self.proven.opened(peer);
        Ticket {
            registry: Arc::clone(self),
            bell,
            place,
            peer,
        }
    }

    /// Tells every connection to close when it has answered what it was asked.
    pub fn drain(&self) {
        for link in self.list().links.iter().flatten() {
            link.bell.drain.store(true, Relaxed);
            link.bell.notify.notify_one();
        }
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        for link in self.list().links.iter().flatten() {
            link.bell.cut.notify_one();
        }
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's entry; leaving is dropping it.
#[derive(Debug)]
pub struct Ticket {
    registry: Arc<Registry>,
    bell: Arc<Bell>,
    place: usize,
    peer: IpAddr,
}

impl Ticket {
    /// The connection was of use just now.
    pub fn touch(&self) {
        let mut list = self.registry.list();
        if !self.is_at_work() {
            list.touch(self.place);
        }
    }

    /// Work that may take hours, such as a batch. Until it is dropped the connection is not idle, however long ago its
    /// last request was.
    #[must_use]
    pub fn work(self: &Arc<Self>) -> Work {
        let mut list = self.registry.list();
        if self.bell.at_work.fetch_add(1, Relaxed) == 0 {
            list.detach(self.place);
        }
        drop(list);
        Work(Arc::clone(self))
    }

    /// Whether there is such work.
    #[must_use]
    pub fn is_at_work(&self) -> bool {
        self.bell.at_work.load(Relaxed) > 0
    }

    /// Ends the connection, whatever it does.
    pub fn cut(&self) {
        self.bell.cut.notify_one();
    }

    /// Waits until this connection is cut.
    pub async fn was_cut(&self) -> Why {
        self.bell.cut.notified().await;
        match self.bell.drain.load(Relaxed) {
            true => Why::Drain,
            false => Why::Deadline,
        }
    }

    /// Waits until this connection is told to close.
    pub async fn told_to_close(&self) -> Why {
        self.bell.notify.notified().await;
        if self.bell.drain.load(Relaxed) {
            Why::Drain
        } else {
            Why::Cap
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.registry.list().remove(self.place);
        self.registry.proven.closed(self.peer);
    }
}

/// Work under way on a connection.
#[derive(Debug)]
pub struct Work(Arc<Ticket>);

impl Work {
    /// The connection.
    #[must_use]
    pub const fn ticket(&self) -> &Arc<Ticket> {
        &self.0
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let mut list = self.0.registry.list();
        if self.0.bell.at_work.fetch_sub(1, Relaxed) == 1 {
            list.attach(self.0.place);
        }
        drop(list);
    }
}

/// Accepts for ever, handing each connection to `serve` in a task of its own.
///
/// Ends when it is dropped; connections go on until they end or are told to.
pub async fn accept<F, S>(listener: TcpListener, registry: Arc<Registry>, serve: F)
where
    F: Fn(TcpStream, SocketAddr, Ticket) -> S,
    S: Future<Output = Why> + Send + 'static,
{
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let _ = stream.set_nodelay(true);
                let connections = Arc::clone(&registry.connections);
                let served = serve(stream, peer, registry.enter(peer.ip()));
                tokio::spawn(async move { connections.closed(served.await) });
            }
            Err(error) => {
                tracing::warn!(event = "connection.accept_failed", %error, "cannot accept a connection; trying again");
                registry.list().close_longest_idle();
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}
