//! The other side of the control socket: one command to a running node.

use std::{
    io,
    os::unix::{fs::MetadataExt as _, net::UnixStream},
    path::Path,
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::{
    command::{Command, Failure, Outcome, PROTOCOL, Progress, Request},
    frame::{self, CHUNK, Frame, Kind},
};

/// Why a command did not succeed.
#[derive(Debug)]
pub enum ControlError {
    /// The node said why.
    Failed(Failure),
    /// The connection broke.
    Connection(io::Error),
    /// The input of this process cannot be read.
    Input(io::Error),
    /// The output of this process takes no more.
    Output(io::Error),
}

/// A connection to a running node.
#[derive(Debug)]
pub struct Node {
    stream: UnixStream,
}

impl Node {
    /// Connects; `None` when no node listens there. Needs no runtime.
    ///
    /// # Errors
    /// There may be a node, but this user cannot reach it.
    pub fn connect(path: &Path) -> io::Result<Option<Self>> {
        match UnixStream::connect(path) {
            Ok(stream) => {
                let (own, owner) = (nix::unistd::geteuid(), std::fs::metadata(path)?.uid());
                // It would be closed without a word.
                if own.as_raw() != owner && !own.is_root() {
                    let text = format!(
                        "the node runs as user {owner} and obeys that user and root alone, and this is user {own}; use \
                         sudo -u '#{owner}'"
                    );
                    return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
                }
                Ok(Some(Self { stream }))
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The connection itself.
    #[must_use]
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// Runs a command on a tokio runtime: sends `input` if there is one, hands data to `on_data` and progress to `on_progress`.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn run(
        self,
        command: Command,
        input: Option<impl AsyncRead + Unpin>,
        mut on_data: impl FnMut(&[u8]) -> io::Result<()>,
        mut on_progress: impl FnMut(Progress),
    ) -> Result<Outcome, ControlError> {
        self.stream
            .set_nonblocking(true)
            .map_err(ControlError::Connection)?;
        let stream =
            tokio::net::UnixStream::from_std(self.stream).map_err(ControlError::Connection)?;
        let (mut from, mut to) = stream.into_split();
        let command = serde_json::to_vec(&Request {
            protocol: PROTOCOL,
            command,
        });
        let command = command.map_err(|error| ControlError::Connection(error.into()))?;
        frame::write(&mut to, Kind::Command, &command)
            .await
            .map_err(ControlError::Connection)?;
        let sending = async {
            match input {
                Some(input) => send(input, &mut to).await,
                None => Ok(()),
            }
        };
        // Reading a frame cannot be taken up again once interrupted, so both go on until the one that decides is over.
        tokio::select! {
            outcome = receive(&mut from, &mut on_data, &mut on_progress) => outcome,
            error = failing(sending) => Err(ControlError::Input(error)),
        }
    }
}

/// Takes frames until the last one.
async fn receive(
    from: &mut (impl AsyncRead + Unpin),
    on_data: &mut impl FnMut(&[u8]) -> io::Result<()>,
    on_progress: &mut impl FnMut(Progress),
) -> Result<Outcome, ControlError> {
    let bad = |error: serde_json::Error| ControlError::Connection(error.into());
    loop {
        let gone = || {
            io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the node closed the connection",
            )
        };
        let read = frame::read(from)
            .await
            .and_then(|frame| frame.ok_or_else(gone));
        let Frame { kind, payload } = read.map_err(ControlError::Connection)?;
        match kind {
            Kind::Data => on_data(&payload).map_err(ControlError::Output)?,
            Kind::Progress => on_progress(serde_json::from_slice(&payload).map_err(bad)?),
            Kind::Done => return serde_json::from_slice(&payload).map_err(bad),
            Kind::Failed => {
                return Err(ControlError::Failed(
                    serde_json::from_slice(&payload).map_err(bad)?,
                ));
            }
            Kind::Command | Kind::End => {
                let error = io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a frame that a node does not send",
                );
                return Err(ControlError::Connection(error));
            }
        }
    }
}

/// Waits for a failure of the input; never ends otherwise: if the node refuses data, the reason is in a frame to come.
async fn failing(sending: impl Future<Output = Result<(), Sending>>) -> io::Error {
    match sending.await {
        Err(Sending::Input(error)) => error,
        Ok(()) | Err(Sending::Node) => std::future::pending().await,
    }
}

/// Which side of the sending failed.
enum Sending {
    Input(io::Error),
    Node,
}

/// Sends all of `input` as data frames, then the end.
async fn send(
    mut input: impl AsyncRead + Unpin,
    to: &mut (impl AsyncWrite + Unpin),
) -> Result<(), Sending> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = input.read(&mut buffer).await.map_err(Sending::Input)?;
        if read == 0 {
            return frame::write(to, Kind::End, b"")
                .await
                .map_err(|_| Sending::Node);
        }
        let piece = buffer.get(..read).unwrap_or_default();
        frame::write(to, Kind::Data, piece)
            .await
            .map_err(|_| Sending::Node)?;
    }
}
