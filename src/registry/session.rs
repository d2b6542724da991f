//! Challenges and sessions of the whole node, by session id: reference clients open a new
//! connection for each request.
//!
//! Both tables are bounded, per source network and in all. A network that opens too many loses its
//! own oldest ones, not those of others.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiexi_proto::Envelope;
use jiexi_proto::limits::{NONCE_SIZE, REPLAY_WINDOW};
use zeroize::Zeroizing;

use super::auth::{Authenticated, Identity};
use super::source::Source;

/// How much is held, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a challenge may be answered, and an answered change be asked for again.
    pub auth_time: Duration,
    /// How long a session lasts at most.
    pub session_time: Duration,
    /// Challenges in all: each holds the request it is about.
    pub challenges: usize,
    /// Challenges of one source network.
    pub challenges_per_source: usize,
    /// Octets of requests that wait for an answer to their challenge, in all.
    pub challenge_bytes: usize,
    /// Octets of one source network's.
    pub challenge_bytes_per_source: usize,
    /// Sessions in all.
    pub sessions: usize,
    /// Sessions of one source network.
    pub sessions_per_source: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            auth_time: Duration::from_secs(60),
            session_time: Duration::from_secs(24 * 60 * 60),
            challenges: 100_000,
            challenges_per_source: 10_000,
            challenge_bytes: 64 << 20,
            challenge_bytes_per_source: 8 << 20,
            sessions: 20_000,
            sessions_per_source: 2_000,
        }
    }
}

/// Challenges that wait for their answers within one session.
pub const PENDING_MAX: usize = 8;

/// A request that waits for proof of who asks.
#[derive(Clone, Debug)]
pub struct Challenge {
    /// What the proof is about, before the digest.
    pub nonce: [u8; NONCE_SIZE],
    /// The digest of the request's header and body, without the octet that names its hash.
    pub digest: Bytes,
    /// The envelope of the request.
    pub envelope: Envelope,
    /// The request after its envelope, in clear.
    pub content: Bytes,
    /// When it was made.
    pub made: Instant,
}

impl Challenge {
    /// What a proof covers.
    #[must_use]
    pub fn asked(&self) -> Vec<u8> {
        [&self.nonce[..], &self.digest].concat()
    }
}

/// What becomes of an id that is looked up.
#[derive(Debug)]
pub enum Found<T> {
    /// It is there.
    There(T),
    /// It was, but its time is over.
    TooLate,
    /// It never was, or is long gone.
    Unknown,
}

/// A session. `Debug` does not show its key.
pub struct Session {
    /// The key that both sides have agreed on.
    pub key: Zeroizing<Vec<u8>>,
    /// Who the client said it would be when it opened the session; none for anonymous.
    pub declared: Option<Identity>,
    /// Who has been proved.
    pub authenticated: Option<Authenticated>,
    /// Counters that came.
    window: Window,
    /// The last counter that was sent.
    sent: u32,
    /// Requests that wait for proof.
    pub pending: VecDeque<Challenge>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("declared", &self.declared)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// A session with this key.
    #[must_use]
    pub const fn new(key: Zeroizing<Vec<u8>>, declared: Option<Identity>) -> Self {
        Self {
            key,
            declared,
            authenticated: None,
            window: Window::new(),
            sent: 0,
            pending: VecDeque::new(),
        }
    }

    /// Takes a counter that came with a right MAC; false when it came before, or is too old.
    pub fn accept(&mut self, counter: u32) -> bool {
        self.window.accept(counter)
    }

    /// The counter of the next message to send.
    pub const fn next_counter(&mut self) -> u32 {
        self.sent = self.sent.wrapping_add(1);
        self.sent
    }

    /// Keeps a challenge; the oldest gives way.
    pub fn ask(&mut self, challenge: Challenge) {
        if self.pending.len() >= PENDING_MAX {
            self.pending.pop_front();
        }
        self.pending.push_back(challenge);
    }
}

/// Counters that came: the highest, and which of those below it.
///
/// Counter 0 is never accepted: clients count from 1, and a message that carries 0 could be sent
/// again for ever. The reference server does not check it.
#[derive(Clone, Copy, Debug)]
struct Window {
    highest: u32,
    /// Bit n: `highest - n` came.
    seen: [u64; 4],
}

