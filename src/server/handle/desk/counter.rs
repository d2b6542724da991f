//! One thread's work: open a request, find its session, decode it, decide, answer.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use jiexi_proto::code::{OpFlags, ResponseCode};
use jiexi_proto::framing::split_datagrams;
use jiexi_proto::limits::{DATAGRAM_MAX, ENVELOPE_SIZE, HANDLE_MAX};
use jiexi_proto::message::credential::{Credential, CredentialField, signed_bytes};
use jiexi_proto::message::resolution::ResolutionView;
use jiexi_proto::message::{Body, MessageView};
use jiexi_proto::wire::Reader as WireReader;
use jiexi_proto::{Envelope, Message, OpCode, Version};

use super::letter::{Letter, Outcome, Seal, Within, block};
use super::{Answer, Desk, Job, Sink, Work};
use crate::clock::Now;
use crate::history::Event;
use crate::metrics::{Cell, Metrics, Protocol, Reason, Transport};
use crate::notices::{self, Away, Slow};
use crate::registry::figures::{Proved, SESSION};
use crate::registry::plan::Request;
use crate::registry::waiting::Leaves;
use crate::registry::{Authenticated, DAMAGED, NOT_HOMED, Registry, Rejection, cipher};
use crate::resolver::{self, Filter, Query, Selection};
use crate::server::forward::{Forwarder, Question, Told};
use crate::server::handle::reply::{Reply, Stamp};
use crate::server::handle::udp::DEFERRED_COST;
use crate::server::handle::{Shared, op_of, outcome_of};
use crate::store::{Lookup, Reader};

/// Said to whoever refers to a session that this node does not have.
const NO_SESSION: Rejection = Rejection::new(
    ResponseCode::SESSION_TIMEOUT,
    "Invalid session id or session time out. Please try again.",
);

/// What becomes of a request that was looked at.
pub(super) enum Step {
    /// This is the answer.
    Answer(Outcome, Seal),
    /// Who asks must be proved first.
    Prove,
    /// Another node is to be asked.
    Forward(Arc<Forwarder>, Box<Question>),
}

impl Step {
    pub(super) fn refuse(letter: &Letter, rejection: &Rejection) -> Self {
        Self::Answer(Outcome::refusal(letter.op, rejection), Seal::AsAsked)
    }

    pub(super) fn success(letter: &Letter, body: impl Into<Bytes>) -> Self {
        Self::Answer(Outcome::success(letter.op, body), Seal::AsAsked)
    }
}

/// One thread at the desk.
pub(in crate::server::handle) struct Counter {
    pub(super) desk: Arc<Desk>,
    /// Whether this thread may wait for the disk, which saves waking others.
    pub(in crate::server::handle) waits: bool,
    pub(super) shared: Arc<Shared>,
    reader: Reader,
    authority: resolver::Authority,
    udp: Arc<Cell>,
    tcp: Arc<Cell>,
}

impl std::fmt::Debug for Counter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counter").finish_non_exhaustive()
    }
}

impl Counter {
    pub(in crate::server::handle) fn new(
        desk: Arc<Desk>,
        shared: Arc<Shared>,
        metrics: &Metrics,
    ) -> Self {
        Self {
            reader: shared.store.reader(),
            authority: shared.authority().unwrap_or_default(),
            udp: metrics.cell(Transport::Udp),
            tcp: metrics.cell(Transport::Tcp),
            waits: false,
            desk,
            shared,
        }
    }

    /// On a thread that may wait for the disk.
    pub(in crate::server::handle) fn patient(self) -> Self {
        Self {
            waits: true,
            ..self
        }
    }

    /// Works until the desk is closed.
    pub(super) fn run(mut self) {
        let desk = Arc::clone(&self.desk);
        while let Some(work) = desk.next() {
            match work {
                Work::Job(job) => self.serve(job),
                Work::Settled(settled) => self.settled(*settled),
                Work::Prove(proving) => self.check(*proving),
                Work::Proof(proving, said) => self.home_said(*proving, &said),
                Work::Turn(Leaves::Turn(proving)) => self.check_in_turn(*proving),
                Work::Turn(Leaves::Late(proving)) => self.turn_away(*proving),
                Work::Told(letter, told) => self.told(*letter, &told),
                Work::More(listing, answer) => {
                    let _ = answer.send(self.next_page(*listing));
                }
            }
        }
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.desk.registry
    }

    pub(super) fn stamp(&self) -> Stamp {
        Stamp {
            site_serial: self.shared.site_serial,
            unix_seconds: Now::read().unix_seconds,
        }
    }

