//! The Handle protocol: messages in, messages out.
//!
//! [`Responder::respond`] is the look-up: parse all requests of a batch, then find and encode one
//! after the other, while the records of those behind it are fetched from memory: the latency of
//! one request hides behind the work for others. It knows no sockets. Around it:
//!
//! * [`udp`]: worker threads, a batch of datagrams at a time;
//! * [`stream`]: connections, all complete frames of a read at a time;
//! * [`desk`]: what takes time or a key: changes, proofs, sessions, signed answers. It has a
//!   bounded queue and threads of its own.

pub mod desk;
mod parse;
mod reply;
pub mod stream;
pub mod udp;

use std::borrow::Cow;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiexi_proto::code::{OpFlags, ResponseCode};
use jiexi_proto::handle::CaseRule;
use jiexi_proto::limits::HANDLE_MAX;
use jiexi_proto::wire::Reader as WireReader;
use jiexi_proto::{Envelope, EnvelopeFlags, MessageView, OpCode, Version};

use self::parse::{Resolution, Step};
use self::reply::{Reply, Stamp};
use crate::clock::Now;
use crate::history::Event;
use crate::metrics::{Cell, LookupResult, Op, Outcome, Reason};
use crate::notices::Asked;
use crate::registry::source::Sender;
use crate::registry::{DAMAGED, NOT_HOMED};
use crate::resolver::{self, Answer, Authority, Query};
use crate::server::forward::{Forwarder, Told};
use crate::server::limit::Limit;
use crate::store::{Lookup, Reader, Session, Store, StoreError};

/// The most requests answered in one go.
pub use crate::server::datagram::BATCH;

/// The first version whose clients follow a prefix referral by themselves.
const FOLLOWS_REFERRALS: Version = Version {
    major: 2,
    minor: 10,
};

/// What all workers of a node share; read-only but for the desk.
#[derive(Debug)]
pub struct Shared {
    /// The records.
    pub store: Arc<Store>,
    /// How handles are folded; fixed when the store was made.
    pub case: CaseRule,
    /// The node's site record in wire form.
    pub site: Bytes,
    /// The serial number of that record.
    pub site_serial: u16,
    /// What is not answered at once goes here; without a desk it is declined.
    pub desk: Option<Arc<desk::Desk>>,
    /// Asks other nodes; without it, what is at home elsewhere is refused.
    pub forwarder: Option<Arc<Forwarder>>,
    /// How many identifiers a network may have resolved that does not say who asks: over connections of the Handle
    /// protocol, over HTTP and in batches together. The addresses of datagrams may be forged and count against nobody.
    pub anonymous: Limit,
}

impl Shared {
    /// The homed prefixes as they are now, with the site of this node for those without a record.
    fn authority(&self) -> Result<Authority, StoreError> {
        Authority::load(&self.store).map(|authority| authority.announcing(&self.site))
    }

    /// Who asks other nodes what this one cannot say, when the one who asked wants that.
    fn forwarder_for(&self, request: &MessageView<'_>) -> Option<&Arc<Forwarder>> {
        let wanted = request.header.flags.contains(OpFlags::RECU);
        let forwarder = self.forwarder.as_ref();
        forwarder.filter(|forwarder| wanted && forwarder.is_open())
    }
}

/// What became of one request. Each value is counted once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Its answer ends at this offset of the batch's answers, and begins where the one before ends.
    Reply(usize),
    /// It gets no answer.
    Drop(Reason),
    /// Its answer comes from the [`desk`].
    Defer,
}

/// What a resolution was answered with, and where its handle stands among the keys of the batch.
#[derive(Clone, Copy, Debug)]
struct Resolved {
    outcome: Outcome,
    start: usize,
    end: usize,
}

/// Answers back to back; reused from batch to batch.
#[derive(Debug)]
pub struct Replies {
    octets: Vec<u8>,
    dispositions: [Disposition; BATCH],
    /// The resolutions among the answers.
    resolved: [Option<Resolved>; BATCH],
    count: usize,
    /// Where the answers of the last batch begin.
    start: usize,
    /// Answers must come in the order of their requests: a batch ends with a deferred one.
    pub ordered: bool,
}

