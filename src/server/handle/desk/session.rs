//! Sessions: set up in one of the ways of exchanging a key, terminated.

use std::time::Duration;

use getrandom::SysRng;
use jiexi_proto::code::ResponseCode;
use jiexi_proto::message::Body;
use jiexi_proto::message::challenge::Proof;
use jiexi_proto::message::session::{Cipher, Exchange, SessionKey, SessionReady, SessionSetup};
use jiexi_proto::value::Reference;
use jiexi_proto::value::key::PublicKey;
use jiexi_proto::wire::Writer;
use zeroize::Zeroizing;

use super::counter::{Counter, Step};
use super::letter::{Letter, Outcome, Seal};
use crate::registry::cipher;
use crate::registry::dh;
use crate::registry::keys::VerifyingKey;
use crate::registry::session::Session;
use crate::registry::{Identity, Rejection};

/// The session key, and what tells the client.
struct Agreed {
    key: Zeroizing<Vec<u8>>,
    data: Vec<u8>,
}

impl Letter {
    /// Whether it asks for a key for its connection, under a session id that the client chose: so the SDK, which can
    /// encrypt what it says after that.
    pub(super) fn covers_line(&self, body: &Body) -> bool {
        let chosen = self.line.is_some() && self.within.is_none() && self.envelope.session_id != 0;
        chosen
            && matches!(body, Body::SessionSetup(setup) if matches!(setup.exchange, Exchange::HandleKey(_)))
    }
}

impl Counter {
    /// Opens a session. The answer is signed: the client knows the node by its key.
    pub(super) fn set_up(&self, letter: &mut Letter, setup: &SessionSetup) -> Step {
        let agreed = match &setup.exchange {
            Exchange::DiffieHellman(theirs) => by_diffie_hellman(theirs),
            Exchange::ClientKey(theirs) => {
                let text = "the public key is not usable";
                VerifyingKey::parse(theirs)
                    .ok_or_else(|| Rejection::new(ResponseCode::INVALID_SESSION_KEY, text))
                    .and_then(|key| for_holder_of(&key))
            }
            Exchange::HandleKey(key) => self.key_at(key).and_then(|key| for_holder_of(&key)),
            Exchange::ServerKey => return self.offer_key(letter, setup),
            Exchange::Other(..) => Err(Rejection::new(
                ResponseCode::INVALID_SESSION_SETUP,
                "unknown key exchange mode",
            )),
        };
        let agreed = match agreed {
            Ok(agreed) => agreed,
            Err(rejection) => return Step::refuse(letter, &rejection),
        };
        if let (Some(line), None, id @ 1..) =
            (&letter.line, &letter.within, letter.envelope.session_id)
        {
            line.agree(id, agreed.key);
            return ready(letter, id, setup, agreed.data, Seal::AsAsked);
        }
        let records = &self.registry().records;
        let declared =
            (!setup.identity.handle.is_empty()).then(|| Identity::of(&setup.identity, records));
        let session = Session::new(agreed.key, declared);
        let longest = self.registry().config.limits.session_time;
        let asked = match u64::try_from(setup.timeout_s) {
            Ok(seconds) if seconds > 0 => Duration::from_secs(seconds),
            _ => longest,
        };
        let draw = || getrandom::u32().ok();
        let opened =
            self.registry()
                .table
                .open(session, letter.sender().source(), asked, letter.came, draw);
        let Ok(id) = opened else {
            return Step::refuse(letter, &Rejection::busy("too many sessions are open"));
        };
        ready(letter, id, setup, agreed.data, Seal::Signed)
    }

    /// The public key in the value of a handle (mode 3).
    fn key_at(&self, reference: &Reference) -> Result<VerifyingKey, Rejection> {
        let records = &self.registry().records;
        let identity = Identity::of(reference, records);
        let record = records.record(&identity.handle)?;
        let values = record.map_or_else(Vec::new, |record| records.values(&record));
        let named = values
            .iter()
            .find(|value| value.kind == Proof::PUBLIC_KEY && value.index == identity.index);
        let key = named.and_then(|value| VerifyingKey::parse(&value.data));
        let text = "no public key of that handle and index is here";
        key.ok_or_else(|| Rejection::new(ResponseCode::INVALID_SESSION_KEY, text))
    }

