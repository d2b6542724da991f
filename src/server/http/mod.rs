//! HTTP: the Handle JSON API, the binary protocol by POST, and pages behind scanned codes.
//!
//! ```text
//! accept → connection (PROXY, TLS, HTTP/1.1 or 2) → outer (limits, ids, counts) → routes
//!            GET  /api/handles/{handle} → handles ─→ resolver ─→ store
//!            PUT, DELETE …              → change  ─→ caller: who asks ─→ registry ─→ store
//! ```
//!
//! * `mod.rs`: the routes, and what they share. `connection`: one connection with its bounds; `proxy`, `tls`, `certificate`.
//! * `outer`: around every request. `answer`: statuses and errors; `texts`, `language`.
//! * `caller`: every credential becomes an identity; `sessions`.
//! * `asked`: paths and queries. `handles`, `list`: reading. `change`, `idempotency`, `body`: writing. `message`.
//! * `page`, `location`, `html`: behind a scanned code. `openapi`: the description of all this.
//! * `batch`: many identifiers in one request. `jobs`: many registrations, carried out by themselves. `changes`: followed.
//! * `watch`: what ends with its token. `replication`: what a standby copies this node by. `outgoing`: files as answers.
//! * `v1`: what the Handle JSON API has no place for.
//! * `pool`: readers and counters, lent to requests. `quota`: what is left of one, in headers.

mod answer;
mod asked;
mod batch;
mod body;
mod caller;
pub mod certificate;
mod change;
mod changes;
mod connection;
mod handles;
pub(crate) mod html;
mod idempotency;
mod jobs;
pub(crate) mod language;
mod list;
mod location;
mod message;
mod openapi;
mod outer;
mod outgoing;
mod page;
mod pool;
mod proxy;
mod quota;
mod replication;
mod sessions;
mod texts;
pub mod tls;
mod v1;
mod watch;

use std::fmt;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, HeaderValue};
use axum::routing::{any, get};
use ipnet::IpNet;
use rustls::ServerConfig;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::compression::CompressionLayer;

pub use self::batch::Limits as BatchLimits;
pub use self::jobs::Limits as JobLimits;
use self::pool::Pool;
use self::proxy::Trusted;
use self::sessions::Sessions;
use crate::handover::Inherited;
use crate::metrics::{Metrics, names};
use crate::registry::Registry;
use crate::registry::source::{Sender, Source};
use crate::server::BindError;
use crate::server::accept::{self, Registry as Connections};
use crate::server::budget::{self, Proven};
use crate::server::certificate::Identity;
use crate::server::handle::Shared;
use crate::server::limit::Limit;
use crate::token::book::Book;

/// Lists a second that one source network may ask for, and at once.
const LIST_RATE: u32 = 2;
const LIST_BURST: u32 = 20;
/// How long the threads of batches have to end whose connections are gone.
const BATCHES_END: Duration = Duration::from_secs(2);
/// How long jobs have to stop where they are.
const REST: Duration = Duration::from_secs(5);
/// How often the use of tokens is written down.
const USE_INTERVAL: Duration = Duration::from_secs(30);

/// How HTTP is served.
#[derive(Clone, Debug)]
pub struct Config {
    /// The addresses. Port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// The origin under which clients know this node; empty: not known.
    pub public_url: String,
    /// The certificate.
    pub certificate: Arc<Identity>,
    /// Whether clients are asked for certificates.
    pub client_certificates: bool,
    /// Whether credentials of this machine are looked at over plain HTTP.
    pub plain_loopback: bool,
    /// Whose word about the client is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Open connections.
    pub connections: usize,
    /// Requests of one network: a second, and at once.
    pub rate: (u32, u32),
    /// Octets of a body.
    pub body_max: usize,
    /// For a request's head, then its body.
    pub read: Duration,
    /// For an answer to be taken.
    pub write: Duration,
    /// How long answers are kept for their idempotency keys.
    pub idempotency: Duration,
    /// What batches may take.
    pub batch: BatchLimits,
    /// What jobs may take.
    pub jobs: JobLimits,
    /// Polls for changes at once: of all tokens, and of one.
    pub polls: (usize, usize),
    /// Sessions: how many, and how long each may last.
    pub sessions: (usize, Duration),
}

