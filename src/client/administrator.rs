//! Changes, lists and restricted values: who asks is proved to the server, by a signature or a secret for each request
//! or by the MACs of a session.
//!
//! ```text
//!  perform ─→ attempt ─→ request ──────→ 402 challenge ─→ proof ─→ answer       outside of sessions
//!    │            └─→ set-up ─→ request with MAC ─→ (402 ─→ proof) ─→ answer    in one; the proof only once
//!    ├ 301: the site of the prefix is looked up, for it    ├ no answer: the same ids again, on a new connection
//!    ├ 500 in a session: another session, once             └ 3: again after a pause
//!    └ all of it under one request id, so that a server that keeps answers makes a change once
//! ```

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use jiexi_proto::{
    code::{OpCode, OpFlags, ResponseCode, Version},
    message::{Body, Credential, CredentialField, Message, credential::signed_bytes},
    value::site::{Server, SiteRecord},
};

use super::{
    Client, ClientError, Credentials, Operation, Place, Reply, Transport,
    exchange::Connection,
    follow::{admin_place, server_of},
    request::Request,
    session::{Offer, Session},
};
use crate::registry::{
    DISK_FULL,
    auth::SALT_SIZE,
    keys::{Hash, VerifyingKey},
};

/// Pauses before a request is repeated: the server did not answer, or was too busy.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(200),
    Duration::from_millis(600),
    Duration::from_millis(1_800),
];

/// How requests are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protection {
    /// Each is proved by itself.
    #[default]
    Proofs,
    /// A session, with a MAC for each message.
    Session,
    /// A session whose messages are encrypted.
    Encrypted,
}

/// A server that takes changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where it is.
    pub place: Place,
    /// Its public key; unknown until its site record is.
    pub key: Option<Bytes>,
}

impl Target {
    /// The server of a site that has this handle, if it takes changes over TCP.
    #[must_use]
    pub fn of(site: &SiteRecord, handle: &[u8]) -> Option<Self> {
        let (_, server) = server_of(site, handle)?;
        Some(Self {
            place: admin_place(site, server)?,
            key: Some(server.public_key.clone()),
        })
    }
}

/// Whether what is in the way takes longer than anybody waits here.
fn is_lasting(message: &Message) -> bool {
    matches!(&message.body, Body::Error(error) if error.message.trim_ascii() == DISK_FULL.as_bytes())
}

/// What a server said to a request that was proved if it had to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The outcome.
    pub code: ResponseCode,
    /// What was asked for.
    pub body: Body,
    /// What the server says about a refusal; often empty.
    pub message: String,
    /// Something that existed was overwritten.
    pub overwritten: bool,
    /// Who answered.
    pub server: SocketAddr,
}

/// Somebody with a key, at work on one server.
pub struct Administrator {
    client: Client,
    /// The server that was named: where every operation begins but those in `gone_for`.
    named: Target,
    /// The server that is spoken with now.
    target: Target,
    /// The prefix for which the named server was left for `target`.
    gone_for: Option<Bytes>,
    credentials: Option<Credentials>,
    protection: Protection,
    session: Option<Session>,
    /// Whether another server is gone to when this one is not responsible. A server that was named with its key is not
    /// left for one that an unsigned answer names.
    follows: bool,
    /// The newest version that answers may have.
    at_most: Version,
}

/// The ids of a request and of the proof after it.
#[derive(Clone, Copy)]
struct Ids {
    request: u32,
    proof: u32,
}

/// An answer whose messages may not all have come.
struct Reached {
    message: Message,
    connection: Connection,
    request: Request,
}

impl Administrator {
    /// Somebody who has not asked for anything yet. Without credentials, nothing that needs a proof can be done.
    #[must_use]
    pub fn new(
        client: Client,
        target: Target,
        credentials: Option<Credentials>,
        protection: Protection,
    ) -> Self {
        Self {
            client,
            follows: target.key.is_none(),
            named: target.clone(),
            target,
            gone_for: None,
            credentials,
            protection,
            session: None,
            at_most: Version::CURRENT,
        }
    }

    /// Carries out an operation with one message for an answer, on the server that is responsible for its handle.
    ///
    /// # Errors
    /// No answer, or none that makes sense or can be trusted. A refusal is an answer.
    pub async fn perform(&mut self, operation: &Operation) -> Result<Answer, ClientError> {
        let reached = self.reach(operation).await?;
        Ok(answer(reached.message, reached.connection.server))
    }

