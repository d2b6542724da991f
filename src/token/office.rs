//! Tokens made, listed, rotated and revoked; each change is durable when it is answered.

use std::ops::Bound;

use jiexi_proto::handle;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::{ID_SIZE, KEY, MARK, Right, SECRET_SIZE, SECRETS_MAX, Secret, Token, book, digest};
use crate::store::{Batch, Expect, OwnedRecord, Space, Store};

/// Most tokens of a node.
pub const TOKENS_MAX: usize = 100_000;
/// Longest note.
const NOTE_MAX: usize = 200;
/// Most prefixes of one token.
const PREFIXES_MAX: usize = 100;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Order {
    /// A new token.
    Create {
        /// Whom it acts as: `index:handle`.
        identity: String,
        /// What it is good for; empty: everything that the identity may do.
        prefixes: Vec<String>,
        /// What it may be used for.
        rights: Vec<Right>,
        /// Seconds until it ends.
        lifetime: Option<u32>,
        /// Identifiers a day.
        quota: Option<u64>,
        /// What it is for.
        note: String,
    },
    /// All tokens, without their secrets.
    List,
    /// A new secret; the old one is good for a while.
    Rotate {
        /// Which.
        id: String,
        /// Seconds for which the old secret is still good.
        overlap: u32,
    },
    /// No longer good.
    Revoke {
        /// Which.
        id: String,
    },
}

/// Carries an order out; `now` in Unix seconds.
///
/// # Errors
/// What is wrong with the order, or why the store did not take it.
pub fn carry_out(store: &Store, order: &Order, now: u32) -> Result<Json, String> {
    match order {
        Order::Create { .. } => create(store, order, now),
        Order::List => list(store, now),
        Order::Rotate { id, overlap } => rotate(store, id, *overlap, now),
        Order::Revoke { id } => revoke(store, id, now),
    }
}

fn create(store: &Store, order: &Order, now: u32) -> Result<Json, String> {
    let Order::Create {
        identity,
        prefixes,
        rights,
        lifetime,
        quota,
        note,
    } = order
    else {
        return Err("not an order to create".into());
    };
    let wrong = || format!("identity {identity:?} must be index:handle, such as 300:0.NA/88.118");
    let (index, name) = identity.split_once(':').ok_or_else(wrong)?;
    let index = index.parse().map_err(|_| wrong())?;
    if name.is_empty() {
        return Err(wrong());
    }
    if rights.is_empty() {
        return Err("a token without rights is good for nothing: give at least one".into());
    }
    if prefixes.len() > PREFIXES_MAX || note.chars().count() > NOTE_MAX {
        return Err(format!(
            "at most {PREFIXES_MAX} prefixes and a note of {NOTE_MAX} characters"
        ));
    }
    let fold = |name: &str| -> Result<String, String> {
        let mut key = Vec::new();
        handle::canonical(name.as_bytes(), store.case(), &mut key);
        String::from_utf8(key).map_err(|_| format!("{name:?} is not text"))
    };
    let bare = |prefix: &String| -> Result<String, String> {
        let folded = fold(prefix)?;
        let bare = folded.strip_prefix("0.NA/").map(str::to_owned);
        bare.ok_or_else(|| format!("{prefix:?} is not a prefix such as 88.118"))
    };
    if tokens(store)?.len() >= TOKENS_MAX {
        return Err(format!("there are {TOKENS_MAX} tokens, and no more may be"));
    }
    let (id, secret) = (random::<ID_SIZE>()?, random::<SECRET_SIZE>()?);
    let mut rights = rights.clone();
    rights.sort_unstable();
    rights.dedup();
    let token = Token {
        id: id.clone(),
        index,
        handle: fold(name)?,
        prefixes: prefixes.iter().map(bare).collect::<Result<_, _>>()?,
        rights,
        quota: *quota,
        created: now,
        expires: lifetime.map(|seconds| now.saturating_add(seconds)),
        revoked: None,
        note: note.clone(),
        secrets: vec![Secret {
            sha256: digest(&secret),
            created: now,
            expires: None,
        }],
    };
    commit(store, &token, Expect::Absent)?;
    Ok(shown_once(&token, &secret))
}

fn list(store: &Store, now: u32) -> Result<Json, String> {
    let mut all: Vec<Token> = tokens(store)?.iter().filter_map(Token::read).collect();
    all.sort_by_key(|token| token.created);
    let shown = |token: &Token| {
        let used = book::read_use(store, &token.id).unwrap_or_default();
        json!({
            "id": token.id,
            "identity": format!("{}:{}", token.index, token.handle),
            "prefixes": token.prefixes,
            "rights": token.rights,
            "quota": token.quota,
            "created": token.created,
            "expires": token.expires,
            "revoked": token.revoked,
            "valid": token.is_valid(now),
            "secrets": token.secrets.iter().filter(|secret| secret.expires.is_none_or(|end| now < end)).count(),
            "last_used": (used.last > 0).then_some(used.last),
            "note": token.note,
        })
    };
    Ok(json!({"tokens": all.iter().map(shown).collect::<Vec<Json>>()}))
}

fn rotate(store: &Store, id: &str, overlap: u32, now: u32) -> Result<Json, String> {
    let (mut token, generation) = find(store, id)?;
    if !token.is_valid(now) {
        return Err(format!("token {id} has ended; create a new one"));
    }
    let secret = random::<SECRET_SIZE>()?;
    let end = now.saturating_add(overlap);
    for old in &mut token.secrets {
        old.expires = Some(old.expires.map_or(end, |already| already.min(end)));
    }
    token.secrets.insert(
        0,
        Secret {
            sha256: digest(&secret),
            created: now,
            expires: None,
        },
    );
    token.secrets.truncate(SECRETS_MAX);
    commit(store, &token, Expect::Generation(generation))?;
    Ok(shown_once(&token, &secret))
}

fn revoke(store: &Store, id: &str, now: u32) -> Result<Json, String> {
    let (mut token, generation) = find(store, id)?;
    if token.revoked.is_none() {
        token.revoked = Some(now);
        commit(store, &token, Expect::Generation(generation))?;
    }
    Ok(json!({"id": token.id, "revoked": token.revoked}))
}

/// The only time that a secret is shown.
fn shown_once(token: &Token, secret: &str) -> Json {
    json!({
        "id": token.id,
        "token": format!("{MARK}_{}_{secret}", token.id),
        "identity": format!("{}:{}", token.index, token.handle),
        "expires": token.expires,
    })
}

fn find(store: &Store, id: &str) -> Result<(Token, u64), String> {
    let found = store.get(Space::System, &Token::key(id));
    let found = found.map_err(|error| error.to_string())?;
    found
        .and_then(|record| Some((Token::read(&record)?, record.generation())))
        .ok_or_else(|| format!("there is no token {id}"))
}

fn tokens(store: &Store) -> Result<Vec<OwnedRecord>, String> {
    store
        .scan(Space::System, Bound::Unbounded, KEY, TOKENS_MAX)
        .map_err(|error| error.to_string())
}

fn commit(store: &Store, token: &Token, expect: Expect) -> Result<(), String> {
    let batch = Batch {
        changes: vec![token.change(expect)],
        ..Batch::default()
    };
    store
        .commit(batch)
        .map(drop)
        .map_err(|error| error.to_string())
}

/// Random octets in hexadecimal.
fn random<const N: usize>() -> Result<String, String> {
    let mut octets = [0; N];
    getrandom::fill(&mut octets).map_err(|error| format!("no randomness: {error}"))?;
    Ok(hex::encode(octets))
}
