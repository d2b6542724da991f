//! Who is next: source networks take turns, so that one that asks for much waits for itself.

use std::collections::{HashMap, VecDeque};

use crate::registry::source::Source;

/// As many requests of connections are taken up before one datagram, whose sender may be forged.
const STREAMS_FIRST: u32 = 7;

/// What waits, by where it comes from.
#[derive(Debug)]
struct Lane<W> {
    waiting: HashMap<Source, VecDeque<W>, foldhash::fast::RandomState>,
    /// Those with something that waits, in the order of their turns.
    order: VecDeque<Source>,
}

impl<W> Default for Lane<W> {
    fn default() -> Self {
        Self {
            waiting: HashMap::default(),
            order: VecDeque::new(),
        }
    }
}

impl<W> Lane<W> {
    fn push(&mut self, source: Source, work: W) {
        let waiting = self.waiting.entry(source).or_default();
        if waiting.is_empty() {
            self.order.push_back(source);
        }
        waiting.push_back(work);
    }

    fn pop(&mut self) -> Option<W> {
        let source = self.order.pop_front()?;
        let waiting = self.waiting.get_mut(&source)?;
        let work = waiting.pop_front();
        if waiting.is_empty() {
            self.waiting.remove(&source);
        } else {
            self.order.push_back(source);
        }
        work
    }
}

/// Requests that wait for a thread.
#[derive(Debug)]
pub(super) struct Turns<W> {
    streams: Lane<W>,
    datagrams: Lane<W>,
    /// Streams taken since the last datagram.
    taken: u32,
}

impl<W> Default for Turns<W> {
    fn default() -> Self {
        Self {
            streams: Lane::default(),
            datagrams: Lane::default(),
            taken: 0,
        }
    }
}

impl<W> Turns<W> {
    pub(super) fn push(&mut self, source: Source, work: W) {
        match source.is_claimed() {
            false => self.streams.push(source, work),
            true => self.datagrams.push(source, work),
        }
    }

    pub(super) fn pop(&mut self) -> Option<W> {
        if self.taken < STREAMS_FIRST
            && let Some(work) = self.streams.pop()
        {
            self.taken += 1;
            return Some(work);
        }
        self.taken = 0;
        self.datagrams.pop().or_else(|| self.streams.pop())
    }

    /// How much of a source waits.
    pub(super) fn waiting(&self, source: Source) -> usize {
        let lane = match source.is_claimed() {
            false => &self.streams,
            true => &self.datagrams,
        };
        lane.waiting.get(&source).map_or(0, VecDeque::len)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::registry::source::Sender;

    fn source(number: u8) -> Source {
        Sender::proven(IpAddr::from([10, 0, number, 1])).source()
    }

    /// Goal: who comes after a flood of others is next but one; what is forged comes last, but comes.
    #[test]
    fn networks_take_turns() {
        let mut turns = Turns::default();
        let forged = Sender::claimed(IpAddr::from([10, 0, 9, 1])).source();
        (0..100).for_each(|number| turns.push(source(1), number));
        (0..100).for_each(|number| turns.push(forged, 500 + number));
        turns.push(source(2), 1000);
        assert_eq!(turns.waiting(source(1)), 100);
        let taken: Vec<i32> = (0..9).filter_map(|_| turns.pop()).collect();
        assert_eq!(taken, [0, 1000, 1, 2, 3, 4, 5, 500, 6]);
        assert_eq!(std::iter::from_fn(|| turns.pop()).count(), 192);
        assert_eq!(turns.waiting(source(1)), 0);
    }
}
