//! A batch over the Handle protocol: one connection, many requests in flight. Answers come in the order of the requests.

use std::io::{self, BufWriter, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use bytes::Bytes;
use jiexi_proto::code::{OpFlags, ResponseCode, Version};
use jiexi_proto::framing::{Framed, StreamFramer};
use jiexi_proto::limits;
use jiexi_proto::message::values::HandleValues;
use jiexi_proto::message::{Body, Message};

use super::sink::Sink;
use super::{AskError, CONNECT, Plan};
use crate::batch::answer::{Code, Summary, Tally, Writer};
use crate::batch::charset::{Charset, Decode};
use crate::batch::input::{Asked, Fault, Input};
use crate::client::{Operation, Question};

/// Requests in flight.
const WINDOW: usize = 1_024;
/// Octets of the file that are read, of requests that are sent, and of answers that are read and written at once.
const PIECE: usize = 64 << 10;

/// One line under way.
struct Waiting {
    line: u64,
    handle: String,
    fault: Option<Fault>,
}

/// Asks; `watch` hears of progress. What was counted.
///
/// # Errors
/// See [`AskError`].
pub fn ask(
    plan: &Plan,
    server: SocketAddr,
    now: u32,
    sink: &mut Sink,
    watch: &mut dyn FnMut(&Sink),
) -> Result<Tally, AskError> {
    let failed = |error: io::Error| AskError::Connection(error.to_string());
    let stream = TcpStream::connect_timeout(&server, CONNECT.min(plan.patience)).map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    stream
        .set_read_timeout(Some(plan.patience))
        .map_err(failed)?;
    stream
        .set_write_timeout(Some(plan.patience))
        .map_err(failed)?;
    let sending = stream.try_clone().map_err(failed)?;
    let (send, waiting) = sync_channel(WINDOW);
    let asked = plan.clone();
    let requests = std::thread::spawn(move || requests(&asked, now, sending, &send));
    let answers = answers(plan, &stream, &waiting, sink, watch);
    // Whoever sends must not wait for an answer that nobody reads.
    drop(waiting);
    if answers.is_err() {
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
    // After a failure it may wait for its input, for ever.
    let ended = answers.is_ok() || requests.is_finished();
    match ended.then(|| requests.join()) {
        Some(Ok(Err(error @ AskError::Input(_)))) => Err(error),
        Some(Ok(Err(error))) if answers.is_ok() => Err(error),
        _ => answers,
    }
}

/// Reads the input and sends a request for each of its lines.
fn requests(
    plan: &Plan,
    now: u32,
    stream: TcpStream,
    waiting: &SyncSender<Waiting>,
) -> Result<(), AskError> {
    let failed = |error: io::Error| AskError::Connection(error.to_string());
    let mut file = plan.open().map_err(AskError::Input)?;
    let unknown = || AskError::Refused(format!("the charset {:?} is not known", plan.charset));
    let mut decode = Decode::new(Charset::named(&plan.charset).ok_or_else(unknown)?);
    let (mut input, mut asked) = (Input::new(plan.form), Asked::default());
    let mut out = BufWriter::with_capacity(PIECE, stream);
    let (mut piece, mut id, mut last) = (vec![0; PIECE], 0_u32, false);
    while !last {
        let count = file.read(&mut piece).map_err(AskError::Input)?;
        last = count == 0;
        decode.decode(&piece[..count], last, &mut |text| {
            input.push(text, &mut asked)
        });
        let whole = match last {
            true => input.finish(&mut asked),
            false => Ok(()),
        };
        for item in asked.items().iter().filter(|item| item.line > plan.after) {
            let handle = asked.handle(item);
            if item.fault.is_none() {
                id = id.wrapping_add(1) & 0x7FFF_FFFF;
                out.write_all(&request(plan, handle, id, now))
                    .map_err(failed)?;
            }
            let one = Waiting {
                line: item.line,
                handle: handle.to_owned(),
                fault: item.fault,
            };
            // Before one waits for room, what was asked must be on its way.
            match waiting.try_send(one) {
                Ok(()) => {}
                Err(TrySendError::Disconnected(_)) => return Ok(()),
                Err(TrySendError::Full(one)) => {
                    out.flush().map_err(failed)?;
                    if waiting.send(one).is_err() {
                        return Ok(());
                    }
                }
            }
        }
        asked.clear();
        whole.map_err(|reason| AskError::Input(io::Error::other(reason)))?;
        out.flush().map_err(failed)?;
    }
    Ok(())
}

fn request(plan: &Plan, handle: &str, id: u32, now: u32) -> Vec<u8> {
    let question = Question {
        handle: Bytes::copy_from_slice(handle.as_bytes()),
        types: plan.types.iter().cloned().map(Bytes::from).collect(),
        indexes: plan.indexes.clone(),
    };
    let mut operation = Operation::resolution(&question, false);
    // A batch asks nobody elsewhere: that takes a right, which nobody has here.
    operation.flags = operation.flags.without(OpFlags::RECU);
    let message = operation.message(Version::CURRENT, id, now);
    let mut out = Vec::new();
    message.encode(&mut out);
    out
}

/// Reads answers in the order of what waits, and writes them.
fn answers(
    plan: &Plan,
    mut stream: &TcpStream,
    waiting: &Receiver<Waiting>,
    sink: &mut Sink,
    watch: &mut dyn FnMut(&Sink),
) -> Result<Tally, AskError> {
    let failed = |error: io::Error| AskError::Connection(error.to_string());
    let mut writer = Writer::new(plan.output, plan.raw);
    let framer = StreamFramer::with_limit(limits::MESSAGE_MAX);
    let (mut buffer, mut at, mut id) = (Vec::new(), 0, 0_u32);
    let mut piece = vec![0; PIECE];
    while let Ok(one) = waiting.recv() {
        if let Some(fault) = one.fault {
            writer.refused(one.line, "", Code::InvalidHandle, fault.message(), None);
            continue;
        }
        id = id.wrapping_add(1) & 0x7FFF_FFFF;
        let message = loop {
            let next = framer
                .next(&buffer[at..])
                .map_err(|error| AskError::Connection(error.to_string()))?;
            if let Framed::Frame { frame, rest } = next {
                let message = Message::decode(&Bytes::copy_from_slice(frame));
                at = buffer.len() - rest.len();
                break message.map_err(|error| AskError::Connection(error.to_string()))?;
            }
            buffer.drain(..at);
            at = 0;
            let count = stream.read(&mut piece).map_err(failed)?;
            if count == 0 {
                return Err(AskError::Cut);
            }
            buffer.extend_from_slice(&piece[..count]);
        };
        if message.envelope.request_id != id {
            return Err(AskError::Connection(
                "an answer to another request".to_owned(),
            ));
        }
        say(&mut writer, &one, message);
        if writer.len() >= PIECE {
            sink.take(&writer.take())?;
            watch(sink);
        }
    }
    writer.summary(&Summary {
        position: None,
        failure: None,
    });
    sink.take(&writer.take())?;
    sink.finish().map_err(AskError::Output)?;
    Ok(*writer.tally())
}

/// Writes one answer.
fn say(writer: &mut Writer, one: &Waiting, message: Message) {
    let code = match message.header.response_code {
        ResponseCode::SUCCESS => Code::Success,
        ResponseCode::HANDLE_NOT_FOUND => Code::HandleNotFound,
        ResponseCode::VALUES_NOT_FOUND => Code::ValuesNotFound,
        ResponseCode::SERVER_NOT_RESPONSIBLE => Code::NotResponsible,
        ResponseCode::INVALID_HANDLE => Code::InvalidHandle,
        ResponseCode::SERVER_TOO_BUSY => Code::Busy,
        _ => Code::Error,
    };
    match message.body {
        Body::Resolved(HandleValues { values, .. }) if code == Code::Success => {
            let wires = values.iter().map(|value| {
                let mut wire = Vec::new();
                value.encode(&mut wire);
                wire
            });
            let wires: Vec<Vec<u8>> = wires.collect();
            writer.found(one.line, &one.handle, wires.iter().map(Vec::as_slice));
        }
        Body::Error(error) => {
            let text = String::from_utf8_lossy(&error.message).into_owned();
            writer.refused(one.line, &one.handle, code, &text, None);
        }
        _ => {
            let number = message.header.response_code;
            let text = format!(
                "{} (code {})",
                number.name().unwrap_or("an unknown code"),
                number.0
            );
            let code = if code == Code::Success {
                Code::Error
            } else {
                code
            };
            writer.refused(one.line, &one.handle, code, &text, None);
        }
    }
}
