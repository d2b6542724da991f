//! `/api/v1/replication`: what a standby copies this node by, for tokens with the right `replicate`.
//!
//! ```text
//! GET  …             epoch, position, key: whether a standby fits here
//! GET  …/snapshot    the store as one file, to begin with
//! GET  …/journal     entries behind a position; waits a while for the next one
//! GET  …/runs/{n}    the file of a bulk import that an entry names
//! POST …/supersede   another node takes the place of this one: no changes any more
//! ```

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, Method, Request, StatusCode, Uri};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::answer::{Answer, Refusal, json, with_type};
use super::caller;
use super::language::Language;
use super::outer::From;
use super::{App, asked, body, outgoing, v1};
use crate::identity;
use crate::registry::Rejection;
use crate::standby::promote;
use crate::store::{
    CommitError, Cursor, Position, Reach, Role, State as StoreState, Store, StoreError,
};
use crate::token::Right;

/// The epoch of the store that answers, and its newest sequence when the answer was begun.
const EPOCH: HeaderName = HeaderName::from_static("x-jiexi-epoch");
const SEQUENCE: HeaderName = HeaderName::from_static("x-jiexi-sequence");
/// Octets of entries in an answer, when no single one is longer.
const ENTRIES: usize = 4 << 20;
/// How long an answer may wait for the next entry, and how often it is looked for one.
const WAIT_MAX: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(4);
/// Places in the journal that are remembered: standbys that read on.
const CURSORS: usize = 8;
/// Files that are sent at once: each is as large as the store.
const FILES: usize = 2;
/// Octets of the body of a request.
const BODY_MAX: usize = 4 << 10;
const READ_METHODS: &str = "GET, HEAD, OPTIONS";
const SUPERSEDE_METHODS: &str = "POST, OPTIONS";
const OCTETS: &str = "application/octet-stream";

/// Where standbys are in the journal, and how many take files.
#[derive(Debug)]
pub(super) struct Copies {
    cursors: Mutex<VecDeque<Cursor>>,
    files: Arc<Semaphore>,
}

impl Default for Copies {
    fn default() -> Self {
        Self {
            cursors: Mutex::default(),
            files: Arc::new(Semaphore::new(FILES)),
        }
    }
}

impl Copies {
    /// The place behind a position, if somebody was there.
    fn take(&self, position: Position) -> Option<Cursor> {
        let mut cursors = self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
        let place = cursors
            .iter()
            .position(|cursor| cursor.position == position);
        cursors.remove(place?)
    }

    fn remember(&self, cursor: Cursor) {
        let mut cursors = self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
        cursors.push_back(cursor);
        while cursors.len() > CURSORS {
            cursors.pop_front();
        }
    }
}

/// What this node is for a standby: its role, epoch and position, and whose key it has.
#[utoipa::path(
    get, path = "/api/v1/replication", tag = "replication", operation_id = "replication",
    responses(
        (status = 200, description = "Role, epoch, position and key", content_type = "application/json"),
        (status = 401, description = "An API token is needed", content_type = "application/problem+json"),
        (status = 403, description = "The token has not the right replicate, or came over plain HTTP",
            content_type = "application/problem+json"),
        (status = 429, description = "Too many requests", content_type = "application/problem+json"),
        (status = 503, description = "Not now", content_type = "application/problem+json")),
    security(("token" = []))
)]
pub(super) async fn standing(
    State(app): State<Arc<App>>,
    Extension(from): Extension<From>,
    method: Method,
    headers: HeaderMap,
) -> Answer {
    if let Some(other) = v1::other_method(&method, READ_METHODS, &from, &headers) {
        return other;
    }
    let told = copier(&app, &from, &headers).and_then(|()| loaded(&app).map(|()| tell(&app)));
    finish(told, &from, &headers)
}

