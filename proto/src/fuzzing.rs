//! What the fuzz targets run: whatever can be read is written back as the same octets.
//!
//! Each function takes any octets and panics when the codec contradicts itself.

use std::fmt::Debug;

use bytes::Bytes;

use crate::error::DecodeError;
use crate::framing::{Framed, Reassembler, ReassemblyLimits, StreamFramer, split_datagrams};
use crate::limits::{ENVELOPE_SIZE, MESSAGE_MAX, PIECE_MAX};
use crate::message::challenge::Proof;
use crate::message::replication::{DumpBlock, StreamStart, TransactionBlock};
use crate::message::resolution::{Resolution, ResolutionView};
use crate::message::{Body, EncryptedMessage, Envelope, Message, MessageView};
use crate::value::admin::Admin;
use crate::value::key::{KeyFile, PrivateKey, PublicKey};
use crate::value::site::SiteRecord;
use crate::value::{Value, ValueView, list, type_of};
use crate::wire::{Reader, Writer};

/// A message, and every kind of data that can stand in one.
pub fn message(octets: &[u8]) {
    let shared = Bytes::copy_from_slice(octets);
    if let Some(message) = comes_back(&shared, Message::decode, Message::encode) {
        views_agree(&message, octets);
    }
    if let Ok(message) = Message::decode_lenient(&shared) {
        assert!(MessageView::decode_lenient(octets).is_ok());
        let length = message.envelope.message_length as usize;
        assert!(octets.len() - ENVELOPE_SIZE <= length);
    }
    comes_back(&shared, EncryptedMessage::decode, EncryptedMessage::encode);
    if let Some(value) = comes_back(&shared, Value::decode, Value::encode) {
        assert_eq!(type_of(octets), value.kind);
    }
    comes_back(&shared, Admin::decode, Admin::encode);
    comes_back(&shared, list::decode, |list, out| list::encode(list, out));
    comes_back(&shared, SiteRecord::decode, SiteRecord::encode);
    comes_back(&shared, PublicKey::decode, PublicKey::encode);
    comes_back(&shared, PrivateKey::decode, PrivateKey::encode);
    comes_back(&shared, KeyFile::decode, KeyFile::encode);
    for auth_type in [Proof::PUBLIC_KEY, Proof::SECRET_KEY] {
        comes_back(
            &shared,
            |octets| Proof::decode(auth_type, octets),
            Proof::encode,
        );
    }
    part_comes_back(&shared, StreamStart::decode, StreamStart::encode);
    part_comes_back(&shared, DumpBlock::decode, DumpBlock::encode);
    part_comes_back(&shared, TransactionBlock::decode, TransactionBlock::encode);
}

/// What decodes encodes to the same octets.
fn comes_back<T: Debug>(
    octets: &Bytes,
    decode: impl FnOnce(&Bytes) -> Result<T, DecodeError>,
    encode: impl FnOnce(&T, &mut Vec<u8>),
) -> Option<T> {
    let decoded = decode(octets).ok()?;
    let mut encoded = Vec::new();
    encode(&decoded, &mut encoded);
    assert_eq!(encoded, octets[..], "{decoded:?}");
    Some(decoded)
}

/// The same for what stands in front of something else.
fn part_comes_back<T>(
    octets: &Bytes,
    decode: impl FnOnce(&mut Reader<'_>) -> Result<T, DecodeError>,
    encode: impl FnOnce(&T, &mut Writer<'_>),
) {
    let mut reader = Reader::over(octets);
    if let Ok(decoded) = decode(&mut reader) {
        let mut encoded = Vec::new();
        encode(&decoded, &mut Writer::new(&mut encoded));
        assert!(octets.starts_with(&encoded) && reader.offset() == encoded.len());
    }
}

/// The borrowed views show what the owned message holds.
fn views_agree(message: &Message, octets: &[u8]) {
    let view = MessageView::decode(octets);
    assert_eq!(
        view.map(|view| (view.envelope, view.header)),
        Ok((message.envelope, message.header))
    );
    let body = view.map(|view| view.body).unwrap_or_default();
    if let Body::Resolution(request) = &message.body {
        let owned = ResolutionView::decode(body).map(|view| Resolution {
            handle: Bytes::copy_from_slice(view.handle),
            indexes: view.indexes.iter().collect(),
            types: view.types.iter().map(Bytes::copy_from_slice).collect(),
            trailer: view.trailer.map(Bytes::copy_from_slice),
        });
        assert_eq!(owned.as_ref(), Ok(request));
    }
    if let Body::Values(change) = &message.body {
        let mut rest = body.get(8 + change.handle.len()..).unwrap_or_default();
        for value in &change.values {
            let Ok((view, after)) = ValueView::split(rest) else {
                unreachable!("it was read")
            };
            assert_eq!((view.index, view.data), (value.index, &value.data[..]));
            rest = after;
        }
    }
}

/// A stream: its frames and what is left are the stream, and more octets change no frame.
pub fn framing(octets: &[u8]) {
    let framer = StreamFramer::default();
    let mut rest = octets;
    while let Ok(Framed::Frame { frame, rest: after }) = framer.next(rest) {
        assert_eq!(frame.len() + after.len(), rest.len());
        assert!(frame.len() <= ENVELOPE_SIZE + MESSAGE_MAX);
        assert_eq!(framer.next(frame), Ok(Framed::Frame { frame, rest: &[] }));
        if let Some((_, short)) = frame.split_last() {
            assert!(matches!(framer.next(short), Ok(Framed::NeedsMore(n)) if n > short.len()));
        }
        rest = after;
    }
    if let Ok(Framed::NeedsMore(needed)) = framer.next(rest) {
        assert!(needed > rest.len());
    }
}

/// Datagrams: those in the octets stay within bounds, and the octets cut into datagrams come back.
pub fn reassembly(octets: &[u8]) {
    let limits = ReassemblyLimits {
        messages: 4,
        bytes: 8 * PIECE_MAX,
        wait_ms: 100,
    };
    let mut reassembler = Reassembler::new(limits);
    let mut reader = Reader::new(octets);
    let mut now_ms = 0;
    while let (Ok(step), Ok(length)) = (reader.u8("time"), reader.u16("length")) {
        now_ms += u64::from(step);
        let Ok(datagram) = reader.take(usize::from(length), "datagram") else {
            break;
        };
        if let Ok(Some(whole)) = reassembler.push(step & 1, datagram, now_ms) {
            let length = Envelope::decode(&whole).map(|envelope| envelope.message_length as usize);
            assert_eq!(length, Ok(whole.len() - ENVELOPE_SIZE));
        }
        assert!(reassembler.len() <= limits.messages);
    }

    let mut datagrams = Vec::new();
    let count = split_datagrams(&Envelope::default(), octets, &mut datagrams);
    let mut reassembler = Reassembler::new(ReassemblyLimits::default());
    let mut whole = None;
    for datagram in datagrams.chunks(crate::limits::DATAGRAM_MAX).rev() {
        assert!(whole.is_none());
        whole = reassembler.push((), datagram, 0).unwrap_or_default();
    }
    if octets.len() <= MESSAGE_MAX {
        let joined = whole
            .as_deref()
            .and_then(|whole| whole.get(ENVELOPE_SIZE..));
        assert_eq!(joined, Some(octets), "{count} datagrams");
    }
}
