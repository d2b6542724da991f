//! The operations listener: how the node is, over HTTP, for this machine and for whom the configuration lists. It only
//! answers GET; nothing can be changed here.
//!
//! * `/` — the status page, for people.
//! * `/metrics` — the Prometheus text that the caller's closure renders.
//! * `/health` — 200 while the process runs at all; for a supervisor that restarts.
//! * `/ready` — 200 when questions are served, else 503 with the reason; for a load balancer. Whether changes are taken it
//!   says, too.
//!
//! `guard`: who may ask. `places`: how many at once. `course`: the figures of the last hours. `page`, `plot`, `signs`: the status page.

mod course;
mod guard;
mod page;
mod places;
mod plot;
mod signs;

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Request, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{interval, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use self::course::Course;
use self::guard::From;
pub use self::guard::{Guard, read_token};
use self::places::{Place, Places};
use crate::busiest::Ranking;
use crate::clock;
use crate::notices::Reason;
use crate::probe::Scrape;
use crate::server::http::html;
use crate::server::http::language::Language;
use crate::standby::watch::Lag;

/// Open requests have this long to end when the node stops.
const DRAIN: Duration = Duration::from_secs(2);
/// Octets of the head of a request.
const HEAD_MAX: usize = 16 << 10;
/// A handshake, and the head of the first request, must come within this time.
const READ: Duration = Duration::from_secs(5);
/// The head of a later request: scrapers keep their connections.
const NEXT: Duration = Duration::from_secs(30);
/// A connection ends after this time, so that none keeps its place for ever.
const LIFE: Duration = Duration::from_secs(600);
/// How long to wait after the listener failed.
const PAUSE: Duration = Duration::from_millis(100);
/// The first octet of a TLS handshake.
const HANDSHAKE: u8 = 0x16;

/// What `/ready` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// Whether the node serves.
    pub ready: bool,
    /// The state in one word, as in `jiexi_store_state`.
    pub state: String,
    /// Whether it takes changes of its own.
    pub takes_changes: bool,
    /// Why it is not ready, or takes no changes, for people; empty when all is well.
    pub reason: Said,
    /// `primary`, `standby` or `superseded`.
    pub role: &'static str,
    /// Of a standby.
    pub standing: Option<Standing>,
}

/// What people are told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// In Chinese.
    pub chinese: String,
    /// In English.
    pub english: String,
}

/// Where a standby stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The primary.
    pub primary: String,
    /// Whether it was reached the last time it was tried.
    pub connected: bool,
    /// How far this node is behind it.
    pub lag: Lag,
    /// Further behind, it is not ready.
    pub lag_max: Duration,
}

