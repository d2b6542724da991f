//! Bodies of requests: bounded in size and time.

use axum::body::Body;
use axum::http::StatusCode;
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tokio::time::timeout;

use super::App;
use super::answer::Refusal;

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
