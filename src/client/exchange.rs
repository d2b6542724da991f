//! One request and its answer, over UDP and TCP.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use jiexi_proto::{
    code::OpFlags,
    framing::{Framed, Reassembler, ReassemblyLimits, StreamFramer},
    limits,
    message::{Envelope, Message},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::{Instant, timeout, timeout_at},
};

use super::{
    Client, ClientError, Operation, Place, Question, Reply, Transport, Transports, request::Request,
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
        let mut operation = Operation::resolution(question, false);
        if self.digest {
            operation.flags = operation.flags.with(OpFlags::RRDG);
        }
        let (message, server, transport) = self.exchange(place, &operation).await?;
        Ok(Reply::of(message, server, transport))
    }

    /// Carries out an operation that needs no proof.
    ///
    /// # Errors
    /// No answer, or none that makes sense.
    pub(super) async fn exchange(
        &self,
        place: &Place,
        operation: &Operation,
    ) -> Result<(Message, SocketAddr, Transport), ClientError> {
        let request = Request::new(&operation.message(place.version, self.id(), (self.now)()))?;
        let udp = place.udp.filter(|_| self.transports != Transports::Tcp);
        let tcp = place.tcp.filter(|_| self.transports != Transports::Udp);
        match (udp, tcp) {
            (None, None) => Err(ClientError::NoTransport),
            (None, Some(tcp)) => self.over_tcp(tcp, &request).await,
            (Some(udp), None) => self.over_udp(udp, &request).await,
            (Some(udp), Some(tcp)) => match self.over_udp(udp, &request).await {
                Err(error) if error.is_silence() => self.over_tcp(tcp, &request).await,
                answered => answered,
            },
        }
    }

    /// An id for a request.
    pub(super) fn id(&self) -> u32 {
        getrandom::u32().unwrap_or_else(|_| (self.now)())
    }

    /// Sends the request up to three times, always under the same request id, until its answer is complete.
    async fn over_udp(
        &self,
        server: SocketAddr,
        request: &Request,
    ) -> Result<(Message, SocketAddr, Transport), ClientError> {
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
                if let Ok(Some(octets)) = pieces.push((), datagram, now_ms) {
                    let message = request.read(octets, server)?;
                    return Ok((message, server, Transport::Udp));
                }
            }
        }
        Err(ClientError::TimedOut(server, Transport::Udp))
    }

    /// Opens a connection, asks and reads one answer.
    async fn over_tcp(
        &self,
        server: SocketAddr,
        request: &Request,
    ) -> Result<(Message, SocketAddr, Transport), ClientError> {
        let (_, octets) = self.connect(server, request).await?;
        Ok((request.read(octets, server)?, server, Transport::Tcp))
    }

    /// Opens a connection, sends the request and waits for the first message of its answer.
    pub(super) async fn connect(
        &self,
        server: SocketAddr,
        request: &Request,
    ) -> Result<(Connection, Vec<u8>), ClientError> {
        let failed = |error| ClientError::Io(server, Transport::Tcp, error);
        let late = |_| ClientError::TimedOut(server, Transport::Tcp);
        let connected = timeout(self.tcp_connect, TcpStream::connect(server))
            .await
            .map_err(late)?;
        let mut stream = connected.map_err(failed)?;
        let sending = async { stream.write_all(&request.message()).await };
        let sent = timeout(self.tcp_answer, sending).await.map_err(late)?;
        sent.map_err(failed)?;
        let mut connection = Connection {
            stream,
            server,
            patience: self.tcp_answer,
            buffer: Vec::new(),
        };
        let octets = connection.next(request).await?;
        Ok((connection, octets))
    }
}

/// A connection on which a request was sent.
pub(super) struct Connection {
    stream: TcpStream,
    /// Who is at the other end.
    pub(super) server: SocketAddr,
    patience: std::time::Duration,
    buffer: Vec<u8>,
}

impl Connection {
    /// The next message of the answer to `request`: most have one only.
    pub(super) async fn next(&mut self, request: &Request) -> Result<Vec<u8>, ClientError> {
        let server = self.server;
        let octets = timeout(self.patience, self.message())
            .await
            .map_err(|_| ClientError::TimedOut(server, Transport::Tcp))??;
        match request.is_answer(&octets) || is_about_nothing(&octets) {
            true => Ok(octets),
            false => Err(ClientError::NotOurs(server, "it has another request id")),
        }
    }

    async fn message(&mut self) -> Result<Vec<u8>, ClientError> {
        let failed = |error| ClientError::Io(self.server, Transport::Tcp, error);
        let framer = StreamFramer::with_limit(limits::MESSAGE_MAX);
        loop {
            if let Framed::Frame { frame, rest } = framer
                .next(&self.buffer)
                .map_err(|error| ClientError::Malformed(self.server, error))?
            {
                let (message, rest) = (frame.to_vec(), rest.to_vec());
                self.buffer = rest;
                return Ok(message);
            }
            self.buffer.reserve(READ_SIZE);
            if self
                .stream
                .read_buf(&mut self.buffer)
                .await
                .map_err(failed)?
                == 0
            {
                let early = "the connection was closed before the answer was complete";
                return Err(failed(io::Error::new(io::ErrorKind::UnexpectedEof, early)));
            }
        }
    }
}

/// Whether a message is one of the refusals that reference servers send under no id when they could not read a request:
/// on a connection of our own it can only be about ours.
fn is_about_nothing(octets: &[u8]) -> bool {
    Envelope::decode(octets).is_ok_and(|envelope| envelope.request_id == u32::MAX)
}
