//! What is not answered at once: changes, proofs, sessions, signed answers.
//!
//! ```text
//!  udp worker, tcp task ─→ bounded queue ─→ threads ─→ answer to the connection or the socket
//!                                             │  ↑
//!                                             ↓  └ settled: the change is durable, or was refused
//!                                            store
//! ```
//!
//! * [`Desk`]: the queue. When it is full, the client is told to come back (code 3), at once.
//! * `turns`: who is next. Networks take turns, so that a flood holds up its own.
//! * `counter`: one thread's work on one request: open, decode, decide.
//! * `copying`: the whole node, or its changes, for a mirror.
//! * `login`: an identity bound to a connection.
//! * `proof`: what a user has signed, checked by the keys here or by their home.
//! * `letter`: one request with all that its answer needs, and the answer: sign, encrypt.

mod change;
mod copying;
mod counter;
mod letter;
mod list;
mod login;
mod proof;
mod session;
mod turns;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiexi_proto::code::ResponseCode;
use jiexi_proto::{Envelope, EnvelopeFlags, MessageView, OpCode};
use tokio::sync::oneshot;

pub use self::copying::Copying;
pub(super) use self::copying::send as send_copy;
pub use self::list::Listing;
pub use self::login::Line;

use self::change::Settled;
pub(super) use self::counter::Counter;
pub(crate) use self::counter::change_of;
use self::letter::{Letter, Outcome};
pub use self::proof::Proved;
use self::proof::Proving;
use self::turns::Turns;
use super::Shared;
use super::reply::{Reply, Stamp};
use super::udp::Outlet;
use crate::metrics::{Metrics, Transport};
use crate::registry::Registry;
use crate::registry::auth::Elsewhere;
use crate::registry::retry::Retries;
use crate::registry::source::{Sender, Source};
use crate::registry::waiting::{Leaves, Waiting};
use crate::server::forward::Told;

/// How the desk is staffed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Threads; 0: one for each core and one more.
    pub threads: usize,
    /// Requests that may wait or be under way.
    pub queue: usize,
    /// Whether the id-pointer SDK is challenged as other clients are. It takes a challenge that it
    /// did not ask for by logging in as success, so it is refused otherwise.
    pub challenge_sdk: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            threads: 0,
            queue: 1_024,
            challenge_sdk: false,
        }
    }
}

/// One request on its way to the desk.
#[derive(Debug)]
pub struct Job {
    /// The whole message with its envelope.
    pub octets: Bytes,
    /// Who sent it.
    pub peer: SocketAddr,
    /// Where the answer goes.
    pub sink: Sink,
    /// The connection that it came over; none for a datagram.
    pub line: Option<Arc<Line>>,
    /// When it came.
    pub came: Instant,
}

/// Where an answer goes.
#[derive(Debug)]
pub enum Sink {
    /// To a connection, which waits for it.
    Stream(oneshot::Sender<Answer>),
    /// To a datagram's sender, from the address that was asked.
    Datagram {
        /// That of the worker: its socket, and what pays for more than was paid for.
        outlet: Arc<Outlet>,
        /// The address that was asked, when the socket is bound to all.
        from: Option<IpAddr>,
    },
    /// It has been given to somebody already.
    Nowhere,
}

impl Sink {
    /// Who is at the other end, as far as the transport says: the address of a datagram may be forged.
    fn sender(&self, address: IpAddr) -> Sender {
        match self {
            Self::Datagram { .. } => Sender::claimed(address),
            Self::Stream(_) | Self::Nowhere => Sender::proven(address),
        }
    }

    /// Whether the connection that the answer is for has ended.
    fn is_gone(&self) -> bool {
        matches!(self, Self::Stream(connection) if connection.is_closed())
    }

    const fn transport(&self) -> Transport {
        match self {
            Self::Stream(_) | Self::Nowhere => Transport::Tcp,
            Self::Datagram { .. } => Transport::Udp,
        }
    }
}

/// An answer, or the beginning of a long one.
#[derive(Debug, Default)]
pub struct Answer {
    /// Whole messages, back to back.
    pub octets: Vec<u8>,
    /// What is to be asked for when these are on their way.
    pub more: Option<Box<Listing>>,
    /// What follows on the same connection, and ends it.
    pub stream: Option<Box<Copying>>,
}

impl Answer {
    /// All there is.
    pub(super) fn of(octets: Vec<u8>) -> Self {
        Self {
            octets,
            ..Self::default()
        }
    }
}

/// Longest request that a connection's own thread takes up.
const LIGHT_MAX: usize = 16 * 1024;
/// How often it is looked whose turn it is.
const LOOK: Duration = Duration::from_millis(50);
/// Requests under way up to which a change is ended on the store's thread.
const SETTLED_HERE_MAX: usize = 2;

impl Job {
    /// The network it comes from.
    fn source(&self) -> Source {
        self.sink.sender(self.peer.ip()).source()
    }
}

/// What a thread is given to do.
enum Work {
    Job(Job),
    More(Box<Listing>, oneshot::Sender<Answer>),
    Settled(Box<Settled>),
    Told(Box<Letter>, Told),
    Prove(Box<Proving>),
    Proof(Box<Proving>, Elsewhere),
    Turn(Leaves<Box<Proving>>),
}

