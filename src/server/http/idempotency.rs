//! Idempotency keys: the answer to a change is kept with it, in the same entry of the journal.
//!
//! A key belongs to one principal, method and path, however that is spelled. The same key with the same content, which
//! is query and body, gets the same answer for as long as it is kept; with another content 422; while the first is at
//! work 409.

use std::collections::HashSet;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

use super::answer::{Answer, Refusal, with_type};
use super::caller::Caller;
use super::{App, asked};
use crate::clock::{self, Now};
use crate::store::{Action, Batch, Change, Expect, OwnedRecord, Space, Store};
use crate::token::put;

/// The header.
const HEADER: &str = "idempotency-key";
/// Longest key.
const KEY_MAX: usize = 255;
/// What the keys of kept answers begin with in the store.
const PREFIX: &[u8] = b"idempotency/";
/// How often what is too old is looked for.
const CLEAN_INTERVAL: Duration = Duration::from_secs(600);
/// Answers forgotten in one change.
const CLEAN_BATCH: usize = 1_000;

/// An answer as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    status: u16,
    body: String,
    /// SHA-256 of query and body that were answered, in hexadecimal.
    #[serde(default)]
    content: String,
    /// Unix seconds.
    #[serde(default)]
    time: u32,
    #[serde(skip)]
    again: bool,
}

impl Kept {
    /// A new answer.
    pub(super) fn new(status: StatusCode, body: &Json) -> Self {
        Self {
            status: status.as_u16(),
            body: body.to_string(),
            content: String::new(),
            time: 0,
            again: false,
        }
    }

    fn read(record: &OwnedRecord) -> Option<Self> {
        serde_json::from_slice(record.entries().next()?.wire).ok()
    }

    /// The answer.
    pub(super) fn answer(self) -> Answer {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::OK);
        let mut answer = with_type(status, "application/json", self.body);
        if self.again {
            let value = HeaderValue::from_static("true");
            answer.headers_mut().insert("idempotency-replayed", value);
        }
        answer
    }
}

/// Keys of changes that are at work.
pub(super) type AtWork = Arc<Mutex<HashSet<Vec<u8>>>>;

/// A change at work under a key; it is no longer when this is dropped.
#[derive(Debug)]
pub(super) struct Running {
    key: Vec<u8>,
    content: String,
    expect: Expect,
    at_work: AtWork,
}

impl Running {
    /// What keeps the answer, to be made durable with the change.
    pub(super) fn change(&self, kept: &Kept, now: u32) -> Change {
        let kept = Kept {
            content: self.content.clone(),
            time: now,
            ..kept.clone()
        };
        put(self.key.clone(), &kept, self.expect)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        lock(&self.at_work).remove(&self.key);
    }
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Begun {
    /// The change; with a key if it has one.
    New(Option<Running>),
    /// Nothing: it was done, and this was the answer.
    Done(Kept),
}

/// Looks at the key of a request; `handle` is what its path names.
pub(super) fn begin(
    app: &App,
    caller: &Caller,
    parts: &Parts,
    handle: &str,
    body: &[u8],
    now: Now,
) -> Result<Begun, Refusal> {
    let Some(value) = parts.headers.get(HEADER) else {
        return Ok(Begun::New(None));
    };
    let key = value.as_bytes();
    if key.is_empty() || key.len() > KEY_MAX || !key.iter().all(u8::is_ascii_graphic) {
        let text = "must be 1 to 255 visible ASCII characters";
        return Err(Refusal::field("Idempotency-Key", text));
    }
    let scope = Sha256::new()
        .chain_update(block(caller.principal().as_bytes()))
        .chain_update(block(parts.method.as_str().as_bytes()))
        .chain_update(block(handle.as_bytes()))
        .chain_update(key);
    let key = [PREFIX, hex::encode(scope.finalize()).as_bytes()].concat();
    let content = content_of(parts.uri.query(), body);
    if !lock(&app.at_work).insert(key.clone()) {
        return Err(Refusal::named(
            StatusCode::CONFLICT,
            "idempotency_in_progress",
            "the request that came first with this key is still being carried out",
        )
        .after(1));
    }
    let mut running = Running {
        key,
        content,
        expect: Expect::Absent,
        at_work: Arc::clone(&app.at_work),
    };
    let found = app.shared.store.get(Space::System, &running.key);
    let found = found.map_err(|_| crate::registry::Rejection::busy("still loading"))?;
    let Some(record) = found else {
        return Ok(Begun::New(Some(running)));
    };
    match Kept::read(&record) {
        Some(kept) if !is_old(&kept, app.config.idempotency, now.unix_seconds) => {
            if kept.content != running.content {
                return Err(Refusal {
                    field: Some("Idempotency-Key".into()),
                    ..Refusal::named(
                        StatusCode::UNPROCESSABLE_ENTITY,
                        "idempotency_key_reused",
                        "this key came before with another content",
                    )
                });
            }
            Ok(Begun::Done(Kept {
                again: true,
                ..kept
            }))
        }
        _ => {
            running.expect = Expect::Generation(record.generation());
            Ok(Begun::New(Some(running)))
        }
    }
}

/// What a change says beside its handle: parameters, as they are read, and body.
fn content_of(query: Option<&str>, body: &[u8]) -> String {
    let mut content = Sha256::new();
    for (name, value) in asked::parameters(query) {
        content.update(block(name.as_bytes()));
        content.update(block(value.as_bytes()));
    }
    // The last block is the body: what stands before it are pairs.
    hex::encode(content.chain_update(block(body)).finalize())
}

/// Length and octets, so that no two scopes run into one another.
fn block(octets: &[u8]) -> Vec<u8> {
    let length = u64::try_from(octets.len()).unwrap_or(u64::MAX);
    [&length.to_be_bytes()[..], octets].concat()
}

fn is_old(kept: &Kept, keep: Duration, now: u32) -> bool {
    u64::from(now.saturating_sub(kept.time)) > keep.as_secs()
}

/// Forgets what is too old, for ever.
pub(super) async fn clean(store: Arc<Store>, keep: Duration) {
    loop {
        tokio::time::sleep(CLEAN_INTERVAL).await;
        if !store.role().takes_changes() {
            continue;
        }
        let store = Arc::clone(&store);
        let cleaned = tokio::task::spawn_blocking(move || clean_once(&store, keep)).await;
        if let Ok(Err(error)) = cleaned {
            tracing::debug!(error, "old answers stay until the next time");
        }
    }
}

fn clean_once(store: &Store, keep: Duration) -> Result<(), String> {
    let now = clock::unix_seconds();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let page = store.scan(Space::System, from, PREFIX, CLEAN_BATCH);
        let page = page.map_err(|error| error.to_string())?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = Some(last.key().to_vec());
        let old = page
            .iter()
            .filter(|record| Kept::read(record).is_none_or(|kept| is_old(&kept, keep, now)));
        let changes: Vec<Change> = old
            .map(|record| Change {
                space: Space::System,
                key: record.key().to_vec(),
                expect: Expect::Generation(record.generation()),
                action: Action::Delete,
            })
            .collect();
        if !changes.is_empty() {
            let batch = Batch {
                changes,
                ..Batch::default()
            };
            store.commit(batch).map_err(|error| error.to_string())?;
        }
    }
}

fn lock(at_work: &AtWork) -> MutexGuard<'_, HashSet<Vec<u8>>> {
    at_work.lock().unwrap_or_else(PoisonError::into_inner)
}