/// The store as one file: its newest snapshot, or one that is taken now.
#[utoipa::path(
    get, path = "/api/v1/replication/snapshot", tag = "replication", operation_id = "replicationSnapshot",
    params(("after" = Option<u64>, Query, description = "It must have everything up to this sequence")),
    responses(
        (status = 200, description = "The file", content_type = "application/octet-stream"),
        (status = 400, description = "A wrong parameter", content_type = "application/problem+json"),
        (status = 401, description = "An API token is needed", content_type = "application/problem+json"),
        (status = 403, description = "The token has not the right replicate, or came over plain HTTP",
            content_type = "application/problem+json"),
        (status = 429, description = "Too many requests", content_type = "application/problem+json"),
        (status = 421, description = "This node is a standby itself", content_type = "application/problem+json"),
        (status = 503, description = "Not now: its store is not ready, or other standbys take as many files as may be sent \
            at once", content_type = "application/problem+json")),
    security(("token" = []))
)]
pub(super) async fn snapshot(
    State(app): State<Arc<App>>,
    Extension(from): Extension<From>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Answer {
    if let Some(other) = v1::other_method(&method, READ_METHODS, &from, &headers) {
        return other;
    }
    finish(
        send_snapshot(&app, &from, &uri, &headers).await,
        &from,
        &headers,
    )
}

/// Entries of the journal behind a position, as they are.
///
/// With none to send the answer waits up to `wait` milliseconds for the next one. `X-Jiexi-Epoch` and `X-Jiexi-Sequence`
/// say how far this node is.
#[utoipa::path(
    get, path = "/api/v1/replication/journal", tag = "replication", operation_id = "replicationJournal",
    params(
        ("epoch" = u64, Query, description = "The epoch of the copy"),
        ("after" = u64, Query, description = "The last sequence that the copy has"),
        ("records" = u64, Query, description = "How many records it has then"),
        ("sum" = String, Query, pattern = "^[0-9a-f]{16}$", description = "The sum of their checksums"),
        ("wait" = Option<u32>, Query, minimum = 0, maximum = 5000, description = "Milliseconds; 0 by default")),
    responses(
        (status = 200, description = "Entries, or none", content_type = "application/octet-stream"),
        (status = 400, description = "A wrong parameter", content_type = "application/problem+json"),
        (status = 401, description = "An API token is needed", content_type = "application/problem+json"),
        (status = 403, description = "The token has not the right replicate, or came over plain HTTP",
            content_type = "application/problem+json"),
        (status = 409, description = "The journal is of another epoch, or differs", content_type = "application/problem+json"),
        (status = 410, description = "The journal no longer reaches back that far: begin with a snapshot",
            content_type = "application/problem+json"),
        (status = 429, description = "Too many requests", content_type = "application/problem+json"),
        (status = 421, description = "This node is a standby itself", content_type = "application/problem+json"),
        (status = 503, description = "Not now", content_type = "application/problem+json")),
    security(("token" = []))
)]
pub(super) async fn journal(
    State(app): State<Arc<App>>,
    Extension(from): Extension<From>,
    Extension(waited): Extension<body::Waited>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Answer {
    if let Some(other) = v1::other_method(&method, READ_METHODS, &from, &headers) {
        return other;
    }
    finish(
        send_entries(&app, &from, &waited, &uri, &headers).await,
        &from,
        &headers,
    )
}

/// The records of a bulk import that an entry of the journal names.
#[utoipa::path(
    get, path = "/api/v1/replication/runs/{sequence}", tag = "replication", operation_id = "replicationRun",
    params(("sequence" = u64, Path, description = "The sequence of the entry")),
    responses(
        (status = 200, description = "The file", content_type = "application/octet-stream"),
        (status = 400, description = "A wrong sequence", content_type = "application/problem+json"),
        (status = 401, description = "An API token is needed", content_type = "application/problem+json"),
        (status = 403, description = "The token has not the right replicate, or came over plain HTTP",
            content_type = "application/problem+json"),
        (status = 410, description = "It is no longer kept: begin with a snapshot", content_type = "application/problem+json"),
        (status = 429, description = "Too many requests", content_type = "application/problem+json"),
        (status = 503, description = "Not now", content_type = "application/problem+json")),
    security(("token" = []))
)]
pub(super) async fn run(
    State(app): State<Arc<App>>,
    Extension(from): Extension<From>,
    Path(sequence): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Answer {
    if let Some(other) = v1::other_method(&method, READ_METHODS, &from, &headers) {
        return other;
    }
    finish(
        send_run(&app, &from, &sequence, &headers).await,
        &from,
        &headers,
    )
}

/// Another node has taken the place of this one: no changes are taken any more, now and after every start.
#[utoipa::path(
    post, path = "/api/v1/replication/supersede", tag = "replication", operation_id = "supersede",
    request_body(content = String, content_type = "application/json",
        description = "`epoch`, higher than that of this node, and `primary`, where changes are made from now on"),
    responses(
        (status = 200, description = "The last position of this node", content_type = "application/json"),
        (status = 400, description = "A wrong body", content_type = "application/problem+json"),
        (status = 401, description = "An API token is needed", content_type = "application/problem+json"),
        (status = 403, description = "The token has not the right replicate, or came over plain HTTP",
            content_type = "application/problem+json"),
        (status = 408, description = "The body did not arrive in time", content_type = "application/problem+json"),
        (status = 409, description = "The epoch is not higher than that of this node", content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", content_type = "application/problem+json"),
        (status = 429, description = "Too many requests", content_type = "application/problem+json"),
        (status = 421, description = "This node is a standby", content_type = "application/problem+json"),
        (status = 503, description = "Not now", content_type = "application/problem+json")),
    security(("token" = []))
)]
pub(super) async fn supersede(
    State(app): State<Arc<App>>,
    Extension(from): Extension<From>,
    request: Request<Body>,
) -> Answer {
    let (head, body) = request.into_parts();
    if let Some(other) = v1::other_method(&head.method, SUPERSEDE_METHODS, &from, &head.headers) {
        return other;
    }
    finish(
        give_way(&app, &from, &head.headers, body).await,
        &from,
        &head.headers,
    )
}

