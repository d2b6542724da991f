//! Load for a server, and what it costs: behind `jiexi bench` and the table of peers.
//!
//! * [`Protocol`]: how a request is written and its answer read. [`wire`] is the Handle protocol, coded once more, so that
//!   the node's own codec is not the judge of itself.
//! * [`records`]: records that follow from their number. [`names`]: which one is asked for next.
//! * [`datagrams`], [`streams`], [`visits`]: the loops, over UDP, over connections that stay, over one for each request.
//! * [`writes`]: what is written into the node meanwhile.
//! * [`first`]: how long a server takes to start. [`course`]: warm-up, measured time, latencies, the report. [`usage`]: processor time and memory of the server.
//!
//! A *closed* loop keeps a window of requests under way: it finds the peak. An *open* loop sends at a fixed rate whatever
//! the server does, and counts latency from the moment a request was due: it finds what users feel.

pub mod course;
pub mod datagrams;
pub mod first;
pub mod names;
pub mod records;
pub mod streams;
pub mod usage;
pub mod visits;
pub mod wire;
pub mod writes;

use std::fmt;
use std::io;
use std::net::SocketAddr;

use nix::errno::Errno;

/// What stops a run; shown to people as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(String);

impl Failure {
    /// With these words.
    pub fn new(message: impl fmt::Display) -> Self {
        Self(message.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(error)
    }
}

impl From<Errno> for Failure {
    fn from(error: Errno) -> Self {
        Self::new(error.desc())
    }
}

/// What an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The name is there.
    Found,
    /// There is no such name.
    Missing,
    /// Anything else: the code of the protocol.
    Other(u32),
}

/// What an answer says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The id of the request; none where a protocol has only the order.
    pub id: Option<u32>,
    /// What became of it.
    pub outcome: Outcome,
}

/// How a server is asked.
pub trait Protocol: Sync {
    /// How many bits an id has.
    const ID_BITS: u32;

    /// Appends a request about `name`.
    fn request(&self, id: u32, name: &[u8], out: &mut Vec<u8>);

    /// Gives another id to a request.
    fn set_id(&self, id: u32, request: &mut [u8]);

    /// Reads one whole answer.
    ///
    /// # Errors
    /// What is no answer to a look-up.
    fn answer(&self, answer: &[u8]) -> Result<Seen, Failure>;

    /// Octets of the answer that `stream` begins with, once that can be told.
    fn frame(&self, stream: &[u8]) -> Option<usize>;
}

/// Whether an answer is the right one.
fn check(seen: Seen, miss: bool) -> Result<(), Failure> {
    let wanted = if miss {
        Outcome::Missing
    } else {
        Outcome::Found
    };
    if seen.outcome == wanted {
        return Ok(());
    }
    let hint = match seen.outcome {
        Outcome::Other(wire::TOO_BUSY) => ": the server is busy or still loading",
        Outcome::Missing => ": are these the records it holds?",
        _ => "",
    };
    Err(Failure::new(format_args!(
        "the server answered {:?} where {wanted:?} is right{hint}",
        seen.outcome
    )))
}

/// Refuses servers elsewhere: load aimed at somebody else's is an attack.
///
/// # Errors
/// Not a loopback address, and not allowed.
pub fn permit(server: SocketAddr, anywhere: bool) -> Result<(), Failure> {
    if anywhere || server.ip().is_loopback() {
        return Ok(());
    }
    Err(Failure::new(format_args!(
        "{server} is not an address of this machine; with --remote you say that the server is yours to load"
    )))
}
