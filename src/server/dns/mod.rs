//! Identifiers for every DNS client: an authoritative server for zones whose names are identifiers.
//!
//! ```text
//!             ┌ plain (octets in, octets out)  ┐
//!  question → ┤                                ├ → view → resolver → store
//!             └ full  (through hickory-proto)  ┘
//! ```
//!
//! [`Responder::respond`] reads all questions of a batch, then finds and writes one answer after the
//! other. A plain question goes the short way; everything that it does not understand wholly goes the
//! full one. Both give the same octets, which a test compares.
//!
//! * [`name`]: names ⇄ handles. [`zone`]: the zones. [`records`]: values → records.
//! * [`view`]: what stands at a name. `full`, `plain`: the two ways of a question. [`cookie`].
//! * [`udp`], [`stream`], [`tls`]: transports. [`serve`]: their sockets. [`export`]: a zone as text.
//!
//! Names exist when they have records or names below them that have, so that a zone says the same as
//! its export does. What is not public does not exist here. Zone transfer and DNSSEC would join
//! [`export`] and `full`.

pub mod cookie;
pub mod export;
mod full;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod name;
mod plain;
pub mod records;
pub mod serve;
pub mod stream;
pub mod tls;
pub mod udp;
pub mod view;
pub mod zone;

use std::borrow::Cow;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use self::cookie::Cookies;
use self::plain::Plain;
use self::view::View;
use self::zone::Zones;
use super::datagram::{BATCH, BUFFER};
use crate::clock::Now;
use crate::history::{Event, Pen};
use crate::metrics::{Cell, LookupResult, Op, Outcome, Reason};
use crate::notices::Asked;
use crate::resolver::Authority;
use crate::store::{Reader, Store, StoreError};

/// An answer over UDP to a client without a proof of its address is at most so many times as long as its
/// question; a longer one sends it to TCP.
pub const AMPLIFICATION_MAX: usize = 10;

/// An answer over UDP to a client without a proof of its address is no longer than this, octets, whatever the
/// configuration and the client say: what no network on the way has to cut (RFC 9715 §3.1).
pub const UNPROVEN_MAX: usize = 1232;

/// The longest message over UDP that a client takes without saying so (RFC 1035 §4.2.1).
const DATAGRAM: usize = 512;

/// What all workers of a node share; read-only.
#[derive(Debug)]
pub struct Shared {
    /// The records.
    pub store: Arc<Store>,
    /// The node's site record in wire form, for homed prefixes without a record.
    pub site: Bytes,
    /// The zones.
    pub zones: Zones,
    /// Proofs of address.
    pub cookies: Cookies,
    /// The name of this server for who asks for it; empty: it has none.
    pub nsid: Vec<u8>,
    /// The longest answer over UDP, octets.
    pub udp_payload: u16,
    /// How long connections may be idle, in units of 100 ms (RFC 7828 §3.1).
    pub keepalive: u16,
}

/// What a question came over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Datagrams.
    Udp,
    /// A connection.
    Tcp,
    /// A connection under TLS.
    Tls,
}

impl Shared {
    /// The homed prefixes as they are now, with the site of this node for those without a record.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn authority(&self) -> Result<Authority, StoreError> {
        Authority::load(&self.store).map(|authority| authority.announcing(&self.site))
    }

    /// The longest question over UDP, octets, as OPT records say it (RFC 6891 §6.2.3): no longer than the answers, and
    /// than what is received whole.
    fn receives(&self) -> u16 {
        u16::try_from(BUFFER).map_or(self.udp_payload, |buffer| self.udp_payload.min(buffer))
    }
}

impl Channel {
    /// The longest answer, octets, to a client that takes `client` octets over UDP.
    fn limit(self, udp_payload: u16, client: Option<u16>) -> usize {
        match (self, client) {
            (Self::Udp, None) => DATAGRAM,
            (Self::Udp, Some(client)) => usize::from(client.min(udp_payload)).max(DATAGRAM),
            (Self::Tcp | Self::Tls, _) => usize::from(u16::MAX),
        }
    }
}

/// An answer that was written.
#[derive(Clone, Copy, Debug)]
struct Written {
    /// Where it ends.
    end: usize,
    /// How many of its last octets are the OPT record; 0 without one.
    options: usize,
    /// Its client has shown that answers reach it.
    proven: bool,
    op: Op,
    outcome: Outcome,
}

