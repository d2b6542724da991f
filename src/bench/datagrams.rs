//! Look-ups over UDP: a window of requests spread over many connected sockets.
//!
//! What is sent to a socket at once is as long as its first request, so that the kernel cuts one buffer into datagrams
//! (UDP_SEGMENT): otherwise the load costs as much as the server, and one core cannot find another one's limit. The
//! server sees single datagrams.

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::sockopt::RcvBuf;
use nix::sys::socket::{
    ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmsg, setsockopt,
};

use super::course::{Course, Pace, Plan, Report};
use super::names::Choice;
use super::wire::DATAGRAM_MAX;
use super::{Failure, Protocol, check};

/// Datagrams received with one system call.
const BATCH: usize = 32;
/// Datagrams sent with one system call: what the kernel cuts at most.
const BURST: usize = 64;
/// After this long a request or its answer is lost; the reference client's first repetition comes at 500 ms.
const LOST_AFTER: Duration = Duration::from_millis(500);
const RECEIVE_BUFFER: usize = 1 << 20;
/// Between two passes over all sockets of a wide window.
const PAUSE: Duration = Duration::from_micros(30);
/// A narrower window is looked at without pauses: they would be most of its latency.
const WIDE: usize = 128;
/// With nothing to do for this long, sleep instead.
const SPIN_MAX: Duration = Duration::from_millis(2);
/// Passes over all sockets between two looks for lost requests.
const PASSES_PER_CHECK: u32 = 1_024;

/// One place in the window.
struct Slot {
    id: u32,
    miss: bool,
    sent: Instant,
    waiting: bool,
}

/// A connected socket with its share of the window.
struct Lane {
    socket: UdpSocket,
    slots: Vec<Slot>,
    /// Slots without a request under way.
    free: Vec<u32>,
}

impl Lane {
    fn connect(server: SocketAddr, share: usize) -> Result<Self, Failure> {
        let any: SocketAddr = match server {
            SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
            SocketAddr::V6(_) => ([0_u16; 8], 0).into(),
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(server)?;
        socket.set_nonblocking(true)?;
        setsockopt(&socket, RcvBuf, &RECEIVE_BUFFER)?;
        let now = Instant::now();
        let slot = |place| Slot {
            id: place,
            miss: false,
            sent: now,
            waiting: false,
        };
        Ok(Self {
            socket,
            slots: (0..share as u32).map(slot).collect(),
            free: (0..share as u32).collect(),
        })
    }
}

/// Requests made in advance, those of a length together.
#[derive(Default)]
struct Stock {
    /// By length: octets of the requests back to back, and which of them ask for what is missing.
    shelves: Vec<(Vec<u8>, Vec<bool>)>,
    lengths: Vec<usize>,
    made: Vec<u8>,
}

impl Stock {
    /// The length of which at least `count` are there.
    fn fill<P: Protocol>(
        &mut self,
        protocol: &P,
        choice: &mut Choice<'_>,
        count: usize,
    ) -> Result<usize, Failure> {
        loop {
            let most = self
                .lengths
                .iter()
                .copied()
                .max_by_key(|&length| self.shelves[length].1.len());
            if let Some(length) = most.filter(|&length| self.shelves[length].1.len() >= count) {
                return Ok(length);
            }
            self.made.clear();
            let miss = choice.request(protocol, 0, &mut self.made);
            let length = self.made.len();
            if length > DATAGRAM_MAX {
                return Err(Failure::new(
                    "a name is too long for a request of one datagram",
                ));
            }
            if self.shelves.len() <= length {
                self.shelves.resize_with(length + 1, Default::default);
            }
            let (octets, misses) = &mut self.shelves[length];
            if octets.capacity() == 0 {
                self.lengths.push(length);
            }
            octets.extend_from_slice(&self.made);
            misses.push(miss);
        }
    }
}

struct Loop<'a, P> {
    protocol: &'a P,
    choice: Choice<'a>,
    course: Course,
    pace: Option<Pace>,
    stock: Stock,
    /// The low bits of an id are a slot, the others say which round of it.
    slot_mask: u32,
    answers: Vec<[u8; DATAGRAM_MAX]>,
    receive: MultiHeaders<SockaddrIn>,
}

/// Runs the plan and returns its report.
///
/// # Errors
/// A wrong answer, nobody there, or a system call that fails.
pub fn run<P: Protocol>(
    protocol: &P,
    server: SocketAddr,
    choice: Choice<'_>,
    plan: &Plan,
) -> Result<Report, Failure> {
    let sockets = plan.sockets.clamp(1, plan.window.max(1));
    let share = plan.window.div_ceil(sockets);
    let slot_mask = share.next_power_of_two() as u32 - 1;
    if slot_mask.leading_zeros() < 32 - P::ID_BITS + 4 {
        return Err(Failure::new("the window is too wide for so few sockets"));
    }
    let lanes: Result<Vec<_>, _> = (0..sockets).map(|_| Lane::connect(server, share)).collect();
    let state = Loop {
        protocol,
        choice,
        course: Course::new(plan)?,
        pace: Pace::new(plan),
        stock: Stock::default(),
        slot_mask,
        answers: vec![[0; DATAGRAM_MAX]; BATCH],
        receive: MultiHeaders::preallocate(BATCH, None),
    };
    let pause = (plan.window >= WIDE && plan.rate.is_none()).then_some(PAUSE);
    state.drive(&mut lanes?, pause)?.report()
}

