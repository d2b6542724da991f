//! Changes: asked for, proved, decided, durable, answered; and the challenges on the way.

use std::sync::{Arc, PoisonError};

use getrandom::SysRng;
use jiexi_proto::code::ResponseCode;
use jiexi_proto::limits::NONCE_SIZE;
use jiexi_proto::message::Body;
use jiexi_proto::message::challenge::{ChallengeAnswer, VerifyChallenge};
use jiexi_proto::{Message, OpCode};

use super::counter::{Counter, Step, decoded};
use super::letter::{Letter, Outcome, Seal, block};
use super::proof::{For, Proved, Proving};
use crate::clock::Now;
use crate::registry::audit::Event;
use crate::registry::auth::Claim;
use crate::registry::figures::Ended;
use crate::registry::permit::Need;
use crate::registry::plan::Request;
use crate::registry::retry::{Begin, Key};
use crate::registry::session::Challenge;
use crate::registry::source::Sender;
use crate::registry::table::Found;
use crate::registry::{Authenticated, Identity, LIST, READ, Rejection};
use crate::store::{Batch, CommitError, Committed};

/// How often a change is decided again because its record changed meanwhile, before it is decided while nobody else
/// writes: many clients may change one handle at the same time, of which one succeeds in each round.
const ATTEMPTS_MAX: u32 = 4;

/// Answers longer than this are not kept for those who ask again: they ask for the whole.
const KEPT_MAX: usize = 4_096;

/// A change that the store has decided about.
pub(super) struct Settled {
    letter: Letter,
    request: Request,
    who: Authenticated,
    handle: bytes::Bytes,
    overwritten: bool,
    attempts: u32,
    result: Result<Committed, CommitError>,
}

impl Settled {
    /// What the audit trail says of it when it is durable.
    fn event(&self) -> Event<'_> {
        Event {
            result: "committed",
            operation: self.request.done_as(self.overwritten),
            code: ResponseCode::SUCCESS.0,
            handle: &self.handle,
            ..event(&self.letter, &self.request, &self.who)
        }
    }

    /// Whether it is done, and its answer takes no signature.
    pub(super) fn is_light(&self) -> bool {
        // Copies of it wait that may ask for a signature; within a session nobody gets one.
        self.result.is_ok() && self.letter.within.is_some()
    }
}

impl Counter {
    /// A change: refused by what it is, proved, or decided.
    pub(super) fn change(&mut self, mut letter: Letter, message: Message, request: Request) {
        let Some(who) = letter.who.clone() else {
            return match self.registry().examine(&request) {
                Ok(()) => self.ask(letter, message),
                Err(rejection) => {
                    self.registry()
                        .figures
                        .changed(kind_of(&request), Ended::Refused);
                    let step = Step::refuse(&letter, &rejection);
                    self.finish(letter, step);
                }
            };
        };
        // The ids of a login are counters of the client that begin anew with it: they tell no two apart.
        if letter.retry.is_none() && letter.envelope.session_id != 0 && !letter.by_login {
            let Some(begun) = self.begin(letter) else {
                return;
            };
            letter = begun;
        }
        self.decide(letter, request, who, 0);
    }

    /// Takes a request up unless it is under way or answered already.
    fn begin(&self, mut letter: Letter) -> Option<Letter> {
        let body = letter.view().map_or(&[][..], |view| view.body);
        let envelope = &letter.envelope;
        let key = Key::new(
            envelope.session_id,
            envelope.request_id,
            letter.header.op_code.0,
            body,
        );
        letter.retry = Some(key);
        match self.desk.retries.begin(key, letter, Now::read().instant) {
            Begin::New(letter) => Some(letter),
            Begin::Waiting => None,
            Begin::Done(mut letter, outcome) => {
                letter.retry = None;
                letter.op = outcome.op;
                letter.answer_session = self.session_of_answer(&letter);
                self.finish(letter, Step::Answer(outcome, Seal::AsAsked));
                None
            }
            Begin::Crowded(mut letter) => {
                letter.retry = None;
                let step = Step::refuse(&letter, &Rejection::busy("the same request is under way"));
                self.finish(letter, step);
                None
            }
        }
    }

    /// The session id of an answer: an answered challenge has none any more.
    fn session_of_answer(&self, letter: &Letter) -> u32 {
        match letter.within {
            Some(_) => letter.envelope.session_id,
            None => 0,
        }
    }

