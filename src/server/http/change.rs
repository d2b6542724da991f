//! PUT and DELETE of `/api/handles/{handle}`: translated, decided by the registry, made durable.

use std::sync::Arc;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{Method, Request, StatusCode};
use bytes::Bytes;
use getrandom::SysRng;
use jiexi_proto::code::ResponseCode;
use jiexi_proto::handle::is_prefix_handle;
use jiexi_proto::value::Value;
use serde_json::{Value as Json, json};
use tokio::sync::oneshot;

use super::answer::{Answer, Refusal};
use super::asked::{self, Changing};
use super::caller::{Caller, identify};
use super::handles::ROUTE;
use super::idempotency::{self, Begun, Kept};
use super::language::Language;
use super::openapi::Flag;
use super::outer::{Counted, From};
use super::{App, body};
use crate::clock::Now;
use crate::json::value;
use crate::metrics::{Op, Outcome};
use crate::registry::audit::Event;
use crate::registry::figures::Ended;
use crate::registry::plan::Request as Change;
use crate::registry::{Authenticated, Rejection};
use crate::server::handle::outcome_of;
use crate::store::CommitError;
use crate::token::Right;

/// How often a change is decided again because its record changed meanwhile, the last time while nobody else writes.
const ATTEMPTS_MAX: u32 = 4;
/// Types of values that say who administers.
const ADMIN_TYPES: [&[u8]; 4] = [b"HS_ADMIN", b"HS_VLIST", b"HS_PUBKEY", b"HS_SECKEY"];

/// Carries a change out. Once it is decided, it is ended even when the client goes away.
pub(super) async fn serve(app: &Arc<App>, from: &From, request: Request<Body>) -> Answer {
    let (parts, content) = request.into_parts();
    let language = Language::of(&parts.headers);
    let handle = asked::handle(parts.uri.path(), ROUTE);
    let mut op = Op::Create;
    let done = match &handle {
        Ok(handle) => take(app, from, &parts, content, handle, &mut op).await,
        Err(refusal) => Err(refusal.clone()),
    };
    let outcome = match &done {
        Ok(_) => Outcome::Success,
        Err(refusal) => outcome_of(refusal.code),
    };
    let mut answer = match done {
        Ok(kept) => kept.answer(),
        Err(refusal) => refusal.of_handle(handle.as_deref().ok(), from.request(), language),
    };
    answer.extensions_mut().insert(Counted { op, outcome });
    answer
}

