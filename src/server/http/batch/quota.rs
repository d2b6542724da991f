//! The quota of a batch: reserved for many lines at once, so that counting costs nothing; what is not used is given back.

use crate::clock;
use crate::token::book::{Book, Refused};
use std::sync::Arc;

/// Identifiers that are reserved at first, and at most: each reservation is on disk before it is used.
const FIRST: u64 = 1_000;
const MOST: u64 = 16_000;

/// What a line gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is asked.
    Taken,
    /// Nothing is left until then (Unix seconds).
    UsedUp(u32),
    /// The token has ended, or the store takes no writes.
    Unavailable,
}

/// The share of a token's quota that one batch has.
#[derive(Debug)]
pub(super) struct Share {
    book: Arc<Book>,
    token: String,
    left: u64,
    next: u64,
    reserved_at: u32,
    dry_until: Option<u32>,
}

impl Share {
    pub(super) fn new(book: Arc<Book>, token: &str) -> Self {
        Self {
            book,
            token: token.to_owned(),
            left: 0,
            next: FIRST,
            reserved_at: 0,
            dry_until: None,
        }
    }

    /// One identifier more. Waits for the disk now and then.
    pub(super) fn take(&mut self) -> Turn {
        if self.left > 0 {
            self.left -= 1;
            return Turn::Taken;
        }
        let now = clock::unix_seconds();
        if let Some(end) = self.dry_until.filter(|end| now < *end) {
            return Turn::UsedUp(end);
        }
        match self.book.reserve(&self.token, self.next, now) {
            Ok(granted) => {
                self.left = granted - 1;
                self.next = (self.next * 2).min(MOST);
                (self.reserved_at, self.dry_until) = (now, None);
                Turn::Taken
            }
            Err(Refused::Quota { wait }) => {
                let end = now + wait;
                self.dry_until = Some(end);
                Turn::UsedUp(end)
            }
            Err(_) => Turn::Unavailable,
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.book
            .give_back(&self.token, self.left, self.reserved_at);
    }
}
