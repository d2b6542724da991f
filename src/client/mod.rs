//! A small client of the Handle protocol: ask a server, follow referrals to the one that knows, change what is there.
//!
//! * [`Client::ask`] — one question to one server: UDP with retries, then TCP (`exchange`).
//! * [`Client::resolve`] — the same, going on to other servers where the answer points there (`follow`), and beginning
//!   where the prefix is remembered to be at home (`sites`).
//! * [`Administrator`] — changes and lists: proofs (`proof`), sessions (`session`), retries under the same request id.
//! * [`outbound`] — where a node that asks on behalf of others may connect to, and who does not answer.
//! * [`Client::ask_home`] — an answer that only the home of a handle can have given (`certified`).
//! * [`Administrator::copy`] — everything that a server has (`copy`).
//! * [`Operation`] — what is asked; `request` — requests ready to be sent, messages as replies.
//!
//! An answer that is a refusal is a [`Reply`] like any other; errors are about reaching a server and understanding it.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use jiexi_proto::{
    code::{OpFlags, ResponseCode, Version},
    error::DecodeError,
    value::Value,
};

mod administrator;
mod certified;
mod copy;
mod exchange;
mod follow;
mod operation;
pub mod outbound;
mod proof;
mod request;
mod session;
mod sites;

pub use administrator::{Administrator, Answer, Protection, Target};
pub use copy::{Block, Copy};
pub use follow::{HOPS_MAX, Hop, Lead};
pub use operation::Operation;
pub use proof::{Credentials, Key};
pub use sites::{BELIEVED_S, SITES_MAX};

/// The transports that may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transports {
    /// UDP, and TCP when UDP does not answer.
    #[default]
    Any,
    /// UDP alone.
    Udp,
    /// TCP alone.
    Tcp,
}

/// How to ask.
#[derive(Debug, Clone)]
pub struct Client {
    /// The transports that may be used.
    pub transports: Transports,
    /// How long to wait for an answer after each sending over UDP.
    pub udp_waits: Vec<Duration>,
    /// How long a TCP connection may take to open.
    pub tcp_connect: Duration,
    /// How long an answer over TCP may take.
    pub tcp_answer: Duration,
    /// Demand a digest of the question in each answer, and check it.
    pub digest: bool,
    /// Unix seconds, for the expiration of questions.
    pub now: fn() -> u32,
    /// The flags of resolution questions.
    pub flags: OpFlags,
    /// How many servers have passed on what is asked.
    pub recursion_count: u8,
    /// Where it may connect to; anywhere without.
    pub outbound: Option<Arc<outbound::Outbound>>,
    /// Who does not answer, and is not waited for; without, everybody is.
    pub silent: Option<Arc<outbound::Silent>>,
    /// Where prefixes are at home; shared by all copies of this client.
    sites: Arc<sites::Sites>,
}

impl Client {
    /// The waits of the reference client: three sendings over UDP, a minute for TCP.
    #[must_use]
    pub fn new(transports: Transports, now: fn() -> u32) -> Self {
        Self {
            transports,
            udp_waits: [500, 1_000, 1_500].map(Duration::from_millis).to_vec(),
            tcp_connect: Duration::from_secs(5),
            tcp_answer: Duration::from_secs(60),
            digest: false,
            now,
            flags: OpFlags::RESOLUTION,
            recursion_count: 0,
            outbound: None,
            silent: None,
            sites: Arc::default(),
        }
    }
}

/// A resolution question. Empty lists ask for all values; both together are a union.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Question {
    /// The handle.
    pub handle: Bytes,
    /// Types wanted; `URL.` means all types that begin so.
    pub types: Vec<Bytes>,
    /// Indexes wanted.
    pub indexes: Vec<u32>,
}

/// A server: where it listens and which version it speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// Over UDP.
    pub udp: Option<SocketAddr>,
    /// Over TCP.
    pub tcp: Option<SocketAddr>,
    /// The version of its site record, or one that every server reads.
    pub version: Version,
}

impl Place {
    /// A server known only by its address: both transports, and a version that an old one does not misread.
    #[must_use]
    pub const fn at(address: SocketAddr) -> Self {
        Self {
            udp: Some(address),
            tcp: Some(address),
            version: Version::COMPATIBLE,
        }
    }
}

