//! Datagrams: worker threads, each with its own socket, a batch at a time.
//!
//! A worker receives what is there, at most [`BATCH`] datagrams, waiting only for the first one;
//! answers it; sends the answers. Answers leave from the address that was asked: on a socket bound
//! to all addresses the kernel tells which one that was.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiexi_proto::framing::{Reassembler, ReassemblyLimits, split_datagrams};
use jiexi_proto::limits::{DATAGRAM_MAX, ENVELOPE_SIZE};
use jiexi_proto::{Envelope, EnvelopeFlags};
use nix::errno::Errno;
use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrIn, SockaddrIn6,
    SockaddrLike, SockaddrStorage, cmsg_space, recvmmsg, sendmmsg, sendmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::desk::{Job, Sink};
use super::{BATCH, Replies, Responder};
use crate::clock::Now;
use crate::metrics::Reason;
use crate::server::budget::{Budget, Proven};

/// The receive buffer of one datagram. Requests are at most 512 octets; longer ones are seen and
/// counted instead of cut.
const BUFFER: usize = 2048;

/// How often an idle worker looks whether it is to stop.
const STOP_INTERVAL: Duration = Duration::from_millis(200);

/// Binds one socket of `address`; several workers may bind the same one.
///
/// # Errors
/// When the system refuses.
pub fn bind(address: SocketAddr, receive_buffer: usize) -> io::Result<UdpSocket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_recv_buffer_size(receive_buffer)?;
    // The kernel doubles what is asked for, to have room for its own bookkeeping.
    let granted = socket.recv_buffer_size()? / 2;
    if granted < receive_buffer {
        tracing::warn!(
            %address, wanted = receive_buffer, granted,
            "the kernel grants a smaller UDP receive buffer: raise net.core.rmem_max, or lower handle.udp_receive_buffer"
        );
    }
    socket.set_read_timeout(Some(STOP_INTERVAL))?;
    socket.bind(&address.into())?;
    let socket = UdpSocket::from(socket);
    if address.ip().is_unspecified() {
        match address {
            SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
            SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
        }
    }
    Ok(socket)
}

/// What a worker needs.
#[derive(Debug)]
pub struct Worker {
    /// Its socket, shared with the desk, which answers what takes time.
    pub socket: Arc<UdpSocket>,
    /// Answers.
    pub responder: Responder,
    /// Guards.
    pub budget: Budget,
    /// Networks exempt from the guard.
    pub proven: Arc<Proven>,
    /// Set when the node stops.
    pub stop: Arc<AtomicBool>,
}

impl Worker {
    /// Answers until it is told to stop. What came before that is answered.
    ///
    /// # Errors
    /// When the socket is broken.
    pub fn run(self) -> io::Result<()> {
        match self.socket.local_addr()? {
            SocketAddr::V4(local) => {
                Loop::<SockaddrIn>::new(self, local.ip().is_unspecified()).run()
            }
            SocketAddr::V6(local) => {
                Loop::<SockaddrIn6>::new(self, local.ip().is_unspecified()).run()
            }
        }
    }
}

/// An address of one family, as the system calls take it.
trait Peer: SockaddrLike + Copy {
    /// The octets of the control message that carries the local address of this family.
    const LOCAL_SPACE: usize;

    /// The address in the form of the standard library.
    fn address(&self) -> SocketAddr;
}

impl Peer for SockaddrIn {
    const LOCAL_SPACE: usize = cmsg_space::<in_pktinfo>();

    fn address(&self) -> SocketAddr {
        SocketAddr::from((self.ip(), self.port()))
    }
}

impl Peer for SockaddrIn6 {
    const LOCAL_SPACE: usize = cmsg_space::<in6_pktinfo>();

    fn address(&self) -> SocketAddr {
        SocketAddr::from((self.ip(), self.port()))
    }
}

