//! Look-ups over TCP with a connection for each request, as many clients do: connect, ask, read, close.
//!
//! As many threads as the window is wide. On loopback they come from many addresses of 127.0.0.0/8, since a closed
//! connection keeps its port for a minute.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol as Transport, Socket, Type};

use super::course::{Course, Plan, Report};
use super::names::Choice;
use super::{Failure, Protocol, check};

/// How often the end of the run is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(5);
const TIMEOUT: Duration = Duration::from_secs(5);
/// Source addresses of each thread, on loopback.
const SOURCES: u32 = 64;
const ANSWER_MAX: usize = 64 << 10;

/// Runs the plan and returns its report; `choice` makes the choice of each thread out of its number.
///
/// # Errors
/// A wrong answer, a connection that is refused or breaks, an open loop asked for.
pub fn run<'n, P: Protocol>(
    protocol: &'n P,
    server: SocketAddr,
    choice: impl Fn(u64) -> Result<Choice<'n>, Failure>,
    plan: &Plan,
) -> Result<Report, Failure> {
    if plan.rate.is_some() {
        return Err(Failure::new(
            "connections for each request know no fixed rate: leave out --rate",
        ));
    }
    let visitor = |number: u32| {
        Ok(Visitor {
            protocol,
            server,
            choice: choice(u64::from(number))?,
            course: Course::new(plan)?,
            number,
            turn: 0,
        })
    };
    let visitors: Result<Vec<_>, Failure> = (0..plan.window.max(1) as u32).map(visitor).collect();
    let signals = Signals::default();
    let mut all = Course::new(plan)?;
    std::thread::scope(|scope| {
        let signals = &signals;
        let work = |mut visitor: Visitor<'n, P>| {
            scope.spawn(move || {
                let result = visitor.work(signals);
                signals.stop.fetch_or(result.is_err(), Relaxed);
                result.map(|()| visitor.course)
            })
        };
        let threads: Vec<_> = visitors?.into_iter().map(work).collect();
        let watched = signals.watch(&mut all, plan.count);
        signals.stop.store(true, Relaxed);
        let panicked = |_| Failure::new("a thread panicked");
        for thread in threads {
            all.merge(&thread.join().map_err(panicked)??)?;
        }
        watched
    })?;
    all.report()
}

/// What the threads tell each other.
#[derive(Default)]
struct Signals {
    measuring: AtomicBool,
    stop: AtomicBool,
    answered: AtomicU64,
}

impl Signals {
    /// Waits for the end of the run.
    fn watch(&self, course: &mut Course, count: u64) -> Result<(), Failure> {
        while !self.stop.load(Relaxed)
            && self.answered.load(Relaxed) < count
            && !course.over(Instant::now())?
        {
            self.measuring.store(course.is_measuring(), Relaxed);
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

struct Visitor<'a, P> {
    protocol: &'a P,
    server: SocketAddr,
    choice: Choice<'a>,
    course: Course,
    number: u32,
    turn: u32,
}

impl<P: Protocol> Visitor<'_, P> {
    fn work(&mut self, signals: &Signals) -> Result<(), Failure> {
        let (mut request, mut answer) = (Vec::new(), vec![0; ANSWER_MAX]);
        while !signals.stop.load(Relaxed) {
            request.clear();
            let miss = self.choice.request(self.protocol, self.turn, &mut request);
            let sent = Instant::now();
            let size = self.visit(&request, &mut answer)?;
            check(self.protocol.answer(&answer[..size])?, miss)?;
            if signals.measuring.load(Relaxed) {
                self.course.answered(size, miss, sent.elapsed());
                signals.answered.fetch_add(1, Relaxed);
            }
        }
        Ok(())
    }

    /// Asks once; the octets of the answer.
    fn visit(&mut self, request: &[u8], answer: &mut [u8]) -> Result<usize, Failure> {
        let socket = Socket::new(
            Domain::for_address(self.server),
            Type::STREAM,
            Some(Transport::TCP),
        )?;
        self.turn = self.turn.wrapping_add(1);
        if let SocketAddr::V4(server) = self.server
            && server.ip().is_loopback()
        {
            let source = 2 + self.number * SOURCES + self.turn % SOURCES;
            let source = Ipv4Addr::from(0x7f00_0000 | (source & 0x00ff_ffff));
            // The port is chosen at the connection, where the whole pair of addresses counts.
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::from((source, 0)).into())?;
        }
        socket.connect_timeout(&self.server.into(), TIMEOUT)?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.write_all(request)?;
        let mut filled = 0;
        loop {
            match stream.read(&mut answer[filled..])? {
                0 => {
                    return Err(Failure::new(
                        "the server closed the connection without an answer",
                    ));
                }
                read => filled += read,
            }
            if self
                .protocol
                .frame(&answer[..filled])
                .is_some_and(|size| size <= filled)
            {
                return Ok(filled);
            }
        }
    }
}