    /// Carries out an operation that is answered by names, in as many messages as it takes.
    ///
    /// # Errors
    /// As [`Self::perform`], and what `page` says.
    pub async fn list<E: From<ClientError>>(
        &mut self,
        operation: &Operation,
        mut page: impl FnMut(&[Bytes]) -> Result<(), E>,
    ) -> Result<Answer, E> {
        let mut reached = self.reach(operation).await?;
        loop {
            let more = reached.message.header.flags.contains(OpFlags::CONT);
            if let Body::Handles(names) = &reached.message.body {
                page(names)?;
            }
            if reached.message.header.response_code != ResponseCode::SUCCESS || !more {
                return Ok(answer(reached.message, reached.connection.server));
            }
            let octets = reached.connection.next(&reached.request).await?;
            reached.message = self.read(&reached.request, &octets, reached.connection.server)?;
        }
    }

    /// The key and the version in the site record of the server, which it is asked for if nobody has told.
    pub(super) async fn meet(&mut self) -> Result<(Option<VerifyingKey>, Version), ClientError> {
        if self.target.key.is_none() {
            let site = self.site().await?;
            let here = |server: &&Server| {
                let place = admin_place(&site, server);
                place.is_some_and(|place| place.tcp == self.target.place.tcp)
            };
            let server = site
                .servers
                .iter()
                .find(here)
                .or_else(|| site.servers.first());
            self.target.key = server.map(|server| server.public_key.clone());
            self.target.place.version = site.version;
        }
        let key = self.target.key.as_ref().and_then(VerifyingKey::parse);
        Ok((key, self.target.place.version))
    }

    /// The server that is spoken with.
    pub(super) fn server(&self) -> Result<SocketAddr, ClientError> {
        self.target.place.tcp.ok_or(ClientError::NoTransport)
    }

    /// Speaks an old version with a server that knows newer ones, and wants no newer answers.
    pub(super) fn speak_at_most(&mut self, version: Version) {
        let place = &mut self.target.place;
        place.version = place.version.min(version);
        self.at_most = version;
    }

    /// As [`Self::perform`], of this server alone, with the connection on which more follows.
    pub(super) async fn follow_up(
        &mut self,
        operation: &Operation,
    ) -> Result<(Answer, Connection), ClientError> {
        let reached = self.persist(operation).await?;
        let server = reached.connection.server;
        Ok((answer(reached.message, server), reached.connection))
    }

    /// From now on no other server than the one that was named is gone to, whatever it says.
    pub const fn stay(&mut self) {
        self.follows = false;
    }

    /// Ends the session, if there is one. That it could not be ended is nobody's trouble: it ends by itself.
    pub async fn close(&mut self) {
        let Some(session) = &mut self.session else {
            return;
        };
        let mut operation = Operation::about(OpCode::SESSION_TERMINATE, Bytes::from_static(b"/"));
        operation.flags = session.flags(operation.flags);
        let id = self.client.id();
        let message = operation.message(session.version, id, (self.client.now)());
        let message = session.sign(&message);
        if let (Ok(request), Some(server)) = (session.seal(&message), self.target.place.tcp) {
            drop(self.client.connect(server, &request).await);
        }
        self.session = None;
    }

