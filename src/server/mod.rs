//! Everything that listens.
//!
//! ```text
//!  datagram → handle::udp ─┐                                  ┌→ resolver → store
//!                          ├→ handle::Responder (parse, find, encode)
//!  stream  → accept → handle::stream ─┘
//! ```
//! The same for [`dns`].
//!
//! * [`handle`]: the Handle protocol, over UDP worker threads and TCP tasks.
//! * [`http`]: the JSON API and pages.
//! * [`dns`]: identifiers for DNS clients, over UDP, TCP and TLS.
//! * [`forward`]: questions about handles at home elsewhere, asked there and remembered.
//! * [`accept`]: connections: cap, back-off, the longest idle one.
//! * [`datagram`]: UDP worker threads of any protocol.
//! * [`budget`]: the guard against amplification. [`limit`]: how much a source network may ask for. [`certificate`]: that of TLS, which changes while clients come.
//! * [`Server`]: binds everything before any work, starts it, drains it.

pub mod accept;
pub mod budget;
pub mod certificate;
pub mod datagram;
pub mod dns;
pub mod forward;
pub mod handle;
pub mod http;
pub mod limit;

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::oneshot;

use self::accept::Registry;
use self::budget::{Budget, Proven, Purse};
use self::handle::desk::Desk;
use self::handle::{Responder, Shared, stream, udp};
use crate::handover::Inherited;
use crate::metrics::{Metrics, Protocol as MetricProtocol, Transport};

/// The length of the queue of connections not accepted yet.
const BACKLOG: i32 = 4096;

/// How often a draining server looks whether the last connection is gone.
const DRAIN_INTERVAL: Duration = Duration::from_millis(20);

/// How a protocol is served over UDP and TCP.
#[derive(Clone, Debug)]
pub struct Config {
    /// The section of the configuration that it comes from, for people.
    pub section: &'static str,
    /// The addresses of both transports. Port 0 takes a free one, the same for both.
    pub listen: Vec<SocketAddr>,
    /// UDP worker threads for each address; 0: one for each core.
    pub workers: usize,
    /// The kernel's receive buffer of each UDP socket, bytes.
    pub receive_buffer: usize,
    /// The deadlines of connections.
    pub streams: stream::Config,
    /// Open connections; at the cap the longest idle one is closed.
    pub connections: usize,
    /// How long open connections have to end when the node stops.
    pub drain: Duration,
    /// The guard against amplification.
    pub budget: budget::Config,
}

/// A failure to bind, with what could not be bound.
#[derive(Debug)]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// TCP or UDP.
    pub transport: &'static str,
    /// The section of the configuration that it comes from.
    pub section: &'static str,
    /// The key of its port there; `listen`, when that says the port as well.
    pub port: &'static str,
    /// Why.
    pub error: io::Error,
}

impl BindError {
    /// What people can do about it.
    fn remedy(&self) -> String {
        let (section, port) = (self.section, self.port);
        let elsewhere = match port {
            "listen" => format!("[{section}] listen"),
            port => format!("[{section}] {port} or listen"),
        };
        match self.error.kind() {
            io::ErrorKind::AddrInUse => format!(
                "; another process listens there, and `ss -lntup` says which: end it, or change {elsewhere}"
            ),
            io::ErrorKind::PermissionDenied if self.address.port() < 1024 => format!(
                "; ports below 1024 need the capability CAP_NET_BIND_SERVICE: start the node by its unit, which grants it, or change [{section}] {port}"
            ),
            io::ErrorKind::AddrNotAvailable => {
                format!("; this machine has no such address: change [{section}] listen")
            }
            _ => String::new(),
        }
    }
}

impl std::fmt::Display for BindError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "cannot listen on {} {}: {}{}",
            self.transport,
            self.address,
            self.error,
            self.remedy()
        )
    }
}

impl std::error::Error for BindError {}

/// All sockets, bound, and nobody working on them yet.
#[derive(Debug)]
pub struct Bound {
    config: Config,
    workers: usize,
    listeners: Vec<TcpListener>,
    sockets: Vec<UdpSocket>,
    /// What is listened on, with the ports taken.
    pub addresses: Vec<SocketAddr>,
}

impl Bound {
    /// Binds every address, or says which one cannot be bound.
    ///
    /// # Errors
    /// The first address that is refused.
    pub fn bind(config: Config) -> Result<Self, BindError> {
        Self::adopt(config, &mut Inherited::default())
    }