impl Default for Replies {
    fn default() -> Self {
        Self {
            octets: Vec::with_capacity(BATCH * 1024),
            dispositions: [Disposition::Drop(Reason::Short); BATCH],
            resolved: [None; BATCH],
            count: 0,
            start: 0,
            ordered: false,
        }
    }
}

impl Replies {
    /// Once the answers are longer than this, no more are added.
    pub const LIMIT: usize = 256 * 1024;

    /// The most that is kept between batches; a larger answer's memory is given back.
    const KEEP: usize = 2 * Self::LIMIT;

    /// Forgets all answers.
    pub fn clear(&mut self) {
        self.count = 0;
        self.start = 0;
        self.octets.clear();
        if self.octets.capacity() > Self::KEEP {
            self.octets.shrink_to(Self::KEEP);
        }
    }

    fn push(&mut self, disposition: Disposition, resolved: Option<Resolved>) {
        let slots = self.dispositions.get_mut(self.count);
        if let (Some(slot), Some(place)) = (slots, self.resolved.get_mut(self.count)) {
            (*slot, *place) = (disposition, resolved);
            self.count += 1;
        }
    }

    /// Keeps the answers so far in front of those of the next batch.
    fn next_batch(&mut self) {
        self.count = 0;
        self.start = self.octets.len();
    }

    /// All answers since the last [`Replies::clear`], back to back.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }

    /// Where the answer to each request of the last batch stands, none where it was dropped.
    pub fn ranges(&self) -> impl Iterator<Item = Option<Range<usize>>> {
        let mut start = self.start;
        self.dispositions[..self.count]
            .iter()
            .map(move |disposition| match *disposition {
                Disposition::Reply(end) => Some(std::mem::replace(&mut start, end)..end),
                Disposition::Drop(_) | Disposition::Defer => None,
            })
    }

    /// The places of the requests of the last batch that are to go to the desk.
    pub fn deferred(&self) -> impl Iterator<Item = usize> {
        let last = self.dispositions[..self.count].iter().enumerate();
        last.filter(|(_, disposition)| **disposition == Disposition::Defer)
            .map(|(place, _)| place)
    }
}

/// Answers requests; one for each worker.
#[derive(Debug)]
pub struct Responder {
    shared: Arc<Shared>,
    reader: Reader,
    authority: Authority,
    cell: Arc<Cell>,
    /// The folded handles of a batch.
    keys: Vec<u8>,
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
            keys: Vec::with_capacity(BATCH * 128),
        }
    }

    /// The counters of this worker.
    #[must_use]
    pub fn cell(&self) -> &Cell {
        &self.cell
    }

    /// Where requests go that are not answered here.
    #[must_use]
    pub fn desk(&self) -> Option<&Arc<desk::Desk>> {
        self.shared.desk.as_ref()
    }

    /// Appends "too busy", for a request that the desk gave back.
    pub fn busy(&self, octets: &[u8], now: Now, out: &mut Vec<u8>) {
        let stamp = Stamp {
            site_serial: self.shared.site_serial,
            unix_seconds: now.unix_seconds,
        };
        desk::busy(octets, stamp, out);
        self.cell.requests(Op::Other).add(1);
        self.cell.responses(Outcome::Busy).add(1);
    }

    /// Answers up to [`BATCH`] requests, each a whole message with its envelope, behind the answers
    /// that `replies` holds already. Returns how many were taken up: once the answers exceed
    /// [`Replies::LIMIT`], the rest is to be asked again when those are on their way.
    pub fn respond(&mut self, requests: &[&[u8]], now: Now, replies: &mut Replies) -> usize {
        self.refresh();
        let Self {
            shared,
            reader,
            authority,
            cell,
            keys,
        } = self;
        replies.next_batch();
        keys.clear();

        let mut steps = [const { Step::Drop(Reason::Short) }; BATCH];
        for (request, step) in requests.iter().zip(&mut steps) {
            *step = parse::parse(request, shared.case, shared.desk.is_some(), keys);
        }
        let steps = &steps[..requests.len().min(BATCH)];

        let session = reader.session();
        let stamp = Stamp {
            site_serial: shared.site_serial,
            unix_seconds: now.unix_seconds,
        };
        let mut encoder = Encoder {
            shared,
            authority,
            session: &session,
            cell,
            keys,
            stamp,
            resolved: None,
            now: now.instant,
        };
        let mut ended = false;
        session.each(&wanted(steps, keys)[..steps.len()], |at, found| {
            ended |= replies.octets.len() > Replies::LIMIT;
            if ended {
                return;
            }
            let disposition = encoder.encode(&steps[at], &found, &mut replies.octets);
            replies.push(disposition, encoder.resolved.take());
            ended = replies.ordered && disposition == Disposition::Defer;
        });
        replies.count
    }

    /// Counts requests that were answered without a proof of who asks; how long this client is to wait before it asks more.
    pub fn owe(&self, client: IpAddr, requests: u64, now: Now) -> Duration {
        let source = Sender::proven(client).source();
        self.shared.anonymous.owe(source, requests, now.instant)
    }

    /// Writes the resolutions of the last batch down; `client` tells who sent a request.
    pub fn remember(&self, replies: &Replies, now: Now, client: impl Fn(usize) -> IpAddr) {
        let Some(pen) = self.cell.pen() else { return };
        let last = replies.resolved[..replies.count].iter().enumerate();
        pen.note_all(last.filter_map(|(place, resolved)| {
            let resolved = resolved.as_ref()?;
            let event = Event {
                time: now.unix_seconds,
                client: client(place),
                op: Op::Resolve,
                outcome: resolved.outcome,
            };
            Some((event, self.keys.get(resolved.start..resolved.end)?))
        }));
    }

    /// Takes up prefixes homed since the last batch. While the store loads they stay unknown; a
    /// store that cannot tell them says so itself.
    fn refresh(&mut self) {
        if self.authority.is_stale(&self.shared.store)
            && let Ok(authority) = self.shared.authority()
        {
            self.authority = authority;
        }
    }
}

