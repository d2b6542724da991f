//! The node's side of the control socket.

use std::{
    fs,
    io::{self, Read, Write},
    net::Shutdown,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{
            fs::{FileTypeExt, MetadataExt as _, PermissionsExt},
            net::UnixListener as StdListener,
        },
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use serde::Serialize;
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::{JoinSet, spawn_blocking},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    command::{Command, Failure, Outcome, PROTOCOL, Progress, Request, StoreAction},
    frame::{self, CHUNK, Frame, Kind},
    registry,
};
use crate::{
    bulk::{
        export::{self, export},
        import::{self, Event, ImportError, import},
    },
    handover::{
        giving::{Estate, Terms},
        successor::Upgrade,
    },
    maintenance,
    registry::{Registry, audit::Audit, seal::Sealer},
    standby::follow::Order,
    store::{self, Store},
    token::office,
};

/// Commands at work at once; more wait, but for light ones.
const AT_WORK_MAX: usize = 8;
/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;
/// A connection must bring its command within this time.
const COMMAND_DEADLINE: Duration = Duration::from_secs(5);
/// A client must take a frame within this time.
const WRITE_DEADLINE: Duration = Duration::from_secs(60);
/// After a failure the client has this long to notice before the connection is cut.
const LINGER: Duration = Duration::from_secs(5);
/// After a failed accept (out of file descriptors, say), wait this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Frames waiting between a blocking thread and the socket.
const QUEUE: usize = 4;

/// A bound control socket.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    file: SocketFile,
}

/// The file of the socket; it goes when this is dropped.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// The file, as the system knows it.
    file: Option<(u64, u64)>,
    /// Another process has the socket as well, and goes on with it: the file stays.
    given: Arc<AtomicBool>,
}

/// What the system knows a file by.
fn file_at(path: &Path) -> Option<(u64, u64)> {
    let found = fs::symlink_metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

impl ControlSocket {
    /// Binds `path`. The caller holds the lock of the data directory, so a socket left there is a dead one. While `given`
    /// is set the file is another process's. Must be called on a runtime.
    ///
    /// # Errors
    /// The path is too long for a socket (about 100 bytes), is something else than a socket, or cannot be written.
    pub fn bind(path: &Path, given: Arc<AtomicBool>) -> io::Result<Self> {
        match fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => {
                fs::remove_file(path).map_err(|error| {
                    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
                })?;
            }
            Ok(_) => {
                return Err(io::Error::other(format!(
                    "{} exists and is not a socket",
                    path.display()
                )));
            }
            Err(_) => {}
        }
        let explain = |error: io::Error| {
            io::Error::new(
                error.kind(),
                format!(
                    "{}: {error} ([control] socket names it; of a socket the whole path has about 100 bytes)",
                    path.display()
                ),
            )
        };
        let listener = UnixListener::bind(path).map_err(explain)?;
        // Until this line the umask decides; the check of credentials holds from the start.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(explain)?;
        Ok(Self::new(listener, path, given))
    }

    /// Goes on with the socket of another process, which is bound to `path`. Must be called on a runtime.
    ///
    /// # Errors
    /// The runtime does not take it.
    pub fn adopt(listener: StdListener, path: &Path, given: Arc<AtomicBool>) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self::new(UnixListener::from_std(listener)?, path, given))
    }

    fn new(listener: UnixListener, path: &Path, given: Arc<AtomicBool>) -> Self {
        let file = SocketFile {
            path: path.to_path_buf(),
            file: file_at(path),
            given,
        };
        Self { listener, file }
    }

    /// The socket, for another process.
    ///
    /// # Errors
    /// The system gives no more descriptors.
    pub fn share(&self) -> io::Result<OwnedFd> {
        self.listener.as_fd().try_clone_to_owned()
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another process may have bound one of its own there.
        if !self.given.load(Relaxed) && self.file == file_at(&self.path) {
            // A file that is gone already is as good.
            drop(fs::remove_file(&self.path));
        }
    }
}

