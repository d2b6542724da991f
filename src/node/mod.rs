//! The composition root: a configuration in, a running node out. No logic of its own.
//!
//! Everything is bound before any work begins, so that a start either succeeds or says why not. `sockets`: what is bound, or
//! taken over from another process; `heir`: how a node gives itself to one. `operations`: the operations listener. A standby
//! starts anew, within the process, when its store is exchanged or becomes a primary's.

mod heir;
mod operations;
mod sockets;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiexi_proto::handle;
use jiexi_proto::value::site::SiteRecord;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock;
use crate::config::Config;
use crate::control::server as control;
use crate::handover::Inherited;
use crate::handover::giving::{Estate, Heir};
use crate::handover::successor::{Order, Program};
use crate::history::{self, History};
use crate::identity;
use crate::json;
use crate::logging::Logging;
use crate::metrics::Metrics;
use crate::notify;
use crate::observe;
use crate::ops;
use crate::registry::audit::Audit;
use crate::registry::auth::Policy;
use crate::registry::keys::NodeKey;
use crate::registry::{self, Identity, Registry, permit, table};
use crate::reload::{Certificates, Reload};
use crate::resolver::cache::Bounds;
use crate::server::forward::{self, Forwarder};
use crate::server::handle::desk::{self, Desk};
use crate::server::handle::{Shared, stream};
use crate::server::http::{self, Http};
use crate::server::limit::Limit;
use crate::server::{self, Running, Server, budget, dns};
use crate::standby::boot::{self, Part};
use crate::standby::follow::{self, Ended};
use crate::standby::watch::Watch;
use crate::standby::{self, promote};
use crate::store::{State, Store};

use self::sockets::Sockets;

/// Why a node cannot start: what was tried, and what went wrong.
#[derive(Debug)]
pub struct StartError(String);

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

/// Turns any error into a [`StartError`] that says what was tried.
fn failing<E: std::fmt::Display>(what: impl std::fmt::Display) -> impl FnOnce(E) -> StartError {
    move |error| StartError(format!("{what}: {error}"))
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    store: Arc<Store>,
    server: Server,
    http: Http,
    dns: Option<Running>,
    /// Where DNS is served, if it is.
    pub dns_addresses: Vec<SocketAddr>,
    /// Where DNS over TLS is served, if it is.
    pub dns_tls_addresses: Vec<SocketAddr>,
    history: Option<Arc<History>>,
    /// Where the operations listener is.
    pub operations: SocketAddr,
    stop: CancellationToken,
    side: TaskTracker,
    reload: Reload,
    registry: Arc<Registry>,
    /// Following the primary, when this is a standby.
    following: Option<tokio::task::JoinHandle<Ended>>,
    /// How far behind it is.
    watch: Option<Arc<Watch>>,
    /// Tasks that look for new certificates, for ever.
    watches: Vec<tokio::task::JoinHandle<()>>,
    /// What another process may take over, those who are ready to, and orders to start one.
    estate: Arc<Estate>,
    heirs: Option<mpsc::Receiver<Heir>>,
    upgrades: Option<mpsc::Receiver<Order>>,
    /// How long open connections have to end.
    drain: Duration,
    /// Another process is the node now.
    given: bool,
}

impl Node {
    /// Starts a node on the runtime this is called on.
    ///
    /// # Errors
    /// When an address is taken, the store cannot be opened, or the site record cannot be read.
    pub async fn start(config: &Config) -> Result<Self, StartError> {
        Self::start_prepared(config, Part::Alone, || Ok(())).await
    }

    /// As [`Self::start`], as what [`boot::begin`] has found this node to be; `prepare` is done when everything is bound,
    /// before the store is opened.
    ///
    /// # Errors
    /// As [`Self::start`], and what `prepare` says.
    pub async fn start_prepared(
        config: &Config,
        part: Part,
        prepare: impl FnOnce() -> Result<(), String>,
    ) -> Result<Self, StartError> {
        let sockets = Sockets::bind(config, Inherited::default()).await?;
        prepare().map_err(StartError)?;
        // Its errors name the file.
        let store = Store::open(config.store_config()).map_err(failing("store"))?;
        let mut node = Self::begin(config, part, sockets, Arc::new(store))?;
        node.http.begin_jobs();
        Ok(node)
    }

