//! The other side of the control socket: one command to a running node.

use std::{
    io,
    path::{Path, PathBuf},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::UnixStream,
};

use super::{
    command::{Command, Failure, Outcome, PROTOCOL, Progress, Request},
    frame::{self, CHUNK, Kind},
};

/// Why a command did not succeed.
#[derive(Debug)]
pub enum ControlError {
    /// The node said why.
    Failed(Failure),
    /// The connection broke.
    Connection(io::Error),
    /// The output of this process takes no more.
    Output(io::Error),
}

/// A connection to a running node.
#[derive(Debug)]
pub struct Node {
    stream: UnixStream,
}

impl Node {
    /// Connects; `None` when no node listens there.
    ///
    /// # Errors
    /// There may be a node, but this user cannot reach it.
    pub async fn connect(path: &Path) -> Result<Option<Self>, (PathBuf, io::Error)> {
        match UnixStream::connect(path).await {
            Ok(stream) => Ok(Some(Self { stream })),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(None),
            Err(error) => Err((path.to_path_buf(), error)),
        }
    }

    /// Runs a command: sends `input` if there is one, hands data to `on_data` and progress to `on_progress`.
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
        let (mut from, mut to) = self.stream.into_split();
        let command = serde_json::to_vec(&Request { protocol: PROTOCOL, command });
        let command = command.map_err(|error| ControlError::Connection(error.into()))?;
        frame::write(&mut to, Kind::Command, &command).await.map_err(ControlError::Connection)?;
        let sending = async {
            if let Some(input) = input {
                send(input, &mut to).await?;
            }
            Ok::<(), Sending>(())
        };
        tokio::pin!(sending);
        let mut sent = false;
        loop {
            let frame = tokio::select! {
                frame = frame::read(&mut from) => frame,
                outcome = &mut sending, if !sent => {
                    sent = true;
                    match outcome {
                        Err(Sending::Input(error)) => return Err(ControlError::Output(error)),
                        // The node closed its side early; why is in the frame still to come.
                        Ok(()) | Err(Sending::Node) => continue,
                    }
                }
            };
            let gone = || io::Error::new(io::ErrorKind::UnexpectedEof, "the node closed the connection");
            let frame = frame.and_then(|frame| frame.ok_or_else(gone)).map_err(ControlError::Connection)?;
            let bad = |error: serde_json::Error| ControlError::Connection(error.into());
            match frame.kind {
                Kind::Data => on_data(&frame.payload).map_err(ControlError::Output)?,
                Kind::Progress => on_progress(serde_json::from_slice(&frame.payload).map_err(bad)?),
                Kind::Done => return serde_json::from_slice(&frame.payload).map_err(bad),
                Kind::Failed => return Err(ControlError::Failed(serde_json::from_slice(&frame.payload).map_err(bad)?)),
                Kind::Command | Kind::End => {
                    let error = io::Error::new(io::ErrorKind::InvalidData, "a frame that a node does not send");
                    return Err(ControlError::Connection(error));
                }
            }
        }
    }
}

/// Which side of the sending failed.
enum Sending {
    Input(io::Error),
    Node,
}

/// Sends all of `input` as data frames, then the end.
async fn send(mut input: impl AsyncRead + Unpin, to: &mut (impl AsyncWrite + Unpin)) -> Result<(), Sending> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = input.read(&mut buffer).await.map_err(Sending::Input)?;
        if read == 0 {
            return frame::write(to, Kind::End, b"").await.map_err(|_| Sending::Node);
        }
        let piece = buffer.get(..read).unwrap_or_default();
        frame::write(to, Kind::Data, piece).await.map_err(|_| Sending::Node)?;
    }
}