/// What the commands work on.
#[derive(Clone)]
struct Context {
    registry: Arc<Registry>,
    settings: Arc<store::Config>,
    /// Where a standby takes orders, and where it is reached.
    standby: Option<(mpsc::Sender<Order>, String)>,
    now: fn() -> u32,
    estate: Arc<Estate>,
    /// Who may be at work.
    turns: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Context {
    /// Waits until one more command may be at work.
    async fn turn(&self) -> Result<OwnedSemaphorePermit, Failure> {
        tokio::select! {
            turn = Arc::clone(&self.turns).acquire_owned() => turn.map_err(plain),
            () = self.stop.cancelled() => Err(plain("the node is stopping")),
        }
    }

    fn store(&self) -> Arc<Store> {
        Arc::clone(&self.registry.records.store)
    }

    /// Writes an import or a restore down.
    fn note(&self, operation: &str, uid: u32, good: bool) {
        if let Some(audit) = self.registry.audit() {
            let change = Some(self.registry.records.store.sequence());
            registry::note_whole(audit, operation, uid, (self.now)(), good, change);
        }
    }

    /// Why what changes many records is refused, as any other change is: it could not be written down.
    fn unaudited(&self) -> Option<&'static str> {
        let ready = self.registry.audit().is_none_or(Audit::is_ready);
        (!ready).then_some(
            "the audit trail cannot be written, so nothing was changed; the log of the node says why: look at its disk and at \
             [administration] audit",
        )
    }

    fn sealer(&self) -> Option<Sealer> {
        Some(self.registry.records.sealer.clone())
    }
}

