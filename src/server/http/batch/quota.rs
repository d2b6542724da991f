//! The quota of a batch: what it uses is on disk before it is used, for many lines at once, so that counting costs nothing.

use std::sync::Arc;

use crate::clock;
use crate::token::DAY;
use crate::token::book::{Book, Refused};

/// Identifiers that are written down ahead at first, and at most.
const FIRST: u64 = 1_000;
const MOST: u64 = 16_000;

/// What some lines get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowed {
    /// The first so many are asked.
    pub(super) lines: u64,
    /// Then nothing is left until this time (Unix seconds).
    pub(super) renewal: u32,
}

/// The quota that a batch uses, together with all other batches of its token.
#[derive(Debug)]
pub(in super::super) struct Share {
    book: Arc<Book>,
    token: String,
    ahead: u64,
}

impl Share {
    pub(in super::super) fn new(book: Arc<Book>, token: &str) -> Self {
        book.enter(token, clock::unix_seconds());
        Self {
            book,
            token: token.to_owned(),
            ahead: FIRST,
        }
    }

    /// So many identifiers more. Waits for the disk now and then.
    pub(super) fn take(&mut self, lines: u64) -> Result<Allowed, Refused> {
        let now = clock::unix_seconds();
        let renewal = (now / DAY + 1).saturating_mul(DAY);
        match self.book.take(&self.token, lines, self.ahead, now) {
            Ok(lines) => {
                self.ahead = (self.ahead + lines).min(MOST);
                Ok(Allowed { lines, renewal })
            }
            Err(Refused::Quota { .. }) => Ok(Allowed { lines: 0, renewal }),
            Err(refused) => Err(refused),
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.book.leave(&self.token);
    }
}
