//! Binds the sockets of DNS and starts what answers there.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use tokio_rustls::TlsAcceptor;

use super::stream::Pool;
use super::udp::Datagrams;
use super::{Channel, Responder, Shared, stream, tls};
use crate::handover::Inherited;
use crate::metrics::{Metrics, Protocol, Transport};
use crate::server::accept::{self, Registry};
use crate::server::budget::{Budget, Proven};
use crate::server::certificate::{CertificateError, Identity};
use crate::server::{self, BindError, Running, count_kernel_drops, datagram, listen, spawn_worker};

/// How DNS is served.
#[derive(Clone, Debug)]
pub struct Config {
    /// Over UDP and TCP.
    pub plain: server::Config,
    /// Over the budget, every so many-th answer is a short one; 0: none.
    pub slip: u32,
    /// Over TLS.
    pub tls: Option<Tls>,
}

/// How DNS is served over TLS.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The port, at the same addresses.
    pub port: u16,
    /// Who the server is.
    pub certificate: Arc<Identity>,
}

/// Why DNS cannot be served.
#[derive(Debug)]
pub enum Error {
    /// An address cannot be bound.
    Bind(BindError),
    /// A file of TLS cannot be used.
    Tls(CertificateError),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bind(error) => error.fmt(f),
            Self::Tls(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

/// All sockets, bound, and nobody working on them yet.
pub struct Bound {
    plain: server::Bound,
    slip: u32,
    tls: Option<(TlsAcceptor, Vec<TcpListener>)>,
    /// Where UDP and TCP are served.
    pub addresses: Vec<SocketAddr>,
    /// Where TLS is served.
    pub tls_addresses: Vec<SocketAddr>,
}

impl std::fmt::Debug for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bound")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl Bound {
    /// Binds every address, or says what is in the way.
    ///
    /// # Errors
    /// The first address that is refused, or the file of TLS that cannot be used.
    pub fn bind(config: Config) -> Result<Self, Error> {
        Self::adopt(config, &mut Inherited::default())
    }

    /// As [`Self::bind`], with the sockets of another process where it has them.
    ///
    /// # Errors
    /// As there.
    pub fn adopt(config: Config, inherited: &mut Inherited) -> Result<Self, Error> {
        let hosts = config.plain.listen.clone();
        let plain = server::Bound::adopt(config.plain, inherited).map_err(Error::Bind)?;
        let mut tls_addresses = Vec::new();
        let mut tls = None;
        if let Some(settings) = config.tls {
            let acceptor = tls::acceptor(&settings.certificate).map_err(Error::Tls)?;
            let mut listeners = Vec::new();
            for host in hosts {
                let address = SocketAddr::new(host.ip(), settings.port);
                let refused = |error| {
                    Error::Bind(BindError {
                        address,
                        transport: "TLS",
                        section: "dns",
                        port: "tls_port",
                        error,
                    })
                };
                let listener = match inherited.listener(address) {
                    Some(listener) => listener,
                    None => listen(address).map_err(refused)?,
                };
                tls_addresses.push(listener.local_addr().map_err(refused)?);
                listeners.push(listener);
            }
            tls = Some((acceptor, listeners));
        }
        Ok(Self {
            addresses: plain.addresses.clone(),
            plain,
            slip: config.slip,
            tls,
            tls_addresses,
        })
    }

    /// The sockets, for another process.
    ///
    /// # Errors
    /// The system gives no more descriptors.
    pub fn share(&self) -> io::Result<Vec<OwnedFd>> {
        let mut all = self.plain.share()?;
        for listener in self.tls.iter().flat_map(|(_, listeners)| listeners) {
            all.push(listener.as_fd().try_clone_to_owned()?);
        }
        Ok(all)
    }

    /// Starts the workers and the acceptors; the latter on the runtime this is called on.
    ///
    /// # Errors
    /// When a thread cannot be started, or a socket cannot be set up.
    pub fn start(self, shared: &Arc<Shared>, metrics: &Arc<Metrics>) -> io::Result<Running> {
        let server::Bound {
            config,
            workers,
            listeners,
            sockets,
            ..
        } = self.plain;
        let proven = Arc::new(Proven::new(config.budget.clone()));
        let connections = Arc::clone(&metrics.dns_connections);
        let registry = Registry::new(config.connections, connections, Arc::clone(&proven));
        let mut running = Running::new(registry, config.drain);
        count_kernel_drops(metrics, Protocol::Dns, &sockets);
        for (number, socket) in sockets.into_iter().enumerate() {
            forbid_fragments(&socket)?;
            let cell = metrics.cell_of(Protocol::Dns, Transport::Udp);
            let responder = Responder::new(Arc::clone(shared), cell);
            let budget = Budget::new(&config.budget, workers, Instant::now());
            let worker = datagram::Worker {
                socket: Arc::new(socket),
                front: Datagrams::new(responder, budget, Arc::clone(&proven), self.slip),
                stop: Arc::clone(&running.stop),
            };
            running
                .workers
                .push(spawn_worker("udp-dns", number, worker)?);
        }
        let streams = Arc::new(config.streams);
        let pool = |channel| Arc::new(Pool::new(Arc::clone(shared), Arc::clone(metrics), channel));
        let tcp = pool(Channel::Tcp);
        for listener in listeners {
            let (pool, streams) = (Arc::clone(&tcp), Arc::clone(&streams));
            let serve = move |io, peer, ticket| {
                let (pool, streams) = (Arc::clone(&pool), Arc::clone(&streams));
                async move { stream::serve(io, peer, &pool, &ticket, &streams).await }
            };
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let task = accept::accept(listener, Arc::clone(&running.registry), serve);
            running.acceptors.push(tokio::spawn(task));
        }
        let Some((acceptor, listeners)) = self.tls else {
            return Ok(running);
        };
        let secure = pool(Channel::Tls);
        for listener in listeners {
            let (pool, streams, acceptor) =
                (Arc::clone(&secure), Arc::clone(&streams), acceptor.clone());
            let serve = move |io, peer, ticket| {
                let (pool, streams, acceptor) =
                    (Arc::clone(&pool), Arc::clone(&streams), acceptor.clone());
                async move { tls::serve(io, peer, &acceptor, &pool, &ticket, &streams).await }
            };
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let task = accept::accept(listener, Arc::clone(&running.registry), serve);
            running.acceptors.push(tokio::spawn(task));
        }
        Ok(running)
    }
}

/// Has datagrams leave whole or not at all, whatever anybody says about the path (RFC 9715 §3.1):
/// fragments can be forged.
fn forbid_fragments(socket: &std::net::UdpSocket) -> io::Result<()> {
    let fd = socket.as_fd();
    match socket.local_addr()? {
        SocketAddr::V4(_) => set_ip_mtu_discover(fd, Ipv4PathMtuDiscovery::PROBE)?,
        SocketAddr::V6(_) => set_ipv6_mtu_discover(fd, Ipv6PathMtuDiscovery::PROBE)?,
    }
    Ok(())
}
