//! Around every request: who is behind it, its id, limits, counts, and the headers of its answer.

use std::borrow::Cow;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use hyper::body::Incoming;
use tower::ServiceExt as _;

use super::answer::{Answer, Refusal};
use super::body::Rest;
use super::language::Language;
use super::message;
use super::quota::Told;
use super::tls::ClientKey;
use super::{App, source_of};
use super::{asked, handles, page};
use crate::clock::Now;
use crate::history::Event;
use crate::metrics::{Cell, Op, Outcome, Protocol, Transport};
use crate::notices::{self, Reason, Slow};
use crate::server::accept::Ticket;

/// Names the request in every answer.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

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
    /// Whether it came over TLS to this node.
    pub(super) tls: bool,
    /// Whether credentials may be looked at.
    pub(super) secure: bool,
    /// Its certificate.
    pub(super) client: Option<Arc<ClientKey>>,
    /// The id of the request.
    pub(super) id: HeaderValue,
    /// When it came.
    pub(super) came: Now,
    /// What its token has left of today.
    pub(super) quota: Told,
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
    type Future = Serving;

    fn call(&self, request: Request<Incoming>) -> Serving {
        self.asked.store(true, Relaxed);
        self.ticket.touch();
        let app = &self.app;
        let mut visit = Visit::begin(app, &self.peer, &request);
        if let Err(wait) = visit.may_ask(app) {
            let answer = too_many(wait, &visit, Language::of(request.headers()));
            return Serving::Done(Some(visit.end(app, answer, None)));
        }
        if is_plain_resolution(&request) {
            let (head, _) = request.into_parts();
            if !head.headers.contains_key(header::AUTHORIZATION) {
                let done = handles::get_as_nobody(app, &visit.from, &head.uri, &head.headers);
                return Serving::Done(Some(visit.end_plainly(app, done)));
            }
            let app = Arc::clone(app);
            return Serving::Working(Box::pin(async move {
                let done = handles::get(&app, &visit.from, &head.uri, &head.headers).await;
                visit.end_plainly(&app, done)
            }));
        }
        let (app, router) = (Arc::clone(app), self.router.clone());
        let rest = Rest::default();
        // Who waits for a word before sending a body sends none to a refusal.
        let sends = !request.headers().contains_key(header::EXPECT);
        let mut request = request.map(|body| rest.of(body));
        request.extensions_mut().insert(Arc::clone(&self.ticket));
        request.extensions_mut().insert(rest.waited.clone());
        Serving::Working(Box::pin(async move {
            let answer = route(&app, router, &visit.from, request).await;
            if sends {
                rest.discard().await;
            }
            visit.waited = rest.waited.total();
            visit.end(&app, answer, None)
        }))
    }
}

/// An answer that is there, or is being made.
pub(super) enum Serving {
    Done(Option<Answer>),
    Working(Pin<Box<dyn Future<Output = Answer> + Send>>),
}

impl Future for Serving {
    type Output = Result<Answer, std::convert::Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Done(answer) => Poll::Ready(Ok(answer.take().unwrap_or_default())),
            Self::Working(working) => working.as_mut().poll(cx).map(Ok),
        }
    }
}

/// Whether a handle is resolved and nothing else is to be done: this needs no routes, and what is not to be compressed
/// is not looked at again. HEAD has routes: there the body is taken off, which HTTP/2 would send.
fn is_plain_resolution<B>(request: &Request<B>) -> bool {
    *request.method() == Method::GET
        && request.uri().path().len() > handles::ROUTE.len()
        && request.uri().path().starts_with(handles::ROUTE)
        && !request.headers().contains_key(header::ACCEPT_ENCODING)
}

/// Whether a request may resolve something without a proof of who asks. Pages and messages of the Handle protocol do so
/// whatever their credentials are; a batch counts its lines itself.
fn proves_nothing<B>(request: &Request<B>) -> bool {
    let (path, headers) = (request.uri().path(), request.headers());
    let page = !path.starts_with("/api/") && path != "/docs";
    let plain = path.starts_with(handles::ROUTE) && !headers.contains_key(header::AUTHORIZATION);
    let message = *request.method() == Method::POST && message::is_one(headers);
    page || plain || message
}

async fn route(app: &App, router: Router, from: &From, mut request: Request<Body>) -> Answer {
    if request.method() == Method::POST && message::is_one(request.headers()) {
        return message::serve(app, from, request).await;
    }
    request.extensions_mut().insert(from.clone());
    let Ok(answer) = router.oneshot(request).await;
    answer
}

/// One request, from its head to its answer.
struct Visit {
    from: From,
    /// Whether it may be a resolution for which nobody has to prove who asks.
    unproven: bool,
    /// Whether it shows no credentials.
    unauthenticated: bool,
    /// Whether scripts of other sites may read the answer.
    open_to_scripts: bool,
    /// Octets of its body.
    received: u64,
    method: Method,
    uri: Uri,
    /// How long it has waited because of its client.
    waited: Duration,
}

impl Visit {
    fn begin<B>(app: &App, peer: &Peer, request: &Request<B>) -> Self {
        let headers = request.headers();
        let address = app.trusted.client(peer.address, headers);
        let forwarded = address != peer.address || headers.contains_key("x-forwarded-for");
        let local =
            app.config.plain_loopback && peer.direct && peer.address.is_loopback() && !forwarded;
        let anonymous = !headers.contains_key(header::AUTHORIZATION);
        let unproven = proves_nothing(request);
        Self {
            from: From {
                tls: peer.tls,
                secure: peer.tls || local || app.trusted.says_tls(peer.address, headers),
                client: peer.client.clone(),
                id: app.ids.next(),
                address,
                came: Now::read(),
                quota: Told::of(!anonymous),
            },
            unproven,
            unauthenticated: anonymous,
            open_to_scripts: anonymous && matches!(*request.method(), Method::GET | Method::HEAD),
            received: length_of(headers),
            method: request.method().clone(),
            uri: request.uri().clone(),
            waited: Duration::ZERO,
        }
    }

