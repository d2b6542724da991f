//! Time to the first answer: asks for one record until the server, which is just starting, has it.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::names::Names;
use super::wire::{DATAGRAM_MAX, TOO_BUSY};
use super::{Failure, Outcome, Protocol, check};

const REPEAT_AFTER: Duration = Duration::from_millis(2);

/// When the first answer came.
#[derive(Clone, Copy, Debug)]
pub struct First {
    /// How long that took.
    pub waited: Duration,
    /// How often it was asked.
    pub asked: u32,
}

/// Asks for the first name over UDP until there is a successful answer, for `time` at most.
///
/// # Errors
/// Another answer than that the server is still loading, or none within the time.
pub fn run<P: Protocol>(
    protocol: &P,
    server: SocketAddr,
    names: &Names,
    time: Duration,
) -> Result<First, Failure> {
    let any = if server.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(REPEAT_AFTER))?;
    let (mut name, mut request, mut answer) = (Vec::new(), Vec::new(), [0; DATAGRAM_MAX]);
    names.append(0, &mut name);
    let begun = Instant::now();
    let mut asked = 0;
    while begun.elapsed() < time {
        asked += 1;
        request.clear();
        protocol.request(asked, &name, &mut request);
        match socket.send(&request).and_then(|_| socket.recv(&mut answer)) {
            Ok(length) => {
                let seen = protocol.answer(&answer[..length])?;
                if seen.outcome != Outcome::Other(TOO_BUSY) {
                    let waited = begun.elapsed();
                    return check(seen, false).map(|()| First { waited, asked });
                }
                std::thread::sleep(REPEAT_AFTER);
            }
            // Not listening yet, or not answering yet.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                std::thread::sleep(REPEAT_AFTER)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Failure::new(format_args!(
        "no answer within {} s",
        time.as_secs_f64()
    )))
}