/// Serves commands until `stop`, then waits for those at work to end; `settings` are those of the store, `standby` is where
/// one takes orders and is reached, `now` gives Unix seconds, `estate` is what a process gets that takes over.
pub async fn serve(
    socket: ControlSocket,
    registry: Arc<Registry>,
    settings: store::Config,
    standby: Option<(mpsc::Sender<Order>, String)>,
    now: fn() -> u32,
    estate: Arc<Estate>,
    stop: CancellationToken,
) {
    let context = Context {
        registry,
        settings: Arc::new(settings),
        standby,
        now,
        estate,
        turns: Arc::new(Semaphore::new(AT_WORK_MAX)),
        stop: stop.clone(),
    };
    let ControlSocket { listener, file } = socket;
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let place = Arc::clone(&places).acquire_owned();
        let accepted = tokio::select! {
            accepted = async { (place.await, listener.accept().await) } => accepted,
            () = stop.cancelled() => break,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            (place, Ok((stream, _))) => {
                let context = context.clone();
                connections.spawn(async move {
                    connection(stream, context).await;
                    drop(place);
                });
            }
            (_, Err(error)) => {
                warn!(event = "control.accept_failed", %error, "control socket: accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Whoever asks from here on is refused at once, instead of waiting for those that are at work.
    drop(listener);
    while connections.join_next().await.is_some() {}
    drop(file);
}

/// One connection: check who it is, take the command, do it.
async fn connection(stream: UnixStream, context: Context) {
    let uid = match allowed(&stream) {
        Ok(uid) => uid,
        Err(error) => {
            return warn!(event = "control.refused", %error, "control socket: connection refused");
        }
    };
    let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
    let (mut from, mut to) = stream.into_split();
    let asked = request(&mut from).await;
    if let Ok(Some(Request {
        command: Command::HandOver {
            version,
            pause_max_ms,
        },
        ..
    })) = asked
    {
        let Ok(stream) = from.reunite(to) else { return };
        let terms = Terms {
            version,
            pause_max: Duration::from_millis(pause_max_ms),
        };
        if let Err(error) = hand_over(stream, (uid, pid), terms, &context).await {
            warn!(event = "handover.refused", %error, "control socket: no hand-over");
        }
        return;
    }
    let ended = async {
        let mut asked_for = None;
        let outcome = match asked {
            Ok(Some(Request { command, .. })) => {
                let (name, about) = (command.name(), command.about());
                asked_for = Some(name);
                // Somebody may ask for a million records.
                match &command {
                    Command::Registry { ask } if ask.reads() => {
                        debug!(command = name, about, uid, "control socket: command");
                    }
                    _ => info!(
                        event = "control.command",
                        command = name,
                        about,
                        uid,
                        "control socket: command"
                    ),
                }
                let turn = match command.is_light() {
                    true => Ok(None),
                    false => context.turn().await.map(Some),
                };
                match turn {
                    Ok(_turn) => perform(command, uid, &mut from, &mut to, &context).await,
                    Err(failure) => Err(failure),
                }
            }
            Ok(None) => return Ok(()),
            Err(failure) => Err(failure),
        };
        match outcome {
            Ok(outcome) => send(&mut to, Kind::Done, &outcome).await,
            Err(failure) => {
                warn!(
                    event = "control.failed",
                    command = asked_for,
                    uid,
                    reason = failure.message,
                    "control socket: command failed"
                );
                send(&mut to, Kind::Failed, &failure).await?;
                linger(&mut from, &mut to).await
            }
        }
    };
    if let Err(error) = ended.await {
        debug!(%error, "control socket: client went away");
    }
}

/// Offers the node to the process at the other end. It goes on by itself, on a thread that may wait.
async fn hand_over(
    stream: UnixStream,
    (uid, pid): (u32, Option<i32>),
    terms: Terms,
    context: &Context,
) -> io::Result<()> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    // What another user's process writes, root's as well, this one's could not go on with.
    let own = nix::unistd::geteuid().as_raw();
    let pid = pid.filter(|_| uid == own);
    let hanging = stream.try_clone()?;
    let (estate, store) = (Arc::clone(&context.estate), context.store());
    let offering = spawn_blocking(move || estate.offer(stream, pid, terms, &store));
    tokio::pin!(offering);
    tokio::select! {
        _ = &mut offering => return Ok(()),
        () = context.stop.cancelled() => {}
    }
    hanging.shutdown(Shutdown::Both)?;
    let _ = offering.await;
    Ok(())
}

/// Takes what the client is still sending off the socket: closing it before would cut the failure short.
async fn linger(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    to.shutdown().await?;
    let mut nowhere = tokio::io::sink();
    match tokio::time::timeout(LINGER, tokio::io::copy(from, &mut nowhere)).await {
        Ok(drained) => drained.map(|_| ()),
        Err(_) => Ok(()),
    }
}

/// Only the user that runs the node, and root, may command it; says who it is.
fn allowed(stream: &UnixStream) -> io::Result<u32> {
    let (peer, own) = (stream.peer_cred()?.uid(), nix::unistd::geteuid().as_raw());
    if peer == own || peer == 0 {
        return Ok(peer);
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("user {peer} is neither user {own} nor root"),
    ))
}

/// Reads the command.
async fn request(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<Request>, Failure> {
    let refuse = |message: String| Failure {
        message,
        line: None,
        applied: None,
    };
    let read = tokio::time::timeout(COMMAND_DEADLINE, frame::read(from)).await;
    let frame = match read
        .map_err(|_| refuse("no command came".into()))?
        .map_err(|error| refuse(error.to_string()))?
    {
        Some(frame) if frame.kind == Kind::Command => frame,
        Some(_) => return Err(refuse("the first frame is not a command".into())),
        None => return Ok(None),
    };
    // The version is read by itself: a newer command may be one that this program cannot read at all.
    let json: serde_json::Value = serde_json::from_slice(&frame.payload)
        .map_err(|error| refuse(format!("bad command: {error}")))?;
    if json.get("protocol") != Some(&PROTOCOL.into()) {
        let message = "the running node speaks another version of the control protocol; use the program it was started from";
        return Err(refuse(message.into()));
    }
    serde_json::from_value(json)
        .map(Some)
        .map_err(|error| refuse(format!("bad command: {error}")))
}

/// Carries out a command.
async fn perform(
    command: Command,
    uid: u32,
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    context: &Context,
) -> Result<Outcome, Failure> {
    match command {
        Command::Import {
            keep_going,
            live,
            known,
            dry_run,
        } => {
            let options = import::Options {
                known,
                dry_run,
                keep_going,
                now: (context.now)(),
                live,
                alone: false,
                sealer: context.sealer(),
            };
            if let (false, Some(why)) = (dry_run, context.unaudited()) {
                return Err(plain(why));
            }
            let done = do_import(options, from, to, context).await;
            if !dry_run {
                context.note("import", uid, done.is_ok());
            }
            done
        }
        Command::Export { hex, with_secrets } => {
            let options = export::Options {
                hex,
                with_secrets,
                sealer: context.sealer(),
            };
            do_export(options, to, context).await
        }
        Command::Store { action } => {
            let (store, settings) = (context.store(), Arc::clone(&context.settings));
            let restores = matches!(action, StoreAction::Restore { .. });
            if let (true, Some(why)) = (restores, context.unaudited()) {
                return Err(plain(why));
            }
            let done =
                spawn_blocking(move || maintenance::on_open(&store, &settings, &action)).await;
            if restores {
                context.note("restore", uid, matches!(done, Ok(Ok(_))));
            }
            let report = done.map_err(|_| internal())?.map_err(plain)?;
            Ok(Outcome::Report {
                good: report.good,
                report: report.json,
            })
        }
        Command::Registry { ask } => {
            let (registry, now) = (Arc::clone(&context.registry), (context.now)());
            let work = move |frames| {
                let mut lines = io::BufWriter::with_capacity(CHUNK, Output(frames));
                let told = registry::perform(&registry, &ask, uid, now, &mut lines)?;
                lines.flush().map(|()| told)
            };
            stream_out(work, to, context).await.map(Outcome::Told)
        }
        // It is no command like the others: see `connection`.
        Command::HandOver { .. } => Err(internal()),
        Command::Upgrade { pause_max_ms } => {
            upgrade(Duration::from_millis(pause_max_ms), context).await
        }
        Command::Promote { without } => {
            let done = promote(without, context).await;
            context.note("promote", uid, done.is_ok());
            let report = done.map_err(plain)?;
            Ok(Outcome::Report { good: true, report })
        }
        Command::Token { order } => {
            let (store, now) = (context.store(), (context.now)());
            let done = spawn_blocking(move || office::carry_out(&store, &order, now)).await;
            let report = done.map_err(|_| internal())?.map_err(plain)?;
            Ok(Outcome::Report { good: true, report })
        }
    }
}

/// Has the program on disk take the place of this one.
async fn upgrade(pause_max: Duration, context: &Context) -> Result<Outcome, Failure> {
    let (good, report) = match context.estate.upgrade(pause_max).await {
        Upgrade::Done { process, pause } => (
            true,
            json!({"process": process, "before": std::process::id(), "pause_seconds": pause.as_secs_f64()}),
        ),
        Upgrade::Failed(why) => (false, json!({"why": why})),
        Upgrade::Another(which) => (false, json!({"why": which, "another": true})),
        Upgrade::Refused(why) => return Err(plain(why)),
    };
    Ok(Outcome::Report { good, report })
}

/// Has the standby take the place of its primary.
async fn promote(without: bool, context: &Context) -> Result<serde_json::Value, String> {
    let gone = || "this node is no standby: there is nothing to promote".to_owned();
    let (orders, place) = context.standby.clone().ok_or_else(gone)?;
    let (told, outcome) = oneshot::channel();
    let order = Order::Promote {
        without,
        place,
        told,
    };
    orders.send(order).await.map_err(|_| gone())?;
    outcome
        .await
        .unwrap_or_else(|_| Err("the node stops".to_owned()))
}

/// Import: frames → channel → blocking thread, and its events back.
async fn do_import(
    options: import::Options,
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    context: &Context,
) -> Result<Outcome, Failure> {
    let (data, input) = mpsc::channel(QUEUE);
    let (events, mut heard) = mpsc::channel::<Progress>(QUEUE);
    let store = context.store();
    let mut work = spawn_blocking(move || {
        let watch = |event: Event<'_>| match event {
            // Counts are overtaken by the next ones; a slow client may miss some.
            Event::Progress(counts) => drop(events.try_send(Progress::Counts(counts))),
            Event::Skipped(bad) => {
                let skipped = Progress::Skipped {
                    line: bad.line,
                    message: bad.message.clone(),
                };
                drop(events.blocking_send(skipped));
            }
            Event::Kept(handle) => {
                let handle = handle.to_owned();
                drop(events.blocking_send(Progress::Kept { handle }));
            }
        };
        import(Input::new(input), &store, options, &watch)
    });
    let feeding = feed(from, data, &context.stop);
    let telling = async {
        while let Some(progress) = heard.recv().await {
            // A client that does not listen may still want the import to go on.
            drop(send(to, Kind::Progress, &progress).await);
        }
    };
    // The work ends by itself when the feeding does; the telling ends with the work.
    let done = async {
        tokio::pin!(feeding);
        tokio::select! {
            done = &mut work => done,
            () = &mut feeding => work.await,
        }
    };
    let (done, ()) = tokio::join!(done, telling);
    match done.map_err(|_| internal())? {
        Ok(counts) => Ok(Outcome::Counts(counts)),
        Err(stopped) => {
            let (line, message) = match &stopped.error {
                ImportError::Line(bad) => (Some(bad.line), bad.message.clone()),
                ImportError::Store { line, error } => {
                    (Some(*line), format!("the batch that begins here: {error}"))
                }
                error => (None, error.to_string()),
            };
            Err(Failure {
                message,
                line,
                applied: Some(stopped.applied),
            })
        }
    }
}

/// Passes data frames on until the end of the data; anything else is an error that the reader sees.
async fn feed(
    from: &mut (impl AsyncRead + Unpin),
    data: mpsc::Sender<io::Result<Vec<u8>>>,
    stop: &CancellationToken,
) {
    loop {
        let read = tokio::select! {
            read = frame::read(from) => read,
            () = stop.cancelled() => Err(io::Error::other("the node is stopping")),
        };
        let piece = match read {
            Ok(Some(Frame {
                kind: Kind::Data,
                payload,
            })) => Ok(payload),
            Ok(Some(Frame {
                kind: Kind::End, ..
            })) => Ok(Vec::new()),
            Ok(Some(_)) => Err(io::Error::other("a frame that is not data")),
            Ok(None) => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the client went away before the end of the data",
            )),
            Err(error) => Err(error),
        };
        let last = !matches!(&piece, Ok(bytes) if !bytes.is_empty());
        if data.send(piece).await.is_err() || last {
            return;
        }
    }
}