    /// The site record of the server.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub async fn site(&self) -> Result<SiteRecord, ClientError> {
        self.client.site(&self.target.place).await
    }

    /// To the server that is responsible: the named one, or where it sends us for the prefix of this operation. What was
    /// found out about one prefix says nothing about another, nor about the record of that prefix, which stays above.
    async fn reach(&mut self, operation: &Operation) -> Result<Reached, ClientError> {
        let prefix = operation.home().filter(|_| self.follows);
        if self.gone_for.is_some() && self.gone_for != prefix {
            self.turn_to(self.named.clone(), None).await;
        }
        let reached = self.persist(operation).await?;
        let moved = reached.message.header.response_code == ResponseCode::SERVER_NOT_RESPONSIBLE;
        let (Some(prefix), Some(handle), true) = (prefix, operation.handle(), moved) else {
            return Ok(reached);
        };
        let client = self.client.clone();
        let found = client.site_of(self.target.place, &prefix).await;
        // Nobody there knows the prefix; then what was said stands.
        let next = found.ok().and_then(|site| Target::of(&site, handle));
        let Some(next) = next.filter(|next| next.place.tcp != self.target.place.tcp) else {
            return Ok(reached);
        };
        self.turn_to(next, Some(prefix)).await;
        self.persist(operation).await
    }

    /// Leaves the server that was spoken with for another one.
    async fn turn_to(&mut self, next: Target, gone_for: Option<Bytes>) {
        self.close().await;
        self.target = next;
        self.gone_for = gone_for;
    }

    /// Again while the server is too busy, and with another session if it has lost ours.
    async fn persist(&mut self, operation: &Operation) -> Result<Reached, ClientError> {
        let ids = Ids {
            request: self.client.id(),
            proof: self.client.id(),
        };
        let (mut pauses, mut renewed) = (PAUSES.iter(), false);
        loop {
            let reached = self.attempt(operation, ids).await?;
            match reached.message.header.response_code {
                ResponseCode::SESSION_TIMEOUT if !renewed => {
                    renewed = true;
                    self.session = None;
                }
                ResponseCode::SERVER_TOO_BUSY if !is_lasting(&reached.message) => {
                    match pauses.next() {
                        Some(pause) => tokio::time::sleep(*pause).await,
                        None => return Ok(reached),
                    }
                }
                _ => return Ok(reached),
            }
        }
    }

    /// Asks, and proves who asks if the server wants to know.
    async fn attempt(&mut self, operation: &Operation, ids: Ids) -> Result<Reached, ClientError> {
        if self.protection != Protection::Proofs && self.session.is_none() {
            self.session = Some(self.open_session().await?);
        }
        let mut operation = operation.clone();
        if let Some(session) = &self.session {
            operation.flags = session.flags(operation.flags);
        }
        let now = (self.client.now)();
        let mut question = operation.message(self.version(), ids.request, now);
        question.envelope.suggested = self.at_most;
        let reached = self.insist(&question, true).await?;
        if reached.message.header.response_code != ResponseCode::AUTHENTICATION_NEEDED {
            return Ok(reached);
        }
        let server = reached.connection.server;
        let credentials = self.credentials.as_ref();
        let credentials = credentials.ok_or(ClientError::NeedsKey(server))?;
        let asked = challenged(&reached, server)?;
        let mut salt = [0; SALT_SIZE];
        getrandom::fill(&mut salt).map_err(|_| ClientError::NoRandomness)?;
        let challenge = &reached.message.envelope;
        let proof = credentials.answer(&question, challenge, &asked, salt, ids.proof)?;
        self.insist(&proof, false).await
    }

    /// The version that requests are sent in: what was agreed on in the session, else that of the server's site record.
    fn version(&self) -> Version {
        let session = self.session.as_ref();
        session.map_or(self.target.place.version, |session| session.version)
    }

    /// Sends a message until there is an answer, always under the same id; in a session each time under a new counter,
    /// since a counter counts once. A proof has none.
    async fn insist(&mut self, message: &Message, signed: bool) -> Result<Reached, ClientError> {
        let server = self.target.place.tcp.ok_or(ClientError::NoTransport)?;
        let mut pauses = PAUSES.iter();
        loop {
            let request = match &mut self.session {
                Some(session) if signed => {
                    let message = session.sign(message);
                    session.seal(&message)?
                }
                Some(session) => session.seal(message)?,
                None => Request::new(message)?,
            };
            match self.client.connect(server, &request).await {
                Ok((connection, octets)) => {
                    let message = self.read(&request, &octets, server)?;
                    return Ok(Reached {
                        message,
                        connection,
                        request,
                    });
                }
                Err(error) => match pauses.next().filter(|_| error.is_silence()) {
                    Some(pause) => tokio::time::sleep(*pause).await,
                    None => return Err(error),
                },
            }
        }
    }

    /// Decrypts and decodes an answer, and checks that it comes from the session it claims.
    fn read(
        &self,
        request: &Request,
        octets: &[u8],
        server: SocketAddr,
    ) -> Result<Message, ClientError> {
        let Some(session) = &self.session else {
            return request.read(octets.to_vec(), server);
        };
        let broken = ClientError::Unsigned(server, "it cannot be decrypted with the session's key");
        let (envelope, content) = session.open(octets).ok_or(broken)?;
        let message = Message::decode_content(envelope, &content)
            .map_err(|error| ClientError::Malformed(server, error))?;
        request.check(&message, server)?;
        let told = matches!(
            message.header.response_code,
            ResponseCode::SUCCESS | ResponseCode::AUTHENTICATION_NEEDED
        );
        // A refusal without a MAC tells nothing worth forging; who loses a session has no key for one either.
        if told && !session.is_authentic(&message) {
            let why = "the MAC of the session is missing or wrong";
            return Err(ClientError::Unsigned(server, why));
        }
        Ok(message)
    }

    /// Agrees on a key with the server, which signs its part.
    async fn open_session(&mut self) -> Result<Session, ClientError> {
        let Some(credentials) = self.credentials.clone() else {
            let server = self.target.place.tcp.ok_or(ClientError::NoTransport)?;
            return Err(ClientError::NeedsKey(server));
        };
        let offer = Offer::new(&credentials.user)?;
        let place = Place {
            udp: None,
            ..self.target.place
        };
        let mut pauses = PAUSES.iter();
        let (message, server, _) = loop {
            let asked = self.client.exchange(&place, &offer.operation).await;
            let again = match &asked {
                Ok((message, ..)) => message.header.response_code == ResponseCode::SERVER_TOO_BUSY,
                Err(error) => error.is_silence(),
            };
            match pauses.next().filter(|_| again) {
                Some(pause) => tokio::time::sleep(*pause).await,
                None => break asked?,
            }
        };
        let code = message.header.response_code;
        let Body::SessionReady(ready) = &message.body else {
            let said = Reply::of(message, server, Transport::Tcp).message;
            return Err(ClientError::NoSession(server, code, said));
        };
        self.check_signature(&message, server).await?;
        let encrypt = self.protection == Protection::Encrypted;
        let why = "it agrees on no key in our group";
        let session = offer.accept(&message.envelope, ready, encrypt);
        session.ok_or(ClientError::Unsigned(server, why))
    }

    /// Whether the server's key has signed a message. Where nobody has told us the key, it is that of the site record
    /// that the server itself shows, which keeps out listeners but not somebody in its place.
    async fn check_signature(
        &mut self,
        message: &Message,
        server: SocketAddr,
    ) -> Result<(), ClientError> {
        if self.target.key.is_none() {
            let site = self.site().await?;
            let server = site.servers.first();
            self.target.key = server.map(|server| server.public_key.clone());
        }
        let key = self.target.key.as_ref().and_then(VerifyingKey::parse);
        let why = "it is not signed by the key in the server's site record";
        let right = key.is_some_and(|key| is_signed(message, &key));
        right
            .then_some(())
            .ok_or(ClientError::Unsigned(server, why))
    }
}

