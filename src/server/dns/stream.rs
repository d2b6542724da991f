//! Connections of DNS, with and without TLS (RFC 7766, 7858): all complete questions of a read are
//! answered in order and in one write.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, sleep_until, timeout};

use super::{Channel, Replies, Responder, Shared, asked};
use crate::clock::Now;
use crate::metrics::{Metrics, Protocol, Transport, Why};
use crate::notices;
use crate::server::accept::Ticket;
use crate::server::datagram::BATCH;
use crate::server::handle::stream::Config;

/// Octets of the length in front of a message (RFC 1035 §4.2.2).
const LENGTH: usize = 2;

/// The most that is held of what was not answered yet: one message, and the beginning of the next.
const PENDING_MAX: usize = 2 * (LENGTH + 65_535);

/// What is read at once into an empty buffer.
const READ: usize = 4096;

/// Answers, for as many connections as are at work at the same moment.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    channel: Channel,
    free: Mutex<Vec<(Responder, Replies)>>,
}

impl Pool {
    /// An empty pool; it grows to the number of threads that answer.
    #[must_use]
    pub fn new(shared: Arc<Shared>, metrics: Arc<Metrics>, channel: Channel) -> Self {
        Self {
            shared,
            metrics,
            channel,
            free: Mutex::default(),
        }
    }

    /// What is spoken, and over what.
    const fn front(&self) -> notices::Front {
        let transport = match self.channel {
            Channel::Tls => Transport::Tls,
            Channel::Udp | Channel::Tcp => Transport::Tcp,
        };
        (Protocol::Dns, transport)
    }

    /// Answers the complete messages at the beginning of `pending`, at most a batch, appending to `out`.
    /// Returns the octets answered, or nothing when one of them deserves no answer.
    fn answer(&self, pending: &[u8], client: IpAddr, out: &mut Vec<u8>) -> Option<usize> {
        let mut requests: [(&[u8], IpAddr); BATCH] = [(&[], client); BATCH];
        let (mut count, mut taken) = (0, 0);
        while count < BATCH
            && let Some(message) = frame(&pending[taken..])
        {
            requests[count].0 = message;
            taken += LENGTH + message.len();
            count += 1;
        }
        let free = || self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let taken_out = free().pop();
        let (mut responder, mut replies) = taken_out.unwrap_or_else(|| {
            let (protocol, transport) = self.front();
            let cell = self.metrics.cell_of(protocol, transport);
            (
                Responder::new(Arc::clone(&self.shared), cell),
                Replies::default(),
            )
        });
        let now = Now::read();
        responder.respond(&requests[..count], self.channel, now, &mut replies);
        let mut good = true;
        for answer in replies.answers() {
            match answer {
                Some(answer) => {
                    let octets = &replies.octets()[answer.octets.clone()];
                    let length = u16::try_from(octets.len()).unwrap_or(u16::MAX);
                    out.extend_from_slice(&length.to_be_bytes());
                    out.extend_from_slice(octets);
                }
                None => good = false,
            }
        }
        let took = now.instant.elapsed();
        let cell = responder.cell();
        cell.received_bytes.add(taken as u64);
        cell.sent_bytes.add(out.len() as u64);
        cell.durations.observe(took, count as u64);
        if notices::is_slow(took) {
            let first = asked(requests[0].0);
            notices::slow_batch(self.front(), took, count, Some(client), &first);
        }
        free().push((responder, replies));
        good.then_some(taken)
    }
}

/// The complete message that `octets` begin with.
fn frame(octets: &[u8]) -> Option<&[u8]> {
    let (length, rest) = octets.split_first_chunk::<LENGTH>()?;
    rest.get(..usize::from(u16::from_be_bytes(*length)))
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
    let mut pending = Vec::new();
    let mut out = Vec::new();
    let mut deadline = Instant::now() + config.first_byte;
    let mut idle = false;
    loop {
        pending.reserve(READ);
        let read = tokio::select! {
            biased;
            read = io.read_buf(&mut pending) => read,
            why = ticket.told_to_close() => return why,
            () = sleep_until(deadline) => return if idle { Why::Idle } else { Why::Deadline },
        };
        match read {
            Ok(0) => return Why::Peer,
            Ok(_) => {}
            Err(_) => return Why::Error,
        }
        ticket.touch();
        let mut begun = std::mem::take(&mut idle);
        while frame(&pending).is_some() {
            out.clear();
            let answered = pool.answer(&pending, peer.ip(), &mut out);
            match timeout(config.write, io.write_all(&out)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Why::Error,
                Err(_) => return Why::Deadline,
            }
            let Some(answered) = answered else {
                notices::refused_now(pool.front(), notices::Reason::Hostile, peer.ip());
                return Why::Error;
            };
            pending.drain(..answered);
            begun = true;
        }
        if timeout(config.write, io.flush()).await.is_err() || pending.len() > PENDING_MAX {
            return Why::Error;
        }
        if pending.is_empty() {
            (pending, out) = (Vec::new(), Vec::new());
            idle = true;
            deadline = Instant::now() + config.idle;
        } else if begun {
            // Another message has begun; the time of one under way runs on.
            deadline = Instant::now() + config.read;
        }
    }
}
