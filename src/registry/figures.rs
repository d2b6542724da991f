//! What is counted: changes and proofs.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use jiexi_proto::code::ResponseCode;

use super::auth::Method;
use super::plan::Request;

/// How a change ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It is durable.
    Committed,
    /// It was not allowed, or made no sense.
    Refused,
    /// The store could not take it.
    Failed,
}

impl Ended {
    /// How a change ended that the store did not take, by what is answered: one that is made at another node is no fault.
    #[must_use]
    pub fn untaken(code: ResponseCode) -> Self {
        match code {
            ResponseCode::SERVER_BACKUP => Self::Refused,
            _ => Self::Failed,
        }
    }

    /// All of them, with their labels.
    pub const ALL: [(Self, &'static str); 3] = [
        (Self::Committed, "committed"),
        (Self::Refused, "refused"),
        (Self::Failed, "failed"),
    ];
}

/// The kinds of changes, as they are labelled.
pub const KINDS: [&str; 4] = ["create", "delete", "modify", "prefix"];

/// The place of "create" among [`KINDS`].
pub const CREATE: usize = 0;

/// The kind of a request: the place of its label.
#[must_use]
pub const fn kind_of(request: &Request) -> usize {
    match request {
        Request::Create { .. } => CREATE,
        Request::Delete { .. } => 1,
        Request::Add { .. } | Request::Remove { .. } | Request::Modify { .. } => 2,
        Request::Home { .. } | Request::Unhome { .. } => 3,
    }
}

/// How a proof ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proved {
    /// Right.
    Accepted,
    /// Wrong.
    Refused,
    /// Not looked at, or not to be checked now.
    Error,
}

impl Proved {
    /// All of them, with their labels.
    pub const ALL: [(Self, &'static str); 3] = [
        (Self::Accepted, "accepted"),
        (Self::Refused, "refused"),
        (Self::Error, "error"),
    ];
}

/// The ways of proving, as they are labelled: by a key, by the MAC of a session, by running the node, by an API token,
/// by a client certificate; and by an SM2 key.
pub const METHODS: [&str; 8] = [
    "seckey", "rsa", "dsa", "session", "local", "token", "tls", "sm2",
];
/// The place of "session" among [`METHODS`].
pub const SESSION: usize = 3;

/// The place of a method among [`METHODS`].
#[must_use]
pub const fn method_of(method: Method) -> usize {
    match method {
        Method::SecretKey => 0,
        Method::Rsa => 1,
        Method::Dsa => 2,
        Method::Local => 4,
        Method::Token => 5,
        Method::Certificate => 6,
        Method::Sm2 => 7,
    }
}

/// The counters.
#[derive(Debug, Default)]
pub struct Figures {
    changes: [[AtomicU64; 3]; KINDS.len()],
    proofs: [[AtomicU64; 3]; METHODS.len()],
}

impl Figures {
    /// Counts a change.
    pub fn changed(&self, kind: usize, ended: Ended) {
        if let Some(counter) = self
            .changes
            .get(kind)
            .and_then(|row| row.get(ended as usize))
        {
            counter.fetch_add(1, Relaxed);
        }
    }

    /// Counts a proof.
    pub fn proved(&self, method: usize, proved: Proved) {
        if let Some(counter) = self
            .proofs
            .get(method)
            .and_then(|row| row.get(proved as usize))
        {
            counter.fetch_add(1, Relaxed);
        }
    }

    /// Changes of a kind that ended so.
    #[must_use]
    pub fn changes(&self, kind: usize, ended: Ended) -> u64 {
        let counter = self
            .changes
            .get(kind)
            .and_then(|row| row.get(ended as usize));
        counter.map_or(0, |counter| counter.load(Relaxed))
    }

    /// Proofs of a method that ended so.
    #[must_use]
    pub fn proofs(&self, method: usize, proved: Proved) -> u64 {
        let counter = self
            .proofs
            .get(method)
            .and_then(|row| row.get(proved as usize));
        counter.map_or(0, |counter| counter.load(Relaxed))
    }
}