    /// Takes one request up; it was admitted before.
    pub(in crate::server::handle) fn serve(&mut self, job: Job) {
        self.refresh();
        let Some(letter) = self.open(job) else {
            return;
        };
        let Some(message) = decoded(&letter) else {
            let text = "the body does not have the form of its operation";
            return self.refuse_unread(
                letter.envelope,
                letter.op,
                ResponseCode::PROTOCOL_ERROR,
                text,
                letter.sink,
                letter.peer,
            );
        };
        if letter.op == OpCode::RESPONSE_TO_CHALLENGE {
            let id = letter.envelope.session_id;
            return match letter.line.as_ref().is_some_and(|line| line.is_asked(id)) {
                true => self.logged_in(letter, &message),
                false => self.proof(letter, message),
            };
        }
        if let Err(rejection) = self.authenticate(&letter, &message) {
            let step = Step::refuse(&letter, &rejection);
            return self.finish(letter, step);
        }
        let letter = self.identified(letter, &message);
        self.perform(letter, message);
    }

    /// Takes up prefixes homed since the last request.
    fn refresh(&mut self) {
        if self.authority.is_stale(&self.shared.store)
            && let Ok(authority) = self.shared.authority()
        {
            self.authority = authority;
        }
    }

    /// Decrypts and cuts a message; what cannot be read is refused.
    fn open(&self, job: Job) -> Option<Letter> {
        let Job {
            octets,
            peer,
            sink,
            line,
            came,
        } = job;
        let Ok(envelope) = Envelope::decode(&octets) else {
            self.desk.done();
            return None;
        };
        let table = &self.registry().table;
        let by_login = envelope.session_id != 0
            && line
                .as_ref()
                .is_some_and(|line| line.has(envelope.session_id));
        let session = match envelope.session_id {
            0 => None,
            _ if by_login => None,
            id => table
                .session(id, came)
                .map(|session| Within { id, session }),
        };
        let line_key = line
            .as_ref()
            .filter(|_| by_login && envelope.is_encrypted())
            .and_then(|line| line.key(envelope.session_id));
        let content = octets.slice(ENVELOPE_SIZE..);
        let content = match (envelope.is_encrypted(), &session, &line_key) {
            (false, ..) => Some(content),
            (true, Some(within), _) => {
                let session = within
                    .session
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                cipher::decrypt(&session.key, &content).map(Bytes::from)
            }
            (true, None, Some(key)) => cipher::decrypt(key, &content).map(Bytes::from),
            (true, None, None) => {
                let text = "Session information not available or time out. Unable to decrypt request message.";
                let code = ResponseCode::SESSION_TIMEOUT;
                self.refuse_unread(envelope, OpCode::RESERVED, code, text, sink, peer);
                return None;
            }
        };
        let Some(content) = content else {
            let code = ResponseCode::INVALID_CREDENTIAL;
            self.refuse_unread(envelope, OpCode::RESERVED, code, "", sink, peer);
            return None;
        };
        let header = match MessageView::of_content(envelope, &content) {
            Ok(view) if view.header.is_request() => view.header,
            unreadable => {
                let code = match (envelope.is_encrypted(), unreadable.is_ok()) {
                    (true, _) => ResponseCode::INVALID_CREDENTIAL,
                    (false, _) => ResponseCode::PROTOCOL_ERROR,
                };
                self.refuse_unread(envelope, OpCode::RESERVED, code, "", sink, peer);
                return None;
            }
        };
        let encrypt = line_key.is_some()
            || session.is_some()
                && (envelope.is_encrypted()
                    || header.flags.contains(OpFlags::ENCR)
                    || header.op_code == OpCode::RESPONSE_TO_CHALLENGE);
        Some(Letter {
            answer_session: envelope.session_id,
            op: header.op_code,
            envelope,
            header,
            content,
            within: session,
            who: None,
            line,
            by_login,
            authentic: false,
            encrypt,
            line_key,
            question: None,
            retry: None,
            peer,
            sink,
            came,
            away: Away::default(),
        })
    }