/// Creates a handle, replaces it, or replaces some of its values.
#[utoipa::path(
    put, path = "/api/handles/{handle}", tag = "handles", operation_id = "put",
    params(
        ("handle" = String, Path, description = "The handle; `/` in it may stand as it is"),
        ("overwrite" = inline(Option<Flag>), Query,
            description = "`false`: refuse with 409 what exists already; the default is `true`"),
        ("index" = Option<Vec<String>>, Query, pattern = "^([1-9][0-9]{0,8}|various)$",
            description = "Only these values of the body are put; `various`: all of the body. Without it the body \
                           becomes the whole record"),
        ("Idempotency-Key" = Option<String>, Header, max_length = 255, pattern = "^[\\x21-\\x7E]*$",
            description = "The same key with the same content, query and body, is carried out once")),
    request_body(content = String, content_type = "application/json",
        description = "`{\"values\":[…]}`, an array of values, or one value"),
    responses(
        (status = 200, description = "Replaced", content_type = "application/json"),
        (status = 201, description = "Created", content_type = "application/json"),
        (status = 400, description = "Not a handle, another node's prefix, or a value that is not valid",
            content_type = "application/json"),
        (status = 401, description = "Credentials are needed", content_type = "application/json"),
        (status = 403, description = "They are wrong or do not suffice, or came over plain HTTP",
            content_type = "application/json"),
        (status = 404, description = "Values of a handle that does not exist", content_type = "application/json"),
        (status = 408, description = "The body did not arrive in time", content_type = "application/json"),
        (status = 409, description = "It exists, or the same key is at work", content_type = "application/json"),
        (status = 413, description = "The body is too large", content_type = "application/json"),
        (status = 422, description = "The idempotency key was used for another content",
            content_type = "application/json"),
        (status = 421, description = "This node is a standby: changes are made at the primary",
            content_type = "application/json"),
        (status = 429, description = "Too many requests", content_type = "application/json"),
        (status = 503, description = "Not now", content_type = "application/json")),
    security(("token" = []), ("basic" = []))
)]
pub(super) async fn take(
    app: &Arc<App>,
    from: &From,
    parts: &Parts,
    content: Body,
    handle: &str,
    op: &mut Op,
) -> Result<Kept, Refusal> {
    let asked = Changing::read(parts.uri.query())?;
    let delete = parts.method == Method::DELETE;
    *op = match (delete, asked.indexes.is_empty() && !asked.various) {
        (false, true) => Op::Create,
        (false, false) => Op::Modify,
        (true, true) => Op::Delete,
        (true, false) => Op::Remove,
    };
    let caller = identify(app, from, &parts.headers).await?;
    let who = caller.proved(from)?.clone();
    let limit = app.config.body_max;
    let octets = body::read(app, content, limit).await?;
    let change = match delete {
        true => deletion(handle, asked)?,
        false => replacement(handle, asked, &octets, from.came)?,
    };
    let begun = idempotency::begin(app, &caller, parts, handle, &octets, from.came)?;
    let begun = match begun {
        Begun::Done(kept) => return Ok(kept),
        Begun::New(begun) => begun,
    };
    let (app, from) = (Arc::clone(app), from.clone());
    let tracker = app.changes.clone();
    let work = async move { carry_out(&app, &from, &caller, &who, change, begun).await };
    tracker
        .spawn(work)
        .await
        .unwrap_or_else(|_| Err(Rejection::busy("please try again").into()))
}

/// Deletes a handle, or some of its values.
#[utoipa::path(
    delete, path = "/api/handles/{handle}", tag = "handles", operation_id = "delete",
    params(
        ("handle" = String, Path, description = "The handle; `/` in it may stand as it is"),
        ("index" = Option<Vec<u32>>, Query, minimum = 1, maximum = 2147483647,
            description = "Only these values; without it the whole handle"),
        ("Idempotency-Key" = Option<String>, Header, max_length = 255, pattern = "^[\\x21-\\x7E]*$",
            description = "The same key with the same query is carried out once")),
    responses(
        (status = 200, description = "Deleted", content_type = "application/json"),
        (status = 400, description = "Not a handle, another node's prefix, or no such values",
            content_type = "application/json"),
        (status = 401, description = "Credentials are needed", content_type = "application/json"),
        (status = 403, description = "They are wrong or do not suffice, or came over plain HTTP",
            content_type = "application/json"),
        (status = 404, description = "No such handle", content_type = "application/json"),
        (status = 409, description = "The same key is at work", content_type = "application/json"),
        (status = 422, description = "The idempotency key was used for another content",
            content_type = "application/json"),
        (status = 421, description = "This node is a standby: changes are made at the primary",
            content_type = "application/json"),
        (status = 429, description = "Too many requests", content_type = "application/json"),
        (status = 503, description = "Not now", content_type = "application/json")),
    security(("token" = []), ("basic" = []))
)]
pub(super) fn deletion(handle: &str, asked: Changing) -> Result<Change, Refusal> {
    if asked.various {
        return Err(Refusal::field(
            "index",
            "various means the indexes of a body",
        ));
    }
    let handle = Bytes::from(handle.to_owned());
    Ok(match asked.indexes.is_empty() {
        true => Change::Delete { handle },
        false => Change::Remove {
            handle,
            indexes: asked.indexes,
        },
    })
}

