//! Requests that whoever runs the node should see in its log: those that took long, and samples of those that were refused.
//!
//! A line costs much more than a request, and whoever sends rubbish must not fill the disk with it: of each kind so many
//! lines are written a second, and the next one says how many were left out since. Leaving one out costs a look at a number
//! of the thread's own and a counter that few threads share.
//!
//! The settings are those of the process, as the log itself is, and change while it runs. Until they are set there is
//! nothing to see.

use std::borrow::Cow;
use std::cell::Cell;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiexi_proto::code::ResponseCode;

use crate::clock;
use crate::config::Log;
use crate::metrics::{Protocol, Transport};
use crate::registry::source::{Sender, Source};

/// Slow requests that are written down in a second.
const SLOW_A_SECOND: u32 = 10;
/// Octets of a handle or a path that are written down.
const SHOWN_MAX: usize = 256;
/// Whoever comes with a second that is older by so many at most has read the clock a while ago; by more: it was set back.
const LATE_MAX: u32 = 30;
/// Parts of the counts of what was left out, so that threads seldom write to the same cache line.
const PARTS: usize = 16;

/// From how many nanoseconds on a request is slow.
static SLOW_NS: AtomicU64 = AtomicU64::new(u64::MAX);
/// Refusals of each reason that are written down in a second.
static REFUSALS: AtomicU32 = AtomicU32::new(0);

static SLOW: Kind = Kind::new();
static REFUSED: [Kind; Reason::COUNT] = [const { Kind::new() }; Reason::COUNT];
static LEFT_OUT: [Part; PARTS] = [const { Part::new() }; PARTS];

/// Sets what is slow, and how many refusals are shown.
pub fn configure(log: &Log) {
    let slow = match log.slow {
        Duration::ZERO => u64::MAX,
        slow => nanoseconds(slow),
    };
    SLOW_NS.store(slow, Relaxed);
    REFUSALS.store(log.refusals, Relaxed);
}

/// Why something was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A proof of who asks is wrong, came too late, or came before.
    Proof,
    /// A proof of who asks is needed, and there is none.
    NoProof,
    /// The session is unknown, or has ended.
    Session,
    /// Whoever asks may not do this.
    Denied,
    /// Its network asks for more than it may.
    RateLimited,
    /// More waits than may.
    Busy,
    /// What came is nothing of the protocol, and its connection was closed.
    Hostile,
    /// No TLS was agreed on.
    Handshake,
}

impl Reason {
    const COUNT: usize = Self::Handshake as usize + 1;

    /// The word in the log.
    const fn label(self) -> &'static str {
        match self {
            Self::Proof => "proof",
            Self::NoProof => "no_proof",
            Self::Session => "session",
            Self::Denied => "denied",
            Self::RateLimited => "rate_limited",
            Self::Busy => "busy",
            Self::Hostile => "hostile",
            Self::Handshake => "handshake",
        }
    }

    /// The reason behind a code of the Handle protocol; none when it refuses nobody.
    #[must_use]
    pub const fn of_code(code: ResponseCode) -> Option<Self> {
        Some(match code {
            ResponseCode::AUTHENTICATION_FAILED
            | ResponseCode::INVALID_CREDENTIAL
            | ResponseCode::AUTHENTICATION_TIMEOUT
            | ResponseCode::SESSION_MESSAGE_REJECTED => Self::Proof,
            ResponseCode::SESSION_TIMEOUT => Self::Session,
            ResponseCode::INVALID_ADMIN | ResponseCode::INSUFFICIENT_PERMISSIONS => Self::Denied,
            ResponseCode::SERVER_TOO_BUSY => Self::Busy,
            _ => return None,
        })
    }
}

/// What was spoken over what.
pub type Front = (Protocol, Transport);

/// Something was refused to a client; `second` is about now, in Unix seconds: when it is refused, not when its request came.
/// The address of a datagram may be forged.
pub fn refused((protocol, transport): Front, reason: Reason, client: IpAddr, second: u32) {
    let most = REFUSALS.load(Relaxed);
    if most == 0 {
        return;
    }
    let place = reason as usize;
    if CLOSED.with(|closed| closed[place].get() == second) {
        return count_out(place);
    }
    let kind = &REFUSED[place];
    if !kind.passes(second, most) {
        CLOSED.with(|closed| closed[place].set(second));
        return count_out(place);
    }
    let sender = Sender::proven(client);
    let left_out: u64 = LEFT_OUT
        .iter()
        .map(|part| part.0[place].swap(0, Relaxed))
        .sum();
    tracing::info!(
        event = "request.refused",
        protocol = protocol.label(),
        transport = transport.label(),
        reason = reason.label(),
        client = %sender.address(),
        network = %sender.source(),
        left_out,
        "a request was refused"
    );
}

/// As [`refused`], for whoever does not know the time.
pub fn refused_now(front: Front, reason: Reason, client: IpAddr) {
    if REFUSALS.load(Relaxed) > 0 {
        refused(front, reason, client, clock::unix_seconds());
    }
}

/// Whether a request that took so long is to be written down.
#[inline]
#[must_use]
pub fn is_slow(took: Duration) -> bool {
    nanoseconds(took) >= SLOW_NS.load(Relaxed)
}

/// A request that took long, or several that were answered together.
#[derive(Clone, Copy, Debug)]
pub struct Slow<'a> {
    /// What was spoken.
    pub protocol: Protocol,
    /// Over what; none: this node asked another one.
    pub transport: Option<Transport>,
    /// What was asked.
    pub operation: &'static str,
    /// What was answered; empty when there was more than one answer.
    pub outcome: &'static str,
    /// How long it took.
    pub took: Duration,
    /// How many requests.
    pub requests: usize,
    /// The handle, the name or the path, as it came; of several requests, that of the first.
    pub about: &'a [u8],
    /// The network of who asked.
    pub network: Option<Source>,
}