    fn decide(&mut self, letter: Letter, request: Request, who: Authenticated, attempts: u32) {
        let settled = Settled {
            letter,
            request,
            who,
            handle: bytes::Bytes::new(),
            overwritten: false,
            attempts,
            result: Err(CommitError::Closed),
        };
        let mut refused = None;
        let decide = || {
            let (batch, settled) = self.decided(settled, &mut refused)?;
            let desk = Arc::clone(&self.desk);
            let done = move |result| desk.settle(Settled { result, ..settled });
            Some((batch, done))
        };
        let store = &self.shared.store;
        if attempts > ATTEMPTS_MAX {
            store.submit_decided(decide);
        } else if let Some((batch, done)) = decide() {
            match self.waits && self.desk.is_alone() {
                true => store.submit_here(batch, done),
                false => store.submit(batch, done),
            }
        }
        if let Some((settled, rejection)) = refused {
            let Settled {
                letter,
                request,
                who,
                ..
            } = settled;
            self.refuse_change(letter, &request, &who, Ended::Refused, &rejection);
        }
    }

    /// What is to be written; or it is `refused`.
    fn decided(
        &self,
        mut settled: Settled,
        refused: &mut Option<(Settled, Rejection)>,
    ) -> Option<(Batch, Settled)> {
        let Settled { request, who, .. } = &settled;
        let now = Now::read().unix_seconds;
        let decision = match self.registry().decide(request, who, now, &mut SysRng) {
            Ok(decision) => decision,
            Err(rejection) => {
                *refused = Some((settled, rejection));
                return None;
            }
        };
        settled.handle = decision.handle;
        settled.overwritten = decision.overwritten;
        let batch = self
            .registry()
            .witnessed(decision.batch, &[settled.event()]);
        Some((batch, settled))
    }

    /// The store has decided.
    pub(super) fn settled(&mut self, settled: Settled) {
        if let Ok(committed) = &settled.result {
            let event = Event {
                change: Some(committed.sequence),
                ..settled.event()
            };
            self.registry()
                .ended(&settled.request, Ended::Committed, &event);
        }
        let Settled {
            letter,
            request,
            who,
            handle,
            overwritten,
            attempts,
            result,
        } = settled;
        let rejection = match result {
            Ok(_) => {
                let body = match request {
                    Request::Create { .. } => block(&handle),
                    _ => Vec::new(),
                };
                let outcome = Outcome {
                    overwritten,
                    ..Outcome::success(letter.op, body)
                };
                return self.finish(letter, Step::Answer(outcome, Seal::AsAsked));
            }
            Err(CommitError::Conflict { .. }) if attempts <= ATTEMPTS_MAX => {
                return self.decide(letter, request, who, attempts + 1);
            }
            Err(error) => Rejection::of_store(&error),
        };
        let ended = Ended::untaken(rejection.code);
        self.refuse_change(letter, &request, &who, ended, &rejection);
    }

    fn refuse_change(
        &self,
        letter: Letter,
        request: &Request,
        who: &Authenticated,
        ended: Ended,
        rejection: &Rejection,
    ) {
        let event = Event {
            result: if ended == Ended::Failed {
                "failed"
            } else {
                "refused"
            },
            code: rejection.code.0,
            ..event(&letter, request, who)
        };
        self.registry().ended(request, ended, &event);
        let step = Step::refuse(&letter, rejection);
        self.finish(letter, step);
    }

    /// Asks for proof: a challenge within the session, or one of its own.
    pub(super) fn ask(&self, letter: Letter, message: Message) {
        if letter.is_of_sdk() && !self.desk.config.challenge_sdk {
            let text = "please log in first: this client reads a challenge as success";
            let code = ResponseCode::INSUFFICIENT_PERMISSIONS;
            let step = Step::refuse(&letter, &Rejection::new(code, text));
            return self.finish(letter, step);
        }
        let mut nonce = [0; NONCE_SIZE];
        if getrandom::fill(&mut nonce).is_err() {
            let step = Step::refuse(&letter, &Rejection::busy("no randomness"));
            return self.finish(letter, step);
        }
        let challenge = Challenge {
            nonce,
            digest: letter.digest().1.into(),
            envelope: message.envelope,
            content: letter.content.clone(),
            made: letter.came,
        };
        let registry = self.registry();
        let (source, draw) = (letter.sender().source(), || getrandom::u32().ok());
        let kept = if let Some(within) = &letter.within {
            let mut session = within
                .session
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let nonce = registry
                .table
                .ask_within(&mut session, challenge, source, draw);
            nonce.map(|nonce| (nonce, within.id))
        } else {
            let id = registry.table.ask(challenge, source, draw);
            id.map(|id| (nonce, id))
        };
        let Ok((nonce, id)) = kept else {
            let step = Step::refuse(&letter, &Rejection::busy("too many challenges wait"));
            return self.finish(letter, step);
        };
        let octets = letter.challenge(&nonce, id, &registry.key, self.stamp());
        self.send(letter, octets, ResponseCode::AUTHENTICATION_NEEDED);
    }

