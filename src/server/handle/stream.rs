//! Streams: one task for each connection, all complete messages of a read at a time.
//!
//! Requests are answered in order, and the connection is kept open: clients that open one for each
//! request close it themselves. While a connection is idle it holds no buffer; those are borrowed
//! from a pool for the moment between a read and its answers.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use jiexi_proto::Envelope;
use jiexi_proto::limits::{ENVELOPE_SIZE, MESSAGE_MAX};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::desk::{Answer, Counter, Desk, Job, Line, Sink};
use super::{BATCH, Replies, Responder, Shared, asked};
use crate::clock::Now;
use crate::metrics::{Metrics, Protocol, Transport, Why};
use crate::notices;
use crate::server::accept::Ticket;

/// The most that is read at once.
const READ: usize = 64 * 1024;

/// A message under way up to this size is copied in front of the next read; a longer one grows in
/// a buffer of its own.
const PREFIX: usize = READ / 2;

/// A buffer up to this size stays with an idle connection.
const KEEP: usize = 4 * 1024;

/// Answers that clients have not taken yet, over all connections of a node; beyond it the
/// connection that adds to them is closed.
const UNSENT_MAX: usize = 256 * 1024 * 1024;

/// The deadlines of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// From the connection to the first octet.
    pub first_byte: Duration,
    /// From the first octet of a message to its last.
    pub read: Duration,
    /// For the client to take the answers of one read.
    pub write: Duration,
    /// Between messages.
    pub idle: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            first_byte: Duration::from_secs(60),
            read: Duration::from_secs(30),
            write: Duration::from_secs(30),
            idle: Duration::from_secs(600),
        }
    }
}

/// What a read and its answers need.
#[derive(Debug)]
struct Scratch {
    responder: Responder,
    replies: Replies,
    input: Box<[u8]>,
    /// Takes up light requests for the desk; made when there is the first.
    counter: Option<Counter>,
}

/// What is spoken here.
const FRONT: notices::Front = (Protocol::Handle, Transport::Tcp);

/// How long a connection that is to be closed looks for what came before.
const LAST_LOOK: Duration = Duration::from_millis(20);

/// Scratch for as many reads as are at work at the same moment.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    free: Mutex<Vec<Scratch>>,
    /// Answers waiting for their clients, octets.
    unsent: AtomicUsize,
}

impl Pool {
    /// An empty pool; it grows to the number of threads that answer.
    #[must_use]
    pub fn new(shared: Arc<Shared>, metrics: Arc<Metrics>) -> Self {
        Self {
            shared,
            metrics,
            free: Mutex::default(),
            unsent: AtomicUsize::new(0),
        }
    }

    fn take(&self) -> Scratch {
        let free = self
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        free.unwrap_or_else(|| Scratch {
            responder: Responder::new(Arc::clone(&self.shared), self.metrics.cell(Transport::Tcp)),
            replies: Replies::default(),
            input: vec![0; READ].into_boxed_slice(),
            counter: None,
        })
    }

    /// Has this thread take up a light request for the desk; it may wait for the disk, or must not.
    fn take_up(&self, desk: &Arc<Desk>, job: Job, waits: bool) {
        let mut scratch = self.take();
        let new = || Counter::new(Arc::clone(desk), Arc::clone(&self.shared), &self.metrics);
        let counter = scratch.counter.get_or_insert_with(new);
        counter.waits = waits;
        counter.serve(job);
        self.put(scratch);
    }

    fn put(&self, scratch: Scratch) {
        self.free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(scratch);
    }
}

/// What a read led to.
enum Progress {
    /// The client sends no more.
    Closed,
    /// Everything is answered.
    Answered,
    /// These answers wait for the client to take them.
    Unsent(Vec<u8>),
    /// These answers wait for the client to take them, and then this request for the desk.
    Deferred(Vec<u8>, Bytes),
    /// What came is no message; these last answers are owed.
    Hostile(Vec<u8>),
}