    /// Begins to serve, with all sockets and a store that this process has. Jobs are for the caller to begin, when it is
    /// certain that this process is the node.
    fn begin(
        config: &Config,
        part: Part,
        sockets: Sockets,
        store: Arc<Store>,
    ) -> Result<Self, StartError> {
        let refusal = matches!(part, Part::Standby(_)).then_some(
            "a standby is not taken over while it runs: stop it and start the new one; its primary answers meanwhile",
        );
        let (estate, heirs, upgrades) = Estate::new(refusal);
        let Sockets {
            site,
            certificates,
            handle: bound,
            http: web,
            dns,
            operations,
            guard,
            tls,
            control,
        } = sockets.with_control(config, &estate)?;
        let estate = Arc::new(estate);
        let metrics = Arc::new(Metrics::default());
        let history = history_of(config, &metrics)?;
        let registry = registry_of(config, &store)?;
        observe::store(&metrics, &store, &registry);
        let watch = match &part {
            Part::Standby(following) => Some(Arc::clone(&following.watch)),
            Part::Alone | Part::Successor(_) => None,
        };
        observe::standby(&metrics, &store, watch.clone());
        observe::backups(&metrics, &config.node.data);
        let completing = Arc::clone(&registry);
        let thread = std::thread::Builder::new().name("audit-complete".into());
        thread
            .spawn(move || complete_audit(&completing))
            .map_err(failing("threads"))?;
        let desk = Desk::new(Arc::clone(&registry), desk_config(config));
        let site_serial = site.serial;
        let mut wire = Vec::new();
        site.encode(&mut wire);
        let mut shared = Shared {
            case: store.case(),
            store: Arc::clone(&store),
            site: Bytes::from(wire),
            site_serial,
            desk: Some(Arc::new(desk)),
            forwarder: None,
            anonymous: Limit::new(config.anonymous.rate, config.anonymous.burst),
        };
        let forwarder = Arc::new(Forwarder::new(forward_config(config), &shared));
        shared.forwarder = Some(Arc::clone(&forwarder));
        metrics.add_source(move |families| forwarder.collect(families));
        let shared = Arc::new(shared);
        // What can fail comes before anybody is served: a process that takes over and fails must not have answered.
        let dns = match dns {
            Some(bound) => Some((bound, Arc::new(dns_shared(config, &store, &shared.site)?))),
            None => None,
        };
        let address = operations
            .local_addr()
            .map_err(failing("[operations] listen"))?;
        // Datagrams last: whoever reads them must answer.
        let http = Http::start(web, &shared, &registry, &metrics).map_err(failing("[http]"))?;
        let server = Server::start(bound, &shared, &metrics).map_err(failing("threads"))?;
        let (dns_addresses, dns_tls_addresses) = dns
            .as_ref()
            .map(|(bound, _)| (bound.addresses.clone(), bound.tls_addresses.clone()))
            .unwrap_or_default();
        let dns = dns
            .map(|(bound, shared)| bound.start(&shared, &metrics))
            .transpose()
            .map_err(failing("[dns] threads"))?;
        let stop = CancellationToken::new();
        let side = TaskTracker::new();
        let (orders, taken) = mpsc::channel(1);
        let own = standby::own_place(config);
        let following = match part {
            Part::Alone => None,
            Part::Successor(primary) => {
                let store = Arc::clone(&store);
                side.spawn(promote::meet(primary, store, own.clone(), stop.clone()));
                None
            }
            Part::Standby(following) => {
                let store = Arc::clone(&store);
                Some(tokio::spawn(follow::run(
                    *following,
                    store,
                    taken,
                    stop.clone(),
                )))
            }
        };
        side.spawn(control::serve(
            control,
            Arc::clone(&registry),
            config.store_config(),
            following.is_some().then_some((orders, own)),
            clock::unix_seconds,
            Arc::clone(&estate),
            stop.clone(),
        ));
        let reload = Reload::new(config, certificates.clone(), &metrics);
        side.spawn(ops::serve(
            operations,
            operations::sources(
                metrics,
                Arc::clone(&store),
                history.clone(),
                watch.clone().map(|watch| (watch, config.follow.lag_max)),
            ),
            guard,
            tls,
            stop.clone(),
        ));
        side.close();
        let watched = [Some(&certificates.http), certificates.dns.as_ref()];
        let watched = watched.into_iter().flatten();
        let watches = watched
            .map(|identity| tokio::spawn(Arc::clone(identity).watch(config.http.tls_reload)))
            .collect();
        Ok(Self {
            reload,
            registry,
            following,
            watch,
            watches,
            store,
            server,
            http,
            dns,
            dns_addresses,
            dns_tls_addresses,
            history,
            operations: address,
            stop,
            side,
            estate,
            heirs: Some(heirs),
            upgrades: Some(upgrades),
            drain: config.handle.drain,
            given: false,
        })
    }