/// What is counted beside requests.
#[derive(Debug, Default)]
struct Figures {
    plain_credentials: AtomicU64,
    handshakes_failed: AtomicU64,
    batch_lines: AtomicU64,
}

/// What all requests share.
struct App {
    shared: Arc<Shared>,
    registry: Arc<Registry>,
    config: Config,
    pool: Pool,
    tokens: Arc<Book>,
    sessions: Sessions,
    trusted: Trusted,
    limit: Limit,
    lists: Limit,
    at_work: idempotency::AtWork,
    /// Batches that run.
    streams: batch::Streams,
    /// Where standbys are.
    copies: replication::Copies,
    /// Jobs, and those that are at work.
    jobs: Arc<jobs::Shelf>,
    /// Set when they are to end, because the node does.
    stopping: CancellationToken,
    /// Those who follow changes.
    polls: changes::Polls,
    /// Changes that are being carried out.
    changes: TaskTracker,
    tls: Arc<ServerConfig>,
    ids: Ids,
    /// Names and ports under which this node is reached.
    origins: Vec<(String, u16)>,
    figures: Figures,
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").finish_non_exhaustive()
    }
}

/// Ids of requests: a random start, so that those of two runs differ, and a count.
#[derive(Debug)]
struct Ids {
    start: u32,
    count: AtomicU64,
}

impl Ids {
    fn new() -> Self {
        Self {
            start: getrandom::u32().unwrap_or(0),
            count: AtomicU64::new(0),
        }
    }

    fn next(&self) -> HeaderValue {
        let count = self.count.fetch_add(1, Relaxed);
        let mut text = [0; 16];
        let octets = (u64::from(self.start) << 32 | count & 0xFFFF_FFFF).to_be_bytes();
        match hex::encode_to_slice(octets, &mut text) {
            Ok(()) => HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("0")),
            Err(_) => HeaderValue::from_static("0"),
        }
    }
}

/// The network of a client.
fn source_of(address: IpAddr) -> Source {
    sender_of(address).source()
}

/// A client: its address is proved by the connection.
const fn sender_of(address: IpAddr) -> Sender {
    Sender::proven(address)
}

/// The names under which a node is reached: its public origin and what it listens on.
fn origins_of(public_url: &str, addresses: &[SocketAddr]) -> Vec<(String, u16)> {
    let public = url::Url::parse(public_url).ok().and_then(|url| {
        let port = url.port_or_known_default()?;
        Some((url.host_str()?.to_owned(), port))
    });
    let own = addresses
        .iter()
        .map(|address| (location::host_of(address.ip()), address.port()));
    public.into_iter().chain(own).collect()
}

/// The routes. What is fixed wins; anything else is a handle.
fn routes(app: Arc<App>) -> Router {
    let described = Arc::new(openapi::description(&app.config.public_url));
    let shown = Arc::clone(&described);
    Router::new()
        .route("/api/handles", any(list::serve))
        .route("/api/handles/", any(handles::serve))
        .route("/api/handles/{*handle}", any(handles::serve))
        .route("/api/sessions", any(sessions::open))
        .route("/api/sessions/this", any(sessions::this))
        .route(
            "/api/openapi.json",
            get(move || async move { openapi::for_programs(&described) }),
        )
        .route(
            "/docs",
            get(move |headers: HeaderMap| async move { openapi::for_people(&shown, &headers) }),
        )
        .route("/api/v1/identity", any(v1::identity))
        .route("/api/v1/quota", any(batch::quota))
        .route("/api/v1/batch/resolve", any(batch::resolve))
        .route("/api/v1/changes", any(changes::serve))
        .route("/api/v1/handles", any(list::page))
        .route("/api/v1/jobs", any(jobs::all))
        .route("/api/v1/jobs/{id}", any(jobs::one))
        .route("/api/v1/jobs/{id}/pause", any(jobs::pause))
        .route("/api/v1/jobs/{id}/resume", any(jobs::resume))
        .route("/api/v1/jobs/{id}/cancel", any(jobs::cancel))
        .route("/api/v1/jobs/{id}/results", any(jobs::results))
        .route("/api/v1/replication", any(replication::standing))
        .route("/api/v1/replication/snapshot", any(replication::snapshot))
        .route("/api/v1/replication/journal", any(replication::journal))
        .route("/api/v1/replication/runs/{sequence}", any(replication::run))
        .route("/api/v1/replication/supersede", any(replication::supersede))
        .route("/api", any(v1::nothing))
        .route("/api/", any(v1::nothing))
        .route("/api/{*rest}", any(v1::nothing))
        .route("/docs/", any(page::nothing))
        .route("/favicon.ico", any(page::unasked))
        .route("/robots.txt", any(page::unasked))
        .fallback(page::serve)
        .layer(CompressionLayer::new().gzip(true))
        .with_state(app)
}

