//! From the first server to the one that knows: referrals, prefix records, sites.
//!
//! * 302 and 303 name a site, or a handle whose record does.
//! * 301 means that the server is not responsible; it is then asked for the record of the handle's prefix,
//!   `0.NA/<prefix>`, as a resolver does at its first contact, and that record names the site.
//! * Of a site the server is chosen by the hash of the handle.
//! * Where a prefix is at home is remembered, for as long as its record says, and asked first the next time.

use std::{
    collections::HashSet,
    net::SocketAddr,
    pin::Pin,
    time::{Duration, Instant},
};

use bytes::Bytes;
use jiexi_proto::{
    code::ResponseCode,
    handle,
    value::{
        Value,
        site::{InterfaceKind, Server, SiteRecord, Transport as Protocol},
    },
};
use md5::{Digest, Md5};

use super::{Client, ClientError, Place, Question, Reply, Transport, Transports};

/// Servers asked for one resolution at most.
pub const HOPS_MAX: usize = 10;
/// What is asked of a prefix handle, as recorded from the reference client.
const SITE_TYPES: [&str; 4] = ["HS_SITE", "HS_SITE.6", "HS_SERV", "HS_NAMESPACE"];

/// How a client came to ask a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lead {
    /// It was told to begin there, or goes on there.
    Given,
    /// It remembered the site of this prefix handle.
    Remembered(Bytes),
    /// An answer named the site.
    Site {
        /// The place of the server in the site record, from 1.
        server: usize,
        /// How many servers the site has.
        servers: usize,
    },
}

/// One question on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// How this server came to be asked.
    pub lead: Lead,
    /// Who was asked.
    pub server: SocketAddr,
    /// Over which transport it answered, or was asked last.
    pub transport: Transport,
    /// For which handle.
    pub handle: Bytes,
    /// What it said, or why it said nothing.
    pub said: Result<ResponseCode, String>,
    /// How long that took.
    pub took: Duration,
    /// The answer is older than its values live.
    pub stale: bool,
}

/// What has been asked so far.
#[derive(Default)]
struct Walk {
    hops: Vec<Hop>,
    /// How the next server came to be asked.
    lead: Option<Lead>,
    asked: HashSet<(Option<SocketAddr>, Option<SocketAddr>, Question)>,
    /// The prefix handle whose site may be learnt: that of the handle that was asked for. What servers on the way say of
    /// other prefixes serves this walk only, or the home of one prefix could move the others.
    about: Option<Bytes>,
    /// A service referral was followed: who is asked now has this handle, and no say about its prefix.
    lent: bool,
}

impl Walk {
    fn about(prefix: Option<Bytes>) -> Self {
        Self {
            about: prefix,
            ..Self::default()
        }
    }

    fn may_teach(&self, prefix: &[u8]) -> bool {
        let about = self.about.as_ref();
        !self.lent && about.is_some_and(|about| about.eq_ignore_ascii_case(prefix))
    }
}

/// The future of a walk that may begin another one.
type Walking<'a> = Pin<Box<dyn Future<Output = Result<Reply, ClientError>> + Send + 'a>>;

impl Client {
    /// Resolves a question beginning at `place`; gives the last answer and the way to it.
    ///
    /// # Errors
    /// A server on the way does not answer, or the way does not end.
    pub async fn resolve(
        &self,
        place: Place,
        question: Question,
    ) -> Result<(Reply, Vec<Hop>), ClientError> {
        let mut hops = Vec::new();
        let reply = self.resolve_along(place, question, &mut hops).await?;
        Ok((reply, hops))
    }

