//! The Handle protocol: messages in, messages out.
//!
//! [`Responder::respond`] is the look-up, in three passes over a batch, so that the memory
//! latency of one request hides behind the others: parse all, find all, encode all. It knows no
//! sockets. Around it:
//!
//! * [`udp`]: worker threads, a batch of datagrams at a time;
//! * [`stream`]: connections, all complete frames of a read at a time.

mod parse;
mod reply;
pub mod stream;
pub mod udp;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use bytes::Bytes;
use jiexi_proto::code::ResponseCode;
use jiexi_proto::handle::CaseRule;
use jiexi_proto::limits::NONCE_SIZE;
use jiexi_proto::{OpCode, Version};

use self::parse::{Resolution, Step};
use self::reply::{Reply, Stamp};
use crate::clock::Now;
use crate::metrics::{Cell, LookupResult, Op, Outcome, Reason};
use crate::resolver::{self, Answer, Authority, Query};
use crate::store::{Lookup, Reader, Session, Store};

/// The most requests answered in one go.
pub const BATCH: usize = 32;

/// The first version whose clients follow a prefix referral by themselves.
const FOLLOWS_REFERRALS: Version = Version {
    major: 2,
    minor: 10,
};

/// What all workers of a node share; read-only but for the counter of session ids.
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
    /// The last session id given away; challenges and sessions share the numbers.
    pub last_session: AtomicU32,
}

impl Shared {
    /// The next session id; never 0, which means none.
    fn next_session(&self) -> u32 {
        loop {
            let id = self.last_session.fetch_add(1, Relaxed).wrapping_add(1);
            if id != 0 {
                return id;
            }
        }
    }
}

/// What became of one request. Each value is counted once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Its answer ends at this offset of the batch's answers, and begins where the one before ends.
    Reply(usize),
    /// It gets no answer.
    Drop(Reason),
}

/// Answers back to back; reused from batch to batch.
#[derive(Debug)]
pub struct Replies {
    octets: Vec<u8>,
    dispositions: [Disposition; BATCH],
    count: usize,
    /// Where the answers of the last batch begin.
    start: usize,
}

impl Default for Replies {
    fn default() -> Self {
        Self {
            octets: Vec::with_capacity(BATCH * 1024),
            dispositions: [Disposition::Drop(Reason::Short); BATCH],
            count: 0,
            start: 0,
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

    fn push(&mut self, disposition: Disposition) {
        if let Some(slot) = self.dispositions.get_mut(self.count) {
            *slot = disposition;
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
                Disposition::Drop(_) => None,
            })
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
        let authority = Authority::load(&shared.store).unwrap_or_default();
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
            *step = parse::parse(request, shared.case, keys);
        }
        let steps = &steps[..requests.len().min(BATCH)];

        let session = reader.session();
        let mut found = [const { Lookup::Absent }; BATCH];
        find(&session, steps, keys, &mut found);

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
        };
        for (step, found) in steps.iter().zip(&found) {
            if replies.octets.len() > Replies::LIMIT {
                break;
            }
            let disposition = encoder.encode(step, found, &mut replies.octets);
            replies.push(disposition);
        }
        replies.count
    }

    /// Takes up prefixes homed since the last batch. While the store loads they stay unknown; a
    /// store that cannot tell them says so itself.
    fn refresh(&mut self) {
        if self.authority.is_stale(&self.shared.store)
            && let Ok(authority) = Authority::load(&self.shared.store)
        {
            self.authority = authority;
        }
    }
}

/// The second pass: the records of all resolutions of the batch.
fn find<'s>(session: &'s Session<'_>, steps: &[Step<'_>], keys: &[u8], found: &mut [Lookup<'s>]) {
    let mut wanted: [&[u8]; BATCH] = [&[]; BATCH];
    for (step, key) in steps.iter().zip(&mut wanted) {
        if let Step::Resolve(resolution) = step {
            *key = &keys[resolution.key.clone()];
        }
    }
    session.find(&wanted[..steps.len()], &mut found[..steps.len()]);
}

