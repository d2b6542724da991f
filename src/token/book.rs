//! Tokens in use: checked against the store at every request, so that a revoked one is refused at
//! once; use is counted in memory and written down now and then.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::{DAY, Grant, Right, Token, digest, put, split};
use crate::store::{Batch, Expect, Space, Store, StoreError};

/// What the keys of figures of use begin with in the store.
const KEY: &[u8] = b"token-use/";

/// Why a token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is none, or not one of this node, or its secret is wrong.
    Unknown,
    /// It has ended or was revoked.
    Ended,
    /// Its requests of today are used up.
    Quota {
        /// Seconds until tomorrow (UTC).
        wait: u32,
    },
    /// The store cannot say now.
    Unavailable,
}

/// How a token was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// Unix seconds of the last request; 0: never.
    pub last: u32,
    /// The day (since 1970, UTC) that `today` counts.
    pub day: u32,
    /// Requests of that day.
    pub today: u64,
}

#[derive(Debug, Default)]
struct Counted {
    figures: Use,
    /// What the store has.
    written: Use,
}

/// The tokens of a running node.
#[derive(Debug)]
pub struct Book {
    store: Arc<Store>,
    counted: Mutex<HashMap<String, Counted>>,
    nobody: String,
}

impl Book {
    /// The tokens in a store.
    #[must_use]
    pub fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            counted: Mutex::default(),
            nobody: digest("nobody's secret"),
        }
    }

    /// What a token allows at `now` (Unix seconds); one more request is counted.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn check(&self, presented: &str, now: u32) -> Result<Grant, Refused> {
        let (id, secret) = split(presented).ok_or(Refused::Unknown)?;
        let Some(token) = self.token(id).map_err(|_| Refused::Unavailable)? else {
            // The same work as for a token that exists.
            let _ = std::hint::black_box(digest(secret) == self.nobody);
            return Err(Refused::Unknown);
        };
        if !token.holds(secret, now) {
            return Err(Refused::Unknown);
        }
        if !token.is_valid(now) {
            return Err(Refused::Ended);
        }
        self.count(&token, now)?;
        Ok(token.grant())
    }

    /// Whether a token that was accepted before is still good; for answers that take long.
    #[must_use]
    pub fn is_still_valid(&self, id: &str, right: Right, now: u32) -> bool {
        let token = self.token(id).ok().flatten();
        token.is_some_and(|token| token.is_valid(now) && token.rights.contains(&right))
    }

    fn token(&self, id: &str) -> Result<Option<Token>, StoreError> {
        let found = self.store.get(Space::System, &Token::key(id))?;
        Ok(found.as_ref().and_then(Token::read))
    }

    fn count(&self, token: &Token, now: u32) -> Result<(), Refused> {
        let mut counted = self.lock();
        let entry = counted.entry(token.id.clone()).or_insert_with(|| {
            let written = read_use(&self.store, &token.id).unwrap_or_default();
            Counted {
                figures: written,
                written,
            }
        });
        let figures = &mut entry.figures;
        if figures.day != now / DAY {
            (figures.day, figures.today) = (now / DAY, 0);
        }
        if token.quota.is_some_and(|quota| figures.today >= quota) {
            return Err(Refused::Quota {
                wait: DAY - now % DAY,
            });
        }
        figures.today += 1;
        figures.last = now;
        Ok(())
    }

    /// Writes down what was counted since the last time.
    pub fn write_down(&self) {
        let mut changes = Vec::new();
        for (id, counted) in self.lock().iter_mut() {
            if counted.figures != counted.written {
                counted.written = counted.figures;
                changes.push(put(use_key(id), &counted.figures, Expect::Any));
            }
        }
        if changes.is_empty() {
            return;
        }
        let batch = Batch {
            changes,
            ..Batch::default()
        };
        // Figures that are lost are counted again from the last ones: nobody waits for these.
        self.store.submit(batch, |outcome| {
            if let Err(error) = outcome {
                tracing::debug!(%error, "the use of tokens was not written down");
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Counted>> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn use_key(id: &str) -> Vec<u8> {
    [KEY, id.as_bytes()].concat()
}

/// How a token was used, as far as it is written down.
pub(super) fn read_use(store: &Store, id: &str) -> Option<Use> {
    let record = store.get(Space::System, &use_key(id)).ok()??;
    serde_json::from_slice(record.entries().next()?.wire).ok()
}
