//! Questions about handles that are at home elsewhere: asked there, and remembered.
//!
//! ```text
//!  udp worker, connection ─→ recall: the cache ─→ told at once
//!          └→ desk ─→ ask ─→ one task for all equal questions ─→ client ─→ site of the prefix, or upstream
//!                                        └→ cache ─→ told to everyone who waits ─→ desk ─→ answer
//! ```
//!
//! * `question`: what is asked, and what makes two questions equal.
//! * `fetch`: one question asked elsewhere: where, and what the answer is worth.
//! * `identity`: who asks, when their key is at home elsewhere.
//! * `figures`: what is counted.
//!
//! What waits is bounded: in all, for each source network, for each prefix. Nothing here is asked more than
//! [`HOPS_MAX`] servers away, longer than the deadline, or at an address that the rules forbid.

mod fetch;
mod figures;
mod identity;
mod question;

use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiexi_proto::MessageView;
use jiexi_proto::code::ResponseCode;
use tokio::time::timeout;

use self::fetch::{Failure, Fetched, Local};
use self::figures::Figures;
use self::identity::Identities;
pub use self::identity::ThenProve;
pub use self::question::Question;
use crate::client::outbound::{Outbound, Silent};
use crate::client::{Client, Transports};
use crate::clock;
use crate::metrics::{Families, Protocol, names};
use crate::notices::{self, Slow};
use crate::registry::source::Source;
use crate::resolver::cache::{Bounds, Cache, Found, Known};
use crate::server::handle::{Shared, outcome_of};

/// Servers that may have passed a question on before it is refused, as with the reference server.
pub const HOPS_MAX: u8 = 10;

/// How long who asks waits for news of what is remembered and no longer lives.
const PATIENCE: Duration = Duration::from_millis(500);

/// Parts of the cache, each with a lock of its own.
const PARTS: usize = 16;

/// How questions are asked elsewhere.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whether anybody may ask for handles that are at home elsewhere.
    pub recursion: bool,
    /// Whether identities at home elsewhere may prove themselves.
    pub authentication: bool,
    /// Where prefixes are asked for that this node delegates to nobody, one after the other.
    pub upstream: Vec<SocketAddr>,
    /// Where may be connected to.
    pub outbound: Outbound,
    /// How long one question may take.
    pub deadline: Duration,
    /// Questions under way at once.
    pub questions: usize,
    /// Requests that may wait for them.
    pub waiting: usize,
    /// What is remembered.
    pub cache: Bounds,
    /// How long it is remembered that there is nothing.
    pub negative: Duration,
}

/// How an answer came about; the labels of [`names::FORWARDED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Its home was asked.
    Answered,
    /// It is remembered.
    Cached,
    /// It is remembered, its values live no longer, and its home does not answer.
    Stale,
    /// There is none: its home does not answer, or must not be asked.
    Failed,
    /// Servers pass it on in a circle.
    Loop,
}

/// What is told to one who asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The answer.
    pub known: Known,
    /// How it came about.
    pub manner: Manner,
}

impl Told {
    fn failed(known: Known) -> Self {
        let manner = match known.code {
            ResponseCode::RECURSION_COUNT_TOO_HIGH => Manner::Loop,
            _ => Manner::Failed,
        };
        Self { known, manner }
    }

    fn refusal(code: ResponseCode, text: &'static str) -> Self {
        let body = Bytes::from_static(text.as_bytes());
        Self::failed(Known { code, body })
    }

    /// Whether the values live no longer.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.manner == Manner::Stale
    }
}

/// What goes on when there is an answer.
pub type Then = Box<dyn FnOnce(Told) + Send>;

/// One who waits.
struct Waiter {
    source: Source,
    then: Then,
}

/// What is under way.
#[derive(Default)]
struct Table {
    pending: HashMap<Question, Vec<Waiter>, foldhash::fast::RandomState>,
    waiting: usize,
    by_source: HashMap<Source, usize, foldhash::fast::RandomState>,
    by_prefix: HashMap<Vec<u8>, usize, foldhash::fast::RandomState>,
}

impl Table {
    /// Takes those out who wait for a question; it stays under way.
    fn take(&mut self, question: &Question) -> Vec<Waiter> {
        let waiters = self.pending.get_mut(question).map(std::mem::take);
        let waiters = waiters.unwrap_or_default();
        self.waiting -= waiters.len();
        for waiter in &waiters {
            count_out(&mut self.by_source, &waiter.source);
        }
        waiters
    }

