//! API tokens: long random strings that act as one identity, within bounds.
//!
//! ```text
//! jx_<id>_<secret>     id: 12 hexadecimal digits, secret: 64 (256 random bits)
//! ```
//!
//! A token never has more rights than its identity: `HS_ADMIN` values decide, and the token's own
//! prefixes and [`Right`]s narrow that. The store keeps SHA-256 of the secret and nothing that
//! would give it back.
//!
//! * [`Token`]: what is stored, in the node's own space, under `token/<id>`.
//! * [`book`]: tokens in use: checked, counted against their quota, found revoked.
//! * [`office`]: tokens made, listed, rotated, revoked; on a running or a stopped node.

pub mod book;
pub mod office;

use bytes::Bytes;
use jiexi_proto::handle::PREFIX_SPACE;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::registry::Identity;
use crate::store::{Action, Change, Draft, DraftValue, Expect, OwnedRecord, Space};

/// What every token begins with.
const MARK: &str = "jx";
/// Octets of an id.
const ID_SIZE: usize = 6;
/// Octets of a secret.
const SECRET_SIZE: usize = 32;
/// What the keys of tokens begin with in the store.
const KEY: &[u8] = b"token/";
/// Most secrets of a token that are valid at once: the new one and the one it replaces.
const SECRETS_MAX: usize = 2;
/// Seconds of a day, over which quotas are counted.
pub(crate) const DAY: u32 = 86_400;

/// What a token may be used for.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// Read values, the restricted ones that its identity may read among them
    Resolve,
    /// Ask for many handles at once
    Batch,
    /// Have handles that are at home elsewhere asked there, in batches
    Recursive,
    /// List the handles of a prefix
    List,
    /// Follow changes
    Changes,
    /// Copy the whole node, secrets (sealed with its key) included, and take its place: for a standby
    Replicate,
    /// Create, change and delete handles
    Write,
    /// Change who administers: HS_ADMIN, HS_VLIST, HS_PUBKEY and HS_SECKEY values and handles that have some, prefix records
    Admin,
}

impl Right {
    /// The name on the command line and in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Batch => "batch",
            Self::Recursive => "recursive",
            Self::List => "list",
            Self::Changes => "changes",
            Self::Replicate => "replicate",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

/// A stored secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    /// SHA-256, in hexadecimal.
    pub sha256: String,
    /// Unix seconds when it was made.
    pub created: u32,
    /// Unix seconds when it ends; none: with the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u32>,
}

/// A token as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its public part.
    pub id: String,
    /// Index of the identity it acts as.
    pub index: u32,
    /// Folded handle of the identity it acts as.
    pub handle: String,
    /// Prefixes, folded, that it is good for, with those derived from them; empty: any.
    pub prefixes: Vec<String>,
    /// What it may be used for.
    pub rights: Vec<Right>,
    /// Identifiers a day; none: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<u64>,
    /// Unix seconds when it was made.
    pub created: u32,
    /// Unix seconds when it ends; none: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u32>,
    /// Unix seconds when it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<u32>,
    /// What it is for, in its owner's words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// The valid secrets, newest first.
    pub secrets: Vec<Secret>,
}

impl Token {
    /// Its key in the store.
    fn key(id: &str) -> Vec<u8> {
        [KEY, id.as_bytes()].concat()
    }

    /// Reads what was stored.
    fn read(record: &OwnedRecord) -> Option<Self> {
        serde_json::from_slice(record.entries().next()?.wire).ok()
    }

    /// The change that stores it.
    fn change(&self, expect: Expect) -> Change {
        put(Self::key(&self.id), self, expect)
    }

    /// Whether it is still good at `now`.
    #[must_use]
    pub fn is_valid(&self, now: u32) -> bool {
        self.revoked.is_none() && self.expires.is_none_or(|end| now < end)
    }

    /// Whether this is one of its secrets. The time depends on their number only.
    fn holds(&self, secret: &str, now: u32) -> bool {
        let digest = digest(secret);
        let mut good = subtle::Choice::from(0);
        for stored in self.secrets.iter().take(SECRETS_MAX) {
            let live = stored.expires.is_none_or(|end| now < end);
            good |= stored.sha256.as_bytes().ct_eq(digest.as_bytes())
                & subtle::Choice::from(u8::from(live));
        }
        good.into()
    }