fn finish(done: Result<Answer, Refusal>, from: &From, headers: &HeaderMap) -> Answer {
    done.unwrap_or_else(|refusal| refusal.of_problem(from.request(), Language::of(headers)))
}

/// Whether whoever asks may copy everything.
fn copier(app: &App, from: &From, headers: &HeaderMap) -> Result<(), Refusal> {
    let grant = caller::token(app, from, headers)?;
    caller::has(&grant, Right::Replicate)?;
    match grant.prefixes() {
        [] => Ok(()),
        // It would see what is below all other prefixes, too.
        _ => Err(Refusal::named(
            StatusCode::FORBIDDEN,
            "token_not_allowed",
            "a token that copies the node must be for all prefixes",
        )),
    }
}

/// Whether the store knows its position.
fn loaded(app: &App) -> Result<(), Refusal> {
    let store = &app.shared.store;
    match (store.wait_loaded(Duration::ZERO), store.state()) {
        (Ok(_), StoreState::Ready | StoreState::Degraded | StoreState::ReadOnly(_)) => Ok(()),
        _ => Err(Rejection::busy("the records are not available now").into()),
    }
}

/// Whether this node is one to copy; one that was superseded is, as far as it goes.
fn leads(store: &Store) -> Result<(), Refusal> {
    match store.role() {
        role @ Role::Copy(_) => Err(Rejection::of_store(&CommitError::Elsewhere(role)).into()),
        _ => Ok(()),
    }
}

/// What this node is.
fn tell(app: &App) -> Answer {
    let store = &app.shared.store;
    let (position, role) = (store.position(), store.role());
    let primary = match &role {
        Role::Copy(place) | Role::Superseded { by: place, .. } => Some(place.to_string()),
        Role::Primary | Role::Successor(_) => None,
    };
    let case = match store.case() {
        jiexi_proto::handle::CaseRule::Whole => "whole",
        jiexi_proto::handle::CaseRule::Prefix => "prefix",
    };
    let body = json!({
        "role": role.label(),
        "primary": primary,
        "epoch": store.data_epoch(),
        "sequence": position.sequence,
        "records": position.count,
        "sum": format!("{:016x}", position.sum),
        "case": case,
        "key": identity::fingerprint(&app.registry.key),
        "version": env!("CARGO_PKG_VERSION"),
    });
    json(StatusCode::OK, &body)
}