/// The keys of the records that a batch needs.
fn wanted<'k>(steps: &[Step<'_>], keys: &'k [u8]) -> [&'k [u8]; BATCH] {
    let mut wanted: [&[u8]; BATCH] = [&[]; BATCH];
    for (step, key) in steps.iter().zip(&mut wanted) {
        if let Step::Resolve(resolution) = step {
            *key = &keys[resolution.key.clone()];
        }
    }
    wanted
}

/// What follows the look-up: one decision and its answer after the other.
struct Encoder<'r, 's> {
    shared: &'r Shared,
    authority: &'r Authority,
    session: &'s Session<'s>,
    cell: &'r Cell,
    keys: &'r [u8],
    stamp: Stamp,
    /// The last request, if it was a resolution.
    resolved: Option<Resolved>,
    now: Instant,
}

impl<'s> Encoder<'_, 's> {
    fn encode(&mut self, step: &Step<'_>, found: &Lookup<'s>, out: &mut Vec<u8>) -> Disposition {
        let stamp = self.stamp;
        let (op, outcome) = match step {
            Step::Drop(reason) => {
                self.cell.dropped(*reason).add(1);
                return Disposition::Drop(*reason);
            }
            Step::Refuse(refusal) => {
                let request = &refusal.envelope;
                let mut reply = Reply::refusal(out, stamp, request, refusal.op_code, refusal.code);
                reply.put_block(refusal.text.as_bytes());
                finish(reply);
                (Op::Other, Outcome::Invalid)
            }
            Step::Decline(request, code, text) => {
                let mut reply = Reply::begin(out, stamp, request, *code);
                reply.put_block(text.as_bytes());
                finish(reply);
                (op_of(request.header.op_code), outcome_of(*code))
            }
            Step::SiteInfo(request) => {
                let mut reply = Reply::begin(out, stamp, request, ResponseCode::SUCCESS);
                reply.body().extend_from_slice(&self.shared.site);
                finish(reply);
                (Op::SiteInfo, Outcome::Success)
            }
            Step::Defer => return Disposition::Defer,
            Step::Resolve(resolution) => match self.resolve(resolution, found, out) {
                Some(outcome) => {
                    let (start, end) = (resolution.key.start, resolution.key.end);
                    self.resolved = Some(Resolved {
                        outcome,
                        start,
                        end,
                    });
                    (Op::Resolve, outcome)
                }
                None => return Disposition::Defer,
            },
        };
        self.cell.requests(op).add(1);
        self.cell.responses(outcome).add(1);
        Disposition::Reply(out.len())
    }

    /// Decides and answers one resolution; none when it takes proof of who asks, or another node.
    fn resolve(
        &mut self,
        asked: &Resolution<'_>,
        found: &Lookup<'s>,
        out: &mut Vec<u8>,
    ) -> Option<Outcome> {
        self.cell.lookups(lookup_result(found)).add(1);
        let query = Query {
            key: &self.keys[asked.key.clone()],
            filter: asked.filter,
            public_only: asked.public_only,
            refer: asked.refer,
        };
        let request = &asked.message;
        let answer = resolver::resolve(self.authority, self.session, &query, found);
        let elsewhere = match answer {
            Answer::NotResponsible => true,
            Answer::PrefixReferral(_) => !self.follows_referrals(asked),
            _ => false,
        };
        if elsewhere && let Some(forwarder) = self.shared.forwarder_for(request) {
            let told = forwarder.recall(request, self.now)?;
            return Some(self.tell(asked, &told, out));
        }
        let (code, text) = match answer {
            Answer::Values(selection) => {
                let mut reply = Reply::begin(out, self.stamp, request, ResponseCode::SUCCESS);
                reply.put_block(asked.handle);
                selection.encode(reply.body());
                if reply.finish() {
                    return Some(Outcome::Success);
                }
                (ResponseCode::ERROR, TOO_LONG)
            }
            Answer::PrefixReferral(selection) if self.follows_referrals(asked) => {
                let mut reply =
                    Reply::begin(out, self.stamp, request, ResponseCode::PREFIX_REFERRAL);
                reply.put_block(&[]);
                selection.encode(reply.body());
                finish(reply);
                return Some(Outcome::Referral);
            }
            Answer::PrefixReferral(_) => (
                ResponseCode::ERROR,
                "this prefix lives elsewhere, and a client before version 2.10 cannot be referred",
            ),
            Answer::NeedsAuthentication if self.shared.desk.is_some() => return None,
            Answer::NeedsAuthentication => (
                ResponseCode::OPERATION_NOT_SUPPORTED,
                "this node checks nobody's key",
            ),
            Answer::NoSuchHandle => (ResponseCode::HANDLE_NOT_FOUND, ""),
            Answer::NoSuchValue => (ResponseCode::VALUES_NOT_FOUND, ""),
            Answer::NotResponsible => (ResponseCode::SERVER_NOT_RESPONSIBLE, NOT_HOMED),
            Answer::Denied => (ResponseCode::INSUFFICIENT_PERMISSIONS, ""),
            Answer::Loading => (ResponseCode::SERVER_TOO_BUSY, "still loading"),
            Answer::Damaged => (ResponseCode::ERROR, DAMAGED),
        };
        let mut reply = Reply::begin(out, self.stamp, request, code);
        reply.put_block(text.as_bytes());
        finish(reply);
        Some(outcome_of(code))
    }

    /// Answers with what is remembered of another node.
    fn tell(&self, asked: &Resolution<'_>, told: &Told, out: &mut Vec<u8>) -> Outcome {
        let (request, stamp) = (&asked.message, self.stamp);
        let known = &told.known;
        let mut reply = Reply::passed_on(out, stamp, request, known.code, told.is_stale());
        if known.code == ResponseCode::SUCCESS {
            reply.put_block(asked.handle);
            reply.body().extend_from_slice(&known.body);
        } else {
            reply.put_block(&known.body);
        }
        if reply.finish() {
            return outcome_of(known.code);
        }
        let code = ResponseCode::ERROR;
        let mut reply = Reply::passed_on(out, stamp, request, code, false);
        reply.put_block(TOO_LONG.as_bytes());
        finish(reply);
        outcome_of(code)
    }

    fn follows_referrals(&self, asked: &Resolution<'_>) -> bool {
        asked.message.envelope.reply_version() >= FOLLOWS_REFERRALS
    }
}

