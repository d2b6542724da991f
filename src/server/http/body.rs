//! Bodies of requests: bounded in size and time, and not left behind unread.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::StatusCode;
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::time::timeout;

use super::App;
use super::answer::Refusal;
use crate::notices::Away;

/// How much of the body of a refused request is read, and for how long.
const DISCARDED_MAX: usize = 256 << 10;
const DISCARDED_TIME: Duration = Duration::from_secs(2);

/// Reads what little a client still sends, and throws it away.
pub(super) async fn discard(mut body: Body) {
    let mut left = DISCARDED_MAX;
    let all = async {
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    let _ = timeout(DISCARDED_TIME, all).await;
}

/// How long a request has waited because of its client: for what it sends, or since it asked to.
#[derive(Clone, Debug, Default)]
pub(super) struct Waited(Arc<Mutex<Away>>);

impl Waited {
    /// It waits until this is dropped.
    pub(super) fn begin(&self) -> Waiting<'_> {
        self.lock().leave();
        Waiting(self)
    }

    /// How long in all.
    pub(super) fn total(&self) -> Duration {
        self.lock().total()
    }

    fn lock(&self) -> MutexGuard<'_, Away> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that waits.
pub(super) struct Waiting<'w>(&'w Waited);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().come_back();
    }
}

/// Where what was not read of a body is left.
#[derive(Clone, Debug, Default)]
pub(super) struct Rest {
    left: Arc<Mutex<Option<Incoming>>>,
    /// How long it was waited for.
    pub(super) waited: Waited,
}

impl Rest {
    /// A body that is left here when whoever reads it stops before its end.
    pub(super) fn of(&self, body: Incoming) -> Body {
        Body::new(Lent {
            body: Some(body),
            waits: false,
            rest: self.clone(),
        })
    }

    /// Reads what little of the body is left: many clients lose an answer, and the connection, that ends before they have
    /// sent everything.
    pub(super) async fn discard(&self) {
        let left = self.lock().take();
        if let Some(body) = left {
            let _waiting = self.waited.begin();
            discard(Body::new(body)).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Incoming>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body that comes back.
struct Lent {
    body: Option<Incoming>,
    /// Whether more of it is waited for.
    waits: bool,
    rest: Rest,
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(body).poll_frame(cx);
        let waits = polled.is_pending();
        if waits != std::mem::replace(&mut self.waits, waits) {
            let mut waited = self.rest.waited.lock();
            match waits {
                true => waited.leave(),
                false => waited.come_back(),
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if self.waits {
            self.rest.waited.lock().come_back();
        }
        let body = self.body.take().filter(|body| !body.is_end_stream());
        *self.rest.lock() = body;
    }
}

/// Reads a body of at most `limit` octets.
pub(super) async fn read(app: &App, body: Body, limit: usize) -> Result<Bytes, Refusal> {
    let limited = Limited::new(body, limit.min(app.config.body_max));
    match timeout(app.config.read, limited.collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Refusal::named(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            "the body is longer than is accepted here",
        )),
        Ok(Err(_)) => Err(Refusal::field("", "the body ended early")),
        Err(_) => Err(Refusal::named(
            StatusCode::REQUEST_TIMEOUT,
            "timeout",
            "the body did not arrive in time",
        )),
    }
}