    /// As [`Self::take`]; the question is over.
    fn end(&mut self, question: &Question) -> Vec<Waiter> {
        let waiters = self.take(question);
        self.pending.remove(question);
        count_out(&mut self.by_prefix, question.prefix());
        waiters
    }
}

/// Asks elsewhere on behalf of others.
pub struct Forwarder {
    config: Config,
    client: Client,
    local: Mutex<Local>,
    cache: [Mutex<Cache>; PARTS],
    hasher: foldhash::fast::RandomState,
    table: Mutex<Table>,
    identities: Identities,
    figures: Figures,
    runtime: tokio::runtime::Handle,
}

impl std::fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forwarder").finish_non_exhaustive()
    }
}

impl Forwarder {
    /// One that works on the runtime it is made on. `shared` says which prefixes are delegated, and to whom.
    #[must_use]
    pub fn new(config: Config, shared: &Shared) -> Self {
        let mut client = Client::new(Transports::Any, clock::unix_seconds);
        client.udp_waits = vec![config.deadline / 12, config.deadline / 6];
        client.tcp_connect = config.deadline / 4;
        client.tcp_answer = config.deadline;
        client.outbound = Some(Arc::new(config.outbound.clone()));
        client.silent = Some(Arc::new(Silent::new(config.cache.retry)));
        let part = || {
            Mutex::new(Cache::new(Bounds {
                bytes: config.cache.bytes / PARTS,
                ..config.cache.clone()
            }))
        };
        Self {
            client,
            local: Mutex::new(Local::new(shared)),
            cache: std::array::from_fn(|_| part()),
            hasher: foldhash::fast::RandomState::default(),
            table: Mutex::default(),
            identities: Identities::new(config.cache.retry),
            figures: Figures::default(),
            runtime: tokio::runtime::Handle::current(),
            config,
        }
    }