    /// Mode 2: the client is told our public key. Nothing is kept, for no session comes of it: the reference client sends
    /// its key under session id 0, which the reference server refuses with 500, and so do we. To decrypt what anybody
    /// sends with the key that signs answers would make the node an oracle for it.
    fn offer_key(&self, letter: &mut Letter, setup: &SessionSetup) -> Step {
        let id = self.registry().table.unused_id(|| getrandom::u32().ok());
        match id {
            Ok(id) => {
                let ours = self.registry().key.public().to_vec();
                ready(letter, id, setup, ours, Seal::Signed)
            }
            Err(_) => Step::refuse(letter, &Rejection::busy("no randomness")),
        }
    }

    /// Closes the session of the message. Its MAC must have been right: ids can be guessed.
    pub(super) fn terminate(&self, letter: &Letter) -> Step {
        match &letter.within {
            Some(within) if letter.authentic => {
                self.registry().table.close(within.id);
                Step::Answer(Outcome::success(letter.op, Vec::new()), Seal::Signed)
            }
            _ => Step::refuse(letter, &Rejection::bare(ResponseCode::INVALID_CREDENTIAL)),
        }
    }
}

/// The answer to a set-up, under the id of the session.
fn ready(letter: &mut Letter, id: u32, setup: &SessionSetup, data: Vec<u8>, seal: Seal) -> Step {
    letter.answer_session = id;
    let mut body = Vec::new();
    SessionReady {
        mode: setup.exchange.mode(),
        data: data.into(),
        padded: true,
    }
    .encode(&mut Writer::new(&mut body));
    Step::Answer(Outcome::success(letter.op, body), seal)
}

/// Mode 4.
fn by_diffie_hellman(theirs: &bytes::Bytes) -> Result<Agreed, Rejection> {
    let agreed = PublicKey::decode(theirs)
        .ok()
        .and_then(|key| dh::agree(&key, &mut SysRng).ok());
    let text = "the Diffie-Hellman key is not usable";
    let agreed = agreed.ok_or_else(|| Rejection::new(ResponseCode::INVALID_SESSION_KEY, text))?;
    let mut key = Vec::new();
    agreed.ours.encode(&mut key);
    Ok(Agreed {
        key: agreed.key,
        data: encoded(&key).to_vec(),
    })
}

/// Modes 1 and 3: a key of our choice, which only the holder of the private half can read.
fn for_holder_of(theirs: &VerifyingKey) -> Result<Agreed, Rejection> {
    match theirs {
        VerifyingKey::Rsa(_) => {}
        VerifyingKey::Dsa(_) => {
            let text = "the key does not encrypt: it is not an RSA key";
            return Err(Rejection::new(
                ResponseCode::NEED_RSAKEY_FOR_SESSIONEXCHANGE,
                text,
            ));
        }
        VerifyingKey::Sm2(_) => {
            let text = "sessions with SM2 keys are not spoken here";
            return Err(Rejection::new(ResponseCode::SESSION_FAILED, text));
        }
    }
    let mut key = Zeroizing::new(vec![0; cipher::BLOCK]);
    let drawn = getrandom::fill(&mut key).is_ok();
    let data = drawn
        .then(|| theirs.encrypt(&encoded(&key), &mut SysRng))
        .flatten();
    match data {
        Some(data) => Ok(Agreed { key, data }),
        None => Err(Rejection::busy("no randomness")),
    }
}

/// The cipher and a key for it.
fn encoded(key: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut data = Zeroizing::new(Vec::with_capacity(key.len() + 4));
    SessionKey {
        cipher: Cipher::AES,
        key: bytes::Bytes::copy_from_slice(key),
    }
    .encode(&mut data);
    data
}