impl Window {
    const fn new() -> Self {
        Self {
            highest: 0,
            seen: [0; 4],
        }
    }

    fn accept(&mut self, counter: u32) -> bool {
        if counter == 0 || i32::try_from(counter).is_err() {
            return false;
        }
        if counter > self.highest {
            self.shift(counter - self.highest);
            self.highest = counter;
            self.seen[0] |= 1;
            return true;
        }
        let age = self.highest - counter;
        if age >= REPLAY_WINDOW {
            return false;
        }
        let (word, bit) = (age as usize / 64, 1 << (age % 64));
        let fresh = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        fresh
    }

    fn shift(&mut self, by: u32) {
        if by >= 256 {
            self.seen = [0; 4];
            return;
        }
        let (words, bits) = (by as usize / 64, by % 64);
        for to in (0..4).rev() {
            let high = if to >= words {
                self.seen[to - words] << bits
            } else {
                0
            };
            let low = match bits {
                0 => 0,
                _ if to > words => self.seen[to - words - 1] >> (64 - bits),
                _ => 0,
            };
            self.seen[to] = high | low;
        }
    }
}

/// A session in the table.
#[derive(Debug)]
struct Slot {
    session: Arc<Mutex<Session>>,
    source: Source,
    expires: Instant,
}

/// What one source network holds.
#[derive(Debug, Default)]
struct Share {
    challenges: VecDeque<u32>,
    bytes: usize,
    sessions: VecDeque<u32>,
}

#[derive(Debug, Default)]
struct Inner {
    challenges: HashMap<u32, (Challenge, Source), foldhash::fast::RandomState>,
    /// In the order in which they were made, and so in that in which they end.
    order: VecDeque<(u32, Instant)>,
    bytes: usize,
    sessions: HashMap<u32, Slot, foldhash::fast::RandomState>,
    shares: HashMap<Source, Share, foldhash::fast::RandomState>,
    swept: Option<Instant>,
}

/// The challenges and sessions of the node.
#[derive(Debug)]
pub struct Table {
    limits: Limits,
    inner: Mutex<Inner>,
}

/// The table is full and nothing in it may give way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// How often sessions are looked through for those that have ended.
const SWEEP: Duration = Duration::from_secs(30);

