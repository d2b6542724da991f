//! The new process: it gets the sockets, then the store, and says when it answers.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::{FILL_MAX, Inherited, Message, PATIENCE, SOCKETS_MAX, VERSION, wire};
use crate::control::client::Node;
use crate::control::command::{Command, PROTOCOL, Request};
use crate::control::frame::Kind;

/// The running node, which gives its sockets and then its store.
#[derive(Debug)]
pub struct Running {
    stream: UnixStream,
}

/// What the other end is called.
const OTHER: &str = "the running node";

impl Running {
    /// Asks the node behind a control socket for its sockets.
    ///
    /// # Errors
    /// There is none, or it refuses; for people.
    pub fn ask(control: &Path, pause_max: Duration) -> Result<(Self, Inherited), String> {
        let shown = control.display();
        let node = Node::connect(control).map_err(|error| format!("{shown}: {error}"))?;
        let node = node.ok_or_else(|| {
            format!(
                "{shown}: no node runs here that could be taken over; start it without --take-over"
            )
        })?;
        let running = Self {
            stream: node.into_stream(),
        };
        let inherited = running.sockets(pause_max);
        let inherited = inherited.map_err(|error| wire::explain(&error, OTHER))?;
        Ok((running, inherited))
    }

    fn sockets(&self, pause_max: Duration) -> std::io::Result<Inherited> {
        let command = Command::HandOver {
            version: VERSION,
            pause_max_ms: u64::try_from(pause_max.as_millis()).unwrap_or(u64::MAX),
        };
        let request = Request {
            protocol: PROTOCOL,
            command,
        };
        self.stream.set_write_timeout(Some(PATIENCE))?;
        // A snapshot may be under way there, and the files that this process is to read must not change.
        self.stream.set_read_timeout(Some(FILL_MAX))?;
        wire::send_as(&self.stream, Kind::Command, &request, None)?;
        let mut inherited = Inherited::default();
        for taken in 0..=SOCKETS_MAX {
            match wire::receive(&self.stream)? {
                (Message::Socket, Some(socket)) => inherited.add(socket),
                (Message::Sockets { count }, _) if count == taken => return Ok(inherited),
                _ => break,
            }
        }
        Err(std::io::Error::other(
            "the running node did not give its sockets",
        ))
    }

    /// Says that the index is filled, and waits for the lock of the store, with which it is given.
    ///
    /// # Errors
    /// The node keeps it; for people.
    pub fn store(&self) -> Result<File, String> {
        let failed = |error: std::io::Error| wire::explain(&error, OTHER);
        wire::send(&self.stream, &Message::Filled, None).map_err(failed)?;
        // Until its jobs rest and its writer has ended.
        let patience = Some(PATIENCE * 6);
        self.stream.set_read_timeout(patience).map_err(failed)?;
        match wire::receive(&self.stream).map_err(failed)? {
            (Message::Store, Some(lock)) => Ok(lock.into()),
            _ => Err("the running node did not give its store".to_owned()),
        }
    }

    /// Says that this process answers. The other one may be gone: then this one is the node all the same.
    pub fn answering(&self, control: bool) {
        if let Err(error) = wire::send(&self.stream, &Message::Answering { control }, None) {
            tracing::warn!(event = "handover.unheard", %error, "hand-over: the old process does not hear that this one answers");
        }
    }

    /// Waits until the other process has told everybody that it is no longer the node, or is gone.
    pub fn wait_let_go(&self) {
        // It says nothing more: whatever ends this wait is as good.
        drop(self.stream.set_read_timeout(Some(PATIENCE)));
        drop((&self.stream).read(&mut [0]));
    }

    /// Says why this process does not take over.
    pub fn fail(&self, why: &str) {
        wire::fail(&self.stream, why);
    }
}
