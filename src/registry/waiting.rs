//! Answers that wait for their turn, because too many before them were wrong: see [`super::throttle`].
//!
//! Pure data: who waits says when they are gone, and the caller says what time it is.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::auth::Identity;
use super::source::Sender;
use super::throttle::{Attempt, Throttle};

/// How long anybody waits: half of what clients do.
pub const WAIT_MAX: Duration = Duration::from_secs(30);
/// Answers that wait for one identity from one network: as many as have their turn within that time.
pub const LINE_MAX: usize = 30;
/// Answers that wait in all.
pub const WAITING_MAX: usize = 1_024;
/// Answers from one network that wait, for whatever identities: however many it makes up, there is room for others.
pub const NETWORK_MAX: usize = WAITING_MAX / 4;

/// One that waits.
#[derive(Debug)]
struct Entry<T> {
    identity: Identity,
    sender: Sender,
    guessable: bool,
    since: Instant,
    item: T,
}

impl<T> Entry<T> {
    fn attempt(&self) -> Attempt<'_> {
        Attempt {
            identity: &self.identity,
            sender: self.sender,
            guessable: self.guessable,
        }
    }

    fn is_in_line_with(&self, attempt: Attempt<'_>) -> bool {
        self.identity == *attempt.identity && self.is_beside(attempt)
    }

    /// Whether both come from one network.
    fn is_beside(&self, attempt: Attempt<'_>) -> bool {
        self.sender.source() == attempt.sender.source()
    }
}

/// The lines.
#[derive(Debug)]
pub struct Waiting<T> {
    /// In the order in which they came.
    entries: Vec<Entry<T>>,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
        }
    }
}

/// Who leaves the line.
#[derive(Debug, PartialEq, Eq)]
pub enum Leaves<T> {
    /// It is their turn.
    Turn(T),
    /// They have waited for too long.
    Late(T),
}

impl<T> Waiting<T> {
    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Puts somebody into their line. Gives back who finds no room: them, or, when they have failed less lately, the one
    /// who has failed most and came last.
    #[must_use]
    pub fn join(
        &mut self,
        attempt: Attempt<'_>,
        item: T,
        throttle: &Throttle,
        now: Instant,
    ) -> Option<T> {
        let all = self.entries.iter();
        let full = self.entries.len() >= WAITING_MAX;
        let beside = all.clone().filter(|entry| entry.is_beside(attempt)).count();
        let in_line = all.filter(|entry| entry.is_in_line_with(attempt)).count();
        let crowded = beside >= NETWORK_MAX;
        let mut out = None;
        if full || crowded || in_line >= LINE_MAX {
            // Whose place it could be: the nearer they are, the sooner it is theirs.
            let rivals = |entry: &Entry<T>| match (in_line >= LINE_MAX, crowded) {
                (true, _) => entry.is_in_line_with(attempt),
                (_, true) => entry.is_beside(attempt),
                _ => true,
            };
            let standing = |entry: &Entry<T>| throttle.standing(entry.attempt(), now);
            let places = self.entries.iter().enumerate();
            let worst = places
                .filter(|(_, entry)| rivals(entry))
                .map(|(place, entry)| (standing(entry), place))
                .max_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            match worst {
                Some((worst, place)) if worst > throttle.standing(attempt, now) => {
                    out = Some(self.entries.remove(place).item);
                }
                _ => return Some(item),
            }
        }
        self.entries.push(Entry {
            identity: attempt.identity.clone(),
            sender: attempt.sender,
            guessable: attempt.guessable,
            since: now,
            item,
        });
        out
    }

    /// Who leaves now: of each line at most one whose turn it is, and all who are late or `gone`, who are not heard.
    pub fn leave(
        &mut self,
        throttle: &Throttle,
        now: Instant,
        gone: impl Fn(&T) -> bool,
    ) -> Vec<Leaves<T>> {
        let mut order: Vec<(f64, usize)> = (self.entries.iter().enumerate())
            .map(|(place, entry)| (throttle.standing(entry.attempt(), now), place))
            .collect();
        order.sort_by(|a, b| match a.0.total_cmp(&b.0) {
            Ordering::Equal => a.1.cmp(&b.1),
            other => other,
        });
        let mut served = HashSet::new();
        let (mut turns, mut late) = (HashSet::new(), HashSet::new());
        for (_, place) in order {
            let Some(entry) = self.entries.get(place) else {
                continue;
            };
            let line = (entry.identity.clone(), entry.sender.source());
            if gone(&entry.item) {
                late.insert(place);
            } else if !served.contains(&line) && throttle.allows(entry.attempt(), now) {
                served.insert(line);
                turns.insert(place);
            } else if now.saturating_duration_since(entry.since) >= WAIT_MAX {
                late.insert(place);
            }
        }
        let mut left = Vec::new();
        let entries = std::mem::take(&mut self.entries);
        for (place, entry) in entries.into_iter().enumerate() {
            match (turns.contains(&place), late.contains(&place)) {
                (true, _) => left.push(Leaves::Turn(entry.item)),
                (_, true) => left.push(Leaves::Late(entry.item)),
                _ => self.entries.push(entry),
            }
        }
        left
    }

