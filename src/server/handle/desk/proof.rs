//! Proofs, of challenges, of logins and of other front ends: checked with the keys that are here, or with what the home
//! of the user says when that is another node. No thread waits for it.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::counter::Counter;
use super::letter::Letter;
use super::{Desk, Work};
use crate::clock::Now;
use crate::notices::Away;
use crate::registry::auth::{Claim, Elsewhere};
use crate::registry::session::Challenge;
use crate::registry::source::Sender;
use crate::registry::{Authenticated, Rejection};
use crate::server::forward::Forwarder;

/// What a proof is for.
#[derive(Debug)]
pub(super) enum For {
    /// A request that was challenged, as one of these.
    Request(Box<Letter>, Vec<(u32, Challenge)>),
    /// A login: nonce and digest of the challenge.
    Login(Box<Letter>, Vec<u8>),
    /// The question of a server that has not got the key: nonce and digest of its challenge.
    Server(Box<Letter>, Vec<u8>),
    /// A request of another front end, which has asked for this.
    FrontEnd(Vec<u8>, oneshot::Sender<Proved>),
}

/// A proof that is to be checked.
#[derive(Debug)]
pub(super) struct Proving {
    pub(super) claim: Claim,
    /// Where it comes from. Who knows the id of a challenge has received it where they say they are.
    pub(super) sender: Sender,
    pub(super) what: For,
}

/// Who it is, and which of the challenges they have answered.
pub type Proved = Result<(Authenticated, usize), Rejection>;

impl Desk {
    /// Has a proof checked that came to another front end, in its turn like every other. What is to be told goes to
    /// `answer`; when nobody listens there any more, the proof leaves its line.
    ///
    /// # Errors
    /// As many requests wait as may.
    pub fn prove(
        &self,
        claim: Claim,
        asked: Vec<u8>,
        sender: Sender,
        answer: oneshot::Sender<Proved>,
    ) -> Result<(), Rejection> {
        const BUSY: Rejection = Rejection::busy("too many requests wait");
        if !self.admit_into(self.config.queue) {
            return Err(BUSY);
        }
        let proving = Proving {
            claim,
            sender,
            what: For::FrontEnd(asked, answer),
        };
        match self.take_up(sender.source(), Work::Prove(Box::new(proving))) {
            None => Ok(()),
            Some(_) => Err(BUSY),
        }
    }
}

impl Proving {
    /// Nonces and digests that may be answered.
    fn asked(&self) -> Vec<Vec<u8>> {
        match &self.what {
            For::Request(_, candidates) => {
                candidates.iter().map(|(_, asked)| asked.asked()).collect()
            }
            For::Login(_, asked) | For::Server(_, asked) | For::FrontEnd(asked, _) => {
                vec![asked.clone()]
            }
        }
    }

    /// Notes that it waits, or waits no longer, for its turn or for another node.
    fn note_away(&mut self, note: impl FnOnce(&mut Away)) {
        match &mut self.what {
            For::Request(letter, _) | For::Login(letter, _) | For::Server(letter, _) => {
                note(&mut letter.away);
            }
            For::FrontEnd(..) => {}
        }
    }

    /// Whether nobody waits for the answer any more.
    pub(super) fn is_gone(&self) -> bool {
        match &self.what {
            For::Request(letter, _) | For::Login(letter, _) | For::Server(letter, _) => {
                letter.sink.is_gone()
            }
            For::FrontEnd(_, answer) => answer.is_closed(),
        }
    }
}

impl Counter {
    /// Checks a proof when it is its turn: now, unless too many were wrong before. No thread waits for that either.
    pub(super) fn check(&mut self, mut proving: Proving) {
        let now = Now::read().instant;
        if self
            .registry()
            .has_turn(&proving.claim, proving.sender, now)
        {
            return self.check_in_turn(proving);
        }
        // What anybody may have sent in somebody's name takes no room of those who wait.
        if !proving.sender.is_proven() {
            return self.turn_away(proving);
        }
        proving.note_away(Away::leave);
        if let Some(proving) = self.desk.wait_for_turn(proving, now) {
            self.turn_away(proving);
        }
    }

    /// A proof has waited for too long, or there was no room for it.
    pub(super) fn turn_away(&mut self, mut proving: Proving) {
        proving.note_away(Away::come_back);
        let rejection = self.registry().turn_away(&proving.claim);
        self.checked(proving, Err(rejection));
    }

    /// Checks a proof, here or by its user's home, and goes on with what it is for.
    pub(super) fn check_in_turn(&mut self, mut proving: Proving) {
        proving.note_away(Away::come_back);
        let now = Now::read().instant;
        let registry = self.registry();
        if let Some(forwarder) = &self.shared.forwarder
            && forwarder.proves()
            // A server asks the home itself.
            && !matches!(proving.what, For::Server(..))
            && registry.is_elsewhere(&proving.claim)
        {
            return self.ask_home(&Arc::clone(forwarder), proving);
        }
        let proved =
            registry.authenticate_in_turn(&proving.claim, &proving.asked(), proving.sender, now);
        self.checked(proving, proved);
    }

    fn ask_home(&self, forwarder: &Arc<Forwarder>, mut proving: Proving) {
        proving.note_away(Away::leave);
        let (desk, source) = (Arc::clone(&self.desk), proving.sender.source());
        let (claim, asked) = (proving.claim.clone(), proving.asked());
        desk.leave();
        let then = move |said| desk.come_back(Work::Proof(Box::new(proving), said));
        forwarder.prove(claim, asked, source, Box::new(then));
    }

    /// The home of the user has been asked.
    pub(super) fn home_said(&mut self, mut proving: Proving, said: &Elsewhere) {
        proving.note_away(Away::come_back);
        let now = Now::read().instant;
        let (claim, asked) = (&proving.claim, proving.asked());
        let registry = self.registry();
        let proved = registry.authenticate_elsewhere(claim, &asked, said, proving.sender, now);
        self.checked(proving, proved);
    }

    fn checked(&mut self, proving: Proving, proved: Proved) {
        let Proving { claim, what, .. } = proving;
        match what {
            For::Request(letter, candidates) => {
                self.request_proved(*letter, &claim, candidates, proved);
            }
            For::Login(letter, _) => self.login_proved(*letter, claim.identity, proved),
            For::Server(letter, _) => self.verified(*letter, &proved),
            For::FrontEnd(_, answer) => {
                // Who is gone takes no answer.
                drop(answer.send(proved));
                self.desk.done();
            }
        }
    }
}