/// A datagram that came.
#[derive(Clone, Copy, Debug)]
struct Incoming<S> {
    length: usize,
    peer: S,
    /// The address it was sent to, when the socket is bound to all.
    local: Option<IpAddr>,
    /// It is longer than the buffer.
    cut: bool,
}

/// A datagram to be sent.
#[derive(Clone, Debug)]
struct Outgoing<S> {
    /// Where its octets stand: among the answers, or among the pieces of long ones.
    octets: Range<usize>,
    piece: bool,
    to: S,
    from: Option<IpAddr>,
}

/// A worker with all its buffers.
struct Loop<S> {
    worker: Worker,
    receive: MultiHeaders<S>,
    send: MultiHeaders<S>,
    buffers: Box<[[u8; BUFFER]; BATCH]>,
    incoming: Vec<Incoming<S>>,
    outgoing: Vec<Outgoing<S>>,
    /// Long answers, cut to datagrams.
    pieces: Vec<u8>,
    replies: Replies,
    reassembler: Reassembler<SocketAddr>,
    /// What goes to the desk: the place of its datagram, or the message it was the last piece of.
    deferred: Vec<(usize, Option<Vec<u8>>)>,
    origin: Instant,
}

/// What an answer of the desk costs the budget of its source, octets: a signed answer with a site
/// record, and the work that goes into it.
const DEFERRED_COST: usize = 1_500;

/// The largest buffer of cut-up answers that is kept between batches.
const KEEP_PIECES: usize = 256 * 1024;

impl<S: Peer> Loop<S> {
    /// Allocates everything; `wildcard` when the socket is bound to all addresses.
    fn new(worker: Worker, wildcard: bool) -> Self {
        let control = || wildcard.then(|| vec![0; S::LOCAL_SPACE]);
        Self {
            worker,
            receive: MultiHeaders::preallocate(BATCH, control()),
            send: MultiHeaders::preallocate(BATCH, control()),
            buffers: Box::new([[0; BUFFER]; BATCH]),
            incoming: Vec::with_capacity(BATCH),
            outgoing: Vec::with_capacity(BATCH),
            pieces: Vec::new(),
            replies: Replies::default(),
            reassembler: Reassembler::new(ReassemblyLimits::default()),
            deferred: Vec::with_capacity(BATCH),
            origin: Instant::now(),
        }
    }