    /// Checks the MAC of a message in a session, and that it did not come before.
    fn authenticate(&self, letter: &Letter, message: &Message) -> Result<(), Rejection> {
        let Some(within) = &letter.within else {
            // The SDK chooses a session id before it logs in.
            let free = matches!(letter.op, OpCode::LOGIN | OpCode::GET_SITE_INFO)
                || letter.covers_line(&message.body);
            return match letter.envelope.session_id {
                0 => Ok(()),
                _ if letter.by_login || free => Ok(()),
                _ => Err(NO_SESSION),
            };
        };
        let CredentialField::Present(credential) = &message.credential else {
            return Ok(());
        };
        let figures = &self.registry().figures;
        let mut session = within
            .session
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut covered = Vec::new();
        let signed = letter.view().map_or(&[][..], |view| view.signed);
        signed_bytes(&letter.envelope, credential.counter(), signed, &mut covered);
        let version = letter.envelope.version;
        let right = credential.kind == Credential::MAC
            && (version >= Version::V2_7 || self.registry().config.old_macs)
            && cipher::is_right(
                version,
                &session.key,
                &covered,
                &credential.algorithm,
                &credential.signature,
            );
        if !right {
            figures.proved(SESSION, Proved::Refused);
            return Err(Rejection::bare(ResponseCode::INVALID_CREDENTIAL));
        }
        if !session.accept(credential.counter()) {
            figures.proved(SESSION, Proved::Refused);
            return Err(Rejection::new(
                ResponseCode::SESSION_MESSAGE_REJECTED,
                "this message came before",
            ));
        }
        figures.proved(SESSION, Proved::Accepted);
        Ok(())
    }

    /// Writes down who the session says it is.
    fn identified(&self, letter: Letter, message: &Message) -> Letter {
        let authentic =
            matches!(message.credential, CredentialField::Present(_)) && letter.within.is_some();
        let who = match &letter.within {
            Some(within) if authentic => {
                let session = within
                    .session
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                session.authenticated.clone()
            }
            _ => self.by_login(&letter),
        };
        Letter {
            who,
            authentic,
            ..letter
        }
    }

    /// Who is logged in on the connection of a letter.
    fn by_login(&self, letter: &Letter) -> Option<Authenticated> {
        let line = letter.line.as_ref()?;
        line.who(letter.envelope.session_id)
    }

    /// Carries out a request whose sender is as well known as it will be.
    pub(super) fn perform(&mut self, mut letter: Letter, message: Message) {
        if is_change(message.header.op_code) && letter.sink.transport() == Transport::Udp {
            let text = "Received admin request on non-admin interface";
            let step = Step::refuse(&letter, &Rejection::new(ResponseCode::PROTOCOL_ERROR, text));
            return self.finish(letter, step);
        }
        if let Some(request) = change_of(&message) {
            return self.change(letter, message, request);
        }
        let step = match &message.body {
            Body::Resolution(_) => self.resolve(&letter),
            Body::Login(login) => return self.log_in(letter, login),
            Body::Verify(verify) => return self.verify(letter, verify),
            Body::SessionSetup(setup) => self.set_up(&mut letter, setup),
            Body::DumpHandles(_) | Body::RetrieveTransactions(_) => {
                return self.copy(letter, message);
            }
            Body::Handle(handle) => match message.header.op_code {
                OpCode::GET_SITE_INFO => Step::success(&letter, self.shared.site.clone()),
                OpCode::SESSION_TERMINATE => self.terminate(&letter),
                OpCode::LIST_HOMED_NAS => self.list_homed(&letter),
                OpCode::LIST_HANDLES => return self.list(letter, handle.clone(), message),
                _ => unsupported(&letter),
            },
            Body::ExchangeKey(_) => Step::refuse(&letter, &NO_SESSION),
            _ => unsupported(&letter),
        };
        match step {
            Step::Prove => self.ask(letter, message),
            Step::Forward(forwarder, question) => self.forward(letter, &forwarder, *question),
            step => self.finish(letter, step),
        }
    }

