//! Changes by whoever runs the node: the decisions, rights and audit trail of everybody's changes, several in one commit.

use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use jiexi_proto::code::ResponseCode;
use rsa::rand_core::TryCryptoRng;

use super::audit::Event;
use super::figures::{Ended, Proved, method_of};
use super::plan::Request;
use super::{Authenticated, Registry, Rejection};
use crate::store::{Batch, CommitError, Committed};

/// Changes that are durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// Their place in the journal.
    pub sequence: u64,
    /// The handle of each, as it was written or minted.
    pub handles: Vec<Bytes>,
    /// Whether something that existed was overwritten.
    pub overwritten: bool,
}

/// Why none of several changes was carried out.
#[derive(Debug)]
pub struct NotDone {
    /// Which one cannot be, from 0; none when it is no matter of one. The audit trail has it.
    pub place: Option<usize>,
    /// Why.
    pub rejection: Rejection,
}

/// The handle of a change, as it was written or minted, and whether something that existed was overwritten.
type Is = (Bytes, bool);

/// Who asks, from where and when.
struct Asks<'a> {
    who: &'a Authenticated,
    source: &'a str,
    now: u32,
}

impl Asks<'_> {
    /// What the audit trail says of a change that was decided.
    fn did<'e>(&'e self, request: &'e Request, (handle, overwritten): &'e Is) -> Event<'e> {
        Event {
            time: self.now.into(),
            identity: Some(self.who.identity()),
            source: self.source.to_owned(),
            operation: request.done_as(*overwritten),
            handle,
            code: ResponseCode::SUCCESS.0,
            ..Event::default()
        }
    }

    /// What it says of one that was not carried out.
    fn failed<'e>(&'e self, request: &'e Request, rejection: &Rejection) -> Event<'e> {
        Event {
            time: self.now.into(),
            identity: Some(self.who.identity()),
            source: self.source.to_owned(),
            operation: request.name(),
            handle: request.handle(),
            code: rejection.code.0,
            ..Event::default()
        }
    }
}

impl Registry {
    /// Decides and commits `requests`, all of them or none, and waits until they are on disk. `source` says in the
    /// audit trail where they come from; `now` is Unix seconds.
    ///
    /// # Errors
    /// What [`Registry::decide`] says of the first one that cannot be, or why the store does not take them.
    pub fn carry_out<R: TryCryptoRng + ?Sized>(
        &self,
        requests: &[Request],
        who: &Authenticated,
        source: &str,
        now: u32,
        random: &mut R,
    ) -> Result<Done, NotDone> {
        self.figures
            .proved(method_of(who.method()), Proved::Accepted);
        let note = |request: &Request, ended: Ended, event: Event<'_>| {
            let result = Ended::ALL.into_iter().find(|(known, _)| *known == ended);
            let event = Event {
                result: result.map_or("", |(_, label)| label),
                ..event
            };
            self.ended(request, ended, &event);
        };
        let (asks, refused) = (
            Asks { who, source, now },
            Rejection::bare(ResponseCode::ERROR),
        );
        let mut decided = Err((0, refused));
        let (tell, told) = sync_channel(1);
        self.records.store.submit_decided(|| {
            let (batch, rest) = match self.decide_all(requests, who, now, random) {
                Ok((batch, done)) => {
                    let events = requests.iter().zip(&done);
                    let events: Vec<_> = events.map(|(asked, is)| asks.did(asked, is)).collect();
                    (Some(self.witnessed(batch, &events)), Ok(done))
                }
                Err(refused) => (None, Err(refused)),
            };
            decided = rest;
            Some((batch?, move |result| drop(tell.send(result))))
        });
        let done = match decided {
            Ok(done) => done,
            Err((place, rejection)) => {
                if let Some(request) = requests.get(place) {
                    note(request, Ended::Refused, asks.failed(request, &rejection));
                }
                let place = Some(place);
                return Err(NotDone { place, rejection });
            }
        };
        match told.recv().unwrap_or(Err(CommitError::Closed)) {
            Ok(Committed { sequence, .. }) => {
                for (request, is) in requests.iter().zip(&done) {
                    let event = Event {
                        change: Some(sequence),
                        ..asks.did(request, is)
                    };
                    note(request, Ended::Committed, event);
                }
                Ok(Done {
                    sequence,
                    overwritten: done.iter().any(|(_, overwritten)| *overwritten),
                    handles: done.into_iter().map(|(handle, _)| handle).collect(),
                })
            }
            Err(error) => {
                let rejection = Rejection::of_store(&error);
                for request in requests {
                    let ended = Ended::untaken(rejection.code);
                    note(request, ended, asks.failed(request, &rejection));
                }
                let place = None;
                Err(NotDone { place, rejection })
            }
        }
    }

    /// One batch of all requests, with what was decided of each; or which of them cannot be, and why.
    fn decide_all<R: TryCryptoRng + ?Sized>(
        &self,
        requests: &[Request],
        who: &Authenticated,
        now: u32,
        random: &mut R,
    ) -> Result<(Batch, Vec<Is>), (usize, Rejection)> {
        let (mut batch, mut done) = (Batch::default(), Vec::new());
        for (place, request) in requests.iter().enumerate() {
            let before = requests.get(..place).unwrap_or_default();
            let decision = self
                .decide_after(request, before, who, now, random)
                .map_err(|rejection| (place, rejection))?;
            batch.changes.extend(decision.batch.changes);
            done.push((decision.handle, decision.overwritten));
        }
        Ok((batch, done))
    }
}
