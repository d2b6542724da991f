//! Goal: no octets make the codec panic or allocate more than they deserve, and the hot path
//! allocates nothing. Method: every recorded message is cut at every octet, lengthened, and has
//! every field that may be a length set to its extremes; a counting allocator watches. One test
//! only, so that nothing else allocates meanwhile.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test stops at what it does not expect"
)]

use std::alloc::System;
use std::hint::black_box;

use bytes::Bytes;
use jiexi_proto::handle::{self, CaseRule};
use jiexi_proto::limits::{
    ARRAY_MAX, ENVELOPE_SIZE, HANDLE_MAX, HEADER_SIZE, MESSAGE_MAX, VALUES_MAX,
};
use jiexi_proto::message::resolution::ResolutionView;
use jiexi_proto::message::{CredentialField, EncryptedMessage, MessageWriter};
use jiexi_proto::{Envelope, EnvelopeFlags, Message, MessageView, ResponseCode, ValueView};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[path = "support/mod.rs"]
mod support;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What decoding may allocate for each octet of a message: 32 for a type or a handle of a list,
/// which takes 4 octets at least.
const ALLOCATED_PER_OCTET: usize = 8;
/// And besides, for the shared buffer.
const ALLOCATED_BESIDES: usize = 256;

/// Values that a length should not have, whatever it is for.
const EXTREMES: &[u32] = &[
    0,
    1,
    u32::MAX,
    i32::MAX as u32,
    i32::MIN as u32,
    HANDLE_MAX as u32,
    HANDLE_MAX as u32 + 1,
    VALUES_MAX as u32 - 1,
    MESSAGE_MAX as u32,
    MESSAGE_MAX as u32 + 1,
    ARRAY_MAX as u32,
    ARRAY_MAX as u32 + 1,
];

#[test]
fn hostile_octets() {
    let (mut messages, encrypted) = recorded_messages();
    assert_eq!(
        (messages.len(), encrypted.len()),
        (644, 72),
        "messages in clear, without those in pieces, and encrypted ones"
    );
    let mut cases = 0;
    for (octets, content) in encrypted {
        cases += still_encrypted(&octets);
        messages.push(in_clear(&octets, &content));
    }
    for message in &messages {
        cases += cut(message) + lengthened(message) + extremes(message);
    }
    println!("hostile: {cases} cases from {} messages", messages.len());
    assert!(cases > 700_000, "only {cases} cases");
    nothing_is_allocated(&messages);
}

/// Octets of an encrypted message, and what was decrypted.
type Sealed = (Vec<u8>, Vec<u8>);

/// Every recorded message in clear that stands alone, and the encrypted ones.
fn recorded_messages() -> (Vec<Vec<u8>>, Vec<Sealed>) {
    let (mut messages, mut encrypted) = (Vec::new(), Vec::new());
    for name in support::file_names()
        .iter()
        .filter(|name| name.ends_with(".json"))
    {
        let file = support::load(name);
        for exchange in file["exchanges"].as_array().into_iter().flatten() {
            let recorded = exchange["messages"].as_array().unwrap().iter();
            let whole = recorded.filter(|m| m.get("header").is_some() && m.get("body").is_some());
            for message in whole {
                let octets = support::recorded_octets(message);
                if message.get("decrypted_hex").is_some() {
                    encrypted.push((octets, support::octets(message, "decrypted_hex")));
                } else {
                    messages.push(octets);
                }
            }
        }
    }
    (messages, encrypted)
}

/// The message as it would be without encryption.
fn in_clear(octets: &[u8], content: &[u8]) -> Vec<u8> {
    let mut envelope = Envelope::decode(octets).unwrap();
    envelope.flags = EnvelopeFlags(envelope.flags.0 & !EnvelopeFlags::ENCRYPTED.0);
    envelope.message_length = u32::try_from(content.len()).unwrap();
    [&envelope.encode(), content].concat()
}

/// An encrypted message is itself and nothing else: not a part, not more, not of another length.
fn still_encrypted(octets: &[u8]) -> usize {
    let decodes = |octets: &[u8]| EncryptedMessage::decode(&Bytes::copy_from_slice(octets)).is_ok();
    assert!(decodes(octets));
    assert!(!(0..octets.len()).any(|length| decodes(&octets[..length])));
    assert!(!decodes(&[octets, &[0]].concat()));
    let mut changed = octets.to_vec();
    for extreme in EXTREMES {
        changed[ENVELOPE_SIZE - 4..ENVELOPE_SIZE].copy_from_slice(&extreme.to_be_bytes());
        assert!(!decodes(&changed), "length {extreme}");
    }
    octets.len() + 1 + EXTREMES.len()
}

