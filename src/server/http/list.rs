//! `GET /api/handles?prefix=` and `GET /api/v1/handles?prefix=`: the handles of a prefix, for whoever has the right to list
//! them.

use std::ops::Bound;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use jiexi_proto::code::ResponseCode;
use jiexi_proto::handle::PREFIX_SPACE;
use serde_json::json;

use super::answer::{Answer, Refusal, json};
use super::asked;
use super::caller::identify;
use super::handles::{not_allowed, options};
use super::language::Language;
use super::outer::{Counted, From};
use super::{App, source_of, v1};
use crate::metrics::{Op, Outcome};
use crate::registry::audit::Event;
use crate::registry::{Authenticated, NOT_HOMED, Rejection};
use crate::server::handle::outcome_of;
use crate::store::{Space, Store};
use crate::token::Right;

/// What may be done with both.
const METHODS: &str = "GET, HEAD, OPTIONS";
/// Names on a page that does not say how many.
const PAGE_SIZE: usize = 100;
/// Most names on a page.
const PAGE_SIZE_MAX: usize = 10_000;
/// Records that are read from the store at once.
const PIECE: usize = 512;
/// Names that may be skipped by a page number; beyond it `after` goes on.
const SKIP_MAX: usize = 100_000;

/// What `after` begins with when it is no handle: the octets of one that is no text follow. A handle of a prefix has a `/`.
const OCTETS: &str = "hex:";

#[derive(Debug)]
struct Asked {
    prefix: String,
    page: usize,
    size: usize,
    after: Option<Vec<u8>>,
}

impl Asked {
    fn of(prefix: String) -> Self {
        Self {
            prefix,
            page: 0,
            size: PAGE_SIZE,
            after: None,
        }
    }

    /// Reads the query of the Handle JSON API.
    fn read(query: Option<&str>) -> Result<Self, Refusal> {
        let mut asked = Self::of(String::new());
        let number = |name: &str, text: &str, most| {
            let number = text.parse().ok().filter(|number| *number <= most);
            number.ok_or_else(|| Refusal::field(name, format!("must be a number up to {most}")))
        };
        for (name, value) in asked::parameters(query) {
            match name.as_str() {
                "prefix" => asked.prefix = value,
                "page" => asked.page = number(&name, &value, SKIP_MAX)?,
                "pageSize" => asked.size = number(&name, &value, PAGE_SIZE_MAX)?,
                "after" => asked.after = Some(octets_of(value)),
                _ => {}
            }
        }
        if asked.page.saturating_mul(asked.size) > SKIP_MAX {
            let text = "pages this far are reached by after=, the last handle of the page before";
            return Err(Refusal::field("page", text));
        }
        asked.checked()
    }

    /// Reads that of `/api/v1`.
    fn read_v1(query: Option<&str>) -> Result<Self, Refusal> {
        let mut asked = Self::of(String::new());
        for (name, value) in asked::parameters(query) {
            match name.as_str() {
                "prefix" => asked.prefix = value,
                "after" => asked.after = Some(octets_of(value)),
                "limit" => {
                    let number = value.parse().ok();
                    let number = number.filter(|number| (1..=PAGE_SIZE_MAX).contains(number));
                    let text = || format!("must be a number from 1 to {PAGE_SIZE_MAX}");
                    asked.size = number.ok_or_else(|| Refusal::field("limit", text()))?;
                }
                _ => {}
            }
        }
        asked.checked()
    }

    fn checked(self) -> Result<Self, Refusal> {
        let good = !self.prefix.is_empty() && self.prefix.len() <= jiexi_proto::limits::HANDLE_MAX;
        let text = "is missing; it is a prefix such as 88.118";
        good.then_some(self)
            .ok_or_else(|| Refusal::field("prefix", text))
    }
}

/// The handle that `after` names: as text, or as its octets.
fn octets_of(after: String) -> Vec<u8> {
    let octets = after
        .strip_prefix(OCTETS)
        .and_then(|text| hex::decode(text).ok());
    octets.unwrap_or_else(|| after.into_bytes())
}

/// What `after` is to be for what follows a handle.
fn after_of(handle: &[u8]) -> String {
    match std::str::from_utf8(handle) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("{OCTETS}{}", hex::encode(handle)),
    }
}

