//! Tokens in use: checked against the store at every request, so that a revoked one is refused at
//! once; use is counted in memory and written down now and then.

use std::collections::HashMap;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{DAY, Grant, Right, Token, digest, put, split};
use crate::store::{Batch, Expect, Space, Store, StoreError};

/// What the keys of figures of use begin with in the store.
const KEY: &[u8] = b"token-use/";

/// Identifiers that are written down ahead when one is counted, for those that follow: so many, and no more than this part
/// of the quota. A crash costs the token no more.
const AHEAD_MAX: u64 = 1_000;
const AHEAD_PART: u64 = 100;

/// How long one batch waits for what another is writing down.
const DISK_TIME: Duration = Duration::from_secs(5);

/// Why a token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is none, or not one of this node, or its secret is wrong.
    Unknown,
    /// It has ended or was revoked.
    Ended,
    /// Its quota of today is used up.
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
    /// Identifiers of that day.
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
    /// What was used.
    figures: Use,
    /// What the store has.
    written: Use,
    /// Up to which figure of today is used without waiting, because the store counts it as used already.
    granted: u64,
    /// As [`Self::granted`], when what is being written is there.
    asked: u64,
    /// Batches that run, and single identifiers that wait for the disk.
    batches: usize,
}

impl Counted {
    /// What the store is to have: while batches run also what they may use.
    fn to_write(&self) -> Use {
        Use {
            today: self.figures.today.max(self.asked),
            ..self.figures
        }
    }
}

/// What is counted, by the ids of tokens.
type All<'b> = MutexGuard<'b, HashMap<String, Counted>>;

/// The tokens of a running node.
#[derive(Debug)]
pub struct Book {
    store: Arc<Store>,
    counted: Mutex<HashMap<String, Counted>>,
    /// Told when something that was asked for a batch is on disk, or will not be.
    granted: Condvar,
    nobody: String,
}