#[derive(Default)]
struct Queue {
    /// What is under way: it is ended before something new is begun.
    begun: VecDeque<Work>,
    new: Turns<Work>,
    /// Proofs that wait because too many were wrong before.
    waiting: Waiting<Box<Proving>>,
    /// When they were looked at last.
    looked: Option<Instant>,
    /// Threads that have nothing to do.
    idle: usize,
    closed: bool,
}

/// The queue of requests, and what its threads share.
pub struct Desk {
    registry: Arc<Registry>,
    config: Config,
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Requests that wait or are under way.
    open: AtomicUsize,
    /// Requests that wait for other nodes.
    away: AtomicUsize,
    /// Requests turned away because the queue was full.
    turned_away: AtomicU64,
    retries: Retries<Letter, Outcome>,
    /// Copies being made.
    copies: AtomicUsize,
    /// Ends changes on the thread of the store, while few are under way.
    closer: Mutex<Option<Counter>>,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

impl Desk {
    /// A desk without threads yet.
    #[must_use]
    pub fn new(registry: Arc<Registry>, config: Config) -> Self {
        let keep = registry.config.limits.auth_time;
        Self {
            registry,
            config,
            queue: Mutex::default(),
            changed: Condvar::new(),
            open: AtomicUsize::new(0),
            away: AtomicUsize::new(0),
            turned_away: AtomicU64::new(0),
            retries: Retries::new(keep),
            copies: AtomicUsize::new(0),
            closer: Mutex::new(None),
        }
    }

    /// The decisions.
    #[must_use]
    pub const fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Requests turned away because the queue was full.
    #[must_use]
    pub fn turned_away(&self) -> u64 {
        self.turned_away.load(Relaxed)
    }

    /// Starts the threads.
    ///
    /// # Errors
    /// When the system starts no more.
    pub fn start(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        metrics: &Metrics,
    ) -> io::Result<Vec<JoinHandle<()>>> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = match self.config.threads {
            0 => cores + 1,
            threads => threads,
        };
        let closer = Counter::new(Arc::clone(self), Arc::clone(shared), metrics);
        *self.closer.lock().unwrap_or_else(PoisonError::into_inner) = Some(closer);
        let spawn = |number| {
            let counter = Counter::new(Arc::clone(self), Arc::clone(shared), metrics);
            let thread = std::thread::Builder::new().name(format!("desk-{number}"));
            thread.spawn(move || counter.patient().run())
        };
        (0..threads).map(spawn).collect()
    }

    /// Takes a request up, or gives it back when too many wait. Datagrams, whose senders may be
    /// forged, get half of the queue, so that connections find the other half.
    ///
    /// # Errors
    /// The queue is full.
    pub fn submit(&self, job: Job) -> Result<(), Job> {
        if !self.admit(&job) {
            return Err(job);
        }
        match self.take_up(job.source(), Work::Job(job)) {
            Some(Work::Job(job)) => Err(job),
            _ => Ok(()),
        }
    }

    /// Lets work that was admitted wait for a thread; gives it back when as much waits of its network as may: however
    /// much one asks for, there is room for others.
    fn take_up(&self, source: Source, work: Work) -> Option<Work> {
        let mut queue = self.lock();
        if queue.new.waiting(source) >= self.config.queue.div_ceil(2) {
            drop(queue);
            self.done();
            self.turned_away.fetch_add(1, Relaxed);
            return Some(work);
        }
        queue.new.push(source, work);
        drop(queue);
        self.changed.notify_one();
        None
    }

    /// Whether a request is so light that its connection's own thread may take it up: a change in
    /// a session, whose proof is a MAC and whose sync is waited for by nobody's thread.
    pub(super) fn is_light(&self, octets: &[u8]) -> bool {
        let Ok(message) = MessageView::decode(octets) else {
            return false;
        };
        let session = message.envelope.session_id;
        octets.len() <= LIGHT_MAX
            && session != 0
            && matches!(
                message.header.op_code,
                OpCode::CREATE_HANDLE
                    | OpCode::DELETE_HANDLE
                    | OpCode::ADD_VALUE
                    | OpCode::REMOVE_VALUE
                    | OpCode::MODIFY_VALUE
            )
            && self
                .registry
                .table
                .session(session, Instant::now())
                .is_some()
    }

    /// Counts a request in, if there is room for it.
    pub(super) fn admit(&self, job: &Job) -> bool {
        let room = match job.sink {
            Sink::Stream(_) | Sink::Nowhere => self.config.queue,
            Sink::Datagram { .. } => self.config.queue / 2,
        };
        self.admit_into(room)
    }

    fn admit_into(&self, room: usize) -> bool {
        if self.open.fetch_add(1, Relaxed) >= room {
            self.open.fetch_sub(1, Relaxed);
            self.turned_away.fetch_add(1, Relaxed);
            return false;
        }
        true
    }