    /// Everybody leaves.
    pub fn close(&mut self) -> Vec<T> {
        let entries = std::mem::take(&mut self.entries);
        entries.into_iter().map(|entry| entry.item).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn owner() -> Identity {
        Identity {
            handle: b"0.NA/1".to_vec(),
            index: 301,
        }
    }

    fn at(identity: &Identity, host: u8) -> Attempt<'_> {
        Attempt {
            identity,
            sender: Sender::proven(IpAddr::from([10, 0, 0, host])),
            guessable: true,
        }
    }

    /// Goal: the owner who comes while somebody next door guesses on has their turn within seconds, and at the same
    /// address within the turns of those before; guesses are heard once a second.
    #[test]
    fn owners_have_their_turn() {
        let (throttle, owner, start) = (Throttle::default(), owner(), Instant::now());
        let mut waiting = Waiting::default();
        for _ in 0..10 {
            throttle.failed(at(&owner, 5), start);
        }
        let (mut guesses, mut turns) = (0, Vec::new());
        for tick in 0..400_u32 {
            let now = start + Duration::from_millis(50) * tick;
            while waiting.entries.len() < 3 {
                assert!(
                    waiting
                        .join(at(&owner, 5), "guess", &throttle, now)
                        .is_none()
                );
            }
            if tick == 100 {
                assert!(
                    waiting
                        .join(at(&owner, 9), "next door", &throttle, now)
                        .is_none()
                );
                assert!(
                    waiting
                        .join(at(&owner, 5), "same address", &throttle, now)
                        .is_none()
                );
            }
            for left in waiting.leave(&throttle, now, |_| false) {
                match left {
                    Leaves::Turn("guess") => {
                        guesses += 1;
                        throttle.failed(at(&owner, 5), now);
                    }
                    Leaves::Turn(who) => turns.push((who, tick)),
                    Leaves::Late(who) => panic!("{who} is late"),
                }
            }
        }
        assert!((18..=21).contains(&guesses), "{guesses} in 20 seconds");
        let tick = |who| turns.iter().find(|(is, _)| *is == who).expect("a turn").1;
        assert!(tick("next door") <= 120, "{turns:?}");
        assert!(tick("same address") <= 180, "{turns:?}");
    }

    /// Goal: lines are bounded; who has not failed finds room in one that is full of those who have, and who is late or
    /// gone leaves.
    #[test]
    fn lines_are_bounded() {
        let (throttle, owner, now) = (Throttle::default(), owner(), Instant::now());
        let mut waiting = Waiting::default();
        for _ in 0..50 {
            throttle.failed(at(&owner, 5), now);
        }
        for guess in 0..LINE_MAX {
            assert_eq!(waiting.join(at(&owner, 5), guess, &throttle, now), None);
        }
        assert_eq!(waiting.join(at(&owner, 5), 100, &throttle, now), Some(100));
        assert_eq!(
            waiting.join(at(&owner, 9), 101, &throttle, now),
            Some(LINE_MAX - 1)
        );
        let left = waiting.leave(&throttle, now, |item| *item == 0);
        assert_eq!(left, [Leaves::Late(0)], "who is gone");
        assert_eq!(waiting.entries.len(), LINE_MAX - 1);
        let later = now + WAIT_MAX;
        let left = waiting.leave(&throttle, later, |_| false);
        assert_eq!(left.len(), LINE_MAX - 1);
        assert!(waiting.is_empty());
    }

    /// Goal: whoever makes identities up fills no more than the share of their network.
    #[test]
    fn a_network_has_its_share() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let mut waiting = Waiting::default();
        let turned_away = (0..2_000_u32)
            .filter(|index| {
                let made_up = Identity {
                    index: *index,
                    ..owner()
                };
                waiting
                    .join(at(&made_up, 5), *index, &throttle, now)
                    .is_some()
            })
            .count();
        assert_eq!(turned_away, 2_000 - NETWORK_MAX);
        let owner = owner();
        let elsewhere = Attempt {
            sender: Sender::proven(IpAddr::from([10, 0, 1, 1])),
            ..at(&owner, 5)
        };
        assert_eq!(waiting.join(elsewhere, 9_999, &throttle, now), None);
    }
}
