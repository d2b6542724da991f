//! DNS over TLS (RFC 7858): the certificate, and the handshake in front of a connection.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::stream::{self, Pool};
use crate::metrics::{Protocol, Transport, Why};
use crate::notices;
use crate::server::accept::Ticket;
use crate::server::certificate::{CertificateError, Identity};
use crate::server::handle::stream::Config;

/// What clients ask for in the handshake (RFC 7858 §3.2, IANA registry of ALPN).
const PROTOCOL: &[u8] = b"dot";

/// What shakes hands in the name of `identity`.
///
/// # Errors
/// As [`Identity::server`].
pub fn acceptor(identity: &Arc<Identity>) -> Result<TlsAcceptor, CertificateError> {
    Ok(TlsAcceptor::from(identity.server(None, &[PROTOCOL])?))
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
        Ok(Err(_)) => {
            let front = (Protocol::Dns, Transport::Tls);
            notices::refused_now(front, notices::Reason::Handshake, peer.ip());
            Why::Error
        }
        Err(_) => Why::Deadline,
    }
}
