//! `/api/handles/{handle}`: resolution as JSON.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use bytes::Bytes;
use jiexi_proto::code::ResponseCode;
use jiexi_proto::message::resolution::ResolutionView;
use jiexi_proto::value::{Value, ValueView};
use jiexi_proto::wire::Reader;
use serde_json::{Value as Json, json};

use super::answer::{Answer, Refusal, json, with_type};
use super::asked::{self, Resolving};
use super::caller::{Caller, identify, needed};
use super::language::Language;
use super::openapi::Flag;
use super::outer::{Counted, From};
use super::{App, change};
use crate::json::direct::Direct;
use crate::json::value;
use crate::metrics::{Op, Outcome};
use crate::registry::audit::Event;
use crate::registry::{Authenticated, NOT_HOMED, Rejection};
use crate::resolver::{self, Answer as Said, Filter, Query, Selection};
use crate::server::handle::{lookup_result, outcome_of};
use crate::store::Lookup;
use crate::token::Right;

/// Where handles are.
pub(super) const ROUTE: &str = "/api/handles/";
/// What may be done with one.
const METHODS: &str = "GET, HEAD, PUT, DELETE, OPTIONS";

/// Everything below [`ROUTE`], by its method.
pub(super) async fn serve(
    State(app): State<Arc<App>>,
    Extension(from): Extension<From>,
    request: Request<Body>,
) -> Answer {
    match *request.method() {
        Method::GET | Method::HEAD => {
            let (parts, _) = request.into_parts();
            let (mut answer, counted) = get(&app, &from, &parts.uri, &parts.headers).await;
            answer.extensions_mut().insert(counted);
            answer
        }
        Method::PUT | Method::DELETE => change::serve(&app, &from, request).await,
        Method::OPTIONS => options(METHODS),
        _ => not_allowed(METHODS, &from, request.headers()),
    }
}

/// What may be done here; scripts of other sites may read.
pub(super) fn options(methods: &'static str) -> Answer {
    let mut answer = Answer::new(Body::empty());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    let headers = answer.headers_mut();
    headers.insert(header::ALLOW, HeaderValue::from_static(methods));
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, OPTIONS"),
        (header::ACCESS_CONTROL_MAX_AGE, "86400"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}

/// Said to a method that is not known here.
pub(super) fn not_allowed(methods: &'static str, from: &From, headers: &HeaderMap) -> Answer {
    let status = StatusCode::METHOD_NOT_ALLOWED;
    let refusal = Refusal::named(status, "method_not_allowed", "");
    let mut answer = refusal.of_handle(None, from.request(), Language::of(headers));
    let allowed = HeaderValue::from_static(methods);
    answer.headers_mut().insert(header::ALLOW, allowed);
    answer
}

/// A record, or those of its values that are asked for.
#[utoipa::path(
    get, path = "/api/handles/{handle}", tag = "handles", operation_id = "resolve",
    params(
        ("handle" = String, Path, description = "The handle; `/` in it may stand as it is"),
        ("index" = Option<Vec<u32>>, Query, minimum = 1, maximum = 2147483647,
            description = "Values of these indexes; a union with `type`"),
        ("type" = Option<Vec<String>>, Query,
            description = "Values of these types; `URL.` means URL and every URL.x"),
        ("publicOnly" = inline(Option<Flag>), Query,
            description = "Leave restricted values out; the default for whoever gives no credentials"),
        ("auth" = inline(Option<Flag>), Query, description = "Ask a primary server; this is one"),
        ("pretty" = inline(Option<Flag>), Query, description = "Lines and spaces for people"),
        ("callback" = Option<String>, Query, max_length = 64, pattern = r"^[A-Za-z_$][A-Za-z0-9_$]*$",
            description = "JSONP: the name of a function; anonymous only")),
    responses(
        (status = 200, description = "The values; responseCode 1, or 200 when the handle has none of those",
            content_type = "application/json"),
        (status = 400, description = "Not a handle, another node's prefix, or a wrong parameter",
            content_type = "application/json"),
        (status = 401, description = "Restricted values were asked for without credentials",
            content_type = "application/json"),
        (status = 403, description = "The credentials are wrong or do not suffice, or came over plain HTTP",
            content_type = "application/json"),
        (status = 404, description = "No such handle, or a prefix that another service knows: responseCode 303 and `values`",
            content_type = "application/json"),
        (status = 429, description = "Too many requests", content_type = "application/json"),
        (status = 503, description = "Not now", content_type = "application/json")),
    security((), ("token" = []), ("basic" = []))
)]
pub(super) async fn get(
    app: &App,
    from: &From,
    uri: &Uri,
    headers: &HeaderMap,
) -> (Answer, Counted) {
    let question = Question::read(uri);
    let caller = match question.is_readable() {
        true => identify(app, from, headers).await,
        // What is wrong is said whoever asks.
        false => Ok(Caller::default()),
    };
    resolved(app, from, headers, &question, caller)
}