/// Serves one connection to its end, and says why it ended.
pub async fn serve<T>(
    mut io: T,
    peer: SocketAddr,
    pool: &Pool,
    ticket: &Ticket,
    config: &Config,
) -> Why
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut connection = Connection {
        client: peer.ip(),
        pending: Vec::new(),
        line: None,
        owed: Duration::ZERO,
    };
    let mut deadline = pin!(sleep_until(Instant::now() + config.first_byte));
    let mut idle = false;
    let mut leaving = None;
    loop {
        let waited = connection.pending.len();
        let progress = tokio::select! {
            biased;
            progress = poll_fn(|cx| connection.poll(cx, &mut io, pool)) => progress,
            why = ticket.told_to_close(), if leaving.is_none() => {
                // What came before that may not have been noticed yet: it is answered.
                leaving = Some(why);
                deadline.as_mut().reset(Instant::now() + LAST_LOOK);
                continue;
            }
            () = deadline.as_mut() => {
                return leaving.unwrap_or(if idle { Why::Idle } else { Why::Deadline });
            }
        };
        ticket.touch();
        match progress {
            Ok(Progress::Closed) => return Why::Peer,
            Ok(Progress::Answered) => {}
            Ok(Progress::Unsent(answers)) => {
                if let Err(why) = send(&mut io, &answers, pool, config.write).await {
                    return why;
                }
            }
            Ok(Progress::Deferred(answers, request)) => {
                let line = Arc::clone(connection.line.get_or_insert_default());
                let defer = defer(&mut io, peer, line, answers, request, pool, config.write);
                if let Err(why) = defer.await {
                    return why;
                }
                ticket.touch();
            }
            Ok(Progress::Hostile(answers)) => {
                notices::refused_now(FRONT, notices::Reason::Hostile, peer.ip());
                let _ = send(&mut io, &answers, pool, config.write).await;
                return Why::Error;
            }
            Err(_) => return Why::Error,
        }
        let owed = std::mem::take(&mut connection.owed).min(config.idle);
        if !owed.is_zero() && leaving.is_none() {
            // Its network asks faster than it may: what was asked is answered, and the next is read later.
            tokio::select! {
                () = sleep(owed) => {}
                why = ticket.told_to_close() => leaving = Some(why),
            }
            deadline.as_mut().reset(Instant::now() + config.read);
        }
        idle = connection.pending.is_empty();
        if leaving.is_some() {
            continue;
        }
        if idle {
            deadline.as_mut().reset(Instant::now() + config.idle);
        } else if waited == 0 || connection.pending.len() < waited {
            // Another message has begun; the time of one under way runs on.
            deadline.as_mut().reset(Instant::now() + config.read);
        }
    }
}

/// Sends the answers that are due, has the desk answer the request behind them, sends that.
///
/// While the desk is at work, the connection reads nothing: answers stay in order.
async fn defer<T>(
    io: &mut T,
    peer: SocketAddr,
    line: Arc<Line>,
    answers: Vec<u8>,
    request: Bytes,
    pool: &Pool,
    limit: Duration,
) -> Result<(), Why>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    if !answers.is_empty() {
        send(io, &answers, pool, limit).await?;
    }
    let Some(desk) = pool.shared.desk.as_ref() else {
        return Ok(());
    };
    let (sink, answer) = oneshot::channel();
    let job = Job {
        octets: request,
        peer,
        sink: Sink::Stream(sink),
        line: Some(Arc::clone(&line)),
        came: Now::read().instant,
    };
    let taken = if desk.is_light(&job.octets) && desk.admit(&job) {
        match desk.is_alone() {
            // It waits for the disk; the runtime is told, so that others are served meanwhile.
            true => tokio::task::block_in_place(|| pool.take_up(desk, job, true)),
            // It goes with others, and the store's thread waits.
            false => pool.take_up(desk, job, false),
        }
        Ok(())
    } else {
        desk.submit(job)
    };
    let mut next = match taken {
        Ok(()) => answer.await.unwrap_or_default(),
        Err(job) => {
            let mut octets = Vec::new();
            let (scratch, now) = (pool.take(), Now::read());
            scratch.responder.busy(&job.octets, now, &mut octets);
            let busy = notices::Reason::Busy;
            notices::refused(FRONT, busy, peer.ip(), now.unix_seconds);
            pool.put(scratch);
            Answer::of(octets)
        }
    };
    loop {
        if next.octets.is_empty() {
            // A request that cannot be answered ends the connection: its client hears that at least.
            notices::refused_now(FRONT, notices::Reason::Hostile, peer.ip());
            return Err(Why::Error);
        }
        send(io, &next.octets, pool, limit).await?;
        if let Some(copying) = next.stream {
            // In a box of its own: TLS is several KiB, which every connection would have in its task otherwise.
            return Err(Box::pin(super::desk::send_copy(io, *copying, limit)).await);
        }
        let Some(listing) = next.more else {
            let limit = desk.registry().config.limits.session_time;
            return match line.is_over(Now::read().instant, limit) {
                true => Err(Why::Deadline),
                false => Ok(()),
            };
        };
        let (sink, answer) = oneshot::channel();
        desk.go_on(listing, sink);
        next = answer.await.unwrap_or_default();
    }
}

