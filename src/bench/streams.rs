//! Look-ups over connections that stay: each with many requests in flight, written and read in bursts. Answers must come
//! in the order of the requests.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::course::{Course, Pace, Plan, Report};
use super::names::Choice;
use super::{Failure, Protocol, check};

const BUFFER: usize = 256 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection without any answer for this long is a failure, not a slow server.
const STALLED_AFTER: Duration = Duration::from_secs(10);
/// With nothing to do for this long, sleep for a moment between two looks.
const SPIN_MAX: Duration = Duration::from_millis(2);
const PAUSE: Duration = Duration::from_micros(50);

struct Waiting {
    id: u32,
    miss: bool,
    sent: Instant,
}

struct Connection {
    stream: TcpStream,
    waiting: VecDeque<Waiting>,
    next_id: u32,
    /// Requests made but not yet taken by the socket.
    unsent: Vec<u8>,
    input: Vec<u8>,
    filled: usize,
    heard: Instant,
}

/// Runs the plan and returns its report.
///
/// # Errors
/// A wrong answer, a connection that ends or stalls, or a system call that fails.
pub fn run<P: Protocol>(
    protocol: &P,
    server: SocketAddr,
    mut choice: Choice<'_>,
    plan: &Plan,
) -> Result<Report, Failure> {
    let count = plan.sockets.clamp(1, plan.window.max(1));
    let in_flight = plan.window.div_ceil(count);
    let connections: Result<Vec<_>, _> = (0..count).map(|_| Connection::open(server)).collect();
    let mut connections = connections?;
    let (mut course, mut pace) = (Course::new(plan)?, Pace::new(plan));
    let mut quiet_since = None;
    let mut turn = 0;
    loop {
        let now = Instant::now();
        if course.over(now)? {
            return course.report();
        }
        let mut busy = false;
        for place in 0..count {
            let connection = &mut connections[(turn + place) % count];
            connection.fill(protocol, in_flight, &mut choice, pace.as_mut())?;
            busy |= connection.drain(protocol, &mut course)?;
        }
        turn += 1;
        if busy {
            quiet_since = None;
        } else if now - *quiet_since.get_or_insert(now) > SPIN_MAX {
            std::thread::sleep(PAUSE);
        }
    }
}

impl Connection {
    fn open(server: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect_timeout(&server, CONNECT_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            waiting: VecDeque::new(),
            next_id: 1,
            unsent: Vec::new(),
            input: vec![0; BUFFER],
            filled: 0,
            heard: Instant::now(),
        })
    }

    /// Keeps `in_flight` requests under way, or those that are due.
    fn fill<P: Protocol>(
        &mut self,
        protocol: &P,
        in_flight: usize,
        choice: &mut Choice<'_>,
        pace: Option<&mut Pace>,
    ) -> Result<(), Failure> {
        let now = Instant::now();
        let room = in_flight.saturating_sub(self.waiting.len());
        let mut pace = pace;
        // An open loop sends in turn over the connections.
        let count = pace
            .as_ref()
            .map_or(room, |pace| room.min(pace.due(now)).min(1));
        for _ in 0..count {
            let id = self.next_id & (u32::MAX >> (32 - P::ID_BITS));
            self.next_id = self.next_id.wrapping_add(1);
            let miss = choice.request(protocol, id, &mut self.unsent);
            let sent = pace.as_mut().map_or(now, |pace| pace.advance());
            self.waiting.push_back(Waiting { id, miss, sent });
        }
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(written) => drop(self.unsent.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Reads what is there; true when at least one answer was complete.
    fn drain<P: Protocol>(&mut self, protocol: &P, course: &mut Course) -> Result<bool, Failure> {
        match self.stream.read(&mut self.input[self.filled..]) {
            Ok(0) => return Err(Failure::new("the server closed the connection")),
            Ok(read) => self.filled += read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let stalled = !self.waiting.is_empty() && self.heard.elapsed() > STALLED_AFTER;
                if self.waiting.is_empty() {
                    self.heard = Instant::now();
                }
                return match stalled {
                    true => Err(Failure::new("a connection got no answer for 10 s")),
                    false => Ok(false),
                };
            }
            Err(error) => return Err(error.into()),
        }
        let now = Instant::now();
        self.heard = now;
        let mut at = 0;
        while let Some(size) = protocol.frame(&self.input[at..self.filled]) {
            if size > self.input.len() {
                return Err(Failure::new(format_args!("an answer of {size} octets")));
            }
            if self.filled - at < size {
                break;
            }
            let seen = protocol.answer(&self.input[at..at + size])?;
            let unasked = || Failure::new("an answer to no request");
            let asked = self.waiting.pop_front().ok_or_else(unasked)?;
            if seen.id.is_some_and(|id| id != asked.id) {
                return Err(Failure::new(
                    "answers come in another order than their requests",
                ));
            }
            check(seen, asked.miss)?;
            course.answered(size, asked.miss, now.saturating_duration_since(asked.sent));
            at += size;
        }
        self.input.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(at > 0)
    }
}