    /// A question that takes a session, a signature or a right.
    fn resolve(&self, letter: &Letter) -> Step {
        let Some(view) = letter.asked() else {
            return unsupported(letter);
        };
        // The question is that of the challenged request, when this is an answer to a challenge.
        let Ok(asked) = ResolutionView::decode(view.body) else {
            return unsupported(letter);
        };
        let key = self.registry().records.key(asked.handle);
        let flags = view.header.flags;
        // The SDK asks for public values only and expects what its user may read.
        let sees_all = letter.by_login
            && letter
                .who
                .as_ref()
                .is_some_and(|who| self.registry().may_read(who, &key).is_ok());
        let public_only = flags.contains(OpFlags::PUBL) && !sees_all;
        let query = Query {
            key: &key,
            filter: Filter::asked(asked.indexes, asked.types),
            public_only,
            refer: !flags.contains(OpFlags::DNRF),
        };
        let session = self.reader.session();
        let mut found = [Lookup::Absent];
        session.find(&[&key], &mut found);
        let text = |code, text| Step::refuse(letter, &Rejection::new(code, text));
        use crate::resolver::Answer as Said;
        let said = resolver::resolve(&self.authority, &session, &query, &found[0]);
        let elsewhere = match said {
            Said::NotResponsible => true,
            Said::PrefixReferral(_) => letter.envelope.reply_version() < Version::V2_10,
            _ => false,
        };
        if elsewhere
            && let Some(forwarder) = self.shared.forwarder_for(&view)
            && let Some(question) = Question::read(&view)
        {
            return Step::Forward(Arc::clone(forwarder), Box::new(question));
        }
        match said {
            // Within a session, whoever does not ask for public values only must be known.
            Said::Values(selection)
                if public_only || letter.within.is_none() && letter.who.is_none() =>
            {
                let mut body = block(asked.handle);
                selection.encode(&mut body);
                Step::success(letter, body)
            }
            Said::Values(selection) => self.restricted(letter, asked.handle, &key, selection),
            Said::NeedsAuthentication => {
                let Lookup::Found(record) = found[0] else {
                    return Step::Prove;
                };
                self.restricted(
                    letter,
                    asked.handle,
                    &key,
                    Selection::new(record, query.filter),
                )
            }
            Said::PrefixReferral(selection)
                if letter.envelope.reply_version() >= Version::V2_10 =>
            {
                let mut body = block(&[]);
                selection.encode(&mut body);
                let code = ResponseCode::PREFIX_REFERRAL;
                Step::Answer(
                    Outcome {
                        code,
                        ..Outcome::success(letter.op, body)
                    },
                    Seal::AsAsked,
                )
            }
            Said::PrefixReferral(_) => text(
                ResponseCode::ERROR,
                "this prefix lives elsewhere, and a client before version 2.10 cannot be referred",
            ),
            Said::NoSuchHandle => text(ResponseCode::HANDLE_NOT_FOUND, ""),
            Said::NoSuchValue => text(ResponseCode::VALUES_NOT_FOUND, ""),
            Said::NotResponsible => text(ResponseCode::SERVER_NOT_RESPONSIBLE, NOT_HOMED),
            Said::Denied => text(ResponseCode::INSUFFICIENT_PERMISSIONS, ""),
            Said::Loading => text(ResponseCode::SERVER_TOO_BUSY, "still loading"),
            Said::Damaged => text(ResponseCode::ERROR, DAMAGED),
        }
    }

    /// Has another node asked. Meanwhile this thread does something else.
    fn forward(&self, mut letter: Letter, forwarder: &Arc<Forwarder>, question: Question) {
        letter.away.leave();
        let (desk, source) = (Arc::clone(&self.desk), letter.sender().source());
        desk.leave();
        let then = move |told| desk.come_back(Work::Told(Box::new(letter), told));
        forwarder.ask(question, source, Box::new(then));
    }

    /// Another node was asked.
    fn told(&self, mut letter: Letter, told: &Told) {
        letter.away.come_back();
        let outcome = letter
            .asked()
            .and_then(|view| ResolutionView::decode(view.body).ok())
            .map(|asked| Outcome::told(letter.op, asked.handle, told));
        let step = match outcome {
            Some(outcome) => Step::Answer(outcome, Seal::AsAsked),
            None => unsupported(&letter),
        };
        self.finish(letter, step);
    }

    /// Values that only administrators may read, for one of them.
    fn restricted(
        &self,
        letter: &Letter,
        handle: &[u8],
        key: &[u8],
        selection: Selection<'_, '_>,
    ) -> Step {
        let Some(who) = &letter.who else {
            return Step::Prove;
        };
        let opened = self
            .registry()
            .may_read(who, key)
            .and_then(|permit| self.registry().open_values(permit));
        let opened = match opened {
            Ok(opened) => opened,
            Err(rejection) => {
                self.note_given(letter, who, ("read", key), Some(&rejection));
                return Step::refuse(letter, &rejection);
            }
        };
        let mut values = Vec::new();
        let mut count = 0_u32;
        for entry in selection.readable() {
            if !entry.sealed {
                values.extend_from_slice(entry.wire);
                count += 1;
            } else if let Some(value) = opened.iter().find(|value| value.index == entry.index) {
                value.encode(&mut values);
                count += 1;
            }
        }
        let body = [block(handle), count.to_be_bytes().to_vec(), values].concat();
        Step::success(letter, body)
    }

