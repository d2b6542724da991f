//! One connection: who is behind it, TLS or not, HTTP/1.1 or HTTP/2, and its deadlines.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::App;
use super::outer::{Outer, Peer};
use super::proxy;
use super::tls::{ClientKey, client_key};
use crate::metrics::{Protocol, Transport, Why};
use crate::notices::{self, Reason};
use crate::server::accept::Ticket;

/// The first octet of a TLS handshake.
const HANDSHAKE: u8 = 0x16;
/// Octets of the head of a request over HTTP/1.1.
const HEAD_MAX: usize = 64 * 1024;
/// Header fields of a request.
const FIELDS_MAX: usize = 100;
/// Octets of header fields of a request over HTTP/2.
const LIST_MAX: u32 = 32 * 1024;
/// Requests at once over one connection of HTTP/2.
const STREAMS_MAX: u32 = 100;
/// Streams that a client may open and reset before they are looked at; then it is cut.
const RESETS_MAX: usize = 20;
/// Octets that a client may send before they are read, over one stream and over all.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Octets of answers that wait in one stream.
const SEND_MAX: usize = 256 * 1024;
/// How long a client over HTTP/2 may be silent before it is asked whether it is there.
const PING: Duration = Duration::from_secs(60);
/// How long a connection that was told to close may finish what it was asked.
const LINGER: Duration = Duration::from_secs(10);

/// Serves one connection until it ends; says why it did.
pub(super) async fn serve(
    mut stream: TcpStream,
    address: SocketAddr,
    app: Arc<App>,
    router: Router,
    ticket: Ticket,
) -> Why {
    let opened = timeout(app.config.read, open(&mut stream, address, &app));
    let (peer, tls) = match opened.await {
        Ok(Ok(Some(opened))) => opened,
        Ok(Ok(None)) => return Why::Peer,
        Ok(Err(_)) => return Why::Error,
        Err(_) => return Why::Idle,
    };
    if !tls {
        return converse(stream, peer, app, router, ticket).await;
    }
    let acceptor = TlsAcceptor::from(Arc::clone(&app.tls));
    let accepted = match timeout(app.config.read, acceptor.accept(stream)).await {
        Ok(Ok(accepted)) => accepted,
        Ok(Err(_)) => {
            app.figures.handshakes_failed.fetch_add(1, Relaxed);
            let front = (Protocol::Http, Transport::Tls);
            notices::refused_now(front, Reason::Handshake, peer.address);
            return Why::Error;
        }
        Err(_) => return Why::Deadline,
    };
    let certificate = accepted.get_ref().1.peer_certificates();
    let client: Option<ClientKey> = certificate
        .and_then(<[_]>::first)
        .and_then(|certificate| client_key(certificate));
    let peer = Peer {
        tls: true,
        client: client.map(Arc::new),
        ..peer
    };
    converse(accepted, peer, app, router, ticket).await
}

/// Reads a PROXY header if a trusted proxy sends one, and finds out whether TLS begins.
async fn open(
    stream: &mut TcpStream,
    address: SocketAddr,
    app: &App,
) -> io::Result<Option<(Peer, bool)>> {
    let mut peer = Peer {
        address: address.ip().to_canonical(),
        direct: true,
        tls: false,
        client: None,
    };
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Ok(None);
    }
    if first[0] == proxy::SIGNATURE[0] && app.trusted.contains(peer.address) {
        let said = proxy::read(stream).await?;
        if let Some(client) = said.client {
            peer = Peer {
                address: client.ip().to_canonical(),
                direct: false,
                tls: said.tls,
                client: None,
            };
        }
        if stream.peek(&mut first).await? == 0 {
            return Ok(None);
        }
    }
    Ok(Some((peer, first[0] == HANDSHAKE)))
}

/// Speaks HTTP until the client or the node ends it.
async fn converse<S>(stream: S, peer: Peer, app: Arc<App>, router: Router, ticket: Ticket) -> Why
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (read, write) = (app.config.read, app.config.write);
    let late = Arc::new(AtomicBool::new(false));
    let ticket = Arc::new(ticket);
    let stream = Impatient {
        stream,
        patience: write,
        waiting: None,
        late: Arc::clone(&late),
        ticket: Arc::clone(&ticket),
    };
    let asked = Arc::new(AtomicBool::new(false));
    let (client, transport) = match peer.tls {
        true => (peer.address, Transport::Tls),
        false => (peer.address, Transport::Tcp),
    };
    let service = Outer {
        app,
        router,
        peer: Arc::new(peer),
        ticket: Arc::clone(&ticket),
        asked: Arc::clone(&asked),
    };
    let builder = builder(read);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let why = tokio::select! {
        ended = connection.as_mut() => {
            let error = ended.as_ref().err().map(|error| &**error);
            if error.is_some_and(is_hostile) {
                notices::refused_now((Protocol::Http, transport), Reason::Hostile, client);
            }
            return ended_by(error, &late);
        }
        why = ticket.was_cut() => return why,
        why = ticket.told_to_close() => why,
        () = first_request(read, &asked) => return Why::Idle,
    };
    connection.as_mut().graceful_shutdown();
    loop {
        tokio::select! {
            _ = connection.as_mut() => return why,
            why = ticket.was_cut() => return why,
            // A batch takes as long as it takes: it is told in other ways to end.
            () = sleep(LINGER) => if !ticket.is_at_work() { return why },
        }
    }
}

/// Ends when no request came within the time that one has.
async fn first_request(read: Duration, asked: &AtomicBool) {
    sleep(read).await;
    if asked.load(Relaxed) {
        std::future::pending::<()>().await;
    }
}

/// Whether what came is no HTTP.
fn is_hostile(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    let error = error.downcast_ref::<hyper::Error>();
    error.is_some_and(hyper::Error::is_parse)
}

fn ended_by(
    error: Option<&(dyn std::error::Error + Send + Sync + 'static)>,
    late: &AtomicBool,
) -> Why {
    let Some(error) = error else {
        return Why::Peer;
    };
    let slow = error
        .downcast_ref::<hyper::Error>()
        .is_some_and(hyper::Error::is_timeout);
    match slow || late.load(Relaxed) {
        true => Why::Deadline,
        false => Why::Error,
    }
}

/// Both versions of HTTP, with their bounds.
fn builder(read: Duration) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(read)
        .max_buf_size(HEAD_MAX)
        .max_headers(FIELDS_MAX)
        .half_close(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(LIST_MAX)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(RESETS_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_MAX)
        .keep_alive_interval(PING)
        .keep_alive_timeout(read);
    builder
}

/// A stream whose peer must take what is written within a time.
struct Impatient<S> {
    stream: S,
    patience: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
    late: Arc<AtomicBool>,
    ticket: Arc<Ticket>,
}

impl<S> Impatient<S> {
    /// Ends a wait, or fails one that takes too long.
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.waiting = None;
            return polled;
        }
        let patience = self.patience;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(waiting.as_mut().poll(cx));
        self.late.store(true, Relaxed);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before && self.ticket.is_at_work() {
            // Who sends is there: many clients read nothing before they have sent a whole batch. Nobody else holds an
            // answer up by sending.
            self.waiting = None;
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.watch(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.watch(cx, polled)
    }
}