    /// As [`Self::bind`], with the sockets of another process where it has them. Their number is then that of the workers.
    ///
    /// # Errors
    /// As there.
    pub fn adopt(config: Config, inherited: &mut Inherited) -> Result<Self, BindError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = if config.workers == 0 {
            cores
        } else {
            config.workers
        };
        let mut bound = Self {
            workers,
            listeners: Vec::new(),
            sockets: Vec::new(),
            addresses: Vec::new(),
            config,
        };
        for address in bound.config.listen.clone() {
            bound.bind_address(address, inherited)?;
        }
        Ok(bound)
    }

    fn bind_address(
        &mut self,
        mut address: SocketAddr,
        inherited: &mut Inherited,
    ) -> Result<(), BindError> {
        let section = self.config.section;
        let refused = |transport, address| {
            move |error| BindError {
                address,
                transport,
                section,
                port: "port",
                error,
            }
        };
        let listener = match inherited.listener(address) {
            Some(listener) => listener,
            None => listen(address).map_err(refused("TCP", address))?,
        };
        address = listener.local_addr().map_err(refused("TCP", address))?;
        let datagrams = inherited.datagrams(address);
        // Another one beside those would get datagrams that nobody reads if this process comes to nothing.
        let missing = if datagrams.is_empty() {
            self.workers
        } else {
            0
        };
        self.sockets.extend(datagrams);
        for _ in 0..missing {
            let socket = datagram::bind(address, self.config.receive_buffer, section);
            self.sockets.push(socket.map_err(refused("UDP", address))?);
        }
        self.listeners.push(listener);
        self.addresses.push(address);
        Ok(())
    }

    /// The sockets, for another process.
    ///
    /// # Errors
    /// The system gives no more descriptors.
    pub fn share(&self) -> io::Result<Vec<OwnedFd>> {
        let listeners = self.listeners.iter().map(AsFd::as_fd);
        let all = listeners.chain(self.sockets.iter().map(AsFd::as_fd));
        all.map(|socket| socket.try_clone_to_owned()).collect()
    }
}

/// A listening socket of `address`.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The workers and acceptors of one protocol at work.
#[derive(Debug)]
pub struct Running {
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<io::Result<()>>>,
    acceptors: Vec<tokio::task::JoinHandle<()>>,
    registry: Arc<Registry>,
    drain: Duration,
}

impl Running {
    /// Nothing at work yet.
    fn new(registry: Registry, drain: Duration) -> Self {
        Self {
            stop: Arc::default(),
            workers: Vec::new(),
            acceptors: Vec::new(),
            registry: Arc::new(registry),
            drain,
        }
    }

    /// Gives open connections another time to end.
    pub fn drain_for(&mut self, drain: Duration) {
        self.drain = drain;
    }

    /// Stops accepting, lets what was asked be answered until the deadline, and calls `before` before it
    /// waits for the workers. Returns how many connections were cut.
    pub async fn drain(self, before: impl FnOnce() + Send + 'static) -> usize {
        for acceptor in &self.acceptors {
            acceptor.abort();
        }
        self.stop.store(true, Relaxed);
        self.registry.drain();
        let deadline = tokio::time::Instant::now() + self.drain;
        while self.registry.count() > 0 && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(DRAIN_INTERVAL).await;
        }
        let workers = self.workers;
        let joined = tokio::task::spawn_blocking(move || {
            before();
            for worker in workers {
                if let Ok(Err(error)) = worker.join() {
                    tracing::error!(event = "udp.worker_stopped", %error, "a UDP worker had stopped");
                }
            }
        });
        let _ = joined.await;
        self.registry.count()
    }
}

/// The Handle front end at work.
#[derive(Debug)]
pub struct Server {
    running: Running,
    desk: Option<Arc<Desk>>,
    clerks: Vec<JoinHandle<()>>,
    /// What is listened on.
    pub addresses: Vec<SocketAddr>,
}

impl Server {
    /// Starts the workers and the acceptors; the latter on the runtime this is called on.
    ///
    /// # Errors
    /// When a thread cannot be started or a socket cannot be handed to the runtime.
    pub fn start(bound: Bound, shared: &Arc<Shared>, metrics: &Arc<Metrics>) -> io::Result<Self> {
        let Bound {
            config,
            listeners,
            sockets,
            addresses,
            workers,
        } = bound;
        let proven = Arc::new(Proven::new(config.budget.clone()));
        let budget = Budget::new(&config.budget, 1, Instant::now());
        let purse = Arc::new(Purse::new(budget, Arc::clone(&proven)));
        let connections = Arc::clone(&metrics.connections);
        let registry = Registry::new(config.connections, connections, Arc::clone(&proven));
        let mut running = Running::new(registry, config.drain);
        count_kernel_drops(metrics, MetricProtocol::Handle, &sockets);
        for (number, socket) in sockets.into_iter().enumerate() {
            let socket = Arc::new(socket);
            let responder = Responder::new(Arc::clone(shared), metrics.cell(Transport::Udp));
            let budget = Budget::new(&config.budget, workers, Instant::now());
            let (proven, purse) = (Arc::clone(&proven), Arc::clone(&purse));
            let own = Arc::clone(&socket);
            let worker = datagram::Worker {
                front: udp::Datagrams::new(own, responder, budget, proven, purse),
                socket,
                stop: Arc::clone(&running.stop),
            };
            running.workers.push(spawn_worker("udp", number, worker)?);
        }
        let desk = shared.desk.clone();
        let clerks = match &desk {
            Some(desk) => desk.start(shared, metrics)?,
            None => Vec::new(),
        };
        let pool = Arc::new(stream::Pool::new(Arc::clone(shared), Arc::clone(metrics)));
        for listener in listeners {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let (pool, streams) = (Arc::clone(&pool), Arc::new(config.streams.clone()));
            let serve = move |stream, peer, ticket| {
                let (pool, streams) = (Arc::clone(&pool), Arc::clone(&streams));
                async move { stream::serve(stream, peer, &pool, &ticket, &streams).await }
            };
            let task = accept::accept(listener, Arc::clone(&running.registry), serve);
            running.acceptors.push(tokio::spawn(task));
        }
        Ok(Self {
            running,
            desk,
            clerks,
            addresses,
        })
    }