/// The third pass: one decision and its answer after the other.
struct Encoder<'r, 's> {
    shared: &'r Shared,
    authority: &'r Authority,
    session: &'s Session<'s>,
    cell: &'r Cell,
    keys: &'r [u8],
    stamp: Stamp,
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
            Step::Resolve(resolution) => (Op::Resolve, self.resolve(resolution, found, out)),
        };
        self.cell.requests(op).add(1);
        self.cell.responses(outcome).add(1);
        Disposition::Reply(out.len())
    }

    /// Decides and answers one resolution.
    fn resolve(
        &mut self,
        asked: &Resolution<'_>,
        found: &Lookup<'s>,
        out: &mut Vec<u8>,
    ) -> Outcome {
        self.cell.lookups(lookup_result(found)).add(1);
        let query = Query {
            key: &self.keys[asked.key.clone()],
            filter: asked.filter,
            public_only: asked.public_only,
            refer: asked.refer,
        };
        let request = &asked.message;
        let (code, text) = match resolver::resolve(self.authority, self.session, &query, found) {
            Answer::Values(selection) => {
                let mut reply = Reply::begin(out, self.stamp, request, ResponseCode::SUCCESS);
                reply.put_block(asked.handle);
                selection.encode(reply.body());
                if reply.finish() {
                    return Outcome::Success;
                }
                (
                    ResponseCode::ERROR,
                    "the values do not fit one message: ask by index or type",
                )
            }
            Answer::PrefixReferral(selection) if self.follows_referrals(asked) => {
                let mut reply =
                    Reply::begin(out, self.stamp, request, ResponseCode::PREFIX_REFERRAL);
                reply.put_block(&[]);
                selection.encode(reply.body());
                finish(reply);
                return Outcome::Referral;
            }
            Answer::PrefixReferral(_) => (
                ResponseCode::ERROR,
                "this prefix lives elsewhere, and a client before version 2.10 cannot be referred",
            ),
            Answer::NeedsAuthentication => return self.challenge(asked, out),
            Answer::NoSuchHandle => (ResponseCode::HANDLE_NOT_FOUND, ""),
            Answer::NoSuchValue => (ResponseCode::VALUES_NOT_FOUND, ""),
            Answer::NotResponsible => (
                ResponseCode::SERVER_NOT_RESPONSIBLE,
                "this prefix is not homed here",
            ),
            Answer::Denied => (ResponseCode::INSUFFICIENT_PERMISSIONS, ""),
            Answer::Loading => (ResponseCode::SERVER_TOO_BUSY, "still loading"),
            Answer::Damaged => (ResponseCode::ERROR, "the stored record is damaged"),
        };
        let mut reply = Reply::begin(out, self.stamp, request, code);
        reply.put_block(text.as_bytes());
        finish(reply);
        outcome_of(code)
    }

    fn follows_referrals(&self, asked: &Resolution<'_>) -> bool {
        asked.message.envelope.reply_version() >= FOLLOWS_REFERRALS
    }

    /// Asks for proof of an identity.
    fn challenge(&self, asked: &Resolution<'_>, out: &mut Vec<u8>) -> Outcome {
        let mut nonce = [0; NONCE_SIZE];
        if getrandom::fill(&mut nonce).is_err() {
            let reply = Reply::begin(
                out,
                self.stamp,
                &asked.message,
                ResponseCode::SERVER_TOO_BUSY,
            );
            finish_text(reply, "no randomness for a challenge");
            return Outcome::Busy;
        }
        let session_id = self.shared.next_session();
        finish(Reply::challenge(
            out,
            self.stamp,
            &asked.message,
            session_id,
            &nonce,
        ));
        Outcome::Challenge
    }
}

/// Ends an answer that is short by construction.
fn finish(reply: Reply<'_>) {
    let fits = reply.finish();
    debug_assert!(fits, "short answers fit");
}

fn finish_text(mut reply: Reply<'_>, text: &str) {
    reply.put_block(text.as_bytes());
    finish(reply);
}

fn lookup_result(found: &Lookup<'_>) -> LookupResult {
    match found {
        Lookup::Found(_) | Lookup::Damaged => LookupResult::Hit,
        Lookup::Absent => LookupResult::Miss,
        Lookup::Loading => LookupResult::Loading,
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
        OpCode::HOME_NA => Op::Home,
        OpCode::UNHOME_NA => Op::Unhome,
        OpCode::SESSION_SETUP | OpCode::SESSION_TERMINATE | OpCode::SESSION_EXCHANGEKEY => {
            Op::Session
        }
        OpCode::RETRIEVE_TXN_LOG | OpCode::DUMP_HANDLES | OpCode::GET_NEXT_TXN_ID => Op::Replicate,
        OpCode::LOGIN => Op::Login,
        _ => Op::Other,
    }
}

/// The one table from response codes to the outcome they are counted as.
fn outcome_of(code: ResponseCode) -> Outcome {
    match code {
        ResponseCode::SUCCESS => Outcome::Success,
        ResponseCode::HANDLE_NOT_FOUND => Outcome::NotFound,
        ResponseCode::VALUES_NOT_FOUND => Outcome::ValuesNotFound,
        ResponseCode::SERVICE_REFERRAL | ResponseCode::PREFIX_REFERRAL => Outcome::Referral,
        ResponseCode::SERVER_NOT_RESPONSIBLE => Outcome::NotResponsible,
        ResponseCode::AUTHENTICATION_NEEDED => Outcome::Challenge,
        ResponseCode::INSUFFICIENT_PERMISSIONS => Outcome::Denied,
        ResponseCode::HANDLE_ALREADY_EXISTS | ResponseCode::VALUE_ALREADY_EXISTS => Outcome::Exists,
        ResponseCode::SERVER_TOO_BUSY => Outcome::Busy,
        ResponseCode::PROTOCOL_ERROR
        | ResponseCode::OPERATION_NOT_SUPPORTED
        | ResponseCode::INVALID_HANDLE => Outcome::Invalid,
        _ => Outcome::Error,
    }
}