/// Sends what the client did not take at once.
async fn send<T>(io: &mut T, answers: &[u8], pool: &Pool, limit: Duration) -> Result<(), Why>
where
    T: AsyncWrite + Unpin,
{
    let waiting = pool.unsent.fetch_add(answers.len(), Relaxed) + answers.len();
    let sent = if waiting > UNSENT_MAX {
        Err(Why::Deadline)
    } else {
        match timeout(limit, io.write_all(answers)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Why::Error),
            Err(_) => Err(Why::Deadline),
        }
    };
    pool.unsent.fetch_sub(answers.len(), Relaxed);
    sent
}

/// The part of a connection that outlives a read.
struct Connection {
    client: IpAddr,
    /// Octets that came and are not answered yet: the beginning of a message, or whole ones that
    /// wait until the client has taken the answers to those before them.
    pending: Vec<u8>,
    /// Who it is known as; made with the first request for the desk.
    line: Option<Arc<Line>>,
    /// How long it is to wait before it asks more.
    owed: Duration,
}

/// What became of what was read.
struct Answered {
    /// Octets that are done with.
    taken: usize,
    /// See [`Connection::owed`].
    owed: Duration,
    progress: io::Result<Progress>,
}

impl Connection {
    /// Reads what is there and answers every complete message.
    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut T,
        pool: &Pool,
    ) -> Poll<io::Result<Progress>>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let mut scratch = pool.take();
        let progress = self.poll_with(cx, io, &mut scratch);
        pool.put(scratch);
        progress
    }

    fn poll_with<T>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut T,
        scratch: &mut Scratch,
    ) -> Poll<io::Result<Progress>>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let Scratch {
            responder,
            replies,
            input,
            ..
        } = scratch;
        let held = self.pending.len();
        if frame(&self.pending).is_none() && held <= PREFIX {
            let read = ready!(poll_read(cx, io, &mut input[held..]))?;
            if read == 0 {
                return Poll::Ready(Ok(Progress::Closed));
            }
            input[..held].copy_from_slice(&self.pending);
            let octets = &input[..held + read];
            let answered = answer(cx, io, responder, replies, octets, self.client);
            self.owed = answered.owed;
            self.pending.clear();
            self.pending.shrink_to(KEEP);
            self.pending.extend_from_slice(&octets[answered.taken..]);
            return Poll::Ready(answered.progress);
        }
        if frame(&self.pending).is_none() {
            let read = ready!(poll_read(cx, io, input))?;
            if read == 0 {
                return Poll::Ready(Ok(Progress::Closed));
            }
            self.pending.extend_from_slice(&input[..read]);
        }
        let answered = answer(cx, io, responder, replies, &self.pending, self.client);
        self.owed = answered.owed;
        self.pending.drain(..answered.taken);
        Poll::Ready(answered.progress)
    }
}