/// As [`get`], for somebody who shows no credentials: there is nothing to wait for.
pub(super) fn get_as_nobody(
    app: &App,
    from: &From,
    uri: &Uri,
    headers: &HeaderMap,
) -> (Answer, Counted) {
    let question = Question::read(uri);
    resolved(app, from, headers, &question, Ok(Caller::default()))
}

/// What a path and a query ask for, as far as they are readable.
struct Question<'u> {
    handle: Result<Cow<'u, str>, Refusal>,
    asked: Result<Resolving, Refusal>,
}

impl<'u> Question<'u> {
    fn read(uri: &'u Uri) -> Self {
        Self {
            handle: asked::handle(uri.path(), ROUTE),
            asked: Resolving::read(uri.query()),
        }
    }

    const fn is_readable(&self) -> bool {
        self.handle.is_ok() && self.asked.is_ok()
    }
}

fn resolved(
    app: &App,
    from: &From,
    headers: &HeaderMap,
    question: &Question<'_>,
    caller: Result<Caller, Refusal>,
) -> (Answer, Counted) {
    let handle = &question.handle;
    let done = || -> Result<Answer, Refusal> {
        let handle = handle.as_ref().map_err(Clone::clone)?;
        let asked = question.asked.as_ref().map_err(Clone::clone)?;
        let caller = caller?;
        let found = look_up(app, from, &caller, handle, asked)?;
        shown(handle, &found, asked, &caller)
    };
    let mut outcome = Outcome::Success;
    let answer = done().unwrap_or_else(|refusal| {
        outcome = outcome_of(refusal.code);
        let handle = handle.as_deref().ok();
        refused(&refusal, handle, from, headers)
    });
    let op = Op::Resolve;
    (answer, Counted { op, outcome })
}

/// An error; that a handle has none of the values is none.
fn refused(refusal: &Refusal, handle: Option<&str>, from: &From, headers: &HeaderMap) -> Answer {
    if refusal.code == ResponseCode::VALUES_NOT_FOUND {
        let code = refusal.code.0;
        let body = json!({"responseCode": code, "handle": handle, "values": []});
        return json(StatusCode::OK, &body);
    }
    refusal.of_handle(handle, from.request(), Language::of(headers))
}

/// Values in wire form, one behind the other.
#[derive(Debug, Default)]
pub(super) struct Found(Vec<u8>);

impl Found {
    /// Each value as it stands.
    fn views(&self) -> impl Iterator<Item = ValueView<'_>> {
        let mut reader = Reader::new(&self.0);
        std::iter::from_fn(move || ValueView::read(&mut reader).ok())
    }

    /// Each value in wire form.
    pub(super) fn wires(&self) -> impl Iterator<Item = &[u8]> {
        self.views().map(|view| view.wire)
    }

    /// All values.
    pub(super) fn values(&self) -> Vec<Value> {
        self.views().filter_map(|view| decoded(view.wire)).collect()
    }
}

fn decoded(wire: &[u8]) -> Option<Value> {
    Value::decode(&Bytes::copy_from_slice(wire)).ok()
}

/// The values that the caller asks for and may read.
pub(super) fn look_up(
    app: &App,
    from: &From,
    caller: &Caller,
    handle: &str,
    asked: &Resolving,
) -> Result<Found, Refusal> {
    let key = app.registry.records.key(handle.as_bytes());
    let reader = caller.who.is_some() && caller.allows(Right::Resolve, &key).is_ok();
    // Who asks for restricted values by name is told when they may not have them; whoever only
    // gave credentials gets what they may read.
    let public_only = asked.public_only.unwrap_or(!reader);
    if !public_only {
        caller.allows(Right::Resolve, &key)?;
    }
    let found = find(app, from, caller, &key, asked, public_only);
    let lenient = asked.public_only.is_none() && !public_only;
    match found {
        Err(refusal) if lenient && (400..500).contains(&refusal.code.0) => {
            find(app, from, caller, &key, asked, true)
        }
        found => found,
    }
}

fn find(
    app: &App,
    from: &From,
    caller: &Caller,
    key: &[u8],
    asked: &Resolving,
    public_only: bool,
) -> Result<Found, Refusal> {
    let filter = asked.filter()?;
    let filter = match filter.as_deref().map(ResolutionView::decode) {
        Some(Ok(view)) => Filter::asked(view.indexes, view.types),
        _ => Filter::All,
    };
    let query = Query {
        key,
        filter,
        public_only,
        refer: true,
    };
    app.pool.with_authority(|scratch| {
        let session = scratch.reader.session();
        let mut found = [Lookup::Absent];
        session.find(&[key], &mut found);
        scratch.count(lookup_result(&found[0]));
        let said = resolver::resolve(&scratch.authority, &session, &query, &found[0]);
        match (said, found[0], &caller.who) {
            (Said::Values(selection), ..) if public_only || caller.who.is_none() => {
                let mut values = Vec::new();
                for entry in selection.public() {
                    values.extend_from_slice(entry.wire);
                }
                Ok(Found(values))
            }
            (Said::Values(_) | Said::NeedsAuthentication, Lookup::Found(record), Some(_)) => {
                let asker = Asker {
                    who: caller.proved(from)?,
                    address: from.address,
                    time: from.came.unix_seconds,
                };
                restricted(app, &asker, key, Selection::new(record, query.filter))
            }
            (said, ..) => Err(refusal_of(said, from)),
        }
    })
}

