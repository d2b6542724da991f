//! `/api/v1`: what the Handle JSON API has no place for. Errors are problems (RFC 9457).

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use serde_json::json;

use super::App;
use super::answer::{Answer, Refusal, json};
use super::caller::identify;
use super::handles::options;
use super::language::Language;
use super::outer::From;
use crate::token::Right;

/// What may be done here.
const METHODS: &str = "GET, HEAD, OPTIONS";

/// Who the credentials say one is, and what the token allows.
#[utoipa::path(
    get, path = "/api/v1/identity", tag = "identity", operation_id = "identity",
    responses(
        (status = 200, description = "The identity, how it was proved, and the token's bounds",
            content_type = "application/json"),
        (status = 401, description = "Credentials are needed", content_type = "application/problem+json"),
        (status = 403, description = "They are wrong, or came over plain HTTP",
            content_type = "application/problem+json"),
        (status = 429, description = "Too many requests", content_type = "application/problem+json"),
        (status = 503, description = "Not now", content_type = "application/problem+json")),
    security(("token" = []), ("basic" = []))
)]
pub(super) async fn identity(
    State(app): State<Arc<App>>,
    Extension(from): Extension<From>,
    method: Method,
    headers: HeaderMap,
) -> Answer {
    if let Some(other) = other_method(&method, METHODS, &from, &headers) {
        return other;
    }
    let done = async {
        let caller = identify(&app, &from, &headers).await?;
        let who = caller.proved(&from)?;
        let mut body = json!({
            "identity": who.identity().to_string(),
            "method": who.method().label(),
        });
        if let Some(grant) = &caller.grant {
            let rights = grant.rights().iter().copied().map(Right::name);
            body["token"] = json!({
                "id": grant.id,
                "rights": rights.collect::<Vec<_>>(),
                "prefixes": grant.prefixes(),
            });
        }
        Ok(json(StatusCode::OK, &body))
    };
    let done: Result<Answer, Refusal> = done.await;
    done.unwrap_or_else(|refusal| refusal.of_problem(from.request(), Language::of(&headers)))
}

/// The answer to OPTIONS and to a method that is not among those of a route; none to those that are.
pub(super) fn other_method(
    method: &Method,
    methods: &'static str,
    from: &From,
    headers: &HeaderMap,
) -> Option<Answer> {
    if method == Method::OPTIONS {
        return Some(options(methods));
    }
    if methods.split(", ").any(|name| name == method.as_str()) {
        return None;
    }
    let status = StatusCode::METHOD_NOT_ALLOWED;
    let refusal = Refusal::named(status, "method_not_allowed", "");
    let mut answer = refusal.of_problem(from.request(), Language::of(headers));
    let allowed = HeaderValue::from_static(methods);
    answer.headers_mut().insert(header::ALLOW, allowed);
    Some(answer)
}

/// What is not below `/api`: none of it is a handle, which `/hdl/` reaches by any name.
pub(super) async fn nothing(Extension(from): Extension<From>, request: Request<Body>) -> Answer {
    let refusal = Refusal::named(StatusCode::NOT_FOUND, "no_such_page", "");
    let language = Language::of(request.headers());
    refusal.at(request.uri().path(), from.request(), language)
}
