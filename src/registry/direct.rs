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
    ) -> Result<Done, Rejection> {
        self.figures
            .proved(method_of(who.method()), Proved::Accepted);
        let note = |request: &Request, handle: &[u8], ended: Ended, code: ResponseCode, change| {
            let result = Ended::ALL.into_iter().find(|(known, _)| *known == ended);
            let event = Event {
                time: now.into(),
                identity: Some(who.identity()),
                source: source.to_owned(),
                operation: request.name(),
                handle,
                result: result.map_or("", |(_, label)| label),
                code: code.0,
                change,
            };
            self.ended(request, ended, &event);
        };
        let mut decided = Err((0, Rejection::bare(ResponseCode::ERROR)));
        let (tell, told) = sync_channel(1);
        self.records.store.submit_decided(|| {
            let (batch, rest) = match self.decide_all(requests, who, now, random) {
                Ok((batch, handles, overwritten)) => (Some(batch), Ok((handles, overwritten))),
                Err(refused) => (None, Err(refused)),
            };
            decided = rest;
            Some((batch?, move |result| drop(tell.send(result))))
        });
        let (handles, overwritten) = match decided {
            Ok(decided) => decided,
            Err((place, rejection)) => {
                if let Some(request) = requests.get(place) {
                    note(
                        request,
                        request.handle(),
                        Ended::Refused,
                        rejection.code,
                        None,
                    );
                }
                return Err(rejection);
            }
        };
        match told.recv().unwrap_or(Err(CommitError::Closed)) {
            Ok(Committed { sequence, .. }) => {
                for (request, handle) in requests.iter().zip(&handles) {
                    note(
                        request,
                        handle,
                        Ended::Committed,
                        ResponseCode::SUCCESS,
                        Some(sequence),
                    );
                }
                Ok(Done {
                    sequence,
                    handles,
                    overwritten,
                })
            }
            Err(error) => {
                let rejection = Rejection::of_store(&error);
                for request in requests {
                    note(
                        request,
                        request.handle(),
                        Ended::Failed,
                        rejection.code,
                        None,
                    );
                }
                Err(rejection)
            }
        }
    }

    /// One batch of all requests; or which of them cannot be, and why.
    fn decide_all<R: TryCryptoRng + ?Sized>(
        &self,
        requests: &[Request],
        who: &Authenticated,
        now: u32,
        random: &mut R,
    ) -> Result<(Batch, Vec<Bytes>, bool), (usize, Rejection)> {
        let (mut batch, mut handles, mut overwritten) = (Batch::default(), Vec::new(), false);
        for (place, request) in requests.iter().enumerate() {
            let before = requests.get(..place).unwrap_or_default();
            let decision = self
                .decide_after(request, before, who, now, random)
                .map_err(|rejection| (place, rejection))?;
            batch.changes.extend(decision.batch.changes);
            handles.push(decision.handle);
            overwritten |= decision.overwritten;
        }
        Ok((batch, handles, overwritten))
    }
}