/// What is asked of the node for the answers here; all must be quick.
pub struct Sources {
    /// The metrics text.
    pub metrics: Box<dyn Fn() -> String + Send + Sync>,
    /// Whether the node serves.
    pub state: Box<dyn Fn() -> Readiness + Send + Sync>,
    /// So many of the prefixes asked for most; `None` when nobody counts.
    pub busiest: Box<dyn Fn(usize) -> Option<Ranking> + Send + Sync>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

/// What connections share.
struct App {
    sources: Sources,
    guard: Guard,
    course: Mutex<Course>,
}

/// Serves on `listener` until `stop`, with TLS too when there is a configuration for it.
pub async fn serve(
    listener: TcpListener,
    sources: Sources,
    guard: Guard,
    tls: Option<Arc<ServerConfig>>,
    stop: CancellationToken,
) {
    let app = Arc::new(App {
        sources,
        guard,
        course: Mutex::default(),
    });
    let router = Router::new()
        .route("/", get(status))
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .with_state(Arc::clone(&app));
    let acceptor = tls.map(TlsAcceptor::from);
    let places = Places::default();
    let connections = TaskTracker::new();
    let mut watch = interval(course::EVERY);
    loop {
        let (stream, peer) = tokio::select! {
            () = stop.cancelled() => break,
            _ = watch.tick() => {
                look(&app);
                continue;
            }
            accepted = accept(&listener) => accepted,
        };
        // Who may not ask gets no place.
        let Ok(here) = stream.local_addr() else {
            continue;
        };
        let from = From::new(peer, here);
        if !app.guard.admits(from) {
            from.note_refused(Reason::Denied);
            continue;
        }
        let Some(place) = places.take(from.local) else {
            from.note_refused(Reason::Busy);
            continue;
        };
        let (app, router, acceptor) = (Arc::clone(&app), router.clone(), acceptor.clone());
        let stop = stop.clone();
        connections.spawn(async move {
            let place = Arc::new(place);
            tokio::select! {
                () = open(stream, from, acceptor, Arc::clone(&place), app, router, stop) => {}
                () = place.lost() => {}
                () = tokio::time::sleep(LIFE) => {}
            }
        });
    }
    connections.close();
    let _ = timeout(DRAIN, connections.wait()).await;
}

/// The next connection. A failing listener is tried again.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::debug!(%error, "the operations listener could not accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Finds out whether a client wants TLS, and answers what it asks.
async fn open(
    stream: TcpStream,
    from: From,
    acceptor: Option<TlsAcceptor>,
    place: Arc<Place>,
    app: Arc<App>,
    router: Router,
    stop: CancellationToken,
) {
    let mut first = [0];
    let Ok(Ok(1)) = timeout(READ, stream.peek(&mut first)).await else {
        return;
    };
    match acceptor.filter(|_| first[0] == HANDSHAKE) {
        None => converse(stream, from, place, app, router, stop).await,
        Some(acceptor) => {
            let from = from.over_tls();
            match timeout(READ, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => converse(stream, from, place, app, router, stop).await,
                _ => from.note_refused(Reason::Handshake),
            }
        }
    }
}

/// Answers the requests of one connection, until it or the node ends.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    from: From,
    place: Arc<Place>,
    app: Arc<App>,
    router: Router,
    stop: CancellationToken,
) {
    let asking = Arc::clone(&place);
    let service = service_fn(move |request: Request<Incoming>| {
        let refused = app.guard.refuse(from, request.headers());
        let (router, place) = (router.clone(), Arc::clone(&asking));
        place.begin();
        async move {
            let answer = match refused {
                Some(refused) => Ok::<_, Infallible>(refused),
                None => router.oneshot(request.map(Body::new)).await,
            };
            place.end();
            answer
        }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(NEXT)
        .max_buf_size(HEAD_MAX);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = silence(&place) => return,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// Returns when nobody has asked anything for too long, and never once somebody has.
async fn silence(place: &Place) {
    tokio::time::sleep(READ).await;
    if place.has_asked() {
        std::future::pending::<()>().await;
    }
}

/// Adds a point to what the status page shows.
fn look(app: &App) {
    let scrape = Scrape::read(&(app.sources.metrics)());
    let mut course = app.course.lock().unwrap_or_else(PoisonError::into_inner);
    course.take(clock::unix_seconds(), &scrape);
}

/// What the status page may do: show its own style.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| html::policy(page::STYLE));

/// `GET /`.
async fn status(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    let language = match request.uri().query() {
        Some("lang=zh") => Language::Chinese,
        Some("lang=en") => Language::English,
        _ => Language::of(request.headers()),
    };
    let scrape = Scrape::read(&(app.sources.metrics)());
    let readiness = (app.sources.state)();
    let points: Vec<_> = {
        let course = app.course.lock().unwrap_or_else(PoisonError::into_inner);
        course.points().iter().cloned().collect()
    };
    let shown = page::Shown {
        scrape: &scrape,
        points: &points,
        busiest: (app.sources.busiest)(page::PREFIXES),
        readiness: &readiness,
        now: clock::unix_seconds(),
    };
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=utf-8"),
        ),
        (header::CONTENT_SECURITY_POLICY, POLICY.clone()),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::VARY, HeaderValue::from_static("Accept-Language")),
        (
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ),
    ];
    (headers, page::render(&shown, language)).into_response()
}

/// `GET /metrics`.
async fn metrics(State(app): State<Arc<App>>) -> Response {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], (app.sources.metrics)()).into_response()
}

/// `GET /health`.
async fn health() -> Response {
    json(
        StatusCode::OK,
        &serde_json::json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")}),
    )
}

/// `GET /ready`.
async fn ready(State(app): State<Arc<App>>) -> Response {
    let Readiness {
        ready,
        takes_changes,
        state,
        reason,
        role,
        standing,
    } = (app.sources.state)();
    let standing = standing.map(|standing| {
        serde_json::json!({
            "primary": standing.primary,
            "connected": standing.connected,
            "lag_sequences": standing.lag.sequences,
            "lag_seconds": standing.lag.time.as_millis() as f64 / 1e3,
        })
    });
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    json(
        status,
        &serde_json::json!({
            "ready": ready, "takes_changes": takes_changes, "state": state, "reason": reason.english, "role": role,
            "standby": standing,
        }),
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
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
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
                takes_changes: true,
                state: "ready".into(),
                reason: Said::default(),
                role: "primary",
                standing: None,
            },
            false => Readiness {
                ready: false,
                takes_changes: false,
                state: "loading".into(),
                reason: Said {
                    english: "12 % loaded".into(),
                    ..Said::default()
                },
                role: "primary",
                standing: None,
            },
        };
        let sources = Sources {
            metrics: Box::new(|| "jiexi_build_info 1\n".into()),
            state: Box::new(state),
            busiest: Box::new(|_| None),
        };
        let task = tokio::spawn(serve(
            listener,
            sources,
            Guard::default(),
            None,
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
        task.await.expect("stops cleanly");
    }
}