/// Said instead of an answer that does not fit a message.
const TOO_LONG: &str = "the values do not fit one message: ask by index or type";

/// Ends an answer that is short by construction.
fn finish(reply: Reply<'_>) {
    let fits = reply.finish();
    debug_assert!(fits, "short answers fit");
}

/// How a look-up in the index is counted.
pub(in crate::server) fn lookup_result(found: &Lookup<'_>) -> LookupResult {
    match found {
        Lookup::Found(_) | Lookup::Damaged => LookupResult::Hit,
        Lookup::Absent => LookupResult::Miss,
        Lookup::Loading => LookupResult::Loading,
    }
}

/// What a message asks for, for the log: in clear, and of the operations that everybody may hear of.
#[cold]
fn asked(message: &[u8]) -> Asked<'_> {
    let is_clear = |envelope: &Envelope| !envelope.flags.contains(EnvelopeFlags::ENCRYPTED);
    let message = MessageView::decode_lenient(message).ok();
    let message = message.filter(|message| is_clear(&message.envelope));
    let op = message.map_or(Op::Other, |message| op_of(message.header.op_code));
    // The body of each that is remembered begins with its handle.
    let about = message.filter(|_| op.is_remembered()).and_then(|message| {
        WireReader::new(message.body)
            .bytes(HANDLE_MAX, "handle")
            .ok()
    });
    Asked {
        operation: op.label(),
        about: Cow::Borrowed(about.unwrap_or_default()),
    }
}