    /// What it allows.
    fn grant(&self) -> Grant {
        Grant {
            id: self.id.clone(),
            identity: Identity {
                handle: self.handle.clone().into_bytes(),
                index: self.index,
            },
            prefixes: self.prefixes.clone(),
            rights: self.rights.clone(),
            quota: self.quota,
        }
    }
}

/// What a valid token allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The public part of the token.
    pub id: String,
    /// Whom it acts as.
    pub identity: Identity,
    prefixes: Vec<String>,
    rights: Vec<Right>,
    quota: Option<u64>,
}

impl Grant {
    /// Identifiers a day; none: any number.
    #[must_use]
    pub const fn quota(&self) -> Option<u64> {
        self.quota
    }

    /// Its rights.
    #[must_use]
    pub fn rights(&self) -> &[Right] {
        &self.rights
    }

    /// Its prefixes; none: it is good for all.
    #[must_use]
    pub fn prefixes(&self) -> &[String] {
        &self.prefixes
    }

    /// Whether it has a right.
    #[must_use]
    pub fn may(&self, right: Right) -> bool {
        self.rights.contains(&right)
    }

    /// Whether it is good for the handle under `key`: one below its prefixes or below those
    /// derived from them, or the record of such a prefix itself.
    #[must_use]
    pub fn covers(&self, key: &[u8]) -> bool {
        let name = key.strip_prefix(PREFIX_SPACE).unwrap_or(key);
        let below = |prefix: &String| {
            let rest = name.strip_prefix(prefix.as_bytes());
            rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'/' | b'.')))
        };
        self.prefixes.is_empty() || self.prefixes.iter().any(below)
    }
}

/// SHA-256 of a secret, in hexadecimal.
fn digest(secret: &str) -> String {
    hex::encode(Sha256::digest(secret.as_bytes()))
}

/// Cuts a token into id and secret.
fn split(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token
        .strip_prefix(MARK)?
        .strip_prefix('_')?
        .split_once('_')?;
    let digits = |text: &str, octets: usize| {
        text.len() == 2 * octets && text.bytes().all(|c| c.is_ascii_hexdigit())
    };
    (digits(id, ID_SIZE) && digits(secret, SECRET_SIZE)).then_some((id, secret))
}

/// Puts something of ours into the node's own space.
pub(crate) fn put(key: Vec<u8>, what: &impl Serialize, expect: Expect) -> Change {
    let wire = serde_json::to_vec(what).unwrap_or_default();
    Change {
        space: Space::System,
        action: Action::Put(Draft {
            handle: Bytes::copy_from_slice(&key),
            values: vec![DraftValue {
                index: 1,
                permissions: 0,
                sealed: false,
                wire: Bytes::from(wire),
            }],
        }),
        key,
        expect,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the form is exact, so that nothing else is ever looked up.
    #[test]
    fn the_form() {
        let (id, secret) = ("0123456789ab", "f".repeat(64));
        assert_eq!(
            split(&format!("jx_{id}_{secret}")),
            Some((id, secret.as_str()))
        );
        for wrong in [
            "",
            "jx__",
            "jx_0123456789ab_",
            &format!("jy_{id}_{secret}"),
            &format!("jx_{id}_{secret}0"),
            &format!("jx_{id}_{}", "g".repeat(64)),
        ] {
            assert_eq!(split(wrong), None, "{wrong}");
        }
    }

    /// Goal: a prefix covers itself and what is derived from it, and no neighbour.
    #[test]
    fn prefixes() {
        let grant = Grant {
            id: String::new(),
            identity: Identity {
                handle: Vec::new(),
                index: 0,
            },
            prefixes: vec!["88.118".into()],
            rights: Vec::new(),
            quota: None,
        };
        for inside in ["88.118/X", "88.118.1/X", "0.NA/88.118", "0.NA/88.118.1"] {
            assert!(grant.covers(inside.as_bytes()), "{inside}");
        }
        for outside in ["88.1180/X", "88/X", "0.NA/88", "188.118/X"] {
            assert!(!grant.covers(outside.as_bytes()), "{outside}");
        }
    }
}