    /// Counts the request against its network, and against what its network may ask without a proof of who asks.
    fn may_ask(&self, app: &App) -> Result<(), u32> {
        let (source, now) = (source_of(self.from.address), self.from.came.instant);
        app.limit.take(source, now)?;
        match self.unproven {
            true => app.shared.anonymous.take(source, now),
            false => Ok(()),
        }
    }

    /// Ends a resolution that was not compressed: whoever asks another way may get it so, and caches must know.
    fn end_plainly(&self, app: &App, (mut answer, counted): (Answer, Counted)) -> Answer {
        let vary = HeaderValue::from_static("accept-encoding");
        answer.headers_mut().append(header::VARY, vary);
        self.end(app, answer, Some(counted))
    }

    /// Gives the answer its headers, counts it, and writes it down.
    fn end(&self, app: &App, mut answer: Answer, counted: Option<Counted>) -> Answer {
        decorate(&mut answer, &self.from, self.open_to_scripts);
        let counted = counted
            .or_else(|| answer.extensions().get().copied())
            .unwrap_or_else(|| Counted {
                op: Op::Other,
                outcome: outcome_of(answer.status()),
            });
        let sent = answer.body().size_hint().exact().unwrap_or(0);
        let took = self.from.came.instant.elapsed();
        // What its client had it wait for is not what the node needed.
        let needed = took.saturating_sub(self.waited);
        app.pool.with(|scratch| {
            let cell = scratch.cell(self.from.tls);
            cell.requests(counted.op).add(1);
            cell.responses(counted.outcome).add(1);
            cell.received_bytes.add(self.received);
            cell.sent_bytes.add(sent);
            cell.durations.observe(needed, 1);
            self.remember(cell, counted);
        });
        self.tell(&answer, counted, needed);
        answer
    }

    /// Writes the request to the log of the process, if it is one for it.
    fn tell(&self, answer: &Answer, counted: Counted, took: Duration) {
        let transport = match self.from.tls {
            true => Transport::Tls,
            false => Transport::Tcp,
        };
        let known = || answer.extensions().get().copied();
        let refused = match answer.status() {
            StatusCode::UNAUTHORIZED if self.unauthenticated => Some(Reason::NoProof),
            StatusCode::UNAUTHORIZED => Some(known().unwrap_or(Reason::Proof)),
            StatusCode::FORBIDDEN => Some(known().unwrap_or(Reason::Denied)),
            StatusCode::TOO_MANY_REQUESTS => Some(Reason::RateLimited),
            _ => None,
        };
        if let Some(reason) = refused {
            // It may have come a while ago: its body was waited for.
            notices::refused_now((Protocol::Http, transport), reason, self.from.address);
        }
        if notices::is_slow(took) {
            let slow = Slow {
                protocol: Protocol::Http,
                transport: Some(transport),
                operation: counted.op.label(),
                outcome: counted.outcome.label(),
                took,
                requests: 1,
                about: self.uri.path().as_bytes(),
                network: Some(source_of(self.from.address)),
            };
            slow.tell();
        }
    }

    /// Adds a resolution, a change or a list to their log.
    fn remember(&self, cell: &Cell, counted: Counted) {
        let (Some(pen), true) = (cell.pen(), counted.op.is_remembered()) else {
            return;
        };
        let path = self.uri.path();
        let handle = match counted.op {
            Op::List => asked::parameters(self.uri.query())
                .find_map(|(name, value)| (name == "prefix").then_some(Cow::Owned(value))),
            _ => [handles::ROUTE, page::EVERY, "/"]
                .into_iter()
                .find(|route| path.starts_with(route))
                .and_then(|route| asked::handle(path, route).ok()),
        };
        let event = Event {
            time: self.from.came.unix_seconds,
            client: self.from.address,
            op: counted.op,
            outcome: counted.outcome,
        };
        pen.note(event, handle.unwrap_or_default().as_bytes());
    }
}

fn too_many(wait: u32, visit: &Visit, language: Language) -> Answer {
    let text = "too many requests come from this network";
    let status = StatusCode::TOO_MANY_REQUESTS;
    let refusal = Refusal::named(status, "too_many_requests", text).after(wait);
    let (path, from) = (visit.uri.path(), &visit.from);
    let page = page::refused(&refusal, &visit.method, path, from, language);
    let mut answer = page.unwrap_or_else(|| refusal.at(path, from.request(), language));
    let counted = Counted {
        op: Op::Other,
        outcome: Outcome::Limited,
    };
    answer.extensions_mut().insert(counted);
    answer
}

/// Headers that every answer has.
fn decorate(answer: &mut Answer, from: &From, open_to_scripts: bool) {
    let headers = answer.headers_mut();
    headers.insert(REQUEST_ID, from.id.clone());
    from.quota.put(headers, from.came.unix_seconds);
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

/// How an answer is counted that says nothing about itself.
pub(super) fn outcome_of(status: StatusCode) -> Outcome {
    match status.as_u16() {
        100..400 => Outcome::Success,
        401 => Outcome::Challenge,
        403 => Outcome::Denied,
        404 => Outcome::NotFound,
        409 => Outcome::Exists,
        429 => Outcome::Limited,
        503 => Outcome::Busy,
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