/// The one table from operations to the label they are counted under.
fn op_of(op: OpCode) -> Op {
    match op {
        OpCode::RESOLUTION => Op::Resolve,
        OpCode::GET_SITE_INFO => Op::SiteInfo,
        OpCode::CREATE_HANDLE => Op::Create,
        OpCode::DELETE_HANDLE => Op::Delete,
        OpCode::ADD_VALUE => Op::Add,
        OpCode::REMOVE_VALUE => Op::Remove,
        OpCode::MODIFY_VALUE => Op::Modify,
        OpCode::LIST_HANDLES | OpCode::LIST_HOMED_NAS => Op::List,
        OpCode::RESPONSE_TO_CHALLENGE => Op::Challenge,
        OpCode::VERIFY_CHALLENGE => Op::Verify,
        OpCode::HOME_NA | OpCode::HOME_AND_CREATE => Op::Home,
        OpCode::UNHOME_NA | OpCode::UNHOME_AND_DELETE => Op::Unhome,
        OpCode::SESSION_SETUP | OpCode::SESSION_TERMINATE | OpCode::SESSION_EXCHANGEKEY => {
            Op::Session
        }
        OpCode::RETRIEVE_TXN_LOG | OpCode::DUMP_HANDLES | OpCode::GET_NEXT_TXN_ID => Op::Replicate,
        OpCode::LOGIN => Op::Login,
        _ => Op::Other,
    }
}

/// The one table from response codes to the outcome they are counted as.
pub(in crate::server) fn outcome_of(code: ResponseCode) -> Outcome {
    match code {
        ResponseCode::SUCCESS => Outcome::Success,
        ResponseCode::HANDLE_NOT_FOUND => Outcome::NotFound,
        ResponseCode::VALUES_NOT_FOUND => Outcome::ValuesNotFound,
        ResponseCode::SERVICE_REFERRAL | ResponseCode::PREFIX_REFERRAL => Outcome::Referral,
        ResponseCode::SERVER_NOT_RESPONSIBLE | ResponseCode::SERVER_BACKUP => {
            Outcome::NotResponsible
        }
        ResponseCode::AUTHENTICATION_NEEDED => Outcome::Challenge,
        ResponseCode::INVALID_ADMIN
        | ResponseCode::INSUFFICIENT_PERMISSIONS
        | ResponseCode::AUTHENTICATION_FAILED
        | ResponseCode::INVALID_CREDENTIAL
        | ResponseCode::AUTHENTICATION_TIMEOUT
        | ResponseCode::SESSION_TIMEOUT
        | ResponseCode::SESSION_MESSAGE_REJECTED => Outcome::Denied,
        ResponseCode::HANDLE_ALREADY_EXISTS | ResponseCode::VALUE_ALREADY_EXISTS => Outcome::Exists,
        ResponseCode::SERVER_TOO_BUSY => Outcome::Busy,
        ResponseCode::PROTOCOL_ERROR
        | ResponseCode::OPERATION_NOT_SUPPORTED
        | ResponseCode::INVALID_VALUE
        | ResponseCode::INVALID_HANDLE => Outcome::Invalid,
        _ => Outcome::Error,
    }
}