    /// Where the Handle protocol is served.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.server.addresses
    }

    /// Where HTTP is served.
    #[must_use]
    pub fn http_addresses(&self) -> &[SocketAddr] {
        &self.http.addresses
    }

    /// The node's store.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Waits until another store is to be used; for ever when this is no standby.
    async fn wait_for_another_store(&mut self) -> Ended {
        let Some(following) = &mut self.following else {
            return std::future::pending().await;
        };
        match following.await {
            Ok(ended @ (Ended::Arrived | Ended::Promoted(_))) => ended,
            ended => {
                if ended.is_err() {
                    tracing::error!(
                        event = "standby.panicked",
                        "following panicked; the log says where. Questions are answered from what is here"
                    );
                }
                self.following = None;
                std::future::pending().await
            }
        }
    }

    /// Lets what was asked be answered, then closes the store.
    ///
    /// # Errors
    /// When the store cannot be closed cleanly; everything acknowledged is in its journal.
    pub async fn stop(self) -> Result<(), StartError> {
        self.estate.close();
        if self.given {
            // Commands and probes are the other process's.
            self.stop.cancel();
        }
        let drain = self.drain;
        let dns = async {
            match self.dns {
                Some(dns) => dns.drain(|| {}).await,
                None => 0,
            }
        };
        // Proofs that come by HTTP are checked at the desk of the Handle protocol.
        let (others, gone) = oneshot::channel::<()>();
        let http = async {
            let cut = self.http.drain(drain).await;
            drop(others);
            cut
        };
        let (cut, cut_http, cut_dns) = tokio::join!(self.server.drain_with(gone), http, dns);
        let cut = cut + cut_http + cut_dns;
        if cut > 0 {
            tracing::warn!(
                event = "node.connections_cut",
                connections = cut,
                "connections were cut at the drain deadline"
            );
        }
        self.stop.cancel();
        self.watches.iter().for_each(tokio::task::JoinHandle::abort);
        self.side.wait().await;
        // One that has ended gives nothing more.
        if let Some(following) = self.following.filter(|following| !following.is_finished()) {
            let _ = following.await;
        }
        let (store, history, registry) = (self.store, self.history, self.registry);
        let closed = tokio::task::spawn_blocking(move || {
            if let Some(history) = history {
                history.close();
            }
            let left = registry.audit().map_or(0, Audit::left);
            if left > 0 {
                tracing::warn!(
                    event = "audit.left_out",
                    left,
                    "requests that this process has refused since it gave the audit trail away are not in it"
                );
            }
            // The next node of this process may go on with it.
            if let Some(audit) = registry.audit() {
                audit.close();
            }
            store.shutdown()
        })
        .await;
        closed
            .map_err(failing("closing the store"))?
            .map_err(failing("closing the store"))
    }
}

