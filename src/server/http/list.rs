//! `GET /api/handles?prefix=`: the handles of a prefix, for whoever has the right to list them.

use std::ops::Bound;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Method, Request, StatusCode};
use jiexi_proto::code::ResponseCode;
use jiexi_proto::handle::PREFIX_SPACE;
use serde_json::json;

use super::answer::{Answer, Refusal, json};
use super::asked;
use super::caller::identify;
use super::handles::{not_allowed, options};
use super::language::Language;
use super::outer::{Counted, From};
use super::{App, source_of};
use crate::metrics::{Op, Outcome};
use crate::registry::audit::Event;
use crate::registry::{Authenticated, Rejection};
use crate::server::handle::outcome_of;
use crate::store::{Space, Store};
use crate::token::Right;

/// What may be done here.
const METHODS: &str = "GET, HEAD, OPTIONS";
/// Names on a page that does not say how many.
const PAGE_SIZE: usize = 100;
/// Most names on a page.
const PAGE_SIZE_MAX: usize = 10_000;
/// Names that may be skipped by a page number; beyond it `after` goes on.
const SKIP_MAX: usize = 100_000;

#[derive(Debug)]
struct Asked {
    prefix: String,
    page: usize,
    size: usize,
    after: Option<String>,
}

impl Asked {
    fn read(query: Option<&str>) -> Result<Self, Refusal> {
        let mut asked = Self {
            prefix: String::new(),
            page: 0,
            size: PAGE_SIZE,
            after: None,
        };
        let number = |name: &str, text: &str, most| {
            let number = text.parse().ok().filter(|number| *number <= most);
            number.ok_or_else(|| Refusal::field(name, format!("must be a number up to {most}")))
        };
        for (name, value) in asked::parameters(query) {
            match name.as_str() {
                "prefix" => asked.prefix = value,
                "page" => asked.page = number(&name, &value, SKIP_MAX)?,
                "pageSize" => asked.size = number(&name, &value, PAGE_SIZE_MAX)?,
                "after" => asked.after = Some(value),
                _ => {}
            }
        }
        if asked.prefix.is_empty() || asked.prefix.len() > jiexi_proto::limits::HANDLE_MAX {
            return Err(Refusal::field(
                "prefix",
                "is missing; it is a prefix such as 88.118",
            ));
        }
        if asked.page.saturating_mul(asked.size) > SKIP_MAX {
            let text = "pages this far are reached by after=, the last handle of the page before";
            return Err(Refusal::field("page", text));
        }
        Ok(asked)
    }
}

/// The handles of a prefix, in the order of their names.
#[utoipa::path(
    get, path = "/api/handles", tag = "handles", operation_id = "list",
    params(
        ("prefix" = String, Query, min_length = 1, max_length = 255, description = "The prefix, such as 88.118"),
        ("page" = Option<u32>, Query, maximum = 100000, description = "From 0"),
        ("pageSize" = Option<u32>, Query, maximum = 10000, description = "Handles on a page; 100 by default"),
        ("after" = Option<String>, Query, description = "Begin behind this handle; instead of a page number")),
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
    let outcome = match &done {
        Ok(_) => Outcome::Success,
        Err(refusal) => outcome_of(refusal.code),
    };
    let mut answer =
        done.unwrap_or_else(|refusal| refusal.of_handle(None, from.request(), language));
    let op = Op::List;
    answer.extensions_mut().insert(Counted { op, outcome });
    answer
}

async fn list(app: &App, from: &From, request: Request<Body>) -> Result<Answer, Refusal> {
    let asked = Asked::read(request.uri().query())?;
    let caller = identify(app, from, request.headers()).await?;
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
            "this prefix is not homed here",
        )),
    };
    let refused = permitted.as_ref().err().map(|rejection| rejection.code);
    note(app, from, who, &key, refused);
    let permit = permitted?;
    let bare = permit.key().strip_prefix(PREFIX_SPACE).unwrap_or_default();
    let below = [bare, b"/"].concat();
    let after = asked
        .after
        .as_ref()
        .map(|name| records.key(name.as_bytes()));
    let store = Arc::clone(&app.shared.store);
    let (skip, size) = (asked.page * asked.size, asked.size);
    let names = move || names(&store, &below, after, skip, size);
    let names = tokio::task::spawn_blocking(names).await;
    let busy = || Refusal::from(Rejection::busy("the records are not available now"));
    let (names, more) = names.ok().flatten().ok_or_else(busy)?;
    let mut body = json!({
        "responseCode": ResponseCode::SUCCESS.0,
        "prefix": asked.prefix,
        "page": asked.page,
        "pageSize": asked.size,
        "handles": names,
    });
    if let (true, Some(last)) = (more, names.last()) {
        body["next"] = last.as_str().into();
    } else if asked.after.is_none() && (asked.page == 0 || !names.is_empty()) {
        body["totalCount"] = (skip + names.len()).into();
    }
    Ok(json(StatusCode::OK, &body))
}

/// Names below a prefix, and whether more follow.
fn names(
    store: &Store,
    below: &[u8],
    mut after: Option<Vec<u8>>,
    mut skip: usize,
    size: usize,
) -> Option<(Vec<String>, bool)> {
    loop {
        let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let take = match skip {
            0 => size + 1,
            skip => skip.min(PAGE_SIZE_MAX),
        };
        let page = store.scan(Space::Handle, from, below, take).ok()?;
        if skip == 0 {
            let more = page.len() > size;
            let names = page.iter().take(size);
            let names = names.map(|record| String::from_utf8_lossy(record.handle()).into_owned());
            return Some((names.collect(), more));
        }
        let Some(last) = page.last() else {
            return Some((Vec::new(), false));
        };
        skip -= page.len();
        after = Some(last.key().to_vec());
        if page.len() < take {
            return Some((Vec::new(), false));
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