/// Reads once into `buffer`.
fn poll_read<T>(cx: &mut Context<'_>, io: &mut T, buffer: &mut [u8]) -> Poll<io::Result<usize>>
where
    T: AsyncRead + Unpin,
{
    let mut buffer = ReadBuf::new(buffer);
    ready!(Pin::new(io).poll_read(cx, &mut buffer))?;
    Poll::Ready(Ok(buffer.filled().len()))
}

/// Answers the complete messages in `octets`, and says how far it came and how it went.
fn answer<T>(
    cx: &mut Context<'_>,
    io: &mut T,
    responder: &mut Responder,
    replies: &mut Replies,
    octets: &[u8],
    client: IpAddr,
) -> Answered
where
    T: AsyncWrite + Unpin,
{
    let now = Now::read();
    let mut taken = 0;
    let mut answered = 0;
    let mut deferred = None;
    replies.clear();
    replies.ordered = true;
    let hostile = loop {
        let mut requests: [&[u8]; BATCH] = [&[]; BATCH];
        let (count, hostile) = frames(&octets[taken..], &mut requests);
        let done = responder.respond(&requests[..count], now, replies);
        responder.remember(replies, now, |_| client);
        taken += requests[..done]
            .iter()
            .map(|request| request.len())
            .sum::<usize>();
        answered += done as u64;
        if let Some(place) = replies.deferred().next() {
            deferred = Some(Bytes::copy_from_slice(requests[place]));
            break false;
        }
        if done < count || count < BATCH {
            break hostile && done == count;
        }
    };
    let cell = responder.cell();
    cell.received_bytes.add(taken as u64);
    cell.sent_bytes.add(replies.octets().len() as u64);
    let took = now.instant.elapsed();
    cell.durations.observe(took, answered);
    if notices::is_slow(took) {
        tell_slow(took, answered, octets, client);
    }
    // What goes to the desk may prove who asks.
    let unproven = answered - u64::from(deferred.is_some());
    let owed = responder.owe(client, unproven, now);
    let answers = replies.octets();
    let progress = if let Some(request) = deferred {
        Ok(Progress::Deferred(answers.to_vec(), request))
    } else if hostile {
        taken = octets.len();
        Ok(Progress::Hostile(answers.to_vec()))
    } else if answers.is_empty() {
        Ok(Progress::Answered)
    } else {
        write(cx, io, answers)
    };
    Answered {
        taken,
        owed,
        progress,
    }
}

/// Writes down that so many messages at the beginning of `octets` took long.
#[cold]
fn tell_slow(took: Duration, answered: u64, octets: &[u8], client: IpAddr) {
    let first = match frame(octets) {
        Some(Ok(length)) => octets.get(..length),
        _ => None,
    };
    let asked = asked(first.unwrap_or_default());
    let requests = usize::try_from(answered).unwrap_or(usize::MAX);
    notices::slow_batch(FRONT, took, requests, Some(client), &asked);
}

/// Writes answers as far as the client takes them at once.
fn write<T>(cx: &mut Context<'_>, io: &mut T, answers: &[u8]) -> io::Result<Progress>
where
    T: AsyncWrite + Unpin,
{
    match Pin::new(io).poll_write(cx, answers) {
        Poll::Ready(Ok(sent)) if sent == answers.len() => Ok(Progress::Answered),
        Poll::Ready(Ok(sent)) => Ok(Progress::Unsent(answers[sent..].to_vec())),
        Poll::Pending => Ok(Progress::Unsent(answers.to_vec())),
        Poll::Ready(Err(error)) => Err(error),
    }
}

/// Fills `requests` with the complete messages in `octets`; the last one may be the envelope of
/// something longer than any message, which makes the stream hostile.
fn frames<'a>(mut octets: &'a [u8], requests: &mut [&'a [u8]; BATCH]) -> (usize, bool) {
    let mut count = 0;
    for request in requests {
        match frame(octets) {
            Some(Ok(length)) => (*request, octets) = octets.split_at(length),
            Some(Err(())) => {
                *request = &octets[..ENVELOPE_SIZE];
                return (count + 1, true);
            }
            None => return (count, false),
        }
        count += 1;
    }
    (count, false)
}

/// The length of the complete message that `octets` begin with; none when more is needed.
fn frame(octets: &[u8]) -> Option<Result<usize, ()>> {
    let envelope = Envelope::decode(octets).ok()?;
    let length = usize::try_from(envelope.message_length).unwrap_or(usize::MAX);
    if length > MESSAGE_MAX {
        return Some(Err(()));
    }
    let length = ENVELOPE_SIZE + length;
    (octets.len() >= length).then_some(Ok(length))
}
