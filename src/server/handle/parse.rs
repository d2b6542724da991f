//! The first pass: what a message asks for, with its handle folded, or why it is refused.

use std::ops::Range;

use jiexi_proto::code::{OpFlags, ResponseCode};
use jiexi_proto::handle::{self, CaseRule};
use jiexi_proto::limits::ENVELOPE_SIZE;
use jiexi_proto::message::resolution::ResolutionView;
use jiexi_proto::{Envelope, EnvelopeFlags, MessageView, OpCode};

use crate::metrics::Reason;
use crate::resolver::Filter;

/// Where the response code stands in a message.
const RESPONSE_CODE: Range<usize> = ENVELOPE_SIZE + 4..ENVELOPE_SIZE + 8;

/// What is to be done about one message.
#[derive(Clone, Debug)]
pub(super) enum Step<'a> {
    /// Nothing: it gets no answer.
    Drop(Reason),
    /// Say why it is not understood.
    Refuse(Refusal),
    /// It is understood, and not done.
    Decline(MessageView<'a>, ResponseCode, &'static str),
    /// Understand and answer it where there is time: at the [`super::desk`].
    Defer,
    /// Tell the node's site record.
    SiteInfo(MessageView<'a>),
    /// Look a handle up.
    Resolve(Resolution<'a>),
}

/// A message that was not understood.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusal {
    /// Its envelope: the answer echoes the request id.
    pub(super) envelope: Envelope,
    /// Its operation, as far as it was read.
    pub(super) op_code: OpCode,
    /// What is answered.
    pub(super) code: ResponseCode,
    /// Why, for a person.
    pub(super) text: &'static str,
}

/// A resolution to be looked up.
#[derive(Clone, Debug)]
pub(super) struct Resolution<'a> {
    /// The request.
    pub(super) message: MessageView<'a>,
    /// The handle as it was asked: the answer echoes it.
    pub(super) handle: &'a [u8],
    /// Where its folded form stands among the keys of the batch.
    pub(super) key: Range<usize>,
    /// The wanted values.
    pub(super) filter: Filter<'a>,
    /// Whether restricted values are left out.
    pub(super) public_only: bool,
    /// Whether referrals are wanted.
    pub(super) refer: bool,
}

/// Decodes one message and folds the handle it asks for into `keys`.
///
/// A datagram may be shorter than its envelope says: the reference server decodes what is there,
/// and so do we. Framing has made sure that a stream's message is whole.
///
/// With a `desk`, everything but plain public questions goes there.
// Always: a step is large, and is made where it stays.
#[inline(always)]
pub(super) fn parse<'a>(
    octets: &'a [u8],
    case: CaseRule,
    desk: bool,
    keys: &mut Vec<u8>,
) -> Step<'a> {
    if octets.len() < ENVELOPE_SIZE {
        return Step::Drop(Reason::Short);
    }
    let Ok(envelope) = Envelope::decode(octets) else {
        return Step::Drop(Reason::Malformed);
    };
    if envelope.flags.contains(EnvelopeFlags::ENCRYPTED) {
        if desk {
            return Step::Defer;
        }
        return refuse(
            envelope,
            OpCode::RESERVED,
            ResponseCode::SESSION_TIMEOUT,
            NO_SESSION,
        );
    }
    if is_response(octets) {
        return Step::Drop(Reason::NotARequest);
    }
    if envelope.flags.contains(EnvelopeFlags::COMPRESSED) {
        let text = "compressed messages are not understood";
        return refuse(
            envelope,
            OpCode::RESERVED,
            ResponseCode::PROTOCOL_ERROR,
            text,
        );
    }
    let Ok(message) = MessageView::decode_lenient(octets) else {
        let text = "the message is shorter than its header or its lengths disagree";
        return refuse(
            envelope,
            OpCode::RESERVED,
            ResponseCode::PROTOCOL_ERROR,
            text,
        );
    };
    let op = message.header.op_code;
    let personal = envelope.session_id != 0
        || message.header.flags.contains(OpFlags::CERT)
        || !is_question(op);
    if desk && personal && is_served(op) {
        return Step::Defer;
    }
    match op {
        OpCode::RESOLUTION => resolution(message, case, keys),
        OpCode::GET_SITE_INFO => Step::SiteInfo(message),
        OpCode::GET_NEXT_TXN_ID => {
            let text = "transaction ids are not asked for any more: upgrade the client";
            Step::Decline(message, ResponseCode::OPERATION_NOT_SUPPORTED, text)
        }
        op if op != OpCode::RESERVED && op.name().is_some() => {
            let text = "this node does not carry out this operation over the wire";
            Step::Decline(message, ResponseCode::OPERATION_NOT_SUPPORTED, text)
        }
        op => refuse(
            envelope,
            op,
            ResponseCode::PROTOCOL_ERROR,
            "unknown operation code",
        ),
    }
}