impl<P: Protocol> Loop<'_, P> {
    fn drive(mut self, lanes: &mut [Lane], pause: Option<Duration>) -> Result<Course, Failure> {
        let (mut passes, mut turn) = (0_u32, 0);
        let mut quiet_since = None;
        loop {
            let mut busy = false;
            for place in 0..lanes.len() {
                let lane = &mut lanes[(turn + place) % lanes.len()];
                busy |= self.fill(lane)?;
                busy |= self.drain(lane)?;
            }
            turn += 1;
            let now = Instant::now();
            if self.course.over(now)? {
                return Ok(self.course);
            }
            passes += 1;
            if busy {
                quiet_since = None;
            } else if now - *quiet_since.get_or_insert(now) > SPIN_MAX {
                std::thread::sleep(PAUSE);
            }
            // A pause lets answers gather. Sleeping at once would make the server pay for each awakening.
            while pause.is_some_and(|pause| now.elapsed() < pause) {
                std::hint::spin_loop();
            }
            if !busy || passes.is_multiple_of(PASSES_PER_CHECK) {
                self.give_up_lost(lanes, now);
            }
        }
    }

    /// Sends requests: for each free slot, or as many as are due.
    fn fill(&mut self, lane: &mut Lane) -> Result<bool, Failure> {
        let mut any = false;
        loop {
            let now = Instant::now();
            let most = match &self.pace {
                None => BURST,
                // In turn over the sockets.
                Some(pace) => pace.due(now).min(1),
            };
            let count = lane.free.len().min(most);
            if count == 0 || !self.burst(lane, count, now)? {
                return Ok(any);
            }
            any = true;
            if self.pace.is_some() {
                return Ok(true);
            }
        }
    }

    /// Sends `count` requests of one length; false when the socket is full.
    fn burst(&mut self, lane: &mut Lane, count: usize, now: Instant) -> Result<bool, Failure> {
        let length = self.stock.fill(self.protocol, &mut self.choice, count)?;
        let (octets, misses) = &mut self.stock.shelves[length];
        let first = misses.len() - count;
        let requests = &mut octets[first * length..];
        let begin = lane.free.len() - count;
        for ((request, &miss), &slot) in requests
            .chunks_exact_mut(length)
            .zip(&misses[first..])
            .zip(&lane.free[begin..])
        {
            let place = &mut lane.slots[slot as usize];
            // The upper bits tell a late answer of an earlier round from that of this one.
            place.id = place.id.wrapping_add(self.slot_mask + 1) & (u32::MAX >> (32 - P::ID_BITS));
            place.miss = miss;
            self.protocol.set_id(place.id, request);
        }
        let segment = length as u16;
        let cut = [ControlMessage::UdpGsoSegments(&segment)];
        let control = if count > 1 { &cut[..] } else { &[] };
        let slices = [IoSlice::new(requests)];
        let fd = lane.socket.as_raw_fd();
        match sendmsg::<()>(fd, &slices, control, MsgFlags::empty(), None) {
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::ENOBUFS) => return Ok(false),
            Err(Errno::ECONNREFUSED) => return Err(Failure::new("nobody listens there")),
            Err(error) => return Err(error.into()),
        }
        for slot in lane.free.drain(begin..) {
            let place = &mut lane.slots[slot as usize];
            place.waiting = true;
            place.sent = self.pace.as_mut().map_or(now, Pace::advance);
        }
        octets.truncate(first * length);
        misses.truncate(first);
        Ok(true)
    }

    /// Takes what has arrived and frees its slots.
    fn drain(&mut self, lane: &mut Lane) -> Result<bool, Failure> {
        let mut any = false;
        loop {
            let mut lengths = [0; BATCH];
            let count = receive(lane, &mut self.answers, &mut self.receive, &mut lengths)?;
            let now = Instant::now();
            for (answer, &length) in self.answers.iter().zip(&lengths).take(count) {
                let seen = self.protocol.answer(&answer[..length])?;
                let id = seen
                    .id
                    .ok_or_else(|| Failure::new("an answer without an id"))?;
                let slot = id & self.slot_mask;
                let strange = || Failure::new("an answer to no request of this socket");
                let place = lane.slots.get_mut(slot as usize).ok_or_else(strange)?;
                if place.id != id || !place.waiting {
                    continue; // late: counted as lost before
                }
                check(seen, place.miss)?;
                place.waiting = false;
                self.course.answered(
                    length,
                    place.miss,
                    now.saturating_duration_since(place.sent),
                );
                lane.free.push(slot);
            }
            any |= count > 0;
            if count < BATCH {
                return Ok(any);
            }
        }
    }

    fn give_up_lost(&mut self, lanes: &mut [Lane], now: Instant) {
        for lane in lanes {
            for (slot, place) in lane.slots.iter_mut().enumerate() {
                if place.waiting && now.saturating_duration_since(place.sent) > LOST_AFTER {
                    self.course.lost += 1;
                    place.waiting = false;
                    lane.free.push(slot as u32);
                }
            }
        }
    }
}

fn receive(
    lane: &Lane,
    buffers: &mut [[u8; DATAGRAM_MAX]],
    headers: &mut MultiHeaders<SockaddrIn>,
    lengths: &mut [usize; BATCH],
) -> Result<usize, Failure> {
    let mut left = buffers.iter_mut();
    let mut slices: [[IoSliceMut<'_>; 1]; BATCH] = std::array::from_fn(|_| {
        [IoSliceMut::new(
            left.next().map_or(&mut [], |buffer| &mut buffer[..]),
        )]
    });
    let fd = lane.socket.as_raw_fd();
    match recvmmsg(fd, headers, &mut slices, MsgFlags::MSG_DONTWAIT, None) {
        Ok(received) => {
            let mut count = 0;
            for (length, message) in lengths.iter_mut().zip(received) {
                *length = message.bytes;
                count += 1;
            }
            Ok(count)
        }
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(0),
        Err(Errno::ECONNREFUSED) => Err(Failure::new("nobody listens there (any more)")),
        Err(error) => Err(error.into()),
    }
}
