//! Everything that a node listens on, bound before any work begins; what another process has is taken over from it.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use jiexi_proto::value::site::SiteRecord;
use rustls::ServerConfig;

use super::{StartError, dns_config, failing, handle_config, http_config, operations, read_site};
use crate::config::Config;
use crate::control::server::ControlSocket;
use crate::handover::Inherited;
use crate::handover::giving::Estate;
use crate::ops;
use crate::reload::Certificates;
use crate::server::http;
use crate::server::{BindError, Bound, dns};

/// Sockets, and what must be sound before they are used. `C`: the control socket, or that of another process if there is one.
pub(super) struct Sockets<C = Option<UnixListener>> {
    pub(super) site: SiteRecord,
    pub(super) certificates: Certificates,
    pub(super) handle: Bound,
    pub(super) http: http::Bound,
    pub(super) dns: Option<dns::serve::Bound>,
    pub(super) operations: tokio::net::TcpListener,
    pub(super) guard: ops::Guard,
    pub(super) tls: Option<Arc<ServerConfig>>,
    pub(super) control: C,
}

impl Sockets {
    /// Binds what another process has not; what of that one is not wanted is closed.
    pub(super) async fn bind(
        config: &Config,
        mut inherited: Inherited,
    ) -> Result<Self, StartError> {
        let site = read_site(&config.site_file())?;
        let handle = Bound::adopt(handle_config(config), &mut inherited);
        let handle = handle.map_err(failing("[handle]"))?;
        let certificates = Certificates::load(config).map_err(StartError)?;
        let http = http_config(config, &certificates);
        let http = http::Bound::adopt(http, &mut inherited).map_err(failing("[http]"))?;
        let dns = (config.dns.enabled).then(|| dns_config(config, &certificates));
        let dns = dns
            .map(|dns| dns::serve::Bound::adopt(dns, &mut inherited))
            .transpose()
            .map_err(failing("[dns]"))?;
        let operations = listen(config, &mut inherited).await;
        let operations = operations.map_err(failing("[operations]"))?;
        let (guard, tls) = operations::guard(config, &certificates)?;
        let control = inherited.control();
        Ok(Self {
            site,
            certificates,
            handle,
            http,
            dns,
            operations,
            guard,
            tls,
            control,
        })
    }

    /// Whether the control socket is that of another process.
    pub(super) const fn inherits_control(&self) -> bool {
        self.control.is_some()
    }

    /// With the control socket, which belongs to whoever has the store. All of them go into the estate.
    pub(super) fn with_control(
        self,
        config: &Config,
        estate: &Estate,
    ) -> Result<Sockets<ControlSocket>, StartError> {
        let path = config.control_socket();
        // Until this process is the node, the file of a socket that it inherits is the other one's.
        estate
            .control_given()
            .store(self.inherits_control(), Relaxed);
        let control = match self.control {
            Some(listener) => ControlSocket::adopt(listener, &path, estate.control_given()),
            None => ControlSocket::bind(&path, estate.control_given()),
        };
        let control = control.map_err(failing("control socket"))?;
        let failed = || failing("sockets");
        let given = control.share().map_err(failed())?;
        let operations = self.operations.as_fd().try_clone_to_owned();
        let mut all: Vec<OwnedFd> = vec![given, operations.map_err(failed())?];
        all.extend(self.handle.share().map_err(failed())?);
        all.extend(self.http.share().map_err(failed())?);
        if let Some(dns) = &self.dns {
            all.extend(dns.share().map_err(failed())?);
        }
        estate.add(all);
        Ok(Sockets {
            site: self.site,
            certificates: self.certificates,
            handle: self.handle,
            http: self.http,
            dns: self.dns,
            operations: self.operations,
            guard: self.guard,
            tls: self.tls,
            control,
        })
    }
}

/// The operations listener.
async fn listen(
    config: &Config,
    inherited: &mut Inherited,
) -> Result<tokio::net::TcpListener, BindError> {
    let address = config.operations.listen;
    let listener = match inherited.listener(address) {
        Some(listener) => tokio::net::TcpListener::from_std(listener),
        None => tokio::net::TcpListener::bind(address).await,
    };
    listener.map_err(|error| BindError {
        address,
        transport: "TCP",
        section: "operations",
        port: "listen",
        error,
    })
}