/// Whether a message that is not encrypted is an answer, as far as it came and whatever else is wrong with it.
fn is_response(octets: &[u8]) -> bool {
    let code = octets.get(RESPONSE_CODE);
    code.is_some_and(|code| code != ResponseCode::NONE.0.to_be_bytes())
}

/// Whether an operation may be answered at once, without anybody's key.
const fn is_question(op: OpCode) -> bool {
    matches!(op, OpCode::RESOLUTION | OpCode::GET_SITE_INFO)
}

/// Whether an operation is carried out over the wire.
const fn is_served(op: OpCode) -> bool {
    matches!(
        op,
        OpCode::RESOLUTION
            | OpCode::GET_SITE_INFO
            | OpCode::CREATE_HANDLE
            | OpCode::DELETE_HANDLE
            | OpCode::ADD_VALUE
            | OpCode::REMOVE_VALUE
            | OpCode::MODIFY_VALUE
            | OpCode::LIST_HANDLES
            | OpCode::RESPONSE_TO_CHALLENGE
            | OpCode::VERIFY_CHALLENGE
            | OpCode::HOME_NA
            | OpCode::UNHOME_NA
            | OpCode::HOME_AND_CREATE
            | OpCode::UNHOME_AND_DELETE
            | OpCode::LIST_HOMED_NAS
            | OpCode::SESSION_SETUP
            | OpCode::SESSION_TERMINATE
            | OpCode::SESSION_EXCHANGEKEY
            | OpCode::RETRIEVE_TXN_LOG
            | OpCode::DUMP_HANDLES
            | OpCode::LOGIN
    )
}

/// Said to whoever refers to a session that this node does not have.
const NO_SESSION: &str = "no such session, or it has timed out: please set up a new one";

#[inline(always)]
fn resolution<'a>(message: MessageView<'a>, case: CaseRule, keys: &mut Vec<u8>) -> Step<'a> {
    if message.envelope.session_id != 0 {
        return Step::Decline(message, ResponseCode::SESSION_TIMEOUT, NO_SESSION);
    }
    let Ok(asked) = ResolutionView::decode(message.body) else {
        let text = "the body is not a resolution request";
        let op_code = message.header.op_code;
        return refuse(
            message.envelope,
            op_code,
            ResponseCode::PROTOCOL_ERROR,
            text,
        );
    };
    let start = keys.len();
    handle::canonical(asked.handle, case, keys);
    let flags = message.header.flags;
    Step::Resolve(Resolution {
        message,
        handle: asked.handle,
        key: start..keys.len(),
        filter: Filter::asked(asked.indexes, asked.types),
        public_only: flags.contains(OpFlags::PUBL),
        refer: !flags.contains(OpFlags::DNRF),
    })
}

fn refuse(
    envelope: Envelope,
    op_code: OpCode,
    code: ResponseCode,
    text: &'static str,
) -> Step<'static> {
    Step::Refuse(Refusal {
        envelope,
        op_code,
        code,
        text,
    })
}