    /// Asks for the rest of a long answer.
    pub fn go_on(&self, listing: Box<Listing>, answer: oneshot::Sender<Answer>) {
        let source = listing.source();
        self.lock().new.push(source, Work::More(listing, answer));
        self.changed.notify_one();
    }

    /// Ends the threads when everything taken up is done.
    pub fn close(&self) {
        // It holds the store, by which it is held.
        drop(
            self.closer
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Goes on with a change that the store has decided about; called on the store's own thread.
    ///
    /// While few are under way, waking another thread would cost more than ending it here: an
    /// entry of the audit trail and a MAC. What takes a signature or another decision is handed on.
    fn settle(&self, settled: Settled) {
        if self.open.load(Relaxed) <= SETTLED_HERE_MAX
            && settled.is_light()
            && let Ok(mut closer) = self.closer.try_lock()
            && let Some(closer) = &mut *closer
        {
            return closer.settled(settled);
        }
        self.go_on_with(Work::Settled(Box::new(settled)));
    }

    /// A request waits for another node, and no longer for this one: it is one of those that the forwarder bounds.
    fn leave(&self) {
        self.away.fetch_add(1, Relaxed);
        self.open.fetch_sub(1, Relaxed);
    }

    /// What was waited for is here.
    fn come_back(&self, work: Work) {
        self.open.fetch_add(1, Relaxed);
        self.away.fetch_sub(1, Relaxed);
        self.go_on_with(work);
    }

    fn go_on_with(&self, work: Work) {
        let mut queue = self.lock();
        queue.begun.push_back(work);
        // The store ends many changes at once. Who takes the first wakes the next, if there is more by then.
        if queue.begun.len() == 1 && queue.idle > 0 {
            drop(queue);
            self.changed.notify_one();
        }
    }

    /// Whether one request is under way, and no other.
    pub(super) fn is_alone(&self) -> bool {
        self.open.load(Relaxed) <= 1
    }

    /// Lets a proof wait for its turn; gives back one that there is no room for.
    fn wait_for_turn(&self, proving: Proving, now: Instant) -> Option<Proving> {
        let (claim, sender) = (proving.claim.clone(), proving.sender);
        let attempt = crate::registry::attempt(&claim, sender);
        self.leave();
        let throttle = self.registry.throttle();
        let out = (self.lock().waiting).join(attempt, Box::new(proving), throttle, now);
        if out.is_some() {
            self.open.fetch_add(1, Relaxed);
            self.away.fetch_sub(1, Relaxed);
        }
        out.map(|proving| *proving)
    }

    /// Moves those whose turn it is to what is under way; of a desk that is closed, all who wait.
    fn call_waiting(&self, queue: &mut Queue) {
        if queue.waiting.is_empty() {
            return;
        }
        let now = Instant::now();
        let looked = queue.looked.map(|at| now.saturating_duration_since(at));
        if looked.is_some_and(|passed| passed < LOOK) && !queue.closed {
            return;
        }
        queue.looked = Some(now);
        let left = match queue.closed {
            true => queue
                .waiting
                .close()
                .into_iter()
                .map(Leaves::Late)
                .collect(),
            false => {
                let throttle = self.registry.throttle();
                (queue.waiting).leave(throttle, now, |proving| proving.is_gone())
            }
        };
        self.open.fetch_add(left.len(), Relaxed);
        self.away.fetch_sub(left.len(), Relaxed);
        queue.begun.extend(left.into_iter().map(Work::Turn));
    }

    /// One request is done.
    fn done(&self) {
        self.open.fetch_sub(1, Relaxed);
    }

    /// The next thing to do; none when the desk is closed and everything is done.
    fn next(&self) -> Option<Work> {
        let mut queue = self.lock();
        loop {
            self.call_waiting(&mut queue);
            if let Some(work) = queue.begun.pop_front() {
                if !queue.begun.is_empty() && queue.idle > 0 {
                    self.changed.notify_one();
                }
                return Some(work);
            }
            if let Some(work) = queue.new.pop() {
                return Some(work);
            }
            if queue.closed && self.away.load(Relaxed) == 0 && self.open.load(Relaxed) == 0 {
                // The others may be waiting for this moment as well.
                self.changed.notify_all();
                return None;
            }
            let patience = match queue.waiting.is_empty() {
                true => 4 * LOOK,
                false => LOOK,
            };
            queue.idle += 1;
            let waited = self.changed.wait_timeout(queue, patience);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
            queue.idle -= 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Appends "too busy", for a request that the desk gave back.
pub(super) fn busy(octets: &[u8], stamp: Stamp, out: &mut Vec<u8>) {
    const TEXT: &[u8] = b"too many requests wait: please try again";
    let code = ResponseCode::SERVER_TOO_BUSY;
    let Ok(envelope) = Envelope::decode(octets) else {
        return;
    };
    let message = (!envelope.flags.contains(EnvelopeFlags::ENCRYPTED))
        .then(|| MessageView::decode_lenient(octets).ok())
        .flatten();
    let mut reply = match &message {
        Some(message) => Reply::begin(out, stamp, message, code),
        None => Reply::refusal(out, stamp, &envelope, OpCode::RESERVED, code),
    };
    reply.put_block(TEXT);
    super::finish(reply);
}
