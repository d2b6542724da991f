//! Messages on a stream, and in datagrams: finding them, cutting them, joining them.
//!
//! No sockets and no clock: octets and the time are arguments.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;

use crate::error::{DecodeError, ErrorKind};
use crate::limits::{ENVELOPE_SIZE, MESSAGE_MAX, PIECE_MAX};
use crate::message::Envelope;

/// Finds whole messages at the front of a stream's buffer.
#[derive(Clone, Copy, Debug)]
pub struct StreamFramer {
    /// Most octets of a message, the envelope not counted.
    limit: usize,
}

/// What stands at the front of a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framed<'a> {
    /// Not a whole message yet; it takes at least this many octets in all.
    NeedsMore(usize),
    /// A whole message.
    Frame {
        /// The message with its envelope.
        frame: &'a [u8],
        /// What follows it.
        rest: &'a [u8],
    },
}

impl Default for StreamFramer {
    fn default() -> Self {
        Self { limit: MESSAGE_MAX }
    }
}

impl StreamFramer {
    /// Accepts messages of at most `limit` octets, and never more than [`MESSAGE_MAX`].
    #[must_use]
    pub fn with_limit(limit: usize) -> Self {
        Self {
            limit: limit.min(MESSAGE_MAX),
        }
    }

    /// Looks at the front of `buffer`.
    ///
    /// # Errors
    /// A message above the limit. The stream has no next message then: answer and close.
    #[inline]
    pub fn next<'a>(&self, buffer: &'a [u8]) -> Result<Framed<'a>, DecodeError> {
        let Ok(envelope) = Envelope::decode(buffer) else {
            return Ok(Framed::NeedsMore(ENVELOPE_SIZE));
        };
        let length = envelope.message_length as usize;
        if length > self.limit {
            let kind = ErrorKind::TooLarge(self.limit);
            return Err(DecodeError::new(kind, "message length", ENVELOPE_SIZE - 4));
        }
        let whole = ENVELOPE_SIZE + length;
        Ok(match buffer.split_at_checked(whole) {
            Some((frame, rest)) => Framed::Frame { frame, rest },
            None => Framed::NeedsMore(whole),
        })
    }
}

/// Appends `message` as datagrams, one after the other, and returns how many there are.
///
/// Every datagram but the last has exactly [`crate::limits::DATAGRAM_MAX`] octets, because clients
/// compute the number of pieces from that; so `out.chunks(DATAGRAM_MAX)` are the datagrams. The
/// length and the sequence numbers of `envelope` are set here; its flags are the caller's
/// (requests in pieces are marked as truncated, responses are not).
pub fn split_datagrams(envelope: &Envelope, message: &[u8], out: &mut Vec<u8>) -> usize {
    let mut envelope = *envelope;
    envelope.message_length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    envelope.sequence = 0;
    let count = piece_count(message.len());
    out.reserve(message.len() + count * ENVELOPE_SIZE);
    let mut pieces = message.chunks(PIECE_MAX);
    for _ in 0..count {
        out.extend_from_slice(&envelope.encode());
        out.extend_from_slice(pieces.next().unwrap_or_default());
        envelope.sequence += 1;
    }
    count
}

/// How many datagrams a message of this length takes: at least one.
#[inline]
#[must_use]
pub const fn piece_count(message_length: usize) -> usize {
    if message_length == 0 {
        1
    } else {
        message_length.div_ceil(PIECE_MAX)
    }
}

/// What a [`Reassembler`] holds at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReassemblyLimits {
    /// Messages of which pieces are missing.
    pub messages: usize,
    /// Octets of their pieces.
    pub bytes: usize,
    /// How long a message may take from its first piece on.
    pub wait_ms: u64,
}

impl Default for ReassemblyLimits {
    /// 256 messages, 4 MiB, and the 5 s of the reference.
    fn default() -> Self {
        Self {
            messages: 256,
            bytes: 4 << 20,
            wait_ms: 5_000,
        }
    }
}

/// Joins datagrams to messages, by sender and request id.
///
/// When it is full, what has waited longest is given up. A piece costs memory only for what has
/// come, not for what its envelope promises.
#[derive(Debug)]
pub struct Reassembler<K> {
    limits: ReassemblyLimits,
    partial: HashMap<(K, u32), Partial>,
    /// Messages in the order in which they began, by number; those already gone are skipped, and
    /// cleared away before they outnumber the others.
    order: VecDeque<(u64, (K, u32))>,
    /// The number of the next message.
    next: u64,
    /// Octets of all pieces held.
    bytes: usize,
}

/// A message of which pieces are missing.
#[derive(Debug)]
struct Partial {
    number: u64,
    started_ms: u64,
    message_length: u32,
    bytes: usize,
    /// Datagrams by sequence number.
    pieces: BTreeMap<u32, Vec<u8>>,
}

