//! Time to the first answer: asks for one record until the node that is just starting knows it.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::records::Records;
use crate::wire::{self, DATAGRAM_MAX};
use crate::{Failure, Options};

const REPEAT_AFTER: Duration = Duration::from_millis(2);

/// Asks until there is a successful answer, at most for the time the options give.
pub(crate) fn run(options: &Options) -> Result<Value, Failure> {
    let server = options.server()?;
    let records = Records::new(&options.prefix, options.records()?);
    let socket = UdpSocket::bind((server.ip(), 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(REPEAT_AFTER))?;
    let begun = Instant::now();
    let number = options.seed % records.count();
    let (mut request, mut answer) = (Vec::new(), [0; DATAGRAM_MAX]);
    let mut asked = 0_u32;
    while begun.elapsed() < options.time {
        asked += 1;
        request.clear();
        wire::request(&mut request, asked, |out| records.handle(number, out));
        match socket.send(&request).and_then(|_| socket.recv(&mut answer)) {
            Ok(length) => match wire::answer(&answer[..length])?.response_code {
                wire::SUCCESS => {
                    let seconds = begun.elapsed().as_micros() as f64 / 1e6;
                    return Ok(json!({ "first_answer_s": seconds, "asked": asked }));
                }
                // Still loading.
                wire::TOO_BUSY => std::thread::sleep(REPEAT_AFTER),
                code => return Err(format!("code {code} for record {number}").into()),
            },
            // Not listening yet, or not answering yet.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                std::thread::sleep(REPEAT_AFTER);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(format!("no answer within {:?}", options.time).into())
}
