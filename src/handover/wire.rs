//! Frames of the control socket (see [`crate::control::frame`]), each with at most one descriptor beside it.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;

use super::Message;
use crate::control::command::Failure;
use crate::control::frame::Kind;

/// The longest message here.
const PAYLOAD_MAX: usize = 16 << 10;
/// Octets before the payload.
const HEAD: usize = 5;

/// Sends a message, with a descriptor beside it if there is one.
pub(super) fn send(
    stream: &UnixStream,
    message: &Message,
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    send_as(stream, Kind::Data, message, descriptor)
}

/// Sends a frame of any kind.
pub(super) fn send_as(
    stream: &UnixStream,
    kind: Kind,
    payload: &impl Serialize,
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let payload = serde_json::to_vec(payload)?;
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    let frame = [&length.to_be_bytes()[..], &[kind as u8], &payload].concat();
    let mut sent = 0;
    if let Some(descriptor) = descriptor {
        let descriptors = [descriptor];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        if !beside.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::Error::other("no room for a descriptor"));
        }
        let flags = SendFlags::NOSIGNAL;
        sent = sendmsg(stream, &[IoSlice::new(&frame)], &mut beside, flags)?;
    }
    (&*stream).write_all(frame.get(sent..).unwrap_or_default())
}

/// Waits for a message, and the descriptor beside it.
///
/// # Errors
/// The other end is gone, late, says that it failed, or what it says makes no sense.
pub(super) fn receive(stream: &UnixStream) -> io::Result<(Message, Option<OwnedFd>)> {
    let mut head = [0; HEAD];
    let mut descriptor = None;
    let mut read = 0;
    while let Some(rest) = head.get_mut(read..).filter(|rest| !rest.is_empty()) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = match recvmsg(stream, &mut [IoSliceMut::new(rest)], &mut beside, flags) {
            Err(rustix::io::Errno::INTR) => continue,
            received => received?,
        };
        for message in beside.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                descriptor = descriptors.last();
            }
        }
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        read += received.bytes;
    }
    let [a, b, c, d, kind] = head;
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if length > PAYLOAD_MAX {
        return Err(io::Error::other(format!("a message of {length} bytes")));
    }
    let mut payload = vec![0; length];
    (&*stream).read_exact(&mut payload)?;
    match Kind::from_number(kind) {
        Some(Kind::Data) => Ok((serde_json::from_slice(&payload)?, descriptor)),
        Some(Kind::Failed) => {
            let failure: Failure = serde_json::from_slice(&payload)?;
            Err(io::Error::other(failure.message))
        }
        _ => Err(io::Error::other("a frame that has no place here")),
    }
}

/// Says that it failed, and why; whoever hears it may be gone.
pub(super) fn fail(stream: &UnixStream, why: &str) {
    let failure = Failure {
        message: why.to_owned(),
        line: None,
        applied: None,
    };
    drop(send_as(stream, Kind::Failed, &failure, None));
}

/// What became of the other end, for people.
pub(super) fn explain(error: &io::Error, other: &str) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe => format!("{other} is gone"),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => format!("{other} is late"),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Seek as _;
    use std::os::fd::AsFd as _;

    /// Goal: messages arrive in order, a descriptor beside the one that it was sent with, and works.
    #[test]
    fn descriptors_arrive_beside_their_messages() {
        let (here, there) = UnixStream::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"the same file").unwrap();
        send(&here, &Message::Sockets { count: 7 }, None).unwrap();
        send(&here, &Message::Store, Some(file.as_fd())).unwrap();
        send(&here, &Message::Filled, None).unwrap();
        fail(&here, "no more");
        drop(here);
        let (first, none) = receive(&there).unwrap();
        assert_eq!(
            (first, none.is_none()),
            (Message::Sockets { count: 7 }, true)
        );
        let (second, descriptor) = receive(&there).unwrap();
        assert_eq!(second, Message::Store);
        let mut same = std::fs::File::from(descriptor.unwrap());
        same.rewind().unwrap();
        let mut text = String::new();
        same.read_to_string(&mut text).unwrap();
        assert_eq!(text, "the same file");
        assert_eq!(receive(&there).unwrap().0, Message::Filled);
        assert_eq!(receive(&there).unwrap_err().to_string(), "no more");
        let gone = receive(&there).unwrap_err();
        assert_eq!(explain(&gone, "it"), "it is gone");
    }

    /// Goal: what makes no sense is an error, and takes no memory.
    #[test]
    fn nonsense_is_refused() {
        for octets in [
            &[0xFF; 64][..],
            &[0, 0, 0, 2, Kind::Data as u8, b'{', b'}'],
            &[0, 0, 0, 1, 99, 0],
            &[0, 0, 0, 9, Kind::Data as u8, b'{'],
            &[0, 0],
        ] {
            let (here, there) = UnixStream::pair().unwrap();
            (&here).write_all(octets).unwrap();
            drop(here);
            assert!(receive(&there).is_err(), "{octets:?}");
        }
    }
}
