//! Logins of the id-pointer SDK: an identity bound to a connection.
//!
//! ```text
//!  GET_SITE_INFO "/" ─→ LOGIN ─→ challenge ─→ answer ─→ success; then requests without any proof
//! ```
//!
//! All with a session id that the client chose, and that is worth nothing on another connection.
//! Nothing else tells a login's requests from a session's: the connection is asked first.
//!
//! The older transport of that client can set a key up before (SESSION_SETUP under the same id, mode 3), with which all
//! that follows is encrypted, both ways. There are neither MACs nor counters then: it hides what is said, no more.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiexi_proto::code::ResponseCode;
use jiexi_proto::limits::NONCE_SIZE;
use jiexi_proto::message::Body;
use jiexi_proto::message::login::Login;
use jiexi_proto::{Message, OpCode, Version};
use zeroize::Zeroizing;

use super::counter::{Counter, Step};
use super::letter::Letter;
use super::proof::{For, Proved, Proving};
use crate::clock::Now;
use crate::registry::audit::Event;
use crate::registry::auth::Claim;
use crate::registry::source::Sender;
use crate::registry::{Authenticated, Identity, Rejection};

/// What the SDK says it does not know of the site, in every request.
const SERIAL_UNKNOWN: u16 = 0xFFFF;

/// A challenge that waits on its connection.
#[derive(Debug)]
struct Pending {
    session_id: u32,
    user: Identity,
    /// Nonce and digest of the login request: what the proof covers.
    asked: Vec<u8>,
    made: Instant,
}

/// Somebody who is logged in.
#[derive(Debug)]
struct Bound {
    session_id: u32,
    who: Authenticated,
    since: Instant,
}

/// What a connection is encrypted with, under a session id. Wiped when dropped.
pub(super) type LineKey = Arc<Zeroizing<Vec<u8>>>;

#[derive(Default)]
struct State {
    pending: Option<Pending>,
    bound: Option<Bound>,
    key: Option<(u32, LineKey)>,
}

/// What a connection is known for. It ends with the connection.
#[derive(Default)]
pub struct Line(Mutex<State>);

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Line(…)")
    }
}

impl Line {
    /// Whether a session id is that of this connection's login.
    pub(super) fn has(&self, session_id: u32) -> bool {
        let state = self.lock();
        let pending = state.pending.iter().map(|pending| pending.session_id);
        let bound = state.bound.iter().map(|bound| bound.session_id);
        let keyed = state.key.iter().map(|(id, _)| *id);
        pending.chain(bound).chain(keyed).any(|id| id == session_id)
    }

    /// What is encrypted under a session id is encrypted with this.
    pub(super) fn key(&self, session_id: u32) -> Option<LineKey> {
        let state = self.lock();
        let (id, key) = state.key.as_ref()?;
        (*id == session_id).then(|| Arc::clone(key))
    }

    pub(super) fn agree(&self, session_id: u32, key: Zeroizing<Vec<u8>>) {
        self.lock().key = Some((session_id, Arc::new(key)));
    }

    /// Who is logged in under a session id.
    pub(super) fn who(&self, session_id: u32) -> Option<Authenticated> {
        let state = self.lock();
        let bound = state.bound.as_ref()?;
        (bound.session_id == session_id).then(|| bound.who.clone())
    }

    /// Whether somebody logged in longer ago than `limit`. The connection is to be closed then: the
    /// SDK logs in once for a connection, so a login that ends before it would leave it useless.
    pub(in crate::server::handle) fn is_over(&self, now: Instant, limit: Duration) -> bool {
        let state = self.lock();
        let bound = state.bound.as_ref();
        bound.is_some_and(|bound| now.saturating_duration_since(bound.since) > limit)
    }

    /// Whether an answer to a challenge with this session id is about a login.
    pub(super) fn is_asked(&self, session_id: u32) -> bool {
        let pending = &self.lock().pending;
        pending
            .as_ref()
            .is_some_and(|pending| pending.session_id == session_id)
    }

    fn ask(&self, pending: Pending) {
        self.lock().pending = Some(pending);
    }

    /// A challenge is answered once.
    fn answered(&self) -> Option<Pending> {
        self.lock().pending.take()
    }