async fn send_snapshot(
    app: &App,
    from: &From,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Answer, Refusal> {
    copier(app, from, headers)?;
    loaded(app)?;
    leads(&app.shared.store)?;
    let after = asked::parameters(uri.query()).find(|(name, _)| name == "after");
    let after = after.map_or(Ok(0), |(_, text)| number("after", &text))?;
    let place = place(app)?;
    let store = Arc::clone(&app.shared.store);
    let epoch = store.data_epoch();
    let taken = spawn_blocking(move || store.snapshot_from(after)).await;
    let taken = taken.map_err(|_| busy())?.map_err(|error| failed(&error))?;
    let body = outgoing::open(taken.path, 0..taken.bytes, place).await;
    Ok(octets(body.map_err(|()| busy())?, epoch, taken.sequence))
}

async fn send_run(
    app: &App,
    from: &From,
    sequence: &str,
    headers: &HeaderMap,
) -> Result<Answer, Refusal> {
    copier(app, from, headers)?;
    loaded(app)?;
    let sequence = number("sequence", sequence)?;
    let place = place(app)?;
    let store = &app.shared.store;
    let path = store.run_file(sequence).ok_or_else(pruned)?;
    let length = path.metadata().map_err(|_| pruned())?.len();
    let body = outgoing::open(path, 0..length, place).await;
    let body = body.map_err(|()| busy())?;
    Ok(octets(body, store.data_epoch(), sequence))
}

/// What a standby has.
struct Asked {
    epoch: u64,
    position: Position,
    wait: Duration,
}

impl Asked {
    fn read(query: Option<&str>) -> Result<Self, Refusal> {
        let (mut epoch, mut wait) = (None, Duration::ZERO);
        let (mut sequence, mut count, mut sum) = (None, None, None);
        for (name, text) in asked::parameters(query) {
            match name.as_str() {
                "epoch" => epoch = Some(number("epoch", &text)?),
                "after" => sequence = Some(number("after", &text)?),
                "records" => count = Some(number("records", &text)?),
                "sum" => sum = u64::from_str_radix(&text, 16).ok(),
                "wait" => wait = Duration::from_millis(number("wait", &text)?).min(WAIT_MAX),
                _ => {}
            }
        }
        let missing = |name: &'static str| move || Refusal::field(name, "must be there");
        Ok(Self {
            epoch: epoch.ok_or_else(missing("epoch"))?,
            position: Position {
                sequence: sequence.ok_or_else(missing("after"))?,
                count: count.ok_or_else(missing("records"))?,
                sum: sum.ok_or_else(missing("sum"))?,
            },
            wait,
        })
    }
}

/// The entries of the journal; `waited` is how long for them.
async fn send_entries(
    app: &App,
    from: &From,
    waited: &body::Waited,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Answer, Refusal> {
    copier(app, from, headers)?;
    let asked = Asked::read(uri.query())?;
    loaded(app)?;
    let store = Arc::clone(&app.shared.store);
    leads(&store)?;
    let epoch = store.data_epoch();
    if asked.epoch != epoch {
        let text = format!("the journal of this node is of epoch {epoch}");
        return Err(Refusal::named(StatusCode::CONFLICT, "other_epoch", text));
    }
    let until = Instant::now() + asked.wait;
    let waiting = waited.begin();
    while store.sequence() == asked.position.sequence
        && Instant::now() < until
        && !app.stopping.is_cancelled()
    {
        sleep(LOOK).await;
    }
    drop(waiting);
    // Before the entries are read: whoever has all of them is as far as this.
    let newest = store.sequence();
    let known = app.copies.take(asked.position);
    let read = spawn_blocking(move || read(&store, known, asked.position)).await;
    let (entries, cursor) = read.map_err(|_| busy())??;
    app.copies.remember(cursor);
    Ok(octets(Body::from(entries), epoch, newest))
}

/// The entries behind a position, and where they end.
fn read(
    store: &Store,
    known: Option<Cursor>,
    position: Position,
) -> Result<(Vec<u8>, Cursor), Refusal> {
    let mut cursor = match known {
        Some(cursor) => cursor,
        None => match store.reach(position).map_err(|error| failed(&error))? {
            Reach::From(cursor) => cursor,
            Reach::TooShort => return Err(pruned()),
            Reach::Diverged => {
                let text = "the journal of this node does not continue what the standby has";
                return Err(Refusal::named(
                    StatusCode::CONFLICT,
                    "journal_differs",
                    text,
                ));
            }
        },
    };
    let entries = store.entries(&mut cursor, ENTRIES);
    let entries = entries.map_err(|error| failed(&error))?;
    Ok((entries.ok_or_else(pruned)?, cursor))
}

/// Who takes the place of this node.
#[derive(Deserialize)]
struct Successor {
    epoch: u64,
    #[serde(default)]
    primary: String,
}

async fn give_way(
    app: &App,
    from: &From,
    headers: &HeaderMap,
    body: Body,
) -> Result<Answer, Refusal> {
    copier(app, from, headers)?;
    let octets = body::read(app, body, BODY_MAX).await?;
    let wrong = |error: serde_json::Error| Refusal::field("", error.to_string());
    let Successor { epoch, primary } = serde_json::from_slice(&octets).map_err(wrong)?;
    loaded(app)?;
    let store = Arc::clone(&app.shared.store);
    leads(&store)?;
    let own = store.data_epoch();
    if epoch <= own {
        return Err(no_successor(&primary, epoch, &store));
    }
    let known = matches!(store.role(), Role::Superseded { epoch: known, .. } if known >= epoch);
    if !known {
        let by = primary.as_str().into();
        let done = spawn_blocking(move || store.set_role(Role::Superseded { by, epoch })).await;
        done.map_err(|_| busy())?.map_err(|error| match error {
            StoreError::Unavailable(text) => Refusal::field("primary", text),
            error => failed(&error),
        })?;
        tracing::error!(
            event = "node.superseded",
            epoch,
            primary,
            "another node took the place of this one: no changes are taken any more"
        );
    }
    Ok(tell(app))
}

/// Why this node does not give way to one whose epoch is not greater. Two primaries of the same epoch are for people.
fn no_successor(primary: &str, epoch: u64, store: &Store) -> Refusal {
    let own = store.data_epoch();
    let text = match epoch == own {
        true => {
            format!("this node has epoch {own} as well: nobody knows which of the two is the later")
        }
        false => format!("this node has epoch {own} itself: it is the one that goes on"),
    };
    if epoch == own && store.role().takes_changes() {
        promote::tell_equal(primary, epoch);
    }
    Refusal::named(StatusCode::CONFLICT, "other_epoch", text)
}

/// One of the places for those who take files.
fn place(app: &App) -> Result<tokio::sync::OwnedSemaphorePermit, Refusal> {
    Arc::clone(&app.copies.files)
        .try_acquire_owned()
        .map_err(|_| Rejection::busy("as many copies as may be are being taken").into())
}

fn octets(body: Body, epoch: u64, sequence: u64) -> Answer {
    let mut answer = with_type(StatusCode::OK, OCTETS, body);
    answer.headers_mut().insert(EPOCH, epoch.into());
    answer.headers_mut().insert(SEQUENCE, sequence.into());
    answer
}

fn number(name: &'static str, text: &str) -> Result<u64, Refusal> {
    let number = text.parse();
    number.map_err(|_| Refusal::field(name, "must be a number"))
}

fn pruned() -> Refusal {
    let text = "the journal no longer reaches back that far: begin with a snapshot";
    Refusal::named(StatusCode::GONE, "journal_pruned", text)
}

fn busy() -> Refusal {
    Rejection::busy("please try again").into()
}

/// The store failed.
fn failed(error: &StoreError) -> Refusal {
    tracing::error!(event = "standby.not_served", %error, "a standby cannot be served");
    Rejection::busy("the records are not available now").into()
}