/// The data of an import, for a blocking reader. An empty piece is the end; a closed channel is not.
struct Input {
    pieces: mpsc::Receiver<io::Result<Vec<u8>>>,
    piece: io::Cursor<Vec<u8>>,
    ended: bool,
}

impl Input {
    fn new(pieces: mpsc::Receiver<io::Result<Vec<u8>>>) -> Self {
        Self {
            pieces,
            piece: io::Cursor::default(),
            ended: false,
        }
    }
}

impl Read for Input {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.piece.read(buf)?;
            if read > 0 || self.ended || buf.is_empty() {
                return Ok(read);
            }
            let abandoned =
                || io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was abandoned");
            let piece = self.pieces.blocking_recv().ok_or_else(abandoned)??;
            self.ended = piece.is_empty();
            self.piece = io::Cursor::new(piece);
        }
    }
}

/// Export: blocking thread → channel → frames.
async fn do_export(
    options: export::Options,
    to: &mut (impl AsyncWrite + Unpin),
    context: &Context,
) -> Result<Outcome, Failure> {
    let store = context.store();
    let work = move |frames: mpsc::Sender<(Kind, Vec<u8>)>| {
        let progress = frames.clone();
        let watch = |counts| {
            let payload = serde_json::to_vec(&Progress::Counts(counts)).unwrap_or_default();
            drop(progress.try_send((Kind::Progress, payload)));
        };
        let total = Progress::Total(maintenance::records(&store));
        drop(frames.blocking_send((
            Kind::Progress,
            serde_json::to_vec(&total).unwrap_or_default(),
        )));
        let mut output = io::BufWriter::with_capacity(CHUNK, Output(frames));
        export(&store, &mut output, &options, &watch)
    };
    stream_out(work, to, context).await.map(Outcome::Counts)
}