/// Listening sockets, and nobody working on them yet.
#[derive(Debug)]
pub struct Bound {
    config: Config,
    listeners: Vec<TcpListener>,
    /// What is listened on, with the ports taken.
    pub addresses: Vec<SocketAddr>,
}

impl Bound {
    /// Binds every address.
    ///
    /// # Errors
    /// The first address that is refused.
    pub fn bind(config: Config) -> Result<Self, BindError> {
        Self::adopt(config, &mut Inherited::default())
    }

    /// As [`Self::bind`], with the sockets of another process where it has them.
    ///
    /// # Errors
    /// As there.
    pub fn adopt(mut config: Config, inherited: &mut Inherited) -> Result<Self, BindError> {
        let mut bound = Self {
            listeners: Vec::new(),
            addresses: Vec::new(),
            config: config.clone(),
        };
        for address in config.listen.drain(..) {
            let refused = |error| BindError {
                address,
                transport: "TCP",
                section: "http",
                port: "port",
                error,
            };
            let listener = match inherited.listener(address) {
                Some(listener) => listener,
                None => super::listen(address).map_err(refused)?,
            };
            bound
                .addresses
                .push(listener.local_addr().map_err(refused)?);
            bound.listeners.push(listener);
        }
        Ok(bound)
    }

    /// The sockets, for another process.
    ///
    /// # Errors
    /// The system gives no more descriptors.
    pub fn share(&self) -> std::io::Result<Vec<OwnedFd>> {
        let listeners = self.listeners.iter();
        listeners
            .map(|listener| listener.as_fd().try_clone_to_owned())
            .collect()
    }
}

/// The HTTP front end at work.
#[derive(Debug)]
pub struct Http {
    app: Arc<App>,
    connections: Arc<Connections>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    /// What is listened on.
    pub addresses: Vec<SocketAddr>,
}

impl Http {
    /// Starts to accept, on the runtime this is called on.
    ///
    /// # Errors
    /// The certificate cannot be used, or a socket not be handed to the runtime.
    pub fn start(
        bound: Bound,
        shared: &Arc<Shared>,
        registry: &Arc<Registry>,
        metrics: &Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let Bound {
            config,
            listeners,
            addresses,
        } = bound;
        let clients = config.client_certificates.then(tls::any_client);
        let tls = config.certificate.server(clients, &[b"h2", b"http/1.1"])?;
        let app = Arc::new(App {
            pool: Pool::new(Arc::clone(shared), Arc::clone(metrics)),
            tokens: Arc::new(Book::new(Arc::clone(&shared.store))),
            sessions: Sessions::new(config.sessions.0, config.sessions.1),
            trusted: Trusted(config.trusted_proxies.clone()),
            limit: Limit::new(config.rate.0, config.rate.1),
            lists: Limit::new(LIST_RATE, LIST_BURST),
            at_work: idempotency::AtWork::default(),
            streams: batch::Streams::new(&config.batch)?,
            copies: replication::Copies::default(),
            jobs: Arc::new(jobs::Shelf::new(&config.jobs, &shared.store)?),
            polls: changes::Polls::new(config.polls),
            stopping: CancellationToken::new(),
            changes: TaskTracker::new(),
            ids: Ids::new(),
            origins: origins_of(&config.public_url, &addresses),
            figures: Figures::default(),
            shared: Arc::clone(shared),
            registry: Arc::clone(registry),
            tls,
            config,
        });
        let proven = Arc::new(Proven::new(budget::Config::default()));
        let connections = Arc::new(Connections::new(
            app.config.connections,
            Arc::clone(&metrics.http_connections),
            proven,
        ));
        observe(&app, metrics);
        let router = routes(Arc::clone(&app));
        let mut tasks = vec![
            tokio::spawn(idempotency::clean(
                Arc::clone(&shared.store),
                app.config.idempotency,
            )),
            tokio::spawn(write_down(Arc::clone(&app.tokens))),
        ];
        for listener in listeners {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let (app, router) = (Arc::clone(&app), router.clone());
            let serve = move |stream, peer, ticket| {
                connection::serve(stream, peer, Arc::clone(&app), router.clone(), ticket)
            };
            tasks.push(tokio::spawn(accept::accept(
                listener,
                Arc::clone(&connections),
                serve,
            )));
        }
        Ok(Self {
            app,
            connections,
            tasks,
            addresses,
        })
    }

