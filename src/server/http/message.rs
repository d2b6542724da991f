//! The binary protocol by POST: one message in, its answer out, as over TCP.

use std::net::SocketAddr;

use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use bytes::Bytes;
use jiexi_proto::limits::{ENVELOPE_SIZE, MESSAGE_MAX};
use tokio::sync::oneshot;

use super::answer::{Answer, Refusal, with_type};
use super::language::Language;
use super::outer::{Counted, From};
use super::{App, body};
use crate::metrics::{Op, Outcome};
use crate::server::handle::Replies;
use crate::server::handle::desk::{self, Job, Sink};

/// The type of messages.
const TYPE: &str = "application/x-hdl-message";
/// Octets of a long answer, such as a list, that are put into one body.
const ANSWER_MAX: usize = 16 << 20;

/// Whether a request carries a message.
pub(super) fn is_one(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    // What a parameter says, such as a charset, means nothing here.
    let named = kind.and_then(|kind| kind.as_bytes().split(|octet| *octet == b';').next());
    named.is_some_and(|named| named.trim_ascii().eq_ignore_ascii_case(TYPE.as_bytes()))
}

/// Answers the message in a body. Who asks is said by the message: headers are not looked at.
pub(super) async fn serve(app: &App, from: &From, request: Request<Body>) -> Answer {
    let language = Language::of(request.headers());
    let octets = body::read(app, request.into_body(), ENVELOPE_SIZE + MESSAGE_MAX).await;
    let answered = match octets {
        Ok(octets) => answer(app, from, octets).await,
        Err(refusal) => Err(refusal),
    };
    match answered {
        Ok(octets) => {
            let mut answer = with_type(StatusCode::OK, TYPE, octets);
            // The message itself is counted as one of the Handle protocol.
            let counted = Counted {
                op: Op::Other,
                outcome: Outcome::Success,
            };
            answer.extensions_mut().insert(counted);
            answer
        }
        Err(refusal) => refusal.of_handle(None, from.request(), language),
    }
}

async fn answer(app: &App, from: &From, octets: Bytes) -> Result<Vec<u8>, Refusal> {
    let mut replies = Replies::default();
    let now = from.came;
    let deferred = app.pool.with_responder(|responder| {
        let cell = responder.cell();
        cell.received_bytes.add(octets.len() as u64);
        responder.respond(&[&octets], now, &mut replies);
        responder.remember(&replies, now, |_| from.address);
        let sent = replies.octets().len() as u64;
        responder.cell().sent_bytes.add(sent);
        replies.deferred().next().is_some()
    });
    if !deferred {
        let octets = replies.octets().to_vec();
        return match octets.is_empty() {
            true => Err(Refusal::field(
                "",
                "the body is no message of the Handle protocol",
            )),
            false => Ok(octets),
        };
    }
    from_desk(app, from, octets).await
}

/// Changes, proofs, signed answers: as over TCP.
async fn from_desk(app: &App, from: &From, octets: Bytes) -> Result<Vec<u8>, Refusal> {
    let busy = || Refusal::from(crate::registry::Rejection::busy("too many requests wait"));
    let desk = app.shared.desk.as_ref().ok_or_else(busy)?;
    let (sink, answer) = oneshot::channel();
    let job = Job {
        octets,
        peer: SocketAddr::new(from.address, 0),
        sink: Sink::Stream(sink),
        line: None,
        came: from.came.instant,
    };
    desk.submit(job).map_err(|_| busy())?;
    let desk::Answer {
        mut octets,
        mut more,
        ..
    } = answer.await.map_err(|_| busy())?;
    while let Some(listing) = more {
        if octets.len() > ANSWER_MAX {
            return Err(Refusal::field(
                "",
                "the list is too long for one body: ask over TCP",
            ));
        }
        let (sink, answer) = oneshot::channel();
        desk.go_on(listing, sink);
        let next = answer.await.map_err(|_| busy())?;
        octets.extend(next.octets);
        more = next.more;
    }
    Ok(octets)
}