/// An answer of the last batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its octets.
    pub octets: Range<usize>,
    /// How many of the last of them are the OPT record.
    pub options: usize,
    /// Its client has shown that answers reach it.
    pub proven: bool,
}

/// Answers back to back; reused from batch to batch.
#[derive(Debug)]
pub struct Replies {
    octets: Vec<u8>,
    answers: [Option<Answer>; BATCH],
    count: usize,
}

impl Default for Replies {
    fn default() -> Self {
        Self {
            octets: Vec::with_capacity(BATCH * 1024),
            answers: [const { None }; BATCH],
            count: 0,
        }
    }
}

impl Replies {
    /// The most that is kept between batches.
    const KEEP: usize = 512 * 1024;

    fn clear(&mut self) {
        self.count = 0;
        self.octets.clear();
        self.octets.shrink_to(Self::KEEP);
    }

    fn push(&mut self, answer: Option<Answer>) {
        if let Some(slot) = self.answers.get_mut(self.count) {
            *slot = answer;
            self.count += 1;
        }
    }

    /// The octets of all answers.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }

    /// The answer to each question of the batch; none where it was dropped.
    pub fn answers(&self) -> impl Iterator<Item = Option<&Answer>> {
        self.answers[..self.count].iter().map(Option::as_ref)
    }
}

/// Answers questions; one for each worker.
#[derive(Debug)]
pub struct Responder {
    shared: Arc<Shared>,
    reader: Reader,
    authority: Authority,
    cell: Arc<Cell>,
    /// The keys of a batch.
    keys: Vec<u8>,
    /// The key of a question that went the full way.
    key: Vec<u8>,
    notes: Notes,
    /// Whether plain questions go the short way.
    plain: bool,
}

impl Responder {
    /// A responder that counts in `cell`.
    #[must_use]
    pub fn new(shared: Arc<Shared>, cell: Arc<Cell>) -> Self {
        let reader = shared.store.reader();
        let authority = shared.authority().unwrap_or_default();
        Self {
            shared,
            reader,
            authority,
            cell,
            keys: Vec::with_capacity(BATCH * name::NAME_MAX),
            key: Vec::new(),
            notes: Notes::default(),
            plain: true,
        }
    }

    /// Has every question go the full way: the other half of the test that compares both.
    #[must_use]
    pub fn only_full(mut self) -> Self {
        self.plain = false;
        self
    }

    /// The counters of this worker.
    #[must_use]
    pub fn cell(&self) -> &Cell {
        &self.cell
    }

    /// Answers up to [`BATCH`] messages, each with the address it came from.
    pub fn respond(
        &mut self,
        requests: &[(&[u8], IpAddr)],
        channel: Channel,
        now: Now,
        replies: &mut Replies,
    ) {
        self.refresh();
        replies.clear();
        self.keys.clear();
        let session = self.reader.session();
        let view = View {
            shared: &self.shared,
            authority: &self.authority,
            session: &session,
            serial: serial(self.shared.store.sequence()),
            unix_seconds: now.unix_seconds,
        };
        let mut questions = [const { None }; BATCH];
        for ((request, client), question) in requests.iter().zip(&mut questions) {
            if self.plain {
                *question = Plain::read(&view, request, *client, channel, &mut self.keys);
            }
        }
        let questions = &questions[..requests.len().min(BATCH)];
        let mut wanted: [&[u8]; BATCH] = [&[]; BATCH];
        for (question, key) in questions.iter().zip(&mut wanted) {
            if let Some(question) = question {
                *key = &self.keys[question.key.clone()];
            }
        }
        session.each(&wanted[..questions.len()], |place, found| {
            let (request, client) = requests[place];
            let start = replies.octets.len();
            let out = &mut replies.octets;
            let short = questions[place]
                .as_ref()
                .and_then(|question| question.write(&view, request, wanted[place], found, out));
            let written = match short {
                Some(written) => Ok(written),
                None => {
                    out.truncate(start);
                    self.key.clear();
                    full::respond(&view, request, client, channel, now, &mut self.key, out)
                }
            };
            if let (Some(_), Ok(written)) = (self.cell.pen(), &written) {
                let key = short.map_or(&self.key[..], |_| wanted[place]);
                self.notes.add(written, client, key);
            }
            let answer = count(&self.cell, written).map(|written| Answer {
                octets: start..written.end,
                options: written.options,
                proven: written.proven,
            });
            replies.push(answer);
        });
        if let Some(pen) = self.cell.pen() {
            self.notes.write(pen, now);
        }
    }

