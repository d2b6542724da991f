//! The quota of a batch: what it uses is on disk before it is used, for many lines at once, so that counting costs nothing.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{self, Now};
use crate::registry::source::Source;
use crate::server::handle::Shared;
use crate::token::DAY;
use crate::token::book::{Book, Refused};

/// Identifiers that are written down ahead: a crash costs the token no more of its quota.
const AHEAD: u64 = 1_000;

/// What some lines get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowed {
    /// The first so many are asked.
    pub(super) lines: u64,
    /// Then nothing is left until this time (Unix seconds).
    pub(super) renewal: u32,
}

/// How long lines of a network that asks too fast wait; what would wait longer is refused.
const DELAY_MAX: Duration = Duration::from_secs(10);

/// What a batch takes its identifiers from.
#[derive(Debug)]
pub(in super::super) enum Share {
    /// The quota of its token.
    Token(OfToken),
    /// What its network may ask without a token.
    Network(Arc<Shared>, Source),
}

/// The quota that a batch uses, together with all other batches of its token.
#[derive(Debug)]
pub(in super::super) struct OfToken {
    book: Arc<Book>,
    token: String,
}

impl Share {
    /// That of a token.
    pub(in super::super) fn new(book: Arc<Book>, token: &str) -> Self {
        book.enter(token, clock::unix_seconds());
        Self::Token(OfToken {
            book,
            token: token.to_owned(),
        })
    }

    /// So many identifiers more. Waits for the disk now and then, or until the network may ask again.
    pub(super) fn take(&mut self, lines: u64) -> Result<Allowed, Refused> {
        match self {
            Self::Token(share) => share.take(lines),
            Self::Network(shared, source) => Ok(take_of_network(shared, *source, lines)),
        }
    }
}

impl OfToken {
    fn take(&mut self, lines: u64) -> Result<Allowed, Refused> {
        let now = clock::unix_seconds();
        let renewal = (now / DAY + 1).saturating_mul(DAY);
        match self.book.take(&self.token, lines, AHEAD, now) {
            Ok(lines) => Ok(Allowed { lines, renewal }),
            Err(Refused::Quota { .. }) => Ok(Allowed { lines: 0, renewal }),
            Err(refused) => Err(refused),
        }
    }
}

/// A batch of a network that asks too fast becomes slower; one of a network that owes much is refused.
fn take_of_network(shared: &Shared, source: Source, lines: u64) -> Allowed {
    let now = Now::read();
    let owed = shared.anonymous.owe(source, 0, now.instant);
    if owed > DELAY_MAX {
        let seconds = u32::try_from(owed.as_secs() + 1).unwrap_or(u32::MAX);
        let renewal = now.unix_seconds.saturating_add(seconds);
        return Allowed { lines: 0, renewal };
    }
    let owed = shared.anonymous.owe(source, lines, now.instant);
    std::thread::sleep(owed.min(DELAY_MAX));
    let renewal = now.unix_seconds;
    Allowed { lines, renewal }
}

impl Drop for OfToken {
    fn drop(&mut self) {
        self.book.leave(&self.token);
    }
}
