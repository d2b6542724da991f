//! Tokens in use: checked against the store at every request, so that a revoked one is refused at
//! once; use is counted in memory and written down now and then.

use std::collections::HashMap;
use std::sync::mpsc::sync_channel;
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

/// What a token has of today.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Identifiers a day; none: any number.
    pub quota: Option<u64>,
    /// Identifiers asked today.
    pub used: u64,
    /// Unix seconds when the next day begins.
    pub renewal: u32,
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
        let token = self.find(presented, now)?;
        self.count(&token, now)?;
        Ok(token.grant())
    }

    /// As [`Self::check`], for what is counted by [`Self::reserve`] or not at all.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn check_uncounted(&self, presented: &str, now: u32) -> Result<Grant, Refused> {
        self.find(presented, now).map(|token| token.grant())
    }

    fn find(&self, presented: &str, now: u32) -> Result<Token, Refused> {
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
        Ok(token)
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

    /// Takes up to `wanted` requests of a token's quota at once, and says how many: as many as are left of today. With a
    /// quota they are on disk when this returns, so that a restart gives none of them back. Waits for the disk.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn reserve(&self, id: &str, wanted: u64, now: u32) -> Result<u64, Refused> {
        let token = self.token(id).map_err(|_| Refused::Unavailable)?;
        let token = token.ok_or(Refused::Unknown)?;
        let (send, receive) = sync_channel(1);
        let granted = {
            let mut counted = self.lock();
            let entry = self.entry(&mut counted, id, now);
            let left = token
                .quota
                .map(|quota| quota.saturating_sub(entry.figures.today));
            let granted = left.map_or(wanted, |left| left.min(wanted));
            if granted == 0 {
                return Err(used_up(now));
            }
            entry.figures.today += granted;
            entry.figures.last = now;
            if left.is_none() {
                return Ok(granted);
            }
            entry.written = entry.figures;
            let batch = Batch {
                changes: vec![put(use_key(id), &entry.figures, Expect::Any)],
                ..Batch::default()
            };
            // In the queue before anybody else counts: figures are written in their order.
            let done = move |outcome: Result<_, _>| {
                // The receiver is there until this returns.
                let _ = send.send(outcome.is_ok());
            };
            self.store.submit(batch, done);
            granted
        };
        match receive.recv() {
            Ok(true) => Ok(granted),
            _ => {
                self.give_back(id, granted, now);
                Err(Refused::Unavailable)
            }
        }
    }

    /// Gives back what was reserved (at `reserved`, Unix seconds) and not used.
    pub fn give_back(&self, id: &str, unused: u64, reserved: u32) {
        let mut counted = self.lock();
        if let Some(entry) = counted.get_mut(id)
            && entry.figures.day == reserved / DAY
        {
            entry.figures.today = entry.figures.today.saturating_sub(unused);
        }
    }

    /// The quota of a token (none: no limit) and what of it is used today.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn standing(&self, id: &str, now: u32) -> Result<Standing, Refused> {
        let token = self.token(id).map_err(|_| Refused::Unavailable)?;
        let quota = token.ok_or(Refused::Unknown)?.quota;
        let mut counted = self.lock();
        let used = self.entry(&mut counted, id, now).figures.today;
        let renewal = (now / DAY + 1).saturating_mul(DAY);
        Ok(Standing {
            quota,
            used,
            renewal,
        })
    }

    /// The figures of a token, of the day of `now`.
    fn entry<'c>(
        &self,
        counted: &'c mut HashMap<String, Counted>,
        id: &str,
        now: u32,
    ) -> &'c mut Counted {
        let entry = counted.entry(id.to_owned()).or_insert_with(|| {
            let written = read_use(&self.store, id).unwrap_or_default();
            Counted {
                figures: written,
                written,
            }
        });
        let figures = &mut entry.figures;
        if figures.day != now / DAY {
            (figures.day, figures.today) = (now / DAY, 0);
        }
        entry
    }

    fn count(&self, token: &Token, now: u32) -> Result<(), Refused> {
        let mut counted = self.lock();
        let figures = &mut self.entry(&mut counted, &token.id, now).figures;
        if token.quota.is_some_and(|quota| figures.today >= quota) {
            return Err(used_up(now));
        }
        figures.today += 1;
        figures.last = now;
        Ok(())
    }

    /// Writes down what was counted since the last time.
    pub fn write_down(&self) {
        let mut changes = Vec::new();
        let mut all = self.lock();
        for (id, counted) in all.iter_mut() {
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

/// The quota of today is used up.
const fn used_up(now: u32) -> Refused {
    Refused::Quota {
        wait: DAY - now % DAY,
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