    /// Takes up prefixes homed since the last batch.
    fn refresh(&mut self) {
        if self.authority.is_stale(&self.shared.store)
            && let Ok(authority) = self.shared.authority()
        {
            self.authority = authority;
        }
    }
}

/// The resolutions of a batch, for the log: all at once, for each time takes a lock.
#[derive(Debug, Default)]
struct Notes {
    /// Their handles, back to back.
    keys: Vec<u8>,
    /// Outcome, client, and where the handle ends.
    resolved: Vec<(Outcome, IpAddr, usize)>,
}

impl Notes {
    /// Adds an answer if it is a resolution.
    fn add(&mut self, written: &Written, client: IpAddr, key: &[u8]) {
        if written.op == Op::Resolve && !key.is_empty() {
            self.keys.extend_from_slice(key);
            let end = self.keys.len();
            self.resolved.push((written.outcome, client, end));
        }
    }

    /// Writes them down and forgets them.
    fn write(&mut self, pen: &Pen, now: Now) {
        if !self.resolved.is_empty() {
            let mut start = 0;
            pen.note_all(self.resolved.iter().map(|&(outcome, client, end)| {
                let event = Event {
                    time: now.unix_seconds,
                    client,
                    op: Op::Resolve,
                    outcome,
                };
                let key = &self.keys[start..end];
                start = end;
                (event, key)
            }));
        }
        self.keys.clear();
        self.resolved.clear();
    }
}

/// What a question is about, for the log: its name as it came, without what is behind it.
#[cold]
fn asked(message: &[u8]) -> Asked<'_> {
    let name = message.get(full::HEADER..).unwrap_or_default();
    let name = name.get(..name::NAME_MAX).unwrap_or(name);
    let labels: Vec<_> = name::labels(name).collect();
    Asked {
        operation: Op::Resolve.label(),
        about: Cow::Owned(labels.join(&b'.')),
    }
}

/// Counts what became of a message.
fn count(cell: &Cell, written: Result<Written, Reason>) -> Option<Written> {
    match written {
        Ok(written) => {
            cell.requests(written.op).add(1);
            cell.responses(written.outcome).add(1);
            if written.op == Op::Resolve {
                let result = match written.outcome {
                    Outcome::Success | Outcome::ValuesNotFound => LookupResult::Hit,
                    Outcome::Busy => LookupResult::Loading,
                    _ => LookupResult::Miss,
                };
                cell.lookups(result).add(1);
            }
            Some(written)
        }
        Err(reason) => {
            cell.dropped(reason).add(1);
            None
        }
    }
}

/// The serial number of the zones: the sequence of the last change, modulo 2^32 (RFC 1982).
#[must_use]
pub fn serial(sequence: u64) -> u32 {
    u32::try_from(sequence & u64::from(u32::MAX)).unwrap_or(0)
}

/// Ends an answer that begins at `start`: shortens it when it is too long for the client, or for what was
/// asked.
fn finish(
    mut written: Written,
    start: usize,
    asked: usize,
    limit: usize,
    channel: Channel,
    out: &mut Vec<u8>,
) -> Written {
    let length = out.len() - start;
    let bound = UNPROVEN_MAX.min(AMPLIFICATION_MAX * asked);
    let amplified = channel == Channel::Udp && !written.proven && length > bound;
    let cut = out[start + 2] & 2 != 0;
    if length > limit || amplified || cut {
        shorten(out, start, written.options);
    }
    written.end = out.len();
    written
}

/// Takes the records out of the answer that begins at `start`, but for the OPT record in the last
/// `options` octets, and sets the TC bit: come back over TCP (RFC 2181 §9).
pub fn shorten(out: &mut Vec<u8>, start: usize, options: usize) {
    let mut end = start + full::HEADER;
    if out[start + 5] == 1 {
        let name = name::labels(&out[end..]).map(|label| label.len() + 1);
        end += name.sum::<usize>() + 1 + 4;
    }
    out[start + 2] |= 2;
    out[start + 6..start + full::HEADER].fill(0);
    out[start + 11] = u8::from(options > 0);
    let tail = out.len() - options;
    out.copy_within(tail.., end);
    out.truncate(end + options);
}
