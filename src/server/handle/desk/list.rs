//! Lists: the handles of a prefix, the homed prefixes. Fifty names a message, in byte order.

use std::ops::Bound;

use bytes::Bytes;
use jiexi_proto::Message;
use jiexi_proto::code::{OpFlags, ResponseCode};
use jiexi_proto::handle;
use jiexi_proto::limits::LIST_PAGE;
use jiexi_proto::wire::Writer;

use super::counter::{Counter, Step};
use super::letter::{Letter, Outcome, Seal};
use super::{Answer, Sink};
use crate::registry::source::Source;
use crate::registry::{NOT_HOMED, Rejection, Unavailable};
use crate::store::{OwnedRecord, Space};

/// Messages that are made at once: then the client must have taken them.
const PAGES: usize = 20;

/// A list of handles under way.
#[derive(Debug)]
pub struct Listing {
    letter: Letter,
    /// What the keys begin with.
    prefix: Vec<u8>,
    /// The last key that was told.
    after: Option<Vec<u8>>,
}

impl Listing {
    /// The network of whoever asked.
    pub(super) fn source(&self) -> Source {
        self.letter.sender().source()
    }
}

impl Counter {
    /// The handles below a prefix.
    pub(super) fn list(&self, letter: Letter, asked: Bytes, message: Message) {
        let key = self.registry().records.key(&asked);
        let homed = self.registry().records.is_homed(&key);
        let refused = match homed {
            Err(unavailable) => Some(unavailable.into()),
            Ok(false) => {
                let code = ResponseCode::SERVER_NOT_RESPONSIBLE;
                Some(Rejection::new(code, NOT_HOMED))
            }
            Ok(true) => None,
        };
        let refused = match (refused, &letter.who) {
            (Some(rejection), _) => rejection,
            (None, None) => return self.ask(letter, message),
            (None, Some(who)) => {
                let allowed = self.registry().may_list(who, &key);
                self.note_given(&letter, who, ("list", &key), allowed.as_ref().err());
                match allowed {
                    Err(rejection) => rejection,
                    Ok(permit) => return self.begin_list(letter, permit.key()),
                }
            }
        };
        let step = Step::refuse(&letter, &refused);
        self.finish(letter, step);
    }

    fn begin_list(&self, mut letter: Letter, key: &[u8]) {
        // A list that is asked for again is made again.
        if let Some(key) = letter.retry.take() {
            let _ = self.desk.retries.forget(key);
        }
        let prefix = key.get(handle::PREFIX_SPACE.len()..).unwrap_or_default();
        let prefix = [prefix, b"/"].concat();
        let sink = std::mem::replace(&mut letter.sink, Sink::Nowhere);
        let peer = letter.peer;
        self.count(&sink, &letter, ResponseCode::SUCCESS);
        let answer = self.next_page(Listing {
            letter,
            prefix,
            after: None,
        });
        self.deliver(sink, peer, answer);
        self.desk.done();
    }

    /// The next messages of a list.
    pub(super) fn next_page(&self, mut listing: Listing) -> Answer {
        let mut answer = Answer::default();
        let from = listing
            .after
            .as_deref()
            .map_or(Bound::Unbounded, Bound::Excluded);
        let limit = PAGES * LIST_PAGE + 1;
        let found = self
            .shared
            .store
            .scan(Space::Handle, from, &listing.prefix, limit);
        let records = match found {
            Ok(records) => records,
            Err(error) => {
                let rejection = Rejection::from(Unavailable::from(error));
                let outcome = Outcome::refusal(listing.letter.op, &rejection);
                let (key, stamp) = (&self.registry().key, self.stamp());
                answer.octets = listing.letter.answer(&outcome, Seal::AsAsked, key, stamp);
                return answer;
            }
        };
        let unfinished = records.len() == limit;
        let told = &records[..records.len().min(limit - 1)];
        let pages: Vec<&[OwnedRecord]> = match told.is_empty() {
            true => vec![&[]],
            false => told.chunks(LIST_PAGE).collect(),
        };
        for (place, page) in pages.iter().enumerate() {
            let more = unfinished || place + 1 < pages.len();
            let names: Vec<&[u8]> = page.iter().map(|record| &record.key[..]).collect();
            answer
                .octets
                .extend(self.names(&listing.letter, &names, more));
        }
        if unfinished {
            listing.after = told.last().map(|record| record.key.clone());
            answer.more = Some(Box::new(listing));
        }
        answer
    }

    fn names(&self, letter: &Letter, names: &[&[u8]], more: bool) -> Vec<u8> {
        let flags = match more {
            true => letter.flags().with(OpFlags::CONT),
            false => letter.flags(),
        };
        let outcome = Outcome::success(letter.op, list_of(names));
        letter.page(
            &outcome,
            flags,
            Seal::AsAsked,
            &self.registry().key,
            self.stamp(),
        )
    }

    /// The prefixes homed here: for server administrators.
    pub(super) fn list_homed(&self, letter: &Letter) -> Step {
        let Some(who) = &letter.who else {
            return Step::Prove;
        };
        let allowed = self.registry().may_serve(who);
        self.note_given(letter, who, ("list homed", b""), allowed.as_ref().err());
        if let Err(rejection) = allowed {
            return Step::refuse(letter, &rejection);
        }
        const MAX: usize = 4_096;
        match self
            .shared
            .store
            .scan(Space::Prefix, Bound::Unbounded, b"", MAX)
        {
            Ok(found) => {
                let names: Vec<&[u8]> = found.iter().map(|record| &record.key[..]).collect();
                Step::success(letter, list_of(&names))
            }
            Err(error) => Step::refuse(letter, &Unavailable::from(error).into()),
        }
    }
}

fn list_of(names: &[&[u8]]) -> Vec<u8> {
    let mut body = Vec::new();
    Writer::new(&mut body).list(names, |writer, name| writer.bytes(name));
    body
}