    /// An answer to a challenge.
    pub(super) fn proof(&mut self, letter: Letter, message: Message) {
        let Body::Answer(answer) = &message.body else {
            let step = Step::refuse(&letter, &Rejection::bare(ResponseCode::PROTOCOL_ERROR));
            return self.finish(letter, step);
        };
        let Some(mut letter) = self.begin(letter) else {
            return;
        };
        let candidates = match self.candidates(&mut letter) {
            Ok(candidates) => candidates,
            Err(rejection) => {
                let step = Step::refuse(&letter, &rejection);
                return self.finish(letter, step);
            }
        };
        let claim = self.claim(&letter, answer);
        self.check(Proving {
            claim,
            sender: Sender::proven(letter.peer.ip()),
            what: For::Request(Box::new(letter), candidates),
        });
    }

    /// A proof was checked: if it is right, the request that was challenged is carried out.
    pub(super) fn request_proved(
        &mut self,
        mut letter: Letter,
        claim: &Claim,
        candidates: Vec<(u32, Challenge)>,
        proved: Proved,
    ) {
        let (who, place) = match proved {
            Ok(proved) => proved,
            Err(rejection) => {
                return self.refuse_proof(letter, &claim.identity, &candidates, &rejection);
            }
        };
        let Some((id, challenge)) = candidates.into_iter().nth(place) else {
            return self.desk.done();
        };
        self.proved(&letter, &who, id);
        letter.question = Some((challenge.envelope, challenge.content));
        letter.who = Some(who);
        let Some(message) = question(&letter) else {
            let step = Step::refuse(&letter, &Rejection::bare(ResponseCode::PROTOCOL_ERROR));
            return self.finish(letter, step);
        };
        letter.op = message.header.op_code;
        self.perform(letter, message);
    }

    /// The challenges that an answer may be for.
    fn candidates(&self, letter: &mut Letter) -> Result<Vec<(u32, Challenge)>, Rejection> {
        const UNKNOWN: Rejection = Rejection::new(
            ResponseCode::SESSION_TIMEOUT,
            "Invalid session id or session time out. Please try again.",
        );
        const LATE: Rejection = Rejection::bare(ResponseCode::AUTHENTICATION_TIMEOUT);
        let table = &self.registry().table;
        if let Some(within) = &letter.within {
            let session = within
                .session
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            return match table.pending(&session, letter.came) {
                Found::There(pending) => Ok(pending),
                Found::TooLate => Err(LATE),
                Found::Unknown => Err(UNKNOWN),
            };
        }
        let id = letter.envelope.session_id;
        match table.answered(id, letter.came) {
            Found::There(challenge) => {
                letter.answer_session = 0;
                Ok(vec![(id, challenge)])
            }
            Found::TooLate => {
                letter.answer_session = 0;
                Err(LATE)
            }
            Found::Unknown => Err(UNKNOWN),
        }
    }

    pub(super) fn claim(&self, letter: &Letter, answer: &ChallengeAnswer) -> Claim {
        let envelope = &letter.envelope;
        Claim {
            identity: Identity::of(&answer.user, &self.registry().records),
            user: answer.user.handle.clone(),
            kind: answer.auth_type.clone(),
            answer: answer.answer.clone(),
            version: envelope.version.min(envelope.wanted_version()),
        }
    }

    /// Writes down in the session who was proved, when it is who opened it: somebody else's proof
    /// counts for the one request only.
    fn proved(&self, letter: &Letter, who: &Authenticated, id: u32) {
        let Some(within) = &letter.within else {
            return;
        };
        let mut session = within
            .session
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.registry().table.forget(&mut session, id);
        if session.declared.as_ref() == Some(who.identity()) {
            session.authenticated = Some(who.clone());
        }
    }