impl Table {
    /// An empty table.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            inner: Mutex::default(),
        }
    }

    /// Keeps a challenge under a new id. `draw` gives random ids.
    ///
    /// # Errors
    /// The table is full, or there is no randomness.
    pub fn ask(
        &self,
        challenge: Challenge,
        source: Source,
        mut draw: impl FnMut() -> Option<u32>,
    ) -> Result<u32, Full> {
        let mut inner = self.lock();
        inner.expire(challenge.made, &self.limits);
        let size = challenge.content.len();
        let limits = &self.limits;
        if size > limits.challenge_bytes_per_source {
            return Err(Full);
        }
        while let Some(share) = inner.shares.get(&source)
            && (share.challenges.len() >= limits.challenges_per_source
                || share.bytes + size > limits.challenge_bytes_per_source)
        {
            inner.drop_oldest_challenge(source);
        }
        while inner.challenges.len() >= limits.challenges
            || inner.bytes + size > limits.challenge_bytes
        {
            // The network that holds most gives way, even when it is not the one that asks.
            let heaviest = inner
                .shares
                .iter()
                .max_by_key(|(_, share)| (share.bytes, share.challenges.len()));
            let heaviest = heaviest.map(|(source, _)| *source).ok_or(Full)?;
            if !inner.drop_oldest_challenge(heaviest) {
                return Err(Full);
            }
        }
        let id = inner.free_id(&mut draw)?;
        inner.order.push_back((id, challenge.made));
        inner.bytes += size;
        let share = inner.shares.entry(source).or_default();
        share.bytes += size;
        share.challenges.push_back(id);
        inner.challenges.insert(id, (challenge, source));
        Ok(id)
    }

    /// Takes a challenge out: it can be answered once.
    #[must_use]
    pub fn answered(&self, id: u32, now: Instant) -> Found<Challenge> {
        let mut inner = self.lock();
        let Some(challenge) = inner.remove_challenge(id) else {
            return Found::Unknown;
        };
        if now.saturating_duration_since(challenge.made) > self.limits.auth_time {
            Found::TooLate
        } else {
            Found::There(challenge)
        }
    }

    /// Whether a challenge has this id.
    #[must_use]
    pub fn is_challenge(&self, id: u32) -> bool {
        self.lock().challenges.contains_key(&id)
    }

    /// Opens a session for at most `asked`.
    ///
    /// # Errors
    /// The table is full, or there is no randomness.
    pub fn open(
        &self,
        session: Session,
        source: Source,
        asked: Duration,
        now: Instant,
        mut draw: impl FnMut() -> Option<u32>,
    ) -> Result<u32, Full> {
        let mut inner = self.lock();
        inner.expire(now, &self.limits);
        let held = inner
            .shares
            .get(&source)
            .map_or(0, |share| share.sessions.len());
        if held >= self.limits.sessions_per_source {
            inner.drop_idle_session(source).ok_or(Full)?;
        }
        if inner.sessions.len() >= self.limits.sessions {
            let heaviest = inner
                .shares
                .iter()
                .max_by_key(|(_, share)| share.sessions.len());
            let heaviest = heaviest.map(|(source, _)| *source).ok_or(Full)?;
            inner.drop_idle_session(heaviest).ok_or(Full)?;
        }
        let id = inner.free_id(&mut draw)?;
        let slot = Slot {
            session: Arc::new(Mutex::new(session)),
            source,
            expires: now + asked.min(self.limits.session_time),
        };
        inner.sessions.insert(id, slot);
        inner
            .shares
            .entry(source)
            .or_default()
            .sessions
            .push_back(id);
        Ok(id)
    }

    /// The session with this id.
    #[must_use]
    pub fn session(&self, id: u32, now: Instant) -> Option<Arc<Mutex<Session>>> {
        let mut inner = self.lock();
        let slot = inner.sessions.get(&id)?;
        if slot.expires <= now {
            inner.remove_session(id);
            return None;
        }
        Some(Arc::clone(&slot.session))
    }

    /// Closes a session.
    pub fn close(&self, id: u32) {
        self.lock().remove_session(id);
    }

    /// How many sessions are open.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.lock().sessions.len()
    }

    /// How many challenges wait.
    #[must_use]
    pub fn challenges(&self) -> usize {
        self.lock().challenges.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// A random id that nobody has; never 0, and positive for clients that read it as signed.
    fn free_id(&self, draw: &mut impl FnMut() -> Option<u32>) -> Result<u32, Full> {
        loop {
            let id = draw().ok_or(Full)? & (u32::MAX >> 1);
            if id != 0 && !self.challenges.contains_key(&id) && !self.sessions.contains_key(&id) {
                return Ok(id);
            }
        }
    }

    /// Forgets what is over. A challenge is kept a while longer, to say "too late" instead of "unknown".
    fn expire(&mut self, now: Instant, limits: &Limits) {
        while let Some((id, made)) = self.order.front().copied() {
            let live = self.challenges.contains_key(&id);
            if live && now.saturating_duration_since(made) <= limits.auth_time * 2 {
                break;
            }
            self.order.pop_front();
            self.remove_challenge(id);
        }
        if self
            .swept
            .is_some_and(|swept| now.saturating_duration_since(swept) < SWEEP)
        {
            return;
        }
        self.swept = Some(now);
        let over = self.sessions.iter().filter(|(_, slot)| slot.expires <= now);
        let over: Vec<u32> = over.map(|(id, _)| *id).collect();
        over.into_iter().for_each(|id| self.remove_session(id));
    }

    fn remove_challenge(&mut self, id: u32) -> Option<Challenge> {
        let (challenge, source) = self.challenges.remove(&id)?;
        self.bytes -= challenge.content.len();
        if let Some(share) = self.shares.get_mut(&source) {
            share.bytes -= challenge.content.len();
            if share.challenges.front() == Some(&id) {
                share.challenges.pop_front();
            } else {
                share.challenges.retain(|held| *held != id);
            }
        }
        self.tidy(source);
        Some(challenge)
    }

    fn drop_oldest_challenge(&mut self, source: Source) -> bool {
        let share = self.shares.get(&source);
        let oldest = share.and_then(|share| share.challenges.front().copied());
        oldest.is_some_and(|id| self.remove_challenge(id).is_some())
    }

    fn remove_session(&mut self, id: u32) {
        let Some(slot) = self.sessions.remove(&id) else {
            return;
        };
        if let Some(share) = self.shares.get_mut(&slot.source) {
            share.sessions.retain(|held| *held != id);
        }
        self.tidy(slot.source);
    }

    /// Drops the oldest session of a network in which nobody has been proved.
    fn drop_idle_session(&mut self, source: Source) -> Option<()> {
        let share = self.shares.get(&source)?;
        let idle = share.sessions.iter().copied().find(|id| {
            self.sessions.get(id).is_some_and(|slot| {
                // A session at work is not idle.
                slot.session
                    .try_lock()
                    .is_ok_and(|session| session.authenticated.is_none())
            })
        })?;
        self.remove_session(idle);
        Some(())
    }

    fn tidy(&mut self, source: Source) {
        if let Some(share) = self.shares.get(&source)
            && share.challenges.is_empty()
            && share.sessions.is_empty()
        {
            self.shares.remove(&source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: u8) -> Source {
        Source::of(std::net::IpAddr::from([10, 0, number, 1]))
    }

    fn limits() -> Limits {
        Limits {
            challenges: 6,
            challenges_per_source: 4,
            challenge_bytes: 1000,
            challenge_bytes_per_source: 500,
            sessions: 6,
            sessions_per_source: 4,
            ..Limits::default()
        }
    }

    fn challenge(size: usize, made: Instant) -> Challenge {
        Challenge {
            nonce: [1; NONCE_SIZE],
            digest: Bytes::new(),
            envelope: Envelope::default(),
            content: Bytes::from(vec![0; size]),
            made,
        }
    }

    fn counting() -> impl FnMut() -> Option<u32> {
        let mut next = 0;
        move || {
            next += 1;
            Some(next)
        }
    }

    #[test]
    fn a_counter_is_accepted_once_and_not_when_it_is_old() {
        let mut window = Window::new();
        assert!(!window.accept(0));
        for counter in [1, 3, 2, 300, 299, 101, 1000, 801] {
            assert!(window.accept(counter), "{counter}");
            assert!(!window.accept(counter), "{counter} again");
        }
        for counter in [800, 300, 1, u32::MAX] {
            assert!(!window.accept(counter), "{counter}");
        }
        let mut window = Window::new();
        for counter in 1..2000 {
            assert!(window.accept(counter));
            assert!(!window.accept(counter.saturating_sub(63).max(1)) || counter < 2);
        }
    }

    #[test]
    fn a_flood_displaces_only_its_own_network() {
        let (table, now) = (Table::new(limits()), Instant::now());
        let mut draw = counting();
        let mine = table.ask(challenge(10, now), source(1), &mut draw).unwrap();
        for _ in 0..100 {
            table.ask(challenge(10, now), source(2), &mut draw).unwrap();
        }
        for _ in 0..100 {
            table
                .ask(challenge(120, now), source(3), &mut draw)
                .unwrap();
        }
        assert!(table.challenges() <= 6);
        assert!(matches!(table.answered(mine, now), Found::There(_)));
        assert!(
            matches!(table.answered(mine, now), Found::Unknown),
            "a challenge is answered once"
        );

        let new = || Session::new(Zeroizing::new(vec![0; 32]), None);
        let hour = Duration::from_secs(3600);
        let mine = table.open(new(), source(1), hour, now, &mut draw).unwrap();
        for number in 2..5 {
            for _ in 0..20 {
                table
                    .open(new(), source(number), hour, now, &mut draw)
                    .unwrap();
            }
        }
        assert!(table.sessions() <= 6);
        assert!(table.session(mine, now).is_some());
        assert!(table.session(mine, now + hour).is_none(), "sessions end");
    }

    #[test]
    fn challenges_end() {
        let (table, now) = (Table::new(limits()), Instant::now());
        let mut draw = counting();
        let id = table.ask(challenge(1, now), source(1), &mut draw).unwrap();
        assert!(matches!(
            table.answered(id, now + Duration::from_secs(61)),
            Found::TooLate
        ));
        let id = table.ask(challenge(1, now), source(1), &mut draw).unwrap();
        table
            .ask(
                challenge(1, now + Duration::from_secs(121)),
                source(1),
                &mut draw,
            )
            .unwrap();
        assert!(matches!(table.answered(id, now), Found::Unknown));
        assert_eq!(table.challenges(), 1);
    }
}