/// Serves a node until the process is told to stop (SIGTERM or SIGINT), or another process has taken it over. At SIGHUP it
/// `read`s the configuration again. `prepare` is done when everything is bound, `started` when the node serves. With
/// `take_over` it is a running node that this process becomes, where changes wait for so long at most. `program` is what is
/// started for an upgrade.
///
/// # Errors
/// As [`Node::start`] and [`Node::stop`].
pub async fn run(
    config: &Config,
    logging: &Logging,
    read: impl Fn() -> Result<Config, String>,
    prepare: impl FnOnce() -> Result<(), String>,
    started: impl FnOnce(&Node),
    take_over: Option<Duration>,
    program: Option<&Program>,
) -> Result<(), StartError> {
    // Before anything else: a signal that comes while the node starts must not kill it half-way.
    let mut signals = Signals::listen().map_err(failing("signals"))?;
    let mut taken = None;
    let mut part = None;
    match take_over {
        Some(pause_max) => taken = heir::take_over(config, pause_max, &mut signals).await?,
        None => part = begin(config, None, &mut signals).await?,
    }
    let (mut prepare, mut started) = (Some(prepare), Some(started));
    let mut successor = None;
    loop {
        let mut node = match (taken.take(), part.take()) {
            (Some(node), _) => node,
            (None, Some(part)) => {
                let preparing = || prepare.take().map_or(Ok(()), |prepare| prepare());
                let node = Node::start_prepared(config, part, preparing).await?;
                notify::ready(SERVES);
                node
            }
            (None, None) => return Ok(()),
        };
        let (mut heirs, mut orders) = (node.heirs.take(), node.upgrades.take());
        let estate = Arc::clone(&node.estate);
        if let Some(started) = started.take() {
            started(&node);
        }
        let next = loop {
            tokio::select! {
                asked = signals.wait() => match asked {
                    Asked::Reload => node.reload.take(read(), logging),
                    Asked::Stop(signal) => break Next::Stop(signal),
                },
                ended = node.wait_for_another_store() => {
                    node.following = None;
                    break Next::Another(ended);
                }
                order = heir::next(&mut orders) => heir::upgrade(&mut successor, program, &estate, order),
                (status, why) = heir::ended(&mut successor, &estate) => {
                    if let Some(successor) = successor.take() {
                        successor.failed(status, why);
                    }
                }
                heir = heir::next(&mut heirs) => {
                    if let Some(given) = node.give(heir).await {
                        break Next::Given(given);
                    }
                }
            }
        };
        // Whoever is ready now is too late, and hears so: while it waited the node would not end.
        drop((heirs, orders));
        if !matches!(next, Next::Given(_))
            && let Some(successor) = successor.take()
        {
            successor.abandon("the node stops").await;
        }
        match next {
            Next::Stop(signal) => {
                tracing::info!(
                    event = "node.stopping",
                    signal,
                    "stopping: no new connections, open requests are answered"
                );
                notify::stopping();
                node.stop().await?;
                tracing::info!(event = "node.stopped", "stopped");
                return Ok(());
            }
            Next::Given(mut given) => {
                let lost = given.lost(config.control_socket());
                let left = leave(node, config.handle.drain, &mut signals, lost);
                let (left, ()) = tokio::join!(left, given.tell(successor.take()));
                return left;
            }
            Next::Another(ended) => {
                tracing::warn!(
                    event = "node.restarting",
                    "the node starts anew with another store: questions wait"
                );
                notify::status("starts anew with another store");
                let watch = node.watch.take();
                node.stop().await?;
                exchange(config, ended).await?;
                part = begin(config, watch, &mut signals).await?;
            }
        }
    }
}

/// What systemd shows of a node that serves.
const SERVES: &str = concat!("jiexi ", env!("CARGO_PKG_VERSION"), " serves");

/// Lets the connections of a node that was given away end. When the process is told to stop they have `drain` left, as those
/// of any node: who stops the unit stops this process, too, and waits no longer. When the other process is `lost` they are cut.
async fn leave(
    node: Node,
    drain: Duration,
    signals: &mut Signals,
    lost: impl Future<Output = StartError>,
) -> Result<(), StartError> {
    let told = async {
        let signal = tokio::select! {
            // Who stops the unit ends the other process, too.
            biased;
            signal = signals.wait_stop() => signal,
            error = lost => return Err(error),
        };
        tracing::info!(
            event = "node.leaving",
            signal,
            "stopping: open connections end"
        );
        tokio::time::sleep(drain).await;
        tracing::warn!(
            event = "node.connections_cut",
            "connections were cut at the drain deadline"
        );
        Ok(())
    };
    tokio::select! {
        stopped = node.stop() => stopped?,
        told = told => told?,
    }
    tracing::info!(
        event = "node.replaced",
        "stopped: another process is the node"
    );
    Ok(())
}

