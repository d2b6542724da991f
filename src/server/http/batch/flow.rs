//! The asynchronous ends of a batch: its body comes in, its answers go out.
//!
//! A client that does not read its answers while it sends would wait for ever, and the node for it. So when answers have
//! not been taken for a moment, what arrives goes to a file, and from there to the thread of the batch.

use std::io::SeekFrom;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc::{Permit, Receiver, Sender, channel};
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

use super::streams::Stream;
use super::work::{Failure, Input, Job, Origin};
use super::{App, Asked, By};
use crate::server::accept::{Ticket, Work};
use crate::server::http::watch;
use crate::token::Right;

/// Pieces of input, and of answers, that wait in memory.
const INPUT_WAITING: usize = 16;
const OUTPUT_WAITING: usize = 4;
/// How long answers must not have been taken before input goes to the disk.
const PATIENCE: Duration = Duration::from_millis(200);
/// Octets that are read from the disk at once.
const PIECE: usize = 64 << 10;
/// How long a batch has to say that its token has ended; see [`watch`].
const REVOKED_GRACE: Duration = Duration::from_secs(2);

/// Tells a batch to end, and why.
#[derive(Clone, Debug, Default)]
pub(super) struct Halt {
    told: CancellationToken,
    why: Arc<OnceLock<Failure>>,
}

impl Halt {
    fn tell(&self, why: Failure) {
        // Who was told before goes by the first reason.
        let _ = self.why.set(why);
        self.told.cancel();
    }

    /// Why it is to end, if it is.
    pub(super) fn why(&self) -> Option<Failure> {
        self.why.get().copied()
    }

    async fn wait(&self) -> Failure {
        self.told.cancelled().await;
        self.why().unwrap_or(Failure::Stopping)
    }
}

/// A batch that may begin.
pub(super) struct Flow {
    pub(super) app: Arc<App>,
    pub(super) by: By,
    pub(super) asked: Asked,
    pub(super) stream: Stream,
    pub(super) origin: Origin,
    pub(super) work: Work,
}

impl Flow {
    /// Starts it; the body of its answer.
    pub(super) fn start(self, body: Body) -> Body {
        let Self {
            app,
            by,
            asked,
            stream,
            origin,
            work,
        } = self;
        let reader = by.grant().filter(|_| asked.restricted);
        let reader = reader.map(|grant| app.registry.vouch_token(grant));
        let (send, input) = channel(INPUT_WAITING);
        let (output, receive) = channel(OUTPUT_WAITING);
        let stalled = Arc::new(AtomicBool::new(false));
        let (ended, cut, halt) = (
            CancellationToken::new(),
            CancellationToken::new(),
            Halt::default(),
        );
        let watch = Watch {
            app: Arc::clone(&app),
            token: by.grant().map(|grant| grant.id.clone()),
            halt: halt.clone(),
            cut: cut.clone(),
            connection: Arc::clone(work.ticket()),
        };
        let gone = ended.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = watch.run() => {}
                () = gone.cancelled() => {}
            }
        });
        let stream = Arc::new(stream);
        let pump = Pump {
            body,
            send,
            stream: Arc::clone(&stream),
            stalled: Arc::clone(&stalled),
            idle: app.config.read,
            most: app.config.batch.input,
        };
        let (gone, stop) = (ended.clone(), halt.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = pump.run(stop) => {}
                () = gone.cancelled() => {}
            }
        });
        let job = Job {
            app,
            by,
            asked,
            input,
            output,
            stalled,
            halt,
            origin,
            reader,
            _stream: stream,
        };
        tokio::task::spawn_blocking(move || job.run());
        Body::new(Outgoing {
            receive,
            cut: Box::pin(cut.cancelled_owned()),
            _ended: ended.drop_guard(),
            _work: work,
        })
    }
}

/// Ends a batch whose token has ended or whose node stops.
struct Watch {
    app: Arc<App>,
    token: Option<String>,
    halt: Halt,
    cut: CancellationToken,
    connection: Arc<Ticket>,
}

impl Watch {
    /// A stopping node tells the batch and cuts what is left itself. With its token a batch ends kindly, then by cutting
    /// its answer, then its connection: what a client does not read says nothing to it.
    async fn run(self) {
        let token_ends = async {
            match &self.token {
                Some(token) => watch::token_ends(&self.app, token, Right::Batch).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.app.stopping.cancelled() => return self.halt.tell(Failure::Stopping),
            () = token_ends => {}
        }
        self.halt.tell(Failure::Revoked);
        sleep(REVOKED_GRACE).await;
        self.cut.cancel();
        sleep(watch::CUT).await;
        self.connection.cut();
    }
}

/// The answers as a body. When it is dropped, the client is gone or has everything.
struct Outgoing {
    receive: Receiver<Bytes>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _ended: DropGuard,
    _work: Work,
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionAborted.into())));
        }
        self.receive
            .poll_recv(cx)
            .map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// Carries the body to the thread.
