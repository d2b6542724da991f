//! Datagrams of any protocol: worker threads, each with its own socket, a batch at a time.
//!
//! A worker receives what is there, at most [`BATCH`] datagrams, waiting only for the first one;
//! has its [`Front`] answer them; sends the answers. Answers leave from the address that was asked:
//! on a socket bound to all addresses the kernel tells which one that was.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrIn, SockaddrIn6,
    SockaddrLike, SockaddrStorage, cmsg_space, recvmmsg, sendmmsg, sendmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::clock::Now;
use crate::metrics::Cell;
use crate::notices::{self, Asked};

/// The most datagrams received, answered and sent in one go.
pub const BATCH: usize = 32;

/// The receive buffer of one datagram. Requests are at most 512 octets, questions of DNS what it says it takes, 1232 by
/// default; longer ones are seen and counted instead of cut.
///
/// An odd number of cache lines: buffers at a power of two would all begin in the same few sets of the cache, and the
/// requests of a batch push each other out.
pub const BUFFER: usize = 21 * 64;

/// How often an idle worker looks whether it is to stop.
const STOP_INTERVAL: Duration = Duration::from_millis(200);

/// The octets of a batch, one buffer for each datagram.
pub type Buffers = [[u8; BUFFER]; BATCH];

/// What answers the datagrams of one protocol; one for each worker.
pub trait Front {
    /// Answers a batch: `incoming[i]` stands in `buffers[i]`. What is to be sent goes to `outgoing`.
    fn answer<S: Peer>(
        &mut self,
        incoming: &[Incoming<S>],
        buffers: &Buffers,
        now: Now,
        outgoing: &mut Vec<Outgoing<S>>,
    );

    /// The octets that [`Outgoing::octets`] of the last batch are places in.
    fn octets(&self, place: Place) -> &[u8];

    /// The counters of this worker.
    fn cell(&self) -> &Cell;

    /// What a datagram asks for, for the log.
    fn asked(datagram: &[u8]) -> Asked<'_>;

    /// What is spoken, over datagrams.
    const FRONT: notices::Front;
}

/// Whether nobody was warned of this address yet.
fn first_warning(address: SocketAddr) -> bool {
    static WARNED: Mutex<Vec<SocketAddr>> = Mutex::new(Vec::new());
    let mut warned = WARNED.lock().unwrap_or_else(PoisonError::into_inner);
    let first = !warned.contains(&address);
    if first {
        warned.push(address);
    }
    first
}

/// Binds one socket of `address`; several workers may bind the same one.
///
/// `section` is that of the configuration, for people.
///
/// # Errors
/// When the system refuses.
pub fn bind(address: SocketAddr, receive_buffer: usize, section: &str) -> io::Result<UdpSocket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_recv_buffer_size(receive_buffer)?;
    // The kernel doubles what is asked for, to have room for its own bookkeeping.
    let granted = socket.recv_buffer_size()? / 2;
    // Of each address once: every worker has a socket there.
    if granted < receive_buffer && first_warning(address) {
        tracing::warn!(
            event = "udp.small_buffer",
            %address, wanted = receive_buffer, granted,
            "the kernel grants a smaller UDP receive buffer: raise net.core.rmem_max, or lower [{section}] udp_receive_buffer"
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

/// A worker: a socket, and what answers there.
#[derive(Debug)]
pub struct Worker<F> {
    /// Its socket; others may send from it.
    pub socket: Arc<UdpSocket>,
    /// Answers.
    pub front: F,
    /// Set when the node stops.
    pub stop: Arc<AtomicBool>,
}

impl<F: Front> Worker<F> {
    /// Answers until it is told to stop. What came before that is answered.
    ///
    /// # Errors
    /// When the socket is broken.
    pub fn run(self) -> io::Result<()> {
        match self.socket.local_addr()? {
            SocketAddr::V4(local) => {
                Loop::<SockaddrIn, F>::new(self, local.ip().is_unspecified()).run()
            }
            SocketAddr::V6(local) => {
                Loop::<SockaddrIn6, F>::new(self, local.ip().is_unspecified()).run()
            }
        }
    }
}

/// An address of one family, as the system calls take it.
pub trait Peer: SockaddrLike + Copy {
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
pub struct Incoming<S> {
    /// Its octets, at the beginning of its buffer.
    pub length: usize,
    /// Who sent it.
    pub peer: S,
    /// The address it was sent to, when the socket is bound to all.
    pub local: Option<IpAddr>,
    /// It is longer than the buffer.
    pub cut: bool,
}

/// Which of a front's two buffers an answer stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Answers as they were made.
    Whole,
    /// Answers that had to be made over: cut to pieces, or shortened.
    Piece,
}

/// A datagram to be sent.
#[derive(Clone, Debug)]
pub struct Outgoing<S> {
    /// Where its octets stand.
    pub octets: Range<usize>,
    /// In which buffer.
    pub place: Place,
    /// Who asked.
    pub to: S,
    /// The address that was asked.
    pub from: Option<IpAddr>,
}

/// A worker with all its buffers.
struct Loop<S, F> {
    worker: Worker<F>,
    receive: MultiHeaders<S>,
    send: MultiHeaders<S>,
    buffers: Box<Buffers>,
    incoming: Vec<Incoming<S>>,
    outgoing: Vec<Outgoing<S>>,
}

impl<S: Peer, F: Front> Loop<S, F> {
    /// Allocates everything; `wildcard` when the socket is bound to all addresses.
    fn new(worker: Worker<F>, wildcard: bool) -> Self {
        let control = || wildcard.then(|| vec![0; S::LOCAL_SPACE]);
        Self {
            worker,
            receive: MultiHeaders::preallocate(BATCH, control()),
            send: MultiHeaders::preallocate(BATCH, control()),
            buffers: Box::new([[0; BUFFER]; BATCH]),
            incoming: Vec::with_capacity(BATCH),
            outgoing: Vec::with_capacity(BATCH),
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
            self.outgoing.clear();
            let front = &mut self.worker.front;
            front.answer(&self.incoming, &self.buffers, now, &mut self.outgoing);
            self.send();
            let count = self.incoming.len() as u64;
            let durations = &self.worker.front.cell().durations;
            let took = now.instant.elapsed();
            durations.observe(took, count);
            if notices::is_slow(took) {
                self.tell_slow(took);
            }
        }
    }

    /// Writes down that the last batch took long.
    #[cold]
    fn tell_slow(&self, took: Duration) {
        let first = self.incoming.first();
        let client = first.map(|first| first.peer.address().ip());
        let octets = first.and_then(|first| self.buffers[0].get(..first.length));
        let asked = F::asked(octets.unwrap_or_default());
        notices::slow_batch(F::FRONT, took, self.incoming.len(), client, &asked);
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
                let octets = self.worker.front.octets(answer.place);
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

/// Sends one datagram from `source`. What cannot be sent is asked for again.
pub fn send_from(socket: &UdpSocket, source: Option<IpAddr>, to: SocketAddr, datagram: &[u8]) {
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
