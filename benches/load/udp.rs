//! Closed loop over UDP: a window of requests spread over many connected sockets; each answer is followed by
//! the next request on its socket.

use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::sockopt::RcvBuf;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, setsockopt};
use serde_json::{Value, json};

use crate::measure::Course;
use crate::records::{Choice, Records};
use crate::wire::{self, DATAGRAM_MAX};
use crate::{Failure, Options};

/// Datagrams a system call.
const BATCH: usize = 32;
/// After this long a request or its answer is lost; the reference client's first repetition comes at 500 ms.
const LOST_AFTER: Duration = Duration::from_millis(500);
const RECEIVE_BUFFER: usize = 1 << 20;
/// Between two passes over all sockets.
const PAUSE: Duration = Duration::from_micros(30);
/// With nothing to do for this long, sleep instead.
const SPIN_MAX: Duration = Duration::from_millis(2);
/// Passes over all sockets between two looks for lost requests.
const PASSES_PER_CHECK: u32 = 1_024;

/// One place in the window.
struct Slot {
    request_id: u32,
    miss: bool,
    sent: Instant,
}

/// A connected socket with its share of the window.
struct Lane {
    socket: UdpSocket,
    slots: Vec<Slot>,
    /// Slots whose request is still to be sent.
    free: Vec<usize>,
}

struct Loop<'a> {
    choice: Choice<'a>,
    course: Course,
    echo: bool,
    requests: Vec<Vec<u8>>,
    answers: Vec<[u8; DATAGRAM_MAX]>,
    receive: MultiHeaders<SockaddrIn>,
    send: MultiHeaders<SockaddrIn>,
}

/// Runs the loop and returns its report.
pub(crate) fn run(options: &Options) -> Result<Value, Failure> {
    let server = options.server()?;
    let records = Records::new(&options.prefix, options.records()?);
    let share = options.window.div_ceil(options.sockets);
    let mut lanes = Vec::new();
    for _ in 0..options.sockets {
        lanes.push(Lane::connect(server, share)?);
    }
    let mut state = Loop {
        choice: Choice::new(&records, options.miss_percent, options.seed),
        course: Course::new(options),
        echo: options.echo,
        requests: vec![Vec::new(); BATCH],
        answers: vec![[0; DATAGRAM_MAX]; BATCH],
        receive: MultiHeaders::preallocate(BATCH, None),
        send: MultiHeaders::preallocate(BATCH, None),
    };
    state.drive(&mut lanes)?;
    let mut report = state.course.report()?;
    report["transport"] = json!("udp");
    report["sockets"] = json!(options.sockets);
    report["window"] = json!(share * options.sockets);
    report["records"] = json!(records.count());
    report["seed"] = json!(options.seed);
    Ok(report)
}

impl Lane {
    fn connect(server: SocketAddr, share: usize) -> Result<Self, Failure> {
        if share > 1 << 16 {
            return Err("--window is too large for so few sockets".into());
        }
        let local: IpAddr = server.ip();
        let socket = UdpSocket::bind((local, 0))?;
        socket.connect(server)?;
        socket.set_nonblocking(true)?;
        setsockopt(&socket, RcvBuf, &RECEIVE_BUFFER)?;
        let now = Instant::now();
        let slots = (0..share)
            .map(|slot| Slot {
                request_id: slot as u32,
                miss: false,
                sent: now,
            })
            .collect();
        Ok(Self {
            socket,
            slots,
            free: (0..share).collect(),
        })
    }
}

impl Loop<'_> {
    fn drive(&mut self, lanes: &mut [Lane]) -> Result<(), Failure> {
        let mut passes = 0_u32;
        let mut quiet_since = None;
        loop {
            let mut busy = false;
            for lane in &mut *lanes {
                busy |= self.fill(lane)?;
                busy |= self.drain(lane)?;
            }
            let now = Instant::now();
            if self.course.over(now)? {
                return Ok(());
            }
            passes += 1;
            if busy {
                quiet_since = None;
            } else if now - *quiet_since.get_or_insert(now) > SPIN_MAX {
                std::thread::sleep(PAUSE);
            }
            // A pause lets answers gather. Sleeping at once would make the server pay for each awakening.
            while now.elapsed() < PAUSE {
                std::hint::spin_loop();
            }
            if !busy || passes.is_multiple_of(PASSES_PER_CHECK) {
                self.give_up_lost(lanes, now);
            }
        }
    }

    /// Sends a request for each free slot.
    fn fill(&mut self, lane: &mut Lane) -> Result<bool, Failure> {
        let mut any = false;
        while !lane.free.is_empty() {
            let count = lane.free.len().min(BATCH);
            let batch = lane.free.len() - count;
            let now = Instant::now();
            for (request, &slot) in self.requests.iter_mut().zip(&lane.free[batch..]) {
                let place = &mut lane.slots[slot];
                // The upper half tells a late answer of an earlier round from that of this one.
                place.request_id = place.request_id.wrapping_add(1 << 16);
                place.sent = now;
                request.clear();
                place.miss = self.choice.request(place.request_id, request);
            }
            let slices: [[IoSlice<'_>; 1]; BATCH] =
                std::array::from_fn(|i| [IoSlice::new(&self.requests[i])]);
            let addresses = [None::<SockaddrIn>; BATCH];
            let fd = lane.socket.as_raw_fd();
            let flags = MsgFlags::empty();
            let sent = match sendmmsg(fd, &mut self.send, &slices[..count], addresses, [], flags) {
                Ok(results) => results.count(),
                Err(Errno::EAGAIN) => return Ok(any),
                Err(Errno::ECONNREFUSED) => return Err("nobody listens there".into()),
                Err(error) => return Err(error.into()),
            };
            // Slots were taken from the end of the list, in its order: the first of them were sent.
            lane.free.drain(batch..batch + sent);
            any = true;
        }
        Ok(any)
    }

    /// Takes what has arrived and frees its slots.
    fn drain(&mut self, lane: &mut Lane) -> Result<bool, Failure> {
        let mut any = false;
        loop {
            let mut lengths = [0; BATCH];
            let count = receive(lane, &mut self.answers, &mut self.receive, &mut lengths)?;
            let now = Instant::now();
            for (answer, &length) in self.answers.iter().zip(&lengths).take(count) {
                let answer = &answer[..length];
                let seen = wire::answer(answer)?;
                let slot = (seen.request_id & 0xffff) as usize;
                let place = lane
                    .slots
                    .get(slot)
                    .ok_or("an answer to no request of this socket")?;
                if place.request_id != seen.request_id {
                    continue; // late: counted as lost before
                }
                let wanted = if place.miss {
                    wire::HANDLE_NOT_FOUND
                } else {
                    wire::SUCCESS
                };
                if seen.response_code != wanted && !self.echo {
                    return Err(
                        format!("code {} where {wanted} is right", seen.response_code).into(),
                    );
                }
                self.course.answers += 1;
                self.course.answer_octets += length as u64;
                self.course.not_found += u64::from(place.miss);
                self.course.latencies.add(now - place.sent);
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
            for (slot, place) in lane.slots.iter().enumerate() {
                if now.saturating_duration_since(place.sent) > LOST_AFTER
                    && !lane.free.contains(&slot)
                {
                    self.course.lost += 1;
                    lane.free.push(slot);
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
        Err(Errno::ECONNREFUSED) => Err("nobody listens there (any more)".into()),
        Err(error) => Err(error.into()),
    }
}
