//! `GET /api/v1/changes`: what has changed, one change after the other, for partners who keep a copy.
//!
//! ```text
//! cursor → page (a thread: journal → lines) ─→ answer
//!            ↑        nothing there: wait for more writes, the deadline, the end of the token or of the node
//!            └────────┘
//! ```
//!
//! * `mod.rs`: what is asked, waited for and answered. `cursor`: where a follower stands. `page`: the lines.
//! * `polls`: how many there are at once. `body`: an answer on its way, which ends with its token.

mod body;
mod cursor;
mod page;
mod polls;

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use jiexi_proto::code::ResponseCode;
use serde_json::{Value as Json, json};
use tokio::time::{Instant, sleep};

use self::cursor::Cursor;
use self::page::{Follower, Page};
pub(super) use self::polls::Polls;
use super::answer::{Answer, Refusal, with_type};
use super::body::Waited;
use super::language::Language;
use super::outer::{Counted, From, outcome_of};
use super::{App, asked, caller, v1};
use crate::clock;
use crate::metrics::Op;
use crate::registry::Rejection;
use crate::registry::audit::Event;
use crate::server::accept::Ticket;
use crate::store::Mark;
use crate::token::{Grant, Right};

/// What may be done here.
const METHODS: &str = "GET, HEAD, OPTIONS";
/// The form of the lines.
const NDJSON: &str = "application/x-ndjson";
/// Seconds that a poll waits which does not say how long, and the most.
const WAIT: u64 = 30;
const WAIT_MAX: u64 = 60;
/// Changes in an answer to a poll that does not say how many, and the most.
const LIMIT: usize = 1_000;
const LIMIT_MAX: usize = 10_000;
/// How often it is looked whether something was written; what is written meanwhile is read at once.
const LOOK: Duration = Duration::from_millis(100);
/// After so many looks it is looked whether the token is still good: well within the five seconds that are promised.
const LOOKS: u32 = 10;

/// What a poll asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    /// Where it stands; none: at the end.
    after: Option<Cursor>,
    wait: Duration,
    limit: usize,
}

impl Asked {
    fn read(query: Option<&str>) -> Result<Self, Refusal> {
        let (mut after, mut wait, mut limit) = (None, WAIT, LIMIT);
        for (name, value) in asked::parameters(query) {
            match name.as_str() {
                "after" => {
                    let cursor = Cursor::read(&value);
                    let text = "must be a cursor of an answer before; leave it out to begin with what comes next";
                    after = Some(cursor.ok_or_else(|| Refusal::field("after", text))?);
                }
                "wait" => {
                    let number = value.parse().ok().filter(|number| *number <= WAIT_MAX);
                    let text = || format!("must be a number up to {WAIT_MAX}");
                    wait = number.ok_or_else(|| Refusal::field("wait", text()))?;
                }
                "limit" => {
                    let number = value.parse().ok();
                    let number = number.filter(|number| (1..=LIMIT_MAX).contains(number));
                    let text = || format!("must be a number from 1 to {LIMIT_MAX}");
                    limit = number.ok_or_else(|| Refusal::field("limit", text()))?;
                }
                _ => {}
            }
        }
        Ok(Self {
            after,
            wait: Duration::from_secs(wait),
            limit,
        })
    }
}