/// Names of a prefix.
#[derive(Debug, Default)]
struct Names {
    names: Vec<String>,
    /// What `after` is to be for those that follow, if some do.
    next: Option<String>,
}

/// The handles of a prefix, in the order of their names.
#[utoipa::path(
    get, path = "/api/handles", tag = "handles", operation_id = "list",
    params(
        ("prefix" = String, Query, min_length = 1, max_length = 255, description = "The prefix, such as 88.118"),
        ("page" = Option<u32>, Query, maximum = 100000, description = "From 0"),
        ("pageSize" = Option<u32>, Query, maximum = 10000, description = "Handles on a page; 100 by default"),
        ("after" = Option<String>, Query, description = "Begin behind this handle of the prefix; instead of a page number")),
    responses(
        (status = 200, description = "The handles; `next` is there when more follow", content_type = "application/json"),
        (status = 400, description = "Another node's prefix, or a wrong parameter", content_type = "application/json"),
        (status = 401, description = "Credentials are needed", content_type = "application/json"),
        (status = 403, description = "No right to list (HS_ADMIN), or over plain HTTP",
            content_type = "application/json"),
        (status = 429, description = "Too many lists", content_type = "application/json"),
        (status = 503, description = "Not now", content_type = "application/json")),
    security(("token" = []), ("basic" = []))
)]
pub(super) async fn serve(
    State(app): State<Arc<App>>,
    Extension(from): Extension<From>,
    request: Request<Body>,
) -> Answer {
    match *request.method() {
        Method::GET | Method::HEAD => {}
        Method::OPTIONS => return options(METHODS),
        _ => return not_allowed(METHODS, &from, request.headers()),
    }
    let language = Language::of(request.headers());
    let done = list(&app, &from, request).await;
    let outcome = outcome(&done);
    let mut answer =
        done.unwrap_or_else(|refusal| refusal.of_handle(None, from.request(), language));
    let op = Op::List;
    answer.extensions_mut().insert(Counted { op, outcome });
    answer
}

/// The handles of a prefix, in the order of their folded names, a page at a time.
#[utoipa::path(
    get, path = "/api/v1/handles", tag = "handles", operation_id = "listHandles",
    params(
        ("prefix" = String, Query, min_length = 1, max_length = 255, description = "The prefix, such as 88.118"),
        ("after" = Option<String>, Query, description = "Begin behind this: `next` of the page before, or any handle of the prefix"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 10000, description = "Handles on a page; 100 by default")),
    responses(
        (status = 200, description = "The handles; `next` is there when more follow", content_type = "application/json"),
        (status = 400, description = "Another node's prefix, or a wrong parameter",
            content_type = "application/problem+json"),
        (status = 401, description = "Credentials are needed", content_type = "application/problem+json"),
        (status = 403, description = "No right to list (HS_ADMIN or the token's), or over plain HTTP",
            content_type = "application/problem+json"),
        (status = 405, description = "Only GET", content_type = "application/problem+json"),
        (status = 429, description = "Too many lists", content_type = "application/problem+json"),
        (status = 503, description = "Not now", content_type = "application/problem+json")),
    security(("token" = []), ("basic" = []))
)]
pub(super) async fn page(
    State(app): State<Arc<App>>,
    Extension(from): Extension<From>,
    request: Request<Body>,
) -> Answer {
    let head = request.into_parts().0;
    if let Some(other) = v1::other_method(&head.method, METHODS, &from, &head.headers) {
        return other;
    }
    let language = Language::of(&head.headers);
    let listed = async {
        let asked = Asked::read_v1(head.uri.query())?;
        let names = find(&app, &from, &head.headers, &asked).await?;
        let mut body = json!({"prefix": asked.prefix, "handles": names.names});
        if let Some(next) = names.next {
            body["next"] = next.into();
        }
        Ok::<_, Refusal>(json(StatusCode::OK, &body))
    };
    let listed = listed.await;
    let outcome = outcome(&listed);
    let mut answer = listed.unwrap_or_else(|refusal| refusal.of_problem(from.request(), language));
    let op = Op::List;
    answer.extensions_mut().insert(Counted { op, outcome });
    answer
}

fn outcome(done: &Result<Answer, Refusal>) -> Outcome {
    match done {
        Ok(_) => Outcome::Success,
        Err(refusal) => outcome_of(refusal.code),
    }
}