/// What is said to a resolution without values.
fn refusal_of(said: Said<'_, '_>, from: &From) -> Refusal {
    match said {
        Said::Values(_) | Said::NeedsAuthentication => needed(from),
        Said::NoSuchHandle => Refusal::new(ResponseCode::HANDLE_NOT_FOUND, ""),
        Said::PrefixReferral(sites) => {
            let values = sites.public().filter_map(|entry| decoded(entry.wire));
            let text = "the values of its nearest ancestor say which service";
            Refusal {
                values: Some(Box::new(values.map(|value| value_json(&value)).collect())),
                ..Refusal::new(ResponseCode::PREFIX_REFERRAL, text)
            }
        }
        Said::NoSuchValue => Refusal::new(ResponseCode::VALUES_NOT_FOUND, ""),
        Said::NotResponsible => Refusal::new(ResponseCode::SERVER_NOT_RESPONSIBLE, NOT_HOMED),
        Said::Denied => Refusal::new(ResponseCode::INSUFFICIENT_PERMISSIONS, ""),
        Said::Loading => Rejection::busy("still loading").into(),
        Said::Damaged => Refusal::new(ResponseCode::ERROR, "the stored record is damaged"),
    }
}

/// Who asks for restricted values.
pub(super) struct Asker<'a> {
    pub(super) who: &'a Authenticated,
    pub(super) address: IpAddr,
    /// Unix seconds.
    pub(super) time: u32,
}

/// Values that only administrators may read, for one of them.
pub(super) fn restricted(
    app: &App,
    asker: &Asker<'_>,
    key: &[u8],
    selection: Selection<'_, '_>,
) -> Result<Found, Refusal> {
    let who = asker.who;
    let opened = app
        .registry
        .may_read(who, key)
        .and_then(|permit| app.registry.open_values(permit));
    let opened = opened.inspect_err(|rejection| {
        app.registry.note(&Event {
            time: asker.time.into(),
            identity: Some(who.identity()),
            source: asker.address.to_string(),
            operation: "read",
            handle: key,
            result: "refused",
            code: rejection.code.0,
            change: None,
        });
    })?;
    let wanted: Vec<u32> = selection.readable().map(|entry| entry.index).collect();
    let mut values = Vec::new();
    let chosen = opened.iter().filter(|value| wanted.contains(&value.index));
    chosen.for_each(|value| value.encode(&mut values));
    match values.is_empty() {
        true => Err(Refusal::new(ResponseCode::VALUES_NOT_FOUND, "")),
        false => Ok(Found(values)),
    }
}

fn shown(
    handle: &str,
    found: &Found,
    asked: &Resolving,
    caller: &Caller,
) -> Result<Answer, Refusal> {
    let body = body_of(handle, found);
    if let Some(function) = &asked.callback {
        if caller.who.is_some() {
            return Err(Refusal::field(
                "callback",
                "any site could read the answer: not with credentials",
            ));
        }
        // In JSON these two may stand in text, in a script of old they end a line.
        let text = String::from_utf8_lossy(&body)
            .replace('\u{2028}', "\\u2028")
            .replace('\u{2029}', "\\u2029");
        let script = format!("/**/{function}({text});");
        return Ok(with_type(
            StatusCode::OK,
            "application/javascript; charset=utf-8",
            script,
        ));
    }
    let body = match asked.pretty {
        true => {
            let body: Json = serde_json::from_slice(&body).unwrap_or_default();
            serde_json::to_vec_pretty(&body).unwrap_or_default()
        }
        false => body,
    };
    Ok(with_type(StatusCode::OK, "application/json", body))
}

/// The answer to a resolution, written straight from the stored values.
fn body_of(handle: &str, found: &Found) -> Vec<u8> {
    let mut body = Vec::with_capacity(128 + 2 * found.0.len());
    body.extend_from_slice(b"{\"responseCode\":1,\"handle\":");
    value::text(handle, &mut body);
    body.extend_from_slice(b",\"values\":");
    append_values(found, &mut body);
    body.push(b'}');
    body
}

fn append_values(found: &Found, body: &mut Vec<u8>) {
    body.push(b'[');
    let mut direct = Direct::default();
    for (place, view) in found.views().enumerate() {
        if place > 0 {
            body.push(b',');
        }
        direct.value(view.wire, body);
    }
    body.push(b']');
}

/// A value as JSON. What has no exact form is shown as nearly as JSON can.
pub(super) fn value_json(exact: &Value) -> Json {
    value::nearest(exact)
}