    fn bind(&self, bound: Bound) {
        self.lock().bound = Some(bound);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Letter {
    /// Whether it is one of the id-pointer SDK: version 2.10 that wants 2.11, and a site serial that
    /// is never learnt. CNRI's client says 2.3, or what the site record of the server says, with its
    /// serial.
    pub(super) fn is_of_sdk(&self) -> bool {
        self.line.is_some()
            && self.envelope.version == Version::V2_10
            && self.envelope.suggested == Version::CURRENT
            && self.header.site_serial == SERIAL_UNKNOWN
    }
}

impl Counter {
    /// Begins a login: the client is asked for proof.
    pub(super) fn log_in(&self, letter: Letter, login: &Login) {
        let refuse = |text| Rejection::new(ResponseCode::OPERATION_NOT_SUPPORTED, text);
        let mut nonce = [0; NONCE_SIZE];
        let refused = match &letter.line {
            None => Some(refuse("a login needs a TCP connection")),
            Some(_) if letter.envelope.session_id == 0 => {
                Some(refuse("a login needs a session id"))
            }
            Some(_) if getrandom::fill(&mut nonce).is_err() => {
                Some(Rejection::busy("no randomness"))
            }
            Some(line) => {
                line.ask(Pending {
                    session_id: letter.envelope.session_id,
                    user: Identity::of(&login.user, &self.registry().records),
                    asked: [&nonce[..], &letter.digest().1].concat(),
                    made: letter.came,
                });
                None
            }
        };
        if let Some(rejection) = refused {
            let step = Step::refuse(&letter, &rejection);
            return self.finish(letter, step);
        }
        let id = letter.envelope.session_id;
        let octets = letter.challenge(&nonce, id, &self.registry().key, self.stamp());
        self.send(letter, octets, ResponseCode::AUTHENTICATION_NEEDED);
    }

    /// Goes on with a login: its proof is to be checked.
    pub(super) fn logged_in(&mut self, mut letter: Letter, message: &Message) {
        letter.op = OpCode::LOGIN;
        match self.login_claim(&letter, message) {
            Ok((claim, asked)) => self.check(Proving {
                claim,
                sender: Sender::proven(letter.peer.ip()),
                what: For::Login(Box::new(letter), asked),
            }),
            Err((user, rejection)) => self.login_proved(letter, user, Err(rejection)),
        }
    }

    /// Ends a login: the proof is right and the connection is theirs, or it is refused. Success
    /// and refusal carry the operation of the login; the SDK understands no other.
    pub(super) fn login_proved(&self, letter: Letter, user: Identity, proved: Proved) {
        let step = match proved {
            Ok((who, _)) => {
                self.note_login(&letter, who.identity(), "accepted", ResponseCode::SUCCESS);
                if let Some(line) = &letter.line {
                    line.bind(Bound {
                        session_id: letter.envelope.session_id,
                        who,
                        since: letter.came,
                    });
                }
                Step::success(&letter, Bytes::new())
            }
            Err(rejection) => {
                // Whoever is turned away unheard is counted, not written down: they may be many.
                if rejection.code != ResponseCode::SERVER_TOO_BUSY {
                    self.note_login(&letter, &user, "refused", rejection.code);
                }
                Step::refuse(&letter, &rejection)
            }
        };
        self.finish(letter, step);
    }

    /// The claim in a proof, and what was asked on this connection.
    fn login_claim(
        &self,
        letter: &Letter,
        message: &Message,
    ) -> Result<(Claim, Vec<u8>), (Identity, Rejection)> {
        let nobody = || Identity {
            handle: Vec::new(),
            index: 0,
        };
        let bare = |user, code| (user, Rejection::bare(code));
        let Some(pending) = letter.line.as_ref().and_then(|line| line.answered()) else {
            return Err(bare(nobody(), ResponseCode::SESSION_TIMEOUT));
        };
        let Body::Answer(answer) = &message.body else {
            return Err(bare(pending.user, ResponseCode::PROTOCOL_ERROR));
        };
        let waited = letter.came.saturating_duration_since(pending.made);
        if waited > self.registry().config.limits.auth_time {
            return Err(bare(pending.user, ResponseCode::AUTHENTICATION_TIMEOUT));
        }
        let claim = self.claim(letter, answer);
        if claim.identity != pending.user {
            return Err(bare(pending.user, ResponseCode::AUTHENTICATION_FAILED));
        }
        Ok((claim, pending.asked))
    }

    fn note_login(
        &self,
        letter: &Letter,
        user: &Identity,
        result: &'static str,
        code: ResponseCode,
    ) {
        self.registry().note(&Event {
            time: Now::read().unix_seconds.into(),
            identity: Some(user),
            source: letter.peer.ip().to_string(),
            operation: "login",
            handle: &user.handle,
            result,
            code: code.0,
            change: None,
        });
    }
}
