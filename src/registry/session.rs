//! One session: its key, who it belongs to, which messages came; and what waits for proof in it.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use jiexi_proto::Envelope;
use jiexi_proto::limits::{NONCE_SIZE, REPLAY_WINDOW};
use zeroize::Zeroizing;

use super::auth::{Authenticated, Identity};

/// Challenges that wait for their answers within one session.
pub const PENDING_MAX: usize = 8;

/// A request that waits for proof of who asks.
#[derive(Clone, Debug)]
pub struct Challenge {
    /// What the proof is about, before the digest.
    pub nonce: [u8; NONCE_SIZE],
    /// The digest of the request's header and body, without the octet that names its hash.
    pub digest: Bytes,
    /// The envelope of the request.
    pub envelope: Envelope,
    /// The request after its envelope, in clear.
    pub content: Bytes,
    /// When it was made.
    pub made: Instant,
}

impl Challenge {
    /// What a proof covers.
    #[must_use]
    pub fn asked(&self) -> Vec<u8> {
        [&self.nonce[..], &self.digest].concat()
    }
}

/// A session. `Debug` does not show its key.
pub struct Session {
    /// The key that both sides have agreed on.
    pub key: Zeroizing<Vec<u8>>,
    /// Who the client said it would be when it opened the session; none for anonymous.
    pub declared: Option<Identity>,
    /// Who has been proved.
    pub authenticated: Option<Authenticated>,
    /// Counters that came.
    window: Window,
    /// The last counter that was sent.
    sent: u32,
    /// Ids of the challenges that wait in it, the oldest first. They are held by the table, which
    /// bounds them with all others.
    pub(super) pending: VecDeque<u32>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("declared", &self.declared)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// A session with this key.
    #[must_use]
    pub const fn new(key: Zeroizing<Vec<u8>>, declared: Option<Identity>) -> Self {
        Self {
            key,
            declared,
            authenticated: None,
            window: Window::new(),
            sent: 0,
            pending: VecDeque::new(),
        }
    }

    /// Takes a counter that came with a right MAC; false when it came before, or is too old.
    pub fn accept(&mut self, counter: u32) -> bool {
        self.window.accept(counter)
    }

    /// The counter of the next message to send.
    pub const fn next_counter(&mut self) -> u32 {
        self.sent = self.sent.wrapping_add(1);
        self.sent
    }
}

/// Counters that came: the highest, and which of those below it.
///
/// Counter 0 is never accepted: clients count from 1, and a message that carries 0 could be sent
/// again for ever. The reference server does not check it.
#[derive(Clone, Copy, Debug)]
struct Window {
    highest: u32,
    /// Bit n: `highest - n` came.
    seen: [u64; 4],
}

impl Window {
    const fn new() -> Self {
        Self {
            highest: 0,
            seen: [0; 4],
        }
    }

    fn accept(&mut self, counter: u32) -> bool {
        if counter == 0 || i32::try_from(counter).is_err() {
            return false;
        }
        if counter > self.highest {
            self.shift(counter - self.highest);
            self.highest = counter;
            self.seen[0] |= 1;
            return true;
        }
        let age = self.highest - counter;
        if age >= REPLAY_WINDOW {
            return false;
        }
        let (word, bit) = (age as usize / 64, 1 << (age % 64));
        let fresh = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        fresh
    }

    fn shift(&mut self, by: u32) {
        if by >= 256 {
            self.seen = [0; 4];
            return;
        }
        let (words, bits) = (by as usize / 64, by % 64);
        for to in (0..4).rev() {
            let high = if to >= words {
                self.seen[to - words] << bits
            } else {
                0
            };
            let low = match bits {
                0 => 0,
                _ if to > words => self.seen[to - words - 1] >> (64 - bits),
                _ => 0,
            };
            self.seen[to] = high | low;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_accepted_once_and_not_when_it_is_old() {
        let mut window = Window::new();
        assert!(!window.accept(0));
        for counter in [1, 3, 2, 300, 299, 101, 1000, 801] {
            assert!(window.accept(counter), "{counter}");
            assert!(!window.accept(counter), "{counter} again");
        }
        for counter in [800, 300, 1, u32::MAX] {
            assert!(!window.accept(counter), "{counter}");
        }
        let mut window = Window::new();
        for counter in 1..2000 {
            assert!(window.accept(counter));
            assert!(!window.accept(counter.saturating_sub(63).max(1)) || counter < 2);
        }
    }
}