/// What a PUT means.
fn replacement(handle: &str, asked: Changing, octets: &[u8], now: Now) -> Result<Change, Refusal> {
    let values = values_of(octets, now.unix_seconds)?;
    let overwrite = asked.overwrite.unwrap_or(true);
    let handle = Bytes::from(handle.to_owned());
    if asked.indexes.is_empty() && !asked.various {
        return Ok(Change::Create {
            handle,
            values,
            overwrite,
            mint: false,
        });
    }
    let stray = values
        .iter()
        .find(|value| !asked.indexes.contains(&value.index));
    if let (false, Some(stray)) = (asked.various, stray) {
        let text = format!(
            "the body has a value {}, which index= does not name",
            stray.index
        );
        return Err(Refusal::field("index", text));
    }
    let there = |index: &&u32| values.iter().any(|value| value.index == **index);
    if let Some(missing) = asked.indexes.iter().find(|index| !there(index)) {
        let text = format!("index= names {missing}, and the body has no such value");
        return Err(Refusal::field("index", text));
    }
    Ok(Change::Add {
        handle,
        values,
        overwrite,
    })
}

/// The values in a body: an array, an object with `values`, or one value.
fn values_of(octets: &[u8], now: u32) -> Result<Vec<Value>, Refusal> {
    let wrong = |field: &str, detail: String| Refusal {
        field: Some(field.to_owned()),
        ..Refusal::new(ResponseCode::INVALID_VALUE, detail)
    };
    let body: Json = serde_json::from_slice(octets)
        .map_err(|error| Refusal::field("", format!("the body is not JSON: {error}")))?;
    let list = match body {
        Json::Array(list) => list,
        Json::Object(mut members) if members.contains_key("values") => {
            match members.remove("values") {
                Some(Json::Array(list)) => list,
                _ => return Err(wrong("values", "must be an array".into())),
            }
        }
        one @ Json::Object(_) => vec![one],
        _ => return Err(wrong("", "must be an array of values or an object".into())),
    };
    if list.is_empty() {
        return Err(wrong("values", "there is no value".into()));
    }
    if list.len() > jiexi_proto::limits::VALUES_MAX {
        return Err(wrong(
            "values",
            "there are more values than a handle may have".into(),
        ));
    }
    let read = |(place, json)| {
        value::read(json, now).map_err(|error| {
            let place = format!("values[{place}]");
            match error.field.as_str() {
                "" => wrong(&place, error.message),
                field => wrong(&format!("{place}.{field}"), error.message),
            }
        })
    };
    list.into_iter().enumerate().map(read).collect()
}

/// Decides, makes durable, decides again if the record changed meanwhile.
async fn carry_out(
    app: &App,
    from: &From,
    caller: &Caller,
    who: &Authenticated,
    change: Change,
    begun: Option<idempotency::Running>,
) -> Result<Kept, Refusal> {
    let (registry, store) = (&app.registry, &app.shared.store);
    for attempt in 0..=ATTEMPTS_MAX {
        let (told, outcome) = oneshot::channel();
        let mut decided = Err(Refusal::from(Rejection::busy("not decided")));
        let decide = || {
            let now = Now::read().unix_seconds;
            let decision = permitted(app, caller, &change)
                .and_then(|()| Ok(registry.decide(&change, who, now, &mut SysRng)?));
            let (batch, rest) = match decision {
                Ok(decision) => {
                    let kept = Kept::new(status_of(&change, decision.overwritten), &said(&change));
                    let mut batch = decision.batch;
                    batch
                        .changes
                        .extend(begun.iter().map(|begun| begun.change(&kept, now)));
                    let event = event(from, who, &change, decision.overwritten);
                    let batch = registry.witnessed(batch, &[event]);
                    (Some(batch), Ok((kept, decision.overwritten)))
                }
                Err(refusal) => (None, Err(refusal)),
            };
            decided = rest;
            Some((batch?, move |result| drop(told.send(result))))
        };
        if attempt == ATTEMPTS_MAX {
            tokio::task::block_in_place(|| store.submit_decided(decide));
        } else if let Some((batch, done)) = decide() {
            store.submit(batch, done);
        }
        let (kept, overwritten) = match decided {
            Ok(decided) => decided,
            Err(refusal) => {
                let event = event(from, who, &change, false);
                note(app, &change, Ended::Refused, refusal.code, event);
                return Err(refusal);
            }
        };
        let failure = match outcome.await.unwrap_or(Err(CommitError::Closed)) {
            Ok(committed) => {
                let event = Event {
                    change: Some(committed.sequence),
                    ..event(from, who, &change, overwritten)
                };
                note(app, &change, Ended::Committed, ResponseCode::SUCCESS, event);
                return Ok(kept);
            }
            Err(CommitError::Conflict { .. }) if attempt < ATTEMPTS_MAX => continue,
            Err(failure) => Refusal::from(Rejection::of_store(&failure)),
        };
        let event = event(from, who, &change, false);
        note(
            app,
            &change,
            Ended::untaken(failure.code),
            failure.code,
            event,
        );
        return Err(failure);
    }
    Err(Rejection::busy("the handle is changed by others all the time").into())
}

