//! What is said, in HTTP: the one table from response codes to statuses, and the body of errors.
//!
//! A body of `/api/handles` has `responseCode` and, for an error, the members of a problem
//! (RFC 9457) beside it; `/api/v1` answers errors as `application/problem+json`.

use std::borrow::Cow;

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use jiexi_proto::code::ResponseCode;
use serde_json::{Map, Value as Json};

use super::language::Language;
use super::texts;
use crate::notices::Reason;
use crate::registry::Rejection;

/// Below this, errors are problems and nothing else.
const V1: &str = "/api/v1";

/// An answer.
pub(super) type Answer = Response<Body>;

/// Why a request is not carried out.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    /// The code of the Handle protocol.
    pub(super) code: ResponseCode,
    /// The status, where it is not that of the code.
    pub(super) status: Option<StatusCode>,
    /// A stable name for programs, where it is not that of the code.
    pub(super) name: Option<&'static str>,
    /// Why, for a person, in English; never with a secret in it.
    pub(super) detail: Cow<'static, str>,
    /// The member or parameter that is wrong.
    pub(super) field: Option<String>,
    /// Seconds after which it may be tried again.
    pub(super) wait: Option<u32>,
    /// Where a referral leads, as values.
    pub(super) values: Option<Box<Json>>,
    /// A member of the problem beside those that every one has.
    pub(super) more: Option<Box<(&'static str, Json)>>,
}

impl Refusal {
    /// A refusal with a reason.
    pub(super) fn new(code: ResponseCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            status: None,
            name: None,
            detail: detail.into(),
            field: None,
            wait: None,
            values: None,
            more: None,
        }
    }

    /// A refusal with a status and a name of its own.
    pub(super) fn named(
        status: StatusCode,
        name: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status: Some(status),
            name: Some(name),
            ..Self::new(ResponseCode::PROTOCOL_ERROR, detail)
        }
    }

    /// A parameter or member that is wrong.
    pub(super) fn field(field: impl Into<String>, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            field: Some(field.into()),
            ..Self::named(StatusCode::BAD_REQUEST, "invalid_request", detail)
        }
    }

    /// To be tried again after so many seconds.
    pub(super) fn after(mut self, seconds: u32) -> Self {
        self.wait = Some(seconds);
        self
    }

    /// The status of the answer.
    pub(super) fn status(&self) -> StatusCode {
        self.status.unwrap_or_else(|| kind_of(self.code).0)
    }

    /// The name of the problem.
    pub(super) fn name(&self) -> &'static str {
        self.name.unwrap_or_else(|| kind_of(self.code).1)
    }

    /// Why, in a language, as far as it is known there.
    pub(super) fn detail(&self, language: Language) -> Cow<'_, str> {
        texts::detail(&self.detail, language)
    }

    /// The members of the problem, in the order in which they are read.
    fn members(&self, request: &str, language: Language) -> Map<String, Json> {
        let status = self.status();
        let mut members = Map::new();
        let name = self.name();
        let mut put = |name: &str, value: Json| members.insert(name.to_owned(), value);
        put("type", format!("urn:jiexi:problem:{name}").into());
        put("title", texts::title(name, language).into());
        put("status", status.as_u16().into());
        if !self.detail.is_empty() {
            put("detail", self.detail(language).into());
        }
        put("code", name.into());
        if let Some(field) = &self.field {
            put("field", field.as_str().into());
        }
        if let Some(more) = &self.more {
            put(more.0, more.1.clone());
        }
        put("requestId", request.into());
        members
    }

    /// As an answer of the Handle JSON API; `handle` is echoed.
    pub(super) fn of_handle(
        &self,
        handle: Option<&str>,
        request: &str,
        language: Language,
    ) -> Answer {
        let mut body = Map::new();
        body.insert("responseCode".into(), self.code.0.into());
        if let Some(handle) = handle {
            body.insert("handle".into(), handle.into());
        }
        if !self.detail.is_empty() {
            body.insert("message".into(), self.detail(language).into());
        }
        if let Some(values) = &self.values {
            body.insert("values".into(), Json::clone(values));
        }
        body.extend(self.members(request, language));
        self.finish(json(self.status(), &Json::Object(body)))
    }

    /// As a problem.
    pub(super) fn of_problem(&self, request: &str, language: Language) -> Answer {
        let body = Json::Object(self.members(request, language));
        let mut answer = json(self.status(), &body);
        let kind = HeaderValue::from_static("application/problem+json");
        answer.headers_mut().insert(header::CONTENT_TYPE, kind);
        self.finish(answer)
    }

    /// As the route at this path answers, where no route was taken.
    pub(super) fn at(&self, path: &str, request: &str, language: Language) -> Answer {
        let below = path.strip_prefix(V1);
        match below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
            true => self.of_problem(request, language),
            false => self.of_handle(None, request, language),
        }
    }

    fn finish(&self, mut answer: Answer) -> Answer {
        let headers = answer.headers_mut();
        headers.insert(header::VARY, HeaderValue::from_static("Accept-Language"));
        if let Some(wait) = self.wait {
            headers.insert(header::RETRY_AFTER, wait.into());
        }
        if self.status() == StatusCode::UNAUTHORIZED {
            for scheme in [
                "Basic realm=\"handle\", charset=\"UTF-8\"",
                "Handle",
                "Bearer",
            ] {
                headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
            }
        }
        if let Some(reason) = Reason::of_code(self.code) {
            answer.extensions_mut().insert(reason);
        }
        answer
    }
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        let refusal = Self::new(rejection.code, rejection.text);
        match refusal.code {
            ResponseCode::SERVER_TOO_BUSY => refusal.after(1),
            _ => refusal,
        }
    }
}