/// Decodes; fails when that takes too much memory, or when what comes out is something else.
fn decodes(octets: &[u8]) -> bool {
    let shared = Bytes::copy_from_slice(octets);
    let region = Region::new(ALLOCATOR);
    let decoded = Message::decode(&shared);
    let allocated = region.change().bytes_allocated;
    let bound = ALLOCATED_PER_OCTET * octets.len() + ALLOCATED_BESIDES;
    assert!(
        allocated <= bound,
        "{allocated} octets for {}: {decoded:?}",
        octets.len()
    );
    let Ok(message) = decoded else { return false };
    let mut encoded = Vec::with_capacity(octets.len());
    message.encode(&mut encoded);
    assert_eq!(encoded, octets, "{message:?}");
    true
}

/// The message cut at every octet: as it is, and with its lengths set right again.
fn cut(message: &[u8]) -> usize {
    for length in 0..message.len() {
        assert!(!decodes(&message[..length]), "cut at {length}");
    }
    let body = body_length(message);
    for length in 0..body {
        let mut shorter = message[..ENVELOPE_SIZE + HEADER_SIZE + length].to_vec();
        set_lengths(&mut shorter, length);
        decodes(&shorter);
    }
    message.len() + body
}

/// The message with octets after it, and with octets after its body.
fn lengthened(message: &[u8]) -> usize {
    let mut longer = message.to_vec();
    longer.extend_from_slice(&[0; 4]);
    assert!(!decodes(&longer));
    let mut body = body_length(message);
    let mut longer = message[..ENVELOPE_SIZE + HEADER_SIZE + body].to_vec();
    for _ in 0..9 {
        longer.push(0);
        body += 1;
        set_lengths(&mut longer, body);
        decodes(&longer);
    }
    10
}

/// Whatever reads like a length, at its extremes.
fn extremes(message: &[u8]) -> usize {
    let mut changed = message.to_vec();
    let mut cases = 0;
    // A large message is mostly the data of its values; its lengths stand in front.
    for at in ENVELOPE_SIZE - 4..(message.len() - 3).min(2_000) {
        let field: [u8; 4] = message[at..at + 4].try_into().unwrap();
        let length = u32::from_be_bytes(field);
        if length as usize > message.len() {
            continue;
        }
        let near = [length.wrapping_sub(1), length + 1];
        for extreme in EXTREMES
            .iter()
            .chain(&near)
            .filter(|extreme| **extreme != length)
        {
            changed[at..at + 4].copy_from_slice(&extreme.to_be_bytes());
            let fine = decodes(&changed);
            let envelope = at == ENVELOPE_SIZE - 4;
            let header = at == ENVELOPE_SIZE + HEADER_SIZE - 4;
            assert!(!(fine && (envelope || header)), "length {extreme} at {at}");
            cases += 1;
        }
        changed[at..at + 4].copy_from_slice(&field);
    }
    cases
}

fn body_length(message: &[u8]) -> usize {
    MessageView::decode(message).unwrap().body.len()
}

/// Makes the lengths of envelope and header fit a message without a credential field.
fn set_lengths(message: &mut [u8], body: usize) {
    let total = u32::try_from(HEADER_SIZE + body).unwrap();
    message[ENVELOPE_SIZE - 4..ENVELOPE_SIZE].copy_from_slice(&total.to_be_bytes());
    let end = ENVELOPE_SIZE + HEADER_SIZE;
    message[end - 4..end].copy_from_slice(&u32::try_from(body).unwrap().to_be_bytes());
}

/// Requests are understood and answered without an allocation.
fn nothing_is_allocated(messages: &[Vec<u8>]) {
    let mut key = Vec::with_capacity(HANDLE_MAX);
    let mut out = Vec::with_capacity(MESSAGE_MAX);
    let region = Region::new(ALLOCATOR);
    let mut resolutions = 0;
    for message in messages {
        let view = MessageView::decode(message).unwrap();
        let Ok(request) = ResolutionView::decode(view.body) else {
            continue;
        };
        resolutions += 1;
        key.clear();
        handle::fold(request.handle, CaseRule::Whole, &mut key);
        black_box(
            request
                .indexes
                .iter()
                .chain(request.types.iter().map(|t| t[0].into()))
                .max(),
        );
        out.clear();
        let mut header = view.header;
        header.response_code = ResponseCode::SUCCESS;
        let mut writer = MessageWriter::begin(&view.envelope.reply(), &header, &mut out);
        writer.body().bytes(request.handle);
        writer.body().length(0);
        writer.finish(&CredentialField::Empty);
        black_box(ValueView::split(message).is_ok());
    }
    let stats = region.change();
    assert_eq!((stats.allocations, stats.reallocations), (0, 0));
    assert!(resolutions > 100);
}
