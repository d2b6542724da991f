//! Datagrams of DNS: answers within the budget of their source network. Over it, some clients are sent
//! to TCP and the others get nothing.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Channel, Replies, Responder, asked, shorten};
use crate::clock::Now;
use crate::metrics::{Cell, Protocol, Reason, Transport};
use crate::notices::{self, Asked};
use crate::server::budget::{Budget, Proven};
use crate::server::datagram::{BATCH, Buffers, Front, Incoming, Outgoing, Peer, Place};

/// What is spoken here.
const FRONT: notices::Front = (Protocol::Dns, Transport::Udp);

/// Answers the datagrams of one worker.
#[derive(Debug)]
pub struct Datagrams {
    responder: Responder,
    budget: Budget,
    /// Networks exempt from the budget.
    proven: Arc<Proven>,
    /// Every so many-th answer over the budget is a short one; 0: none.
    slip: u32,
    replies: Replies,
    /// Short answers.
    short: Vec<u8>,
}

impl Datagrams {
    /// What answers at one socket.
    #[must_use]
    pub fn new(responder: Responder, budget: Budget, proven: Arc<Proven>, slip: u32) -> Self {
        Self {
            responder,
            budget,
            proven,
            slip,
            replies: Replies::default(),
            short: Vec::new(),
        }
    }

    /// Queues what the budgets of the source networks allow.
    fn guard<S: Peer>(
        &mut self,
        incoming: &[Incoming<S>],
        places: &[usize],
        now: Now,
        outgoing: &mut Vec<Outgoing<S>>,
    ) {
        let cell = self.responder.cell();
        for (answer, place) in self.replies.answers().zip(places) {
            let (Some(answer), Some(incoming)) = (answer, incoming.get(*place)) else {
                continue;
            };
            let client = incoming.peer.address().ip();
            let mut send = |octets: std::ops::Range<usize>, place| {
                cell.sent_bytes.add(octets.len() as u64);
                outgoing.push(Outgoing {
                    octets,
                    place,
                    to: incoming.peer,
                    from: incoming.local,
                });
            };
            if answer.proven
                || self
                    .budget
                    .take(client, answer.octets.len(), now.instant, &self.proven)
            {
                send(answer.octets.clone(), Place::Whole);
            } else if self.slip > 0
                && self
                    .budget
                    .refused(client, now.instant)
                    .is_multiple_of(self.slip)
            {
                let start = self.short.len();
                let whole = &self.replies.octets()[answer.octets.clone()];
                self.short.extend_from_slice(whole);
                shorten(&mut self.short, start, answer.options);
                send(start..self.short.len(), Place::Piece);
            } else {
                cell.dropped(Reason::RateLimited).add(1);
                let limited = notices::Reason::RateLimited;
                notices::refused(FRONT, limited, client, now.unix_seconds);
            }
        }
    }
}

impl Front for Datagrams {
    const FRONT: notices::Front = FRONT;

    fn answer<S: Peer>(
        &mut self,
        incoming: &[Incoming<S>],
        buffers: &Buffers,
        now: Now,
        outgoing: &mut Vec<Outgoing<S>>,
    ) {
        self.short.clear();
        let mut requests: [(&[u8], IpAddr); BATCH] = [(&[], IpAddr::from([0; 4])); BATCH];
        let mut places = [0; BATCH];
        let mut count = 0;
        for (place, (came, buffer)) in incoming.iter().zip(buffers).enumerate() {
            let cell = self.responder.cell();
            cell.received_bytes.add(came.length as u64);
            let peer = came.peer.address();
            if came.cut {
                cell.dropped(Reason::TooLarge).add(1);
            } else if peer.port() == 0 {
                // Nobody can be answered there.
                cell.dropped(Reason::Malformed).add(1);
            } else {
                requests[count] = (&buffer[..came.length], peer.ip());
                places[count] = place;
                count += 1;
            }
        }
        let replies = &mut self.replies;
        self.responder
            .respond(&requests[..count], Channel::Udp, now, replies);
        self.guard(incoming, &places[..count], now, outgoing);
    }

    fn octets(&self, place: Place) -> &[u8] {
        match place {
            Place::Whole => self.replies.octets(),
            Place::Piece => &self.short,
        }
    }

    fn cell(&self) -> &Cell {
        self.responder.cell()
    }

    fn asked(datagram: &[u8]) -> Asked<'_> {
        asked(datagram)
    }
}
