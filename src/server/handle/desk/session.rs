//! Sessions: set up by Diffie-Hellman, terminated.

use std::time::Duration;

use getrandom::SysRng;
use jiexi_proto::code::ResponseCode;
use jiexi_proto::message::session::{
    Cipher, Exchange, KeyExchangeMode, SessionKey, SessionReady, SessionSetup,
};
use jiexi_proto::value::key::PublicKey;
use jiexi_proto::wire::Writer;

use super::counter::{Counter, Step};
use super::letter::{Letter, Outcome, Seal};
use crate::registry::dh;
use crate::registry::session::Session;
use crate::registry::{Identity, Rejection};

impl Counter {
    /// Opens a session. The answer is signed: the client knows the node by its key.
    pub(super) fn set_up(&self, letter: &mut Letter, setup: &SessionSetup) -> Step {
        let theirs = match &setup.exchange {
            Exchange::DiffieHellman(key) => key,
            // As the reference server on a stock runtime, which finds no cipher for these.
            Exchange::ClientKey(_) | Exchange::ServerKey | Exchange::HandleKey(_) => {
                let text = "only key exchange by Diffie-Hellman is spoken here";
                return Step::refuse(letter, &Rejection::new(ResponseCode::SESSION_FAILED, text));
            }
            Exchange::Other(..) => {
                let text = "unknown key exchange mode";
                return Step::refuse(
                    letter,
                    &Rejection::new(ResponseCode::INVALID_SESSION_SETUP, text),
                );
            }
        };
        let agreed = PublicKey::decode(theirs)
            .ok()
            .and_then(|key| dh::agree(&key, &mut SysRng).ok());
        let Some(agreed) = agreed else {
            let text = "the Diffie-Hellman key is not usable";
            return Step::refuse(
                letter,
                &Rejection::new(ResponseCode::INVALID_SESSION_KEY, text),
            );
        };
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
        letter.answer_session = id;
        let mut key = Vec::new();
        agreed.ours.encode(&mut key);
        let mut data = Vec::new();
        SessionKey {
            cipher: Cipher::AES,
            key: key.into(),
        }
        .encode(&mut data);
        let mut body = Vec::new();
        SessionReady {
            mode: KeyExchangeMode::DIFFIE_HELLMAN,
            data: data.into(),
            padded: true,
        }
        .encode(&mut Writer::new(&mut body));
        Step::Answer(Outcome::success(letter.op, body), Seal::Signed)
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