/// Whether the caller's token allows the change. What says who administers is the right `admin`'s, however it comes or
/// goes: written, replaced, removed by its index, or with the whole handle.
pub(super) fn permitted(app: &App, caller: &Caller, change: &Change) -> Result<(), Refusal> {
    if caller.grant.is_none() {
        return Ok(());
    }
    let key = app.registry.records.key(change.handle());
    caller.allows(Right::Write, &key)?;
    let is_admin = |kind: &[u8]| {
        ADMIN_TYPES
            .iter()
            .any(|known| kind.eq_ignore_ascii_case(known))
    };
    let replaced = |touched: &dyn Fn(u32) -> bool| -> Result<bool, Refusal> {
        let current = app.registry.records.record(&key).map_err(Rejection::from)?;
        Ok(current.is_some_and(|record| {
            record.entries().any(|entry| {
                touched(entry.index) && is_admin(jiexi_proto::value::type_of(entry.wire))
            })
        }))
    };
    let brings = |values: &[Value]| values.iter().any(|value| is_admin(&value.kind));
    let administers = is_prefix_handle(&key)
        || match change {
            // What exists is not touched: the registry refuses it.
            Change::Create {
                values,
                overwrite: false,
                ..
            } => brings(values),
            Change::Create { values, .. } => brings(values) || replaced(&|_| true)?,
            Change::Add { values, .. } | Change::Modify { values, .. } => {
                let touched = |index| values.iter().any(|value| value.index == index);
                brings(values) || replaced(&touched)?
            }
            Change::Remove { indexes, .. } => replaced(&|index| indexes.contains(&index))?,
            Change::Delete { .. } => replaced(&|_| true)?,
            Change::Home { .. } | Change::Unhome { .. } => true,
        };
    match administers {
        true => caller.allows(Right::Admin, &key),
        false => Ok(()),
    }
}

fn status_of(change: &Change, overwritten: bool) -> StatusCode {
    match change {
        Change::Create { .. } | Change::Add { .. } if !overwritten => StatusCode::CREATED,
        _ => StatusCode::OK,
    }
}

fn said(change: &Change) -> Json {
    let handle = String::from_utf8_lossy(change.handle());
    json!({"responseCode": ResponseCode::SUCCESS.0, "handle": handle})
}

/// What the audit trail says of a change, as far as it is known before it ends.
fn event<'e>(
    from: &From,
    who: &'e Authenticated,
    change: &'e Change,
    overwritten: bool,
) -> Event<'e> {
    Event {
        time: Now::read().unix_seconds.into(),
        identity: Some(who.identity()),
        source: from.address.to_string(),
        operation: change.done_as(overwritten),
        handle: change.handle(),
        ..Event::default()
    }
}

/// Counts a change and adds it to the audit trail.
fn note(app: &App, change: &Change, ended: Ended, code: ResponseCode, event: Event<'_>) {
    let result = Ended::ALL.iter().find(|(known, _)| *known == ended);
    let event = Event {
        result: result.map_or("", |(_, label)| label),
        code: code.0,
        ..event
    };
    app.registry.ended(change, ended, &event);
}