/// The transport an answer came over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        })
    }
}

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The outcome.
    pub code: ResponseCode,
    /// The handle as it was asked; of a referral the handle to ask instead, or empty.
    pub handle: Bytes,
    /// The values found, or those of a referral.
    pub values: Vec<Value>,
    /// What the server says about a refusal; often empty.
    pub message: String,
    /// Who answered.
    pub server: SocketAddr,
    /// Over which transport.
    pub transport: Transport,
    /// The server remembers this of a home that it cannot reach now.
    pub stale: bool,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum ClientError {
    /// No answer in time.
    TimedOut(SocketAddr, Transport),
    /// The server cannot be reached.
    Io(SocketAddr, Transport, io::Error),
    /// The answer makes no sense.
    Malformed(SocketAddr, DecodeError),
    /// The answer does not belong to the question.
    NotOurs(SocketAddr, &'static str),
    /// The question is longer than a message may be.
    TooLong,
    /// The server offers no transport that may be used.
    NoTransport,
    /// The server must not be connected to.
    Forbidden(SocketAddr, &'static str),
    /// The server has been silent and is not asked now.
    Down(SocketAddr),
    /// Referrals lead back to where they came from.
    Loop(SocketAddr),
    /// Referrals do not end.
    TooManyHops,
    /// A referral without a site that can be asked.
    NoSite(String),
    /// The server wants to know who asks, and there is no key.
    NeedsKey(SocketAddr),
    /// The server opens no session.
    NoSession(SocketAddr, ResponseCode, String),
    /// An answer is not signed by who it should come from.
    Unsigned(SocketAddr, &'static str),
    /// A copy would come in clear, and that was not allowed.
    InClear(SocketAddr),
    /// A copy makes no sense.
    Copy(SocketAddr, &'static str),
    /// The operating system gives no randomness.
    NoRandomness,
}

impl ClientError {
    /// Who was asked, and how, when that is known.
    fn place(&self) -> Option<(Option<SocketAddr>, Transport)> {
        match self {
            Self::TimedOut(server, transport) | Self::Io(server, transport, _) => {
                Some((Some(*server), *transport))
            }
            _ => None,
        }
    }
}

impl Place {
    /// Who is asked last of the two, and how.
    fn last(&self, allowed: Transports) -> (Option<SocketAddr>, Transport) {
        let udp = (self.udp, Transport::Udp);
        let tcp = (self.tcp, Transport::Tcp);
        match allowed {
            Transports::Udp => udp,
            Transports::Any if self.tcp.is_none() => udp,
            Transports::Any | Transports::Tcp => tcp,
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut(server, transport) => {
                write!(f, "{server} ({transport}) did not answer in time")
            }
            Self::Io(server, transport, error) => write!(f, "{server} ({transport}): {error}"),
            Self::Malformed(server, error) => {
                write!(f, "{server}: the answer cannot be read: {error}")
            }
            Self::NotOurs(server, why) => write!(
                f,
                "{server}: the answer does not belong to the question: {why}"
            ),
            Self::TooLong => f.write_str("the question is longer than a message may be"),
            Self::NoTransport => f.write_str(
                "the server offers no transport that may be used; leave out --udp or --tcp",
            ),
            Self::Forbidden(server, why) => write!(f, "{server} is not connected to: {why}"),
            Self::Down(server) => write!(f, "{server} has been silent and is not asked now"),
            Self::Loop(server) => write!(f, "the referrals lead in a circle, back to {server}"),
            Self::TooManyHops => write!(f, "more than {HOPS_MAX} referrals"),
            Self::NoSite(handle) => write!(
                f,
                "the referral for {handle} names no site that can be asked"
            ),
            Self::NeedsKey(server) => write!(
                f,
                "{server} wants to know who asks: give --key FILE (or --secret-file FILE) and --identity INDEX:HANDLE"
            ),
            Self::NoSession(server, code, text) => {
                let name = code.name().unwrap_or("an unknown code");
                write!(
                    f,
                    "{server} opens no session: {name} (code {}) {text}: leave out --session and --encrypt; secrets and \
                     restricted values then take --clear, and others may read them on their way",
                    code.0
                )
            }
            Self::Unsigned(server, why) => {
                write!(f, "{server}: the answer is not to be trusted: {why}")
            }
            Self::InClear(server) => write!(
                f,
                "{server} sends copies in clear, signed but readable by everybody on their way, secret keys too: if that \
                 may be, say so with --clear"
            ),
            Self::Copy(server, why) => write!(f, "{server}: the copy cannot be used: {why}"),
            Self::NoRandomness => f.write_str("the operating system gives no randomness"),
        }
    }
}

impl std::error::Error for ClientError {}

impl ClientError {
    /// Whether the server has said nothing, so that it may be asked again.
    const fn is_silence(&self) -> bool {
        matches!(self, Self::Io(..) | Self::TimedOut(..))
    }
}

#[cfg(test)]
mod recorded;
#[cfg(test)]
mod tests;
