//! Datagrams of the Handle protocol: whole messages and pieces of long ones, answers within the
//! budget of their source network, and what takes time handed over to the desk.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use jiexi_proto::framing::{Reassembler, ReassemblyLimits, piece_count, split_datagrams};
use jiexi_proto::limits::{DATAGRAM_MAX, ENVELOPE_SIZE};
use jiexi_proto::{Envelope, EnvelopeFlags};

use super::desk::{Job, Sink};
use super::{BATCH, Replies, Responder, asked};
use crate::clock::Now;
use crate::metrics::{Cell, Protocol, Reason, Transport};
use crate::notices::{self, Asked, refused};
use crate::server::budget::{Budget, Proven, Purse};
use crate::server::datagram::{Buffers, Front, Incoming, Outgoing, Peer, Place, send_from};

/// What an answer of the desk costs the budget of its source at least, octets: a signed answer with a site record, and the
/// work that goes into it.
pub(super) const DEFERRED_COST: usize = 1_500;

/// The largest buffer of cut-up answers that is kept between batches.
const KEEP_PIECES: usize = 256 * 1024;

/// Of a datagram that is longer than its buffer, as much is looked at as says whether it is an answer: its envelope, the
/// operation and the response code.
const HEAD_KNOWN: usize = ENVELOPE_SIZE + 8;

/// What a worker shares with the desk, which answers what takes time in its stead.
#[derive(Debug)]
pub struct Outlet {
    /// Where answers leave.
    pub(super) socket: Arc<UdpSocket>,
    /// What pays for them, as far as they cost more than the worker took.
    pub(super) purse: Arc<Purse>,
}

/// What is spoken here.
const FRONT: notices::Front = (Protocol::Handle, Transport::Udp);

/// Answers the datagrams of one worker.
#[derive(Debug)]
pub struct Datagrams {
    outlet: Arc<Outlet>,
    responder: Responder,
    budget: Budget,
    /// Networks exempt from the budget.
    proven: Arc<Proven>,
    /// Long answers, cut to datagrams.
    pieces: Vec<u8>,
    replies: Replies,
    reassembler: Reassembler<SocketAddr>,
    /// What goes to the desk: the place of its datagram, or the message it was the last piece of.
    deferred: Vec<(usize, Option<Vec<u8>>)>,
    origin: Instant,
}

impl Datagrams {
    /// What answers at `socket`; the desk pays from `purse` for what it sends there.
    #[must_use]
    pub fn new(
        socket: Arc<UdpSocket>,
        responder: Responder,
        budget: Budget,
        proven: Arc<Proven>,
        purse: Arc<Purse>,
    ) -> Self {
        Self {
            outlet: Arc::new(Outlet { socket, purse }),
            responder,
            budget,
            proven,
            pieces: Vec::new(),
            replies: Replies::default(),
            reassembler: Reassembler::new(ReassemblyLimits::default()),
            deferred: Vec::with_capacity(BATCH),
            origin: Instant::now(),
        }
    }
}

impl Front for Datagrams {
    const FRONT: notices::Front = FRONT;

    /// Answers the batch: whole messages together, those that come in pieces when complete.
    fn answer<S: Peer>(
        &mut self,
        incoming: &[Incoming<S>],
        buffers: &Buffers,
        now: Now,
        outgoing: &mut Vec<Outgoing<S>>,
    ) {
        self.pieces.clear();
        self.pieces.shrink_to(KEEP_PIECES);
        self.replies.clear();
        let mut requests: [&[u8]; BATCH] = [&[]; BATCH];
        let mut places = [0; BATCH];
        let mut count = 0;
        for (place, came) in incoming.iter().enumerate() {
            let datagram = &buffers[place][..came.length];
            let cell = self.responder.cell();
            cell.received_bytes.add(datagram.len() as u64);
            if is_later_piece(datagram) {
                cell.dropped(Reason::NotARequest).add(1);
            } else if is_piece(datagram) && !came.cut {
                let sender = came.peer.address();
                let passed = now
                    .instant
                    .saturating_duration_since(self.origin)
                    .as_millis();
                let passed_ms = u64::try_from(passed).unwrap_or(u64::MAX);
                match self.reassembler.push(sender, datagram, passed_ms) {
                    Ok(Some(message)) => {
                        self.responder.respond(&[&message], now, &mut self.replies);
                        self.responder.remember(&self.replies, now, |_| sender.ip());
                        queue(outgoing, &mut self.pieces, &self.replies, |_| came);
                        if self.replies.deferred().next().is_some() {
                            self.deferred.push((place, Some(message)));
                        }
                    }
                    Ok(None) => {}
                    Err(_) => cell.dropped(Reason::Malformed).add(1),
                }
            } else {
                // What is longer than a buffer is answered as what is known of it: that its lengths are wrong.
                let known = if came.cut { HEAD_KNOWN } else { datagram.len() };
                requests[count] = &datagram[..known.min(datagram.len())];
                places[count] = place;
                count += 1;
            }
        }
        self.responder
            .respond(&requests[..count], now, &mut self.replies);
        self.responder.remember(&self.replies, now, |i| {
            incoming[places[i]].peer.address().ip()
        });
        queue(outgoing, &mut self.pieces, &self.replies, |i| {
            &incoming[places[i]]
        });
        let deferred = self.replies.deferred().map(|i| (places[i], None));
        self.deferred.extend(deferred);
        self.guard(outgoing, now);
        self.hand_over(incoming, buffers, now);
    }