    /// Whether anybody may ask for handles that are at home elsewhere.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.config.recursion
    }

    /// What can be told without asking anybody about the resolution in `message`.
    pub fn recall(&self, message: &MessageView<'_>, now: Instant) -> Option<Told> {
        let question = Question::read(message)?;
        let told = match question.hops >= HOPS_MAX {
            true => TOO_FAR.to_told(),
            false if question.authoritative => return None,
            false => self.remembered(&question, now).1?,
        };
        self.figures.told(told.manner);
        Some(told)
    }

    /// Asks, or joins those who wait for the same; `then` is called once, on another thread or at once.
    pub fn ask(self: &Arc<Self>, question: Question, source: Source, then: Then) {
        if question.hops >= HOPS_MAX {
            return self.tell(then, TOO_FAR.to_told());
        }
        // What is known is told however many wait for what is not.
        if !question.authoritative
            && let (_, Some(told)) = self.remembered(&question, Instant::now())
        {
            return self.tell(then, told);
        }
        let mut begin = false;
        let mut table = self.lock();
        let share = match source.is_claimed() {
            true => self.config.waiting / 4,
            false => self.config.waiting / 2,
        };
        let of_source = table.by_source.get(&source).copied().unwrap_or_default();
        let mut room = table.waiting < self.config.waiting && of_source < share.max(1);
        if room && !table.pending.contains_key(&question) {
            let prefix = question.prefix();
            let of_prefix = table.by_prefix.get(prefix).copied().unwrap_or_default();
            room = table.pending.len() < self.config.questions
                && of_prefix < (self.config.questions / 4).max(1);
            if room {
                *table.by_prefix.entry(prefix.to_vec()).or_default() += 1;
                begin = true;
            }
        }
        if !room {
            drop(table);
            let text = "too many questions wait for other nodes: please try again";
            return self.tell(then, Told::refusal(ResponseCode::SERVER_TOO_BUSY, text));
        }
        table.waiting += 1;
        *table.by_source.entry(source).or_default() += 1;
        let waiters = table.pending.entry(question.clone()).or_default();
        waiters.push(Waiter { source, then });
        drop(table);
        if begin {
            self.figures.fetched();
            self.runtime.spawn(Arc::clone(self).run(question));
        }
    }

    /// Adds what is counted and held to a scrape.
    pub fn collect(&self, families: &mut Families) {
        self.figures.collect(families);
        let (mut entries, mut bytes) = (0, 0);
        for part in &self.cache {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            entries += part.len();
            bytes += part.bytes();
        }
        let waiting = self.lock().waiting;
        families.add(&names::FORWARD_WAITING, &[], waiting as f64);
        families.add(&names::FORWARD_CACHE_ENTRIES, &[], entries as f64);
        families.add(&names::FORWARD_CACHE_BYTES, &[], bytes as f64);
    }

    /// One question from its beginning to its end.
    async fn run(self: Arc<Self>, question: Question) {
        let begun = Instant::now();
        let (stands_in, known) = self.remembered(&question, begun);
        // Another one may have got the answer since it was looked for.
        if let Some(told) = known.filter(|_| !question.authoritative) {
            return self.end(&question, &told, begun);
        }
        let mut fetching = pin!(self.fetch(&question));
        let fetched = match stands_in {
            true => match timeout(PATIENCE, &mut fetching).await {
                Ok(fetched) => fetched,
                Err(_) => {
                    self.stand_in(&question);
                    fetching.await
                }
            },
            false => fetching.await,
        };
        let told = self.take_in(&question, fetched);
        self.end(&question, &told, begun);
    }

    /// Remembers what came of a question; what is told to those who wait.
    fn take_in(&self, question: &Question, fetched: Result<Fetched, Failure>) -> Told {
        let now = Instant::now();
        let mut part = self.part(question);
        match fetched {
            // What is old already is not remembered as new.
            Ok(Fetched {
                known, stale: true, ..
            }) => Told {
                known,
                manner: Manner::Stale,
            },
            Ok(Fetched { known, life, .. }) => {
                part.learn(&question.key, known.clone(), life, now);
                let manner = Manner::Answered;
                Told { known, manner }
            }
            Err(failure) => {
                part.fail(&question.key, failure.to_known(), now);
                match part.find(&question.key, now) {
                    // Who insists on the home itself is not told what is remembered.
                    Found::Stale(known) if !question.authoritative => Told {
                        known,
                        manner: Manner::Stale,
                    },
                    _ => failure.to_told(),
                }
            }
        }
    }

    /// Its home takes long: those who wait, and those who come now, are told what is remembered.
    fn stand_in(&self, question: &Question) {
        let now = Instant::now();
        let slow = Failure::new(ResponseCode::ERROR, "the home of this handle takes long");
        self.part(question)
            .fail(&question.key, slow.to_known(), now);
        let (_, Some(told)) = self.remembered(question, now) else {
            return;
        };
        let waiters = self.lock().take(question);
        self.tell_all(waiters, &told);
    }

    /// Whether there is something to stand in for an answer, and what can be told without asking.
    fn remembered(&self, question: &Question, now: Instant) -> (bool, Option<Told>) {
        let told = |known, manner| Some(Told { known, manner });
        match self.part(question).find(&question.key, now) {
            Found::Fresh(known) => (false, told(known, Manner::Cached)),
            Found::Stale(known) => (false, told(known, Manner::Stale)),
            Found::Failed(why) => (false, Some(Told::failed(why))),
            Found::Expired => (!question.authoritative, None),
            Found::Absent => (false, None),
        }
    }

    fn end(&self, question: &Question, told: &Told, begun: Instant) {
        let waiters = self.lock().end(question);
        let took = begun.elapsed();
        if notices::is_slow(took) {
            let slow = Slow {
                protocol: Protocol::Handle,
                transport: None,
                operation: "forward",
                outcome: outcome_of(told.known.code).label(),
                took,
                requests: waiters.len(),
                about: question.handle(),
                network: waiters.first().map(|waiter| waiter.source),
            };
            slow.tell();
        }
        self.tell_all(waiters, told);
    }

    fn tell_all(&self, waiters: Vec<Waiter>, told: &Told) {
        for waiter in waiters {
            self.tell(waiter.then, told.clone());
        }
    }

    fn tell(&self, then: Then, told: Told) {
        self.figures.told(told.manner);
        then(told);
    }

    fn part(&self, question: &Question) -> MutexGuard<'_, Cache> {
        let hash = self.hasher.hash_one(&question.key);
        let part = &self.cache[usize::try_from(hash >> 32).unwrap_or(0) % PARTS];
        part.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Said to what has come too far.
const TOO_FAR: Failure = Failure::new(
    ResponseCode::RECURSION_COUNT_TOO_HIGH,
    "too many servers have passed this question on",
);

/// Counts one of them out.
fn count_out<K, Q>(counts: &mut HashMap<K, usize, foldhash::fast::RandomState>, key: &Q)
where
    K: std::hash::Hash + Eq + std::borrow::Borrow<Q>,
    Q: std::hash::Hash + Eq + ?Sized,
{
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}