/// Whether the holder of `key` has signed a message.
pub(super) fn is_signed(message: &Message, key: &VerifyingKey) -> bool {
    let CredentialField::Present(credential) = &message.credential else {
        return false;
    };
    let (signed, covered) = (&mut Vec::new(), &mut Vec::new());
    message.encode_signed(signed);
    signed_bytes(&message.envelope, credential.counter(), signed, covered);
    let hash = Hash::named(&credential.algorithm)
        .filter(|hash| *hash == Hash::Sha256 || message.envelope.version < Version::V2_7);
    credential.kind == Credential::SIGNED
        && hash.is_some_and(|hash| key.verifies(hash, b"", covered, &credential.signature))
}

impl Client {
    /// The site record of a server.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub async fn site(&self, place: &Place) -> Result<SiteRecord, ClientError> {
        let (message, server, _) = self.exchange(place, &Operation::site()).await?;
        match message.body {
            Body::Site(site) => Ok(site),
            _ => Err(ClientError::NotOurs(server, "it is no site record")),
        }
    }
}

/// Nonce and digest of a challenge, which must be about what was asked.
fn challenged(reached: &Reached, server: SocketAddr) -> Result<Vec<u8>, ClientError> {
    let Body::Challenge(challenge) = &reached.message.body else {
        return Err(ClientError::NotOurs(server, "it is no challenge"));
    };
    let (digest, right) = match (&reached.message.digest, &challenge.old_digest) {
        (Some(digest), _) => (&digest.octets, reached.request.has_digest(digest)),
        (None, Some(digest)) => (digest, reached.request.has_old_digest(digest)),
        (None, None) => {
            let why = "the challenge does not say what it is about";
            return Err(ClientError::NotOurs(server, why));
        }
    };
    if !right {
        let why = "the challenge is about another request";
        return Err(ClientError::NotOurs(server, why));
    }
    Ok([&challenge.nonce[..], digest].concat())
}

fn answer(message: Message, server: SocketAddr) -> Answer {
    let body = message.body.clone();
    let overwritten = message.header.flags.contains(OpFlags::OVRW);
    let reply = Reply::of(message, server, Transport::Tcp);
    Answer {
        code: reply.code,
        body,
        message: reply.message,
        overwritten,
        server,
    }
}