    /// As [`Self::resolve`], with the way in `hops` also when it leads nowhere.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub async fn resolve_along(
        &self,
        place: Place,
        question: Question,
        hops: &mut Vec<Hop>,
    ) -> Result<Reply, ClientError> {
        let mut walk = Walk::about(prefix_of(&question.handle));
        let resolved = self.begin(&mut walk, place, question).await;
        *hops = walk.hops;
        resolved
    }

    /// Begins where the prefix is remembered to be at home, else at `place`.
    async fn begin(
        &self,
        walk: &mut Walk,
        place: Place,
        question: Question,
    ) -> Result<Reply, ClientError> {
        let prefix = walk.about.clone();
        if let Some(prefix) = &prefix
            && let Some(values) = self.sites.find(prefix, (self.now)())
            && let Some((known, _)) = self.place_of(&values, &question.handle)
        {
            walk.lead = Some(Lead::Remembered(prefix.clone()));
            match self.walk(walk, known, question.clone()).await {
                Ok(reply) if reply.code != ResponseCode::SERVER_NOT_RESPONSIBLE => {
                    return Ok(reply);
                }
                // It has moved, or cannot be reached: from the beginning.
                _ => self.sites.forget(prefix),
            }
        }
        walk.lead = None;
        walk.lent = false;
        walk.asked.clear();
        self.walk(walk, place, question).await
    }

    /// The site record by which the prefix of a handle is at home, as the server at `place` tells it or as it is
    /// remembered.
    ///
    /// # Errors
    /// A server on the way does not answer, or none knows the prefix.
    pub async fn site_of(&self, place: Place, handle: &Bytes) -> Result<SiteRecord, ClientError> {
        let prefix = prefix_of(handle).unwrap_or_else(|| handle.clone());
        let known = self.sites.find(&prefix, (self.now)());
        let values = match known {
            Some(values) => values,
            None => {
                let mut walk = Walk::about(Some(prefix.clone()));
                self.prefix_sites(&mut walk, place, prefix).await?.values
            }
        };
        let records = values.iter().filter(|value| is_kind(value, b"HS_SITE"));
        let mut sites = records.filter_map(|value| SiteRecord::decode(&value.data).ok());
        let name = || String::from_utf8_lossy(handle).into_owned();
        sites.next().ok_or_else(|| ClientError::NoSite(name()))
    }

    /// Asks for the record of a prefix, and remembers the site in it if it is the one the walk is about.
    async fn prefix_sites(
        &self,
        walk: &mut Walk,
        place: Place,
        prefix: Bytes,
    ) -> Result<Reply, ClientError> {
        let reply = self
            .walk(walk, place, site_question(prefix.clone()))
            .await?;
        let site = |value: &&Value| is_kind(value, b"HS_SITE");
        let sites: Vec<Value> = reply.values.iter().filter(site).cloned().collect();
        if walk.may_teach(&prefix) {
            self.sites.learn(prefix, &sites, (self.now)());
        }
        Ok(reply)
    }

    /// Asks and follows until there is an answer.
    fn walk<'a>(&'a self, walk: &'a mut Walk, mut place: Place, question: Question) -> Walking<'a> {
        Box::pin(async move {
            loop {
                let reply = self.step(walk, place, &question).await?;
                walk.lent |= reply.code == ResponseCode::SERVICE_REFERRAL;
                let sites = match reply.code {
                    ResponseCode::SERVICE_REFERRAL | ResponseCode::PREFIX_REFERRAL
                        if reply.handle.is_empty() =>
                    {
                        reply.values.clone()
                    }
                    ResponseCode::SERVICE_REFERRAL | ResponseCode::PREFIX_REFERRAL => {
                        self.walk(walk, place, site_question(reply.handle.clone()))
                            .await?
                            .values
                    }
                    ResponseCode::SERVER_NOT_RESPONSIBLE
                        if !question.handle.eq_ignore_ascii_case(handle::ROOT) =>
                    {
                        let mut prefix = Vec::new();
                        handle::prefix_handle(&question.handle, &mut prefix);
                        let found = self.prefix_sites(walk, place, prefix.into()).await?;
                        if found.code != ResponseCode::SUCCESS {
                            // Nobody on the way knows the prefix; what the first one said is the answer.
                            return Ok(reply);
                        }
                        found.values
                    }
                    _ => return Ok(reply),
                };
                place = self.choose(walk, place, &sites, &question).await?;
            }
        })
    }

    /// One question, counted, and never the same one twice.
    async fn step(
        &self,
        walk: &mut Walk,
        place: Place,
        question: &Question,
    ) -> Result<Reply, ClientError> {
        if walk.hops.len() >= HOPS_MAX {
            return Err(ClientError::TooManyHops);
        }
        // The same server, in whatever version.
        if !walk.asked.insert((place.udp, place.tcp, question.clone())) {
            let address = place.udp.or(place.tcp).ok_or(ClientError::NoTransport)?;
            return Err(ClientError::Loop(address));
        }
        let began = Instant::now();
        let replied = self.ask(&place, question).await;
        let (server, transport) = match &replied {
            Ok(reply) => (Some(reply.server), reply.transport),
            Err(error) => error.place().unwrap_or_else(|| place.last(self.transports)),
        };
        if let Some(server) = server {
            walk.hops.push(Hop {
                lead: walk.lead.take().unwrap_or(Lead::Given),
                took: began.elapsed(),
                server,
                transport,
                handle: question.handle.clone(),
                said: match &replied {
                    Ok(reply) => Ok(reply.code),
                    Err(error) => Err(error.to_string()),
                },
                stale: replied.as_ref().is_ok_and(|reply| reply.stale),
            });
        }
        replied
    }

    /// The server to ask next, from the values of a prefix record or a referral.
    async fn choose(
        &self,
        walk: &mut Walk,
        place: Place,
        values: &[Value],
        question: &Question,
    ) -> Result<Place, ClientError> {
        if let Some((next, lead)) = self.place_of(values, &question.handle) {
            walk.lead = Some(lead);
            return Ok(next);
        }
        // A service handle stands for a site that several prefixes share.
        if let Some(service) = values.iter().find(|value| is_kind(value, b"HS_SERV")) {
            let reply = self
                .walk(walk, place, site_question(service.data.clone()))
                .await?;
            if let Some((next, lead)) = self.place_of(&reply.values, &question.handle) {
                walk.lead = Some(lead);
                return Ok(next);
            }
        }
        Err(ClientError::NoSite(
            String::from_utf8_lossy(&question.handle).into_owned(),
        ))
    }

    /// The first site among `values` that can be reached with the transports allowed: its server for `handle`.
    pub(crate) fn place_of(&self, values: &[Value], handle: &[u8]) -> Option<(Place, Lead)> {
        values
            .iter()
            .filter(|value| is_kind(value, b"HS_SITE"))
            .filter_map(|value| SiteRecord::decode(&value.data).ok())
            .filter_map(|site| {
                let (place, server) = server_of(&site, handle)?;
                let lead = Lead::Site {
                    server: place + 1,
                    servers: site.servers.len(),
                };
                Some((query_place(&site, server), lead))
            })
            .find(|(place, _)| match self.transports {
                Transports::Any => place.udp.is_some() || place.tcp.is_some(),
                Transports::Udp => place.udp.is_some(),
                Transports::Tcp => place.tcp.is_some(),
            })
    }
}

