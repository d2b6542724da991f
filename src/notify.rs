//! What systemd is told by a process of a unit with `Type=notify`: that it serves, which process is the main one, that it
//! stops. Elsewhere nobody is told anything.

use std::env;
use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// How long systemd may take to hear what it can do without.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether somebody listens.
#[must_use]
pub fn is_heard() -> bool {
    place().is_some()
}

/// This process serves; `status` is what `systemctl status` shows.
pub fn ready(status: &str) {
    tell(&format!("READY=1\nSTATUS={status}"));
}

/// How the node is, while it does not serve.
pub fn status(status: &str) {
    tell(&format!("STATUS={status}"));
}

/// This process stops.
pub fn stopping() {
    tell("STOPPING=1");
}

/// Another process is the main one of the unit now. When this returns systemd knows: before, this process must not end, or
/// the unit would end with it. A manager that is busy, such as with a `daemon-reload`, is given `patience`.
pub fn main_process(pid: u32, patience: Duration) {
    let said = format!("MAINPID={pid}");
    if let Err(error) = send(&said, None, patience).and_then(|()| barrier(patience)) {
        tracing::error!(
            event = "systemd.unconfirmed",
            pid,
            %error,
            "systemd has not confirmed the new main process: it may stop the unit when this one ends"
        );
    }
}

fn place() -> Option<OsString> {
    env::var_os("NOTIFY_SOCKET").filter(|place| !place.is_empty())
}

fn tell(what: &str) {
    if let Err(error) = send(what, None, PATIENCE) {
        tracing::warn!(event = "systemd.untold", %error, what, "systemd cannot be told");
    }
}

/// Waits until everything that was sent has been dealt with: systemd then closes what comes with this.
fn barrier(patience: Duration) -> io::Result<()> {
    if !is_heard() {
        return Ok(());
    }
    let (reader, writer) = io::pipe()?;
    send("BARRIER=1", Some(writer.as_fd()), patience)?;
    drop(writer);
    let patience = Timespec {
        tv_sec: patience.as_secs().cast_signed(),
        tv_nsec: 0,
    };
    let mut closed = [PollFd::new(&reader, PollFlags::empty())];
    loop {
        match poll(&mut closed, Some(&patience)) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            ended => return ended.map(drop).map_err(io::Error::from),
        }
    }
}

/// Sends a datagram, with a descriptor beside it if there is one. Where others wait to be read, it waits for room.
fn send(what: &str, descriptor: Option<BorrowedFd<'_>>, patience: Duration) -> io::Result<()> {
    let Some(place) = place() else {
        return Ok(());
    };
    let address = match place.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&place)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_write_timeout(Some(patience))?;
    let descriptors = descriptor.as_slice();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    let what = [IoSlice::new(what.as_bytes())];
    sendmsg(&socket, &what, &mut beside, SendFlags::NOSIGNAL)?;
    Ok(())
}