    /// Receive, answer, send.
    fn run(mut self) -> io::Result<()> {
        loop {
            let stopping = self.worker.stop.load(Relaxed);
            let flags = if stopping {
                MsgFlags::MSG_DONTWAIT
            } else {
                MsgFlags::MSG_WAITFORONE
            };
            match self.receive(flags) {
                Ok(()) => {}
                Err(Errno::EAGAIN) if stopping => return Ok(()),
                Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNREFUSED) => continue,
                Err(errno) => return Err(errno.into()),
            }
            let now = Now::read();
            self.answer(now);
            self.send();
            let cell = self.worker.responder.cell();
            let count = self.incoming.len() as u64;
            cell.durations.observe(now.instant.elapsed(), count);
        }
    }

    /// Receives what is there, at most a batch.
    fn receive(&mut self, flags: MsgFlags) -> nix::Result<()> {
        self.incoming.clear();
        let mut slices = self
            .buffers
            .each_mut()
            .map(|buffer| [IoSliceMut::new(buffer)]);
        let fd = self.worker.socket.as_raw_fd();
        let received = recvmmsg(fd, &mut self.receive, &mut slices, flags, None)?;
        for message in received {
            let Some(peer) = message.address else {
                continue;
            };
            let local = message
                .cmsgs()
                .ok()
                .and_then(|mut all| all.find_map(local_address));
            let cut = message.flags.contains(MsgFlags::MSG_TRUNC);
            self.incoming.push(Incoming {
                length: message.bytes,
                peer,
                local,
                cut,
            });
        }
        Ok(())
    }

    /// Answers the batch: whole messages together, those that come in pieces when complete.
    fn answer(&mut self, now: Now) {
        self.outgoing.clear();
        self.pieces.clear();
        self.pieces.shrink_to(KEEP_PIECES);
        self.replies.clear();
        let mut requests: [&[u8]; BATCH] = [&[]; BATCH];
        let mut places = [0; BATCH];
        let mut count = 0;
        for (place, incoming) in self.incoming.iter().enumerate() {
            let datagram = &self.buffers[place][..incoming.length];
            let cell = self.worker.responder.cell();
            cell.received_bytes.add(datagram.len() as u64);
            if incoming.cut {
                cell.dropped(Reason::TooLarge).add(1);
            } else if is_piece(datagram) {
                let sender = incoming.peer.address();
                let passed = now
                    .instant
                    .saturating_duration_since(self.origin)
                    .as_millis();
                let passed_ms = u64::try_from(passed).unwrap_or(u64::MAX);
                match self.reassembler.push(sender, datagram, passed_ms) {
                    Ok(Some(message)) => {
                        self.worker
                            .responder
                            .respond(&[&message], now, &mut self.replies);
                        queue(&mut self.outgoing, &mut self.pieces, &self.replies, |_| {
                            incoming
                        });
                        if self.replies.deferred().next().is_some() {
                            self.deferred.push((place, Some(message)));
                        }
                    }
                    Ok(None) => {}
                    Err(_) => cell.dropped(Reason::Malformed).add(1),
                }
            } else {
                requests[count] = datagram;
                places[count] = place;
                count += 1;
            }
        }
        self.worker
            .responder
            .respond(&requests[..count], now, &mut self.replies);
        let incoming = &self.incoming;
        queue(&mut self.outgoing, &mut self.pieces, &self.replies, |i| {
            &incoming[places[i]]
        });
        let deferred = self.replies.deferred().map(|i| (places[i], None));
        self.deferred.extend(deferred);
        self.guard(now.instant);
        self.hand_over(now);
    }

    /// Gives to the desk what is not answered here, as far as the budget of its source allows: what
    /// it costs is taken at once, for the answer is not seen again.
    fn hand_over(&mut self, now: Now) {
        let Worker {
            socket,
            responder,
            budget,
            proven,
            ..
        } = &mut self.worker;
        let Some(desk) = responder.desk() else {
            return self.deferred.clear();
        };
        for (place, whole) in self.deferred.drain(..) {
            let incoming = &self.incoming[place];
            let peer = incoming.peer.address();
            if !budget.take(peer.ip(), DEFERRED_COST, now.instant, proven) {
                responder.cell().dropped(Reason::RateLimited).add(1);
                continue;
            }
            let datagram = &self.buffers[place][..incoming.length];
            let octets = whole.map_or_else(|| Bytes::copy_from_slice(datagram), Bytes::from);
            let sink = Sink::Datagram {
                socket: Arc::clone(socket),
                from: incoming.local,
            };
            let job = Job {
                octets,
                peer,
                sink,
                came: now.instant,
            };
            if let Err(job) = desk.submit(job) {
                let mut out = Vec::new();
                responder.busy(&job.octets, now, &mut out);
                send_from(socket, incoming.local, peer, &out);
            }
        }
    }

    /// Takes out what is over the budget of its source network: all of an answer or nothing.
    fn guard(&mut self, now: Instant) {
        let Worker {
            budget,
            proven,
            responder,
            ..
        } = &mut self.worker;
        let cell = responder.cell();
        self.outgoing.retain(|answer| {
            let granted = budget.take(answer.to.address().ip(), answer.octets.len(), now, proven);
            if granted {
                cell.sent_bytes.add(answer.octets.len() as u64);
            } else {
                cell.dropped(Reason::RateLimited).add(1);
            }
            granted
        });
    }

    /// Sends the answers, as many in one call as leave from the same address.
    fn send(&mut self) {
        let fd = self.worker.socket.as_raw_fd();
        let mut queued = &self.outgoing[..];
        while let Some(first) = queued.first() {
            let run = queued
                .iter()
                .take(BATCH)
                .take_while(|next| next.from == first.from)
                .count();
            let batch = &queued[..run];
            let mut slices = [[IoSlice::new(&[])]; BATCH];
            let mut to = [None; BATCH];
            for ((answer, slice), to) in batch.iter().zip(&mut slices).zip(&mut to) {
                let octets = if answer.piece {
                    &self.pieces[..]
                } else {
                    self.replies.octets()
                };
                *slice = [IoSlice::new(&octets[answer.octets.clone()])];
                *to = Some(answer.to);
            }
            let sent = with_source(first.from, |control| {
                sendmmsg(
                    fd,
                    &mut self.send,
                    &slices[..run],
                    &to[..run],
                    control,
                    MsgFlags::empty(),
                )
                .map(Iterator::count)
            });
            // A datagram that cannot be sent (its network is unreachable, say) is the client's to
            // ask for again; the ones behind it go on.
            queued = &queued[sent.unwrap_or(0).max(1)..];
        }
    }
}