/// Work on a blocking thread whose frames go out while it goes on.
async fn stream_out<T: Send + 'static, E: std::fmt::Display + Send + 'static>(
    work: impl FnOnce(mpsc::Sender<(Kind, Vec<u8>)>) -> Result<T, E> + Send + 'static,
    to: &mut (impl AsyncWrite + Unpin),
    context: &Context,
) -> Result<T, Failure> {
    let (frames, mut ready) = mpsc::channel::<(Kind, Vec<u8>)>(QUEUE);
    let work = spawn_blocking(move || work(frames));
    loop {
        let next = tokio::select! {
            next = ready.recv() => next,
            () = context.stop.cancelled() => return Err(plain("the node is stopping")),
        };
        let Some((kind, payload)) = next else { break };
        tokio::select! {
            written = write(to, kind, &payload) => written.map_err(plain)?,
            () = context.stop.cancelled() => return Err(plain("the node is stopping")),
        }
    }
    work.await.map_err(|_| internal())?.map_err(plain)
}

/// A blocking writer whose writes become data frames.
struct Output(mpsc::Sender<(Kind, Vec<u8>)>);

impl Write for Output {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let piece = buf.get(..CHUNK).unwrap_or(buf);
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the client went away");
        self.0
            .blocking_send((Kind::Data, piece.to_vec()))
            .map_err(gone)?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends a frame of JSON.
async fn send(
    to: &mut (impl AsyncWrite + Unpin),
    kind: Kind,
    payload: &impl Serialize,
) -> io::Result<()> {
    write(to, kind, &serde_json::to_vec(payload)?).await
}

/// Sends a frame to a client that may have stopped reading.
async fn write(to: &mut (impl AsyncWrite + Unpin), kind: Kind, payload: &[u8]) -> io::Result<()> {
    tokio::time::timeout(WRITE_DEADLINE, frame::write(to, kind, payload))
        .await
        .unwrap_or_else(|_| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client does not read",
            ))
        })
}

/// A failure that is not about a line of input.
fn plain(error: impl std::fmt::Display) -> Failure {
    Failure {
        message: error.to_string(),
        line: None,
        applied: None,
    }
}

/// A blocking task panicked; the panic is in the log.
fn internal() -> Failure {
    plain("internal error; see the log of the node")
}
