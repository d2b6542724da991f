//! One request and its answer, over UDP and TCP.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use jiexi_proto::{
    code::{OpCode, OpFlags, ResponseCode},
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
        operation.flags = match self.digest {
            true => self.flags.with(OpFlags::RRDG),
            false => self.flags,
        };
        let (message, server, transport) = self.exchange(place, &operation).await?;
        let about = (message.header.op_code, message.header.response_code);
        let reply = Reply::of(message, server, transport);
        let other = about == (OpCode::RESOLUTION, ResponseCode::SUCCESS)
            && !reply.handle.eq_ignore_ascii_case(&question.handle);
        if other || about.0 != OpCode::RESOLUTION && about.1 == ResponseCode::SUCCESS {
            return Err(ClientError::NotOurs(server, "it answers something else"));
        }
        Ok(reply)
    }

    /// Asks one server for its site record, which every server has at hand: whoever answers that is there, whatever else it
    /// would have to ask others for.
    ///
    /// # Errors
    /// No answer, or none that makes sense.
    pub async fn greet(&self, place: &Place) -> Result<ResponseCode, ClientError> {
        let (message, ..) = self.exchange(place, &Operation::site()).await?;
        Ok(message.header.response_code)
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
        let mut message = operation.message(place.version, self.id(), (self.now)());
        message.header.recursion_count = self.recursion_count;
        let request = Request::new(&message)?;
        let udp = place.udp.filter(|_| self.transports != Transports::Tcp);
        let tcp = place.tcp.filter(|_| self.transports != Transports::Udp);
        let waiting = self.wait_for(place, udp.or(tcp))?;
        let answered = match (udp, tcp) {
            (None, None) => Err(ClientError::NoTransport),
            (None, Some(tcp)) => self.over_tcp(tcp, &request).await,
            (Some(udp), None) => self.over_udp(udp, &request).await,
            (Some(udp), Some(tcp)) => match self.over_udp(udp, &request).await {
                Err(error) if error.is_silence() => {
                    waiting.suspect();
                    self.over_tcp(tcp, &request).await
                }
                answered => answered,
            },
        };
        waiting.over(&answered);
        answered
    }

    /// Begins to wait for a server, unless it is known to be silent.
    fn wait_for(
        &self,
        place: &Place,
        server: Option<SocketAddr>,
    ) -> Result<Waiting<'_>, ClientError> {
        let watched = server.filter(|_| self.silent.is_some());
        let waiting = Waiting {
            client: self,
            place: *place,
            watched,
        };
        if let (Some(silent), Some(server)) = (&self.silent, watched) {
            let (down, look) = silent.is_down(server, std::time::Instant::now());
            if look {
                waiting.look(server);
            }
            if down {
                waiting.over(&Err::<(), _>(ClientError::Down(server)));
                return Err(ClientError::Down(server));
            }
        }
        Ok(waiting)
    }

    /// Whether a server may be connected to, seen from the address `local`, or before there is a connection.
    fn permits(&self, server: SocketAddr, local: Option<SocketAddr>) -> Result<(), ClientError> {
        let Some(rules) = &self.outbound else {
            return Ok(());
        };
        match local {
            Some(local) => rules.check(server, Some(local.ip())),
            None => rules.check_ahead(server),
        }
        .map_err(|why| ClientError::Forbidden(server, why))
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
        let connected = socket.peer_addr().map_err(failed)?;
        self.permits(connected, Some(socket.local_addr().map_err(failed)?))?;
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
        self.permits(server, None)?;
        let connected = timeout(self.tcp_connect, TcpStream::connect(server))
            .await
            .map_err(late)?;
        let mut stream = connected.map_err(failed)?;
        let ends = stream
            .peer_addr()
            .and_then(|peer| Ok((peer, stream.local_addr()?)));
        let (peer, local) = ends.map_err(failed)?;
        self.permits(peer, Some(local))?;
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

/// Somebody who waits for a server. Whoever gives up has it looked at: it may have waited for another one.
struct Waiting<'c> {
    client: &'c Client,
    place: Place,
    /// The server, while it is watched.
    watched: Option<SocketAddr>,
}

impl Waiting<'_> {
    /// The server is silent so far.
    fn suspect(&self) {
        if let (Some(silent), Some(server)) = (&self.client.silent, self.watched)
            && silent.suspect(server, std::time::Instant::now())
        {
            self.look(server);
        }
    }

    /// There is an answer, or there will be none.
    fn over<T>(mut self, answered: &Result<T, ClientError>) {
        if !answered.as_ref().is_err_and(|error| error.is_silence()) {
            self.watched = None;
        }
    }

    /// Finds out whether the server lives: it knows its own site record without asking anybody.
    fn look(&self, server: SocketAddr) {
        let Some(silent) = self.client.silent.clone() else {
            return;
        };
        let client = Client {
            silent: None,
            udp_waits: LOOKS.to_vec(),
            tcp_connect: LOOK_TCP,
            tcp_answer: LOOK_TCP,
            ..self.client.clone()
        };
        let place = self.place;
        tokio::spawn(async move {
            let site = client.exchange(&place, &Operation::site()).await;
            let lives = !site.is_err_and(|error| error.is_silence());
            silent.looked(server, lives, std::time::Instant::now());
        });
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.suspect();
    }
}

/// How long to wait for the site record of a server that may be down, over UDP.
const LOOKS: [std::time::Duration; 2] = [std::time::Duration::from_millis(500); 2];
/// The same over TCP, for the connection and for the answer.
const LOOK_TCP: std::time::Duration = std::time::Duration::from_secs(1);

/// A connection on which a request was sent.
pub(super) struct Connection {
    stream: TcpStream,
    /// Who is at the other end.
    pub(super) server: SocketAddr,
    patience: std::time::Duration,
    buffer: Vec<u8>,
}

impl Connection {
    /// The connection as it is, with what was read of it already, for what follows an answer.
    pub(super) fn into_parts(self) -> (TcpStream, Vec<u8>, std::time::Duration) {
        (self.stream, self.buffer, self.patience)
    }

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
