//! Challenges and sessions of the whole node, by session id: reference clients open a new
//! connection for each request.
//!
//! Both are bounded, per source network and in all, in number and, where they hold requests, in
//! octets. When there are too many, sources that are only claimed give way first, then the networks
//! that hold most, each losing its own oldest: a flood displaces itself.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiexi_proto::limits::NONCE_SIZE;

use super::session::{Challenge, PENDING_MAX, Session};
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

/// A challenge in the table.
#[derive(Debug)]
struct Asked {
    challenge: Challenge,
    source: Source,
    /// It was asked within a session, and only an answer within that session counts.
    within: bool,
}

/// A session in the table.
#[derive(Debug)]
struct Slot {
    session: Arc<Mutex<Session>>,
    source: Source,
    expires: Instant,
    used: Instant,
}

/// What one source network holds, with the numbers under which it came.
#[derive(Debug, Default)]
struct Share {
    challenges: VecDeque<(u64, u32)>,
    bytes: usize,
    sessions: VecDeque<(u64, u32)>,
}

/// Who gives way: the last in this order. Networks that hold about as much as each other are
/// ordered by age, so that among many the oldest goes, and not always the same network's.
type Rank = (bool, u32, Reverse<u64>, Source);

impl Share {
    /// The place among those who hold challenges.
    fn of_challenges(&self, source: Source) -> Option<Rank> {
        let weight = self.bytes / 1024 + self.challenges.len();
        rank(source, weight, &self.challenges)
    }

    /// The place among those who hold sessions.
    fn of_sessions(&self, source: Source) -> Option<Rank> {
        rank(source, self.sessions.len(), &self.sessions)
    }
}

fn rank(source: Source, weight: usize, held: &VecDeque<(u64, u32)>) -> Option<Rank> {
    let (oldest, _) = held.front()?;
    let size = weight.max(1).ilog2();
    Some((source.is_claimed(), size, Reverse(*oldest), source))
}