async fn list(app: &App, from: &From, request: Request<Body>) -> Result<Answer, Refusal> {
    let asked = Asked::read(request.uri().query())?;
    let Names { names, next } = find(app, from, request.headers(), &asked).await?;
    let mut body = json!({
        "responseCode": ResponseCode::SUCCESS.0,
        "prefix": asked.prefix,
        "page": asked.page,
        "pageSize": asked.size,
        "handles": names,
    });
    if let Some(next) = next {
        body["next"] = next.into();
    } else if asked.after.is_none() && (asked.page == 0 || !names.is_empty()) {
        body["totalCount"] = (asked.page * asked.size + names.len()).into();
    }
    Ok(json(StatusCode::OK, &body))
}

/// The names that are asked for, if the caller may list them.
async fn find(
    app: &App,
    from: &From,
    headers: &HeaderMap,
    asked: &Asked,
) -> Result<Names, Refusal> {
    let caller = identify(app, from, headers).await?;
    let who = caller.proved(from)?;
    let limited = app.lists.take(source_of(from.address), from.came.instant);
    limited.map_err(|wait| {
        let status = StatusCode::TOO_MANY_REQUESTS;
        Refusal::named(status, "too_many_requests", "too many lists").after(wait)
    })?;
    let records = &app.registry.records;
    let key = records.key(asked.prefix.as_bytes());
    let allowed = caller.allows(Right::List, &key);
    allowed.inspect_err(|refusal| note(app, from, who, &key, Some(refusal.code)))?;
    let homed = records.is_homed(&key).map_err(Rejection::from)?;
    let permitted = match homed {
        true => app.registry.may_list(who, &key),
        false => Err(Rejection::new(
            ResponseCode::SERVER_NOT_RESPONSIBLE,
            NOT_HOMED,
        )),
    };
    let refused = permitted.as_ref().err().map(|rejection| rejection.code);
    note(app, from, who, &key, refused);
    let permit = permitted?;
    let bare = permit.key().strip_prefix(PREFIX_SPACE).unwrap_or_default();
    let below = [bare, b"/"].concat();
    let after = match asked.after.as_deref() {
        // Nothing: from the beginning.
        None | Some(b"") => None,
        Some(name) => Some(records.key(name)),
    };
    if after.as_ref().is_some_and(|key| !key.starts_with(&below)) {
        let text = "must be a handle of the prefix, such as next of the page before";
        return Err(Refusal::field("after", text));
    }
    let store = Arc::clone(&app.shared.store);
    let (skip, size) = (asked.page * asked.size, asked.size);
    let names = move || names(&store, &below, after, skip, size);
    let names = tokio::task::spawn_blocking(names).await;
    let busy = || Refusal::from(Rejection::busy("the records are not available now"));
    names.ok().flatten().ok_or_else(busy)
}

/// Names below a prefix.
fn names(
    store: &Store,
    below: &[u8],
    mut after: Option<Vec<u8>>,
    mut skip: usize,
    size: usize,
) -> Option<Names> {
    let (mut found, mut last) = (Names::default(), None);
    loop {
        let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        // One more than is shown says whether more follow.
        let take = PIECE.min(skip + size - found.names.len() + 1);
        let piece = store.scan(Space::Handle, from, below, take).ok()?;
        for record in piece.iter().skip(skip) {
            if found.names.len() == size {
                found.next = last;
                return Some(found);
            }
            let name = record.handle();
            found
                .names
                .push(String::from_utf8_lossy(&name).into_owned());
            last = Some(after_of(&name));
        }
        skip = skip.saturating_sub(piece.len());
        match piece.last() {
            Some(record) if piece.len() == take => after = Some(record.key().to_vec()),
            _ => return Some(found),
        }
    }
}

/// Writes a list down, or what was said instead.
fn note(app: &App, from: &From, who: &Authenticated, key: &[u8], refused: Option<ResponseCode>) {
    app.registry.note(&Event {
        time: from.came.unix_seconds.into(),
        identity: Some(who.identity()),
        source: from.address.to_string(),
        operation: "list",
        handle: key,
        result: refused.map_or("committed", |_| "refused"),
        code: refused.unwrap_or(ResponseCode::SUCCESS).0,
        change: None,
    });
}