    /// Carries jobs out from now on. Must be called on a runtime.
    pub fn begin_jobs(&mut self) {
        let tending = jobs::tend(Arc::clone(&self.app));
        self.tasks.push(tokio::spawn(tending));
    }

    /// Has jobs stop where they are and writes down what is written down now and then, so that another process may go on with
    /// it; whether they do.
    pub async fn rest(&self) -> bool {
        self.app.jobs.stop();
        let due = Instant::now() + REST;
        until(due, || !self.app.jobs.any_runs()).await;
        self.app.tokens.write_down();
        !self.app.jobs.any_runs()
    }

    /// Jobs go on.
    pub fn go_on(&self) {
        self.app.jobs.go_on();
    }

    /// Stops accepting, lets what was asked be answered, and ends every change that was begun. A batch may take hours:
    /// after half of the time it is ended with a summary that says so.
    /// Returns how many connections were left at the deadline, which is `drain` from now.
    pub async fn drain(self, drain: Duration) -> usize {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
        self.connections.drain();
        // A job goes on where it was when the node is there again.
        self.app.jobs.stop();
        // Whoever waits for changes comes again.
        self.app.polls.end();
        let deadline = Instant::now() + drain;
        let none_is_open = || self.connections.count() == 0;
        until(deadline - drain / 2, none_is_open).await;
        self.app.stopping.cancel();
        until(deadline, none_is_open).await;
        let left = self.connections.count();
        self.connections.cut();
        self.app.changes.close();
        let _ = tokio::time::timeout(drain, self.app.changes.wait()).await;
        // Their threads give back what they have not used.
        until(Instant::now() + BATCHES_END, || {
            !self.app.streams.any_runs() && !self.app.jobs.any_runs()
        })
        .await;
        self.app.tokens.write_down();
        left
    }
}

/// Waits until something is so, or until the deadline.
async fn until(deadline: Instant, is_so: impl Fn() -> bool) {
    while !is_so() && Instant::now() < deadline {
        tokio::time::sleep(super::DRAIN_INTERVAL).await;
    }
}

/// Writes down the use of tokens now and then.
async fn write_down(tokens: Arc<Book>) {
    loop {
        tokio::time::sleep(USE_INTERVAL).await;
        tokens.write_down();
    }
}

/// Adds what is counted beside requests to every scrape.
fn observe(app: &Arc<App>, metrics: &Metrics) {
    let app = Arc::downgrade(app);
    metrics.add_source(move |families| {
        let Some(app) = app.upgrade() else { return };
        let figures = &app.figures;
        for (name, value) in [
            (
                &names::PLAIN_CREDENTIALS,
                figures.plain_credentials.load(Relaxed),
            ),
            (
                &names::HANDSHAKES_FAILED,
                figures.handshakes_failed.load(Relaxed),
            ),
            (&names::HTTP_SESSIONS, app.sessions.count() as u64),
            (&names::BATCHES, app.streams.running() as u64),
            (&names::BATCH_LINES, figures.batch_lines.load(Relaxed)),
        ] {
            families.add(name, &[], value as f64);
        }
        for (state, count) in app.jobs.states() {
            families.add(&names::JOBS, &[("state", state)], count as f64);
        }
    });
}