/// An answer in JSON.
pub(super) fn json(status: StatusCode, body: &Json) -> Answer {
    let text = serde_json::to_vec(body).unwrap_or_default();
    with_type(status, "application/json", text)
}

/// An answer with a body of a type.
pub(super) fn with_type(status: StatusCode, kind: &'static str, body: impl Into<Body>) -> Answer {
    let mut answer = Response::new(body.into());
    *answer.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}

/// The one table from response codes to status and name.
fn kind_of(code: ResponseCode) -> (StatusCode, &'static str) {
    match code {
        ResponseCode::SUCCESS => (StatusCode::OK, "success"),
        ResponseCode::PREFIX_REFERRAL => (StatusCode::NOT_FOUND, "referral"),
        ResponseCode::HANDLE_NOT_FOUND => (StatusCode::NOT_FOUND, "handle_not_found"),
        ResponseCode::HANDLE_ALREADY_EXISTS => (StatusCode::CONFLICT, "handle_exists"),
        ResponseCode::INVALID_HANDLE => (StatusCode::BAD_REQUEST, "invalid_handle"),
        ResponseCode::VALUES_NOT_FOUND => (StatusCode::BAD_REQUEST, "values_not_found"),
        ResponseCode::VALUE_ALREADY_EXISTS => (StatusCode::CONFLICT, "value_exists"),
        ResponseCode::INVALID_VALUE => (StatusCode::BAD_REQUEST, "invalid_value"),
        ResponseCode::SERVER_NOT_RESPONSIBLE => (StatusCode::BAD_REQUEST, "not_responsible"),
        ResponseCode::AUTHENTICATION_NEEDED => (StatusCode::UNAUTHORIZED, "authentication_needed"),
        ResponseCode::INVALID_ADMIN => (StatusCode::FORBIDDEN, "not_an_administrator"),
        ResponseCode::INSUFFICIENT_PERMISSIONS => {
            (StatusCode::FORBIDDEN, "insufficient_permissions")
        }
        ResponseCode::AUTHENTICATION_FAILED => (StatusCode::FORBIDDEN, "authentication_failed"),
        ResponseCode::SERVER_TOO_BUSY => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
        ResponseCode::SERVER_BACKUP => (StatusCode::MISDIRECTED_REQUEST, "not_primary"),
        ResponseCode::PROTOCOL_ERROR => (StatusCode::BAD_REQUEST, "invalid_request"),
        ResponseCode::OPERATION_NOT_SUPPORTED => (StatusCode::BAD_REQUEST, "not_supported"),
        // Codes of sessions, which have ended or never were.
        code if (500..600).contains(&code.0) => (StatusCode::UNAUTHORIZED, "session_not_valid"),
        code if (400..500).contains(&code.0) => (StatusCode::FORBIDDEN, "denied"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "server_error"),
    }
}
