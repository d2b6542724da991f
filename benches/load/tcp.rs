//! Closed loop over TCP: a few connections, each with many requests in flight, written and read in bursts.
//! Answers must come in the order of the requests.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::measure::Course;
use crate::records::{Choice, Records};
use crate::{Failure, Options, wire};

const BUFFER: usize = 256 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection without any answer for this long is a failure, not a slow server.
const STALLED_AFTER: Duration = Duration::from_secs(10);
/// With nothing to do for this long, sleep for a moment between two looks.
const SPIN_MAX: Duration = Duration::from_millis(2);
const PAUSE: Duration = Duration::from_micros(50);

struct Waiting {
    request_id: u32,
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

/// Runs the loop and returns its report.
pub(crate) fn run(options: &Options) -> Result<Value, Failure> {
    let server = options.server()?;
    let records = Records::new(&options.prefix, options.records()?);
    let mut connections = Vec::new();
    for _ in 0..options.connections {
        connections.push(Connection::open(server)?);
    }
    let mut choice = Choice::new(&records, options.miss_percent, options.seed);
    let mut course = Course::new(options);
    let mut quiet_since = None;
    loop {
        let now = Instant::now();
        if course.over(now)? {
            break;
        }
        let mut busy = false;
        for connection in &mut connections {
            connection.fill(options.in_flight, &mut choice)?;
            busy |= connection.drain(&mut course, options.echo)?;
        }
        if busy {
            quiet_since = None;
        } else if now - *quiet_since.get_or_insert(now) > SPIN_MAX {
            std::thread::sleep(PAUSE);
        }
    }
    let mut report = course.report()?;
    report["transport"] = json!("tcp");
    report["connections"] = json!(options.connections);
    report["in_flight"] = json!(options.in_flight);
    report["records"] = json!(records.count());
    report["seed"] = json!(options.seed);
    Ok(report)
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

    /// Keeps `in_flight` requests under way.
    fn fill(&mut self, in_flight: usize, choice: &mut Choice<'_>) -> Result<(), Failure> {
        let now = Instant::now();
        while self.waiting.len() < in_flight {
            let request_id = self.next_id;
            self.next_id = self.next_id.wrapping_add(1);
            let miss = choice.request(request_id, &mut self.unsent);
            self.waiting.push_back(Waiting {
                request_id,
                miss,
                sent: now,
            });
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
    fn drain(&mut self, course: &mut Course, echo: bool) -> Result<bool, Failure> {
        match self.stream.read(&mut self.input[self.filled..]) {
            Ok(0) => return Err("the server closed the connection".into()),
            Ok(read) => self.filled += read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if self.heard.elapsed() > STALLED_AFTER {
                    return Err("a connection got no answer for 10 s".into());
                }
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        }
        let now = Instant::now();
        self.heard = now;
        let mut at = 0;
        while let Some(size) = wire::frame_size(&self.input[at..self.filled]) {
            if size > self.input.len() {
                return Err(format!("an answer of {size} octets").into());
            }
            if self.filled - at < size {
                break;
            }
            let seen = wire::answer(&self.input[at..at + size])?;
            let asked = self.waiting.pop_front().ok_or("an answer to no request")?;
            if seen.request_id != asked.request_id {
                let (seen, asked) = (seen.request_id, asked.request_id);
                return Err(format!("answer to {seen} where {asked} is next").into());
            }
            let wanted = if asked.miss {
                wire::HANDLE_NOT_FOUND
            } else {
                wire::SUCCESS
            };
            if seen.response_code != wanted && !echo {
                return Err(format!("code {} where {wanted} is right", seen.response_code).into());
            }
            course.answers += 1;
            course.answer_octets += size as u64;
            course.not_found += u64::from(asked.miss);
            course.latencies.add(now - asked.sent);
            at += size;
        }
        self.input.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(at > 0)
    }
}