    /// Refuses a wrong proof: 400 for somebody who is no administrator of this at all, else 403.
    fn refuse_proof(
        &self,
        mut letter: Letter,
        claimed: &Identity,
        candidates: &[(u32, Challenge)],
        rejection: &Rejection,
    ) {
        let Some((_, challenge)) = candidates.last() else {
            return self.desk.done();
        };
        letter.question = Some((challenge.envelope, challenge.content.clone()));
        let mut said = rejection.clone();
        let mut about: (&'static str, Vec<u8>) = ("prove", Vec::new());
        if let Some(message) = question(&letter) {
            letter.op = message.header.op_code;
            if let Some((name, key, need)) = self.subject(&message) {
                if said.code == ResponseCode::AUTHENTICATION_FAILED {
                    said = self.registry().refusal(claimed, &key, Some(need));
                }
                about = (name, key);
            }
        }
        let event = Event {
            time: Now::read().unix_seconds.into(),
            identity: Some(claimed),
            source: letter.peer.ip().to_string(),
            operation: about.0,
            handle: &about.1,
            result: "refused",
            code: said.code.0,
            change: None,
        };
        // Whoever is turned away unheard is counted, not written down: they may be many.
        if said.code != ResponseCode::SERVER_TOO_BUSY {
            self.registry().note(&event);
        }
        let step = Step::refuse(&letter, &said);
        self.finish(letter, step);
    }

    /// What a challenged request is about, and what it needs.
    fn subject(&self, message: &Message) -> Option<(&'static str, Vec<u8>, Need)> {
        if let Some(request) = super::counter::change_of(message) {
            let (key, need) = self.registry().need(&request).ok()?;
            return Some((request.name(), key, need));
        }
        let records = &self.registry().records;
        match (&message.body, message.header.op_code) {
            (Body::Resolution(asked), _) => Some(("read", records.key(&asked.handle), READ)),
            (Body::Handle(prefix), OpCode::LIST_HANDLES) => {
                Some(("list", records.key(prefix), LIST))
            }
            (Body::Handle(_), OpCode::LIST_HOMED_NAS) => {
                Some(("list homed", Vec::new(), Need::Server))
            }
            _ => None,
        }
    }

    /// Whether an answer by secret key is right: asked by a server that has not got the key. It waits for its turn like
    /// every proof.
    pub(super) fn verify(&mut self, letter: Letter, asked: &VerifyChallenge) {
        let claim = Claim {
            identity: Identity::of(&asked.user, &self.registry().records),
            user: asked.user.handle.clone(),
            kind: bytes::Bytes::from_static(b"HS_SECKEY"),
            answer: asked.answer.clone(),
            version: letter
                .envelope
                .version
                .min(letter.envelope.wanted_version()),
        };
        let covered = [&asked.nonce[..], &asked.digest].concat();
        self.check(Proving {
            claim,
            sender: letter.sender(),
            what: For::Server(Box::new(letter), covered),
        });
    }

    /// Tells the server that has asked.
    pub(super) fn verified(&self, letter: Letter, proved: &Proved) {
        let step = match proved {
            Ok(_) => Step::success(&letter, vec![1]),
            Err(rejection) if rejection.code == ResponseCode::AUTHENTICATION_FAILED => {
                Step::success(&letter, vec![0])
            }
            Err(rejection) => Step::refuse(&letter, rejection),
        };
        self.finish(letter, step);
    }

    /// Keeps the answer for those who ask again, and tells those who wait for it.
    pub(super) fn keep(&self, letter: &mut Letter, outcome: &Outcome) {
        let Some(key) = letter.retry.take() else {
            return;
        };
        let passing = matches!(
            outcome.code,
            ResponseCode::SERVER_TOO_BUSY | ResponseCode::SESSION_TIMEOUT
        );
        let waiting = if passing || outcome.body.len() > KEPT_MAX {
            self.desk.retries.forget(key)
        } else {
            let (octets, now) = (outcome.body.len(), Now::read().instant);
            self.desk.retries.finish(key, outcome.clone(), octets, now)
        };
        for mut other in waiting {
            other.retry = None;
            other.op = outcome.op;
            other.answer_session = self.session_of_answer(&other);
            self.finish(other, Step::Answer(outcome.clone(), Seal::AsAsked));
        }
    }
}

/// The request that was challenged, or the one that came.
pub(super) fn question(letter: &Letter) -> Option<Message> {
    match &letter.question {
        Some((envelope, content)) => Message::decode_content(*envelope, content).ok(),
        None => decoded(letter),
    }
}

fn kind_of(request: &Request) -> usize {
    crate::registry::figures::kind_of(request)
}

fn event<'a>(letter: &Letter, request: &'a Request, who: &'a Authenticated) -> Event<'a> {
    Event {
        time: Now::read().unix_seconds.into(),
        identity: Some(who.identity()),
        source: letter.peer.ip().to_string(),
        operation: request.name(),
        handle: request.handle(),
        result: "",
        code: 0,
        change: None,
    }
}
