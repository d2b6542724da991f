//! The other side of the control socket: one command to a running node.
//!
//! A command may take long and say nothing meanwhile. Whether the node hangs is asked on another connection, where a node at
//! work answers at once.

use std::{
    cell::Cell,
    io::{self, Write as _},
    os::unix::{fs::MetadataExt as _, net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::UnixStream as Stream,
    time::sleep,
};

use crate::owner;

use super::{
    command::{Ask, Command, Failure, Outcome, PROTOCOL, Progress, Request},
    frame::{self, CHUNK, Frame, Kind},
};

/// A node that says nothing for so long is asked whether it hangs.
const QUIET: Duration = Duration::from_secs(2);
/// One that does not answer that for so many seconds is told of …
const TELL_SECONDS: u32 = 3;
/// … and one that does not for so many is given up. Of a machine that swaps, or whose disk stands still, a runtime may need
/// some seconds; none needs half a minute.
const GIVE_UP_SECONDS: u32 = 30;

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
    path: PathBuf,
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
                Ok(Some(Self {
                    stream,
                    path: path.to_path_buf(),
                }))
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let text = format!("{error}; {}", owner::advice(path));
                Err(io::Error::new(error.kind(), text))
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
        let stream = Stream::from_std(self.stream).map_err(ControlError::Connection)?;
        let (mut from, mut to) = stream.into_split();
        let command = encoded(command).map_err(ControlError::Connection)?;
        let sending = async {
            // A long one waits until the node reads.
            let written = frame::write(&mut to, Kind::Command, &command).await;
            written.map_err(|_| Sending::Node)?;
            match input {
                Some(input) => send(input, &mut to).await,
                None => Ok(()),
            }
        };
        let heard = Cell::new(0);
        // Reading a frame cannot be taken up again once interrupted, so all go on until the one that decides is over.
        tokio::select! {
            outcome = receive(&mut from, &heard, &mut on_data, &mut on_progress) => outcome,
            error = failing(sending) => Err(ControlError::Input(error)),
            error = hanging(&self.path, &heard) => Err(ControlError::Connection(error)),
        }
    }
}

/// A command as its frame carries it.
fn encoded(command: Command) -> io::Result<Vec<u8>> {
    let request = Request {
        protocol: PROTOCOL,
        command,
    };
    Ok(serde_json::to_vec(&request)?)
}

/// Ends when the node has been silent for too long, here, where `heard` counts frames, and to a question of its own; tells of
/// it before that, once.
///
/// It counts seconds in which this process ran: what a clock says is of no use to one that was stopped itself, or whose
/// output waited for a reader.
async fn hanging(path: &Path, heard: &Cell<u64>) -> io::Error {
    let mut told = false;
    loop {
        let before = heard.get();
        sleep(QUIET).await;
        if heard.get() != before {
            continue;
        }
        let answer = answer(path);
        tokio::pin!(answer);
        for waited in 1..=GIVE_UP_SECONDS {
            tokio::select! {
                biased;
                () = &mut answer => break,
                () = sleep(Duration::from_secs(1)) => {}
            }
            if heard.get() != before {
                break;
            }
            if waited == GIVE_UP_SECONDS {
                return given_up();
            }
            if waited >= TELL_SECONDS && !told {
                told = true;
                let path = path.display();
                // That nobody reads it is nobody's trouble.
                drop(writeln!(
                    io::stderr(),
                    "jiexi: waiting for the node at {path}, which does not answer; `jiexi doctor` looks further"
                ));
            }
        }
    }
}

fn given_up() -> io::Error {
    let text = format!(
        "the node has answered nothing for {GIVE_UP_SECONDS} s: it hangs, or was stopped. What it was told may still be \
         done when it goes on; `jiexi doctor` looks further"
    );
    io::Error::new(io::ErrorKind::TimedOut, text)
}

/// Waits for any sign of life of a node: a connection that it refuses or closes is one, too.
async fn answer(path: &Path) {
    let asked = async {
        let mut stream = Stream::connect(path).await?;
        let command = encoded(Command::Registry { ask: Ask::Standing })?;
        frame::write(&mut stream, Kind::Command, &command).await?;
        frame::read(&mut stream).await
    };
    if let Err(error) = asked.await
        && error.kind() == io::ErrorKind::WouldBlock
    {
        // So many wait already that the system takes no more for it.
        std::future::pending::<()>().await;
    }
}

/// Takes frames until the last one, and counts them.
async fn receive(
    from: &mut (impl AsyncRead + Unpin),
    heard: &Cell<u64>,
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
        heard.set(heard.get() + 1);
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