/// Why a node ends.
enum Next {
    /// The process does.
    Stop(&'static str),
    /// Another store is to be used.
    Another(Ended),
    /// Another process is the node.
    Given(heir::Given),
}

/// What the node is when it starts; none when it was told to stop before that was known.
async fn begin(
    config: &Config,
    watch: Option<Arc<Watch>>,
    signals: &mut Signals,
) -> Result<Option<Part>, StartError> {
    tokio::select! {
        part = boot::begin(config, watch) => part.map(Some).map_err(StartError),
        signal = signals.wait_stop() => {
            tracing::info!(event = "node.stopped_early", signal, "stopped before the node was started");
            Ok(None)
        }
    }
}

/// Puts another store in the place of that of a stopped node.
async fn exchange(config: &Config, ended: Ended) -> Result<(), StartError> {
    let config = config.clone();
    let exchanged = tokio::task::spawn_blocking(move || match ended {
        Ended::Stopped => Ok(()),
        Ended::Arrived => boot::install(&config),
        Ended::Promoted(epoch) => match Store::succeed(&config.store_config(), epoch) {
            Ok(_) => {
                tracing::warn!(
                    event = "standby.promoted",
                    epoch,
                    "this node is the primary now"
                );
                Ok(())
            }
            // A standby as before: that is better than nothing.
            Err(error) => {
                tracing::error!(event = "standby.promotion_failed", %error, "the store gets no new epoch; this node stays a standby");
                Ok(())
            }
        },
    });
    let exchanged = exchanged.await.map_err(failing("exchanging the store"))?;
    exchanged.map_err(StartError)
}

/// What a signal asks for.
enum Asked {
    /// Read the configuration again.
    Reload,
    /// End; by which signal.
    Stop(&'static str),
}

/// The signals that a node listens to.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// From now on these signals no longer end the process by themselves.
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for one that tells the process to stop; by which.
    async fn wait_stop(&mut self) -> &'static str {
        loop {
            if let Asked::Stop(signal) = self.wait().await {
                return signal;
            }
        }
    }

    /// What came.
    async fn wait(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Asked::Stop("SIGINT"),
            _ = self.hang_up.recv() => Asked::Reload,
        }
    }
}

/// The site record that `init` wrote.
///
/// # Errors
/// When there is none that can be read; the message names the file.
pub fn read_site(path: &Path) -> Result<SiteRecord, StartError> {
    let shown = || format!("site record {} (jiexi init writes it)", path.display());
    let text = std::fs::read(path).map_err(failing(shown()))?;
    let json = serde_json::from_slice(&text).map_err(failing(shown()))?;
    json::site::read(&json).map_err(failing(shown()))
}

/// The audit trail, open to be added to: by one process at a time, as the store is.
///
/// # Errors
/// When it is not usable; the message names its directory.
pub fn audit_trail(config: &Config, key: &NodeKey) -> Result<Audit, StartError> {
    let directory = config.audit_dir();
    Audit::open(&directory, key, clock::unix_seconds().into())
        .map_err(failing(format_args!("audit trail {}", directory.display())))
}

/// What decides about changes, with the node's key and the audit trail.
///
/// # Errors
/// The key, the audit trail or the list of administrators is not usable.
pub fn registry_of(config: &Config, store: &Arc<Store>) -> Result<Arc<Registry>, StartError> {
    let path = config.node_key();
    let key = identity::node_key(&path).map_err(failing("the node's key"))?;
    let audit = audit_trail(config, &key)?;
    let administration = &config.administration;
    let mut limits = table::Limits {
        auth_time: administration.auth_time,
        session_time: administration.session_time,
        sessions: size(administration.sessions_max.into()),
        ..table::Limits::default()
    };
    limits.sessions_per_source = limits.sessions_per_source.min(limits.sessions);
    let settings = registry::Config {
        permit: permit::Config {
            server_admins: identities("admins", &administration.admins, store)?,
            replication_admins: identities(
                "replication_admins",
                &administration.replication_admins,
                store,
            )?,
            server_admin_full_access: administration.full_access,
            prefix_admins: administration.prefix_admins,
        },
        policy: Policy {
            dsa: administration.dsa,
            sha1: administration.sha1,
        },
        limits,
        copy_secrets: administration.replication_secrets,
        old_macs: administration.old_macs,
        ..registry::Config::default()
    };
    let registry = Registry::new(Arc::clone(store), key, settings, Some(audit));
    Ok(Arc::new(registry.map_err(failing(path.display()))?))
}