struct Pump {
    body: Body,
    send: Sender<Input>,
    stream: Arc<Stream>,
    stalled: Arc<AtomicBool>,
    idle: Duration,
    /// Octets that are thrown away of input that is not kept.
    most: u64,
}

impl Pump {
    async fn run(mut self, halt: Halt) {
        let end = tokio::select! {
            carried = self.carry() => match carried {
                Ok(()) => Input::End,
                Err(Some(failure)) => Input::Failed(failure),
                Err(None) => return,
            },
            why = halt.wait() => Input::Failed(why),
        };
        if !matches!(end, Input::Failed(Failure::Spool | Failure::SpoolFull)) {
            let _ = self.send.send(end).await;
            return;
        }
        // Who reads nothing before everything is sent hears the reason only so, and takes no answers until then.
        let said = self.send.clone();
        let (said, ()) = tokio::join!(said.send(end), self.throw_away());
        if said.is_ok() {
            let _ = self.send.send(Input::End).await;
        }
    }

    async fn throw_away(&mut self) {
        let mut left = self.most;
        while let Ok(Some(piece)) = next(&mut self.body, self.idle).await {
            left = left.saturating_sub(piece.len() as u64);
            if left == 0 {
                return;
            }
        }
    }

    /// Fails with a reason that the thread is to say, or none when it listens no more.
    async fn carry(&mut self) -> Result<(), Option<Failure>> {
        loop {
            let Some(piece) = next(&mut self.body, self.idle).await? else {
                return Ok(());
            };
            let mut piece = Some(piece);
            while let Some(waiting) = piece.take() {
                // With an own sender in it, because the wait does not end before the arms do.
                let send = self.send.clone();
                match timeout(PATIENCE, send.reserve()).await {
                    Ok(Ok(permit)) => permit.send(Input::Text(waiting)),
                    Ok(Err(_)) => return Err(None),
                    Err(_) if !self.stalled.load(Relaxed) => piece = Some(waiting),
                    Err(_) => {
                        if self.through_file(waiting).await? {
                            return Ok(());
                        }
                    }
                }
            }
        }
    }

    /// Takes the body into a file and carries it on from there, until all of that is carried on. True when the body has
    /// ended.
    async fn through_file(&mut self, first: Bytes) -> Result<bool, Option<Failure>> {
        let broken = |_| Some(Failure::Spool);
        let mut file = File::from_std(self.stream.file().map_err(broken)?);
        let (mut written, mut read, mut ended) = (0, 0, false);
        let mut piece = Some(first);
        loop {
            if let Some(piece) = piece.take() {
                if !self.stream.spool(piece.len() as u64) {
                    return Err(Some(Failure::SpoolFull));
                }
                file.seek(SeekFrom::Start(written)).await.map_err(broken)?;
                file.write_all(&piece).await.map_err(broken)?;
                written += piece.len() as u64;
            }
            if read == written {
                self.stream.unspool();
                return Ok(ended);
            }
            tokio::select! {
                permit = self.send.reserve() => {
                    let permit: Permit<'_, Input> = permit.map_err(|_| None)?;
                    file.flush().await.map_err(broken)?;
                    file.seek(SeekFrom::Start(read)).await.map_err(broken)?;
                    let size = PIECE.min(usize::try_from(written - read).unwrap_or(PIECE));
                    let mut piece = vec![0; size];
                    file.read_exact(&mut piece).await.map_err(broken)?;
                    read += size as u64;
                    permit.send(Input::Text(piece.into()));
                }
                next = next(&mut self.body, self.idle), if !ended => {
                    piece = next?;
                    ended = piece.is_none();
                }
            }
        }
    }
}

/// The next piece of a body; none at its end.
async fn next(body: &mut Body, idle: Duration) -> Result<Option<Bytes>, Option<Failure>> {
    loop {
        match timeout(idle, body.frame()).await {
            Err(_) => return Err(Some(Failure::Idle)),
            Ok(None) => return Ok(None),
            Ok(Some(Err(_))) => return Err(Some(Failure::Cut)),
            Ok(Some(Ok(frame))) => {
                // What is no data is trailers.
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}