impl Book {
    /// The tokens in a store.
    #[must_use]
    pub fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            counted: Mutex::default(),
            granted: Condvar::new(),
            nobody: digest("nobody's secret"),
        }
    }

    /// What a token allows at `now` (Unix seconds). Nothing is counted.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn check(&self, presented: &str, now: u32) -> Result<Grant, Refused> {
        self.find(presented, now).map(|token| token.grant())
    }

    /// Counts one identifier, where that need not wait for the disk. False: [`Self::count`] does.
    ///
    /// # Errors
    /// The quota is used up.
    pub fn count_at_once(&self, grant: &Grant, now: u32) -> Result<bool, Refused> {
        let durable = self.is_durable(grant.quota);
        let mut counted = self.lock();
        let entry = self.entry(&mut counted, &grant.id, now);
        let figures = &mut entry.figures;
        if grant.quota.is_some_and(|quota| figures.today >= quota) {
            return Err(used_up(now));
        }
        if durable && figures.today >= entry.granted {
            return Ok(false);
        }
        figures.today += 1;
        figures.last = figures.last.max(now);
        Ok(true)
    }

    /// Counts one identifier; with a quota it is on disk when this returns. Waits for the disk now and then.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn count(&self, id: &str, now: u32) -> Result<(), Refused> {
        let quota = self.token(id).map_err(|_| Refused::Unavailable)?;
        let quota = quota.ok_or(Refused::Unknown)?.quota.unwrap_or(0);
        let ahead = (quota / AHEAD_PART).min(AHEAD_MAX);
        self.enter(id, now);
        let taken = self.take(id, 1, ahead, now);
        self.leave(id);
        taken.map(drop)
    }

    /// Whether a restart gives nothing of this quota back. One who takes no changes counts in memory, and for itself.
    fn is_durable(&self, quota: Option<u64>) -> bool {
        quota.is_some() && self.store.role().takes_changes()
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

    /// What a token that was accepted before allows now; for work that goes on without its client.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn grant_of(&self, id: &str, now: u32) -> Result<Grant, Refused> {
        let token = self.token(id).map_err(|_| Refused::Unavailable)?;
        let token = token.ok_or(Refused::Unknown)?;
        match token.is_valid(now) {
            true => Ok(token.grant()),
            false => Err(Refused::Ended),
        }
    }

    fn token(&self, id: &str) -> Result<Option<Token>, StoreError> {
        let found = self.store.get(Space::System, &Token::key(id))?;
        Ok(found.as_ref().and_then(Token::read))
    }

    /// A batch of a token begins: what is on disk for it stays there until it [leaves](Self::leave).
    pub fn enter(&self, id: &str, now: u32) {
        let mut counted = self.lock();
        self.entry(&mut counted, id, now).batches += 1;
    }

    /// A batch has ended.
    pub fn leave(&self, id: &str) {
        if let Some(entry) = self.lock().get_mut(id) {
            entry.batches = entry.batches.saturating_sub(1);
        }
    }

    /// Takes up to `wanted` identifiers of a token's quota at once, and says how many: as many as are left of today. With a
    /// quota they are on disk when this returns, so that a restart gives none of them back; `ahead` more are written down
    /// with them, for all batches of the token alike. Waits for the disk.
    ///
    /// # Errors
    /// See [`Refused`]; after [`Refused::Unavailable`] the same may be asked again.
    pub fn take(&self, id: &str, wanted: u64, ahead: u64, now: u32) -> Result<u64, Refused> {
        let token = self.token(id).map_err(|_| Refused::Unavailable)?;
        let token = token.ok_or(Refused::Unknown)?;
        let durable = self.is_durable(token.quota);
        let mut counted = self.lock();
        loop {
            let entry = self.entry(&mut counted, id, now);
            let figures = &mut entry.figures;
            figures.last = figures.last.max(now);
            let end = token.quota.unwrap_or(u64::MAX);
            let end = end.min(figures.today.saturating_add(wanted));
            let more = end.saturating_sub(figures.today);
            if more == 0 && wanted > 0 {
                return Err(used_up(now));
            }
            if !durable || end <= entry.granted {
                figures.today = end;
                return Ok(more);
            }
            if end > entry.asked {
                entry.asked = token.quota.unwrap_or(end).min(end + ahead);
                counted = self.grant(counted, id)?;
                continue;
            }
            // Another batch waits for the disk, for this one as well.
            let waited = self.granted.wait_timeout(counted, DISK_TIME);
            let (guard, waited) = waited.unwrap_or_else(PoisonError::into_inner);
            counted = guard;
            if waited.timed_out() {
                return Err(Refused::Unavailable);
            }
        }
    }

    /// Writes down what is asked for a token, and waits for that.
    fn grant<'b>(&'b self, mut counted: All<'b>, id: &str) -> Result<All<'b>, Refused> {
        let Some(entry) = counted.get_mut(id) else {
            return Ok(counted);
        };
        let (day, asked) = (entry.figures.day, entry.asked);
        entry.written = entry.to_write();
        let batch = Batch {
            changes: vec![put(use_key(id), &entry.written, Expect::Any)],
            ..Batch::default()
        };
        let (send, receive) = sync_channel(1);
        let done = move |outcome: Result<_, _>| {
            // The receiver is there until this function returns.
            let _ = send.send(outcome.is_ok());
        };
        // In the queue before anybody else counts: figures are written in their order.
        self.store.submit(batch, done);
        drop(counted);
        let good = receive.recv() == Ok(true);
        let mut counted = self.lock();
        if let Some(entry) = counted.get_mut(id).filter(|entry| entry.figures.day == day) {
            match good {
                true => entry.granted = entry.granted.max(asked),
                false => entry.asked = entry.granted,
            }
        }
        self.granted.notify_all();
        match good {
            true => Ok(counted),
            false => Err(Refused::Unavailable),
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
                granted: written.today,
                asked: written.today,
                batches: 0,
            }
        });
        // One that read its clock just before midnight does not bring yesterday back; a clock that was put right does.
        let (known, day) = (entry.figures.day, now / DAY);
        if day > known || day + 1 < known {
            (entry.figures.day, entry.figures.today) = (day, 0);
            (entry.granted, entry.asked) = (0, 0);
        }
        entry
    }

    /// Writes down what was counted since the last time.
    pub fn write_down(&self) {
        let mut changes = Vec::new();
        let mut all = self.lock();
        for (id, counted) in all.iter_mut() {
            if counted.batches == 0 {
                // What they did not use is given back.
                counted.granted = counted.figures.today;
                counted.asked = counted.figures.today;
            }
            let now = counted.to_write();
            if now != counted.written {
                counted.written = now;
                changes.push(put(use_key(id), &now, Expect::Any));
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

    fn lock(&self) -> All<'_> {
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