/// What has changed below the token's prefixes, one change a line, in the order in which it became durable; waits for
/// changes when there are none.
///
/// Without `after` the answer is a cursor alone: where changes begin that come from now on. A line has `sequence`,
/// `change` (`put`, `delete`), `handle`, `key` (the handle folded, the same for all changes of it) and a `cursor`. Of a
/// `delete` the `handle` is folded, too: the record that had its spelling is gone. A `put`
/// has the public `values` of the record, without HS_ADMIN and HS_SECKEY; one that was followed by another change of the
/// same handle has `superseded` instead, and the later line has the values. The last line has `complete`, the `cursor` to
/// go on with, and `more` when that need not wait; an answer without it was cut, and the cursor of its last line goes on.
/// Every change comes once.
#[utoipa::path(
    get, path = "/api/v1/changes", tag = "changes", operation_id = "changes",
    params(
        ("after" = Option<String>, Query, min_length = 32, max_length = 32,
            description = "The cursor of an answer before: what follows it is wanted"),
        ("wait" = Option<u32>, Query, maximum = 60,
            description = "Seconds to wait for a change when there is none; 30 by default"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 10000,
            description = "Changes in the answer, at most; 1000 by default. It ends with about 1 MiB, too")),
    responses(
        (status = 200, description = "Changes, and the line with the next cursor", content_type = "application/x-ndjson"),
        (status = 400, description = "No cursor, or another wrong parameter", content_type = "application/problem+json"),
        (status = 401, description = "An API token is needed, or it ended meanwhile",
            content_type = "application/problem+json"),
        (status = 403, description = "The token has not the right changes, or came over plain HTTP",
            content_type = "application/problem+json"),
        (status = 405, description = "Only GET", content_type = "application/problem+json"),
        (status = 410, description = "The journal no longer tells what followed the cursor. `snapshot` has the way to a new \
            copy: list the handles of the prefixes, resolve them, and go on with its `cursor`",
            content_type = "application/problem+json"),
        (status = 429, description = "Too many polls of this token, or too many requests",
            content_type = "application/problem+json"),
        (status = 503, description = "Not now", content_type = "application/problem+json")),
    security(("token" = []))
)]
pub(super) async fn serve(
    State(app): State<Arc<App>>,
    Extension(from): Extension<From>,
    Extension(ticket): Extension<Arc<Ticket>>,
    Extension(waited): Extension<Waited>,
    request: Request<Body>,
) -> Answer {
    let head = request.into_parts().0;
    if let Some(other) = v1::other_method(&head.method, METHODS, &from, &head.headers) {
        return other;
    }
    let language = Language::of(&head.headers);
    let done = poll(&app, &from, &ticket, &waited, &head).await;
    let mut answer = done.unwrap_or_else(|refusal| refusal.of_problem(from.request(), language));
    let (op, outcome) = (Op::Replicate, outcome_of(answer.status()));
    answer.extensions_mut().insert(Counted { op, outcome });
    answer
}