impl Slow<'_> {
    /// Writes it down, unless too many were within this second.
    #[cold]
    pub fn tell(&self) {
        if !SLOW.passes(clock::unix_seconds(), SLOW_A_SECOND) {
            SLOW.left_out.fetch_add(1, Relaxed);
            return;
        }
        let about = (!self.about.is_empty()).then(|| shown(self.about));
        let network = self.network.map(|network| network.to_string());
        tracing::warn!(
            event = "request.slow",
            protocol = self.protocol.label(),
            transport = self.transport.map(Transport::label),
            operation = self.operation,
            outcome = (!self.outcome.is_empty()).then_some(self.outcome),
            seconds = self.took.as_secs_f64(),
            requests = (self.requests > 1).then_some(self.requests),
            about,
            network,
            left_out = SLOW.left_out.swap(0, Relaxed),
            "a request took long"
        );
    }
}

/// What a request asks for, as far as it says so.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// The operation.
    pub operation: &'static str,
    /// The handle, or the name; empty when there is none that may be shown.
    pub about: Cow<'a, [u8]>,
}

/// Some datagrams or messages that were answered together took long. The `first` of them stands for all: what each took
/// nobody has measured. It is read only now, and again.
#[cold]
pub fn slow_batch(
    (protocol, transport): Front,
    took: Duration,
    requests: usize,
    client: Option<IpAddr>,
    first: &Asked<'_>,
) {
    let slow = Slow {
        protocol,
        transport: Some(transport),
        operation: match requests {
            0 | 1 => first.operation,
            _ => "batch",
        },
        outcome: "",
        took,
        requests,
        about: &first.about,
        network: client.map(|client| Sender::proven(client).source()),
    };
    slow.tell();
}

/// The beginning of what somebody sent, for people.
#[must_use]
pub fn shown(octets: &[u8]) -> String {
    match octets.get(..SHOWN_MAX) {
        Some(beginning) if octets.len() > SHOWN_MAX => {
            format!("{}…", String::from_utf8_lossy(beginning))
        }
        _ => String::from_utf8_lossy(octets).into_owned(),
    }
}

/// Time that a request waited because of its client, or because of another node: it does not make the request slow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Away {
    since: Option<Instant>,
    total: Duration,
}

impl Away {
    /// It waits from now on.
    pub fn leave(&mut self) {
        self.since = Some(Instant::now());
    }

    /// It waits no longer.
    pub fn come_back(&mut self) {
        if let Some(since) = self.since.take() {
            self.total += since.elapsed();
        }
    }

    /// How long it has waited in all.
    #[must_use]
    pub const fn total(&self) -> Duration {
        self.total
    }
}

/// What is written down so many times a second.
#[derive(Debug)]
struct Kind {
    /// A second, and what was written down within it.
    within: Mutex<(u32, u32)>,
    left_out: AtomicU64,
}

impl Kind {
    const fn new() -> Self {
        Self {
            within: Mutex::new((0, 0)),
            left_out: AtomicU64::new(0),
        }
    }

    /// Whether one more may be written down.
    fn passes(&self, second: u32, most: u32) -> bool {
        let mut within = self.within.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, written) = &mut *within;
        // Who read the clock before another did is in that one's second: it would begin anew for each of them, and clients
        // have a say in how late some are. A later second wraps to more than any of these.
        if at.wrapping_sub(second) > LATE_MAX {
            (*at, *written) = (second, 0);
        }
        let passes = *written < most;
        *written += u32::from(passes);
        passes
    }
}

thread_local! {
    /// The seconds in which this thread has seen that no more may be written down, for each reason.
    static CLOSED: [Cell<u32>; Reason::COUNT] = const { [const { Cell::new(0) }; Reason::COUNT] };
    /// The part where this thread counts.
    static PART: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Relaxed) % PARTS
    };
}

/// Counts of what was left out, for each reason, in a cache line of their own.
#[derive(Debug)]
#[repr(align(128))]
struct Part([AtomicU64; Reason::COUNT]);

impl Part {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; Reason::COUNT])
    }
}

fn count_out(place: usize) {
    PART.with(|part| LEFT_OUT[*part].0[place].fetch_add(1, Relaxed));
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: so many pass in a second, however late those are that come with another one, and also after the clock was set
    /// back.
    #[test]
    fn so_many_pass_a_second() {
        let kind = Kind::new();
        let passed = |second| (0..5).filter(|_| kind.passes(second, 2)).count();
        assert_eq!(passed(100), 2);
        assert_eq!(passed(100), 0);
        assert_eq!(passed(101), 2);
        assert_eq!(passed(100), 0, "who read the clock before");
        assert_eq!(passed(102), 2);
        assert_eq!(passed(102 - LATE_MAX), 0, "who read the clock long before");
        assert_eq!(passed(102), 0, "and has changed nothing for others");
        assert_eq!(passed(50), 2, "a clock that was set back");
    }

    /// Goal: what a client sends is shown as far as it is short.
    #[test]
    fn what_is_shown_is_short() {
        assert_eq!(shown("88.118/泵".as_bytes()), "88.118/泵");
        assert_eq!(shown(&[0xFF]), "\u{fffd}");
        let long = shown(&[b'a'; 1 << 16]);
        assert_eq!(long.chars().count(), SHOWN_MAX + 1);
        assert!(long.ends_with('…'));
    }
}
