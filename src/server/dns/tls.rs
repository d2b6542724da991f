//! DNS over TLS (RFC 7858): the certificate, and the handshake in front of a connection.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::stream::{self, Pool};
use crate::metrics::Why;
use crate::server::accept::Ticket;
use crate::server::handle::stream::Config;

/// What clients ask for in the handshake (RFC 7858 §3.2, IANA registry of ALPN).
const PROTOCOL: &[u8] = b"dot";

/// Reads certificate chain and key.
///
/// # Errors
/// Which file cannot be used and why, for people.
pub fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor, String> {
    let failed = |path: &Path, what: &str, why: &dyn std::fmt::Display| {
        format!("{} {}: {why}", what, path.display())
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificate)
        .map_err(|error| failed(certificate, "certificate", &error))?
        .collect();
    let chain = chain.map_err(|error| failed(certificate, "certificate", &error))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| failed(key, "key", &error))?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| failed(certificate, "certificate", &error))?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Shakes hands, then serves the connection to its end.
pub async fn serve(
    io: TcpStream,
    peer: SocketAddr,
    acceptor: &TlsAcceptor,
    pool: &Pool,
    ticket: &Ticket,
    config: &Config,
) -> Why {
    let shaken = tokio::select! {
        shaken = timeout(config.first_byte, acceptor.accept(io)) => shaken,
        why = ticket.told_to_close() => return why,
    };
    match shaken {
        Ok(Ok(io)) => stream::serve(io, peer, pool, ticket, config).await,
        Ok(Err(_)) => Why::Error,
        Err(_) => Why::Deadline,
    }
}