    /// Sends the answer, and counts it.
    pub(super) fn finish(&self, mut letter: Letter, step: Step) {
        let Step::Answer(outcome, seal) = step else {
            return;
        };
        self.keep(&mut letter, &outcome);
        let octets = letter.answer(&outcome, seal, &self.registry().key, self.stamp());
        self.send(letter, octets, outcome.code);
    }

    pub(super) fn send(&self, letter: Letter, octets: Vec<u8>, code: ResponseCode) {
        self.count(&letter.sink, &letter, code);
        self.deliver(letter.sink, letter.peer, Answer::of(octets));
        self.desk.done();
    }

    pub(super) fn cell(&self, transport: Transport) -> &Cell {
        match transport {
            Transport::Udp => &self.udp,
            Transport::Tcp | Transport::Tls | Transport::Http => &self.tcp,
        }
    }

    /// Gives an answer to the connection, or sends it to where the datagram came from, if the budget of that network has
    /// what it costs beyond what was paid for it.
    pub(super) fn deliver(&self, sink: Sink, peer: std::net::SocketAddr, answer: Answer) {
        match sink {
            // A connection that is gone takes no answer.
            Sink::Stream(connection) => drop(connection.send(answer)),
            Sink::Nowhere => {}
            Sink::Datagram { outlet, from } => {
                let unpaid = answer.octets.len().saturating_sub(DEFERRED_COST);
                if unpaid > 0 && !outlet.purse.take(peer.ip(), unpaid, Instant::now()) {
                    let front = (Protocol::Handle, Transport::Udp);
                    notices::refused_now(front, notices::Reason::RateLimited, peer.ip());
                    return self.udp.dropped(Reason::RateLimited).add(1);
                }
                self.udp.sent_bytes.add(answer.octets.len() as u64);
                let send = |datagram: &[u8]| {
                    crate::server::datagram::send_from(&outlet.socket, from, peer, datagram)
                };
                if answer.octets.len() <= DATAGRAM_MAX {
                    return send(&answer.octets);
                }
                let Ok(envelope) = Envelope::decode(&answer.octets) else {
                    return;
                };
                let mut pieces = Vec::new();
                split_datagrams(&envelope, &answer.octets[ENVELOPE_SIZE..], &mut pieces);
                pieces.chunks(DATAGRAM_MAX).for_each(send);
            }
        }
    }

    /// Refuses what was not understood beyond its envelope.
    fn refuse_unread(
        &self,
        envelope: Envelope,
        op: OpCode,
        code: ResponseCode,
        text: &str,
        sink: Sink,
        peer: std::net::SocketAddr,
    ) {
        let mut octets = Vec::new();
        let mut reply = Reply::refusal(&mut octets, self.stamp(), &envelope, op, code);
        reply.put_block(text.as_bytes());
        crate::server::handle::finish(reply);
        let cell = self.cell(sink.transport());
        cell.requests(op_of(op)).add(1);
        cell.responses(outcome_of(code)).add(1);
        if let Some(reason) = notices::Reason::of_code(code) {
            let front = (Protocol::Handle, sink.transport());
            notices::refused_now(front, reason, peer.ip());
        }
        self.deliver(sink, peer, Answer::of(octets));
        self.desk.done();
    }

    /// Counts an answer.
    pub(super) fn count(&self, sink: &Sink, letter: &Letter, code: ResponseCode) {
        let cell = self.cell(sink.transport());
        cell.requests(op_of(letter.op)).add(1);
        cell.responses(outcome_of(code)).add(1);
        let took = letter.came.elapsed();
        cell.durations.observe(took, 1);
        remember(cell, letter, code);
        let transport = sink.transport();
        let reason = notices::Reason::of_code(code);
        if let Some(reason) = reason {
            let front = (Protocol::Handle, transport);
            notices::refused_now(front, reason, letter.peer.ip());
        }
        let took = took.saturating_sub(letter.away.total());
        if notices::is_slow(took) {
            let slow = Slow {
                protocol: Protocol::Handle,
                transport: Some(transport),
                operation: op_of(letter.op).label(),
                outcome: outcome_of(code).label(),
                took,
                requests: 1,
                about: handle_of(letter).unwrap_or_default(),
                network: Some(letter.sender().source()),
            };
            slow.tell();
        }
    }

