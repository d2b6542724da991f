//! Around every request: who is behind it, its id, limits, counts, and the headers of its answer.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, PoisonError};

use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use hyper::body::Incoming;
use tower::ServiceExt as _;

use super::answer::{Answer, Refusal};
use super::language::Language;
use super::message;
use super::tls::ClientKey;
use super::{App, source_of};
use super::{asked, handles, page};
use crate::clock::Now;
use crate::history::Event;
use crate::metrics::{Op, Outcome};
use crate::server::accept::Ticket;

/// The other end of a connection.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// Its address, or that of the client which a PROXY header names.
    pub(super) address: IpAddr,
    /// Whether it is the other end of the TCP connection itself.
    pub(super) direct: bool,
    /// Whether what comes is protected by TLS.
    pub(super) tls: bool,
    /// Its certificate.
    pub(super) client: Option<Arc<ClientKey>>,
}

/// Where a request comes from.
#[derive(Clone, Debug)]
pub(super) struct From {
    /// The client.
    pub(super) address: IpAddr,
    /// Whether credentials may be looked at.
    pub(super) secure: bool,
    /// Its certificate.
    pub(super) client: Option<Arc<ClientKey>>,
    /// The id of the request.
    pub(super) id: HeaderValue,
    /// When it came.
    pub(super) came: Now,
}

impl From {
    /// The id as text.
    pub(super) fn request(&self) -> &str {
        self.id.to_str().unwrap_or_default()
    }
}

/// How a request is counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counted {
    /// What was asked.
    pub(super) op: Op,
    /// What was answered.
    pub(super) outcome: Outcome,
}

/// The service of one connection.
#[derive(Clone)]
pub(super) struct Outer {
    pub(super) app: Arc<App>,
    pub(super) router: Router,
    pub(super) peer: Arc<Peer>,
    pub(super) ticket: Arc<Ticket>,
    /// Whether there was a request already.
    pub(super) asked: Arc<AtomicBool>,
}

impl hyper::service::Service<Request<Incoming>> for Outer {
    type Response = Answer;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Self::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.asked.store(true, Relaxed);
        self.ticket.touch();
        let (app, peer) = (Arc::clone(&self.app), Arc::clone(&self.peer));
        let router = self.router.clone();
        Box::pin(async move { Ok(serve(&app, router, &peer, request.map(Body::new)).await) })
    }
}

async fn serve(app: &App, router: Router, peer: &Peer, mut request: Request<Body>) -> Answer {
    let came = Now::read();
    let headers = request.headers();
    let address = app.trusted.client(peer.address, headers);
    let forwarded = address != peer.address || headers.contains_key("x-forwarded-for");
    let local =
        app.config.plain_loopback && peer.direct && peer.address.is_loopback() && !forwarded;
    let from = From {
        secure: peer.tls || local || app.trusted.says_tls(peer.address, headers),
        client: peer.client.clone(),
        id: app.ids.next(),
        address,
        came,
    };
    let language = Language::of(headers);
    let anonymous = !headers.contains_key(header::AUTHORIZATION);
    let received = length_of(headers);
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let open_to_scripts = anonymous && matches!(method, Method::GET | Method::HEAD);
    let limited = app.limit.take(source_of(address), came.instant);
    let mut answer = match limited {
        Err(wait) => too_many(wait, &from, language),
        Ok(()) if method == Method::POST && message::is_one(headers) => {
            message::serve(app, &from, request).await
        }
        Ok(()) => {
            request.extensions_mut().insert(from.clone());
            let Ok(answer) = router.oneshot(request).await;
            answer
        }
    };
    decorate(&mut answer, &from, open_to_scripts);
    let counted = count(app, peer.tls, &from, received, &answer);
    remember(app, &from, counted, &uri);
    answer
}

fn too_many(wait: u32, from: &From, language: Language) -> Answer {
    let text = "too many requests come from this network";
    let status = StatusCode::TOO_MANY_REQUESTS;
    let refusal = Refusal::named(status, "too_many_requests", text).after(wait);
    let mut answer = refusal.of_handle(None, from.request(), language);
    let counted = Counted {
        op: Op::Other,
        outcome: Outcome::Busy,
    };
    answer.extensions_mut().insert(counted);
    answer
}

/// Headers that every answer has.
fn decorate(answer: &mut Answer, from: &From, open_to_scripts: bool) {
    let headers = answer.headers_mut();
    headers.insert("x-request-id", from.id.clone());
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    if open_to_scripts {
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_ORIGIN,
            HeaderValue::from_static("*"),
        );
        headers.insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static("X-Request-Id"),
        );
    } else {
        // What is answered to somebody is for nobody else.
        let private = HeaderValue::from_static("no-store");
        headers.entry(header::CACHE_CONTROL).or_insert(private);
    }
}

fn count(app: &App, tls: bool, from: &From, received: u64, answer: &Answer) -> Counted {
    let counted = answer.extensions().get::<Counted>().copied();
    let counted = counted.unwrap_or_else(|| Counted {
        op: Op::Other,
        outcome: outcome_of(answer.status()),
    });
    let sent = answer.body().size_hint().exact().unwrap_or(0);
    app.pool.with(|scratch| {
        let cell = scratch.cell(tls);
        cell.requests(counted.op).add(1);
        cell.responses(counted.outcome).add(1);
        cell.received_bytes.add(received);
        cell.sent_bytes.add(sent);
        cell.durations.observe(from.came.instant.elapsed(), 1);
    });
    counted
}

/// Adds a resolution, a change or a list to their log.
fn remember(app: &App, from: &From, counted: Counted, uri: &Uri) {
    if matches!(counted.op, Op::Other | Op::Session) {
        return;
    }
    let history = app.history.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(pen) = &*history else { return };
    let handle = match counted.op {
        Op::List => asked::parameters(uri.query())
            .find_map(|(name, value)| (name == "prefix").then_some(value)),
        _ => [handles::ROUTE, page::EVERY, "/"]
            .into_iter()
            .find(|route| uri.path().starts_with(route))
            .and_then(|route| asked::handle(uri.path(), route).ok()),
    };
    pen.note(Event {
        time: from.came.unix_seconds,
        client: from.address,
        via: if from.secure { "https" } else { "http" },
        op: counted.op.label(),
        handle: handle.unwrap_or_default(),
        outcome: counted.outcome.label(),
    });
}

/// How an answer is counted that says nothing about itself.
fn outcome_of(status: StatusCode) -> Outcome {
    match status.as_u16() {
        100..400 => Outcome::Success,
        401 => Outcome::Challenge,
        403 => Outcome::Denied,
        404 => Outcome::NotFound,
        409 => Outcome::Exists,
        429 | 503 => Outcome::Busy,
        400..500 => Outcome::Invalid,
        _ => Outcome::Error,
    }
}

fn length_of(headers: &HeaderMap) -> u64 {
    headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .unwrap_or(0)
}
