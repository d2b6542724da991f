//! The operations end point: `GET /metrics`, `/health` and `/ready` over HTTP, local by default.
//!
//! * `/metrics` — the Prometheus text that the caller's closure renders.
//! * `/health` — 200 while the process runs at all; for a supervisor that restarts.
//! * `/ready` — 200 when questions and changes are served, else 503 with the reason; for a load balancer.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
    serve::Listener,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;

/// Simultaneous connections: scrapers and probes are few, and each costs memory.
pub const CONNECTIONS_MAX: usize = 64;
/// Open requests have this long to end when the node stops.
const DRAIN: Duration = Duration::from_secs(2);

/// What `/ready` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// Whether the node serves.
    pub ready: bool,
    /// The state in one word, as in `jiexi_store_state`.
    pub state: String,
    /// Why it is not ready, for people; empty when it is.
    pub reason: String,
}

/// What the handlers need to know: two questions to the node.
struct Probe {
    render: Box<dyn Fn() -> String + Send + Sync>,
    state: Box<dyn Fn() -> Readiness + Send + Sync>,
}

/// Serves on `listener` until `stop`; `render` gives the metrics text, `state` the readiness. Both are called for each
/// request on a runtime thread and must not block for long.
///
/// # Errors
/// The listener fails for good; a failing connection does not end it.
pub async fn serve(
    listener: TcpListener,
    render: impl Fn() -> String + Send + Sync + 'static,
    state: impl Fn() -> Readiness + Send + Sync + 'static,
    stop: CancellationToken,
) -> io::Result<()> {
    let probe = Arc::new(Probe {
        render: Box::new(render),
        state: Box::new(state),
    });
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .with_state(probe);
    let listener = Limited {
        listener,
        places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
    };
    let served =
        axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    tokio::select! {
        outcome = served.into_future() => outcome,
        () = async { stop.cancelled().await; tokio::time::sleep(DRAIN).await } => Ok(()),
    }
}

/// A listener with a bounded number of open connections; the next one waits in the kernel's queue.
struct Limited {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

impl Listener for Limited {
    type Io = Held;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        // The listener of axum logs a failing accept, waits and goes on.
        let (stream, address) = Listener::accept(&mut self.listener).await;
        (
            Held {
                stream,
                _place: place,
            },
            address,
        )
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection and the place it takes.
struct Held {
    stream: TcpStream,
    _place: Option<OwnedSemaphorePermit>,
}

impl AsyncRead for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Held {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// `GET /metrics`.
async fn metrics(State(probe): State<Arc<Probe>>) -> Response {
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        (probe.render)(),
    )
        .into_response()
}

/// `GET /health`.
async fn health() -> Response {
    json(
        StatusCode::OK,
        &serde_json::json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")}),
    )
}

/// `GET /ready`.
async fn ready(State(probe): State<Arc<Probe>>) -> Response {
    let Readiness {
        ready,
        state,
        reason,
    } = (probe.state)();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    json(
        status,
        &serde_json::json!({"ready": ready, "state": state, "reason": reason}),
    )
}

/// A JSON answer on a line of its own.
fn json(status: StatusCode, body: &serde_json::Value) -> Response {
    (
        status,
        [(header::CONTENT_TYPE, "application/json")],
        format!("{body}\n"),
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    //! Goal: the three end points answer as documented and stop when told. Method: raw HTTP over a socket on port 0.

    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("reads");
        answer
    }

    #[tokio::test]
    async fn answers_and_stops() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("has an address");
        let (stop, ready) = (CancellationToken::new(), Arc::new(AtomicBool::new(false)));
        let flag = Arc::clone(&ready);
        let state = move || match flag.load(Ordering::Relaxed) {
            true => Readiness {
                ready: true,
                state: "ready".into(),
                reason: String::new(),
            },
            false => Readiness {
                ready: false,
                state: "loading".into(),
                reason: "12 % loaded".into(),
            },
        };
        let task = tokio::spawn(serve(
            listener,
            || "jiexi_build_info 1\n".into(),
            state,
            stop.clone(),
        ));

        let metrics = ask(address, "/metrics").await;
        assert!(
            metrics.starts_with("HTTP/1.1 200") && metrics.contains("text/plain; version=0.0.4"),
            "{metrics}"
        );
        assert!(
            metrics.ends_with("\r\n\r\njiexi_build_info 1\n"),
            "{metrics}"
        );
        assert!(ask(address, "/health").await.contains("\"status\":\"ok\""));
        let loading = ask(address, "/ready").await;
        assert!(
            loading.starts_with("HTTP/1.1 503") && loading.contains("12 % loaded"),
            "{loading}"
        );
        ready.store(true, Ordering::Relaxed);
        assert!(ask(address, "/ready").await.starts_with("HTTP/1.1 200"));
        assert!(ask(address, "/other").await.starts_with("HTTP/1.1 404"));

        stop.cancel();
        task.await.expect("joins").expect("stops cleanly");
    }
}