impl<K: Hash + Eq + Clone> Reassembler<K> {
    /// An empty one.
    #[must_use]
    pub fn new(limits: ReassemblyLimits) -> Self {
        Self {
            limits,
            partial: HashMap::new(),
            order: VecDeque::new(),
            next: 0,
            bytes: 0,
        }
    }

    /// Takes a datagram; gives the whole message when this was its last missing piece.
    ///
    /// The message has the envelope of piece 0. A piece that came before is ignored.
    ///
    /// # Errors
    /// No envelope, a message above its limit, or a piece that does not fit into its message.
    pub fn push(
        &mut self,
        from: K,
        datagram: &[u8],
        now_ms: u64,
    ) -> Result<Option<Vec<u8>>, DecodeError> {
        self.expire(now_ms);
        let envelope = Envelope::decode(datagram)?;
        let piece = datagram.get(ENVELOPE_SIZE..).unwrap_or_default();
        check_piece(&envelope, piece.len())?;
        if piece_count(envelope.message_length as usize) == 1 {
            return Ok(Some(datagram.to_vec()));
        }
        let key = (from, envelope.request_id);
        let message_length = envelope.message_length;
        let partial = match self.partial.entry(key.clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let number = self.next;
                self.next += 1;
                self.order.push_back((number, key.clone()));
                entry.insert(Partial {
                    number,
                    started_ms: now_ms,
                    message_length,
                    bytes: 0,
                    pieces: BTreeMap::new(),
                })
            }
        };
        if partial.message_length != message_length {
            return Err(DecodeError::new(
                ErrorKind::Invalid,
                "message length",
                ENVELOPE_SIZE - 4,
            ));
        }
        if let std::collections::btree_map::Entry::Vacant(place) =
            partial.pieces.entry(envelope.sequence)
        {
            place.insert(datagram.to_vec());
            partial.bytes += piece.len();
            self.bytes += piece.len();
        }
        if partial.bytes == message_length as usize {
            return Ok(self.remove(&key).map(join));
        }
        self.make_room();
        if self.order.len() > 2 * self.limits.messages + 1 {
            let partial = &self.partial;
            self.order
                .retain(|(number, key)| partial.get(key).is_some_and(|p| p.number == *number));
        }
        Ok(None)
    }

    /// Gives up the messages whose time has passed; returns how many.
    pub fn expire(&mut self, now_ms: u64) -> usize {
        let before = self.partial.len();
        let wait_ms = self.limits.wait_ms;
        self.drop_oldest_while(|partial, _| now_ms.saturating_sub(partial.started_ms) >= wait_ms);
        before - self.partial.len()
    }

    /// How many messages wait for pieces.
    #[must_use]
    pub fn len(&self) -> usize {
        self.partial.len()
    }

    /// Whether no message waits for pieces.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.partial.is_empty()
    }

    fn make_room(&mut self) {
        let limits = self.limits;
        self.drop_oldest_while(|_, all| {
            all.partial.len() > limits.messages || all.bytes > limits.bytes
        });
    }

    /// Removes messages from the oldest on, as long as `unwanted` says so.
    fn drop_oldest_while(&mut self, unwanted: impl Fn(&Partial, &Self) -> bool) {
        while let Some((number, key)) = self.order.front() {
            match self.partial.get(key) {
                Some(partial) if partial.number == *number => {
                    if !unwanted(partial, self) {
                        return;
                    }
                    let key = key.clone();
                    self.remove(&key);
                }
                _ => {}
            }
            self.order.pop_front();
        }
    }

    fn remove(&mut self, key: &(K, u32)) -> Option<Partial> {
        let partial = self.partial.remove(key)?;
        self.bytes -= partial.bytes;
        Some(partial)
    }
}

/// Whether this piece has the place and the size that its envelope says.
fn check_piece(envelope: &Envelope, size: usize) -> Result<(), DecodeError> {
    let length = envelope.message_length as usize;
    if length > MESSAGE_MAX {
        let kind = ErrorKind::TooLarge(MESSAGE_MAX);
        return Err(DecodeError::new(kind, "message length", ENVELOPE_SIZE - 4));
    }
    let last = piece_count(length) - 1;
    let sequence = envelope.sequence as usize;
    if sequence > last {
        return Err(DecodeError::new(
            ErrorKind::TooLarge(last),
            "sequence number",
            ENVELOPE_SIZE - 8,
        ));
    }
    let expected = if sequence == last {
        length - last * PIECE_MAX
    } else {
        PIECE_MAX
    };
    match size.cmp(&expected) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Less => Err(DecodeError::new(ErrorKind::Short, "piece", ENVELOPE_SIZE)),
        std::cmp::Ordering::Greater => Err(DecodeError::new(
            ErrorKind::Trailing,
            "piece",
            ENVELOPE_SIZE,
        )),
    }
}