    fn octets(&self, place: Place) -> &[u8] {
        match place {
            Place::Whole => self.replies.octets(),
            Place::Piece => &self.pieces,
        }
    }

    fn cell(&self) -> &Cell {
        self.responder.cell()
    }

    fn asked(datagram: &[u8]) -> Asked<'_> {
        asked(datagram)
    }
}

impl Datagrams {
    /// Gives to the desk what is not answered here, as far as the budget of its source allows: what it costs at least is
    /// taken at once.
    fn hand_over<S: Peer>(&mut self, incoming: &[Incoming<S>], buffers: &Buffers, now: Now) {
        let Self {
            outlet,
            responder,
            budget,
            proven,
            ..
        } = self;
        let socket = &outlet.socket;
        let Some(desk) = responder.desk() else {
            return self.deferred.clear();
        };
        for (place, whole) in self.deferred.drain(..) {
            let incoming = &incoming[place];
            let peer = incoming.peer.address();
            if !budget.take(peer.ip(), DEFERRED_COST, now.instant, proven) {
                responder.cell().dropped(Reason::RateLimited).add(1);
                let limited = notices::Reason::RateLimited;
                refused(FRONT, limited, peer.ip(), now.unix_seconds);
                continue;
            }
            let datagram = &buffers[place][..incoming.length];
            let octets = whole.map_or_else(|| Bytes::copy_from_slice(datagram), Bytes::from);
            let sink = Sink::Datagram {
                outlet: Arc::clone(outlet),
                from: incoming.local,
            };
            let job = Job {
                line: None,
                octets,
                peer,
                sink,
                came: now.instant,
            };
            if let Err(job) = desk.submit(job) {
                let mut out = Vec::new();
                responder.busy(&job.octets, now, &mut out);
                refused(FRONT, notices::Reason::Busy, peer.ip(), now.unix_seconds);
                send_from(socket, incoming.local, peer, &out);
            }
        }
    }

    /// Takes out what is over the budget of its source network: all of an answer or nothing.
    fn guard<S: Peer>(&mut self, outgoing: &mut Vec<Outgoing<S>>, now: Now) {
        let Self {
            budget,
            proven,
            responder,
            pieces,
            ..
        } = self;
        let cell = responder.cell();
        let mut granted = false;
        outgoing.retain(|answer| {
            // The other pieces of an answer follow its first one, and its fate.
            if let Some(cost) = cost(answer, pieces) {
                let client = answer.to.address().ip();
                granted = budget.take(client, cost, now.instant, proven);
                if !granted {
                    cell.dropped(Reason::RateLimited).add(1);
                    let limited = notices::Reason::RateLimited;
                    refused(FRONT, limited, client, now.unix_seconds);
                }
            }
            if granted {
                cell.sent_bytes.add(answer.octets.len() as u64);
            }
            granted
        });
    }
}

/// Octets of an answer in all; none for its second datagram and those behind it.
fn cost<S>(answer: &Outgoing<S>, pieces: &[u8]) -> Option<usize> {
    if answer.place == Place::Whole {
        return Some(answer.octets.len());
    }
    let envelope = Envelope::decode(&pieces[answer.octets.clone()]).ok()?;
    let length = envelope.message_length as usize;
    (envelope.sequence == 0).then(|| length + piece_count(length) * ENVELOPE_SIZE)
}

/// Queues the answers to the last batch; long ones in pieces.
fn queue<'i, S: Peer + 'i>(
    outgoing: &mut Vec<Outgoing<S>>,
    pieces: &mut Vec<u8>,
    replies: &Replies,
    asked: impl Fn(usize) -> &'i Incoming<S>,
) {
    for (place, answer) in replies.ranges().enumerate() {
        let Some(octets) = answer else { continue };
        let incoming = asked(place);
        let (to, from) = (incoming.peer, incoming.local);
        if octets.len() <= DATAGRAM_MAX {
            outgoing.push(Outgoing {
                octets,
                place: Place::Whole,
                to,
                from,
            });
            continue;
        }
        let answer = &replies.octets()[octets];
        let Ok(envelope) = Envelope::decode(answer) else {
            continue;
        };
        let start = pieces.len();
        split_datagrams(&envelope, &answer[ENVELOPE_SIZE..], pieces);
        for place in (start..pieces.len()).step_by(DATAGRAM_MAX) {
            let octets = place..pieces.len().min(place + DATAGRAM_MAX);
            outgoing.push(Outgoing {
                octets,
                place: Place::Piece,
                to,
                from,
            });
        }
    }
}

/// Whether a datagram is one of several that make an answer, and not the first: requests in pieces are marked as such.
fn is_later_piece(datagram: &[u8]) -> bool {
    let sequence = Envelope::decode(datagram).map(|envelope| envelope.sequence);
    sequence.is_ok_and(|sequence| sequence != 0) && !is_piece(datagram)
}

/// Whether a datagram is one of several that make a request.
fn is_piece(datagram: &[u8]) -> bool {
    datagram.len() > ENVELOPE_SIZE && datagram[2] & EnvelopeFlags::TRUNCATED.0 != 0
}