    /// Writes down what somebody was given that not everybody gets, or was not.
    pub(super) fn note_given(
        &self,
        letter: &Letter,
        who: &Authenticated,
        (operation, key): (&'static str, &[u8]),
        refused: Option<&Rejection>,
    ) {
        let event = crate::registry::audit::Event {
            time: Now::read().unix_seconds.into(),
            identity: Some(who.identity()),
            source: letter.peer.ip().to_string(),
            operation,
            handle: key,
            result: match (refused, operation) {
                (Some(_), _) => "refused",
                (None, "copy") => "begun",
                (None, _) => "committed",
            },
            code: refused
                .map_or(ResponseCode::SUCCESS, |rejection| rejection.code)
                .0,
            change: None,
        };
        self.registry().note(&event);
    }
}

fn unsupported(letter: &Letter) -> Step {
    let text = "this node does not carry out this operation over the wire";
    Step::refuse(
        letter,
        &Rejection::new(ResponseCode::OPERATION_NOT_SUPPORTED, text),
    )
}

/// The request, understood.
pub(super) fn decoded(letter: &Letter) -> Option<Message> {
    Message::decode_content(letter.envelope, &letter.content).ok()
}

/// Whether an operation is administration, which does not go over UDP.
pub(super) const fn is_change(op: OpCode) -> bool {
    matches!(
        op,
        OpCode::CREATE_HANDLE
            | OpCode::DELETE_HANDLE
            | OpCode::ADD_VALUE
            | OpCode::REMOVE_VALUE
            | OpCode::MODIFY_VALUE
            | OpCode::LIST_HANDLES
            | OpCode::HOME_NA
            | OpCode::UNHOME_NA
            | OpCode::HOME_AND_CREATE
            | OpCode::UNHOME_AND_DELETE
            | OpCode::LIST_HOMED_NAS
            | OpCode::RETRIEVE_TXN_LOG
            | OpCode::DUMP_HANDLES
    )
}

/// Writes a resolution, a change or a list down.
fn remember(cell: &Cell, letter: &Letter, code: ResponseCode) {
    let op = op_of(letter.op);
    let (Some(pen), true) = (cell.pen(), op.is_remembered()) else {
        return;
    };
    let event = Event {
        time: Now::read().unix_seconds,
        client: letter.peer.ip(),
        op,
        outcome: outcome_of(code),
    };
    pen.note(event, handle_of(letter).unwrap_or_default());
}

/// The handle that a request is about: the body of each that is remembered begins with it.
fn handle_of(letter: &Letter) -> Option<&[u8]> {
    let asked = letter
        .asked()
        .filter(|_| op_of(letter.op).is_remembered())?;
    WireReader::new(asked.body).bytes(HANDLE_MAX, "handle").ok()
}

/// The change that a message asks for.
pub(crate) fn change_of(message: &Message) -> Option<Request> {
    let overwrite = message.header.flags.contains(OpFlags::OVRW);
    let mint = message.header.flags.contains(OpFlags::MINT);
    Some(match (message.header.op_code, &message.body) {
        (OpCode::CREATE_HANDLE, Body::Values(body)) => Request::Create {
            handle: body.handle.clone(),
            values: body.values.clone(),
            overwrite,
            mint,
        },
        (OpCode::ADD_VALUE, Body::Values(body)) => Request::Add {
            handle: body.handle.clone(),
            values: body.values.clone(),
            overwrite,
        },
        (OpCode::MODIFY_VALUE, Body::Values(body)) => Request::Modify {
            handle: body.handle.clone(),
            values: body.values.clone(),
        },
        (OpCode::REMOVE_VALUE, Body::Remove(body)) => Request::Remove {
            handle: body.handle.clone(),
            indexes: body.indexes.clone(),
        },
        (OpCode::DELETE_HANDLE, Body::Handle(handle)) => Request::Delete {
            handle: handle.clone(),
        },
        (OpCode::HOME_NA, Body::Handle(handle)) => Request::Home {
            prefix: handle.clone(),
            record: None,
        },
        (OpCode::HOME_AND_CREATE, Body::Values(body)) => Request::Home {
            prefix: body.handle.clone(),
            record: Some(body.values.clone()),
        },
        (OpCode::UNHOME_NA, Body::Handle(handle)) => Request::Unhome {
            prefix: handle.clone(),
            record: false,
        },
        (OpCode::UNHOME_AND_DELETE, Body::Handle(handle)) => Request::Unhome {
            prefix: handle.clone(),
            record: true,
        },
        _ => return None,
    })
}