/// The pieces one after the other, with the envelope of the first.
fn join(partial: Partial) -> Vec<u8> {
    let mut message = Vec::with_capacity(ENVELOPE_SIZE + partial.bytes);
    for datagram in partial.pieces.values() {
        let from = if message.is_empty() { 0 } else { ENVELOPE_SIZE };
        message.extend_from_slice(datagram.get(from..).unwrap_or_default());
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::DATAGRAM_MAX;

    fn envelope(request_id: u32) -> Envelope {
        Envelope {
            request_id,
            ..Envelope::default()
        }
    }

    fn datagrams(request_id: u32, length: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
        let message: Vec<u8> = (0u8..=255).cycle().take(length).collect();
        let mut out = Vec::new();
        split_datagrams(&envelope(request_id), &message, &mut out);
        (
            message,
            out.chunks(DATAGRAM_MAX).map(<[u8]>::to_vec).collect(),
        )
    }

    #[test]
    fn frames_come_one_after_the_other() {
        let (_, first) = datagrams(1, 5);
        let (_, second) = datagrams(2, 0);
        let stream = [&first[0][..], &second[0][..]].concat();
        let framer = StreamFramer::default();
        for length in 0..first[0].len() {
            let needed = if length < 20 { 20 } else { 25 };
            assert_eq!(
                framer.next(&stream[..length]),
                Ok(Framed::NeedsMore(needed))
            );
        }
        let Ok(Framed::Frame { frame, rest }) = framer.next(&stream) else {
            panic!("a frame")
        };
        assert_eq!(frame, first[0]);
        assert_eq!(
            framer.next(rest),
            Ok(Framed::Frame {
                frame: &second[0],
                rest: &[]
            })
        );
        assert!(StreamFramer::with_limit(4).next(&stream).is_err());
    }

    #[test]
    fn pieces_have_the_size_that_clients_compute() {
        for (length, sizes) in [
            (0, &[20][..]),
            (492, &[512]),
            (493, &[512, 21]),
            (985, &[512, 512, 21]),
        ] {
            let (_, pieces) = datagrams(1, length);
            assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), sizes);
            assert_eq!(piece_count(length), sizes.len());
        }
    }

    #[test]
    fn pieces_in_any_order_and_twice_make_the_message() {
        let (message, mut pieces) = datagrams(7, 2_000);
        pieces.reverse();
        let mut reassembler = Reassembler::new(ReassemblyLimits::default());
        let (last, others) = pieces.split_last().unwrap();
        for piece in others.iter().chain(others) {
            assert_eq!(reassembler.push("a", piece, 0), Ok(None));
            assert_eq!(reassembler.push("b", piece, 0), Ok(None));
        }
        let whole = reassembler.push("a", last, 0).unwrap().unwrap();
        assert_eq!(whole[20..], message);
        assert_eq!(whole[..20], last[..20]);
        assert_eq!(reassembler.len(), 1);
    }

    #[test]
    fn a_single_datagram_passes() {
        let (_, pieces) = datagrams(7, 100);
        let mut reassembler = Reassembler::new(ReassemblyLimits::default());
        assert_eq!(
            reassembler.push((), &pieces[0], 0),
            Ok(Some(pieces[0].clone()))
        );
        assert!(reassembler.is_empty());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (_, pieces) = datagrams(7, 1_000);
        let mut reassembler = Reassembler::new(ReassemblyLimits::default());
        assert!(reassembler.push((), &pieces[0][..511], 0).is_err());
        assert!(
            reassembler
                .push((), &[&pieces[0][..], b"x"].concat(), 0)
                .is_err()
        );
        let mut beyond = pieces[0].clone();
        beyond[15] = 9;
        assert!(reassembler.push((), &beyond, 0).is_err());
        assert!(reassembler.is_empty());
        assert_eq!(reassembler.push((), &pieces[0], 0), Ok(None));
        let (_, other) = datagrams(7, 1_001);
        assert!(reassembler.push((), &other[0], 0).is_err());
    }

    #[test]
    fn time_and_room_are_bounded() {
        let limits = ReassemblyLimits {
            messages: 3,
            bytes: 5 * PIECE_MAX,
            wait_ms: 10,
        };
        let mut reassembler = Reassembler::new(limits);
        for id in 0..9 {
            let (_, pieces) = datagrams(id, 2_000);
            assert_eq!(reassembler.push((), &pieces[0], 0), Ok(None));
            assert!(reassembler.len() <= 3);
        }
        for piece in &datagrams(8, 2_000).1[1..4] {
            assert_eq!(reassembler.push((), piece, 5), Ok(None));
        }
        assert_eq!((reassembler.len(), reassembler.bytes), (2, 5 * PIECE_MAX));
        assert_eq!(reassembler.expire(9), 0);
        assert_eq!(reassembler.expire(10), 2);
        assert_eq!((reassembler.bytes, reassembler.order.len()), (0, 0));
    }
}