/// A page of changes; `waited` is how long for them.
async fn poll(
    app: &Arc<App>,
    from: &From,
    ticket: &Arc<Ticket>,
    waited: &Waited,
    head: &Parts,
) -> Result<Answer, Refusal> {
    let grant = permitted(app, from, &head.headers)?;
    let asked = Asked::read(head.uri.query())?;
    let poll = app.polls.enter(&grant.id).ok_or_else(|| {
        let text = "as many polls as may be wait already; try again when one has ended";
        Refusal::named(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", text).after(1)
    })?;
    let store = &app.shared.store;
    // A store that is being loaded does not know yet how far it is.
    let loaded = app.registry.records.is_homed(b"");
    loaded.map_err(Rejection::from)?;
    let now = Cursor {
        epoch: store.data_epoch(),
        mark: Mark {
            sequence: store.sequence(),
            changes: 0,
        },
    };
    let page = match asked.after {
        None => Page {
            text: Vec::new(),
            lines: 0,
            mark: now.mark,
        },
        Some(cursor) if cursor.epoch != now.epoch => return Err(gone(app, &grant, now).await),
        Some(cursor) => {
            // HEAD asks how it is, not how it will be.
            let wait = match head.method == Method::HEAD {
                true => Duration::ZERO,
                false => asked.wait,
            };
            // The connection is of use while its client waits.
            let _work = ticket.work();
            let deadline = Instant::now() + wait;
            let (mark, limit) = (cursor.mark, asked.limit);
            match await_page(app, &grant, mark, limit, deadline, waited).await? {
                Some(page) => page,
                None => return Err(gone(app, &grant, now).await),
            }
        }
    };
    let text = finished(page, now.epoch, store.sequence());
    let body = body::of(text, app, ticket, &grant.id, poll);
    Ok(with_type(StatusCode::OK, NDJSON, body))
}

/// The token of a request, with the right to follow changes; written down now and then, and when it has not.
fn permitted(app: &App, from: &From, headers: &HeaderMap) -> Result<Grant, Refusal> {
    let grant = caller::token(app, from, headers)?;
    let allowed = caller::has(&grant, Right::Changes);
    let now = from.came.unix_seconds;
    if allowed.is_err() || app.polls.is_to_be_noted(&grant.id, now) {
        app.registry.note(&Event {
            time: now.into(),
            identity: Some(&grant.identity),
            source: from.address.to_string(),
            operation: "follow",
            handle: b"",
            result: allowed.as_ref().map_or("refused", |()| "committed"),
            code: allowed
                .as_ref()
                .map_or_else(|refusal| refusal.code.0, |()| ResponseCode::SUCCESS.0),
            change: None,
        });
    }
    allowed.map(|()| grant)
}

/// Waits for changes; a page without lines when the time is over. None: the journal does not tell them.
async fn await_page(
    app: &Arc<App>,
    grant: &Grant,
    mut mark: Mark,
    limit: usize,
    deadline: Instant,
    waited: &Waited,
) -> Result<Option<Page>, Refusal> {
    let follower = Follower::new(app, grant);
    loop {
        let reader = follower.clone();
        let read = tokio::task::spawn_blocking(move || reader.read(mark, limit));
        let busy = || Rejection::busy("the records are not available now");
        let page = read.await.unwrap_or_else(|_| Err(busy()))?;
        // Nobody gets anything with a token that has ended meanwhile.
        still_good(app, grant)?;
        let Some(page) = page else { return Ok(None) };
        let over = app.polls.ending().is_cancelled() || Instant::now() >= deadline;
        if page.lines > 0 || over {
            return Ok(Some(page));
        }
        mark = page.mark;
        let _waiting = waited.begin();
        await_writes(app, grant, mark, deadline).await?;
    }
}

/// Waits until something was written behind a place, or the time is over.
async fn await_writes(
    app: &App,
    grant: &Grant,
    mark: Mark,
    deadline: Instant,
) -> Result<(), Refusal> {
    let mut looks = 0;
    while app.shared.store.sequence() <= mark.sequence && Instant::now() < deadline {
        tokio::select! {
            () = sleep(LOOK) => {}
            () = app.polls.ending().cancelled() => return Ok(()),
        }
        looks += 1;
        if looks % LOOKS == 0 {
            still_good(app, grant)?;
        }
    }
    Ok(())
}

/// Whether the token has not ended, and what is said when it has.
fn still_good(app: &App, grant: &Grant) -> Result<(), Refusal> {
    let now = app.tokens.grant_of(&grant.id, clock::unix_seconds());
    let now = now.map_err(|refused| caller::token_refused(app, refused))?;
    caller::has(&now, Right::Changes)
}

/// The lines with the one that says how to go on.
fn finished(page: Page, epoch: u64, newest: u64) -> Vec<u8> {
    let cursor = Cursor {
        epoch,
        mark: page.mark,
    };
    let last = json!({
        "complete": true,
        "changes": page.lines,
        "more": newest > page.mark.sequence,
        "cursor": cursor.text(),
    });
    let mut text = page.text;
    text.extend_from_slice(last.to_string().as_bytes());
    text.push(b'\n');
    text
}

/// Said when the journal does not tell what followed: how to come to a copy, and from where to follow it. That is a place
/// from before this was said, so that nothing which changes meanwhile is missed.
async fn gone(app: &Arc<App>, grant: &Grant, now: Cursor) -> Refusal {
    let text = "what followed this cursor is no longer known: make a new copy, and go on with the cursor of snapshot";
    let follower = Follower::new(app, grant);
    let prefixes = tokio::task::spawn_blocking(move || follower.prefixes()).await;
    let prefixes = match prefixes {
        Ok(Ok(prefixes)) => prefixes,
        Ok(Err(rejection)) => return rejection.into(),
        Err(_) => return Rejection::busy("the records are not available now").into(),
    };
    let snapshot: Json = json!({
        "cursor": now.text(),
        "prefixes": prefixes,
        "handles": "/api/v1/handles?prefix={prefix}",
        "records": "/api/v1/batch/resolve",
    });
    Refusal {
        more: Some(Box::new(("snapshot", snapshot))),
        ..Refusal::named(StatusCode::GONE, "cursor_too_old", text)
    }
}
