//! `instructions`: one look-up of each kind, for callgrind to count. `run.sh` beside it does, and compares with
//! `counts.tsv`.
//!
//! Started with a kind, it answers [`BATCHES`] batches of that kind inside of `counted` functions; without one it lists
//! the kinds. Datagrams go through the whole front with guard and metrics, all but the system calls.

use std::error::Error;
use std::net::UdpSocket;
use std::sync::Arc;

use jiexi::bench::Protocol as _;
use jiexi::bench::records::Records;
use jiexi::bench::wire::Handle;
use jiexi::clock::Now;
use jiexi::metrics::{Metrics, Transport};
use jiexi::server::budget::{self, Budget, Proven, Purse};
use jiexi::server::datagram::{BATCH, BUFFER, Buffers, Front as _, Incoming, Outgoing};
use jiexi::server::handle::udp::Datagrams;
use jiexi::server::handle::{Replies, Responder, Shared};
use nix::sys::socket::SockaddrIn;

#[path = "../node/mod.rs"]
#[expect(
    clippy::expect_used,
    reason = "a bench ends where something is not as expected"
)]
mod node;

type Failure = Box<dyn Error>;

/// Batches that are counted, after as many that are not.
const BATCHES: usize = 50;
/// More records than a cache line holds, few enough to load in a moment.
const RECORDS: u64 = 1_000;

/// What is asked for.
#[derive(Clone, Copy)]
enum Kind {
    Hit,
    Miss,
    Elsewhere,
    Referral,
    ByIndex,
    ByType,
    Digest,
    Stream,
}

const KINDS: [(&str, Kind); 8] = [
    ("udp-hit", Kind::Hit),
    ("udp-miss", Kind::Miss),
    ("udp-not-responsible", Kind::Elsewhere),
    ("udp-referral", Kind::Referral),
    ("udp-by-index", Kind::ByIndex),
    ("udp-by-type", Kind::ByType),
    ("udp-digest", Kind::Digest),
    ("tcp-batch-hit", Kind::Stream),
];

fn main() -> Result<(), Failure> {
    let wanted = std::env::args()
        .nth(1)
        .filter(|argument| argument != "--bench");
    let Some(wanted) = wanted else {
        KINDS.iter().for_each(|(name, _)| println!("{name}"));
        return Ok(());
    };
    let kind = KINDS
        .iter()
        .find(|(name, _)| *name == wanted)
        .ok_or("no such kind")?
        .1;
    let directory = tempfile::tempdir()?;
    let shared = Arc::new(node::shared(directory.path(), RECORDS));
    let requests: Vec<Vec<u8>> = (0..BATCH as u64)
        .map(|number| request(kind, number * 31))
        .collect();
    let lookups = match kind {
        Kind::Stream => in_streams(shared, &requests),
        _ => in_datagrams(shared, &requests)?,
    };
    println!("{lookups}");
    Ok(())
}

fn in_datagrams(shared: Arc<Shared>, requests: &[Vec<u8>]) -> Result<usize, Failure> {
    let socket = Arc::new(UdpSocket::bind("127.0.0.1:0")?);
    let limits = budget::Config {
        bytes_per_second: 1 << 40,
        burst_bytes: 1 << 40,
        ..budget::Config::default()
    };
    let now = Now::read();
    let responder = Responder::new(shared, Metrics::default().cell(Transport::Udp));
    let proven = Arc::new(Proven::new(limits.clone()));
    let budget = || Budget::new(&limits, 1, now.instant);
    let purse = Arc::new(Purse::new(budget(), Arc::clone(&proven)));
    let mut front = Datagrams::new(socket, responder, budget(), proven, purse);
    let mut buffers: Box<Buffers> = Box::new([[0; BUFFER]; BATCH]);
    let mut incoming = Vec::new();
    for (place, request) in requests.iter().enumerate() {
        buffers[place][..request.len()].copy_from_slice(request);
        let peer = SockaddrIn::new(127, 0, 0, 1, 20_000 + place as u16);
        incoming.push(Incoming {
            length: request.len(),
            peer,
            local: None,
            cut: false,
        });
    }
    let mut outgoing = Vec::with_capacity(BATCH);
    for batch in 0..2 * BATCHES {
        outgoing.clear();
        if batch < BATCHES {
            front.answer(&incoming, &buffers, now, &mut outgoing);
        } else {
            counted_datagrams(&mut front, &incoming, &buffers, now, &mut outgoing);
        }
        assert_eq!(outgoing.len(), BATCH, "every request is answered");
    }
    Ok(BATCHES * BATCH)
}

#[inline(never)]
fn counted_datagrams(
    front: &mut Datagrams,
    incoming: &[Incoming<SockaddrIn>],
    buffers: &Buffers,
    now: Now,
    outgoing: &mut Vec<Outgoing<SockaddrIn>>,
) {
    front.answer(incoming, buffers, now, outgoing);
}

fn in_streams(shared: Arc<Shared>, requests: &[Vec<u8>]) -> usize {
    let mut responder = Responder::new(shared, Metrics::default().cell(Transport::Tcp));
    let requests: Vec<&[u8]> = requests.iter().map(Vec::as_slice).collect();
    let mut replies = Replies::default();
    replies.ordered = true;
    let now = Now::read();
    for batch in 0..2 * BATCHES {
        replies.clear();
        let answered = if batch < BATCHES {
            responder.respond(&requests, now, &mut replies)
        } else {
            counted_stream(&mut responder, &requests, now, &mut replies)
        };
        assert_eq!(answered, BATCH, "every request is answered");
    }
    BATCHES * BATCH
}

#[inline(never)]
fn counted_stream(
    responder: &mut Responder,
    requests: &[&[u8]],
    now: Now,
    replies: &mut Replies,
) -> usize {
    responder.respond(requests, now, replies)
}

/// A request of this kind about one of the records.
fn request(kind: Kind, number: u64) -> Vec<u8> {
    let records = Records::new(node::PREFIX, RECORDS);
    let name = match kind {
        Kind::Miss => node::name(&records, number + RECORDS),
        // Different ones: where one of them lies in a keyed table is different in each process.
        Kind::Elsewhere => {
            format!("10.{:04}/sensor.3c6ef372-e01a07b2", 1_000 + number).into_bytes()
        }
        Kind::Referral => b"0.NA/88.118.9.7".to_vec(),
        _ => node::name(&records, number),
    };
    let mut out = Vec::new();
    Handle.request(number as u32, &name, &mut out);
    match kind {
        Kind::ByIndex => filter(&mut out, &[2_u32.to_be_bytes()].concat(), 1, 0),
        Kind::ByType => filter(&mut out, b"\0\0\0\x03URL", 0, 1),
        Kind::Digest => out[29] |= 0x80, // RRDG
        _ => {}
    }
    out
}

/// Replaces the two empty lists and the empty credential at the end of a request.
fn filter(request: &mut Vec<u8>, item: &[u8], indexes: u32, types: u32) {
    request.truncate(request.len() - 12);
    request.extend_from_slice(&indexes.to_be_bytes());
    if indexes > 0 {
        request.extend_from_slice(item);
    }
    request.extend_from_slice(&types.to_be_bytes());
    if types > 0 {
        request.extend_from_slice(item);
    }
    request.extend_from_slice(&[0; 4]);
    let (message, body) = (request.len() as u32 - 20, request.len() as u32 - 48);
    request[16..20].copy_from_slice(&message.to_be_bytes());
    request[40..44].copy_from_slice(&body.to_be_bytes());
}