    /// Stops accepting, lets what was asked be answered, and cuts whoever is left after the
    /// deadline. Returns how many connections were cut.
    pub async fn drain(self) -> usize {
        let (_, nobody) = oneshot::channel();
        self.drain_with(nobody).await
    }

    /// Gives open connections another time to end.
    pub fn drain_for(&mut self, drain: Duration) {
        self.running.drain_for(drain);
    }

    /// As [`Self::drain`]; what is asked at the desk is answered until the other end of `others` is gone as well.
    pub async fn drain_with(self, others: oneshot::Receiver<()>) -> usize {
        let (clerks, desk) = (self.clerks, self.desk);
        let close = move || {
            let _ = others.blocking_recv();
            if let Some(desk) = desk {
                desk.close();
            }
            for clerk in clerks {
                let _ = clerk.join();
            }
        };
        self.running.drain(close).await
    }
}

fn spawn_worker<F: datagram::Front + Send + 'static>(
    name: &str,
    number: usize,
    worker: datagram::Worker<F>,
) -> io::Result<JoinHandle<io::Result<()>>> {
    std::thread::Builder::new()
        .name(format!("{name}-{number}"))
        .spawn(move || {
            let result = worker.run();
            if let Err(error) = &result {
                tracing::error!(event = "udp.worker_failed", %error, number, "a UDP worker cannot go on: its socket failed");
            }
            result
        })
}

/// Adds the drops of these sockets to every scrape.
fn count_kernel_drops(metrics: &Metrics, protocol: MetricProtocol, sockets: &[UdpSocket]) {
    use std::os::unix::fs::MetadataExt as _;
    let inodes: Vec<u64> = sockets
        .iter()
        .filter_map(|socket| {
            let fd = std::os::fd::AsRawFd::as_raw_fd(socket);
            std::fs::metadata(format!("/proc/self/fd/{fd}"))
                .ok()
                .map(|file| file.ino())
        })
        .collect();
    metrics.add_source(move |families| {
        let labels = [("protocol", protocol.label())];
        families.add(
            &crate::metrics::names::KERNEL_DROPS,
            &labels,
            kernel_drops(&inodes) as f64,
        );
    });
}

/// The datagrams that the kernel dropped at these sockets, as /proc/net/udp tells.
fn kernel_drops(inodes: &[u64]) -> u64 {
    let mut drops = 0;
    for table in ["/proc/self/net/udp", "/proc/self/net/udp6"] {
        let Ok(table) = std::fs::read_to_string(table) else {
            continue;
        };
        for line in table.lines().skip(1) {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let inode = fields.get(9).and_then(|inode| inode.parse().ok());
            if inode.is_some_and(|inode| inodes.contains(&inode)) {
                drops += fields
                    .last()
                    .and_then(|drops| drops.parse::<u64>().ok())
                    .unwrap_or(0);
            }
        }
    }
    drops
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: whoever reads why a port cannot be had reads what to do about it.
    #[test]
    fn refused_ports_come_with_a_remedy() {
        let said = |kind: io::ErrorKind, port| {
            let error = BindError {
                address: SocketAddr::from(([192, 0, 2, 1], port)),
                transport: "TLS",
                section: "dns",
                port: "tls_port",
                error: kind.into(),
            };
            error.to_string()
        };
        let privileged = said(io::ErrorKind::PermissionDenied, 853);
        assert!(
            privileged.starts_with("cannot listen on TLS 192.0.2.1:853: "),
            "{privileged}"
        );
        for (words, said) in [
            ("CAP_NET_BIND_SERVICE", &privileged),
            ("or change [dns] tls_port", &privileged),
            (
                "change [dns] tls_port or listen",
                &said(io::ErrorKind::AddrInUse, 853),
            ),
            (
                "no such address: change [dns] listen",
                &said(io::ErrorKind::AddrNotAvailable, 853),
            ),
        ] {
            assert!(said.contains(words), "{said}");
        }
        let other = said(io::ErrorKind::PermissionDenied, 1853);
        assert!(!other.contains("CAP_NET"), "{other}");
    }
}