/// Whether a value is of this type or of a part of it (`HS_SITE.6`, `HS_SERV.PREFIX`).
fn is_kind(value: &Value, kind: &[u8]) -> bool {
    value
        .kind
        .strip_prefix(kind)
        .is_some_and(|rest| rest.is_empty() || rest.first() == Some(&b'.'))
}

/// The question for the site of a prefix or a service.
fn site_question(handle: Bytes) -> Question {
    let types = SITE_TYPES
        .iter()
        .map(|kind| Bytes::from_static(kind.as_bytes()))
        .collect();
    Question {
        handle,
        types,
        indexes: Vec::new(),
    }
}

/// The prefix handle of a handle that is none itself.
pub(super) fn prefix_of(handle: &[u8]) -> Option<Bytes> {
    let mut prefix = Vec::new();
    handle::prefix_handle(handle, &mut prefix);
    (prefix != handle::ROOT).then(|| Bytes::from(prefix))
}

/// The server of a site that has `handle`, and its place among them.
pub(super) fn server_of<'a>(site: &'a SiteRecord, handle: &[u8]) -> Option<(usize, &'a Server)> {
    let mut hashed = Vec::new();
    handle::hashed_part(handle, site.hash_option, &mut hashed);
    let hash = handle::site_hash(&Md5::digest(&hashed).into());
    let count = u32::try_from(site.servers.len())
        .ok()
        .filter(|count| *count > 0)?;
    let place = usize::try_from(hash % count).ok()?;
    Some((place, site.servers.get(place)?))
}

/// Where a server takes questions.
pub(super) fn query_place(site: &SiteRecord, server: &Server) -> Place {
    Place {
        udp: interface(server, Protocol::UDP, InterfaceKind::QUERY),
        tcp: interface(server, Protocol::TCP, InterfaceKind::QUERY),
        version: site.version,
    }
}

/// Where a server takes changes: over TCP.
pub(super) fn admin_place(site: &SiteRecord, server: &Server) -> Option<Place> {
    Some(Place {
        udp: None,
        tcp: Some(interface(server, Protocol::TCP, InterfaceKind::ADMIN)?),
        version: site.version,
    })
}

/// Where a server takes questions or changes over a transport.
fn interface(server: &Server, protocol: Protocol, wanted: InterfaceKind) -> Option<SocketAddr> {
    let asks = |kind: InterfaceKind| kind.0 & wanted.0 != 0;
    let found = server
        .interfaces
        .iter()
        .find(|interface| interface.protocol == protocol && asks(interface.kind))?;
    Some(SocketAddr::new(
        server.ip(),
        u16::try_from(found.port).ok().filter(|port| *port != 0)?,
    ))
}