/// The identities in a setting of `[administration]`.
fn identities(setting: &str, texts: &[String], store: &Store) -> Result<Vec<Identity>, StartError> {
    let identity = |text: &String| {
        let problem = "must be index:handle, such as 300:0.NA/88.118";
        let wrong = || StartError(format!("[administration] {setting}: {text:?} {problem}"));
        let (index, handle) = text.split_once(':').ok_or_else(wrong)?;
        let mut key = Vec::new();
        handle::canonical(handle.as_bytes(), store.case(), &mut key);
        let index = index.parse().map_err(|_| wrong())?;
        Ok(Identity { handle: key, index })
    };
    texts.iter().map(identity).collect()
}

/// Completes the audit trail when the store is loaded: what was made durable just before a crash is not in it yet.
pub fn complete_audit(registry: &Registry) {
    compare_audit(registry);
    registry.set_compared();
}

fn compare_audit(registry: &Registry) {
    const LOOK: Duration = Duration::from_millis(200);
    let store = &registry.records.store;
    loop {
        match store.wait_loaded(LOOK) {
            Ok(true) => break,
            // It may have become ready just now.
            Ok(false) if !matches!(store.state(), State::ReadOnly(_)) => {}
            // It does not load: there is nothing to compare with.
            _ => return,
        }
    }
    if !store.role().takes_changes() {
        // What changes here was asked for elsewhere, and is in the trail there.
        return;
    }
    match registry.complete_audit() {
        Ok(0) => {}
        Ok(entries) => tracing::warn!(
            event = "audit.completed",
            entries,
            "changes were durable before a crash and not in the audit trail; they are now, marked as recovered"
        ),
        Err(error) => {
            tracing::error!(event = "audit.not_compared", %error, "the audit trail could not be compared with the journal")
        }
    }
}

/// The desk as configured.
fn desk_config(config: &Config) -> desk::Config {
    desk::Config {
        threads: config.administration.threads.into(),
        queue: size(config.administration.queue.into()),
        challenge_sdk: config.administration.challenge_sdk,
    }
}

