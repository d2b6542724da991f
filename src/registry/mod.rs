//! The decision whether a change may happen, and what exactly changes.
//!
//! Synchronous; time and randomness are arguments. Transports, messages and sockets are unknown
//! here: every front end comes through this one path.
//!
//! ```text
//!  request ─→ Registry::examine ── what can be refused without knowing who asks
//!     │
//!  proof ───→ auth ── Authenticated ─→ permit ── Permit ─→ plan ── Batch ─→ store ─→ audit
//!     │                                                                └ retry: answered once
//!  session ─→ session, dh, cipher: keys agreed on, MACs, replays
//! ```
//!
//! A front end carries a change out in these steps, whatever its protocol is:
//!
//! 1. [`Registry::examine`] refuses what makes no sense whoever asks.
//! 2. [`Registry::authenticate_in_turn`] turns a [`auth::Claim`], the octets that were to be answered, and
//!    the [`source::Sender`] into an [`Authenticated`]; it counts and slows wrong answers. Whoever has not
//!    [`Registry::has_turn`] may wait in [`waiting`] instead of being told to come back. When it says no, [`Registry::need`] and [`Registry::refusal`] say with which code. A front end with
//!    challenges of its own keeps them in [`Registry::table`], which bounds them.
//! 3. [`Registry::decide`] checks the rights and gives a [`Decision`], whose batch is submitted to
//!    the store. On a conflict the record has changed meanwhile: decide again.
//! 4. When the store has committed, or anything was refused, [`Registry::ended`] counts it and
//!    writes it to the audit trail. Only then is the client told.
//!
//! What must not happen twice goes through a [`retry::Retries`]. Reading what is restricted takes
//! [`Registry::may_read`] and [`Registry::open_values`], listing [`Registry::may_list`]. A
//! [`Rejection`] holds the code of the Handle protocol and a text for people; both can be shown.
//!
//! * [`Registry`]: the whole path, in the order in which the reference server decides.
//! * [`auth`]: who asks. Challenge answers are checked against the keys in handle records.
//! * [`vouch`]: who asks, by an API token or a client certificate.
//! * [`permit`]: what they may do. A [`permit::Permit`] is made nowhere else and used up by the change.
//! * `direct`: changes by whoever runs the node, several in one commit.
//! * [`plan`]: current state and request → changes, or a [`Rejection`].
//! * [`table`]: challenges and sessions of the whole node, bounded; [`session`]: one of them, with
//!   its replay window; [`dh`], [`cipher`]: their keys.
//! * [`retry`]: a change that is asked for again is answered, not made again.
//! * [`throttle`]: wrong answers slow their sender down; [`waiting`]: answers that wait for their turn meanwhile.
//! * `nobody`: the work for identities that do not exist.
//! * [`seal`]: secrets are encrypted before they reach the store. [`keys`]: keys and key files; [`sm2`].
//! * [`audit`]: who changed what, chained by hashes.

pub mod audit;
pub mod auth;
pub mod cipher;
mod decision;
pub mod dh;
mod direct;
pub mod figures;
pub mod keys;
mod nobody;
pub mod permit;
pub mod plan;
mod records;
pub mod retry;
pub mod seal;
pub mod session;
pub mod sm2;
pub mod source;
pub mod table;
pub mod throttle;
pub mod vouch;
pub mod waiting;

pub use auth::{Authenticated, Identity};
pub use decision::{Config, Decision, LIST, READ, Registry, attempt};
pub use direct::{Done, NotDone};
pub use records::{Records, Unavailable};

use jiexi_proto::code::ResponseCode;

use crate::store::CommitError;

/// Said when the store takes no change because of its disk. The code is "too busy", as for everything that ends by itself;
/// but nothing ends within the time in which a client asks again.
pub const DISK_FULL: &str = "the disk is full";

/// Said of a prefix that is not homed on this node.
pub const NOT_HOMED: &str = "this prefix is not homed here";

/// What is said while the store cannot be read and asking again does not help.
pub const DAMAGED: &str = "the data of this node cannot be read; its operator finds why at /ready";

/// Why a request is not carried out: an outcome, not an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// What is answered.
    pub code: ResponseCode,
    /// Why, for a person; never with a secret in it.
    pub text: std::borrow::Cow<'static, str>,
}

impl Rejection {
    /// A rejection that needs no words.
    #[must_use]
    pub const fn bare(code: ResponseCode) -> Self {
        Self::new(code, "")
    }

    /// A rejection with a reason.
    #[must_use]
    pub const fn new(code: ResponseCode, text: &'static str) -> Self {
        Self {
            code,
            text: std::borrow::Cow::Borrowed(text),
        }
    }

    /// Why the store does not take a change.
    #[must_use]
    pub fn of_store(error: &CommitError) -> Self {
        match error {
            CommitError::TooLarge => {
                Self::new(ResponseCode::INVALID_VALUE, "the record would be too large")
            }
            CommitError::ReadOnly(_) => {
                Self::new(ResponseCode::ERROR, "this node takes no changes now")
            }
            CommitError::Elsewhere(role) => Self {
                code: ResponseCode::SERVER_BACKUP,
                text: role.to_string().into(),
            },
            CommitError::DiskFull => Self::busy(DISK_FULL),
            CommitError::Conflict { .. } | CommitError::Busy | CommitError::Closed => {
                Self::busy("too many changes wait")
            }
        }
    }

    /// The node cannot say now; the client is to try again.
    #[must_use]
    pub const fn busy(text: &'static str) -> Self {
        Self::new(ResponseCode::SERVER_TOO_BUSY, text)
    }
}

impl From<Unavailable> for Rejection {
    fn from(why: Unavailable) -> Self {
        match why {
            Unavailable::Now => Self::busy("the records are not available now"),
            Unavailable::Damaged => Self::new(ResponseCode::ERROR, DAMAGED),
        }
    }
}
