//! From the first server to the one that knows: referrals, prefix records, sites.
//!
//! * 302 and 303 name a site, or a handle whose record does.
//! * 301 means that the server is not responsible; it is then asked for the record of the handle's prefix,
//!   `0.NA/<prefix>`, as a resolver does at its first contact, and that record names the site.
//! * Of a site the server is chosen by the hash of the handle.

use std::{collections::HashSet, net::SocketAddr, pin::Pin};

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

/// One question on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// Who was asked.
    pub server: SocketAddr,
    /// Over which transport it answered.
    pub transport: Transport,
    /// For which handle.
    pub handle: Bytes,
    /// What it said.
    pub code: ResponseCode,
}

/// What has been asked so far.
#[derive(Default)]
struct Walk {
    hops: Vec<Hop>,
    asked: HashSet<(Place, Question)>,
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
        let mut walk = Walk::default();
        let reply = self.walk(&mut walk, place, question).await?;
        Ok((reply, walk.hops))
    }

    /// Asks and follows until there is an answer.
    fn walk<'a>(&'a self, walk: &'a mut Walk, mut place: Place, question: Question) -> Walking<'a> {
        Box::pin(async move {
            loop {
                let reply = self.step(walk, place, &question).await?;
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
                        let found = self
                            .walk(walk, place, site_question(Bytes::from(prefix)))
                            .await?;
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
        if !walk.asked.insert((place, question.clone())) {
            let address = place.udp.or(place.tcp).ok_or(ClientError::NoTransport)?;
            return Err(ClientError::Loop(address));
        }
        let reply = self.ask(&place, question).await?;
        walk.hops.push(Hop {
            server: reply.server,
            transport: reply.transport,
            handle: question.handle.clone(),
            code: reply.code,
        });
        Ok(reply)
    }

    /// The server to ask next, from the values of a prefix record or a referral.
    async fn choose(
        &self,
        walk: &mut Walk,
        place: Place,
        values: &[Value],
        question: &Question,
    ) -> Result<Place, ClientError> {
        if let Some(next) = self.place_of(values, &question.handle) {
            return Ok(next);
        }
        // A service handle stands for a site that several prefixes share.
        if let Some(service) = values.iter().find(|value| is_kind(value, b"HS_SERV")) {
            let reply = self
                .walk(walk, place, site_question(service.data.clone()))
                .await?;
            if let Some(next) = self.place_of(&reply.values, &question.handle) {
                return Ok(next);
            }
        }
        Err(ClientError::NoSite(
            String::from_utf8_lossy(&question.handle).into_owned(),
        ))
    }

    /// The first site among `values` that can be reached with the transports allowed: its server for `handle`.
    fn place_of(&self, values: &[Value], handle: &[u8]) -> Option<Place> {
        values
            .iter()
            .filter(|value| is_kind(value, b"HS_SITE"))
            .filter_map(|value| SiteRecord::decode(&value.data).ok())
            .filter_map(|site| server_of(&site, handle))
            .find(|place| match self.transports {
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

/// The server of a site that has `handle`.
fn server_of(site: &SiteRecord, handle: &[u8]) -> Option<Place> {
    let mut hashed = Vec::new();
    handle::hashed_part(handle, site.hash_option, &mut hashed);
    let hash = handle::site_hash(&Md5::digest(&hashed).into());
    let count = u32::try_from(site.servers.len())
        .ok()
        .filter(|count| *count > 0)?;
    let server = site.servers.get(usize::try_from(hash % count).ok()?)?;
    Some(Place {
        udp: interface(server, Protocol::UDP),
        tcp: interface(server, Protocol::TCP),
        version: site.version,
    })
}

/// Where a server takes questions over a transport.
fn interface(server: &Server, protocol: Protocol) -> Option<SocketAddr> {
    let asks = |kind: InterfaceKind| kind.0 & InterfaceKind::QUERY.0 != 0;
    let found = server
        .interfaces
        .iter()
        .find(|interface| interface.protocol == protocol && asks(interface.kind))?;
    Some(SocketAddr::new(
        server.ip(),
        u16::try_from(found.port).ok().filter(|port| *port != 0)?,
    ))
}