/// Queues the answers to the last batch; long ones in pieces.
fn queue<'i, S: Peer + 'i>(
    outgoing: &mut Vec<Outgoing<S>>,
    pieces: &mut Vec<u8>,
    replies: &Replies,
    asked: impl Fn(usize) -> &'i Incoming<S>,
) {
    for (place, answer) in replies.ranges().enumerate() {
        let Some(octets) = answer else { continue };
        let incoming = asked(place);
        let (to, from) = (incoming.peer, incoming.local);
        if octets.len() <= DATAGRAM_MAX {
            outgoing.push(Outgoing {
                octets,
                piece: false,
                to,
                from,
            });
            continue;
        }
        let answer = &replies.octets()[octets];
        let Ok(envelope) = Envelope::decode(answer) else {
            continue;
        };
        let start = pieces.len();
        split_datagrams(&envelope, &answer[ENVELOPE_SIZE..], pieces);
        for place in (start..pieces.len()).step_by(DATAGRAM_MAX) {
            let octets = place..pieces.len().min(place + DATAGRAM_MAX);
            outgoing.push(Outgoing {
                octets,
                piece: true,
                to,
                from,
            });
        }
    }
}

/// Sends one datagram from `source`. What cannot be sent is asked for again.
pub(super) fn send_from(
    socket: &UdpSocket,
    source: Option<IpAddr>,
    to: SocketAddr,
    datagram: &[u8],
) {
    let to = SockaddrStorage::from(to);
    let octets = [IoSlice::new(datagram)];
    let _ = with_source(source, |control| {
        sendmsg(
            socket.as_raw_fd(),
            &octets,
            control,
            MsgFlags::empty(),
            Some(&to),
        )
    });
}

/// Whether a datagram is one of several that make a message.
fn is_piece(datagram: &[u8]) -> bool {
    datagram.len() > ENVELOPE_SIZE && datagram[2] & EnvelopeFlags::TRUNCATED.0 != 0
}

/// The address a datagram was sent to.
fn local_address(control: ControlMessageOwned) -> Option<IpAddr> {
    match control {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            Some(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)).into())
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into())
        }
        _ => None,
    }
}

/// Calls `send` with the control message that makes a datagram leave from `source`.
fn with_source<T>(source: Option<IpAddr>, send: impl FnOnce(&[ControlMessage<'_>]) -> T) -> T {
    match source {
        None => send(&[]),
        Some(IpAddr::V4(address)) => {
            let address = in_addr {
                s_addr: address.to_bits().to_be(),
            };
            let info = in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: address,
                ipi_addr: address,
            };
            send(&[ControlMessage::Ipv4PacketInfo(&info)])
        }
        Some(IpAddr::V6(address)) => {
            let address = in6_addr {
                s6_addr: address.octets(),
            };
            let info = in6_pktinfo {
                ipi6_addr: address,
                ipi6_ifindex: 0,
            };
            send(&[ControlMessage::Ipv6PacketInfo(&info)])
        }
    }
}
