//! One question and its answer, over UDP and TCP.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use jiexi_proto::{
    framing::{Framed, Reassembler, ReassemblyLimits, StreamFramer},
    limits,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::{Instant, timeout, timeout_at},
};

use super::{
    Client, ClientError, Place, Question, Reply, Transport, Transports, question::Request,
};

/// The largest datagram: servers send 512 octets, but nothing is lost by taking more.
const DATAGRAM_BUFFER: usize = 65_536;
/// Octets read from a TCP connection at once.
const READ_SIZE: usize = 16 << 10;

impl Client {
    /// Asks one server one question. Referrals are replies.
    ///
    /// # Errors
    /// No answer, or none that makes sense.
    pub async fn ask(&self, place: &Place, question: &Question) -> Result<Reply, ClientError> {
        let request_id = getrandom::u32().unwrap_or_else(|_| (self.now)());
        let request = Request::new(
            question,
            place.version,
            request_id,
            self.digest,
            (self.now)(),
        )?;
        let udp = place.udp.filter(|_| self.transports != Transports::Tcp);
        let tcp = place.tcp.filter(|_| self.transports != Transports::Udp);
        match (udp, tcp) {
            (None, None) => Err(ClientError::NoTransport),
            (None, Some(tcp)) => self.over_tcp(tcp, &request).await,
            (Some(udp), None) => self.over_udp(udp, &request).await,
            (Some(udp), Some(tcp)) => match self.over_udp(udp, &request).await {
                Err(ClientError::TimedOut(..) | ClientError::Io(..)) => {
                    self.over_tcp(tcp, &request).await
                }
                answered => answered,
            },
        }
    }

    /// Sends the question up to three times, always under the same request id, until its answer is complete.
    async fn over_udp(&self, server: SocketAddr, request: &Request) -> Result<Reply, ClientError> {
        let failed = |error| ClientError::Io(server, Transport::Udp, error);
        let local: SocketAddr = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(local).await.map_err(failed)?;
        // A connected socket hears this server alone.
        socket.connect(server).await.map_err(failed)?;
        let started = Instant::now();
        let mut pieces = Reassembler::new(ReassemblyLimits {
            messages: 4,
            ..ReassemblyLimits::default()
        });
        let mut buffer = vec![0; DATAGRAM_BUFFER];
        for wait in &self.udp_waits {
            for datagram in request.datagrams() {
                socket.send(&datagram).await.map_err(failed)?;
            }
            let deadline = Instant::now() + *wait;
            while let Ok(received) = timeout_at(deadline, socket.recv(&mut buffer)).await {
                let datagram = buffer.get(..received.map_err(failed)?).unwrap_or_default();
                if !request.is_answer(datagram) {
                    continue;
                }
                let now_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                // A piece that fits nowhere is dropped, as a lost one would be.
                if let Ok(Some(message)) = pieces.push((), datagram, now_ms) {
                    return request.reply(message, server, Transport::Udp);
                }
            }
        }
        Err(ClientError::TimedOut(server, Transport::Udp))
    }

    /// Opens a connection, asks and reads one answer.
    async fn over_tcp(&self, server: SocketAddr, request: &Request) -> Result<Reply, ClientError> {
        let failed = |error| ClientError::Io(server, Transport::Tcp, error);
        let late = |_| ClientError::TimedOut(server, Transport::Tcp);
        let connected = timeout(self.tcp_connect, TcpStream::connect(server))
            .await
            .map_err(late)?;
        let mut stream = connected.map_err(failed)?;
        timeout(self.tcp_answer, async {
            stream.write_all(&request.message()).await.map_err(failed)?;
            let message = read_message(&mut stream, server).await?;
            if !request.is_answer(&message) {
                return Err(ClientError::NotOurs(server, "it has another request id"));
            }
            request.reply(message, server, Transport::Tcp)
        })
        .await
        .map_err(late)?
    }
}

/// Reads one message from a stream.
async fn read_message(stream: &mut TcpStream, server: SocketAddr) -> Result<Vec<u8>, ClientError> {
    let failed = |error| ClientError::Io(server, Transport::Tcp, error);
    let framer = StreamFramer::with_limit(limits::MESSAGE_MAX);
    let mut buffer = Vec::new();
    loop {
        if let Framed::Frame { frame, .. } = framer
            .next(&buffer)
            .map_err(|error| ClientError::Malformed(server, error))?
        {
            return Ok(frame.to_vec());
        }
        buffer.reserve(READ_SIZE);
        if stream.read_buf(&mut buffer).await.map_err(failed)? == 0 {
            let early = "the connection was closed before the answer was complete";
            return Err(failed(io::Error::new(io::ErrorKind::UnexpectedEof, early)));
        }
    }
}