/// What other nodes are asked, as configured.
fn forward_config(config: &Config) -> forward::Config {
    let from = &config.recursion;
    forward::Config {
        recursion: from.allow_recursion,
        authentication: from.authentication,
        upstream: from.upstream.clone(),
        outbound: from.outbound(&config.node.addresses),
        deadline: from.deadline,
        questions: size(from.questions.into()),
        waiting: size(from.waiting.into()),
        cache: Bounds {
            bytes: size(from.cache),
            life_max: from.ttl_max,
            stale: from.stale,
            retry: from.retry,
        },
        negative: from.ttl_negative,
    }
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The Handle front end as configured.
fn handle_config(config: &Config) -> server::Config {
    let handle = &config.handle;
    server::Config {
        section: "handle",
        listen: handle
            .listen
            .iter()
            .map(|ip| SocketAddr::new(*ip, handle.port))
            .collect(),
        workers: usize::from(handle.udp_workers),
        receive_buffer: size(handle.udp_receive_buffer),
        streams: stream::Config {
            first_byte: handle.tcp_first_byte,
            read: handle.tcp_read,
            write: handle.tcp_write,
            idle: handle.tcp_idle,
        },
        connections: size(handle.connections_max.into()),
        drain: handle.drain,
        budget: budget::Config {
            bytes_per_second: handle.amplification_rate,
            burst_bytes: handle.amplification_burst,
            ipv4_prefix: handle.amplification_ipv4_prefix,
            ipv6_prefix: handle.amplification_ipv6_prefix,
            ..budget::Config::default()
        },
    }
}

/// The log of resolutions and changes as configured.
fn history_of(config: &Config, metrics: &Metrics) -> Result<Option<Arc<History>>, StartError> {
    let from = &config.history;
    if !from.enabled {
        return Ok(None);
    }
    let directory = config.node.data.join(&from.directory);
    let shown = directory.display().to_string();
    let history = History::open(history::Config {
        directory,
        days: from.days,
        budget: from.budget,
    });
    let history = Arc::new(history.map_err(failing(format_args!("[history] {shown}")))?);
    metrics.remember_in(&history);
    Ok(Some(history))
}

/// The HTTP front end as configured.
fn http_config(config: &Config, certificates: &Certificates) -> http::Config {
    let from = &config.http;
    let address = |ip: &IpAddr| SocketAddr::new(*ip, from.port);
    http::Config {
        listen: from.listen.iter().map(address).collect(),
        public_url: from.public_url.trim_end_matches('/').to_owned(),
        certificate: Arc::clone(&certificates.http),
        client_certificates: from.client_certificates,
        plain_loopback: from.plain_loopback,
        trusted_proxies: from.trusted_proxies.clone(),
        connections: size(from.connections_max.into()),
        rate: (from.rate, from.burst),
        body_max: size(from.body_max),
        read: from.read,
        write: from.write,
        idempotency: from.idempotency,
        batch: batch_limits(config),
        jobs: job_limits(config),
        polls: (
            size(config.changes.polls_max.into()),
            size(config.changes.polls_per_token.into()),
        ),
        sessions: (
            size(config.administration.sessions_max.into()),
            config.administration.session_time,
        ),
    }
}

/// What batches may take, as configured.
fn batch_limits(config: &Config) -> http::BatchLimits {
    let from = &config.batch;
    http::BatchLimits {
        streams: size(from.streams_max.into()),
        streams_per_token: size(from.streams_per_token.into()),
        input: from.input_max,
        ratio: from.ratio_max.into(),
        spool: from.spool_max,
        recursive: from.recursive_max,
        anonymous: config.anonymous.batch,
        directory: config.spool_dir(),
    }
}

/// What jobs may take, as configured.
fn job_limits(config: &Config) -> http::JobLimits {
    let from = &config.jobs;
    http::JobLimits {
        running: size(from.running_max.into()),
        each: size(from.jobs_per_token.into()),
        input: from.input_max,
        ratio: config.batch.ratio_max.into(),
        disk: from.disk_max,
        keep: from.keep,
        directory: config.jobs_dir(),
    }
}

/// The DNS front end as configured.
fn dns_config(config: &Config, certificates: &Certificates) -> dns::serve::Config {
    let dns = &config.dns;
    let plain = server::Config {
        section: "dns",
        listen: dns
            .listen
            .iter()
            .map(|ip| SocketAddr::new(*ip, dns.port))
            .collect(),
        workers: usize::from(dns.udp_workers),
        receive_buffer: size(dns.udp_receive_buffer),
        streams: stream::Config {
            first_byte: dns.tcp_read,
            read: dns.tcp_read,
            write: dns.tcp_write,
            idle: dns.tcp_idle,
        },
        connections: size(dns.connections_max.into()),
        drain: config.handle.drain,
        budget: budget::Config {
            bytes_per_second: dns.amplification_rate,
            burst_bytes: dns.amplification_burst,
            ipv4_prefix: dns.amplification_ipv4_prefix,
            ipv6_prefix: dns.amplification_ipv6_prefix,
            ..budget::Config::default()
        },
    };
    dns::serve::Config {
        plain,
        slip: dns.slip,
        tls: certificates.dns.clone().map(|certificate| dns::serve::Tls {
            port: dns.tls_port,
            certificate,
        }),
    }
}

/// What DNS answers are made of, as configured.
///
/// # Errors
/// A zone that cannot work.
pub fn dns_shared(
    config: &Config,
    store: &Arc<Store>,
    site: &Bytes,
) -> Result<dns::Shared, StartError> {
    let settings = &config.dns;
    let zones = dns::zone::Zones::new(&settings.zones, store.case());
    let mut secret = [0; 16];
    match hex::decode(&settings.cookie_secret) {
        Ok(octets) if octets.len() == secret.len() => secret.copy_from_slice(&octets),
        _ => getrandom::fill(&mut secret).map_err(failing("[dns] cookie_secret"))?,
    }
    Ok(dns::Shared {
        store: Arc::clone(store),
        site: site.clone(),
        zones: zones.map_err(|faults| {
            let lines: Vec<_> = faults.iter().map(ToString::to_string).collect();
            StartError(format!("[dns] zones: {}", lines.join("; ")))
        })?,
        cookies: dns::cookie::Cookies::new(secret),
        nsid: settings.nsid.clone().into_bytes(),
        udp_payload: settings.udp_payload,
        keepalive: u16::try_from(settings.tcp_idle.as_millis() / 100).unwrap_or(u16::MAX),
    })
}
