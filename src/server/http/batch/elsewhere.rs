//! Lines whose handles are at home elsewhere: asked there, a few at once, so that the batches of one token do not keep
//! everybody else from asking.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use bytes::Bytes;
use jiexi_proto::message::resolution::ResolutionView;
use jiexi_proto::value::ValueView;
use jiexi_proto::wire::Reader;

use super::App;
use super::work::{Stop, Way};
use crate::batch::answer::{Code, Writer};
use crate::client;
use crate::metrics::Outcome;
use crate::registry::source::Source;
use crate::resolver::cache::Known;
use crate::server::forward::{Forwarder, Question, Told};
use crate::server::handle::outcome_of;
use crate::server::http::source_of;

/// Handles that one batch has asked elsewhere at once; they also bound how many answers wait in memory.
pub(super) const AT_ONCE: usize = 32;
/// How often it is looked whether anybody still wants the answers.
const LOOK: Duration = Duration::from_millis(100);
/// Said of what a batch may not have asked any more.
pub(super) const TOO_MANY: &str = "more handles are at home elsewhere than one batch may have asked there ([batch] recursive_max)";

/// Who asks elsewhere, if anybody may.
pub(in super::super) fn forwarder(app: &App) -> Option<&Arc<Forwarder>> {
    let forwarder = app.shared.forwarder.as_ref();
    forwarder.filter(|forwarder| forwarder.is_open())
}

/// How the lines of a batch are asked elsewhere.
pub(in super::super) struct Elsewhere<'e> {
    forwarder: &'e Arc<Forwarder>,
    source: Source,
    types: Vec<Bytes>,
    indexes: Vec<u32>,
    /// Handles that one batch may have asked.
    pub(super) most: u64,
}

impl<'e> Elsewhere<'e> {
    /// For a client at `address` who wants the values of a filter; none where nobody is asked.
    pub(in super::super) fn new(
        app: &'e App,
        address: std::net::IpAddr,
        filter: Option<&[u8]>,
    ) -> Option<Self> {
        let (mut types, mut indexes) = (Vec::new(), Vec::new());
        if let Some(Ok(view)) = filter.map(ResolutionView::decode) {
            types.extend(view.types.iter().map(Bytes::copy_from_slice));
            indexes.extend(view.indexes.iter());
        }
        Some(Self {
            forwarder: forwarder(app)?,
            source: source_of(address),
            types,
            indexes,
            most: app.config.batch.recursive,
        })
    }

    /// Asks for handles, [`AT_ONCE`] at most; what is told of each.
    pub(super) fn ask<'h>(
        &self,
        handles: impl Iterator<Item = &'h str>,
        way: &mut impl Way,
    ) -> Result<Vec<Option<Told>>, Stop> {
        let (send, receive) = channel();
        let mut told = Vec::new();
        for (place, handle) in handles.enumerate() {
            let question = Question::public(client::Question {
                handle: Bytes::copy_from_slice(handle.as_bytes()),
                types: self.types.clone(),
                indexes: self.indexes.clone(),
            });
            let send = send.clone();
            let then = Box::new(move |answer| drop(send.send((place, answer))));
            self.forwarder.ask(question, self.source, then);
            told.push(None);
        }
        drop(send);
        while told.iter().any(Option::is_none) {
            match receive.recv_timeout(LOOK) {
                Ok((place, answer)) => told[place] = Some(answer),
                Err(RecvTimeoutError::Timeout) => way.go_on()?,
                // The node stops: nobody asks any more.
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        Ok(told)
    }
}

/// Writes what another node says.
pub(super) fn say(told: Option<&Told>, line: u64, handle: &str, writer: &mut Writer) -> Code {
    let Some(Told { known, .. }) = told else {
        let text = "the node stops: ask again when it is there";
        writer.refused(line, handle, Code::Busy, text, None);
        return Code::Busy;
    };
    let code = match outcome_of(known.code) {
        Outcome::Success => return say_values(known, line, handle, writer),
        Outcome::NotFound => Code::HandleNotFound,
        Outcome::ValuesNotFound => Code::ValuesNotFound,
        Outcome::NotResponsible => Code::NotResponsible,
        Outcome::Denied | Outcome::Challenge => Code::NotAllowed,
        Outcome::Busy => Code::Busy,
        _ => Code::Error,
    };
    let text = String::from_utf8_lossy(&known.body);
    writer.refused(line, handle, code, &text, None);
    code
}

/// A number of values, then these, as an answer of the Handle protocol has them behind the handle.
fn say_values(known: &Known, line: u64, handle: &str, writer: &mut Writer) -> Code {
    let mut reader = Reader::new(&known.body);
    if reader.u32("number of values").is_ok_and(|count| count > 0) {
        let values = std::iter::from_fn(|| ValueView::read(&mut reader).ok());
        writer.found(line, handle, values.map(|view| view.wire));
        return Code::Success;
    }
    writer.refused(line, handle, Code::ValuesNotFound, "", None);
    Code::ValuesNotFound
}