#[derive(Debug, Default)]
struct Inner {
    challenges: HashMap<u32, Asked, foldhash::fast::RandomState>,
    /// In the order in which they were made, and so in that in which they end.
    order: VecDeque<(u32, Instant)>,
    bytes: usize,
    sessions: HashMap<u32, Slot, foldhash::fast::RandomState>,
    shares: HashMap<Source, Share, foldhash::fast::RandomState>,
    /// The networks with challenges and those with sessions, by who gives way.
    by_challenges: BTreeSet<Rank>,
    by_sessions: BTreeSet<Rank>,
    /// The number of the next challenge or session.
    next: u64,
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
        inner.keep(challenge, source, false, &self.limits, &mut draw)
    }

    /// Keeps a challenge within a session, whose oldest gives way, and says its nonce. A request
    /// that was challenged already is not challenged anew.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn ask_within(
        &self,
        session: &mut Session,
        challenge: Challenge,
        source: Source,
        mut draw: impl FnMut() -> Option<u32>,
    ) -> Result<[u8; NONCE_SIZE], Full> {
        let mut inner = self.lock();
        session
            .pending
            .retain(|id| inner.challenges.contains_key(id));
        let pending = session
            .pending
            .iter()
            .filter_map(|id| inner.challenges.get(id));
        let mut pending = pending.map(|asked| &asked.challenge);
        let now = challenge.made;
        let same =
            pending.find(|other| other.digest == challenge.digest && !self.is_late(other, now));
        if let Some(same) = same {
            return Ok(same.nonce);
        }
        while session.pending.len() >= PENDING_MAX
            && let Some(oldest) = session.pending.pop_front()
        {
            inner.remove_challenge(oldest);
        }
        let nonce = challenge.nonce;
        let id = inner.keep(challenge, source, true, &self.limits, &mut draw)?;
        session.pending.push_back(id);
        Ok(nonce)
    }

    /// The challenges that wait within a session, and may still be answered.
    ///
    /// They are not taken out: [`Self::forget`] does that when one is answered.
    #[must_use]
    pub fn pending(&self, session: &Session, now: Instant) -> Found<Vec<(u32, Challenge)>> {
        let inner = self.lock();
        let held = |id: &u32| Some((*id, inner.challenges.get(id)?.challenge.clone()));
        let mut pending: Vec<(u32, Challenge)> = session.pending.iter().filter_map(held).collect();
        if pending.is_empty() {
            return Found::Unknown;
        }
        pending.retain(|(_, challenge)| !self.is_late(challenge, now));
        match pending.is_empty() {
            true => Found::TooLate,
            false => Found::There(pending),
        }
    }

    /// Takes a challenge of a session out.
    pub fn forget(&self, session: &mut Session, id: u32) {
        session.pending.retain(|pending| *pending != id);
        self.lock().remove_challenge(id);
    }

    /// Takes a challenge out: it can be answered once.
    #[must_use]
    pub fn answered(&self, id: u32, now: Instant) -> Found<Challenge> {
        let mut inner = self.lock();
        let alone = inner.challenges.get(&id).is_some_and(|asked| !asked.within);
        match alone.then(|| inner.remove_challenge(id)).flatten() {
            None => Found::Unknown,
            Some(challenge) if self.is_late(&challenge, now) => Found::TooLate,
            Some(challenge) => Found::There(challenge),
        }
    }

    fn is_late(&self, challenge: &Challenge, now: Instant) -> bool {
        now.saturating_duration_since(challenge.made) > self.limits.auth_time
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
        let share = inner.shares.get(&source);
        if share.map_or(0, |share| share.sessions.len()) >= self.limits.sessions_per_source {
            inner.drop_session_of(source).ok_or(Full)?;
        }
        if inner.sessions.len() >= self.limits.sessions {
            let (.., heaviest) = *inner.by_sessions.last().ok_or(Full)?;
            inner.drop_session_of(heaviest).ok_or(Full)?;
        }
        let id = inner.free_id(&mut draw)?;
        let slot = Slot {
            session: Arc::new(Mutex::new(session)),
            source,
            expires: now + asked.min(self.limits.session_time),
            used: now,
        };
        inner.sessions.insert(id, slot);
        let number = inner.number();
        inner.change(source, |share| share.sessions.push_back((number, id)));
        Ok(id)
    }

    /// A random id that nobody has, for which nothing is kept.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn unused_id(&self, mut draw: impl FnMut() -> Option<u32>) -> Result<u32, Full> {
        self.lock().free_id(&mut draw)
    }

    /// The session with this id.
    #[must_use]
    pub fn session(&self, id: u32, now: Instant) -> Option<Arc<Mutex<Session>>> {
        let mut inner = self.lock();
        let slot = inner.sessions.get_mut(&id)?;
        if slot.expires <= now {
            inner.remove_session(id);
            return None;
        }
        slot.used = now;
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

    /// Octets of the requests that wait.
    #[must_use]
    pub fn challenge_bytes(&self) -> usize {
        self.lock().bytes
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

    const fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Changes what a network holds.
    fn change(&mut self, source: Source, change: impl FnOnce(&mut Share)) {
        let share = self.shares.entry(source).or_default();
        let before = (share.of_challenges(source), share.of_sessions(source));
        change(share);
        let after = (share.of_challenges(source), share.of_sessions(source));
        if share.challenges.is_empty() && share.sessions.is_empty() {
            self.shares.remove(&source);
        }
        exchange(&mut self.by_challenges, before.0, after.0);
        exchange(&mut self.by_sessions, before.1, after.1);
    }

    fn keep(
        &mut self,
        challenge: Challenge,
        source: Source,
        within: bool,
        limits: &Limits,
        draw: &mut impl FnMut() -> Option<u32>,
    ) -> Result<u32, Full> {
        self.expire(challenge.made, limits);
        let size = challenge.content.len();
        self.make_room(source, size, limits)?;
        let id = self.free_id(draw)?;
        self.order.push_back((id, challenge.made));
        self.bytes += size;
        let number = self.number();
        self.change(source, |share| {
            share.bytes += size;
            share.challenges.push_back((number, id));
        });
        let asked = Asked {
            challenge,
            source,
            within,
        };
        self.challenges.insert(id, asked);
        Ok(id)
    }

    /// Makes room for one more challenge of a network.
    fn make_room(&mut self, source: Source, size: usize, limits: &Limits) -> Result<(), Full> {
        if size > limits.challenge_bytes_per_source {
            return Err(Full);
        }
        while let Some(share) = self.shares.get(&source)
            && (share.challenges.len() >= limits.challenges_per_source
                || share.bytes + size > limits.challenge_bytes_per_source)
        {
            self.drop_challenge_of(source).ok_or(Full)?;
        }
        while self.challenges.len() >= limits.challenges
            || self.bytes + size > limits.challenge_bytes
        {
            // The network that holds most gives way, even when it is not the one that asks.
            let (.., heaviest) = *self.by_challenges.last().ok_or(Full)?;
            self.drop_challenge_of(heaviest).ok_or(Full)?;
        }
        Ok(())
    }

    /// Forgets what is over. A challenge is kept a while longer, to say "too late" instead of "unknown".
    fn expire(&mut self, now: Instant, limits: &Limits) {
        while let Some((id, made)) = self.order.front().copied() {
            // The id may have been drawn again for another one.
            let asked = self.challenges.get(&id);
            let live = asked.is_some_and(|asked| asked.challenge.made == made);
            if live && now.saturating_duration_since(made) <= limits.auth_time * 2 {
                break;
            }
            self.order.pop_front();
            if live {
                self.remove_challenge(id);
            }
        }
        let passed = |swept| now.saturating_duration_since(swept);
        if self.swept.is_some_and(|swept| passed(swept) < SWEEP) {
            return;
        }
        self.swept = Some(now);
        let over = self.sessions.iter().filter(|(_, slot)| slot.expires <= now);
        let over: Vec<u32> = over.map(|(id, _)| *id).collect();
        over.into_iter().for_each(|id| self.remove_session(id));
    }

    fn remove_challenge(&mut self, id: u32) -> Option<Challenge> {
        let Asked {
            challenge, source, ..
        } = self.challenges.remove(&id)?;
        let size = challenge.content.len();
        self.bytes -= size;
        self.change(source, |share| {
            share.bytes -= size;
            remove(&mut share.challenges, id);
        });
        Some(challenge)
    }

    fn drop_challenge_of(&mut self, source: Source) -> Option<()> {
        let (_, oldest) = *self.shares.get(&source)?.challenges.front()?;
        self.remove_challenge(oldest).map(drop)
    }

    fn remove_session(&mut self, id: u32) {
        if let Some(slot) = self.sessions.remove(&id) {
            self.change(slot.source, |share| remove(&mut share.sessions, id));
        }
    }

    /// Drops a session of a network: the oldest in which nobody has been proved, or else the one
    /// that was not used for longest. One at work stays.
    fn drop_session_of(&mut self, source: Source) -> Option<()> {
        let mut longest: Option<(Instant, u32)> = None;
        let mut idle = None;
        for (_, id) in &self.shares.get(&source)?.sessions {
            let Some(slot) = self.sessions.get(id) else {
                continue;
            };
            match slot.session.try_lock() {
                Ok(session) if session.authenticated.is_none() => {
                    idle = Some(*id);
                    break;
                }
                Ok(_) if longest.is_none_or(|(used, _)| slot.used < used) => {
                    longest = Some((slot.used, *id));
                }
                _ => {}
            }
        }
        let id = idle.or_else(|| longest.map(|(_, id)| id))?;
        self.remove_session(id);
        Some(())
    }
}

/// Takes one out; the oldest is what is taken out most.
fn remove(held: &mut VecDeque<(u64, u32)>, id: u32) {
    match held.front() {
        Some((_, front)) if *front == id => drop(held.pop_front()),
        _ => held.retain(|(_, other)| *other != id),
    }
}

fn exchange(ranks: &mut BTreeSet<Rank>, before: Option<Rank>, after: Option<Rank>) {
    if before == after {
        return;
    }
    if let Some(before) = before {
        ranks.remove(&before);
    }
    ranks.extend(after);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::source::Sender;
    use bytes::Bytes;
    use jiexi_proto::Envelope;
    use zeroize::Zeroizing;

    fn source(number: u8) -> Source {
        Sender::proven(std::net::IpAddr::from([10, 0, number, 1])).source()
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

    /// Goal: requests that wait within sessions count like all others, and are answered there only.
    #[test]
    fn requests_within_sessions_are_bounded() {
        let (table, now) = (Table::new(limits()), Instant::now());
        let mut draw = counting();
        let named = |number: usize| Challenge {
            digest: Bytes::from(vec![number as u8]),
            nonce: [number as u8; NONCE_SIZE],
            ..challenge(120, now)
        };
        let mut sessions: Vec<Session> = (0..3).map(|_| session()).collect();
        for number in 0..60 {
            let session = &mut sessions[number % 3];
            let nonce = table.ask_within(session, named(number), source(1), &mut draw);
            assert_eq!(nonce, Ok([number as u8; NONCE_SIZE]));
            assert!(table.challenge_bytes() <= 500);
        }
        let again = table.ask_within(&mut sessions[2], named(59), source(1), &mut draw);
        assert_eq!(
            again,
            Ok([59; NONCE_SIZE]),
            "the same request, the same nonce"
        );
        let Found::There(pending) = table.pending(&sessions[2], now) else {
            panic!("nothing waits");
        };
        let (id, asked) = pending.last().unwrap();
        assert_eq!(asked.nonce, [59; NONCE_SIZE]);
        assert!(
            matches!(table.answered(*id, now), Found::Unknown),
            "not from outside"
        );
        let late = now + Duration::from_secs(61);
        assert!(matches!(table.pending(&sessions[2], late), Found::TooLate));
        table.forget(&mut sessions[2], *id);
        let left = table.pending(&sessions[2], now);
        assert!(
            !matches!(left, Found::There(pending) if pending.iter().any(|(other, _)| other == id))
        );
    }

    /// Goal: a flood from forged networks displaces nobody whose address is proven, and among equals
    /// the oldest goes.
    #[test]
    fn forged_sources_give_way_first() {
        let (table, now) = (Table::new(limits()), Instant::now());
        let mut draw = counting();
        let mine = table
            .ask(challenge(10, now), source(250), &mut draw)
            .unwrap();
        for number in 0..200 {
            let forged = Sender::claimed(std::net::IpAddr::from([10, 0, number, 1])).source();
            table.ask(challenge(10, now), forged, &mut draw).unwrap();
        }
        assert!(matches!(table.answered(mine, now), Found::There(_)));
        let ids: Vec<u32> = (0..200)
            .map(|number| {
                table
                    .ask(challenge(10, now), source(number), &mut draw)
                    .unwrap()
            })
            .collect();
        for id in &ids[194..] {
            assert!(
                matches!(table.answered(*id, now), Found::There(_)),
                "the newest are there"
            );
        }
    }

    /// Goal: of sessions in which somebody was proved, the one unused for longest gives way.
    #[test]
    fn proved_sessions_give_way_last() {
        let (table, now) = (Table::new(limits()), Instant::now());
        let mut draw = counting();
        let hour = Duration::from_secs(3600);
        let mut open = |session: Session, later: u64| {
            let now = now + Duration::from_secs(later);
            table
                .open(session, source(1), hour, now, &mut draw)
                .unwrap()
        };
        let proved = || {
            let mut session = session();
            session.authenticated = Some(crate::registry::auth::tests::somebody());
            session
        };
        let ids = [0, 1, 2].map(|later| open(proved(), later));
        let idle = open(session(), 3);
        let used = now + Duration::from_secs(4);
        assert!(table.session(ids[0], used).is_some());
        let fifth = open(session(), 5);
        assert!(table.session(idle, used).is_none(), "the unproved one");
        let sixth = open(proved(), 6);
        assert!(table.session(fifth, used).is_none(), "the unproved one");
        let last = open(proved(), 7);
        let left = |id| table.session(id, used).is_some();
        assert_eq!(
            [ids[0], ids[1], ids[2], sixth, last].map(left),
            [true, false, true, true, true]
        );
    }

    fn session() -> Session {
        Session::new(Zeroizing::new(vec![0; 32]), None)
    }
}
