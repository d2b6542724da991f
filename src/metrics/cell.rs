//! The counters of one worker: a single writer, no shared cache line.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::history::Pen;

/// A counter with one writer; readers see it late by at most a moment.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the one writer may call this: it is a load and a store.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// The count so far.
    #[inline]
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Upper bounds of the duration buckets, nanoseconds.
pub const DURATION_BOUNDS_NS: [u64; 22] = [
    500,
    1_000,
    2_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    10_000_000_000,
];

/// A histogram of durations with one writer.
#[derive(Debug, Default)]
pub struct Durations {
    /// Counts of each bucket, not cumulative; the last one is beyond every bound.
    buckets: [Counter; DURATION_BOUNDS_NS.len() + 1],
    sum_ns: Counter,
}

impl Durations {
    /// Counts `n` events that took `duration` each.
    pub fn observe(&self, duration: Duration, n: u64) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = DURATION_BOUNDS_NS.partition_point(|&bound| bound < ns);
        self.buckets[bucket].add(n);
        self.sum_ns.add(ns.saturating_mul(n));
    }

    /// The counts per bucket (not cumulative, the last one unbounded) and the sum in seconds.
    #[must_use]
    pub fn read(&self) -> ([u64; DURATION_BOUNDS_NS.len() + 1], f64) {
        (
            std::array::from_fn(|i| self.buckets[i].value()),
            self.sum_ns.value() as f64 / 1e9,
        )
    }
}

/// A closed set of label values, one counter each.
macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal, $note:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $(#[doc = $note] $variant),* }

        impl $name {
            /// Every value, in the order of the counters.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The text of the label.
            #[must_use]
            pub fn label(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }
    };
}

labels! {
    /// What was asked.
    Op {
        Resolve = "resolve", "Resolution.";
        SiteInfo = "site_info", "The node's own site record.";
        Create = "create", "Creation of a handle.";
        Delete = "delete", "Deletion of a handle.";
        Add = "add", "New values.";
        Modify = "modify", "Changed values.";
        Remove = "remove", "Removed values.";
        List = "list", "Handles of a prefix, or homed prefixes.";
        Home = "home", "Homing of a prefix.";
        Unhome = "unhome", "End of homing.";
        Challenge = "challenge", "Answer to a challenge.";
        Verify = "verify", "Verification of an answer for another node.";
        Session = "session", "Set-up, key exchange, end of a session.";
        Login = "login", "Login of the Chinese client.";
        Replicate = "replicate", "Transactions or a dump for a mirror, changes for a follower.";
        Batch = "batch", "Batch queries.";
        Other = "other", "Anything else.";
    }
}

impl Op {
    /// Whether it is a resolution, a change or a list: those are remembered. Of a batch every line is, as a resolution.
    #[must_use]
    pub const fn is_remembered(self) -> bool {
        !matches!(
            self,
            Self::SiteInfo
                | Self::Challenge
                | Self::Verify
                | Self::Session
                | Self::Login
                | Self::Replicate
                | Self::Batch
                | Self::Other
        )
    }
}

labels! {
    /// What was answered.
    Outcome {
        Success = "success", "Done.";
        NotFound = "not_found", "No such handle.";
        ValuesNotFound = "values_not_found", "No such value.";
        Referral = "referral", "Ask another service.";
        NotResponsible = "not_responsible", "The prefix does not live here.";
        Challenge = "challenge", "Prove who you are.";
        Denied = "denied", "Not allowed.";
        Exists = "exists", "There already.";
        Invalid = "invalid", "The request is wrong.";
        Busy = "busy", "Not now.";
        Limited = "limited", "Over what the client may ask: its rate, its polls and jobs, its quota.";
        Error = "error", "A failure of this node.";
    }
}

labels! {
    /// Why nothing was answered.
    Reason {
        Short = "short", "Fewer octets than an envelope.";
        NotARequest = "not_a_request", "A response, or nothing of this protocol.";
        Malformed = "malformed", "Pieces that never made a message.";
        RateLimited = "rate_limited", "Over the byte budget of its source network.";
        TooLarge = "too_large", "Longer than any message may be.";
        Overload = "overload", "More than the node can do.";
    }
}

labels! {
    /// What the index said.
    LookupResult {
        Hit = "hit", "The record is there.";
        Miss = "miss", "There is none.";
        Loading = "loading", "Not known yet.";
    }
}

labels! {
    /// What is spoken.
    Protocol {
        Handle = "handle", "The Handle protocol.";
        Http = "http", "The JSON API and pages over HTTP.";
        Dns = "dns", "The domain name system.";
        Operations = "operations", "Metrics, health and the status page, for those who look after the node.";
    }
}

labels! {
    /// What a message came over.
    Transport {
        Udp = "udp", "Datagrams.";
        Tcp = "tcp", "Streams.";
        Tls = "tls", "Streams under TLS.";
        Http = "http", "Messages in requests over HTTP.";
    }
}

/// What is spoken over what. Every one is exported from the start.
pub const FRONTS: &[(Protocol, Transport)] = &[
    (Protocol::Handle, Transport::Udp),
    (Protocol::Handle, Transport::Tcp),
    (Protocol::Handle, Transport::Http),
    (Protocol::Http, Transport::Tcp),
    (Protocol::Http, Transport::Tls),
    (Protocol::Dns, Transport::Udp),
    (Protocol::Dns, Transport::Tcp),
    (Protocol::Dns, Transport::Tls),
];

/// The counters of one worker. Aligned so that two workers never share a cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Cell {
    requests: [Counter; Op::ALL.len()],
    responses: [Counter; Outcome::ALL.len()],
    dropped: [Counter; Reason::ALL.len()],
    lookups: [Counter; LookupResult::ALL.len()],
    /// Bytes of messages received.
    pub received_bytes: Counter,
    /// Bytes of messages sent.
    pub sent_bytes: Counter,
    /// Time from receipt to answer.
    pub durations: Durations,
    pen: Option<Pen>,
}

impl Cell {
    /// The counters of a worker whose resolutions and changes are remembered.
    pub(super) fn remembering(pen: Option<Pen>) -> Self {
        Self {
            pen,
            ..Self::default()
        }
    }

    /// Where its resolutions and changes are written down, unless that is off.
    #[must_use]
    pub const fn pen(&self) -> Option<&Pen> {
        self.pen.as_ref()
    }

    /// The counter of an operation.
    #[must_use]
    pub fn requests(&self, op: Op) -> &Counter {
        &self.requests[op as usize]
    }

    /// The counter of an outcome.
    #[must_use]
    pub fn responses(&self, outcome: Outcome) -> &Counter {
        &self.responses[outcome as usize]
    }

    /// The counter of a reason to drop.
    #[must_use]
    pub fn dropped(&self, reason: Reason) -> &Counter {
        &self.dropped[reason as usize]
    }

    /// The counter of a look-up result.
    #[must_use]
    pub fn lookups(&self, result: LookupResult) -> &Counter {
        &self.lookups[result as usize]
    }
}
